"""The training of a comparison in independent jobs, and what runs them: here, or on a cluster.

Members of a stack never interact and each seed has its own streams of order and noise
(`linvae.train`), so a job of many seeds may be cut into jobs of one seed each: their results,
joined along the axis of seeds, are those of the whole up to the rounding of batched products.

A job is a frozen record of plain values: it can be sent to another machine, and be the key of its
result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from linvae.metrics import (
    SET_POINTS,
    Observation,
    ThresholdEstimate,
    estimate_threshold,
    observe,
    training_curves,
)
from linvae.models import Architecture, StackedVAE
from linvae.spec import LinearSpec
from linvae.train import (
    CellStore,
    ConstantBetas,
    Log,
    Remedy,
    RemedyBetas,
    TrainConfig,
    Trained,
    TrainingData,
    train_cells,
)
from linvae.train.kl_weight import KLWeight

__all__ = [
    "Done",
    "Job",
    "LocalRunner",
    "ModelJob",
    "Progress",
    "Runner",
    "SweepJob",
    "ThresholdJob",
    "merge_seeds",
]

R = TypeVar("R")
Progress = Callable[[str, int, int], None]  # what, steps done, steps in all


@dataclass(frozen=True)
class Job(Generic[R]):
    """Training of one spec and architecture for `seeds`, and what is read off it: a result R."""

    spec: LinearSpec
    architecture: Architecture
    seeds: tuple[int, ...]
    config: TrainConfig

    @property
    def name(self) -> str:
        """What the job is, in words."""
        raise NotImplementedError

    def run(
        self,
        data: TrainingData,
        progress: Callable[[int], None] | None = None,
        log: Log | None = None,
    ) -> R:
        """Do it on the device of `data`; `progress` is called with the number of steps done.

        `log`: with the rows of a sweep's history, as they come.
        """
        raise NotImplementedError

    def per_seed(self) -> list[Job[R]]:
        """The same in jobs of one seed each, or itself where its seeds need each other."""
        return [replace(self, seeds=(seed,)) for seed in self.seeds]


@dataclass(frozen=True)
class ThresholdJob(Job[ThresholdEstimate]):
    """`linvae.metrics.estimate_threshold` of `level`."""

    level: int = 1
    set_points: tuple[float, ...] = SET_POINTS
    bracket: bool = False
    check_convergence: bool = False
    store: CellStore | None = None

    @property
    def name(self) -> str:
        """Architecture and level."""
        return f"{self.architecture.name}: threshold of level {self.level}"

    def run(
        self,
        data: TrainingData,
        progress: Callable[[int], None] | None = None,
        log: Log | None = None,
    ) -> ThresholdEstimate:
        """Control runs of all seeds and set-points, and the line through them."""
        return estimate_threshold(
            self.spec,
            data,
            architecture=self.architecture,
            level=self.level,
            seeds=self.seeds,
            set_points=self.set_points,
            config=self.config,
            bracket=self.bracket,
            check_convergence=self.check_convergence,
            progress=progress,
            store=self.store,
        )

    def per_seed(self) -> list[Job[ThresholdEstimate]]:
        """Itself with a bracket, whose betas are chosen from the control runs of all seeds."""
        return [self] if self.bracket else super().per_seed()


@dataclass(frozen=True)
class SweepJob(Job[Observation]):
    """Training at `factors` times all betas, every member with `remedy`.

    `remedy_name`: what `name` calls the remedy; the other fields are those of `observe`.
    """

    factors: tuple[float, ...] = (1.0,)
    remedy: Remedy = field(default_factory=Remedy)
    remedy_name: str = ""
    threshold: float = 0.01
    epsilon: float = 0.01
    delta: float = 0.01
    local_nats: float = 0.1
    store: CellStore | None = None

    @property
    def name(self) -> str:
        """Architecture, and remedy where there is one."""
        how = f", {self.remedy_name}" if self.remedy_name else ""
        return f"{self.architecture.name}: sweep of beta{how}"

    def run(
        self,
        data: TrainingData,
        progress: Callable[[int], None] | None = None,
        log: Log | None = None,
    ) -> Observation:
        """Train all factors and seeds at once and observe every member."""
        trained = self.train(data, progress, log)
        seen = observe(
            trained.model, data, threshold=self.threshold, epsilon=self.epsilon, delta=self.delta,
            local_nats=self.local_nats,
        )  # fmt: skip
        blown_up = np.zeros((len(self.seeds), len(self.factors)), bool)
        for found in trained.result.blown_up:
            blown_up[self.seeds.index(found.seed), found.point] = True
        curves = training_curves(trained.result.history, self.seeds, len(self.factors))
        return replace(seen, blown_up=blown_up, curves=curves)

    def train(
        self,
        data: TrainingData,
        progress: Callable[[int], None] | None = None,
        log: Log | None = None,
    ) -> Trained:
        """All factors and seeds at once, but for members that the store has."""
        return train_cells(
            self.spec,
            data,
            points=self.factors,
            kl_weight=lambda points, n: self._kl_weight(points, n, data.target.device),
            config=self.config,
            architecture=self.architecture,
            seeds=self.seeds,
            store=self.store,
            progress=progress,
            log=log,
        )

    def _kl_weight(self, factors: Sequence[float], n_seeds: int, device: torch.device) -> KLWeight:
        if self.remedy == Remedy():
            return ConstantBetas(factors, self.spec.betas, device)
        remedies = [replace(self.remedy, beta=self.remedy.beta * factor) for factor in factors]
        return RemedyBetas(remedies, self.spec.betas, n_seeds, device)


@dataclass(frozen=True)
class ModelJob(Job[StackedVAE]):
    """Some members of a sweep themselves: from its store, or trained again where it has none."""

    sweep: SweepJob | None = None

    @classmethod
    def of(cls, sweep: SweepJob, factor: float) -> ModelJob:
        """The first seed at one factor."""
        one = replace(sweep, seeds=sweep.seeds[:1], factors=(factor,))
        return cls(one.spec, one.architecture, one.seeds, one.config, one)

    @property
    def name(self) -> str:
        """Of what."""
        return f"{self.architecture.name}: pictures"

    def run(
        self,
        data: TrainingData,
        progress: Callable[[int], None] | None = None,
        log: Log | None = None,
    ) -> StackedVAE:
        """A stack of these members."""
        assert self.sweep is not None
        return self.sweep.train(data, progress).model

    def per_seed(self) -> list[Job[StackedVAE]]:
        """Itself: there is one seed."""
        return [self]


@dataclass(frozen=True)
class Done(Generic[R]):
    """A job's result and the seconds that its parts took, added up."""

    result: R
    seconds: float


