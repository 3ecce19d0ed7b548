"""Observed thresholds: fixed-information control.

Each member of a stack holds the information I of one level at a set-point and lets the factor on
all betas adapt (`linvae.train.kl_weight`). In a linear model of one level log beta is an affine
function of I, so the line through the measured pairs (I, log beta) meets I = 0 at the threshold.
For a plain VAE I equals the KL and the slope is -2 per nat: fixed-KL control. In a hierarchy the
function bends where another level collapses: a line through set-points beyond the bend misses, by
an amount that theory knows. A network has no such law; there the line is a locator.

The estimate uses no prediction: every run starts at factor 1, with one latent unit per level. A
model of one level, and one that is bracketed, gets one run more, with set-point 0: it collapses,
and is what the others are held against (`linvae.metrics.evidence`). On demand two branches follow,
from the networks trained here (`linvae.metrics.bracket`), and the control runs once more with twice
the steps: a threshold that moves by more than a per cent has not settled, nor has a run whose log
beta moves by that much over its last sixth. Seeds of a linear model of one level that drift, or
whose slope is off the law, are trained again in any case, with `LONGER` times the steps: there the
slope is known whatever the data are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from linvae.comparison import Estimate
from linvae.metrics.bracket import Bracket, bracket_threshold
from linvae.metrics.evidence import evidence, needs_collapsed
from linvae.metrics.local_threshold import has_local
from linvae.models import Architecture
from linvae.spec import ARVAESpec, LinearSpec
from linvae.train import (
    CellStore,
    InformationControl,
    TrainConfig,
    Trained,
    TrainingData,
    train_cells,
)

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
SLOPES = {"learned": -2.0, "fixed": -4.0}  # of log beta per nat, by encoder variance
SLOPE_ROOM = 0.1  # per nat; the line's end is 0.175 nats from its middle: 1.75 % of the threshold
LONGER = 4  # times the steps of a seed that has not settled; twice left one in 40 spectra 4 % off


@dataclass(frozen=True, eq=False)
class ThresholdEstimate:
    """Threshold of one level, one entry per seed; `information` and `factors` (seeds, points).

    `critical_factors` multiplies all betas of the spec; NaN where fewer than four runs of a seed
    reached their set-point (`converged`). `slopes`: of log factor against nats.
    `fit_errors`: standard error of log critical factor from the scatter about the line. `drifts`:
    change of log factor over the last sixth of each run. `trained_longer`: seeds that had not
    settled and were trained again for `LONGER` times the steps: the numbers are of those runs.
    `doubled_factors`: critical factors after twice the steps of `config`, NaN unless asked for.
    Evidence beside the line, NaN where it is not defined (`linvae.metrics.evidence`):
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
    trained_longer: npt.NDArray[np.bool_]
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
        if not np.isnan(self.certified_factors).all():
            found.append(self._certificate_estimate())
        if not np.isnan(self.local_factors).all():
            found.append(self._local_estimate())
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
            note=_control_note(self),
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
    settle: bool = True,
    progress: Callable[[int], None] | None = None,
    store: CellStore | None = None,
) -> ThresholdEstimate:
    """Train len(seeds) x len(set_points) members at once and read the threshold of `level`.

    `bracket` trains two branches from them; `check_convergence` trains them again with twice the
    steps; `settle` trains unsettled seeds of linear models again, for longer; `progress` tells of
    the first control runs alone. With a `store` control runs that were stopped
    go on, and finished members are not trained again. Raises ValueError for a level that is not
    there, and with `bracket` for a learned decoder variance.
    """
    if not 1 <= level <= len(spec.latent_dims):
        raise ValueError(
            f"level={level} must be between 1 and {len(spec.latent_dims)}, the levels of {spec}"
        )
    config = config or TrainConfig(batch_size=CONTROL_BATCH_SIZE)
    network, conditional = Architecture.of(architecture), data.condition is not None
    study = _Study(spec, data, network, level, tuple(set_points), store)
    collapsed = bracket or needs_collapsed(spec, network, conditional, level)
    trained, lines = study.train(seeds, config, progress, collapsed)
    runs, seconds = trained.runs, trained.result.seconds
    off = lines.off(_law(study) if settle else np.nan)
    if off.any():
        again = [seed for seed, is_off in zip(seeds, off, strict=True) if is_off]
        longer, of_these = study.train(again, _times(LONGER, config))
        lines = lines.with_rows(off, of_these)
        runs, seconds = runs + longer.runs, seconds + longer.result.seconds
    ratios, point = evidence(trained.model, data, collapsed=-1, level=level)
    branches = None
    if bracket:
        observed = [*lines.critical, *ratios.best()[0], *point.thresholds]
        if not np.isfinite(observed).any():  # too short for any of them: where the control ended
            observed = [*lines.factors.ravel()]
        branches = bracket_threshold(trained.model, data, config, level=level, observed=observed)
        ratios = ratios.and_those_of(branches.ratios)
    doubled = np.full(len(seeds), np.nan)
    if check_convergence:
        doubled = study.train(seeds, _times(2, config))[1].critical
    certified, certified_errors = ratios.best()
    return ThresholdEstimate(
        level=level,
        seeds=tuple(seeds),
        information=lines.information,
        factors=lines.factors,
        converged=lines.converged,
        critical_factors=lines.critical,
        slopes=lines.slopes,
        fit_errors=lines.errors,
        drifts=lines.drifts,
        trained_longer=off,
        doubled_factors=doubled,
        certified_factors=certified,
        certified_errors=certified_errors,
        local_factors=point.thresholds,
        residual_factors=point.residuals,
        bracket=branches,
        conditional=conditional or network.decoder == "pixelcnn",
        runs=runs,
        seconds=seconds,
    )


