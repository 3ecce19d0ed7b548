"""A threshold between two branches: started alive and started collapsed, at the same betas.

Both branches start from networks that the control runs have trained (`linvae.metrics.threshold`):
the member with the most information, and the one that was made to collapse. Copies of each are
trained at constant betas, all of them in one stack, so that every beta gets the whole run:

    low  = largest beta at which the collapsed branch is alive: there collapse is left
    high = smallest beta above low from which on the alive branch is dead, times exp(2 K)

K the information of the level. Dead is a K below `DEAD` nats that still falls, and any below
`IDLE`; exp(2 K) takes the cut-off off: in a linear model K = log(beta_c/beta)/2, and a K that still
falls makes the end too high, never too low. A branch that is short of time survives where it is not
stable, so both ends are empirical: next to them stands whether they still drift. Where the
transition is of first order the branches differ for good, and the free energy says which one is
better,

    F = D + sum_l beta_l R_l - (the same of the collapsed network),

negative where the alive network is. Positive and alive is a transient. The collapsed network is of
the same lineage and training length: one more copy, at a beta where nothing lives.

The betas come from what was observed before, never from a prediction; those of the alive branch not
from what is less than half of the rest, as the local threshold of a network may be. While the alive
branch is alive at the highest beta, or the collapsed one dead at the lowest, the grid is extended
there.

In a hierarchy K is that of one level, all betas keep their proportion, and the other levels do as
they like. F is that of total collapse: NaN for levels above the first, whose collapsed state has
level 1 alive.

| symbol | here                     | shape                          | unit |
|--------|--------------------------|--------------------------------|------|
| K      | Branch.information       | (checkpoints, seeds, points)   | nats |
| F      | Branch.free_energies     | (seeds, points)                | nats |
| low    | Bracket.lows             | (seeds,)                       | -    |
| high   | Bracket.highs            | (seeds,)                       | -    |

Source: ours; two branches are how hysteresis is measured everywhere. Equality that a test checks:
the threshold of a linear model lies inside.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm
from scipy.stats import t as student

from linvae.metrics.evidence import (
    ExchangeRatios,
    certificate,
    terms_of_draws,
)
from linvae.metrics.observe import observe
from linvae.models import StackedVAE
from linvae.objectives import Terms
from linvae.train import (
    CellStore,
    ConstantBetas,
    TrainConfig,
    TrainingData,
    copies,
    train_cells,
)
from linvae.train.kl_weight import information, level_statistics

__all__ = ["CHECKPOINTS", "DEAD", "Bracket", "Branch", "bracket_grid", "bracket_threshold"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
CHECKPOINTS = (0.25, 0.5, 0.75, 1.0)  # shares of a run
WINDOW = 0.05  # share of a run over which K is averaged before each of them
DEAD = 0.02  # nats, below which a unit must hold still to count as alive
IDLE = 0.005  # nats, that noise alone may hold
DRIFT = 0.2  # relative change of K over the second half: later the learning rate is too low
POINTS = 7  # betas of either branch
FAR = 2.0  # below the largest value observed by this factor: none that the alive branch needs
ROOM = 1.12  # the first grid goes this factor beyond what was observed, either way
EXTENSIONS, REACH, MORE_POINTS = 3, 1.6, 3  # at most; factor and number of betas of each
BEYOND = 2.0  # the collapsed network of the same length is at this multiple of the highest beta
LEAST_STEPS = 40  # so that every window holds a step
SHARE = 0.5  # of the steps of the control runs: copies start close to where they end


@dataclass(frozen=True, eq=False)
class Branch:
    """Members of one branch by factor, ascending; shapes as in the module's table."""

    factors: Array
    information: Array
    free_energies: Array
    errors: Array

    @property
    def alive(self) -> Flags:
        """K of at least `DEAD` nats in the end, or of `IDLE` without falling, (seeds, points)."""
        before, last = self.information[[1, -1]]
        return np.asarray((last >= DEAD) | ((last >= IDLE) & (last >= (1 - DRIFT) * before)))

    @property
    def drifting(self) -> Flags:
        """K changed by more than `DRIFT` over the second half of the run, (seeds, points)."""
        before, last = self.information[[1, -1]]
        moves = np.abs(last - before) > DRIFT * before
        return np.asarray((np.maximum(before, last) >= IDLE) & moves)

    @property
    def better(self) -> Flags:
        """Alive, and below the free energy of collapse by two Monte-Carlo errors."""
        return np.asarray(self.alive & (self.free_energies < -2 * self.errors))

    @property
    def transient(self) -> Flags:
        """Alive, and above the free energy of collapse by two Monte-Carlo errors."""
        return np.asarray(self.alive & (self.free_energies > 2 * self.errors))

    def and_that_of(self, other: Branch) -> Branch:
        """Both, in order of factors."""
        order = np.argsort(np.concatenate([self.factors, other.factors]))
        joined = {
            f.name: np.concatenate([getattr(b, f.name) for b in (self, other)], axis=-1)[..., order]
            for f in dataclasses.fields(self)
        }
        return Branch(**joined)


