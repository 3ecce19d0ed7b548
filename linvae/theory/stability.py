"""Local stability of the collapsed point: a threshold that smooth networks share.

At the collapsed point the decoder outputs its best constant (or its best function of what it sees
besides z) and the encoder the prior, or its fixed variance v. There every smooth network is linear
to second order: decoder parameter = constant + U z, encoder mean = W e, and the objective changes
by

    Q(U, W) = 1/2 tr U^T (v F + kappa) U - tr U^T C W^T + 1/2 tr W (beta C_e/eta^2 + kappa) W^T

| model                        | e      | F                  | C                               |
|------------------------------|--------|--------------------|---------------------------------|
| Gaussian decoder, VAE        | y      | I/s                | Cov(y)/s                        |
| VAE on moments with x        | x      | I/s                | Cov(y, x)/s                     |
| CVAE, encoder sees both      | (x, y) | I/s                | Cov(y - R x, e)/s               |
| CVAE, encoder sees target    | y      | I/s                | Cov(y|x)/s                      |
| autoregressive decoder       | y      | I/s                | (I - A) Cov(y)/s                |
| Bernoulli, Poisson           | y      | diag p(1-p), diag p| Cov(y)                          |
| multinomial, mean counts n p | y      | n (diag p - p p^T) | (I - p 1^T) Cov(y)              |

| symbol       | argument                              | shape  | unit                   |
|--------------|---------------------------------------|--------|------------------------|
| y, x         | Moments, target and condition         | (d,), (dx,) | data units        |
| s, eta^2     | decoder_variance, prior_variance      | scalar | data, latent units^2   |
| v            | encoder_variance, None = eta^2        | scalar | latent units^2         |
| kappa, gamma | weight_decay, latent_reconstruction   | scalar | nats, nats/latent^2    |
| U, W         | decoder, encoder weights of a unit    | (d, 1), (1, e) | data/latent, latent/data |
| beta_i       | critical_beta                         | (r,)   | -                      |

with C_e = Cov(e), kappa the weight decay and v = eta^2 where the encoder variance is learned (the
smallest of a fixed diagonal: the thresholds are those of that unit alone). A latent reconstruction
loss adds gamma eta^2 times the derivative of the decoder's mean by its parameter to C, and with a
condition gamma E|W (x, R x)|^2 to the price of W. So the collapsed point is a minimum iff beta
exceeds

    beta_i = eta^2 * generalised eigenvalues of (C^T (v F + kappa)^-1 C - kappa, C_e)

from the first. Special cases that tests check: theta_i^2/s for the VAE, eigenvalues of Cov(y|x)/s
for the CVAE, of (Cov(y|x)^2, Cov(y))/s where the encoder sees the target, the largest innovation
over s at full order, the top eigenvalue of the correlation matrix for binary data. Coordinates
without any variance drop out.

**Stable is not optimal** in two models, whose transition can be of first order: with weight decay
(`linvae.theory.penalised`), and where a conditional encoder sees the target only
(`linvae.theory.target_encoder`).

`escape_rates`: eigenvalues of -Hessian on (U, W), growth rates of gradient flow on raw weights,
per unit of learning rate times steps. Sources: Lucas et al. 2019, Li et al. 2025 (Gaussian decoder,
target = input); the others ours.

**Partly collapsed points**: given the weights of some units, the same with their error
y - B v - U z in place of the target in C: (I - U W) Cov(y)/s for the VAE. A further unit, with a
noise of its own, is then idle and stays so iff beta exceeds beta_1. At `solve`'s optimum, encoder
variances learned, the values are theta_i^2/s of the modes without a unit, and beta^2 s/theta_i^2 <
beta of those in use.

A hierarchy is stable where `linvae.solve` says so, since its problem is convex per mode. Its
collapsed point carries no data, but noise of level 1 may be copied upwards. The upper levels then
meet (U_1, W_1) only through what a nat of W_1 costs: Q with v the noise of level 1 there and
C_e r_2 in place of C_e, r_2 the noise fraction of level 2 (1 if it copies nothing). Where level 2
is narrower than level 1 the thresholds are those of the units that leave first, for all directions
(`solve` gives every mode a unit of its own), and the i-th rate is the i-th of the fastest units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, LinearSpec, VAESpec
from linvae.theory.arguments import check_pair, check_result, in_doubles
from linvae.theory.elbo import Chain, refuse_blind_loss
from linvae.theory.hvae import solve_hierarchy
from linvae.theory.modes import (
    Modes,
    autoregression,
    mode_decomposition,
    require_condition,
    sees_condition_only,
)
from linvae.theory.solution import rounding_of

__all__ = ["Stability", "critical_correlation", "generalised_eigenvalues", "stability"]

Array = npt.NDArray[np.float64]
MEAN_TOLERANCE = 1e-9  # a mean this far outside its range is rounding of the average


@dataclass(frozen=True, eq=False)
class Stability:
    """The collapsed point of a model.

    | field               | meaning                                              | shape | unit   |
    |---------------------|------------------------------------------------------|-------|--------|
    | critical_beta       | beta above which the point is stable against         | (r,)  | -      |
    |                     | direction i, descending; the first is the threshold  |       |        |
    | unstable_directions | how many of them exceed the beta of the spec         | int   | -      |
    | directions          | unit decoder directions, in units of the decoder's   | (r, d)| -      |
    |                     | parameter                                            |       |        |
    | escape_rates        | growth rates of gradient flow at the spec's beta,    | (r,)  | 1/time |
    |                     | descending; negative: it decays                      |       |        |

    r is the rank of what the encoder sees, at most d directions. A value <= 0 means that the point
    is stable at every beta, infinity that it never is.
    """

    critical_beta: Array
    unstable_directions: int
    directions: Array
    escape_rates: Array

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per direction."""
        return [
            {"direction": i + 1, "critical_beta": float(b), "escape_rate": float(r)}
            for i, (b, r) in enumerate(zip(self.critical_beta, self.escape_rates, strict=True))
        ]


