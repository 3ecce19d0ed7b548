"""How far an encoder is behind its decoder: the best response of every sample, decoder fixed.

Of one sample v = (x, y) the objective is, for any q,

    F(q) = E_q[-log p(y|z, x)] + beta KL(q||p) = beta KL(q||q*) - beta log Z
    q*(z) = p(y|z, x)^(1/beta) p(z)/Z

q* is the model's posterior p(z|y, x) where beta = 1. The lag is the distance of the encoder's mean
from that of the best response, and the gap is what F loses, both over the same samples:

| method      | best response                              | gap                                   |
|-------------|--------------------------------------------|---------------------------------------|
| "exact"     | linear Gaussian decoders: in closed form   | to the best diagonal Gaussian         |
| "optimised" | any: every mean and variance by L-BFGS     | the same                              |
| "grid"      | one latent: q* on a grid                   | to q* itself, beta KL(q||q*)          |

Exact: with P = U^T U/(beta s) + I/eta^2 and residual y - B x, q* is Gaussian with precision P and
mean m = P^-1 U^T (y - B x)/(beta s); the best diagonal variances are 1/P_ii, and

    F(q) - min F = beta/2 [ (mu - m)^T P (mu - m) + sum_i (rho_i - 1 - log rho_i) ]

with rho_i = sigma_i^2 P_ii where they are learned; where they are fixed, the first term alone.

Optimised: E_q is a mean over points mu + sigma e, e the columns of random rotations and their
negatives at radii of mean square k: exact for linear decoders, where every e of degree three is.
Other points than those that chose it say what a response gains. `residuals` is what the last round
of L-BFGS still gained, nats per sample.

Grid: z/eta from -20 to 20 in steps of 0.1, as published; the sum is accurate where q* is wider than
half a step and smooth: kinks (relu) cost some thousandths of a deviation.

| symbol | here                          | shape                   | unit            |
|--------|-------------------------------|-------------------------|-----------------|
| mu     | InferenceLag.encoder_means    | (seeds, points, n, k)   | latent units    |
| m      | InferenceLag.model_means      | (seeds, points, n, k)   | latent units    |
| -      | InferenceLag.distances        | (seeds, points)         | prior deviations|
| -      | InferenceLag.gaps             | (seeds, points)         | nats per sample |
| beta   | betas                         | (seeds, points) or less | -               |

Sources: He et al. 2019 (posterior mean space, the grid); Cremer et al. 2018 (amortisation gap);
beta and the closed form are ours. Equalities that tests check: brute-force minimisation; all three
methods agree on a linear model of one latent.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import chi2
from torch import Tensor

from linvae.metrics.information import posteriors
from linvae.metrics.observe import Stack, evaluating, pieces
from linvae.models import StackedVAE
from linvae.objectives import GaussianLevel
from linvae.train.data import TrainingData, stream

__all__ = ["InferenceLag", "inference_lag"]

Array = npt.NDArray[np.float64]
Method = Literal["exact", "grid", "optimised"]
Batch = tuple[Tensor, Tensor | None]  # target, condition
REACH = 20.0  # prior deviations, of the grid
NODES = 64  # of Gauss and Hermite, for means over the encoder's q beside a grid: kinks need many
GRID_AT_ONCE = 50  # points of the grid evaluated at a time
ROUNDS, ITERATIONS, SETTLED = 20, 10, 1e-4  # of L-BFGS at most; nats per sample that end it


@dataclass(frozen=True, eq=False)
class InferenceLag:
    """Encoder against best response; shapes as in the module's table, NaN where diverged.

    `gaps`: mean over samples; `errors`: its standard error over them. `distances`: root mean square
    over samples of |mu - m|/eta. `residuals`: 0 where nothing was optimised. `index`: the samples
    of the data that were taken, (n,).
    """

    method: Method
    gaps: Array
    errors: Array
    distances: Array
    residuals: Array
    encoder_means: Array
    model_means: Array
    index: npt.NDArray[np.intp]

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """The last round of the optimisation gained less than `SETTLED` nats."""
        return np.asarray(self.residuals < SETTLED)


@dataclass(frozen=True, eq=False)
class _Response:
    """What a method finds: gap of every sample, means, residual of every member."""

    gaps: Tensor
    means: Tensor
    residuals: Tensor


def inference_lag(
    model: Stack,
    data: TrainingData,
    *,
    betas: npt.ArrayLike | None = None,
    method: Method | None = None,
    samples: int = 500,
    draws: int = 16,
    step: float = 0.1,
    seed: int = 0,
) -> InferenceLag:
    """Lag of the encoder of every member, on `samples` random samples (all, if there are fewer).

    `betas`: that members were trained with, one number or (n_seeds, n_points); None: the spec's.
    `method` None: "exact" where there is a closed form, "grid" for one latent, else "optimised".
    `draws`: points of every mean over q, at least, when optimised; `step`: of the grid, in prior
    deviations. Raises ValueError for several levels, for an encoder that does not see the target,
    and for a method that the model does not allow.
    """
    method = _checked(model, method)
    some, index = _some(data, samples, seed)
    with torch.no_grad():
        level = posteriors(model, some)
    beta = _betas(model, betas, level.mean)
    if method == "exact":
        assert isinstance(model, StackedVAE)
        found = _exact(model, some, level, beta)
    elif method == "grid":
        found = _on_grid(model, some, level, beta, step)
    else:
        found = _optimised(model, some, level, beta, draws, seed)
    square = (level.mean - found.means).square().sum(-1).mean(-1)
    return InferenceLag(
        method=method,
        gaps=_numpy(found.gaps.mean(-1)),
        errors=_numpy(found.gaps.std(-1) / math.sqrt(len(index))),
        distances=_numpy((square / model.spec.prior_variances[0]).sqrt()),
        residuals=_numpy(found.residuals),
        encoder_means=_numpy(level.mean),
        model_means=_numpy(found.means),
        index=np.asarray(index.cpu(), dtype=np.intp),
    )


def _checked(model: Stack, method: Method | None) -> Method:
    """The method, or ValueError."""
    spec = model.spec
    if len(spec.latent_dims) > 1:
        raise ValueError(
            f"spec has {len(spec.latent_dims)} levels but inference_lag needs one: the best "
            "response of a level depends on those above; importance_weighted_likelihood gives the "
            "gap of the whole chain"
        )
    if isinstance(model, StackedVAE) and not model.encoder_sees_target:
        raise ValueError(
            f"{spec!r} with a condition has an encoder that does not see the target, so that the "
            "posterior of inference_lag is none it could learn: use CVAESpec"
        )
    closed = isinstance(model, StackedVAE) and model.is_linear and not model.is_bernoulli
    if method is None:
        return "exact" if closed else "grid" if spec.latent_dims == (1,) else "optimised"
    if method == "exact" and not closed:
        raise ValueError(
            "method='exact' needs a linear Gaussian decoder in inference_lag: use 'optimised'"
        )
    if method == "grid" and spec.latent_dims != (1,):
        raise ValueError(
            f"method='grid' needs one latent in inference_lag, not {spec.latent_dims[0]}: use "
            "'optimised'"
        )
    if method not in ("exact", "grid", "optimised"):
        raise ValueError(
            f"method={method!r} must be 'exact', 'grid' or 'optimised' in inference_lag"
        )
    return method


def _some(data: TrainingData, samples: int, seed: int) -> tuple[TrainingData, Tensor]:
    if samples < 2:
        raise ValueError(f"samples={samples} must be >= 2 in inference_lag, for an error")
    order = torch.randperm(len(data), generator=stream("lag", seed))
    index = order[:samples].sort().values.to(data.target.device)
    lengths = None if data.lengths is None else data.lengths[index]
    return TrainingData(*data.take(index), data.image, lengths), index


def _betas(model: Stack, betas: npt.ArrayLike | None, like: Tensor) -> Tensor:
    given = np.asarray(model.spec.betas[0] if betas is None else betas, dtype=np.float64)
    shape = (len(model.seeds), model.n_points)
    if not np.all(given > 0) or given.ndim > 2:
        raise ValueError(f"betas={given} must be > 0 and of shape {shape} or less in inference_lag")
    return torch.as_tensor(np.broadcast_to(given, shape).copy(), device=like.device)


def _exact(model: StackedVAE, data: TrainingData, level: GaussianLevel, beta: Tensor) -> _Response:
    gaps, means = level.mean[..., 0].clone(), level.mean.clone()
    for s in range(len(model.seeds)):
        for p in range(model.n_points):
            own = GaussianLevel(level.mean[s, p], level.log_variance[s, p])
            weights = {name: torch.as_tensor(w) for name, w in model.weights(s, p).items()}
            found = _gaussian_posterior(model, data, weights, float(beta[s, p]))
            precision, score = (part.to(means.device) for part in found)
            means[s, p] = torch.linalg.solve(precision, score.mT).mT
            off, scaled = own.mean - means[s, p], torch.exp(own.log_variance) * precision.diag()
            gap = ((off @ precision) * off).sum(-1)
            if model.spec.encoder_variances[0] is None:
                gap = gap + (scaled - 1 - scaled.log()).sum(-1)
            gaps[s, p] = beta[s, p] / 2 * gap
    return _Response(gaps, means, torch.zeros_like(beta))


def _gaussian_posterior(
    model: StackedVAE, data: TrainingData, weights: dict[str, Tensor], beta: float
) -> tuple[Tensor, Tensor]:
    """P (k, k) and P m of every sample, (n, k)."""
    U = weights["U"] if "U" in weights else weights["U1"]
    s = float(weights.get("s", model.spec.decoder_variance))
    target, condition = data.take(torch.arange(len(data)))
    y = target.double().cpu()
    if condition is not None:
        skip = weights["U2"] if "U2" in weights else weights["B"]
        y = y - condition.double().cpu() @ skip.mT
    eye = torch.eye(U.shape[1], dtype=torch.float64)
    return U.mT @ U / (beta * s) + eye / model.spec.prior_variances[0], y @ U / (beta * s)


@torch.no_grad()
def _on_grid(
    model: Stack, data: TrainingData, level: GaussianLevel, beta: Tensor, step: float
) -> _Response:
    eta2 = model.spec.prior_variances[0]
    if not 0 < step <= 1:
        raise ValueError(f"step={step} must be in (0, 1] prior deviations in inference_lag")
    half = round(REACH / step)
    unit = torch.arange(-half, half + 1, device=level.mean.device, dtype=torch.float64) * step
    z = unit * math.sqrt(eta2)
    log_joint = _log_joint(model, data, z.expand(*level.mean.shape[:3], -1), beta)
    log_z = log_joint.logsumexp(-1, keepdim=True)
    q = torch.exp(log_joint - log_z)
    mean = (q * z).sum(-1)
    deviation = (q * (z - mean[..., None]).square()).sum(-1).sqrt() / math.sqrt(eta2)
    _warn_of_coarse(deviation, step)
    nodes, weights = (
        torch.as_tensor(v, device=z.device) for v in np.polynomial.hermite_e.hermegauss(NODES)
    )
    at = level.mean + torch.exp(level.log_variance / 2) * nodes
    expected = _log_joint(model, data, at, beta) @ (weights / weights.sum())
    entropy = (math.log(2 * math.pi) + 1 + level.log_variance[..., 0]) / 2
    log_z = log_z[..., 0] + math.log(step * math.sqrt(eta2))
    gaps = beta[..., None] * (log_z - expected - entropy)
    return _Response(gaps, mean[..., None], torch.zeros_like(beta))


def _log_joint(model: Stack, data: TrainingData, z: Tensor, beta: Tensor) -> Tensor:
    """log p(y|z)/beta + log p(z) at every z (n_seeds, n_points, n, m), of one latent."""
    eta2, found = model.spec.prior_variances[0], []
    for some in torch.split(z, GRID_AT_ONCE, dim=-1):
        m, start, likelihoods = some.shape[-1], 0, []
        with evaluating(model):
            for batch, _ in pieces(model, data, lambda index: [], m):
                n = batch[0].shape[1]
                rows = some[:, :, start : start + n].mT.flatten(2)[..., None]
                start += n
                nats = model.log_likelihood_per_sample(_like(rows, model), *batch)
                likelihoods.append(torch.unflatten(nats.double(), 2, (m, n)).mT)
        found.append(torch.cat(likelihoods, dim=2))
    prior = -(z.square() / eta2 + math.log(2 * math.pi * eta2)) / 2
    return torch.cat(found, dim=-1) / beta[..., None, None] + prior


def _warn_of_coarse(deviation: Tensor, step: float) -> None:
    share = float((deviation < step / 2).double().mean())
    if share > 0:
        warnings.warn(
            f"{share:.1%} of the posteriors are narrower than half the grid's step of {step} prior "
            f"deviations, the least {float(deviation.min()):.2g}: their means are off by up to "
            "half a step; give a smaller step, or method='optimised'",
            stacklevel=4,
        )


def _optimised(
    model: Stack, data: TrainingData, level: GaussianLevel, beta: Tensor, draws: int, seed: int
) -> _Response:
    k, start = level.mean.shape[-1], 0
    radii = _radii(k, max(1, math.ceil(draws / (2 * k))))
    generator = stream("best response", seed)
    noise = functools.partial(_two_sets, k, radii, generator)
    gaps, means, residuals = [], [], []
    with evaluating(model):
        for batch, drawn in pieces(model, data, noise, 2 * k * len(radii)):
            rows = slice(start, start + batch[0].shape[1])
            start = rows.stop
            own = GaussianLevel(level.mean[:, :, rows], level.log_variance[:, :, rows])
            chooses, judges = (_Objective(model, batch, d.to(own.mean.device), beta) for d in drawn)
            best, residual = _minimised(chooses, own)
            with torch.no_grad():
                gaps.append(judges(own) - judges(best))
            means.append(best.mean)
            residuals.append(residual * batch[0].shape[1] / len(data))
    return _Response(torch.cat(gaps, -1), torch.cat(means, 2), torch.stack(residuals).sum(0))


def _radii(k: int, blocks: int) -> Array:
    """Radii of |e|: quantiles of chi with k degrees of freedom, of mean square k."""
    squares = chi2.ppf((np.arange(blocks) + 0.5) / blocks, k)
    return np.asarray(np.sqrt(squares * k / squares.mean()), dtype=np.float64)


def _two_sets(k: int, radii: Array, generator: torch.Generator, index: Tensor) -> list[Tensor]:
    return [_points(len(index), k, radii, generator) for _ in range(2)]


def _points(n: int, k: int, radii: Array, generator: torch.Generator) -> Tensor:
    """Points e of `n` samples, (1, 2 k blocks n, k): mean 0 and mean e e^T = I for every sample."""
    normal = torch.randn(len(radii), n, k, k, generator=generator, dtype=torch.float64)
    columns = torch.linalg.qr(normal).Q.mT * torch.as_tensor(radii)[:, None, None, None]
    return torch.stack([columns, -columns]).permute(0, 1, 3, 2, 4).reshape(1, -1, k)


@dataclass(frozen=True, eq=False)
class _Objective:
    """F of every sample of a batch, (n_seeds, n_points, batch), nats."""

    model: Stack
    batch: Batch
    points: Tensor
    beta: Tensor

    def __call__(self, q: GaussianLevel) -> Tensor:
        n = q.mean.shape[2]
        draws = self.points.shape[1] // n
        z = q.repeat(draws).sample(self.points[:, None])
        nats = self.model.log_likelihood_per_sample(_like(z, self.model), *self.batch)
        distortion = -torch.unflatten(nats.double(), 2, (draws, n)).mean(2)
        (rates,) = self.model.rates_per_unit([q], [z])
        return distortion + self.beta[..., None] * rates.sum(-1)


def _minimised(objective: _Objective, start: GaussianLevel) -> tuple[GaussianLevel, Tensor]:
    """Best response of every sample, and what the last round gained, (n_seeds, n_points)."""
    with torch.no_grad():
        first = objective(start)
    best, value = start, first
    for _ in range(ROUNDS):
        found = _one_round(objective, best, torch.isfinite(first))
        with torch.no_grad():
            now = objective(found)
        better = now < value  # of each sample: others may have gained at its cost
        best = GaussianLevel(
            torch.where(better[..., None], found.mean, best.mean),
            torch.where(better[..., None], found.log_variance, best.log_variance),
        )
        gained = torch.where(better, value - now, 0).mean(-1)
        value = torch.where(better, now, value)
        if float(gained.max()) < SETTLED:
            break
    return best, torch.where(torch.isfinite(first).all(-1), gained, torch.nan)


def _one_round(objective: _Objective, start: GaussianLevel, known: Tensor) -> GaussianLevel:
    """L-BFGS in units of the deviations of `start`, all samples of all members at once."""
    learned = objective.model.spec.encoder_variances[0] is None
    shift = torch.zeros_like(start.mean, requires_grad=True)
    growth = torch.zeros_like(start.mean, requires_grad=learned)
    free = [shift, growth] if learned else [shift]
    optimizer = torch.optim.LBFGS(
        free,
        max_iter=ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        line_search_fn="strong_wolfe",
    )

    def moved() -> GaussianLevel:
        return GaussianLevel(start.sample(shift), start.log_variance + growth)

    def loss() -> Tensor:
        values = objective(moved()) / objective.beta[..., None]
        total = torch.where(known, values, 0).sum()
        for parameter, gradient in zip(free, torch.autograd.grad(total, free), strict=True):
            parameter.grad = torch.where(known[..., None], gradient, 0)  # NaN of others
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return moved()


def _like(z: Tensor, model: Stack) -> Tensor:
    return z.to(next(model.parameters()).dtype)


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu(), dtype=np.float64)