@dataclass(frozen=True, eq=False)
class Bracket:
    """Both branches of every seed and what lies between, in factors on all betas.

    `lows` NaN: the collapsed branch is dead everywhere; `highs` inf: the alive one is alive at
    the highest beta. `low_drifting`: the first dead member above `lows` still grows, so that a
    longer run would raise it. `high_drifting`: the last one alive below `highs` still falls.
    `ratios`: certificate of all members. `runs`: members trained, of all seeds.
    """

    level: int
    seeds: tuple[int, ...]
    alive: Branch
    collapsed: Branch
    ratios: ExchangeRatios
    runs: int
    seconds: float

    @property
    def lows(self) -> Array:
        """Largest factor at which the collapsed branch is alive, (seeds,)."""
        alive = np.where(self.collapsed.alive, self.collapsed.factors, -np.inf).max(axis=1)
        return np.where(np.isfinite(alive), alive, np.nan)

    @property
    def highs(self) -> Array:
        """Smallest factor from which on the alive branch is dead, cut-off taken off, (seeds,)."""
        found = []
        for s, dead in enumerate(self._first_dead):
            at = np.append(self.alive.factors, np.inf)[dead]
            left = np.append(self.alive.information[-1, s], 0.0)[dead]
            found.append(at * math.exp(2 * max(left, 0.0)))
        return np.array(found)

    @property
    def low_drifting(self) -> Flags:
        """The collapsed branch still grows above `lows`, (seeds,)."""
        above = ~(self.collapsed.factors <= np.nan_to_num(self.lows, nan=0.0)[:, None])
        growing = self.collapsed.information[-1] > self.collapsed.information[1]
        return np.asarray(np.any(above & growing & self.collapsed.drifting, axis=1))

    @property
    def high_drifting(self) -> Flags:
        """The last member of the alive branch that lives below `highs` still falls, (seeds,)."""
        falling = self.alive.information[-1] < self.alive.information[1]
        found = falling & self.alive.drifting
        return np.array([f[max(d - 1, 0)] for f, d in zip(found, self._first_dead, strict=True)])

    @property
    def _first_dead(self) -> npt.NDArray[np.intp]:
        """Index of the first factor above `lows` with nothing alive from it on, (seeds,)."""
        above = self.alive.factors <= np.nan_to_num(self.lows, nan=0.0)[:, None]
        lives = self.alive.alive | above | ~np.isfinite(self.alive.information[-1])
        last = lives.shape[1] - lives[:, ::-1].argmax(axis=1)
        return np.where(lives.any(axis=1), last, 0)


def bracket_grid(observed: Sequence[float]) -> Array:
    """Factors of the first grid: evenly spaced in the logarithm around all observed values.

    Raises ValueError where none is finite: without a control run there is no place to look.
    """
    known = [v for v in observed if math.isfinite(v) and v > 0]
    if not known:
        raise ValueError(
            "observed has no finite value: the control runs found no threshold, so the bracket has "
            "no place to look at; train them for more steps"
        )
    return np.geomspace(min(known) / ROOM, max(known) * ROOM, POINTS)


