"""Control runs of one threshold: trained, each seed's line, and the seeds that go on for longer.

Each member holds the information I of one level at a set-point and lets the factor on all betas
adapt (`linvae.train.kl_weight`). A seed's line is the least-squares fit of log factor against I
over the runs that reached their set-point; its end at I = 0 is the threshold.

A seed of a linear model that has not settled is trained again, once, with `LONGER` times the steps.
It has a line whose slope, where theory knows it for all data, is at most `SLOPE_ROOM` off: -2 per
nat with a learned encoder variance and -4 with a fixed one, of one unit and while no other level is
awake. In a plain VAE of one unit no single run drifts by more than `SETTLED`; elsewhere, where beta
is noisier, the line's end does not by more than `END_SETTLED`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

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
    "LONGER",
    "SETTLED",
    "SET_POINTS",
    "Control",
    "ControlStudy",
    "Lines",
    "fit_threshold",
    "room_below",
]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
SET_POINTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # nats
CONTROL_BATCH_SIZE = 128  # of 32: seeds scatter by 1 %; of 128: by 0.2 % (Omniglot, linear)
SETTLED = 0.01  # change of log beta by which a run may drift, or twice the steps may move it
END_SETTLED = 0.02  # of a line's end, which the noise of beta alone moves by 1 % (upper levels)
SPARE = 1.0  # nats
MIN_POINTS = 4  # a line needs two; four show whether it is one
SLOPES = {"learned": -2.0, "fixed": -4.0}  # of log beta per nat, by encoder variance
SLOPE_ROOM = 0.1  # per nat; the line's end is 0.175 nats from its middle: 1.75 % of the threshold
LONGER = 4  # times the steps; twice left one seed of spectrum 9002 (SGD) 4 % off


@dataclass(frozen=True, eq=False)
class Lines:
    """Runs, (seeds, points), and the line through those of every seed, (seeds,).

    The fields are those of `linvae.metrics.threshold.ThresholdEstimate`.
    """

    information: Array
    factors: Array
    drifts: Array
    converged: Flags
    critical_factors: Array
    slopes: Array
    fit_errors: Array
    end_drifts: Array

    def unsettled(self, slope: float, *, plain: bool) -> Flags:
        """Seeds whose line is not there, drifts or has not the known `slope`; NaN: not known."""
        still = np.abs(self.end_drifts) <= END_SETTLED
        if plain:
            still = np.all(np.abs(self.drifts) <= SETTLED, axis=1)
        straight = np.isnan(slope) | (np.abs(self.slopes - slope) <= SLOPE_ROOM)
        return np.asarray(~(still & straight))

    def where(self, seeds: Flags, other: Lines) -> Lines:
        """The marked seeds from `other`."""
        found = {name: values.copy() for name, values in vars(self).items()}
        for name, values in found.items():
            values[seeds] = getattr(other, name)
        return Lines(**found)


@dataclass(frozen=True, eq=False)
class Control:
    """The first stack, all lines, which seeds were trained again for longer, and what it took."""

    first: Trained
    lines: Lines
    longer: Flags
    runs: int
    seconds: float


@dataclass(frozen=True, eq=False)
class ControlStudy:
    """What all control runs of one threshold share; `level` from 1."""

    spec: LinearSpec
    data: TrainingData
    architecture: Architecture
    level: int
    set_points: tuple[float, ...]
    store: CellStore | None

    def run(
        self,
        seeds: Sequence[int],
        config: TrainConfig,
        *,
        collapsed: bool,
        settle: bool,
        progress: Callable[[int], None] | None,
    ) -> Control:
        """All seeds; with `collapsed` one run more for each, the last point, with set-point 0."""
        first, lines = self._train(seeds, config, collapsed, progress)
        longer = np.zeros(len(seeds), dtype=bool)
        if settle and self.architecture.name == "linear":
            longer = lines.unsettled(self._known_slope(), plain=self._plain)
        runs, seconds = first.runs, first.result.seconds
        if longer.any():
            again, of_these = self._train(_some(seeds, longer), _times(LONGER, config))
            lines = lines.where(longer, of_these)
            runs, seconds = runs + again.runs, seconds + again.result.seconds
        return Control(first, lines, longer, runs, seconds)

    def doubled(self, control: Control, config: TrainConfig) -> tuple[Array, int, float]:
        """Critical factors after twice the steps that each seed had; runs and seconds it took."""
        seeds, found = control.first.model.seeds, np.full(len(control.longer), np.nan)
        runs, seconds = 0, 0.0
        for marked, factor in ((~control.longer, 2), (control.longer, 2 * LONGER)):
            if marked.any():
                trained, lines = self._train(_some(seeds, marked), _times(factor, config))
                found[marked] = lines.critical_factors
                runs, seconds = runs + trained.runs, seconds + trained.result.seconds
        return found, runs, seconds

    def _train(
        self,
        seeds: Sequence[int],
        config: TrainConfig,
        collapsed: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[Trained, Lines]:
        trained = train_cells(
            self.spec,
            self.data,
            points=[*self.set_points, *[0.0] * collapsed],
            kl_weight=self._weight,
            config=config,
            architecture=self.architecture,
            seeds=seeds,
            store=self.store,
            progress=progress,
        )
        return trained, self._lines(trained)

    def _weight(self, points: Sequence[float], n_seeds: int) -> InformationControl:
        device, level = self.data.target.device, self.level - 1
        room = room_below(self.spec, self.level)
        return InformationControl(points, self.spec.betas, n_seeds, level, device, room)

    def _lines(self, trained: Trained) -> Lines:
        information, factors, drifts = (
            np.asarray(trained.found[name].cpu(), dtype=np.float64)[:, : len(self.set_points)]
            for name in ("information", "factor", "drift")
        )
        converged = _converged(information, np.asarray(self.set_points))
        lines = [_fit(*row) for row in zip(information, factors, drifts, converged, strict=True)]
        return Lines(information, factors, drifts, converged, *np.array(lines).T)

    @property
    def _plain(self) -> bool:
        """True for one unit in the only level, its encoder and decoder as in a plain VAE."""
        sees = getattr(self.spec, "encoder_sees", "both")
        other = isinstance(self.spec, ARVAESpec) or sees != "both"
        return has_local(self.spec, self.architecture) and not other

    def _known_slope(self) -> float:
        """Of log beta per nat, where it is the same for all data; NaN for other linear models."""
        if not (self._plain or self._upper_level_sleeps()):
            return np.nan
        return SLOPES["learned" if self.spec.encoder_variances[0] is None else "fixed"]

    def _upper_level_sleeps(self) -> bool:
        """True for level 1 of two where no set-point is enough for level 2 to wake up."""
        spec = self.spec
        two = len(spec.latent_dims) == 2 and spec.latent_dims[0] == 1
        if self.level != 1 or not two or self.architecture.skip:
            return False
        return max(self.set_points) <= _wakes_at(spec, 2)


def room_below(spec: LinearSpec, level: int) -> float:
    """Nats that the level below `level`, from 1, may hold while it sleeps: `SPARE` over enough."""
    return SPARE + (_wakes_at(spec, level) if level > 1 else 0.0)


def _wakes_at(spec: LinearSpec, level: int) -> float:
    """Nats of the level below at which `level`, from 2, wakes up in a linear model.

    That is where the variance c = sigma_(l-1)^2 exp(2 I_(l-1)) of what it codes passes
    eta_(l-1)^2 a_l/beta_(l-1), whatever the data are, a_l = beta_l sigma_l^2/eta_l^2 or with a
    learned sigma_l^2 beta_l. With a learned sigma_(l-1)^2 both wake up at once.
    """
    if spec.encoder_variances[level - 2] is None:
        return 0.0
    below, own = (_idle_price(spec, at) for at in (level - 2, level - 1))
    return max(0.0, math.log(own / below) / 2)


def _idle_price(spec: LinearSpec, at: int) -> float:
    """a of a level, from 0; of its unit with the least variance."""
    fixed = spec.encoder_variances[at]
    rho = 1.0 if fixed is None else np.min(np.asarray(fixed)) / spec.prior_variances[at]
    return float(spec.betas[at] * rho)


def _some(seeds: Sequence[int], marked: Flags) -> list[int]:
    return [seed for seed, is_marked in zip(seeds, marked, strict=True) if is_marked]


def _times(factor: int, config: TrainConfig) -> TrainConfig:
    return replace(config, steps=factor * config.steps)


def fit_threshold(
    information: Array, factors: Array, converged: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """exp(intercept) and slope of log(factors) against information, over the converged runs."""
    return _fit(information, factors, np.zeros_like(factors), converged)[:2]


def _fit(
    information: Array, factors: Array, drifts: Array, converged: Flags
) -> tuple[float, float, float, float]:
    """As `fit_threshold`, standard error of the intercept, and what `drifts` add to it."""
    if converged.sum() < MIN_POINTS:
        return np.nan, np.nan, np.nan, np.nan
    x, y = information[converged], np.log(factors[converged])
    (slope, intercept), covariance = np.polyfit(x, y, 1, cov=True)
    drift = np.polyfit(x, drifts[converged], 1)[1]
    return float(np.exp(intercept)), float(slope), float(np.sqrt(covariance[1, 1])), float(drift)


def _converged(information: Array, set_points: Array) -> npt.NDArray[np.bool_]:
    """Within a tenth of the set-point, plus the noise floor of idle units (0.02 nats)."""
    off = np.abs(information - set_points)
    return np.asarray(off <= 0.02 + 0.1 * set_points)
