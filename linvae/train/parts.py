"""Training a stack in several smaller ones, one after another, where memory is short.

Members never interact, and those of one seed start from the same draw and see the same batches and
noise whatever is beside them. Any division of a stack into parts therefore gives the same members,
up to the order in which a batched product adds its terms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from linvae.models.chain import StackedVAE
from linvae.train.data import TrainingData, free_bytes
from linvae.train.kl_weight import DividedKLWeight
from linvae.train.loop import Diverged, DivergedError, TrainConfig, TrainResult, train
from linvae.train.memory import predict_memory

__all__ = ["Part", "split_points", "train_in_parts"]

USED_SHARE = 0.9  # of the free memory: the rest is for what the prediction does not count


@dataclass(frozen=True)
class Part:
    """Some of the seeds and points of a stack, by their indices."""

    seeds: range
    points: range

    @property
    def index(self) -> tuple[slice, slice]:
        """Into tensors (n_seeds, n_points, ...)."""
        return slice(*_ends(self.seeds)), slice(*_ends(self.points))

    def __str__(self) -> str:
        """Words for messages."""
        return f"{len(self.seeds)} seeds x {len(self.points)} points"

    def halves(self) -> list[Part]:
        """Two parts: by points where there are several, else by seeds; one that cannot be split."""
        if len(self.points) > 1:
            return [replace(self, points=half) for half in split_points(self.points, 2)]
        if len(self.seeds) > 1:
            return [replace(self, seeds=half) for half in split_points(self.seeds, 2)]
        return [self]


def split_points(points: range, n_parts: int) -> list[range]:
    """`points` in `n_parts` runs whose lengths differ by at most one."""
    n = len(points)
    return [points[n * i // n_parts : n * (i + 1) // n_parts] for i in range(n_parts)]


def train_in_parts(
    model: StackedVAE,
    data: TrainingData,
    kl_weight: DividedKLWeight,
    config: TrainConfig,
    progress: Callable[[int], None] | None = None,
    *,
    memory_limit_bytes: int | None = None,
) -> TrainResult:
    """`train`, in as few stacks as `memory_limit_bytes` allows; None: what is free on the device.

    The parameters of `model` and the state of `kl_weight` are as after `train`; `stacks` of the
    result says how many there were, and a warning why. A part that runs out of memory in spite of
    the prediction is divided again. Raises MemoryError where a single member does not fit.
    """
    device = data.target.device
    limit = memory_limit_bytes
    if limit is None:
        limit = int(USED_SHARE * free_bytes(device))
    whole = Part(range(len(model.seeds)), range(model.n_points))
    waiting = _parts_that_fit(model, data, config, whole, limit)
    done: list[tuple[Part, TrainResult]] = []
    while waiting:
        part = waiting.pop(0)
        total = len(done) + 1 + len(waiting)
        report = _within(progress, len(done), total, config.steps)
        result = _train_part(model, data, kl_weight, config, part, report)
        if result is not None:
            done.append((part, result))
            continue
        halves = part.halves()
        if len(halves) == 1:
            raise MemoryError(_too_large(model, data, config, "more than there was"))
        warnings.warn(f"out of memory with {part} in one stack: divided again", stacklevel=2)
        waiting = halves + waiting
    return _joined(model, done)


def _parts_that_fit(
    model: StackedVAE, data: TrainingData, config: TrainConfig, whole: Part, limit: int
) -> list[Part]:
    """The whole, or equal runs of points (of seeds, where one point is too many) within `limit`.

    What is on the device already, data and the parameters of all members, is not counted again.
    """

    def needed(n_seeds: int, n_points: int) -> int:
        part = Part(range(n_seeds), range(n_points))
        found = predict_memory(
            lambda: like(model, part),
            config,
            n_samples=len(data),
            resident=data.resident,
            device=data.target.device,
        )
        return found.total - found.data

    n_seeds, n_points = len(whole.seeds), len(whole.points)
    first = needed(n_seeds, n_points)
    if first <= limit:
        return [whole]
    points = _largest(n_points, lambda n: needed(n_seeds, n) <= limit)
    seeds = n_seeds if points else _largest(n_seeds, lambda n: needed(n, 1) <= limit)
    if not seeds:
        lack = f"{_mib(needed(1, 1))}, {_mib(limit)} are free"
        raise MemoryError(_too_large(model, data, config, lack))
    parts = [
        Part(s, p)
        for s in split_points(whole.seeds, -(-n_seeds // seeds))
        for p in split_points(whole.points, -(-n_points // max(points, 1)))
    ]
    warnings.warn(
        f"training {whole} at once needs {_mib(first)} and {_mib(limit)} are free: trained in "
        f"{len(parts)} stacks one after another",
        stacklevel=3,
    )
    return parts


def _largest(n: int, fits: Callable[[int], bool]) -> int:
    """Largest m < n with fits(m), by bisection; 0 where there is none."""
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def like(model: StackedVAE, part: Part) -> StackedVAE:
    """A stack as `model` is, of the members of `part`, freshly drawn."""
    return type(model)(
        model.spec,
        target_dim=model.target_dim,
        condition_dim=model.condition_dim,
        scale=model.scale,
        condition_scale=model.condition_scale,
        architecture=model.architecture,
        seeds=[model.seeds[s] for s in part.seeds],
        n_points=len(part.points),
    )


@torch.no_grad()
def _copy(source: StackedVAE, into: StackedVAE, part: Part, *, back: bool) -> None:
    """Parameters of the members of `part`: from the whole `source`, or back into the whole."""
    for (_, old), (_, new) in zip(source.named_parameters(), into.named_parameters(), strict=True):
        if back:
            new[part.index] = old
        else:
            new.copy_(old[part.index])


def _train_part(
    model: StackedVAE,
    data: TrainingData,
    kl_weight: DividedKLWeight,
    config: TrainConfig,
    part: Part,
    progress: Callable[[int], None] | None,
) -> TrainResult | None:
    """Train one part; None where memory ran out, with `model` and `kl_weight` as they were."""
    weights = kl_weight.part(*part.index)
    try:
        stack = like(model, part).to(data.target.device)
        _copy(model, stack, part, back=False)
        result = train(stack, data, weights, config, progress)
    except DivergedError as error:  # the others go on, as they would in one stack
        result = TrainResult([], 0.0, 0, error.diverged)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return None
    else:
        kl_weight.take_back(weights, *part.index)
    _copy(stack, model, part, back=True)
    return result


def _out_of_memory(error: BaseException) -> bool:
    """Errors of Python, of CUDA, and of torch's allocator on the host."""
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or "not enough memory" in str(error)