def bracket_threshold(
    source: StackedVAE,
    data: TrainingData,
    config: TrainConfig,
    *,
    level: int,
    observed: Sequence[float],
    collapsed: int = -1,
    progress: Callable[[int], None] | None = None,
    store: CellStore | None = None,
) -> Bracket:
    """Train both branches from the trained stack `source`, `SHARE` of the steps of `config`.

    The member `collapsed` of `source` starts the collapsed branch, the one with the most
    information about `level` the other. `observed`: factors found before, to place the grid. With
    a `store` branches that were stopped go on, and finished members are not trained again.
    Raises ValueError for a learned decoder variance, and as `bracket_grid`.
    """
    if source.spec.decoder_variance == "learned":
        raise ValueError(
            "decoder_variance='learned' has no threshold in beta alone, so that bracket_threshold "
            "has nothing to bracket; give a fixed decoder_variance"
        )
    short = dataclasses.replace(config, steps=max(LEAST_STEPS, round(SHARE * config.steps)))
    run = _Run(source, data, short, level, collapsed % source.n_points, progress, store)
    up, down = bracket_grid(_not_far(observed)), bracket_grid(observed)
    alive, dead, ratios, seconds = run.train(up, down)
    for _ in range(EXTENSIONS):
        up, down = _further(alive, dead)
        if not (len(up) or len(down)):
            break
        more_alive, more_dead, more_ratios, more_seconds = run.train(up, down)
        alive, dead = alive.and_that_of(more_alive), dead.and_that_of(more_dead)
        ratios, seconds = ratios.and_those_of(more_ratios), seconds + more_seconds
    return Bracket(level, source.seeds, alive, dead, ratios, ratios.factors.size, seconds)


def _not_far(observed: Sequence[float]) -> list[float]:
    """Without a local threshold, say, so low that few betas would lie where the others are."""
    known = [v for v in observed if math.isfinite(v) and v > 0]
    return [v for v in known if v >= max(known) / FAR]


def _further(alive: Branch, collapsed: Branch) -> tuple[Array, Array]:
    """Factors above, where a seed is alive at the top, and below, where one is dead at the end."""
    steps = REACH ** (np.arange(1, MORE_POINTS + 1) / MORE_POINTS)
    up = alive.factors[-1] * steps if alive.alive[:, -1].any() else steps[:0]
    dead = ~collapsed.alive[:, 0] & np.isfinite(collapsed.information[-1, :, 0])
    down = collapsed.factors[0] / steps[::-1] if dead.any() else steps[:0]
    return up, down


@dataclass(frozen=True)
class _Run:
    """What the runs of one bracket share."""

    source: StackedVAE
    data: TrainingData
    config: TrainConfig
    level: int
    collapsed: int
    progress: Callable[[int], None] | None
    store: CellStore | None

    def train(self, up: Array, down: Array) -> tuple[Branch, Branch, ExchangeRatios, float]:
        """The alive branch at `up` and the collapsed one at `down`, and the reference, at once."""
        factors = np.concatenate([up, down, [BEYOND * max(*up, *down)]])
        starts = np.full((len(self.source.seeds), len(factors)), self.collapsed)
        starts[:, : len(up)] = _most_informed(self.source, self.data, self.level)[:, None]
        trained = train_cells(
            self.source.spec,
            self.data,
            points=range(len(factors)),
            kl_weight=functools.partial(self._weight, factors, len(up)),
            config=self.config,
            architecture=self.source.architecture,
            seeds=self.source.seeds,
            store=self.store,
            progress=self.progress,
            start=copies(self.source, starts),
        )
        model = trained.model
        nats = np.stack([np.asarray(trained.found[_name(c)].cpu()) for c in CHECKPOINTS])
        draws, energies = None, np.full((2, len(model.seeds), model.n_points), np.nan)
        if self.level == 1:
            draws = terms_of_draws(model, self.data)
            energies = _free_energies(model, factors, *draws)
        parts = (slice(0, len(up)), slice(len(up), -1))
        alive, collapsed = (Branch(factors[p], nats[..., p], *energies[..., p]) for p in parts)
        ratios = certificate(model, self.data, collapsed=-1, level=self.level, draws=draws)
        return alive, collapsed, ratios, trained.result.seconds

    def _weight(
        self, factors: Array, n_alive: int, points: Sequence[float], n_seeds: int
    ) -> _WatchedBetas:
        """Of some of the members, `points` their places among the `factors`."""
        places = [int(point) for point in points]
        branches = ["alive" if place < n_alive else "collapsed" for place in places]
        betas, device = self.source.spec.betas, self.data.target.device
        return _WatchedBetas(factors[places], branches, betas, n_seeds, self.level, device)


