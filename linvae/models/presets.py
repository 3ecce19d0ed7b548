"""Published settings by name: networks, specification, and how they were trained.

Facts that the sources leave open are ours: kernels of 4x4 in strided convolutions, one hidden
layer behind the convolutions of Dang et al.'s single-digit model, no bias in front of batch
normalisation. Their nonlinear scripts weigh the squared error by 1/s instead of 1/(2 s), so that
our beta is half of theirs; Song et al.'s squared error without a variance is s = 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass

from linvae.models.architecture import Architecture
from linvae.spec import CVAESpec, HVAESpec, LinearSpec, VAESpec

__all__ = ["PRESETS", "Preset"]

DANG = "Dang et al. 2024, arXiv 2306.05023, scripts of the authors"
SONG = "Song, Kim, Lee 2025, arXiv 2508.12530, code of the first author"
HE = "He et al. 2019, arXiv 1901.05534, code of the authors"


@dataclass(frozen=True)
class Preset:
    """One published setting.

    | field         | meaning                                                | unit   |
    |---------------|--------------------------------------------------------|--------|
    | architecture  | kind and sizes of the networks                         | -      |
    | spec          | latents, variances and betas                           | -      |
    | data          | data set of the suite, ": quarter" for its quarter task | -     |
    | epochs        | passes over the training set                           | -      |
    | batch_size    | samples of a step                                      | -      |
    | learning_rate | of Adam                                                | -      |
    | schedule      | "constant" or "cosine" learning rate                   | -      |
    | clip_norm     | largest norm of the gradient; None: any. `linvae.train` does not clip | - |
    | source        | where it is from                                       | -      |
    """

    architecture: Architecture
    spec: LinearSpec
    data: str
    epochs: int
    batch_size: int
    learning_rate: float
    source: str
    schedule: str = "constant"
    clip_norm: float | None = None


def _song(channels: tuple[int, ...], latent_dim: int) -> Architecture:
    """Two residual blocks per level, a head of 2 k units; a decoder of four dense layers."""
    return Architecture(
        "resnet",
        channels=channels,
        blocks=2,
        hidden=(2 * latent_dim,),
        decoder="mlp",
        decoder_hidden=(392, 392, 784),
        activation="leaky_relu",
    )


_HE = Architecture(
    "pixelcnn",
    encoder="resnet",
    channels=(64, 64, 64),
    hidden=(512,),
    activation="elu",
    kernels=(7,) * 5 + (5,) * 4 + (3,) * 4,
    pixel_channels=64,
    latent_maps=4,
    lag=3,
)

PRESETS = {
    "dang-vae-mlp": Preset(
        Architecture("mlp", hidden=256), VAESpec(16, beta=0.5), "mnist", 100, 128, 1e-4, DANG
    ),
    "dang-cvae-mlp": Preset(
        Architecture("mlp", hidden=16), CVAESpec(16, beta=0.5), "mnist: quarter",
        100, 128, 1e-3, DANG, clip_norm=0.01,
    ),
    "dang-cvae-conv": Preset(
        Architecture("conv", channels=(32, 16), hidden=100),
        CVAESpec(16, beta=0.5, decoder_variance=0.25, prior_variance=0.25), "mnist: quarter",
        100, 128, 1e-3, DANG, clip_norm=0.1,
    ),
    "dang-hvae-mlp": Preset(
        Architecture("mlp", hidden=256),
        HVAESpec((16, 16), betas=0.5, decoder_variance=0.25, prior_variances=0.25,
                 encoder_variances=(0.25, None)),
        "mnist", 100, 128, 1e-3, DANG, clip_norm=0.1,
    ),
    "dang-hvae-conv": Preset(
        Architecture("conv", channels=(64, 32), hidden=64),
        HVAESpec((16, 16), betas=0.5), "mnist", 100, 128, 1e-3, DANG,
    ),
    "song-mnist": Preset(
        _song((32, 64, 128), 28), VAESpec(28, beta=0.1, decoder_variance=0.5), "mnist",
        100, 128, 1e-2, SONG, schedule="cosine",
    ),
    "song-omniglot": Preset(
        _song((32, 64, 128, 256), 32), VAESpec(32, beta=0.1, decoder_variance=0.5), "omniglot",
        100, 128, 1e-2, SONG, schedule="cosine",
    ),
    "he-omniglot": Preset(
        _HE, VAESpec(32, likelihood="bernoulli"), "omniglot", 1000, 50, 1e-3, HE
    ),
    "pixelcnn-small": Preset(
        Architecture("pixelcnn", channels=(8, 16), hidden=32, activation="elu"),
        VAESpec(8, likelihood="bernoulli"), "digits", 100, 128, 1e-3, "ours, for a CPU",
    ),
}  # fmt: skip
