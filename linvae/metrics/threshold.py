"""Observed thresholds: fixed-information control.

Each member of a stack holds the information I of one level at a set-point and lets the factor on
all betas adapt (`linvae.train.kl_weight`). In a linear model of one level log beta is an affine
function of I, so the line through the measured pairs (I, log beta) meets I = 0 at the threshold.
For a plain VAE I equals the KL and the slope is -2 per nat: fixed-KL control. In a hierarchy the
function bends where another level collapses: a line through set-points beyond the bend misses, by
an amount that theory knows. A network has no such law; there the line is a locator.

The estimate uses no prediction: every run starts at factor 1, with one latent unit per level. A
model of one level gets one run more, with set-point 0: it collapses, and is what the others are
held against (`linvae.metrics.evidence`). On demand two branches follow, from the networks trained
here (`linvae.metrics.bracket`), and the control runs once more with twice the steps: a threshold
that moves by more than a per cent has not settled, nor has a run whose log beta moves by that much
over its last sixth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from linvae.comparison import Estimate
from linvae.metrics.bracket import Bracket, bracket_threshold
from linvae.metrics.evidence import evidence, has_evidence
from linvae.models import Architecture
from linvae.spec import LinearSpec
from linvae.train import CellStore, InformationControl, TrainConfig, TrainingData, train_cells

__all__ = [
    "CONTROL_BATCH_SIZE",
    "SETTLED",
    "SET_POINTS",
    "ThresholdEstimate",
    "estimate_threshold",
    "fit_threshold",
]

Array = npt.NDArray[np.float64]
SET_POINTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # nats
CONTROL_BATCH_SIZE = 128  # of 32: seeds scatter by 1 %; of 128: by 0.2 % (Omniglot, linear)
SETTLED = 0.01  # change of log beta by which a run may drift, or twice the steps may move it
MIN_POINTS = 4  # a line needs two; four show whether it is one


@dataclass(frozen=True, eq=False)
class ThresholdEstimate:
    """Threshold of one level, one entry per seed; `information` and `factors` (seeds, points).

    `critical_factors` multiplies all betas of the spec; NaN where fewer than four runs of a seed
    reached their set-point (`converged`). `slopes`: of log factor against nats.
    `fit_errors`: standard error of log critical factor from the scatter about the line. `drifts`:
    change of log factor over the last sixth of each run. `doubled_factors`: critical factors after
    twice the steps, NaN unless asked for.
    Evidence beside the line, NaN for hierarchies and learned decoder variances:
    `certified_factors`, below which a trained member (of the branches too) beats collapse, less two
    of their `certified_errors`; `local_factors`, below which the collapsed network is unstable;
    `residual_factors`, that of the residual it leaves. `conditional`: D_0 was itself trained.
    `runs`: networks trained for the line. `seconds`: of all that.
    """

    level: int
    seeds: tuple[int, ...]
    information: Array
    factors: Array
    converged: npt.NDArray[np.bool_]
    critical_factors: Array
    slopes: Array
    fit_errors: Array
    drifts: Array
    doubled_factors: Array
    certified_factors: Array
    certified_errors: Array
    local_factors: Array
    residual_factors: Array
    bracket: Bracket | None
    conditional: bool
    runs: int
    seconds: float

    def estimates(self) -> list[Estimate]:
        """The threshold by every method that was used, in factors on all betas."""
        found = [self._control_estimate()]
        if self.bracket is not None:
            found.append(_bracket_estimate(self.bracket))
        if not np.isnan(self.local_factors).all():
            found += [self._certificate_estimate(), self._local_estimate()]
        return found

    def _control_estimate(self) -> Estimate:
        values, errors = self.critical_factors, 2 * self.fit_errors
        return Estimate.of_seeds(
            "control",
            values,
            low=_least(values * np.exp(-errors)),
            high=_most(values * np.exp(errors)),
            runs=self.runs,
            seconds=self.seconds,
            note=_control_note(self.drifts, self.doubled_factors / values),
        )

    def _certificate_estimate(self) -> Estimate:
        branches, known = self.bracket, ~np.isnan(self.certified_factors)
        return Estimate.of_seeds(
            "certificate",
            self.certified_factors,
            low=float(np.max(self.certified_factors, initial=-np.inf, where=known)),
            kind="empirical" if self.conditional else "certain",
            runs=self.runs + (branches.runs if branches else 0),
            seconds=self.seconds + (branches.seconds if branches else 0.0),
            note="against the collapsed network of the same training" if self.conditional else "",
        )

    def _local_estimate(self) -> Estimate:
        low, high = _least(self.local_factors), _most(self.local_factors)
        return Estimate.of_seeds(
            "local", self.local_factors, low=low, high=high, runs=len(self.seeds),
            seconds=self.seconds,
        )  # fmt: skip


def estimate_threshold(
    spec: LinearSpec,
    data: TrainingData,
    *,
    architecture: str | Architecture = "linear",
    level: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    set_points: Sequence[float] = SET_POINTS,
    config: TrainConfig | None = None,
    bracket: bool = False,
    check_convergence: bool = False,
    progress: Callable[[int], None] | None = None,
    store: CellStore | None = None,
) -> ThresholdEstimate:
    """Train len(seeds) x len(set_points) members at once and read the threshold of `level`.

    `bracket` trains two branches from them; `check_convergence` trains them again with twice the
    steps; `progress` tells of the control runs alone. With a `store` control runs that were stopped
    go on, and finished members are not trained again. Raises ValueError for a level that is not
    there, and with `bracket` for a learned decoder variance.
    """
    if not 1 <= level <= len(spec.latent_dims):
        raise ValueError(
            f"level={level} must be between 1 and {len(spec.latent_dims)}, the levels of {spec}"
        )
    config = config or TrainConfig(batch_size=CONTROL_BATCH_SIZE)
    n_points, targets = len(set_points), [*set_points, *[0.0] * (bracket or has_evidence(spec))]

    def control(points: Sequence[float], n_seeds: int) -> InformationControl:
        return InformationControl(points, spec.betas, n_seeds, level - 1, data.target.device)

    trained = train_cells(
        spec,
        data,
        points=targets,
        kl_weight=control,
        config=config,
        architecture=architecture,
        seeds=seeds,
        store=store,
        progress=progress,
    )
    information, factors, drifts = (
        np.asarray(trained.found[name].cpu(), dtype=np.float64)[:, :n_points]
        for name in ("information", "factor", "drift")
    )
    converged = _converged(information, np.asarray(set_points))
    lines = [_fit(*row) for row in zip(information, factors, converged, strict=True)]
    critical, slopes, errors = np.array(lines).T
    ratios, point = evidence(trained.model, data, collapsed=-1)
    branches = None
    if bracket:
        observed = [*critical, *ratios.best()[0], *point.thresholds]
        if not np.isfinite(observed).any():  # too short for any of them: where the control ended
            observed = [*factors.ravel()]
        branches = bracket_threshold(trained.model, data, config, level=level, observed=observed)
        ratios = ratios.and_those_of(branches.ratios)
    doubled = np.full(len(seeds), np.nan)
    if check_convergence:
        doubled = estimate_threshold(
            spec, data, architecture=architecture, level=level, seeds=seeds, set_points=set_points,
            config=replace(config, steps=2 * config.steps), store=store,
        ).critical_factors  # fmt: skip
    certified, certified_errors = ratios.best()
    return ThresholdEstimate(
        level=level,
        seeds=tuple(seeds),
        information=information,
        factors=factors,
        converged=converged,
        critical_factors=critical,
        slopes=slopes,
        fit_errors=errors,
        drifts=drifts,
        doubled_factors=doubled,
        certified_factors=certified,
        certified_errors=certified_errors,
        local_factors=point.thresholds,
        residual_factors=point.residuals,
        bracket=branches,
        conditional=data.condition is not None,
        runs=len(seeds) * len(targets),
        seconds=trained.result.seconds,
    )


def _bracket_estimate(bracket: Bracket) -> Estimate:
    lows, highs = bracket.lows, bracket.highs
    drifting = int(np.sum(bracket.low_drifting | bracket.high_drifting))
    note = f"still drifting in {drifting} of {len(lows)} seeds" if drifting else ""
    return Estimate.of_seeds(
        "bracket",
        np.sqrt(lows * highs),
        low=_least(lows),
        high=_most(highs),
        runs=bracket.runs,
        seconds=bracket.seconds,
        note=note,
    )


def _control_note(drifts: Array, doubled: Array) -> str:
    """What says that the runs have not settled, and what twice the steps changed."""
    notes = []
    moving = int(np.sum(np.abs(drifts) > SETTLED))
    if moving:
        largest = float(np.nanmax(np.abs(drifts)))
        notes.append(f"log beta of {moving} of {drifts.size} runs drifts, by up to {largest:.1%}")
    if np.isfinite(doubled).any():
        notes.append(f"twice the steps: {np.nanmean(doubled) - 1:+.1%}")
    return "; ".join(notes)


def _least(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.min()) if len(known) else -np.inf


def _most(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else np.inf


def fit_threshold(
    information: Array, factors: Array, converged: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """exp(intercept) and slope of log(factors) against information, over the converged runs."""
    return _fit(information, factors, converged)[:2]


def _fit(
    information: Array, factors: Array, converged: npt.NDArray[np.bool_]
) -> tuple[float, float, float]:
    """As `fit_threshold`, and the standard error of the intercept."""
    if converged.sum() < MIN_POINTS:
        return np.nan, np.nan, np.nan
    x, y = information[converged], np.log(factors[converged])
    (slope, intercept), covariance = np.polyfit(x, y, 1, cov=True)
    return float(np.exp(intercept)), float(slope), float(np.sqrt(covariance[1, 1]))


def _converged(information: Array, set_points: Array) -> npt.NDArray[np.bool_]:
    """Within a tenth of the set-point, plus the noise floor of idle units (0.02 nats)."""
    off = np.abs(information - set_points)
    return np.asarray(off <= 0.02 + 0.1 * set_points)
