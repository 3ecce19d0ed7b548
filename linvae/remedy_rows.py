"""What linear theory predicts of a sweep with a remedy, in place of its plain optimum.

| remedy                | predicted                          | file of linvae.theory |
|-----------------------|------------------------------------|-----------------------|
| free bits             | rates, distortion                  | free_bits             |
| latent reconstruction | rates, active units, distortion    | mixed_units           |
| inverse-lipschitz     | the same                           | inverse_lipschitz     |
| all others            | the plain optimum, which they keep | vae and its like      |

Of one level with a learned encoder variance and a fixed decoder variance; of the latent
reconstruction a plain VAE, and a routing whose loss is minimised by something; of two remedies at
once, and of a weight that follows the KL, nothing.
Where nothing is known the prediction is NaN, not that of the plain model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from linvae.comparison import Row
from linvae.models import Architecture
from linvae.spec import CVAESpec, LatentReconstruction, LinearSpec, VAESpec
from linvae.theory import Solution
from linvae.theory.free_bits import free_bits_optimum
from linvae.theory.inverse_lipschitz import inverse_lipschitz_optimum
from linvae.theory.mixed_units import reconstruction_optimum
from linvae.train import Adaptive, Remedy

__all__ = ["Predict", "predictor", "with_predictions"]

Values = Mapping[tuple[str, int], float]  # by quantity and index
Predict = Callable[[LinearSpec, Solution], Values]
ACTIVE = 0.01  # variance of the posterior mean, latent units^2, above which a unit is active


def predictor(remedy: Remedy, network: Architecture) -> Predict | None:
    """What predicts a sweep of this remedy on this network; None: the plain optimum does."""
    loss, bound = remedy.latent_reconstruction, network.inverse_lipschitz
    moving = isinstance(remedy.warmup, Adaptive)  # the weight is never all of gamma
    if (bound is not None and (remedy.floors or loss is not None)) or moving:
        return lambda spec, solution: {}
    if remedy.floors:
        return lambda spec, solution: _free_bits(remedy.floors, spec, solution)
    if loss is not None:
        return lambda spec, solution: _reconstruction(loss, spec, solution)
    if bound is not None:
        return lambda spec, solution: _inverse_lipschitz(bound, spec, solution)
    return None


def with_predictions(rows: Iterator[Row], values: Values) -> Iterator[Row]:
    """Rows with these predictions, NaN where there is none; what is counted stays."""
    for row in rows:
        known = values.get((row.quantity, row.index), math.nan)
        yield row if row.quantity == "blown_up" else replace(row, predicted=known)


def _free_bits(floors: Mapping[str, float], spec: LinearSpec, solution: Solution) -> Values:
    """Of one level without a fixed encoder variance."""
    s = _decoder_variance(spec)
    if not isinstance(spec, VAESpec | CVAESpec) or s is None:
        return {}
    ((per, nats),) = floors.items()
    best, plain = (
        free_bits_optimum(
            solution.mode_variances, latent_dim=spec.latent_dim, floor_nats=floor,
            beta=spec.beta, decoder_variance=s, per="unit" if per == "unit" else "total",
        )
        for floor in (nats, 0.0)
    )  # fmt: skip
    less = float(np.sum(plain.squared_errors - best.squared_errors)) / (2 * s)
    return _rates(best.unit_rates_nats) | {("distortion_nats", 0): solution.distortion - less}


def _reconstruction(loss: LatentReconstruction, spec: LinearSpec, solution: Solution) -> Values:
    """Of a plain VAE and a loss that is minimised."""
    s = _decoder_variance(spec)
    drawn = loss.source == "posterior" and loss.detach == "none" and loss.encoder_share == 1
    minimised = drawn or (loss.source == "prior" and loss.encoder_share == 1)
    if type(spec) is not VAESpec or s is None or not minimised:
        return {}
    best = reconstruction_optimum(
        solution.mode_variances, loss, latent_dim=spec.latent_dim, beta=spec.beta,
        decoder_variance=s, prior_variance=spec.prior_variance,
    )  # fmt: skip
    return _rates(best.rates_nats) | {
        ("active_units", 0): best.active_units(ACTIVE),
        ("distortion_nats", 0): best.distortion,
    }


def _inverse_lipschitz(bound: float, spec: LinearSpec, solution: Solution) -> Values:
    """Of one level, as many units as modes at most."""
    s = _decoder_variance(spec)
    one_level = isinstance(spec, VAESpec | CVAESpec)
    if not one_level or s is None or spec.latent_dims[0] > len(solution.mode_variances):
        return {}
    best = inverse_lipschitz_optimum(
        solution.mode_variances, latent_dim=spec.latent_dims[0], inverse_lipschitz=bound,
        beta=spec.betas[0], decoder_variance=s, prior_variance=spec.prior_variances[0],
    )  # fmt: skip
    error = float(best.squared_errors.sum())
    constant = len(solution.mode_variances) / 2 * math.log(2 * math.pi * s)
    return _rates(best.rates_nats) | {
        ("active_units", 0): float(np.sum(best.mean_variances > ACTIVE)),
        ("distortion_nats", 0): constant + error / (2 * s),
    }


def _decoder_variance(spec: LinearSpec) -> float | None:
    """s where it and the encoder variance are as these theorems have them."""
    s = spec.decoder_variance
    return None if s == "learned" or spec.encoder_variances != (None,) else float(s)


def _rates(rates: npt.NDArray[np.float64]) -> dict[tuple[str, int], float]:
    ordered = np.sort(rates)[::-1]
    units = {("unit_rate_nats", i): float(rate) for i, rate in enumerate(ordered, start=1)}
    return units | {("rate_nats", 0): float(rates.sum())}
