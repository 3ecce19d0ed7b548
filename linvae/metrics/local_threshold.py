"""The threshold below which a collapsed network is unstable, from its last hidden layers.

At collapse z is N(0, sigma^2) whatever the data, and a network changes to first order by what its
last layers change: the encoder's by functions of phi(v), its last hidden layer, and the decoder's
output at coordinate i by w . psi_i(z), w the weights of its last layer and psi_i what they see
there. With zeta = z/sigma and r the residual of the target, the objective of the mean
mu = sigma a . phi and of w is to second order

    w'Mw/(2s) - a'T w/s + beta sigma^2/(2 eta^2) a'Sa

    M = sum_i E psi_i psi_i'    T = E phi zeta sum_i r_i psi_i'    S = E phi phi'

which stops to be positive below the factor

    f_loc = eta^2/(beta s sigma^2) lambda_max(M^-1/2 T' S^-1 T M^-1/2)

With a learned variance that depends on the input, log sigma^2 too moves by a function of phi:
the same with h_2 = (zeta^2 - 1)/sqrt 2 in place of zeta, so that T' S^-1 T is summed over both.

*Dense last layer.* Every coordinate has weights of its own, M is one block repeated, and without a
condition T falls apart as well:

    f_loc = rho^2 lambda_max(C_phi) eta^2/(beta s sigma^2)

C_phi the covariance of the residual explained linearly by phi, rho^2 the largest share of the
variance of a combination of zeta (and h_2) that is linear in psi(z): a residual threshold
lambda_max(C)/(beta s), the share of it that the encoder's features carry and that of the decoder's.

*Shared last layer* (a convolution). w is as wide as the patches that it sees, one for each row of
weights. Its bias is shared as well: eliminating it leaves M less the mean over z *and over all
positions of a channel*, not less the mean of every pixel, so that a w that would move the mean
image, which is 0 for centred data, pays for it. Trained to collapse, such a decoder loses what it
had of z, and the point is then stable far below the threshold of its data: the lower end of a
hysteresis.

*With a condition* psi depends on x and T is the sum over all samples. Such a decoder may lean
another way at every x, so that f_loc may exceed the residual threshold.

Neglected: layers below the last ones, which are free to move as well, so that f_loc is at most
the threshold of the whole network; the mean of r, which a trained bias makes 0; what is left of
the gradient; and the change of output with z that collapse leaves.

| symbol        | here                      | shape         | unit        |
|---------------|---------------------------|---------------|-------------|
| f_loc         | CollapsedPoint.thresholds | (seeds,)      | -           |
| lambda_max(C) eta^2/(beta s sigma^2) | CollapsedPoint.residuals | (seeds,) | - |
| zeta          | zeta                      | (m,)          | -           |
| phi S^-1/2    | phi                       | (n, h)        | -           |
| r             | residual                  | (n, d)        | data        |
| psi           | psi                       | (m, b, ...)   | -           |

Source: ours. Equality that a test checks: the smallest eigenvalue of the Hessian of the exact
objective, in the weights of the last layers, is 0 at f_loc.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import block_diag, cho_factor, cho_solve, solve_triangular
from scipy.sparse.linalg import svds

from linvae.metrics.observe import evaluating, parts
from linvae.models import Architecture, StackedVAE
from linvae.spec import LinearSpec, VAESpec
from linvae.train.data import TrainingData

__all__ = ["CollapsedPoint", "collapsed_point", "has_local", "local_thresholds"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
REACH = 5.0  # standard deviations of z to which its law is integrated
LATENT_POINTS = 257  # of the trapezoidal rule, whose error is that of the kinks of an activation
GIVEN_POINTS = 33  # the same where it is done for every condition: kinks lie differently at each
CONDITIONS = 512  # samples, about, at which the patches of a shared layer are correlated
VALUES = 2**24  # of psi held at a time
LEFT_OUT = 1e-3  # share of what psi has of z that differs from sample to sample, and is too little
RIDGE = 1e-6  # of the largest variance of a hidden unit: dead units have none
DENSE = 1024  # coordinates above which the largest eigenvalue is found iteratively


@dataclass(frozen=True, eq=False)
class CollapsedPoint:
    """f_loc of a collapsed network and the residual threshold, (n_seeds,), in factors on beta.

    Without a condition the second bounds the first.
    """

    thresholds: Array
    residuals: Array


def has_local(spec: LinearSpec, architecture: Architecture) -> bool:
    """True where f_loc is defined.

    One level of one unit, Gaussian, a fixed decoder variance, a decoder that does not see the
    target and can ignore the latent.
    """
    return (
        isinstance(spec, VAESpec)
        and spec.latent_dims == (1,)
        and spec.likelihood == "gaussian"
        and spec.decoder_variance != "learned"
        and architecture.decoder not in ("pixelcnn", "inverse-lipschitz")
    )


def local_thresholds(model: StackedVAE, data: TrainingData, point: int) -> Array:
    """`collapsed_point`'s thresholds, (n_seeds,)."""
    return collapsed_point(model, data, point).thresholds


