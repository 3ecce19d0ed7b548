"""Any torch network as a stack.

Members with small maps run at once under `torch.func.vmap`: a convolution of members with weights
of their own becomes a grouped convolution. On a CPU large maps run one member after another, whose
convolutions are the quicker ones there (`analysis/benchmarks/maps.py`), and so do networks with
running statistics, which vmap cannot update.

The network of one member, `MemberNetwork`, is written as for a single VAE. `StackedMembers` keeps
its parameters and running statistics as (n_seeds, n_points, ...), as every layer of a stack does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from linvae.models.layers import StackShape

__all__ = ["Collection", "MemberNetwork", "Placement", "StackedMembers"]

LARGE = 2**15  # pixels of all rows of a member, from which on a CPU runs members one by one


class MemberNetwork(nn.Module):
    """One member's network: (rows, ...) -> (rows, ...).

    `shared` (batch, ...) is the same for every draw of x, rows = draws * batch; `target`
    (rows, ...) is read by an autoregressive network only.
    """

    autoregressive = False

    def forward(
        self,
        x: Tensor,
        shared: Tensor | None = None,
        target: Tensor | None = None,
        *,
        hidden_only: bool = False,
    ) -> Tensor:
        """The output, or the last hidden layer before the linear head."""
        raise NotImplementedError


class Placement(nn.Module):
    """Flat values -> image: (..., n, features) -> (..., n, C, H, W), times `gain`; 0 elsewhere.

    `positions`: index of each feature among the values of the image, the channels of a pixel
    together.
    """

    index: Tensor

    def __init__(
        self, shape: tuple[int, int, int], positions: Sequence[int], gain: float = 1.0
    ) -> None:
        super().__init__()
        height, width, channels = shape
        self._shape, self._gain = (channels, height, width), gain
        at = np.arange(height * width * channels).reshape(height, width, channels)
        order = at.transpose(2, 0, 1).ravel()  # position of each value of a (C, H, W) image
        source = np.full(len(order), len(positions))  # a feature that is 0
        source[list(positions)] = np.arange(len(positions))
        index = source[order]
        self.register_buffer("index", torch.tensor(index.tolist()), persistent=False)
        self._padded = bool((source == len(positions)).any())
        self._whole = _is_whole(shape, positions)

    def forward(self, values: Tensor) -> Tensor:
        """The images."""
        if self._gain != 1:
            values = values * self._gain
        if self._whole:
            channels, height, width = self._shape
            return torch.unflatten(values, -1, (height, width, channels)).movedim(-1, -3)
        if self._padded:
            values = torch.cat([values, torch.zeros_like(values[..., :1])], dim=-1)
        return torch.unflatten(values[..., self.index], -1, self._shape)


class Collection(nn.Module):
    """Image -> flat values at `positions`: (..., C, H, W) -> (..., d), times `gain`."""

    index: Tensor

    def __init__(
        self, shape: tuple[int, int, int], positions: Sequence[int], gain: float = 1.0
    ) -> None:
        super().__init__()
        height, width, channels = shape
        self._gain, self._whole = gain, _is_whole(shape, positions)
        at = np.arange(height * width * channels).reshape(channels, height, width)
        index = at.transpose(1, 2, 0).ravel()[list(positions)]
        self.register_buffer("index", torch.tensor(index.tolist()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The values."""
        if self._whole:
            values = images.movedim(-3, -1).flatten(-3)
        else:
            values = images.flatten(-3)[..., self.index]
        return values if self._gain == 1 else values * self._gain


def _is_whole(shape: tuple[int, int, int], positions: Sequence[int]) -> bool:
    """True for all values of an image in their order: a view, where other places are gathered."""
    return np.array_equal(positions, np.arange(math.prod(shape)))


