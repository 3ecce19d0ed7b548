"""Finished members are kept, so that none is trained twice.

A cell is the training of one member. Members never interact, so a cell is a function of its
identity alone: study (specification, networks, data, configuration, version), seed, what sets its
KL weight, and where it starts if not from its seed's own draw; not of its place in a stack, nor of
the stack. Its file is named by the sha256 of that identity. A study of seeds x points trains the
cells that are missing, in stacks that are again rectangular, and puts all of them together.

While a stack trains, its checkpoint lies beside the cells (`linvae.train.checkpoint`). It is
removed after its last cell is written, and a stack that was stopped goes on as it was, even where
more members are asked for than before: no kill changes a bit of any result.

A damaged cell costs one member: it is named in a warning, trained again and replaced. A damaged
checkpoint may cost hours, so it stops the call, and so does one of another version.

Where memory is short the stacks are smaller, and those of convolutions on a CPU, which take longer
there (`linvae.train.parts`): the same cells, one after another, also without a folder to keep them
in.

Several processes may work on one folder without a lock, which a killed process would leave behind:
files are whole at any moment, two that train the same cell write the same numbers, and the cost is
time only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linvae.models import Architecture, StackedVAE, build_model
from linvae.spec import LinearSpec
from linvae.train.checkpoint import (
    Checkpoint,
    Identity,
    check_folder,
    check_version,
    content_digest,
    content_key,
    member_identity,
    read_file,
    remove_stale,
    study_identity,
    write_file,
)
from linvae.train.config import TrainConfig
from linvae.train.data import TrainingData
from linvae.train.kl_weight import KLWeight
from linvae.train.loop import DivergedError, Log, TrainResult, train
from linvae.train.parts import Size, out_of_memory, quick_size, size_that_fits, smaller
from linvae.train.run import BlownUp, Diverged, Stopped

__all__ = ["Cell", "CellStore", "Trained", "train_cells"]

CELL, CHECKPOINT = ".cell.safetensors", ".checkpoint.safetensors"
VERSIONED = (
    "format",
    "linvae",
    "training",
)  # a checkpoint of another version has the same name: it is refused

MakeKLWeight = Callable[[Sequence[Any], int], KLWeight]


@dataclass(frozen=True, eq=False)
class Cell:
    """One finished member.

    `parameters` without the axes of seeds and points; `found`: what its KL weight found; `history`:
    its rows, without their point; `seconds`: its share of those of its stack; `diverged` and
    `stopped`: the step at which it was found lost, or stopped early, or None; `blown_up`: the
    `BlownUp` of a member whose latent scale did.
    """

    parameters: dict[str, Tensor]
    found: dict[str, float]
    history: list[dict[str, float]]
    seconds: float
    steps: int
    diverged: int | None
    stopped: int | None = None
    blown_up: dict[str, Any] | None = None


@dataclass(frozen=True)
class CellStore:
    """A folder of finished cells and of checkpoints of what is not finished.

    What killed processes left of writing one goes an hour later, when the folder is used again.

    `every_seconds`, `every_steps`: how often a stack is written while it trains (`Checkpoint`).
    Raises OSError where nothing can be written into `folder`, which is made if it is missing.
    """

    folder: Path
    every_seconds: float = 30.0
    every_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse a folder that cannot be written before anything is trained."""
        object.__setattr__(self, "folder", Path(self.folder))
        check_folder(self.folder)
        for kind in (CELL, CHECKPOINT):
            remove_stale(self.folder, f"*{kind}")

    def path(self, key: str) -> Path:
        """File of the cell `key`."""
        return self.folder / (key + CELL)

    def has(self, key: str) -> bool:
        """Whether there is a file of that name; only `load` knows whether it is whole."""
        return self.path(key).exists()

    def save(self, identity: Identity, cell: Cell) -> str:
        """Write a cell whole or not at all, and return its key."""
        key = content_key(identity)
        notes = {k: v for k, v in vars(cell).items() if k != "parameters"}
        write_file(self.path(key), "cell", identity, cell.parameters, notes)
        return key

    def load(self, key: str) -> Cell | None:
        """The cell, or None where there is none; None with a warning where its file is damaged."""
        try:
            tensors, header = read_file(self.path(key), "cell")
            if content_key(header["identity"]) != key:
                raise ValueError(f"cell {self.path(key)} is of another run or member")
            return Cell(tensors, **header["notes"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:  # damaged, or with other notes
            warnings.warn(f"{error}. It is trained again and replaced.", stacklevel=2)
            return None

    def checkpoint(self, study: Identity, members: Identity) -> Checkpoint:
        """Where the stack of these members is kept while it trains."""
        path = self.folder / f"{_name(study)}-{_name(members)}{CHECKPOINT}"
        return Checkpoint(path, self.every_seconds, self.every_steps)

    def checkpoints(self, study: Identity) -> Iterator[tuple[Checkpoint, Identity]]:
        """Checkpoints of the stacks of a study that are not finished, and their identities.

        Raises ValueError for one that is damaged or of another version.
        """
        for path in sorted(self.folder.glob(f"{_name(study)}-*{CHECKPOINT}")):
            try:
                identity = read_file(path, "checkpoint")[1]["identity"]
            except FileNotFoundError:  # finished by another process
                continue
            check_version(path, identity, study)
            yield Checkpoint(path, self.every_seconds, self.every_steps), identity


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained stack, its result, and what its KL weights found, each (n_seeds, n_points).

    `found` has the counts of inner loops too (`linvae.train.walk.MemberWalk`).

    `result.seconds` is the sum over members of their share of the seconds of their stacks,
    whenever they were trained.
    """

    model: StackedVAE
    result: TrainResult
    found: dict[str, Tensor]

    @property
    def runs(self) -> int:
        """Number of members."""
        return len(self.model.seeds) * self.model.n_points


def train_cells(
    spec: LinearSpec,
    data: TrainingData,
    *,
    points: Sequence[Any],
    kl_weight: MakeKLWeight,
    config: TrainConfig,
    architecture: str | Architecture = "linear",
    validation: TrainingData | None = None,
    seeds: Sequence[int] = (0,),
    store: CellStore | None = None,
    progress: Callable[[int], None] | None = None,
    log: Log | None = None,
    memory_limit_bytes: int | None = None,
    start: StackedVAE | None = None,
    build: Callable[..., Any] | None = None,
) -> Trained:
    """Train len(seeds) x len(points) members, but for those whose cell is in `store`.

    `kl_weight(points, n_seeds)` makes the KL weight of a stack of some of the points, for instance
    `lambda points, n_seeds: ConstantBetas(points, spec.betas, device)`, or RemedyBetas where the
    points are remedies. `validation`: see `train`. `progress` is called with the number of steps
    done, of all members on average, `log` with new rows of the history, of cells of the store too.
    `memory_limit_bytes`: None is what is free.
    `start`: a stack of these seeds and points whose parameters they start from; None, of their
    seeds' own draw. `build(seeds=..., n_points=...)` makes a stack where it is not
    `linvae.models.build_model` of `spec` and `architecture`: a text VAE, a language model.

    The result is that of one stack of all members. It has the same bits after any number of kills
    and calls with the same arguments; cells that other calls trained in other stacks differ by the
    rounding of batched products (1e-5 relative, float32), and the rows of a lost one may end early.
    Raises DivergedError where all members are lost, MemoryError where one alone does not fit,
    ValueError for a checkpoint in the store that is damaged or of another version and for seeds or
    points given twice or other than those of `start`, OSError where the store cannot be written.
    """
    seeds, points = tuple(seeds), tuple(points)
    if build is None:
        network = Architecture.of(architecture)
        build = partial(
            build_model, spec, data.target, data.condition, architecture=network, image=data.image
        )
    model = build(seeds=seeds, n_points=len(points))
    if start is not None:
        _check_start(start, model)
    weight = kl_weight(points, len(seeds))
    size = (len(seeds), len(points))
    if isinstance(model, StackedVAE):  # of others no memory is predicted
        size = quick_size(size, model, data, config)
        reconstructs = weight.routing is not None
        size = size_that_fits(size, model, data, config, memory_limit_bytes, reconstructs)
    if store is None and size == (len(seeds), len(points)):
        if start is not None:
            model.load_state_dict(start.state_dict())
        try:
            result = train(model, data, weight, config, progress, None, validation, log)
            return Trained(model, result, _found(weight, result))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            size = smaller(size, model, data, config)
    _check_axes(model)
    settings = [weight.setting(point) for point in range(len(points))]
    _check_distinct("seeds", seeds, seeds)
    _check_distinct("points", points, [str(setting) for setting in settings])
    identity = study_identity(model, data, config, validation) if store else {}
    study = _Study(
        build, data, config, kl_weight, seeds, points, progress, store, identity, settings, size,
        start, validation, log,
    )  # fmt: skip
    cells = study.cells()
    every = [cells[seed, p] for seed in seeds for p in range(len(points))]
    return _filled(model, every, study.stacks)


@dataclass(eq=False)
class _Study:
    """Arguments of `train_cells`, and the cells that are `done`, by seed and index of the point."""

    build: Callable[..., StackedVAE]
    data: TrainingData
    config: TrainConfig
    kl_weight: MakeKLWeight
    seeds: tuple[int, ...]
    points: tuple[Any, ...]
    progress: Callable[[int], None] | None
    store: CellStore | None
    identity: Identity
    settings: list[dict[str, object]]
    size: Size
    start: StackedVAE | None = None
    validation: TrainingData | None = None
    log: Log | None = None
    stacks: int = 0
    done: dict[tuple[int, int], Cell] = field(default_factory=dict)

    def cells(self) -> dict[tuple[int, int], Cell]:
        """All cells, from the store or by training."""
        if self.store is not None:
            self._load(self.store)
            self._finish(self.store)
        while missing := self._missing():
            points = next(iter(missing.values()))  # seeds that lack the same points: one stack
            seeds = [s for s, lacks in missing.items() if lacks == points]
            self._train(seeds[: self.size[0]], points[: self.size[1]])
        return self.done

    def _load(self, store: CellStore) -> None:
        """Take what the store has."""
        for point in range(len(self.settings)):
            for seed in self.seeds:
                cell = store.load(content_key(self._identity(seed, point)))
                if cell is not None:
                    self.done[seed, point] = cell
                    self._log([point], [row | {"point": 0} for row in cell.history])

    def _finish(self, store: CellStore) -> None:
        """Stacks of these members that were stopped go on as they were."""
        for checkpoint, identity in list(store.checkpoints(self.identity)):
            seeds, stopped = identity["seeds"], identity["kl_weights"]
            known = all(setting in self.settings for setting in stopped)
            if not (known and set(seeds) <= set(self.seeds)):
                continue  # other members of the study
            points = [self.settings.index(setting) for setting in stopped]
            if content_digest(self._new(seeds, points).state_dict()) != identity["start_sha256"]:
                continue  # they start elsewhere
            if all((seed, point) in self.done for seed in seeds for point in points):
                checkpoint.remove()  # killed after its last cell
            else:
                self._train(seeds, points)

    def _missing(self) -> dict[int, list[int]]:
        """Points without a cell, of the seeds that have such."""
        every = range(len(self.points))
        lacking = {s: [p for p in every if (s, p) not in self.done] for s in self.seeds}
        return {seed: points for seed, points in lacking.items() if points}

    def _identity(self, seed: int, point: int) -> Identity:
        start = None
        if self.start is not None:
            place = self.seeds.index(seed), point
            start = {name: value[place] for name, value in _own_state(self.start).items()}
        return member_identity(self.identity, seed, self.settings[point], start)

    def _new(self, seeds: Sequence[int], points: Sequence[int]) -> StackedVAE:
        """The stack of these members where they start."""
        model = self.build(seeds=seeds, n_points=len(points))
        if self.start is not None:
            rows, columns = [self.seeds.index(seed) for seed in seeds], list(points)
            own = {k: v[rows][:, columns] for k, v in _own_state(self.start).items()}
            model.load_state_dict(model.state_dict() | own)
        return model

    def _train(self, seeds: Sequence[int], points: Sequence[int]) -> None:
        """Train seeds x points in one stack, from its checkpoint if there is one."""
        settings = [self.settings[p] for p in points]
        weight = self.kl_weight([self.points[p] for p in points], len(seeds))
        model = self._new(seeds, points)
        members: Identity = {"seeds": list(seeds), "kl_weights": settings}
        if self.start is not None:
            members["start_sha256"] = content_digest(model.state_dict())
        checkpoint = self.store.checkpoint(self.identity, members) if self.store else None
        try:
            tell = self.progress and partial(self._tell, len(seeds) * len(points))
            log = self.log and partial(self._log, points)
            result = train(
                model, self.data, weight, self.config, tell, checkpoint, self.validation, log
            )
        except DivergedError as error:
            result = error.result
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self.size = smaller((len(seeds), len(points)), model, self.data, self.config)
            return
        self.stacks += 1
        found = _found(weight, result)
        for s, seed in enumerate(seeds):
            for i, point in enumerate(points):
                cell = _cell(model, result, found, s, i)
                if self.store:
                    self.store.save(self._identity(seed, point), cell)
                self.done[seed, point] = cell
        if checkpoint:
            checkpoint.remove()

    def _log(self, points: Sequence[int], rows: list[dict[str, float]]) -> None:
        """Rows of a stack of some `points`, with the points of the study."""
        if self.log is not None:
            self.log([row | {"point": points[int(row["point"])]} for row in rows])

    def _tell(self, members: int, steps: int) -> None:
        """Of the `members` at work so many steps are done."""
        assert self.progress is not None
        every = len(self.seeds) * len(self.points)
        done = len(self.done) * self.config.steps + members * steps
        self.progress(done // every)


def _check_distinct(name: str, values: Sequence[Any], identities: Sequence[object]) -> None:
    """Two members of one seed and point would be the same cell."""
    if len(set(identities)) < len(identities):
        raise ValueError(f"{name}={values} must differ from each other: give each of them once")


def _check_start(start: StackedVAE, model: StackedVAE) -> None:
    """The members must be the same."""
    of_start, wanted = (start.seeds, start.n_points), (model.seeds, model.n_points)
    if of_start != wanted:
        raise ValueError(
            f"start has seeds {of_start[0]} x {of_start[1]} points and must have those of the "
            f"study, {wanted[0]} x {wanted[1]}, in train_cells"
        )


def _check_axes(model: StackedVAE) -> None:
    """A cell is a slice: all that is saved, but for counters, has the axes of seeds and points."""
    shape = (len(model.seeds), model.n_points)
    shared = [k for k, v in model.state_dict().items() if v.ndim and v.shape[:2] != shape]
    if shared:
        raise ValueError(
            f"{', '.join(shared)} of the stack must have shape {shape} in front, one entry per "
            "member: register a buffer that members share with persistent=False"
        )


def _own_state(model: StackedVAE) -> dict[str, Tensor]:
    """What members have of their own: all but counters."""
    return {name: value for name, value in model.state_dict().items() if value.ndim}


def _found(weight: KLWeight, result: TrainResult) -> dict[str, Tensor]:
    """What the KL weights found, and the counts of inner loops."""
    return weight.found() | {name: counts.double() for name, counts in result.counts.items()}


def _cell(
    model: StackedVAE, result: TrainResult, found: dict[str, Tensor], s: int, point: int
) -> Cell:
    """One member of a stack that is trained."""
    member = (model.seeds[s], point)
    lost = [d.step for d in result.diverged if (d.seed, d.point) == member]
    stopped = [d.step for d in result.stopped if (d.seed, d.point) == member]
    blown_up = [asdict(b) for b in result.blown_up if (b.seed, b.point) == member]
    return Cell(
        parameters={k: v[s, point].cpu().clone() for k, v in _own_state(model).items()},
        found={name: float(values[s, point]) for name, values in found.items()},
        history=[
            {k: v for k, v in row.items() if k != "point"}
            for row in result.history
            if (row["seed"], row["point"]) == member
        ],
        seconds=result.seconds / (len(model.seeds) * model.n_points),
        steps=int(result.counts["decoder_steps"][s, point]) if result.counts else result.steps,
        diverged=lost[0] if lost else None,
        stopped=stopped[0] if stopped else None,
        blown_up=blown_up[0] if blown_up else None,
    )


def _filled(model: StackedVAE, cells: Sequence[Cell], stacks: int) -> Trained:
    """A new stack with the values of its members, seed-major, and the result of training it."""
    members = [(seed, point) for seed in model.seeds for point in range(model.n_points)]
    result = _result(members, cells, stacks)
    if len(result.diverged) == len(cells):
        raise DivergedError(result)
    shape = (len(model.seeds), model.n_points)
    state = {
        name: torch.stack([cell.parameters[name] for cell in cells]).view(value.shape)
        for name, value in _own_state(model).items()
    }
    model.load_state_dict(model.state_dict() | state)
    own = [_found_by(cell) for cell in cells]
    found = {
        name: torch.tensor([values[name] for values in own], dtype=torch.float64).view(shape)
        for name in dict.fromkeys(name for cell in cells for name in cell.found)
    }
    return Trained(model, result, found)


def _found_by(cell: Cell) -> dict[str, float]:
    """What was found of it; a stack without inner loops counts no steps of its members."""
    return {"decoder_steps": cell.steps, "encoder_steps": cell.steps, "until": 0} | cell.found


def _result(members: Sequence[tuple[int, int]], cells: Sequence[Cell], stacks: int) -> TrainResult:
    """History, seconds and losses of all members, in the order that one stack gives them."""
    both = list(zip(members, cells, strict=True))
    rows = [row | {"point": point} for (_, point), cell in both for row in cell.history]
    lost = [Diverged(*member, cell.diverged) for member, cell in both if cell.diverged is not None]
    stopped = [Stopped(*member, cell.stopped) for member, cell in both if cell.stopped is not None]
    blown_up = [
        BlownUp(**(cell.blown_up | {"point": point}))
        for (_, point), cell in both
        if cell.blown_up is not None
    ]
    return TrainResult(
        sorted(rows, key=lambda row: row["step"]),
        sum(cell.seconds for cell in cells),
        max(cell.steps for cell in cells),
        tuple(sorted(lost, key=lambda d: d.step)),
        tuple(stopped),
        stacks,
        blown_up=tuple(blown_up),
    )


def _name(identity: Identity) -> str:
    """Sixteen digits of the key of an identity, the same for every version."""
    return content_key({k: v for k, v in identity.items() if k not in VERSIONED})[:16]