@dataclass(frozen=True, eq=False)
class _Quadratic:
    """F, C, C_e of the module's table, and the derivative of mean by parameter on what e holds.

    `circle`: covariance of what the encoder sees of a decoded mean, besides z (0 without x).
    `of_all`: C without the units in use, where there are any.
    """

    F: Array
    C: Array
    C_e: Array
    to_mean: Array
    circle: Array | float = 0.0
    of_all: Array | None = None


@in_doubles
def stability(
    spec: LinearSpec, moments: Moments, weights: Mapping[str, npt.ArrayLike] | None = None
) -> Stability:
    """Thresholds and escape rates of the collapsed point of `spec` on `moments`.

    `weights`, as in `linvae.objective`: those of units that are in use. The result is then that of
    one more unit, of noise eta^2 (or the smallest of the fixed variances), idle beside them.

    Raises ValueError where the decoder variance is learned, where a likelihood does not fit the
    means, for a latent reconstruction loss whose encoder cannot see the target, for weights of
    models other than Gaussian ones of one level without that loss, for arguments of another type,
    and as `solve` (UnboundedObjectiveError) for a hierarchy without an optimum. Equality that a
    test checks: the lowest curvature of `objective` there is minus the first escape rate, 0 at the
    first critical beta.
    """
    _check_arguments(spec, moments, weights)
    if isinstance(spec, HVAESpec):
        return _hierarchy(spec, moments)
    assert isinstance(spec, VAESpec)
    point = _collapsed_point(spec, moments, weights)
    kappa, eta2, identity = spec.weight_decay, spec.prior_variance, np.eye(len(point.C_e))
    return _stability(
        F=_noise(spec) * point.F + kappa * np.eye(len(point.F)),
        C=point.C + spec.latent_reconstruction * eta2 * point.to_mean,
        C_e=point.C_e,
        price=1 / eta2,
        fixed_price=kappa * identity + spec.latent_reconstruction * point.circle,
        beta=spec.beta,
        of_all=point.of_all,
    )