def _joined(model: StackedVAE, done: list[tuple[Part, TrainResult]]) -> TrainResult:
    """One result with the points counted as in the whole stack."""
    history = [
        row | {"point": row["point"] + part.points.start}
        for part, result in done
        for row in result.history
    ]
    at = {seed: i for i, seed in enumerate(model.seeds)}
    history.sort(key=lambda row: (row["step"], at[int(row["seed"])], row["point"]))
    diverged = [
        replace(member, point=member.point + part.points.start)
        for part, result in done
        for member in result.diverged
    ]
    if len(diverged) == len(model.seeds) * model.n_points:
        raise _all_diverged(diverged)
    stopped = [
        replace(member, point=member.point + part.points.start)
        for part, result in done
        for member in result.stopped
    ]
    return TrainResult(
        history,
        sum(result.seconds for _, result in done),
        max(result.steps for _, result in done),
        tuple(sorted(diverged, key=lambda m: (m.step, at[m.seed], m.point))),
        tuple(sorted(stopped, key=lambda m: (at[m.seed], m.point))),
        len(done),
    )


def _all_diverged(diverged: list[Diverged]) -> DivergedError:
    first = min(diverged, key=lambda member: member.step)
    return DivergedError(
        f"training diverged: the objective of all {len(diverged)} members is not finite (first "
        f"seed {first.seed} point {first.point}, at step {first.step}); lower the learning rate",
        diverged,
    )


def _within(
    progress: Callable[[int], None] | None, done: int, total: int, steps: int
) -> Callable[[int], None] | None:
    """Steps of one of `total` parts as steps of the whole run."""
    if progress is None:
        return None
    return lambda step: progress((done * steps + step) // total)


def _too_large(model: StackedVAE, data: TrainingData, config: TrainConfig, needed: str) -> str:
    held = "resident" if data.resident else "streamed"
    return (
        f"one member alone needs {needed}: {model.architecture}, target_dim={model.target_dim}, "
        f"latent_dims={model.spec.latent_dims}, batch_size={config.batch_size}, {len(data)} "
        f"{held} samples; take a smaller batch_size or a smaller hidden, or stream the data "
        "(TrainingData.from_arrays(..., resident=False))"
    )


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB"


def _ends(indices: range) -> tuple[int, int]:
    return indices.start, indices.stop