class Runner(Protocol):
    """Whatever runs jobs on the data that it was made with."""

    def run(self, jobs: Sequence[Job[R]], progress: Progress | None = None) -> list[Done[R]]:
        """Results in the order of `jobs`; `progress` gets the name of a job, steps done, steps."""


@dataclass(frozen=True)
class LocalRunner:
    """One job after another in this process, all seeds of a job at once.

    `log` is called with a job and the rows of its history, as they come.
    """

    data: TrainingData
    log: Callable[[Job[Any], list[dict[str, float]]], None] | None = None

    def run(self, jobs: Sequence[Job[R]], progress: Progress | None = None) -> list[Done[R]]:
        """See `Runner`; raises DivergedError where all members of a job diverge."""
        return [self._run(job, progress) for job in jobs]

    def _run(self, job: Job[R], progress: Progress | None) -> Done[R]:
        start = time.perf_counter()
        steps = job.config.steps
        tell = None if progress is None else lambda done: progress(job.name, done, steps)
        log = None if self.log is None else partial(self.log, job)
        return Done(job.run(self.data, tell, log), time.perf_counter() - start)


def merge_seeds(seeds: Sequence[int], parts: Sequence[R | BaseException]) -> R:
    """One result for `seeds` from the results of each, whatever record of arrays it is.

    A single part is that of all seeds already (`Job.per_seed`).
    Arrays are joined along their first axis, seconds added; everything else must agree. A seed that
    ended in an error, as where all its members diverged, has NaN, and 0 in counts: as in a stack.
    Raises the first error where no seed is left, ValueError where parts do not belong together.
    """
    found = [part for part in parts if not isinstance(part, BaseException)]
    if not found:
        raise next(part for part in parts if isinstance(part, BaseException))
    if len(parts) == 1:
        return found[0]
    results = [
        _lost(found[0], seed) if isinstance(part, BaseException) else part
        for seed, part in zip(seeds, parts, strict=True)
    ]
    merged: R = _by_field(_joined, results)
    return merged


def _by_field(function: Callable[[str, list[Any]], Any], records: Sequence[Any]) -> Any:
    """A record whose fields are `function(name, that field of all records)`."""
    names = [field.name for field in fields(records[0])]
    new = {name: function(name, [getattr(r, name) for r in records]) for name in names}
    return replace(records[0], **new)


def _joined(name: str, values: list[Any]) -> Any:
    first = values[0]
    if name == "seeds":
        return tuple(seed for value in values for seed in value)
    if name in ("seconds", "runs"):
        return sum(values)
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, tuple) and any(isinstance(v, np.ndarray) for v in first):
        return tuple(np.concatenate(level) for level in zip(*values, strict=True))
    if is_dataclass(first):
        return _by_field(_joined, values)
    if any(value != first for value in values):
        raise ValueError(f"{name} differs between parts of one job: {values}")
    return first


def _lost(like: Any, seed: int) -> Any:
    """The record of a seed of which nothing is left: NaN, and 0 in counts."""

    def empty(name: str, values: list[Any]) -> Any:
        value = values[0]
        if name == "seeds":
            return (seed,)
        if name in ("seconds", "runs"):
            return 0
        if isinstance(value, np.ndarray):
            return np.full_like(value, np.nan if value.dtype.kind == "f" else 0)
        if isinstance(value, tuple):
            return tuple(empty("", [v]) for v in value)
        return _lost(value, seed) if is_dataclass(value) else value

    return _by_field(empty, [like])