class StackedMembers(nn.Module):
    """A stack of `MemberNetwork`s, with the interface of the dense stacks.

    `build` makes one member with initial values from the generator it is given. `reads`,
    `reads_shared` and `reads_target` turn flat inputs into what the network reads, `writes` turns
    its output into flat values. `pixels` of an image, 0 without one.
    """

    def __init__(
        self,
        stack: StackShape,
        build: Callable[[torch.Generator], MemberNetwork],
        *,
        reads: nn.Module | None = None,
        reads_shared: nn.Module | None = None,
        reads_target: nn.Module | None = None,
        writes: nn.Module | None = None,
        pixels: int = 0,
    ) -> None:
        super().__init__()
        self._pixels = pixels
        networks = [build(generator) for generator in stack.generators]
        self._network = (networks[0],)  # a tuple: its own values are no parameters of the stack
        self.reads, self.reads_shared = reads, reads_shared
        self.reads_target, self.writes = reads_target, writes
        values = [dict(network.named_parameters()) for network in networks]
        self._names = tuple(values[0])
        for name in self._names:
            drawn = torch.stack([v[name].detach() for v in values])[:, None]
            repeated = drawn.repeat(1, stack.n_points, *[1] * (drawn.ndim - 2))
            self.register_parameter(_flat(name), nn.Parameter(repeated))
        self._statistics = tuple(dict(networks[0].named_buffers()))
        for name, value in networks[0].named_buffers():
            repeated = value.repeat(stack.n_seeds, stack.n_points, *[1] * value.ndim)
            self.register_buffer(_flat(name), repeated)

    @property
    def autoregressive(self) -> bool:
        """True where the network reads the target it predicts."""
        return self._network[0].autoregressive

    def forward(
        self, x: Tensor, shared: Tensor | None = None, target: Tensor | None = None
    ) -> Tensor:
        """Flat inputs (n_seeds or 1, n_points or 1, rows, in) -> (n_seeds, n_points, rows, out).

        `shared` and `target` (n_seeds or 1, 1, batch, ...), rows = draws * batch.
        """
        y = self._outputs(x, shared, target)
        return y if self.writes is None else self.writes(y)

    def hidden(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """The last hidden layer, (n_seeds, n_points, rows, ...)."""
        return self._outputs(x, shared, None, hidden_only=True)

    @property
    def member(self) -> MemberNetwork:
        """The network of one member; the values it holds are none of the stack's."""
        return self._network[0]

    def squared_error(self, x: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """|target - y(x, shared)|^2 of every row of x, (n_seeds, n_points, draws * batch)."""
        output = self(x, shared, target if self.autoregressive else None)
        draws = torch.unflatten(output, 2, (-1, target.shape[2]))
        error: Tensor = (draws - target[:, :, None]).square().sum(-1)
        return error.flatten(2)

    @property
    def _shape(self) -> tuple[int, int]:
        """(n_seeds, n_points)."""
        n_seeds, n_points = getattr(self, _flat(self._names[0])).shape[:2]
        return n_seeds, n_points

    def _outputs(
        self,
        x: Tensor,
        shared: Tensor | None,
        target: Tensor | None,
        *,
        hidden_only: bool = False,
    ) -> Tensor:
        """What the network gives for every member, (n_seeds, n_points, rows, ...)."""
        network, shape = self._network[0], self._shape
        network.train(self.training)
        names = (*self._names, *self._statistics)
        values = {name: getattr(self, _flat(name)).flatten(0, 1) for name in names}
        inputs = (
            _members(x, self.reads, shape),
            _members(shared, self.reads_shared, shape),
            _members(target, self.reads_target, shape),
        )

        def one(member: dict[str, Tensor], arguments: tuple[Tensor | None, ...]) -> Tensor:
            y: Tensor = functional_call(network, member, arguments, {"hidden_only": hidden_only})
            return y

        run = _one_by_one if self._statistics or self._has_large_maps(x) else _at_once
        return torch.unflatten(run(one, values, inputs), 0, shape)

    def _has_large_maps(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and x.shape[2] * self._pixels >= LARGE


Inputs = tuple[Tensor | None, ...]
One = Callable[[dict[str, Tensor], Inputs], Tensor]


def _at_once(one: One, values: dict[str, Tensor], inputs: Inputs) -> Tensor:
    given = tuple(None if v is None else 0 for v in inputs)
    outputs: Tensor = vmap(one, in_dims=(0, given))(values, inputs)
    return outputs


def _one_by_one(one: One, values: dict[str, Tensor], inputs: Inputs) -> Tensor:
    n_members = len(next(iter(values.values())))
    return torch.stack(
        [
            one(
                {name: v[m] for name, v in values.items()},
                tuple(None if v is None else v[m] for v in inputs),
            )
            for m in range(n_members)
        ]
    )


def _flat(name: str) -> str:
    return name.replace(".", "__")  # torch takes no dot in a name


def _members(x: Tensor | None, reads: nn.Module | None, shape: tuple[int, int]) -> Tensor | None:
    """The input of every member, seed-major; x has 1 where all seeds or all points share it."""
    if x is None:
        return None
    read: Tensor = x if reads is None else reads(x)
    return read.expand(*shape, *[-1] * (read.ndim - 2)).flatten(0, 1)