@dataclass(frozen=True, eq=False)
class _Lines:
    """Control runs, (seeds, points), and the line through those of every seed, (seeds,)."""

    information: Array
    factors: Array
    drifts: Array
    converged: npt.NDArray[np.bool_]
    critical: Array
    slopes: Array
    errors: Array

    def off(self, law: float) -> npt.NDArray[np.bool_]:
        """Seeds without a line, or with one that drifts or whose slope is not `law`; NaN: none."""
        if np.isnan(law):
            return np.zeros(len(self.slopes), dtype=bool)
        settled = np.all(np.abs(self.drifts) <= SETTLED, axis=1)
        return np.asarray(~(settled & (np.abs(self.slopes - law) <= SLOPE_ROOM)))

    def with_rows(self, seeds: npt.NDArray[np.bool_], other: _Lines) -> _Lines:
        """The marked seeds from `other`."""
        found = {name: values.copy() for name, values in vars(self).items()}
        for name, values in found.items():
            values[seeds] = getattr(other, name)
        return _Lines(**found)


@dataclass(frozen=True, eq=False)
class _Study:
    """What all control runs of one threshold share."""

    spec: LinearSpec
    data: TrainingData
    architecture: Architecture
    level: int
    set_points: tuple[float, ...]
    store: CellStore | None

    def train(
        self,
        seeds: Sequence[int],
        config: TrainConfig,
        progress: Callable[[int], None] | None = None,
        collapsed: bool = False,
    ) -> tuple[Trained, _Lines]:
        """Control runs of some seeds; with `collapsed` one more for each, the last point."""
        trained = train_cells(
            self.spec,
            self.data,
            points=[*self.set_points, *[0.0] * collapsed],
            kl_weight=self._control,
            config=config,
            architecture=self.architecture,
            seeds=seeds,
            store=self.store,
            progress=progress,
        )
        return trained, self._lines(trained)

    def _control(self, points: Sequence[float], n_seeds: int) -> InformationControl:
        device = self.data.target.device
        return InformationControl(points, self.spec.betas, n_seeds, self.level - 1, device)

    def _lines(self, trained: Trained) -> _Lines:
        information, factors, drifts = (
            np.asarray(trained.found[name].cpu(), dtype=np.float64)[:, : len(self.set_points)]
            for name in ("information", "factor", "drift")
        )
        converged = _converged(information, np.asarray(self.set_points))
        lines = [_fit(*row) for row in zip(information, factors, converged, strict=True)]
        return _Lines(information, factors, drifts, converged, *np.array(lines).T)


def _law(study: _Study) -> float:
    """Slope of log beta per nat where it is the same for all data; NaN elsewhere."""
    spec = study.spec
    general = isinstance(spec, ARVAESpec) or getattr(spec, "encoder_sees", "both") != "both"
    if general or study.architecture.name != "linear" or not has_local(spec, study.architecture):
        return np.nan
    return SLOPES["learned" if spec.encoder_variances[0] is None else "fixed"]


def _times(factor: int, config: TrainConfig) -> TrainConfig:
    return replace(config, steps=factor * config.steps)


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


def _control_note(estimate: ThresholdEstimate) -> str:
    """What says that the runs have not settled, and what more steps changed."""
    drifts, notes = estimate.drifts, []
    moving = int(np.sum(np.abs(drifts) > SETTLED))
    if moving:
        largest = float(np.nanmax(np.abs(drifts)))
        notes.append(f"log beta of {moving} of {drifts.size} runs drifts, by up to {largest:.1%}")
    longer = int(np.sum(estimate.trained_longer))
    if longer:
        notes.append(f"{longer} of {len(drifts)} seeds trained for {LONGER} times the steps")
    doubled = estimate.doubled_factors / estimate.critical_factors
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
