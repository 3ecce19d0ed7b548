"""Observed thresholds: fixed-information control.

Each member of a stack holds the information I of one level at a set-point and lets the factor on
all betas adapt (`linvae.train.kl_weight`). In a linear model of one level log beta is an affine
function of I, so the line through the measured pairs (I, log beta) meets I = 0 at the threshold.
For a plain VAE I equals the KL and the slope is -2 per nat: fixed-KL control. In a hierarchy the
function bends where another level collapses: a line through set-points beyond the bend misses, by
an amount that theory knows. A network has no such law; there the line is a locator.

The estimate uses no prediction: every run starts at factor 1, with one latent unit per level. A
model of one level gets one run more, with set-point 0: it collapses, and is what the others are
held against (`linvae.metrics.evidence`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linvae.metrics.evidence import evidence, has_evidence
from linvae.models import Architecture, build_model
from linvae.spec import LinearSpec
from linvae.train import InformationControl, TrainConfig, TrainingData, train

__all__ = [
    "CONTROL_BATCH_SIZE",
    "SET_POINTS",
    "ThresholdEstimate",
    "estimate_threshold",
    "fit_threshold",
]

Array = npt.NDArray[np.float64]
SET_POINTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # nats
CONTROL_BATCH_SIZE = 128  # of 32: seeds scatter by 1 %; of 128: by 0.2 % (Omniglot, linear)
MIN_POINTS = 4  # a line needs two; four show whether it is one


@dataclass(frozen=True, eq=False)
class ThresholdEstimate:
    """Threshold of one level, one entry per seed; `information` and `factors` (seeds, points).

    `critical_factors` multiplies all betas of the spec; NaN where fewer than four runs of a seed
    reached their set-point (`converged`). `slopes`: of log factor against nats.
    Evidence beside the line, NaN for hierarchies and learned decoder variances:
    `certified_factors`, below which a trained member beats collapse, less two of their Monte-Carlo
    `certified_errors`; `local_factors`, below which the collapsed network is unstable.
    """

    level: int
    seeds: tuple[int, ...]
    information: Array
    factors: Array
    converged: npt.NDArray[np.bool_]
    critical_factors: Array
    slopes: Array
    certified_factors: Array
    certified_errors: Array
    local_factors: Array
    seconds: float


def estimate_threshold(
    spec: LinearSpec,
    data: TrainingData,
    *,
    architecture: str | Architecture = "linear",
    level: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    set_points: Sequence[float] = SET_POINTS,
    config: TrainConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> ThresholdEstimate:
    """Train len(seeds) x len(set_points) members at once and read the threshold of `level`."""
    if not 1 <= level <= len(spec.latent_dims):
        raise ValueError(
            f"level={level} must be between 1 and {len(spec.latent_dims)}, the levels of {spec}"
        )
    config = config or TrainConfig(batch_size=CONTROL_BATCH_SIZE)
    n_points, targets = len(set_points), [*set_points, *[0.0] * has_evidence(spec)]
    model = build_model(
        spec,
        data.target,
        data.condition,
        architecture=architecture,
        image=data.image,
        seeds=seeds,
        n_points=len(targets),
    )
    control = InformationControl(targets, spec.betas, len(seeds), level - 1, data.target.device)
    result = train(model, data, control, config, progress)
    information, factors = (
        np.asarray(v.cpu(), dtype=np.float64)[:, :n_points] for v in control.result()
    )
    converged = _converged(information, np.asarray(set_points))
    fits = [fit_threshold(*row) for row in zip(information, factors, converged, strict=True)]
    critical, slopes = np.array(fits).T
    return ThresholdEstimate(
        level, tuple(seeds), information, factors, converged, critical, slopes,
        *evidence(model, data, collapsed=-1), result.seconds,
    )  # fmt: skip


def fit_threshold(
    information: Array, factors: Array, converged: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """exp(intercept) and slope of log(factors) against information, over the converged runs."""
    if converged.sum() < MIN_POINTS:
        return np.nan, np.nan
    slope, intercept = np.polyfit(information[converged], np.log(factors[converged]), 1)
    return float(np.exp(intercept)), float(slope)


def _converged(information: Array, set_points: Array) -> npt.NDArray[np.bool_]:
    """Within a tenth of the set-point, plus the noise floor of idle units (0.02 nats)."""
    off = np.abs(information - set_points)
    return np.asarray(off <= 0.02 + 0.1 * set_points)
