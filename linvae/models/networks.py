"""The encoder and the decoder of each level of a stack, by architecture."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from torch import nn

from linvae.data import ImageLayout
from linvae.models.architecture import Architecture
from linvae.models.blocks import conv_decoder, dense_network, image_encoder
from linvae.models.inverse_lipschitz import inverse_lipschitz_decoder
from linvae.models.layers import StackedLinear, StackedMLP, StackShape
from linvae.models.members import Collection, Placement, StackedMembers
from linvae.models.pixelcnn import pixelcnn_decoder

__all__ = ["Networks"]

INITIAL_STD = 0.1  # of the latent mean and of the reconstruction, in units of the scaled data


@dataclass(frozen=True)
class Networks:
    """Builds the maps of one stack; data come scaled to a mean squared norm of 1.

    `pixel_gain` brings them to pixels of unit variance, and `writes_pixels` says whether a decoder
    of images predicts data, which are scaled back, or logits, which are not. `output_unit`: what
    one unit of a decoder's output is, data units (logits: 1).
    """

    stack: StackShape
    architecture: Architecture
    image: ImageLayout | None
    pixel_gain: float
    writes_pixels: bool
    output_unit: float

    def encoder(self, seen: tuple[int, ...] | int, d_out: int, input_norm: float) -> nn.Module:
        """From `seen` values to `d_out`; where they are pixels, their indices."""
        if isinstance(seen, int) or self.architecture.encoder in ("linear", "mlp"):
            d_in = seen if isinstance(seen, int) else len(seen)
            return self._dense(d_in, d_out, input_norm, self.architecture.encoder_widths)
        build = functools.partial(
            image_encoder,
            architecture=self.architecture,
            shape=self._layout.shape,
            d_out=d_out,
        )
        return StackedMembers(self.stack, build, reads=self._places(seen), pixels=self._pixels)

    def decoder(self, k: int, condition_dim: int, d_out: int) -> nn.Module:
        """Of level 1: from (z, condition) to the target."""
        kind = self.architecture.decoder
        if kind in ("linear", "mlp"):
            return self.upper_decoder(k, d_out, condition_dim)
        if kind == "inverse-lipschitz":
            return self._inverse_lipschitz(k, d_out, condition_dim)
        condition = tuple(self._layout.condition or ()) if condition_dim else ()
        gain = 1 / self.pixel_gain if self.writes_pixels else 1.0
        target = self._layout.target_index
        build = functools.partial(
            pixelcnn_decoder if kind == "pixelcnn" else conv_decoder,
            architecture=self.architecture,
            shape=self._layout.shape,
            latent_dim=k,
            sees_condition=bool(condition),
        )
        return StackedMembers(
            self.stack,
            build,
            reads_shared=self._places(condition) if condition else None,
            reads_target=self._places(target) if kind == "pixelcnn" else None,
            writes=Collection(self._layout.shape, target, gain),
            pixels=self._pixels,
        )

    def upper_decoder(self, k: int, d_out: int, condition_dim: int = 0) -> nn.Module:
        """From z_l to z_(l-1): dense in every architecture."""
        norm = math.sqrt(k + (condition_dim > 0))
        widths, skip = self.architecture.decoder_widths, self.architecture.latent_skip
        return self._dense(k, d_out, norm, widths, condition_dim, latent_skip=skip)

    def _inverse_lipschitz(self, k: int, d_out: int, condition_dim: int) -> nn.Module:
        assert self.architecture.inverse_lipschitz is not None  # put in by Architecture
        build = functools.partial(
            inverse_lipschitz_decoder,
            architecture=self.architecture,
            latent_dim=k,
            d_out=d_out,
            bound=self.architecture.inverse_lipschitz / self.output_unit,
            condition_dim=condition_dim,
        )
        return StackedMembers(self.stack, build)

    def _dense(
        self,
        d_in: int,
        d_out: int,
        norm: float,
        widths: tuple[int, ...],
        condition_dim: int = 0,
        *,
        latent_skip: bool = False,
    ) -> nn.Module:
        """A map of inputs of a typical norm, the last `condition_dim` of them shared."""
        architecture, total = self.architecture, d_in + condition_dim
        if architecture.name == "linear":
            std = INITIAL_STD / norm / math.sqrt(d_out)
            return StackedLinear(self.stack, total, d_out, std=std, bias=False)
        if not architecture.batch_norm:
            return StackedMLP(
                self.stack,
                total,
                widths,
                d_out,
                input_scale=norm,
                activation=architecture.activation,
                latent_dim=d_in * latent_skip,
            )
        build = functools.partial(
            dense_network,
            architecture=architecture,
            widths=widths,
            d_in=d_in,
            d_out=d_out,
            input_norm=norm,
            condition_dim=condition_dim,
            latent_skip=latent_skip,
        )
        return StackedMembers(self.stack, build)

    @property
    def _layout(self) -> ImageLayout:
        assert self.image is not None  # refused where a network needs it
        return self.image

    @property
    def _pixels(self) -> int:
        height, width, _ = self._layout.shape
        return height * width

    def _places(self, positions: tuple[int, ...]) -> Placement:
        return Placement(self._layout.shape, positions, self.pixel_gain)