def collapsed_point(model: StackedVAE, data: TrainingData, point: int) -> CollapsedPoint:
    """f_loc of the member `point` of every seed, which should be collapsed; NaN if it diverged.

    Raises ValueError where `has_local` is False: with more units the directions of z share the
    decoder's hidden layer, the last layer of an autoregressive decoder sees the target, and an
    inverse-Lipschitz decoder is at no collapsed point.
    """
    if not has_local(model.spec, model.architecture):
        raise ValueError(
            f"spec={model.spec!r} with decoder={model.architecture.decoder!r} must have one level "
            "of one unit, a Gaussian likelihood, a fixed decoder variance and a decoder that does "
            "not see the target and can ignore the latent in collapsed_point"
        )
    found = [_of_member(_Member(model, data, s, point)) for s in range(len(model.seeds))]
    return CollapsedPoint(*np.array(found).T)


@torch.no_grad()
def _of_member(member: _Member) -> tuple[float, float]:
    """f_loc and the residual threshold."""
    model = member.model
    with evaluating(model):
        phi, residual = member.encoder_side()
        if not (np.isfinite(phi).all() and np.isfinite(residual).all()):
            return math.nan, math.nan
        shared = model.architecture.decoder == "conv"
        carried = (_by_shared_layer if shared else _by_dense_layer)(
            member, _whitened(phi), residual
        )
    scale = float(model.spec.betas[0]) * float(model.spec.decoder_variance)
    scale *= member.variance / model.spec.prior_variances[0]
    return carried / scale, _largest_variance(residual) / scale


@dataclass(frozen=True)
class _Member:
    """One collapsed member and what its last layers see."""

    model: StackedVAE
    data: TrainingData
    seed: int
    point: int

    @property
    def variance(self) -> float:
        """sigma^2: where it is learned, that of the prior."""
        fixed = self.model.spec.encoder_variances[0]
        return self.model.spec.prior_variances[0] if fixed is None else float(np.min(fixed))

    def encoder_side(self) -> tuple[Array, Array]:
        """phi (n, h) and the residual (n, d), float32, both centred."""
        found = [
            self.model.encoder_features(*self.data.take(index), self.seed, self.point)
            for index in parts(self.data)
        ]
        phi = torch.cat([features for features, _ in found]).cpu().numpy().astype(np.float64)
        residual = torch.cat([rest for _, rest in found]).cpu().numpy()
        return phi - phi.mean(axis=0), residual - residual.mean(axis=0)

    def decoder_side(self) -> Iterator[tuple[Array, Array, Array, Index]]:
        """psi (m, b, ...), some at a time, with what sums over z and x are made of.

        The weight of each z (m,), the sum over z of psi times each direction (1 or 2, b, ...), and
        the samples (b,) whose conditions these are; b is 1 without a condition.
        """
        given = len(self.data) if self.has_condition else 1
        zeta, weights, directions = self.law
        size = self._psi(zeta[:1], np.array([0])).size
        for z, samples in _pieces(len(zeta), given, size):
            psi = self._psi(zeta[z], samples)
            yield psi, weights[z] / given, np.tensordot(directions[:, z], psi, 1), samples

    def _psi(self, zeta: Array, samples: Index) -> Array:
        device = self.data.target.device
        _, condition = self.data.take(torch.as_tensor(samples, device=device))
        z = torch.as_tensor(math.sqrt(self.variance) * zeta, dtype=torch.float32, device=device)
        psi = self.model.decoder_features(z, condition, self.seed, self.point)
        return np.asarray(psi.cpu(), dtype=np.float64)

    @cached_property
    def law(self) -> tuple[Array, Array, Array]:
        """Points zeta (m,), their weights, and weights times the directions, (1 or 2, m)."""
        zeta = np.linspace(-REACH, REACH, GIVEN_POINTS if self.has_condition else LATENT_POINTS)
        weights = np.exp(-(zeta**2) / 2)
        weights /= weights.sum()
        fixed = self.model.is_linear or self.model.spec.encoder_variances[0] is not None
        found = [zeta] if fixed else [zeta, zeta**2 - weights @ zeta**2]
        return zeta, weights, np.stack([weights * h / math.sqrt(weights @ h**2) for h in found])

    @property
    def has_condition(self) -> bool:
        """True where the decoder sees one."""
        return self.model.decoder_sees_condition


