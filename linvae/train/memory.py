"""Memory that training a stack will take, counted before it starts.

Two whole steps (forward, backward, optimiser) run on fake tensors, which have shapes and no
entries: every tensor that torch makes is seen, and its bytes count from then until it is freed.
The peak is therefore that of the very code that trains, for any network. Two steps, because what is
left of the first is still there in the second.

On a Linux host more is resident than is in use: glibc cuts blocks below 32 MiB from a heap and
keeps what was freed between others. Measured, 1.3 to 1.7 times the part that is not the data, and
with convolutions, whose scratch space torch does not see, 1.7 to 2.6 times; the prediction has
`HOST_HEAP` and `IMAGE_HEAP`, the latter right to a quarter. With MALLOC_MMAP_THRESHOLD_=1048576 in
the environment the heap is not used for them, and the count alone is right within a few per cent,
but for convolutions (analysis/benchmarks/memory.json).

Not counted: torch itself, the stacks of its threads, the workspaces of the libraries below it
(8 to 32 MiB for cuBLAS). A compiled model needs less.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linvae.models.chain import StackedVAE
from linvae.models.reconstruction import Routing
from linvae.spec import LatentReconstruction
from linvae.train.config import TrainConfig
from linvae.train.data import BatchOrder, Noise, TrainingData
from linvae.train.loop import Prices, new_optimizer, update

__all__ = ["MemoryPrediction", "predict_memory"]

HOST_HEAP, IMAGE_HEAP = 1.45, 2.1  # resident over in use, without the data, on a host


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes on the device.

    | field       | meaning                                                                  |
    |-------------|--------------------------------------------------------------------------|
    | parameters  | of all members                                                           |
    | gradients   | the same again                                                           |
    | optimizer   | state: two moments of Adam, the momentum of SGD; kept copies, early stop |
    | data        | resident target and condition, and the order of an epoch                 |
    | activations | largest sum of the rest during a forward pass                            |
    | allocator   | what the host's allocator keeps on top, an estimate; 0 on CUDA           |
    | in_use      | peak of all tensors; below their sum: the backward pass frees as it goes |
    """

    parameters: int
    gradients: int
    optimizer: int
    data: int
    activations: int
    allocator: int
    in_use: int

    @property
    def total(self) -> int:
        """What is needed: in use, and the allocator's."""
        return self.in_use + self.allocator


def predict_memory(
    build: Callable[[], StackedVAE],
    config: TrainConfig,
    *,
    n_samples: int,
    resident: bool = True,
    device: str | torch.device = "cpu",
    reconstructs: bool = False,
) -> MemoryPrediction:
    """Peak of training `build()` on `n_samples` samples, resident on the `device` or streamed.

    `reconstructs`: with a latent reconstruction loss, for which what is decoded is encoded again.
    `build` is called where tensors have no entries: it may call `StackedVAE(...)`, not read data.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to import

    with FakeTensorMode(), LiveBytes() as live:
        model = build()
        parameters = live.now
        data = _fake_data(model, n_samples, resident)
        order = BatchOrder(n_samples, config.batch_size, model.seeds)
        order.next()
        held = live.now - parameters
        fixed, forward_peak = _two_steps(model, data, config, live, reconstructs)
    heap = IMAGE_HEAP if model.architecture.needs_image else HOST_HEAP
    kept = parameters if config.stop_tolerance is not None else 0
    state, in_use = fixed - parameters - held, live.peak + kept
    return MemoryPrediction(
        parameters=parameters,
        gradients=parameters,
        optimizer=state + kept,
        data=held,
        activations=forward_peak - fixed,
        allocator=round((heap - 1) * (in_use - held)) * (torch.device(device).type == "cpu"),
        in_use=in_use,
    )


def _two_steps(
    model: StackedVAE, data: TrainingData, config: TrainConfig, live: LiveBytes, reconstructs: bool
) -> tuple[int, int]:
    """What stays from step to step but the gradients, and the peak of the second forward pass."""
    before = live.now
    optimizer = new_optimizer(model, config)
    noise = Noise(model.spec.latent_dims, model.seeds, torch.device("cpu"), config.draws)
    batch = min(config.batch_size, len(data))
    index = torch.zeros(len(model.seeds), batch, dtype=torch.long)
    prices = _prices(model, reconstructs)
    forward_peaks: list[int] = []

    def forward(*arguments: Any) -> Any:
        highest, live.peak = live.peak, live.now
        terms = model(*arguments)
        forward_peaks.append(live.peak)
        live.peak = max(highest, live.peak)
        return terms

    terms: Any = None  # as in `train`, the last step's are there until this step's replace them
    for _ in range(2):
        target, condition = data.take(index)
        draw = noise.next(batch)
        terms, _members = update(
            model, optimizer, (target, condition, draw), prices, config, forward
        )
    state = sum(
        value.untyped_storage().nbytes()
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    )
    del terms
    return before + state, forward_peaks[-1]


def _prices(model: StackedVAE, reconstructs: bool) -> Prices:
    """Of a step; the loss that takes the most, whose gradient goes everywhere."""
    shape = (len(model.seeds), model.n_points)
    betas = torch.ones(*shape, len(model.spec.latent_dims))
    if not reconstructs:
        return Prices(betas)
    routing = Routing.of([LatentReconstruction()] * model.n_points, torch.device("cpu"))
    return Prices(betas, gammas=torch.ones(shape), routing=routing)


def _fake_data(model: StackedVAE, n_samples: int, resident: bool) -> TrainingData:
    """Data of the model's dimensions; streamed ones are one row, expanded, that takes no memory."""

    def rows(dim: int) -> Tensor:
        return (
            torch.empty(n_samples, dim) if resident else torch.empty(1, dim).expand(n_samples, -1)
        )

    condition = rows(model.condition_dim) if model.condition_dim else None
    return TrainingData(rows(model.target_dim), condition)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all tensors made while it is on and not yet freed: `now`, and the `peak` of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and note what it made."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)
