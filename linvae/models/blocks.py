"""Layers and networks of one member: dense, convolutional and residual (He et al. 2016).

Convolutions halve height and width by stride 2, rounding up; transposed ones double them, to the
size given. Hidden units start with a second moment of about 1 for inputs of that second moment;
layers that batch normalisation follows have no bias, which it would take away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from linvae.models.activations import ACTIVATIONS
from linvae.models.architecture import Architecture
from linvae.models.members import MemberNetwork

__all__ = [
    "Activate",
    "BatchNorm",
    "Doubling",
    "Layers",
    "Network",
    "conv_decoder",
    "convolution",
    "dense",
    "dense_network",
    "hidden_layer",
    "image_encoder",
]

HEAD_STD = 0.1  # of an output where the network starts
KERNEL = 4  # of strided and transposed convolutions: a multiple of the stride leaves no pattern


class BatchNorm(nn.Module):
    """(x - mean)/sqrt(variance) times gain plus bias, per channel.

    Mean and variance are those of the batch (and of all positions of a map) while training, else
    running means over batches, each new one with weight 0.1 (Ioffe & Szegedy 2015).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, channels, ...) -> the same."""
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.gain, self.bias, self.training, 0.1, 1e-5)


class Activate(nn.Module):
    """An activation as a layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        """a(x)."""
        return self._activation(x)


def dense(
    generator: Generator, d_in: int, d_out: int, *, std: float, bias: bool = True
) -> nn.Linear:
    """A linear layer with weights N(0, std^2) and no offset."""
    layer = nn.Linear(d_in, d_out, bias=bias, device="meta")
    _draw(layer, std, generator)
    return layer


def convolution(
    generator: Generator,
    d_in: int,
    d_out: int,
    kernel: int,
    *,
    std: float,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    bias: bool = True,
) -> nn.Conv2d:
    """A convolution with weights N(0, std^2) and no offset."""
    layer = nn.Conv2d(d_in, d_out, kernel, stride=stride, padding=padding, bias=bias, device="meta")
    _draw(layer, std, generator)
    return layer


@torch.no_grad()
def _draw(layer: nn.Linear | nn.Conv2d, std: float, generator: Generator) -> None:
    # made on "meta": torch's own initial values would come from its global stream
    weight = torch.empty(layer.weight.shape).normal_(0, std, generator=generator)
    layer.weight = nn.Parameter(weight)
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.zeros(layer.bias.shape))


class Doubling(nn.Module):
    """A transposed convolution of stride 2 onto maps of the size given, kernel 4, padding 1.

    Outputs 2p - 1 and 2p see the inputs p - 1 and p: a convolution of 2x2 that gives both, of every
    row and column, is the same map; on a CPU its forward pass took a third of the time.
    """

    def __init__(
        self,
        generator: Generator,
        d_in: int,
        d_out: int,
        size: tuple[int, int],
        *,
        std: float,
        bias: bool,
    ) -> None:
        super().__init__()
        self._size = size
        weight = torch.randn(4 * d_out, d_in, 2, 2, generator=generator)
        self.weight = nn.Parameter(std * weight)
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(rows, d_in, H, W) -> (rows, d_out, *size), H and W half of size, rounded up."""
        y = self._arranged(F.conv2d(x, self.weight, padding=1))
        return y if self.bias is None else y + self.bias[:, None, None]

    def patches(self, x: Tensor) -> Tensor:
        """What the rows of the weight see, (rows, positions, 4 d_in)."""
        return F.unfold(x, 2, padding=1).mT

    def sources(self) -> Tensor:
        """Which row of the weight and which patch each output is made of, 2 x (d_out, *size)."""
        rows, (height, width) = len(self.weight), (-(-n // 2) + 1 for n in self._size)
        every = torch.arange(rows * height * width).view(1, rows, height, width)
        at = self._arranged(every)[0]
        return torch.stack([at // (height * width), at % (height * width)])

    def _arranged(self, products: Tensor) -> Tensor:
        """Outputs of the four parities side by side, cut to size."""
        height, width = self._size
        # as F.pixel_shuffle, in a third of its time
        parts = torch.unflatten(products, 1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        image: Tensor = parts.flatten(4, 5).flatten(2, 3)
        return image[:, :, 1 : 1 + height, 1 : 1 + width]


class Fed(nn.Module):
    """layer(h) + feed(z), the same at every position of a map (Dieng et al. 2019)."""

    def __init__(self, layer: nn.Module, feed: nn.Module) -> None:
        super().__init__()
        self.layer, self.feed = layer, feed

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """(rows, d_in, ...) and (rows, k) -> (rows, d_out, ...)."""
        y: Tensor = self.layer(h)
        fed: Tensor = self.feed(z)
        return y + fed.view(*fed.shape, *[1] * (y.ndim - 2))


class Layers(nn.ModuleList):
    """One after another; those that are `Fed` read z as well."""

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """The last one's output."""
        for layer in self:
            h = layer(h, z) if isinstance(layer, Fed) else layer(h)
        return h