def _pieces(points: int, given: int, size: int) -> Iterator[tuple[Index, Index]]:
    """Points z and samples that are evaluated together, `size` values for each pair."""
    at_once = max(1, VALUES // size)
    z, samples = np.arange(points), np.arange(given)
    if given == 1:
        yield from ((some, samples) for some in np.array_split(z, -(-points // at_once)))
    else:
        several = min(given, -(-given * points // at_once))
        yield from ((z, some) for some in np.array_split(samples, several))


def _by_dense_layer(member: _Member, phi: Array, residual: Array) -> float:
    """lambda_max(M^-1/2 T' S^-1 T M^-1/2), M the same for all coordinates.

    `pulled` E_z psi h of every sample (or of all), turned so that M is 1, has few components that
    matter: T is a sum over them.
    """
    second: Array | float = 0.0
    centre: Array | float = 0.0
    pulled: list[Array] = []
    for psi, share, along, _ in member.decoder_side():
        rows = (psi * np.sqrt(share)[:, None, None]).reshape(-1, psi.shape[-1])
        second, centre = second + rows.T @ rows, centre + np.tensordot(share, psi, 1).sum(axis=0)
        pulled.append(along)
    joined = np.concatenate(pulled, axis=1) if member.has_condition else np.sum(pulled, axis=0)
    root = np.linalg.cholesky(_with_ridge(np.asarray(second - np.outer(centre, centre))))
    turned = solve_triangular(root, joined.reshape(-1, len(root)).T, lower=True).T
    gram: Array | float = 0.0
    for component in _components(turned):
        scaled = component.reshape(len(joined), -1, 1) * phi
        mixed = _explained(np.concatenate(list(scaled), axis=1), residual)
        gram = gram + mixed @ mixed.T
    return float(np.linalg.eigvalsh(gram)[-1])


def _components(values: Array) -> list[Array]:
    """Uncorrelated combinations of columns, largest first, but for a share `LEFT_OUT` of them."""
    sizes, axes = np.linalg.eigh(values.T @ values)
    small = np.cumsum(np.maximum(sizes, 0)) <= LEFT_OUT * np.sum(sizes)
    return list((values @ axes[:, ~small]).T[::-1])


def _by_shared_layer(member: _Member, phi: Array, residual: Array) -> float:
    """The same of a layer whose weights serve all positions."""
    layer = _SharedLayer(*member.model.decoder_sources().cpu().numpy())
    signals, features = _explained(phi, residual), np.eye(phi.shape[1])
    if member.has_condition:
        signals, features = residual, phi / len(phi)
    second: Array | float = 0.0
    total: Array | float = 0.0
    mixed: Array | float = 0.0
    step = -(-len(phi) // CONDITIONS) if member.has_condition else 1
    for psi, share, along, samples in member.decoder_side():
        some, weight = psi[:, samples % step == 0], share * step
        second, total = second + layer.second(some, weight), total + layer.total(some, weight)
        at = samples if member.has_condition else slice(None)
        mixed = mixed + layer.mixed(along, signals[at], features[at])
    gram = layer.gram(np.asarray(second), np.asarray(total))
    return _largest_ratio(np.reshape(mixed, (-1, len(gram))), gram)


@dataclass(frozen=True)
class _SharedLayer:
    """Which row of weights, patch and channel each coordinate of the target is made of, (d,)."""

    row: Index
    patch: Index
    channel: Index

    @property
    def n_rows(self) -> int:
        """Rows of weights."""
        return int(self.row.max()) + 1

    @cached_property
    def _groups(self) -> list[tuple[list[int], Index]]:
        """Rows that are used at the same patches, and these."""
        found: dict[bytes, tuple[list[int], Index]] = {}
        for r in range(self.n_rows):
            at = np.sort(self.patch[self.row == r])
            found.setdefault(at.tobytes(), ([], at))[0].append(r)
        return list(found.values())

    def second(self, psi: Array, share: Array) -> Array:
        """E psi psi' summed over the positions of every row, (rows, q, q)."""
        weighted = psi * np.sqrt(share)[:, None, None, None]
        found: dict[int, Array] = {}
        for rows, at in self._groups:
            seen = weighted[:, :, at].reshape(-1, psi.shape[-1])
            found |= dict.fromkeys(rows, seen.T @ seen)
        return np.stack([found[r] for r in range(self.n_rows)])

    def total(self, psi: Array, share: Array) -> Array:
        """E psi summed over the positions of every row, (rows, q)."""
        mean = np.tensordot(share, psi.sum(axis=1), 1)
        return np.stack([mean[self.patch[self.row == r]].sum(axis=0) for r in range(self.n_rows)])

    def mixed(self, at: Array, signals: Array, features: Array) -> Array:
        """Sum over samples of features times signals times psi's share of z, (J, h, rows, q)."""
        grid = np.zeros((len(signals), self.n_rows, at.shape[2]))
        grid[:, self.row, self.patch] = signals
        pulled: Array = np.einsum("bh,jbrq->jhrq", features, grid @ at, optimize=True)
        return pulled

    def gram(self, second: Array, total: Array) -> Array:
        """M with the bias of every channel eliminated, (rows q, rows q)."""
        gram: Array = block_diag(*second)
        channels = np.zeros(self.n_rows, dtype=np.intp)
        channels[self.row] = self.channel
        for c, count in enumerate(np.bincount(self.channel)):
            moved = np.where((channels == c)[:, None], total, 0.0).ravel()
            gram -= np.outer(moved, moved) / count
        return gram


def _whitened(features: Array) -> Array:
    """Centred features turned to unit covariance, a ridge for dead units, and a constant 1."""
    root = np.linalg.cholesky(_with_ridge(features.T @ features / len(features)))
    whitened = solve_triangular(root, features.T, lower=True).T
    return np.asarray(np.insert(whitened, 0, 1.0, axis=1))


def _explained(phi: Array, residual: Array) -> Array:
    """What each whitened feature explains of the residual, (h, d)."""
    found = phi.T.astype(residual.dtype) @ residual  # no float64 copy of the data
    return np.asarray(found / len(phi), dtype=np.float64)


def _largest_ratio(mixed: Array, gram: Array) -> float:
    """Largest eigenvalue of mixed gram^-1 mixed', a ridge for dead units."""
    solved = cho_solve(cho_factor(_with_ridge(gram)), mixed.T)
    return float(np.linalg.eigvalsh(mixed @ solved)[-1])


def _with_ridge(gram: Array) -> Array:
    largest = max(float(np.diag(gram).max()), np.finfo(np.float64).tiny)
    return np.asarray(gram + RIDGE * largest * np.eye(len(gram)))


def _largest_variance(values: Array) -> float:
    """Largest eigenvalue of the covariance of centred rows."""
    if values.shape[1] <= DENSE:
        exact = values.astype(np.float64)
        return float(np.linalg.eigvalsh(exact.T @ exact / len(exact))[-1])
    return float(svds(values, k=1, return_singular_vectors=False)[0] ** 2 / len(values))