def _stability(
    F: Array,
    C: Array,
    C_e: Array,
    price: float,
    fixed_price: Array,
    beta: float,
    of_all: Array | None = None,
) -> Stability:
    """Of Q(U, W) = tr(U^T F U - 2 U^T C W^T + W (beta price C_e + fixed_price) W^T)/2.

    `of_all`: the C of the collapsed point, whose size is that of rounding in C; None = C itself.
    """
    half = _inverse_root(F)
    root = half @ C
    respond = half.T @ root  # the decoder's best response to the encoder, U = respond W^T
    whole = root if of_all is None else half @ of_all
    check_result("the price of a latent", price)
    # without the price, which may leave no digit of C_e
    values, W = generalised_eigenvalues(-fixed_price, C_e, whole.T @ whole, root)
    critical = values[: len(F)] / price
    directions = (respond @ W[:, : len(F)]).T
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    rates = _escape_rates(F, C, beta * price * C_e + fixed_price)
    check_result("a threshold", critical, infinite=True)
    check_result("an escape rate", rates)
    return Stability(
        critical_beta=critical,
        unstable_directions=int(np.sum(critical > beta)),
        directions=np.divide(directions, lengths, out=directions * 0, where=lengths > 0),
        escape_rates=rates[: len(critical)],
    )


@in_doubles
def critical_correlation(
    *, beta: float, decoder_variance: float, target_variance: float, encoder_sees: str = "both"
) -> float:
    """|rho| from which a scalar conditional VAE collapses; 0 where it does without a condition.

    sqrt(1 - t) if the encoder sees both, sqrt(1 - sqrt(t)) if it sees the target only, with
    t = beta s/Var(y); beta has no unit, `decoder_variance` s and `target_variance` Var(y) data
    units^2, all scalars. For "target" it is that of stability: see `linvae.theory.target_encoder`
    for the optimum. Raises ValueError unless all are finite and > 0 and `encoder_sees` is "both" or
    "target". Equality that a test checks: `stability` there has critical beta = beta.
    """
    ratio = beta * decoder_variance / target_variance
    if not (np.isfinite(ratio) and ratio > 0):
        raise ValueError(
            f"beta={beta}, decoder_variance={decoder_variance}, target_variance={target_variance} "
            "must be finite and > 0 in critical_correlation"
        )
    if encoder_sees not in ("both", "target"):
        raise ValueError(f"encoder_sees={encoder_sees!r} must be 'both' or 'target'")
    share = ratio if encoder_sees == "both" else np.sqrt(ratio)
    return float(np.sqrt(max(0.0, 1 - share)))


def _check_arguments(spec: LinearSpec, moments: Moments, weights: object) -> None:
    check_pair(spec, moments)
    if spec.decoder_variance == "learned":
        raise ValueError(
            "decoder_variance='learned' moves with the weights: give the value it has at the "
            "collapsed point, the residual variance per dimension"
        )
    gamma = getattr(spec, "latent_reconstruction", 0.0)
    likelihood = getattr(spec, "likelihood", "gaussian")
    unknown = isinstance(spec, HVAESpec) or gamma > 0 or likelihood != "gaussian"
    if weights is not None and unknown:
        raise ValueError(
            f"weights are given but {type(spec).__name__} with likelihood={likelihood!r}, "
            f"latent_reconstruction={gamma} is not understood at partly collapsed points: leave "
            "them out, or use a Gaussian model of one level without that loss"
        )


def _collapsed_point(
    spec: LinearSpec, moments: Moments, weights: Mapping[str, npt.ArrayLike] | None = None
) -> _Quadratic:
    if isinstance(spec, VAESpec) and spec.likelihood != "gaussian":
        return _exponential_family(spec, moments)
    if isinstance(spec, CVAESpec):
        require_condition(moments)
    C, d, dx = moments.covariance, moments.target_dim, moments.condition_dim
    s = float(spec.decoder_variance)
    residual, to_mean = np.zeros((d, dx + d)), np.zeros((d, dx + d))
    residual[:, dx:] = to_mean[:, dx:] = np.eye(d)
    sees = slice(dx, None)
    if isinstance(spec, ARVAESpec):
        A, _ = autoregression(spec, moments)
        residual[:, dx:] -= A
        to_mean[:, dx:] = np.linalg.inv(np.eye(d) - A).T
    elif isinstance(spec, (CVAESpec, HVAESpec)):
        residual[:, :dx] = -moments.regression
        blind = isinstance(spec, CVAESpec) and spec.encoder_sees == "target"
        sees = sees if blind else slice(None)
    elif isinstance(spec, VAESpec) and sees_condition_only(spec, moments):
        refuse_blind_loss(spec, moments)
        sees = slice(0, dx)
    covariance = _without_rounding((residual @ C)[:, sees], C, dx, sees) / s
    of_all = None
    if weights is not None:
        chain = Chain.from_weights(spec, moments, weights)
        residual = -chain.skip - chain.U[0] @ chain.encoder
        residual[:, dx:] += np.eye(d)
        of_all, covariance = covariance, _without_rounding((residual @ C)[:, sees], C, dx, sees) / s
    # what the encoder reads of (x, R x), the collapsed decoder's mean of (x, y)
    read = np.concatenate([np.eye(dx), moments.regression])[sees]
    circle = read @ C[:dx, :dx] @ read.T
    return _Quadratic(np.eye(d) / s, covariance, C[sees, sees], to_mean[:, sees], circle, of_all)


