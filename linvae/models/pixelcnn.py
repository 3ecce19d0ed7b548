"""Autoregressive decoder of images: masked convolutions over the pixels already known.

p(y|z) = prod_t p(y_t | y_<t, z), pixels t in raster order, the channels of a pixel independent
given those before it. The kernel of a masked convolution holds the weights of what it may see and
no others: pixels before the centre (type A, the first layer), or those and the centre (type B), so
that causality does not depend on training. z enters as feature maps beside the image, which are
not masked, and a condition as maps of its own encoder.

    h_0 = a(A(y) + C(maps(z) + maps(x)))
    h_i = a(h_(i-1) + B_i(h_(i-1)) + D_i h_(i-1-lag)),    B = 1x1, masked kxk, 1x1
    output = 1x1 of a(1x1 of h_last)

Sources: van den Oord et al. 2016 (masks, residual blocks of half the channels); the maps and the
skip connections with a lag as in He et al. 2019.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from linvae.models.activations import ACTIVATIONS
from linvae.models.architecture import Architecture
from linvae.models.blocks import (
    HEAD_STD,
    Activate,
    BatchNorm,
    convolution,
    dense,
    hidden_layer,
    image_encoder,
)
from linvae.models.members import MemberNetwork

__all__ = ["MaskedConvolution", "PixelCNN", "pixelcnn_decoder"]


class MaskedConvolution(nn.Module):
    """A convolution that sees the pixels before its centre, and the centre itself (type B) or not.

    `weight` (out, in, taps): the values of a kernel of (k // 2 + 1, k) in raster order, as many as
    come before the centre, or up to it.
    """

    def __init__(
        self,
        generator: Generator,
        d_in: int,
        d_out: int,
        kernel: int,
        *,
        sees_centre: bool,
        architecture: Architecture,
    ) -> None:
        super().__init__()
        self._half = kernel // 2
        taps = self._half * kernel + self._half + sees_centre
        activation = ACTIVATIONS[architecture.activation]
        moment = activation.second_moment if sees_centre else 1.0  # type A sees pixels
        std = activation.gain / math.sqrt(max(taps, 1) * d_in * moment)
        self.weight = nn.Parameter(std * torch.randn(d_out, d_in, taps, generator=generator))
        self.bias = None if architecture.batch_norm else nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, in, H, W) -> (rows, out, H, W)."""
        half, (d_out, d_in, taps) = self._half, self.weight.shape
        kernel = (half + 1, 2 * half + 1)
        full = F.pad(self.weight, (0, kernel[0] * kernel[1] - taps)).view(d_out, d_in, *kernel)
        return F.conv2d(F.pad(x, (half, half, half, 0)), full, self.bias)


class PixelCNN(MemberNetwork):
    """The decoder of one member; see the module's docstring."""

    autoregressive = True

    def __init__(
        self,
        generator: Generator,
        architecture: Architecture,
        shape: tuple[int, int, int],
        latent_dim: int,
        *,
        sees_condition: bool,
    ) -> None:
        super().__init__()
        height, width, channels = shape
        wide, kernels, bias = (
            architecture.pixel_channels,
            architecture.kernels,
            not architecture.batch_norm,
        )
        n_maps = architecture.latent_maps
        self._shape, self._lag = (n_maps, height, width), architecture.lag
        self.maps = dense(
            generator, latent_dim, math.prod(self._shape), std=1 / math.sqrt(latent_dim)
        )
        self.condition = None
        if sees_condition:
            size = math.prod(self._shape)
            self.condition = image_encoder(
                generator, architecture, shape, size, output_std=1.0, output_bias=False
            )
        self.on_image = MaskedConvolution(
            generator, channels, wide, kernels[0], sees_centre=False, architecture=architecture
        )
        std = 1 / math.sqrt(n_maps * kernels[0] ** 2)
        self.on_maps = convolution(
            generator, n_maps, wide, kernels[0], std=std, padding=kernels[0] // 2, bias=False
        )
        self.first = nn.Sequential(*hidden_layer(nn.Identity(), architecture, wide))
        self.blocks = nn.ModuleList(
            _masked_block(generator, architecture, kernel) for kernel in kernels[1:]
        )
        self.skips = nn.ModuleList(
            convolution(generator, wide, wide, 1, std=1 / math.sqrt(wide), bias=False)
            for _ in kernels[1 + self._lag :]
            if self._lag
        )
        self.activate = Activate(architecture.activation)
        std = ACTIVATIONS[architecture.activation].gain / math.sqrt(wide)
        last = convolution(generator, wide, wide, 1, std=std, bias=bias)
        self.last = nn.Sequential(*hidden_layer(last, architecture, wide))
        self.head = convolution(generator, wide, channels, 1, std=HEAD_STD / math.sqrt(wide))

    def forward(
        self,
        x: Tensor,
        shared: Tensor | None = None,
        target: Tensor | None = None,
        *,
        hidden_only: bool = False,
    ) -> Tensor:
        """(rows, k), conditions (batch, C, H, W) and images (batch, C, H, W) -> (rows, C, H, W)."""
        if target is None:
            raise ValueError("target=None in PixelCNN: p(y|z) needs the pixels before each pixel")
        draws = len(x) // len(target)
        maps = self.maps(x)
        if self.condition is not None:
            maps = maps + self.condition(shared).repeat(draws, 1)
        on_image = self.on_image(target).repeat(draws, 1, 1, 1)
        h = self.first(on_image + self.on_maps(torch.unflatten(maps, 1, self._shape)))
        states = [h]
        for i, block in enumerate(self.blocks):
            total = h + block(h)
            if self._lag and i >= self._lag:
                total = total + self.skips[i - self._lag](states[i - self._lag])
            h = self.activate(total)
            states.append(h)
        h = self.last(h)
        y: Tensor = h if hidden_only else self.head(h)
        return y


def pixelcnn_decoder(
    generator: Generator,
    architecture: Architecture,
    shape: tuple[int, int, int],
    latent_dim: int,
    *,
    sees_condition: bool,
) -> PixelCNN:
    """The decoder with the sizes of an architecture."""
    return PixelCNN(generator, architecture, shape, latent_dim, sees_condition=sees_condition)


def _masked_block(generator: Generator, architecture: Architecture, kernel: int) -> nn.Module:
    """1x1 to half the channels, masked convolution, 1x1 back."""
    wide, bias = architecture.pixel_channels, not architecture.batch_norm
    half = max(1, wide // 2)
    gain = ACTIVATIONS[architecture.activation].gain
    down = convolution(generator, wide, half, 1, std=gain / math.sqrt(wide), bias=bias)
    masked = MaskedConvolution(
        generator, half, half, kernel, sees_centre=True, architecture=architecture
    )
    up = convolution(generator, half, wide, 1, std=1 / math.sqrt(half), bias=bias)
    norm = [BatchNorm(wide)] if architecture.batch_norm else []
    return nn.Sequential(
        *hidden_layer(down, architecture, half),
        *hidden_layer(masked, architecture, half),
        up,
        *norm,
    )