def _free_energies(model: StackedVAE, factors: Array, distortions: Array, rates: Array) -> Array:
    """F of every member against the last one, and its Monte-Carlo error (`_of_few`)."""
    betas = factors[:, None] * np.asarray(model.spec.betas)
    saved = distortions - distortions[..., -1:]
    paid = np.sum(betas * (rates - rates[..., -1:, :]), axis=-1)
    draws = saved + paid
    errors = draws.std(axis=0, ddof=1) / math.sqrt(len(draws))
    return np.stack([draws.mean(axis=0), _of_few(len(draws)) * errors])


def _of_few(n: int) -> float:
    """What makes two errors of the spread of `n` values as rare as two of a known one (Student)."""
    return float(student.ppf(norm.cdf(2), n - 1) / 2)


@torch.no_grad()
def _most_informed(source: StackedVAE, data: TrainingData, level: int) -> npt.NDArray[np.intp]:
    """The member of every seed that knows most about `level`, (n_seeds,)."""
    nats = observe(source, data).information[..., level - 1]
    return np.asarray(np.where(np.isfinite(nats), nats, -np.inf).argmax(axis=1))


class _WatchedBetas(ConstantBetas):
    """Constant betas; keeps the statistics of a level before every checkpoint of the run."""

    def __init__(
        self,
        factors: Array,
        branches: Sequence[str],
        betas: Sequence[float],
        n_seeds: int,
        level: int,
        device: torch.device,
    ) -> None:
        super().__init__(factors.tolist(), betas, device)
        self._branches, self._level = branches, level - 1
        shape = (len(CHECKPOINTS), 3, n_seeds, len(factors), 1)
        self._sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self._counts = torch.zeros(len(CHECKPOINTS), dtype=torch.float64)

    def observe(self, terms: Terms, progress: float, stepped: torch.Tensor | None = None) -> None:
        """Add the batch to the window that it lies in."""
        inside = torch.tensor([float(c - WINDOW <= progress < c) for c in CHECKPOINTS])
        if not inside.any():
            return
        statistics = level_statistics(terms, self._level).double()
        self._sums = (
            self._sums + inside.to(statistics.device)[:, None, None, None, None] * statistics
        )
        self._counts = self._counts + inside

    def setting(self, point: int) -> dict[str, object]:
        """The betas, the branch, and the level that is watched (from 0)."""
        own = {"kind": "watched betas", "branch": self._branches[point], "level": self._level}
        return super().setting(point) | own

    def found(self) -> dict[str, torch.Tensor]:
        """Information at every checkpoint, nats."""
        pooled = self._sums / self._counts.to(self._sums.device)[:, None, None, None, None]
        return {_name(c): information(p) for c, p in zip(CHECKPOINTS, pooled, strict=True)}

    def state(self) -> dict[str, torch.Tensor]:
        """The sums and how many batches are in them."""
        return {"sums": self._sums, "counts": self._counts}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state`."""
        self._sums, self._counts = state["sums"].to(self._sums.device), state["counts"]


def _name(checkpoint: float) -> str:
    return f"information at {checkpoint}"