class Network(MemberNetwork):
    """head(rest(first(x) + condition(shared), x)); without a condition head(rest(first(x), x))."""

    def __init__(
        self,
        first: nn.Module,
        rest: Layers,
        head: nn.Module,
        condition: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.first, self.rest, self.head, self.condition = first, rest, head, condition

    def forward(
        self,
        x: Tensor,
        shared: Tensor | None = None,
        target: Tensor | None = None,
        *,
        hidden_only: bool = False,
    ) -> Tensor:
        """As `MemberNetwork.forward`."""
        h = self.first(x)
        if self.condition is not None:
            given = self.condition(shared)
            h = (torch.unflatten(h, 0, (-1, len(given))) + given).flatten(0, 1)
        h = self.rest(h, x)
        y: Tensor = h if hidden_only else self.head(h)
        return y


class ResidualBlock(nn.Module):
    """a(x + second(a(first(x)))), two 3x3 convolutions; a 1x1 one on x where the shape changes."""

    def __init__(
        self, generator: Generator, architecture: Architecture, d_in: int, d_out: int, stride: int
    ) -> None:
        super().__init__()
        bias = not architecture.batch_norm
        std = _std(architecture, 9 * d_in)
        first = convolution(generator, d_in, d_out, 3, std=std, stride=stride, padding=1, bias=bias)
        std = _std(architecture, 9 * d_out)
        second = convolution(generator, d_out, d_out, 3, std=std, padding=1, bias=bias)
        self.branch = nn.Sequential(
            *hidden_layer(first, architecture, d_out), second, *_norm(architecture, d_out)
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or d_in != d_out:
            std = 1 / math.sqrt(d_in)
            on_x = convolution(generator, d_in, d_out, 1, std=std, stride=stride, bias=bias)
            self.shortcut = nn.Sequential(on_x, *_norm(architecture, d_out))
        self.activate = Activate(architecture.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, d_in, H, W) -> (rows, d_out, H/stride, W/stride)."""
        y: Tensor = self.activate(self.shortcut(x) + self.branch(x))
        return y


def hidden_layer(layer: nn.Module, architecture: Architecture, width: int) -> list[nn.Module]:
    """The layer, its normalisation where there is one, and the activation."""
    return [layer, *_norm(architecture, width), Activate(architecture.activation)]


def dense_network(
    generator: Generator,
    architecture: Architecture,
    widths: Sequence[int],
    d_in: int,
    d_out: int,
    *,
    input_norm: float,
    condition_dim: int = 0,
    latent_skip: bool = False,
) -> Network:
    """in -> widths -> out for inputs of a typical norm; `condition_dim` of shared inputs.

    With `latent_skip` every hidden layer reads the inputs that are not shared.
    """
    std = ACTIVATIONS[architecture.activation].gain / input_norm
    bias = not architecture.batch_norm
    first = dense(generator, d_in, widths[0], std=std, bias=bias)
    condition = None
    if condition_dim:
        condition = dense(generator, condition_dim, widths[0], std=std, bias=False)
    rest = [
        *hidden_layer(nn.Identity(), architecture, widths[0]),
        *_dense_layers(generator, architecture, widths, d_in * latent_skip),
    ]
    head = dense(generator, widths[-1], d_out, std=HEAD_STD / math.sqrt(widths[-1]))
    return Network(first, Layers(rest), head, condition)


def image_encoder(
    generator: Generator,
    architecture: Architecture,
    shape: tuple[int, int, int],
    d_out: int,
    *,
    output_std: float = HEAD_STD,
    output_bias: bool = True,
) -> Network:
    """(rows, C, H, W) -> maps -> hidden layers -> (rows, d_out), pixels of unit variance."""
    maps = _residual_maps if architecture.encoder == "resnet" else _strided_maps
    layers = maps(generator, architecture, shape)
    height, width = _sizes(architecture, shape)[-1]
    widths = (architecture.channels[-1] * height * width, *architecture.encoder_widths)
    layers += [nn.Flatten(), *_dense_layers(generator, architecture, widths)]
    moment = ACTIVATIONS[architecture.activation].second_moment
    std = output_std / math.sqrt(widths[-1] * moment)
    head = dense(generator, widths[-1], d_out, std=std, bias=output_bias)
    return Network(nn.Sequential(*layers), Layers(), head)


def conv_decoder(
    generator: Generator,
    architecture: Architecture,
    shape: tuple[int, int, int],
    latent_dim: int,
    *,
    sees_condition: bool,
) -> Network:
    """(rows, k) -> hidden layers -> feature maps -> (rows, C, H, W), pixels of unit variance.

    A condition, an image, reaches the first hidden layer through an encoder of its own.
    """
    sizes = _sizes(architecture, shape)
    (height, width), channels = sizes[-1], architecture.channels
    widths = (*architecture.decoder_widths, channels[-1] * height * width)
    gain = ACTIVATIONS[architecture.activation].gain / math.sqrt(1 + sees_condition)
    bias, fed = not architecture.batch_norm, latent_dim * architecture.latent_skip
    first = dense(generator, latent_dim, widths[0], std=gain / math.sqrt(latent_dim), bias=bias)
    condition = None
    if sees_condition:
        condition = image_encoder(
            generator, architecture, shape, widths[0], output_std=gain, output_bias=False
        )
    rest = [
        *hidden_layer(nn.Identity(), architecture, widths[0]),
        *_dense_layers(generator, architecture, widths, fed),
        nn.Unflatten(1, (channels[-1], height, width)),
    ]
    for level in range(len(channels) - 1, 0, -1):
        d_out, fan_in = channels[level - 1], KERNEL**2 // 4 * channels[level]
        std = _std(architecture, fan_in, fed)
        up = Doubling(generator, channels[level], d_out, sizes[level], std=std, bias=bias)
        rest += hidden_layer(_fed(generator, architecture, up, d_out, fed), architecture, d_out)
    moment = ACTIVATIONS[architecture.activation].second_moment
    std = HEAD_STD / math.sqrt(KERNEL**2 // 4 * channels[0] * moment)
    head = Doubling(generator, channels[0], shape[2], sizes[0], std=std, bias=True)
    return Network(first, Layers(rest), head, condition)


def _norm(architecture: Architecture, channels: int) -> list[nn.Module]:
    return [BatchNorm(channels)] if architecture.batch_norm else []


def _std(architecture: Architecture, fan_in: int, latent_dim: int = 0) -> float:
    """Of the weights of a layer on `fan_in` hidden units; where z is fed too, it has a half."""
    activation = ACTIVATIONS[architecture.activation]
    share = 0.5 if latent_dim else 1.0
    return activation.gain * math.sqrt(share / (fan_in * activation.second_moment))


def _fed(
    generator: Generator, architecture: Architecture, layer: nn.Module, width: int, latent_dim: int
) -> nn.Module:
    """The layer, reading z as well where `latent_dim` is not 0."""
    if not latent_dim:
        return layer
    std = ACTIVATIONS[architecture.activation].gain / math.sqrt(2 * latent_dim)
    return Fed(layer, dense(generator, latent_dim, width, std=std, bias=False))


def _dense_layers(
    generator: Generator, architecture: Architecture, widths: Sequence[int], latent_dim: int = 0
) -> list[nn.Module]:
    """Hidden layers from widths[0] hidden units to widths[-1]; `latent_dim` as in `_fed`."""
    layers = []
    for below, width in itertools.pairwise(widths):
        std, bias = _std(architecture, below, latent_dim), not architecture.batch_norm
        layer = dense(generator, below, width, std=std, bias=bias)
        fed = _fed(generator, architecture, layer, width, latent_dim)
        layers += hidden_layer(fed, architecture, width)
    return layers


def _sizes(architecture: Architecture, shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Height and width of the image and of each level of feature maps."""
    sizes = [shape[:2]]
    for _ in architecture.channels:
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def _strided_maps(
    generator: Generator, architecture: Architecture, shape: tuple[int, int, int]
) -> list[nn.Module]:
    """One strided convolution per level."""
    layers: list[nn.Module] = []
    d_in, bias = shape[2], not architecture.batch_norm
    sizes = _sizes(architecture, shape)
    for (height, width), d_out in zip(sizes, architecture.channels, strict=False):
        padding = (1 + height % 2, 1 + width % 2)
        layer = convolution(
            generator, d_in, d_out, KERNEL, std=_std(architecture, KERNEL**2 * d_in),
            stride=2, padding=padding, bias=bias,
        )  # fmt: skip
        layers += hidden_layer(layer, architecture, d_out)
        d_in = d_out
    return layers


def _residual_maps(
    generator: Generator, architecture: Architecture, shape: tuple[int, int, int]
) -> list[nn.Module]:
    """`blocks` residual blocks per level, the first of stride 2."""
    layers: list[nn.Module] = []
    d_in = shape[2]
    for d_out in architecture.channels:
        for block in range(architecture.blocks):
            stride = 2 if block == 0 else 1
            layers.append(ResidualBlock(generator, architecture, d_in, d_out, stride))
            d_in = d_out
    return layers
