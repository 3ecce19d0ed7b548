"""Stacked layers: many independent networks of one architecture, one batched matrix product each.

A stack holds `n_seeds` x `n_points` members, seed-major: member e = seed_index * n_points + point.
Activations have shape (n_seeds, n_points, batch, features). Inputs that all points of a seed share
(the data) have n_points = 1 there, and the first layer is then one large product per seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from linvae.models.activations import ACTIVATIONS

__all__ = ["StackShape", "StackedLinear", "StackedMLP", "by_point", "evaluating"]


class StackShape:
    """Seeds and number of sweep points of a stack; draws initial values per seed."""

    def __init__(self, seeds: Sequence[int], n_points: int) -> None:
        self.seeds = tuple(int(s) for s in seeds)
        self.n_points = n_points
        self._generators = [torch.Generator().manual_seed(s) for s in self.seeds]

    @property
    def generators(self) -> list[torch.Generator]:
        """The random stream of each seed, from which all of its initial values come."""
        return self._generators

    @property
    def n_seeds(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    def normal(self, *shape: int, std: float) -> nn.Parameter:
        """Parameter (n_seeds, n_points, *shape): members of one seed start from the same draw."""
        return self._drawn([torch.randn(*shape, generator=g) * std for g in self._generators])

    def uniform(self, *shape: int, bound: float) -> nn.Parameter:
        """As `normal`, uniform between -bound and bound."""
        return self._drawn(
            [(2 * torch.rand(*shape, generator=g) - 1) * bound for g in self._generators]
        )

    def _drawn(self, draws: list[Tensor]) -> nn.Parameter:
        stacked = torch.stack(draws)[:, None]
        return nn.Parameter(stacked.repeat(1, self.n_points, *[1] * draws[0].ndim))

    def constant(self, *shape: int, value: float = 0.0) -> nn.Parameter:
        """Parameter (n_seeds, n_points, *shape) filled with `value`."""
        return nn.Parameter(torch.full((self.n_seeds, self.n_points, *shape), value))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Running instead of batch statistics inside, as they were afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def by_point(data: Tensor) -> Tensor:
    """Data of a batch with an axis of points: of length 1 where all points of a seed share them.

    (n_seeds, batch, features) or (n_seeds, n_points, batch, features) -> the latter.
    """
    return data[:, None] if data.ndim == 3 else data


class StackedLinear(nn.Module):
    """y = weight x (+ bias), weight (n_seeds, n_points, out, in).

    The last inputs can be given as `shared`, (n_seeds, 1, batch, extra): the same for all points
    and for every draw of x, so that their product is computed once.
    """

    def __init__(self, stack: StackShape, d_in: int, d_out: int, *, std: float, bias: bool) -> None:
        super().__init__()
        self.weight = stack.normal(d_out, d_in, std=std)
        self.bias = stack.constant(d_out) if bias else None

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """(n_seeds, n_points or 1, rows, in) -> (n_seeds, n_points, rows, out)."""
        weight, from_shared = self._parts(shared)
        y = _product(x, weight, self.bias)
        return y if from_shared is None else y + _over_draws(from_shared, x)

    def hidden(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """What the layer is linear in: its own input."""
        return x

    def squared_error(self, x: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """|target - y(x, shared)|^2 of every row of x, (n_seeds, n_points, draws * batch).

        `target` (n_seeds, 1, batch, out). With W = (weight, bias), h = (x, 1) and what `shared`
        gives taken off the target, it equals |target|^2 - 2 h' W' target + h' W' W h, which needs
        no output per point and draw.
        """
        weight, from_shared = self._parts(shared)
        if from_shared is not None:
            target = target - from_shared
        width, rows, dim = x.shape[-1], x.shape[2], target.shape[-1]
        if 4 * width > rows or 2 * width > dim:  # W' W would cost more than the output
            output = _product(x, weight, self.bias).mT
            draws = output.view(*output.shape[:3], -1, target.shape[2])
            error: Tensor = draws - target.mT.contiguous()[:, :, :, None]  # draws, batch last
            return error.square().sum(2).flatten(2)
        with torch.autocast(x.device.type, enabled=False):  # terms that cancel: never bfloat16
            h = x.to(target.dtype)
            if self.bias is not None:
                weight = torch.cat([weight, self.bias[..., None]], dim=-1)
                h = torch.cat([h, torch.ones_like(h[..., :1])], dim=-1)
            product = _over_draws(_product(target, weight.mT), x)  # no rows copied per point
            square = _over_draws(target.square().sum(-1, keepdim=True), x)[..., 0]
            return square + (h * (h @ (weight.mT @ weight) - 2 * product)).sum(-1)

    def _parts(self, shared: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight of x, and what the shared inputs contribute."""
        if shared is None:
            return self.weight, None
        extra = shared.shape[-1]
        own = self.weight.shape[-1] - extra
        weight, on_shared = torch.split(self.weight, [own, extra], dim=-1)
        return weight, _product(shared, on_shared)


