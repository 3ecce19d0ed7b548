"""How much of a stack is trained at once: what fits into memory and is quick.

Members never interact, and those of one seed start from the same draw and see the same batches and
noise whatever is beside them. Any division of a stack into smaller ones, trained one after another
(`linvae.train.cells`), therefore gives the same members, up to the order in which a batched product
adds its terms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from linvae.models.chain import StackedVAE
from linvae.train.config import TrainConfig
from linvae.train.data import TrainingData, free_bytes
from linvae.train.memory import predict_memory

__all__ = ["copies", "like", "out_of_memory", "quick_size", "size_that_fits", "smaller"]

USED_SHARE = 0.9  # of the free memory: the rest is for what the prediction does not count
AT_ONCE = 1_000_000  # values of the images that a stack of convolutions on a CPU makes in a step
PER_VALUE = 100  # kept per row and coordinate of the data, or output of a layer: more than there is

Size = tuple[int, int]  # seeds, points


def size_that_fits(
    size: Size,
    model: StackedVAE,
    data: TrainingData,
    config: TrainConfig,
    limit: int | None = None,
    reconstructs: bool = False,
) -> Size:
    """Seeds and points of the largest stack of members of `model`, to `size`, in `limit` bytes.

    `reconstructs`: with a latent reconstruction loss. No limit: what is free on the device. What is
    there already, data and the parameters of all members, is not counted again. Points are divided
    before seeds; a warning says where anything is. Raises
    MemoryError where a single member does not fit.
    """
    if limit is None:
        limit = int(USED_SHARE * free_bytes(data.target.device))
        if _rough_bytes(size, model, config) < limit / 2:
            return size  # counting would take longer than many a run

    def needed(n_seeds: int, n_points: int) -> int:
        found = predict_memory(
            lambda: like(model, n_seeds, n_points),
            config,
            n_samples=len(data),
            resident=data.resident,
            device=data.target.device,
            reconstructs=reconstructs,
        )
        return found.total - found.data

    first = needed(*size)
    if first <= limit:
        return size
    points = _largest(size[1], lambda n: needed(size[0], n) <= limit)
    seeds = size[0] if points else _largest(size[0], lambda n: needed(n, 1) <= limit)
    if not seeds:
        lack = f"{_mib(needed(1, 1))}, {_mib(limit)} are free"
        raise MemoryError(_too_large(model, data, config, lack))
    fits = seeds, max(points, 1)
    warnings.warn(
        f"training {_words(size)} at once needs {_mib(first)} and {_mib(limit)} are free: trained "
        f"in stacks of {_words(fits)}, one after another",
        stacklevel=3,
    )
    return fits


def quick_size(size: Size, model: StackedVAE, data: TrainingData, config: TrainConfig) -> Size:
    """At most `size`: less of networks of images on a CPU.

    Their maps are large blocks, which the allocator of the C library gives back to the system and
    gets again, page by page, in every step.

    18 members of 12288 pixels in batches of 32 took 2.2 times as long at once as in stacks of 3, of
    784 pixels in batches of 128 1.5 times (`analysis/benchmarks/stack_size.py`).
    """
    if data.target.device.type != "cpu" or data.image is None or not model.architecture.needs_image:
        return size
    rows = min(config.batch_size, len(data)) * config.draws
    members = max(1, AT_ONCE // (rows * data.image.size))
    seeds, points = size
    if members < seeds:
        return _equal(seeds, members), 1
    return seeds, _equal(points, members // seeds)


def _equal(n: int, most: int) -> int:
    """The size of the largest of the fewest parts of `n`, none above `most`."""
    return -(-n // -(-n // most))


def smaller(size: Size, model: StackedVAE, data: TrainingData, config: TrainConfig) -> Size:
    """Half the points, or half the seeds, after memory ran out in spite of the prediction."""
    seeds, points = size
    if size == (1, 1):
        raise MemoryError(_too_large(model, data, config, "more than there was"))
    half = (seeds, -(-points // 2)) if points > 1 else (-(-seeds // 2), 1)
    warnings.warn(
        f"out of memory with {_words(size)} in one stack: trained in stacks of {_words(half)}",
        stacklevel=3,
    )
    return half


def like(model: StackedVAE, n_seeds: int, n_points: int) -> StackedVAE:
    """A stack as `model` is, of its first seeds and so many points, freshly drawn."""
    return type(model)(
        model.spec,
        target_dim=model.target_dim,
        condition_dim=model.condition_dim,
        scale=model.scale,
        condition_scale=model.condition_scale,
        architecture=model.architecture,
        image=model.image,
        seeds=model.seeds[:n_seeds],
        n_points=n_points,
    )


def copies(model: StackedVAE, starts: npt.NDArray[np.intp]) -> StackedVAE:
    """A stack whose member (s, i) has the parameters of the member (s, starts[s, i])."""
    found = like(model, len(model.seeds), starts.shape[1])
    found.centre, found.condition_centre = model.centre, model.condition_centre  # of the data
    members = (torch.arange(len(starts))[:, None], torch.as_tensor(starts))
    shape = (len(model.seeds), model.n_points)
    found.load_state_dict(
        {
            name: value[members] if value.shape[:2] == shape else value
            for name, value in model.state_dict().items()
        }
    )
    return found.to(next(model.parameters()).device)


def out_of_memory(error: BaseException) -> bool:
    """Errors of Python, of CUDA, and of torch's allocator on the host."""
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or "not enough memory" in str(error)


def _rough_bytes(size: Size, model: StackedVAE, config: TrainConfig) -> int:
    parameters = list(model.parameters())
    rows = size[0] * size[1] * config.batch_size * config.draws
    values = (
        model.target_dim + model.condition_dim + sum(p.shape[2] for p in parameters if p.ndim > 2)
    )
    return 4 * (4 * sum(p.numel() for p in parameters) + PER_VALUE * rows * values)


def _largest(n: int, fits: Callable[[int], bool]) -> int:
    """Largest m < n with fits(m), by bisection; 0 where there is none."""
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _too_large(model: StackedVAE, data: TrainingData, config: TrainConfig, needed: str) -> str:
    held = "resident" if data.resident else "streamed"
    return (
        f"one member alone needs {needed}: {model.architecture}, target_dim={model.target_dim}, "
        f"latent_dims={model.spec.latent_dims}, batch_size={config.batch_size}, {len(data)} "
        f"{held} samples; take a smaller batch_size or smaller networks, or stream the data "
        "(TrainingData.from_arrays(..., resident=False))"
    )


def _words(size: Size) -> str:
    return f"{size[0]} seeds x {size[1]} points"


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB"