def _without_rounding(covariance: Array, C: Array, dx: int, sees: slice) -> Array:
    """Entries below the rounding of the products that they are differences of are zero."""
    deviations = np.sqrt(np.diag(C))
    floor = rounding_of(len(C)) * np.outer(deviations[dx:], deviations[sees])
    return np.where(np.abs(covariance) > floor, covariance, 0.0)


def _exponential_family(spec: VAESpec, moments: Moments) -> _Quadratic:
    """Natural parameters at the fitted marginals; constant coordinates have zeros everywhere."""
    if moments.condition_dim > 0 or not moments.centered:
        raise ValueError(
            f"likelihood={spec.likelihood!r} needs centred moments without a condition, got "
            f"condition_dim={moments.condition_dim}, centered={moments.centered}"
        )
    mean, C = moments.mean, moments.covariance
    if spec.likelihood == "bernoulli":
        mean = _checked_means(mean, 1.0, "probabilities between 0 and 1", "bernoulli")
        F, score = np.diag(mean * (1 - mean)), np.eye(len(C))
    else:
        mean = _checked_means(mean, np.inf, "mean counts >= 0", spec.likelihood)
        F, score = np.diag(mean), np.eye(len(C))
        if spec.likelihood == "multinomial":
            p = mean / mean.sum()
            F = mean.sum() * (np.diag(p) - np.outer(p, p))
            score = score - np.outer(p, np.ones(len(p)))  # of a total that differs from its mean
    alive = np.diag(F) > 0
    C = np.where(np.outer(alive, alive), C, 0.0)
    return _Quadratic(F, score @ C, C, F)


def _checked_means(mean: Array, highest: float, what: str, likelihood: str) -> Array:
    outside = (mean < -MEAN_TOLERANCE) | (mean > highest + MEAN_TOLERANCE)
    if np.any(outside) or not np.any(mean > 0):
        worst = float(mean[outside][0]) if np.any(outside) else 0.0
        raise ValueError(
            f"moments.mean holds {worst:.6g} but likelihood={likelihood!r} needs {what}, not all "
            "zero: give the moments of the raw data, from_covariance with mean="
        )
    return np.clip(mean, 0.0, highest)


def _noise(spec: VAESpec) -> float:
    """Encoder variance at the collapsed point; the unit of least noise leaves it first."""
    if spec.encoder_variance is None:
        return spec.prior_variance
    return float(np.min(spec.encoder_variance))


def generalised_eigenvalues(
    A: Array, B: Array, size: Array, root: Array | None = None
) -> tuple[Array, Array]:
    """Eigenvalues, descending, and eigenvectors of (A + root^T root, B) on the range of B.

    A square in factors keeps the digits where B is small: as a product, its rounding would be
    divided by the smallest eigenvalue of B, instead of by the root of it. Where A grows in a
    direction outside that range, by more than the rounding of `size`, the eigenvalue is infinite.
    All are brought to unit diagonal of B first, so that units of the coordinates do not decide what
    is rounding.
    """
    scale = np.sqrt(np.diag(B))
    scale = np.where(scale > 0, scale, 1.0)
    A, B, size = (matrix / np.outer(scale, scale) for matrix in (A, B, size))
    root = np.zeros((0, len(B))) if root is None else root / scale
    values, vectors = np.linalg.eigh(B)
    floor = rounding_of(len(B)) * max(float(values[-1]), 0.0)
    whiten = vectors[:, values > floor] / np.sqrt(values[values > floor])
    told = root @ whiten
    inner = whiten.T @ A @ whiten + told.T @ told
    values_in, vectors_in = np.linalg.eigh((inner + inner.T) / 2)
    found, basis = values_in[::-1], whiten @ vectors_in[:, ::-1]
    outside = vectors[:, values <= floor]
    if outside.shape[1]:
        told = root @ outside
        growth, directions = np.linalg.eigh(outside.T @ A @ outside + told.T @ told)
        free = growth > rounding_of(len(A)) * np.linalg.norm(size, 2)
        found = np.append(np.full(int(free.sum()), np.inf), found)
        basis = np.concatenate([outside @ directions[:, free], basis], axis=1)
    return found, basis / scale[:, None]