class StackedMLP(nn.Module):
    """in -> widths -> out with an activation after each hidden layer.

    `input_scale` is the norm of a typical input. Hidden units start with a second moment of 1 for
    inputs of that norm (`linvae.models.activations`), the output layer so small that the network
    starts close to its bias.

    With a `latent_dim` every hidden layer reads the unshared inputs, so many (Dieng et al. 2019):
    half of its variance comes from them.
    """

    def __init__(
        self,
        stack: StackShape,
        d_in: int,
        widths: Sequence[int],
        d_out: int,
        *,
        input_scale: float,
        activation: str = "relu",
        latent_dim: int = 0,
    ) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[activation]
        gain, moment = self._activation.gain, self._activation.second_moment
        self.inner = StackedLinear(stack, d_in, widths[0], std=gain / input_scale, bias=True)
        own = gain / math.sqrt(1 + (latent_dim > 0))
        self.middle = nn.ModuleList(
            StackedLinear(stack, below, width, std=own / math.sqrt(below * moment), bias=True)
            for below, width in itertools.pairwise(widths)
        )
        self.feeds = nn.ModuleList(
            StackedLinear(stack, latent_dim, width, std=own / math.sqrt(latent_dim), bias=False)
            for width in (widths[1:] if latent_dim else ())
        )
        self.outer = StackedLinear(
            stack, widths[-1], d_out, std=0.1 / math.sqrt(widths[-1]), bias=True
        )

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """As `StackedLinear.forward`."""
        y: Tensor = self.outer(self.hidden(x, shared))
        return y

    def hidden(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """The last hidden layer, (n_seeds, n_points, rows, widths[-1])."""
        h = self._activation(self.inner(x, shared))
        for i, layer in enumerate(self.middle):
            h = self._activation(layer(h) + self.feeds[i](x) if self.feeds else layer(h))
        return h

    def squared_error(self, x: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """|target - y(x, shared)|^2, as `StackedLinear.squared_error`."""
        return self.outer.squared_error(self.hidden(x, shared), target)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """weight x + bias; where all points of a seed share the input, one large product per seed.

    Features come before rows in memory: the gradient of a weight then is (out, in) as it stands,
    where (rows, features) would make every step copy its transpose.
    """
    seeds, points, d_out, d_in = weight.shape
    wide = x.shape[1] == 1 and points > 1
    members = (seeds, points * d_out) if wide else (seeds * points, d_out)
    flat = weight.reshape(*members, d_in)
    columns = x.expand(seeds, -1, -1, -1).flatten(0, 1).mT
    y = flat @ columns if bias is None else torch.baddbmm(bias.reshape(*members, 1), flat, columns)
    return y.view(seeds, points, d_out, -1).mT


def _over_draws(values: Tensor, x: Tensor) -> Tensor:
    """`values` per sample repeated for every draw of x."""
    return values.repeat(1, 1, x.shape[2] // values.shape[2], 1)
