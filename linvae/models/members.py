"""Any torch network as a stack whose members run one after another.

Dense layers of a stack are batched products (`linvae.models.layers`). Convolutions are not: on a
CPU one call per member was as quick as one grouped convolution of all, quicker where the maps are
large, and two to three times as quick as unfolding into batched products; and a member then is
bit for bit what it is alone.

The network of one member, `MemberNetwork`, is written as for a single VAE. `StackedMembers` keeps
its parameters and running statistics as (n_seeds, n_points, ...), as every layer of a stack does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from linvae.models.layers import StackShape

__all__ = ["Collection", "MemberNetwork", "Placement", "StackedMembers"]


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
        at = torch.arange(height * width * channels).view(height, width, channels)
        order = at.permute(2, 0, 1).flatten()  # position of each value of a (C, H, W) image
        source = torch.full((len(order),), len(positions))  # a feature that is 0
        source[torch.tensor(positions)] = torch.arange(len(positions))
        self.register_buffer("index", source[order], persistent=False)
        self._padded = bool((source == len(positions)).any())
        self._in_order = torch.equal(self.index, torch.arange(len(positions)))

    def forward(self, values: Tensor) -> Tensor:
        """The images."""
        if self._gain != 1:
            values = values * self._gain
        if self._padded:
            values = torch.cat([values, torch.zeros_like(values[..., :1])], dim=-1)
        if not self._in_order:
            values = values[..., self.index]
        return torch.unflatten(values, -1, self._shape)


class Collection(nn.Module):
    """Image -> flat values at `positions`: (..., C, H, W) -> (..., d), times `gain`."""

    index: Tensor

    def __init__(
        self, shape: tuple[int, int, int], positions: Sequence[int], gain: float = 1.0
    ) -> None:
        super().__init__()
        height, width, channels = shape
        self._gain = gain
        at = torch.arange(height * width * channels).view(channels, height, width)
        index = at.permute(1, 2, 0).flatten()[torch.tensor(positions)]
        self.register_buffer("index", index, persistent=False)
        self._in_order = torch.equal(index, torch.arange(at.numel()))

    def forward(self, images: Tensor) -> Tensor:
        """The values."""
        values = images.flatten(-3)
        if not self._in_order:
            values = values[..., self.index]
        return values if self._gain == 1 else values * self._gain


class StackedMembers(nn.Module):
    """A stack of `MemberNetwork`s, with the interface of the dense stacks.

    `build` makes one member with initial values from the generator it is given. `reads`,
    `reads_shared` and `reads_target` turn flat inputs into what the network reads, `writes` turns
    its output into flat values.
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
    ) -> None:
        super().__init__()
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
        """Flat inputs (n_seeds, n_points or 1, rows, in) -> (n_seeds, n_points, rows, out).

        `shared` and `target` (n_seeds, 1, batch, ...), rows = draws * batch.
        """
        return self._stacked(self._outputs(x, shared, target))

    def hidden(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """The last hidden layer, (n_seeds, n_points, rows, ...)."""
        return self._stacked(self._outputs(x, shared, None, hidden_only=True))

    def squared_error(self, x: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """|target - y(x, shared)|^2 of every row of x, (n_seeds, n_points, draws * batch)."""
        outputs = self._outputs(x, shared, target if self.autoregressive else None)
        flat = _members(target, self._points)
        errors = [
            (torch.unflatten(y, 0, (-1, len(t))) - t).square().sum(-1).flatten()
            for y, t in zip(outputs, flat, strict=True)
        ]
        return self._stacked(errors)

    @property
    def _points(self) -> int:
        return int(getattr(self, _flat(self._names[0])).shape[1])

    def _outputs(
        self,
        x: Tensor,
        shared: Tensor | None,
        target: Tensor | None,
        *,
        hidden_only: bool = False,
    ) -> list[Tensor]:
        """Output of every member, flat unless `hidden_only`."""
        network, points = self._network[0], self._points
        network.train(self.training)
        values = [
            getattr(self, _flat(name)).flatten(0, 1).unbind(0)
            for name in (*self._names, *self._statistics)
        ]
        inputs = [
            _members(x if self.reads is None else self.reads(x), points),
            _optional(shared, self.reads_shared, points, len(values[0])),
            _optional(target, self.reads_target, points, len(values[0])),
        ]
        names = (*self._names, *self._statistics)
        outputs = []
        for own, *arguments in zip(zip(*values, strict=True), *inputs, strict=True):
            member = dict(zip(names, own, strict=True))
            y = functional_call(network, member, tuple(arguments), {"hidden_only": hidden_only})
            outputs.append(y if hidden_only or self.writes is None else self.writes(y))
        return outputs

    def _stacked(self, outputs: list[Tensor]) -> Tensor:
        return torch.unflatten(torch.stack(outputs), 0, (-1, self._points))


def _flat(name: str) -> str:
    return name.replace(".", "__")  # torch takes no dot in a name


def _members(x: Tensor, points: int) -> list[Tensor]:
    """The input of every member in turn, seed-major; x has n_points 1 where they share it."""
    own = list(x.flatten(0, 1).unbind(0))
    return own if x.shape[1] == points else [v for v in own for _ in range(points)]


def _optional(
    x: Tensor | None, reads: nn.Module | None, points: int, n_members: int
) -> Sequence[Tensor | None]:
    if x is None:
        return [None] * n_members
    return _members(x if reads is None else reads(x), points)
