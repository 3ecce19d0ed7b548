"""What is observed of an encoder, and of its decoder or any other: rates, codes, objectives.

All in nats per sample; symbols as in `linvae.diagnosis`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri

from linvae.diagnosis.records import Evidence
from linvae.encoders import NetworkFunction, as_arrays
from linvae.metrics.observe import principal_axes
from linvae.moments import Moments
from linvae.objectives import GaussianLevel, gaussian_distortion, gaussian_rate_per_unit
from linvae.spec import VAESpec
from linvae.theory import Solution
from linvae.theory.any_decoder import best_decoder_errors
from linvae.theory.elbo import Chain
from linvae.theory.held_modes import ALIKE
from linvae.theory.modes import Modes, mode_decomposition
from linvae.theory.noise_estimation import FALSE_ALARM

__all__ = [
    "Code",
    "beyond_condition",
    "evidence_of",
    "evidence_of_bounds",
    "network_objective",
    "posteriors",
    "quantile",
    "refuse_variances",
    "scores",
    "unit_code",
    "unit_rates",
]

Array = npt.NDArray[np.float64]
ROWS = 4096  # samples that networks see at a time
SUBSET = 2000  # samples whose pairs are compared where no decoder is given: 32 MB of doubles
# times beta, nats: what the optimum loses with a mode of 0.1 nats, (e^0.2 - 1.2)/2
MARGIN = 0.0107
# E z^2 over the prior variance is 1 at an optimum; variances v in place of their logarithms make
# it 1 - v + e^v >= 2: half-way
TOO_WIDE = 1.5


def posteriors(encoder: NetworkFunction, y: Any, x: Any) -> tuple[Array, Array]:
    """Means and log-variances of all samples, in batches."""
    parts = []
    for start in range(0, len(y), ROWS):
        rows = slice(start, start + ROWS)
        output = encoder(y[rows]) if x is None else encoder(y[rows], x[rows])
        parts.append(_checked_pair(as_arrays(output), len(y[rows])))
    widths = {mean.shape[1] for mean, _ in parts}
    if len(widths) > 1:
        raise ValueError(f"encoder returned {sorted(widths)} units in different batches")
    mean, log_variance = (np.concatenate(part) for part in zip(*parts, strict=True))
    return mean, log_variance


def _checked_pair(output: Any, n: int) -> tuple[Array, Array]:
    if isinstance(output, (tuple, list)) and any(isinstance(v, (tuple, list)) for v in output):
        raise ValueError(
            f"encoder returned {len(output)} pairs, as a hierarchy of as many levels does: "
            "diagnose knows one level; hold the rates of the levels against "
            "linvae.solve(HVAESpec(...), moments).rates"
        )
    if not isinstance(output, (tuple, list)) or len(output) != 2:
        what = (
            f"{len(output)} parts" if isinstance(output, (tuple, list)) else type(output).__name__
        )
        raise ValueError(
            f"encoder returned {what} but must return a pair (mean, log_variance), each (n, k)"
        )
    mean, log_variance = (np.asarray(part, dtype=np.float64) for part in output)
    if mean.ndim != 2 or len(mean) != n or mean.shape[1] == 0:
        raise ValueError(
            f"encoder returned means of shape {mean.shape} but must return ({n}, k) for {n} samples"
        )
    if log_variance.shape != mean.shape:
        raise ValueError(
            f"encoder returned log-variances of shape {log_variance.shape} but its means have "
            f"{mean.shape}: one log-variance per mean (repeat those that are shared)"
        )
    for name, values in (("means", mean), ("log-variances", log_variance)):
        bad = int(np.sum(~np.isfinite(values)))
        if bad:
            raise ValueError(
                f"encoder returned {bad} of {values.size} {name} that are NaN or infinite: the "
                "training diverged, or the data are not scaled as in training"
            )
    return mean, log_variance


def refuse_variances(mean: Array, log_variance: Array, prior_variance: float) -> None:
    """ValueError where log-variances make no sense unless they are variances."""
    widest = np.mean(mean**2) + np.mean(np.exp(np.minimum(log_variance, 50.0)))
    every = np.all(log_variance > math.log(prior_variance))
    if every and widest > TOO_WIDE * prior_variance:
        raise ValueError(
            f"encoder's log-variances are all above log(prior_variance)="
            f"{math.log(prior_variance):.3g} and E z^2 is {widest:.3g}, beyond {TOO_WIDE} * "
            f"prior_variance={prior_variance}: probably it returns variances or standard "
            "deviations; return their logarithm, log sigma^2, or give trust_log_variances=True "
            "(--trust-log-variances) if it does"
        )


def _double(value: Any) -> torch.Tensor:
    """A number as it is: torch rounds to 3e-8 of it unless told, nats where variances are far."""
    return torch.tensor(float(value), dtype=torch.float64)


def unit_rates(mean: Array, log_variance: Array, prior_variance: float) -> Array:
    """KL of every sample and unit, (n, k), nats."""
    q = GaussianLevel(torch.from_numpy(mean), torch.from_numpy(log_variance))
    square = q.mean.square() + q.log_variance.exp()
    rates: Array = gaussian_rate_per_unit(q, square, _double(prior_variance)).numpy()
    return rates


@dataclass(frozen=True)
class Code:
    """Means and variances, along principal axes where the latter are fixed; rates above idle."""

    mean: Array
    variance: Array
    rates: Array


def unit_code(mean: Array, log_variance: Array, spec: VAESpec) -> Code:
    """Rates and means of all units, along principal axes where the variance is fixed."""
    variance = np.exp(log_variance)
    if spec.encoder_variance is None:
        return Code(mean, variance, unit_rates(mean, log_variance, spec.prior_variance))
    axes = principal_axes(torch.from_numpy(mean)).numpy()
    idle = unit_rates(0 * mean[:1], log_variance[:1], spec.prior_variance)
    return Code(axes, variance, unit_rates(axes, log_variance, spec.prior_variance) - idle)


def scores(spec: VAESpec, moments: Moments, y: Any, x: Any) -> Array:
    """Centred scores of the modes that may have a unit, and of those like the last, (n, m)."""
    modes: Modes = mode_decomposition(spec, moments)
    last = modes.variances[min(spec.latent_dim, len(modes.variances)) - 1]
    shown = max(spec.latent_dim, int(np.sum(modes.variances * ALIKE >= last))) if last > 0 else None
    readout = modes.readout[:shown].T
    parts = []
    for start in range(0, len(y), ROWS):
        rows = slice(start, start + ROWS)
        v = y[rows] if x is None else np.concatenate([x[rows], y[rows]], axis=1)
        parts.append((v - moments.mean) @ readout)
    return np.concatenate(parts) * (modes.variances[:shown] > 0)


def beyond_condition(mean: Array, x: Any) -> Array:
    """Means less their regression on the condition, which the decoder sees anyhow."""
    if x is None:
        return mean
    given = np.column_stack([np.ones(len(x)), x]).astype(np.float64)
    return np.asarray(mean - given @ np.linalg.lstsq(given, mean, rcond=None)[0])


def network_objective(
    spec: VAESpec, q: GaussianLevel, decoder: NetworkFunction, y: Any, x: Any, seed: int
) -> tuple[float, float]:
    """Objective of the network on these data, nats per sample, and its Monte-Carlo error.

    Two pairs of reflected draws; the difference of the pairs gives the error.
    """
    rng = np.random.default_rng(seed)
    s, d = _double(spec.decoder_variance), y.shape[1]
    pairs = []
    for _ in range(2):
        noise = torch.from_numpy(rng.standard_normal(q.mean.shape))
        errors = [_squared_errors(decoder, q.sample(e).numpy(), y, x) for e in (noise, -noise)]
        pairs.append(gaussian_distortion(torch.from_numpy(sum(errors) / 2), d, s).numpy())
    rate = unit_rates(q.mean.numpy(), q.log_variance.numpy(), spec.prior_variance).sum(axis=1)
    objective = np.mean((pairs[0] + pairs[1]) / 2 + spec.beta * rate)
    error = math.sqrt(np.mean(((pairs[0] - pairs[1]) / 2) ** 2) / len(y))
    return float(objective), error


def _squared_errors(decoder: NetworkFunction, z: Array, y: Any, x: Any) -> Array:
    """|y - decoder mean|^2 of every sample, (n,)."""
    errors = []
    for start in range(0, len(y), ROWS):
        rows = slice(start, start + ROWS)
        output = decoder(z[rows]) if x is None else decoder(z[rows], x[rows])
        decoded = np.asarray(as_arrays(output), dtype=np.float64).reshape(len(z[rows]), -1)
        if decoded.shape != y[rows].shape:
            raise ValueError(
                f"decoder returned {decoded.shape} for {z[rows].shape} latents but the target has "
                f"{y[rows].shape}: it must return the mean of the target"
            )
        errors.append(np.sum((y[rows] - decoded) ** 2, axis=1))
    return np.concatenate(errors)


def quantile(k: int) -> float:
    """Of the normal distribution: one of k units is outside, on either side, in 1 % of cases."""
    return float(-ndtri(FALSE_ALARM / (2 * k)))


def evidence_of(spec: VAESpec, lead: float, error: float) -> Evidence:
    """What an objective below the linear optimum's by `lead` says, beyond margin and error."""
    doubt = MARGIN * spec.beta + quantile(1) * error
    if not abs(lead) > doubt:  # NaN, where variances overflow, says nothing
        return "even"
    return "pays" if lead > 0 else "costs"