def _inverse_root(F: Array) -> Array:
    """H with H^T H the pseudo-inverse of F."""
    if np.count_nonzero(F - np.diag(np.diag(F))) == 0:
        deviations = np.sqrt(np.diag(F))
        return np.diag(
            np.divide(1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0)
        )
    values, vectors = np.linalg.eigh(F)
    kept = values > rounding_of(len(F)) * values[-1]
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])).T)


def _escape_rates(F: Array, C: Array, price: Array) -> Array:
    """Eigenvalues of -[[F, -C], [-C^T, price of W]], descending.

    The units of the data can make the small ones 1e-12 of the largest. Where all blocks share their
    eigenvectors each mode has a closed form, without cancellation; elsewhere the stiffer block goes
    first, for the reduction then keeps the digits of small eigenvalues (unless that is F).
    """
    shared = _shared_eigenvalues(F, C, price)
    if shared is not None:
        f, c, p = shared
        spread = (f + p + np.hypot(f - p, 2 * c)) / 2
        escape = np.divide(c**2 - f * p, spread, out=np.zeros_like(c), where=spread > 0)
        both: Array = np.sort(np.concatenate([escape, -spread]))[::-1]
        return both
    blocks = [[F, -C], [-C.T, price]] if np.trace(F) > np.trace(price) else [[price, -C.T], [-C, F]]
    rates: Array = -np.linalg.eigvalsh(np.block(blocks), UPLO="L")
    return rates


def _shared_eigenvalues(F: Array, C: Array, price: Array) -> tuple[Array, Array, Array] | None:
    """Eigenvalues of F = f I, C and price in one basis; None unless C and price commute."""
    if C.shape != price.shape or not np.array_equal(F, F[0, 0] * np.eye(len(F))):
        return None
    if not np.array_equal(C, C.T):
        return None
    p, basis = np.linalg.eigh(price)
    rotated = basis.T @ C @ basis
    c = np.diag(rotated)
    if np.abs(rotated - np.diag(c)).max() > rounding_of(len(C)) * np.abs(c).max():
        return None
    return np.full_like(c, F[0, 0]), c, p


def _hierarchy(spec: HVAESpec, moments: Moments) -> Stability:
    """Of the kind of idle unit that leaves first; rates of the fastest."""
    point, eta2 = _collapsed_point(spec, moments), spec.prior_variances[0]
    found = [
        _stability(noise * point.F, point.C, point.C_e, copied / eta2, 0 * point.C_e, spec.betas[0])
        for noise, copied in _idle_units(spec, mode_decomposition(spec, moments))
    ]
    first = max(found, key=lambda kind: float(kind.critical_beta[0]))
    return replace(first, escape_rates=np.max([kind.escape_rates for kind in found], axis=0))


def _idle_units(spec: HVAESpec, modes: Modes) -> set[tuple[float, float]]:
    """Noise v and noise fraction r_2 above it of the units of level 1 that carry no data.

    Two kinds at most for every width above: units whose noise is copied upwards and the others.
    """
    still = solve_hierarchy(spec, replace(modes, variances=np.zeros_like(modes.variances)))
    k = spec.latent_dims[0]
    noise = still.second_moments[0, :k]
    copied = still.noise_fractions[1, :k] if len(spec.betas) > 1 else np.ones(k)
    return set(zip(noise.tolist(), copied.tolist(), strict=True))
