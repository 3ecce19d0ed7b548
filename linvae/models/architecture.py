"""What the networks of a stack are made of: names, sizes, checked once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from linvae.models.activations import ACTIVATIONS

__all__ = ["ARCHITECTURES", "Architecture"]

ARCHITECTURES = ("linear", "mlp", "conv", "resnet", "pixelcnn")
ENCODERS = {"conv": "conv", "resnet": "resnet", "pixelcnn": "conv"}  # of level 1, else the name
DECODER_KINDS = ("mlp", "conv", "pixelcnn", "inverse-lipschitz")
INVERSE_LIPSCHITZ = 0.1  # the default of Song et al.'s baseline, for one of its two maps
DECODERS = {"conv": "conv", "resnet": "conv", "pixelcnn": "pixelcnn"}


@dataclass(frozen=True)
class Architecture:
    """Kind and sizes of the networks f (encoders) and g (decoders) of every member of a stack.

    | field          | meaning                                                      | kinds     |
    |----------------|--------------------------------------------------------------|-----------|
    | name           | key of `ARCHITECTURES`: the default of the next two          | all       |
    | encoder        | of level 1: "mlp", "conv" or "resnet"                        | not linear |
    | decoder        | of level 1: "mlp", "conv", "pixelcnn", "inverse-lipschitz"   | not linear |
    | hidden         | units of each hidden layer, one number or one per layer     | not linear |
    | depth          | number of hidden layers where `hidden` is one number         | not linear |
    | decoder_hidden | the same of the decoders; None: `hidden` reversed            | not linear |
    | activation     | key of `ACTIVATIONS`                                         | not linear |
    | batch_norm     | normalise hidden layers; None: with resnet and pixelcnn      | not linear |
    | channels       | of each level of feature maps, each half as high and wide    | conv, resnet |
    | blocks         | residual blocks of each level                                | resnet    |
    | kernels        | width of each masked convolution, the first of type A        | pixelcnn  |
    | pixel_channels | channels of the masked convolutions                          | pixelcnn  |
    | latent_maps    | feature maps that z adds to the image                        | pixelcnn  |
    | lag            | layers that a skip connection bridges; 0: none               | pixelcnn  |
    | skip           | the encoder of each level reads the data, not z_(l-1)        | not linear |
    | latent_skip    | every hidden layer of the decoders reads z                   | mlp, conv |
    | inverse_lipschitz | L, least |g(z) - g(z')|/|z - z'|, of level 1, data units| the decoder |
    |                | per latent unit (Bernoulli: log odds); 0: none, None: 0.1    | so called |

    Levels above the first are MLPs, except encoders with `skip`. A record holds what None stood
    for, so that `Architecture(**dataclasses.asdict(a)) == a`.
    """

    name: str = "linear"
    hidden: int | tuple[int, ...] = 64
    depth: int = 1
    activation: str = "relu"
    channels: tuple[int, ...] = (16, 32)
    blocks: int = 1
    batch_norm: bool | None = None
    encoder: str | None = None
    decoder: str | None = None
    decoder_hidden: int | tuple[int, ...] | None = None
    kernels: tuple[int, ...] = (5, 3, 3)
    pixel_channels: int = 16
    latent_maps: int = 2
    lag: int = 3
    skip: bool = False
    latent_skip: bool = False
    inverse_lipschitz: float | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible sizes; put in what None stands for."""
        if self.name not in ARCHITECTURES:
            raise ValueError(f"architecture={self.name!r} must be one of {ARCHITECTURES}")
        self._check_sizes()
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation={self.activation!r} must be one of {', '.join(ACTIVATIONS)} in "
                "Architecture"
            )
        if self.skip and self.name == "linear":
            raise ValueError(
                "skip=True needs another architecture than 'linear': theory's chain has no map "
                "from the data to its upper levels"
            )
        self._choose("encoder", ENCODERS.get(self.name, self.name), ("mlp", "conv", "resnet"))
        self._choose("decoder", DECODERS.get(self.name, self.name), DECODER_KINDS)
        if self.batch_norm is None:
            object.__setattr__(self, "batch_norm", self.name in ("resnet", "pixelcnn"))
        self._check_latent_skip()
        self._check_inverse_lipschitz()

    def _check_latent_skip(self) -> None:
        """Refuse z in the hidden layers of decoders that have none of them, or only the first."""
        if not self.latent_skip:
            return
        if self.decoder in ("linear", "pixelcnn"):
            raise ValueError(
                f"latent_skip=True has no hidden layers to feed with decoder={self.decoder!r}: "
                "use decoder='mlp', 'conv' or 'inverse-lipschitz', or leave it out"
            )
        if self.decoder != "conv" and len(self.decoder_widths) == 1:
            raise ValueError(
                f"latent_skip=True changes nothing with decoder={self.decoder!r} of one hidden "
                "layer, which reads z already: use depth >= 2 (or two sizes in decoder_hidden), "
                "or leave it out"
            )

    def _check_inverse_lipschitz(self) -> None:
        """A bound with its decoder only; put in what None stands for."""
        bound, constrained = self.inverse_lipschitz, self.decoder == "inverse-lipschitz"
        if bound is None:
            object.__setattr__(
                self, "inverse_lipschitz", INVERSE_LIPSCHITZ if constrained else None
            )
        elif not constrained:
            raise ValueError(
                f"inverse_lipschitz={bound!r} has no effect with decoder={self.decoder!r}: use "
                "decoder='inverse-lipschitz', or leave it out"
            )
        elif (
            isinstance(bound, bool)
            or not isinstance(bound, int | float)
            or not (math.isfinite(bound) and bound >= 0)
        ):
            raise ValueError(
                f"inverse_lipschitz={bound!r} must be a finite number >= 0 in Architecture"
            )

    def _check_sizes(self) -> None:
        """Integers within their bounds, sequences as tuples."""
        for name in ("depth", "blocks", "pixel_channels", "latent_maps"):
            _check_size(name, getattr(self, name))
        _check_size("lag", self.lag, smallest=0)
        for name in ("hidden", "decoder_hidden", "channels", "kernels"):
            value = getattr(self, name)
            several = isinstance(value, Sequence)
            for size in value if several else () if value is None else (value,):
                _check_size(name, size)
            if several:
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.hidden, tuple) and self.depth not in (1, len(self.hidden)):
            raise ValueError(
                f"depth={self.depth} with hidden={self.hidden} in Architecture: leave depth out, "
                "or give hidden as one number"
            )
        if () in (self.hidden, self.decoder_hidden):
            raise ValueError("hidden=() must have at least one layer in Architecture")
        if not self.channels:
            raise ValueError("channels=() must have at least one level in Architecture")
        if not self.kernels or any(size % 2 == 0 for size in self.kernels):
            raise ValueError(f"kernels={self.kernels} must be odd numbers in Architecture")

    def _choose(self, side: str, default: str, kinds: tuple[str, ...]) -> None:
        value = getattr(self, side) or default
        allowed = ("linear",) if self.name == "linear" else kinds
        if value not in allowed:
            raise ValueError(
                f"{side}={value!r} must be one of {allowed} with architecture={self.name!r}"
            )
        object.__setattr__(self, side, value)

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Units of the hidden layers of an encoder, in order."""
        return self.hidden if isinstance(self.hidden, tuple) else (self.hidden,) * self.depth

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The same of a decoder."""
        if self.decoder_hidden is None:
            return self.encoder_widths[::-1]
        own = self.decoder_hidden
        return own if isinstance(own, tuple) else (own,) * self.depth

    @property
    def needs_image(self) -> bool:
        """True where a network must know which pixel each coordinate is."""
        return self.encoder in ("conv", "resnet") or self.decoder in ("conv", "pixelcnn")

    @classmethod
    def of(cls, value: str | Architecture) -> Architecture:
        """An architecture itself, or the one of that name with default sizes."""
        return value if isinstance(value, Architecture) else cls(value)


def _check_size(name: str, value: object, smallest: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ValueError(f"{name}={value!r} must be an integer >= {smallest} in Architecture")