def evidence_of_bounds(
    spec: VAESpec,
    moments: Moments,
    solution: Solution,
    mean: Array,
    log_variance: Array,
    y: Any,
    x: Any,
    seed: int,
) -> Evidence:
    """What every decoder, and one that can be had, would make of the code of some samples.

    Held against the linear optimum of all samples, on those; two pairs of reflected draws.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(y))[:SUBSET])
    v = (y if x is None else np.concatenate([x, y], axis=1))[some].astype(np.float64)
    copies = np.unique(y[some], axis=0, return_inverse=True)[1].reshape(-1)
    v = v - moments.mean
    dx = moments.condition_dim
    target = v[:, dx:] - v[:, :dx] @ moments.regression.T
    mu, variance = beyond_condition(mean, x)[some], np.exp(log_variance[some])
    rate = unit_rates(mean[some], log_variance[some], spec.prior_variance).sum(axis=1)
    linear = _linear_objectives(spec, moments, solution, v)
    s = _double(spec.decoder_variance)
    pairs = []
    for _ in range(2):
        noise = rng.standard_normal(mu.shape)
        draws = [best_decoder_errors(target, mu, variance, e, copies) for e in (noise, -noise)]
        pairs.append(np.mean(draws, axis=0) * [[x is None], [1.0]])  # a condition can tell all
    paid = gaussian_distortion(torch.from_numpy(np.array(pairs)), y.shape[1], s).numpy()
    lead = linear - paid.mean(axis=0) - spec.beta * rate  # of the bound, of one to be had; samples
    left_out = (1 - len(some) / len(y)) * lead.var(axis=1, ddof=1)
    error = np.sqrt((np.mean(((paid[0] - paid[1]) / 2) ** 2, axis=1) + left_out) / len(some))
    least, had = (evidence_of(spec, o, e) for o, e in zip(lead.mean(axis=1), error, strict=True))
    if least == "costs":
        return "costs"
    return "pays" if had == "pays" else "unknown"


def _linear_objectives(spec: VAESpec, moments: Moments, solution: Solution, v: Array) -> Array:
    """Objective of the linear optimum on every sample of centred v = (x, y), (n,), nats."""
    chain = Chain.from_weights(spec, moments, solution.weights)
    mu, variance = v @ chain.encoder.T, np.diag(chain.Sigma[0])
    d, U = moments.target_dim, chain.U[0]
    left = v[:, moments.condition_dim :] - mu @ U.T - v @ chain.skip.T
    square = np.sum(left**2, axis=1) + np.sum(U**2 * variance)
    s = _double(chain.s)
    rate = unit_rates(mu, np.log(variance) + 0 * mu, spec.prior_variance).sum(axis=1)
    paid = gaussian_distortion(torch.from_numpy(square), d, s).numpy()
    return np.asarray(paid + spec.beta * rate)
