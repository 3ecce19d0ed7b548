"""Observed thresholds: fixed-information control.

Each member of a stack holds the information I of one level at a set-point and lets the factor on
all betas adapt (`linvae.train.kl_weight`). In a linear model of one level log beta is an affine
function of I, so the line through the measured pairs (I, log beta) meets I = 0 at the threshold.
For a plain VAE I equals the KL and the slope is -2 per nat: fixed-KL control. In a hierarchy the
function bends where another level collapses: a line through set-points beyond the bend misses, by
an amount that theory knows. A network has no such law; there the line is a locator.

The estimate uses no prediction: every run starts at factor 1, with one latent unit per level. Where
evidence or a bracket needs it, there is one run more, with set-point 0: it collapses, and is what
the others are held against (`linvae.metrics.evidence`). On demand two branches follow, from the
networks trained here (`linvae.metrics.bracket`), and the control runs once more with twice the
steps: a threshold that moves by more than a per cent has not settled, nor has a run whose log beta
moves by that much over its last sixth. Seeds of linear models that have not settled are trained
again in any case (`linvae.metrics.control`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linvae.comparison import Estimate
from linvae.metrics.bracket import Bracket, bracket_threshold
from linvae.metrics.control import (
    CONTROL_BATCH_SIZE,
    LONGER,
    SET_POINTS,
    SETTLED,
    ControlStudy,
    Lines,
)
from linvae.metrics.evidence import ExchangeRatios, evidence, needs_collapsed
from linvae.metrics.local_threshold import CollapsedPoint
from linvae.models import Architecture
from linvae.spec import LinearSpec
from linvae.train import CellStore, TrainConfig, TrainingData

__all__ = ["ThresholdEstimate", "estimate_threshold"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ThresholdEstimate:
    """Threshold of one level, one entry per seed; `information` and `factors` (seeds, points).

    `critical_factors` multiplies all betas of the spec; NaN where fewer than four runs of a seed
    reached their set-point (`converged`). `slopes`: of log factor against nats.
    `fit_errors`: standard error of log critical factor from the scatter about the line. `drifts`:
    change of log factor over the last sixth of each run; `end_drifts`: of log critical factor.
    `trained_longer`: seeds that had not settled and were trained again for `LONGER` times the
    steps: all numbers above are of those runs. `doubled_factors`: critical factors after twice the
    steps, NaN unless asked for.
    Evidence beside the line, of the first control runs and the branches, NaN where it is not
    defined (`linvae.metrics.evidence`): `certified_factors`, below which a trained member beats
    collapse, less its error; `local_factors`, below which the collapsed network is unstable;
    `residual_factors`, that of the residual it leaves. `conditional`: D_0 was itself trained.
    `runs`: networks trained but for the branches, collapsed and repeated ones among them.
    `seconds`: of those.
    """

    level: int
    seeds: tuple[int, ...]
    information: Array
    factors: Array
    converged: npt.NDArray[np.bool_]
    critical_factors: Array
    slopes: Array
    fit_errors: Array
    end_drifts: Array
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
    steps; `settle` trains seeds of linear models that have not settled again, for longer;
    `progress` tells of the first control runs alone. With a `store` runs that were stopped go on,
    and finished members are not trained again. Raises ValueError for a level that is not there, and
    with `bracket` for a learned decoder variance.
    """
    if not 1 <= level <= len(spec.latent_dims):
        raise ValueError(
            f"level={level} must be between 1 and {len(spec.latent_dims)}, the levels of {spec}"
        )
    config = config or TrainConfig(batch_size=CONTROL_BATCH_SIZE)
    network, conditional = Architecture.of(architecture), data.condition is not None
    study = ControlStudy(spec, data, network, level, tuple(set_points), store)
    collapsed = bracket or needs_collapsed(spec, network, conditional, level)
    control = study.run(seeds, config, collapsed=collapsed, settle=settle, progress=progress)
    ratios, point = evidence(control.first.model, data, collapsed=-1, level=level)
    branches = None
    if bracket:
        observed = _observed(control.lines, ratios, point)
        model = control.first.model
        branches = bracket_threshold(
            model, data, config, level=level, observed=observed, store=store
        )
        ratios = ratios.and_those_of(branches.ratios)
    doubled, more_runs, more_seconds = np.full(len(seeds), np.nan), 0, 0.0
    if check_convergence:
        doubled, more_runs, more_seconds = study.doubled(control, config)
    certified, certified_errors = ratios.best()
    return ThresholdEstimate(
        level=level,
        seeds=tuple(seeds),
        **vars(control.lines),
        trained_longer=control.longer,
        doubled_factors=doubled,
        certified_factors=certified,
        certified_errors=certified_errors,
        local_factors=point.thresholds,
        residual_factors=point.residuals,
        bracket=branches,
        conditional=conditional or network.decoder == "pixelcnn",
        runs=control.runs + more_runs,
        seconds=control.seconds + more_seconds,
    )


def _observed(lines: Lines, ratios: ExchangeRatios, point: CollapsedPoint) -> list[float]:
    """What places the bracket: every finite estimate; without any, where the control ended."""
    found = [*lines.critical_factors, *ratios.best()[0], *point.thresholds]
    return found if np.isfinite(found).any() else [*lines.factors.ravel()]


def _bracket_estimate(bracket: Bracket) -> Estimate:
    lows, highs = bracket.lows, bracket.highs
    drifting = int(np.sum(bracket.low_drifting | bracket.high_drifting))
    note = f"still drifting in {drifting} of {len(lows)} seeds" if drifting else ""
    return Estimate.of_seeds(
        "bracket",
        np.sqrt(lows * highs),
        low=_least(np.where(np.isnan(lows), -np.inf, lows)),
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
