"""Centred training data, on the device or streamed to it, and the order in which members see it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.data import ImageLayout
from linvae.models.layers import by_point

__all__ = [
    "BatchOrder",
    "Binarisation",
    "HostRows",
    "Noise",
    "TrainingData",
    "free_bytes",
    "pick_device",
]

BLOCK = 4096  # samples hashed at a time
RESIDENT_SHARE = 0.5  # of the free memory that the data may fill; the rest is for the training


@dataclass(frozen=True, eq=False)
class HostRows:
    """An array that stays where it is (a np.memmap on its disk); its rows are centred when taken.

    It offers what is needed of a tensor (n, d) on `device`: shape, length, and rows by index.
    """

    values: npt.NDArray[np.floating]
    mean: npt.NDArray[np.float64] | float
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self.values.shape

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Rows, float32 on the device, with the shape of `index` in front."""
        chosen = index.cpu().numpy() if isinstance(index, Tensor) else index
        rows = torch.from_numpy(_centred(self.values[chosen], self.mean))
        if self.device.type != "cuda":
            return rows.to(self.device)
        return rows.pin_memory().to(self.device, non_blocking=True)


@dataclass(frozen=True)
class TrainingData:
    """Target (n, d) and condition (n, dx) or None, float32, centred by their means.

    Tensors where the data are resident on the device, `HostRows` where they are streamed; batches
    are the same bit for bit. `image`: where their coordinates lie in an image, None where they are
    no pixels. Sequences of tokens, int64 (n, T), have their `lengths` (n,): see `from_tokens`.
    """

    target: Tensor | HostRows
    condition: Tensor | HostRows | None
    image: ImageLayout | None = None
    lengths: Tensor | None = None

    @classmethod
    def from_arrays(
        cls,
        target: npt.NDArray[np.floating],
        condition: npt.NDArray[np.floating] | None = None,
        *,
        centered: bool = True,
        device: str | torch.device = "cpu",
        resident: bool | Literal["auto"] = True,
        image: ImageLayout | None = None,
    ) -> TrainingData:
        """Centre (unless told not to) and move to the device, or leave on the host.

        `resident="auto"`: on the device where all of it takes at most half of what is free there.
        `image` comes from `Dataset.image_layout`; ValueError where it is of other data.
        """
        if image is not None:
            image.check(target.shape[1], 0 if condition is None else condition.shape[1])
        device = torch.device(device)
        if resident == "auto":
            entries = target.size + (0 if condition is None else condition.size)
            resident = 4 * entries <= RESIDENT_SHARE * free_bytes(device)

        def rows(values: npt.NDArray[np.floating]) -> Tensor | HostRows:
            mean = values.mean(axis=0, dtype=np.float64) if centered else 0.0
            if not resident:
                return HostRows(values, mean, device)
            return torch.as_tensor(_centred(values, mean), device=device)

        return cls(rows(target), None if condition is None else rows(condition), image)

    @classmethod
    def from_tokens(
        cls, tokens: npt.NDArray[np.integer], device: str | torch.device = "cpu"
    ) -> TrainingData:
        """Sequences of tokens (n, T), each followed by -1 to the length of the longest.

        Batches are of about the same length (`BatchOrder`) and end with their longest sequence.
        """
        target = torch.as_tensor(tokens, dtype=torch.long, device=device)
        return cls(target, None, lengths=(target >= 0).sum(-1))

    @property
    def sizes(self) -> Tensor | None:
        """Predicted tokens of every sequence, (n,); None where the samples are no sequences."""
        return None if self.lengths is None else self.lengths - 1

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.target)

    @property
    def resident(self) -> bool:
        """True where the data lie on the device as a whole."""
        return isinstance(self.target, Tensor)

    @cached_property
    def sha256(self) -> str:
        """Of shapes, pixels and values as trained on: centred, rotated, preprocessed."""
        digest = hashlib.sha256(repr(self.image).encode())
        for values in (self.target, self.condition):
            digest.update(b"none" if values is None else str(tuple(values.shape)).encode())
            for start in range(0, 0 if values is None else len(values), BLOCK):
                assert values is not None
                block = values[start : start + BLOCK].cpu().contiguous()
                digest.update(block.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def take(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows `index` of both, with the shape of `index` in front."""
        if self.lengths is not None:
            return self.target[index][..., : int(self.lengths[index].max())], None
        return self.target[index], None if self.condition is None else self.condition[index]


def _centred(
    values: npt.NDArray[np.floating], mean: npt.NDArray[np.float64] | float
) -> npt.NDArray[np.float32]:
    """values - mean, rounded to float32 once."""
    centred = np.empty(values.shape, dtype=np.float32)
    np.subtract(values, mean, out=centred, casting="same_kind")
    return centred


def stream(purpose: str, seed: int) -> torch.Generator:
    """Random stream of one seed for one purpose, independent of its other streams.

    torch's generator keeps 32 bits of a seed, so that adding an offset above them changes nothing.
    """
    entropy = [seed, *purpose.encode()]
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


class BatchOrder:
    """Shuffled epochs without replacement, one order per seed; an incomplete batch is carried over.

    The order depends on seed and `purpose` only, never on what else is in the stack. With `lengths`
    of the samples a batch has samples of about the same length: those of an epoch sorted by it,
    ties at random, cut into batches, the batches shuffled; the few that fill no batch are others in
    every epoch.
    """

    def __init__(
        self,
        n_samples: int,
        batch_size: int,
        seeds: Sequence[int],
        lengths: Tensor | None = None,
        purpose: str = "order",
    ) -> None:
        self.n_samples = n_samples
        self.batch_size = min(batch_size, n_samples)
        self._lengths = None if lengths is None else lengths.cpu()
        self._generators = [stream(purpose, seed) for seed in seeds]
        self._queues = [torch.empty(0, dtype=torch.long) for _ in seeds]

    def next(self, rows: Sequence[int] | None = None) -> Tensor:
        """Indices of the next batch of the seeds at `rows`, None: of all, (rows, batch)."""
        batches = []
        for i in range(len(self._generators)) if rows is None else rows:
            if len(self._queues[i]) < self.batch_size:
                self._queues[i] = torch.cat([self._queues[i], self._epoch(self._generators[i])])
            batches.append(self._queues[i][: self.batch_size])
            self._queues[i] = self._queues[i][self.batch_size :]
        return torch.stack(batches)

    def _epoch(self, generator: torch.Generator) -> Tensor:
        epoch = torch.randperm(self.n_samples, generator=generator)
        if self._lengths is None:
            return epoch
        epoch = epoch[: self.n_samples - self.n_samples % self.batch_size]
        batches = epoch[torch.argsort(self._lengths[epoch], stable=True)].view(-1, self.batch_size)
        return batches[torch.randperm(len(batches), generator=generator)].flatten()

    def state(self) -> dict[str, Tensor]:
        """What is left of every seed's epoch, and the state of its generator."""
        queues = {f"queue.{i}": queue.clone() for i, queue in enumerate(self._queues)}
        return queues | _generator_states(self._generators)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self._queues = [state[f"queue.{i}"].clone() for i in range(len(self._queues))]
        _restore_generators(self._generators, state)


class Noise:
    """Normal noise for the latents, one stream per seed, matched in its moments.

    Every sample gets two `draws` of opposite sign, and each unit's noise is scaled to unit second
    moment in every batch. A linear decoder sees the noise of one unit through these moments only;
    their error was the largest of an observed threshold. The price: a unit's noise is uniform on a
    sphere, with fourth moment 3 b/(b + 2) in a batch of b instead of 3 (2.8 for 32, 2.95 for 128).

    One draw is the first of the two. Both signs are equally likely, so its gradient has the same
    expectation and more variance: the first moment is 0 on average only. `scale`: the standard
    deviation.
    """

    def __init__(
        self,
        widths: Sequence[int],
        seeds: Sequence[int],
        device: torch.device,
        draws: Literal[1, 2] = 2,
        purpose: str = "noise",
        scale: float = 1.0,
    ) -> None:
        self.widths, self.device, self.draws = tuple(widths), device, draws
        self._scale = scale
        self._generators = [stream(purpose, seed) for seed in seeds]

    def next(self, batch: int) -> list[Tensor]:
        """One (n_seeds, draws * batch, k_l) tensor per level; second half = minus the first."""
        total = sum(self.widths)
        draw = torch.stack([torch.randn(batch, total, generator=g) for g in self._generators])
        draw = draw / draw.square().mean(dim=1, keepdim=True).sqrt()
        if self._scale != 1:
            draw = draw * self._scale
        if self.draws == 2:
            draw = torch.cat([draw, -draw], dim=1)
        return list(torch.split(draw.to(self.device), list(self.widths), dim=-1))

    def state(self) -> dict[str, Tensor]:
        """The state of every seed's generator."""
        return _generator_states(self._generators)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        _restore_generators(self._generators, state)


class Binarisation:
    """Black and white pixels drawn again for every batch from their gray values as probabilities.

    One stream per seed, shared by its points. Source: Salakhutdinov & Murray 2008.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [stream("binarisation", seed) for seed in seeds]

    def next(self, target: Tensor) -> Tensor:
        """Of gray values (n_seeds, batch, d) or (n_seeds, n_points, batch, d), the same shape."""
        shape = target.shape[-2:]
        draws = torch.stack([torch.rand(shape, generator=g) for g in self._generators])
        draws = draws.to(target.device)
        return (by_point(draws) if target.ndim == 4 else draws).lt(target).to(target.dtype)

    def state(self) -> dict[str, Tensor]:
        """The state of every seed's generator."""
        return _generator_states(self._generators)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        _restore_generators(self._generators, state)


def _generator_states(generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    return {f"generator.{i}": g.get_state() for i, g in enumerate(generators)}


def _restore_generators(generators: Sequence[torch.Generator], state: Mapping[str, Tensor]) -> None:
    for i, generator in enumerate(generators):
        generator.set_state(state[f"generator.{i}"])


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes an accelerator where there is one, else the CPU."""
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device={name!r} cannot be used here ({str(error).splitlines()[0]}): "
                "use 'auto' or 'cpu'"
            ) from error
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on the device; on Linux hosts what the kernel calls available.

    On CUDA this includes what torch holds in its cache without using it. A host that does not say
    (no /proc/meminfo) counts as one without a limit.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2**62
    found = dict(line.split(":", 1) for line in lines)
    return 1024 * int(found["MemAvailable"].split()[0])
