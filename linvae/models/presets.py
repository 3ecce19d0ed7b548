"""Published settings by name: networks, specification, and how they were trained.

`python -m linvae.compare --preset NAME` takes networks, specification and data from here; the
training is ours; the published one is recorded here, not used.

Facts that the sources leave open are ours: kernels of 4x4 in strided convolutions, one hidden
layer behind the convolutions of Dang et al.'s single-digit model, no bias in front of batch
normalisation. Dang et al.'s nonlinear scripts weigh the squared error by 1/s instead of 1/(2 s), so
that our beta is half of theirs; their deviations are squared; the linear single-digit network has a
hidden layer of 16 there.

Song et al.'s squared error without a variance is s = 1/2. Their residual transposed convolutions
are plain ones here, behind one dense layer (CelebA); the repository has no FFHQ: its networks are
those of CelebA. Their LIDVAE adds (L/2)|.|^2 to each of two potentials, in all L^2, which is our
`inverse_lipschitz`; what is orthogonal to its basis is ours (`linvae.models.inverse_lipschitz`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from linvae.models.architecture import Architecture
from linvae.spec import CVAESpec, HVAESpec, LinearSpec, VAESpec

__all__ = ["PRESETS", "Preset"]

DANG = "Dang et al. 2024, arXiv 2306.05023, scripts of the authors"
SONG = "Song, Kim, Lee 2025, arXiv 2508.12530, code of the first author"
LIPSCHITZ = (
    "0.1 to 2.0 in each potential, here 0.01 to 4; at beta 10 with a learned variance 0 to 0.2"
)
LIDVAE = "baseline of " + SONG + "; widths as in overnap/lidvae-pytorch, its origin"
HE = "He et al. 2019, arXiv 1901.05534, code of the authors"


@dataclass(frozen=True)
class Preset:
    """One published setting.

    | field         | meaning                                                | unit   |
    |---------------|--------------------------------------------------------|--------|
    | architecture  | kind and sizes of the networks                         | -      |
    | spec          | latents, variances and betas                           | -      |
    | data          | data set of the suite, ": " and its task               | -      |
    | epochs        | passes over the training set                           | -      |
    | batch_size    | samples of a step                                      | -      |
    | learning_rate | of Adam                                                | -      |
    | schedule      | "constant" or "cosine" learning rate                   | -      |
    | clip_norm     | largest norm of the gradient; None: any                | -      |
    | source        | where it is from                                       | -      |
    | swept         | what the experiment varies, in published values        | -      |
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
    swept: str = ""

    @property
    def model(self) -> str:
        """What `compare --model` calls it."""
        return {VAESpec: "vae", CVAESpec: "cvae", HVAESpec: "hvae"}[type(self.spec)]

    @property
    def dataset(self) -> str | None:
        """What `compare --dataset` calls the data; None where it has none that would do."""
        name, _, task = self.data.partition(": ")
        return name if task in ("", "quarter") else None


def _song(channels: tuple[int, ...], latent_dim: int, **decoder: Any) -> Architecture:
    """Two residual blocks per level, a head of 2 k units; four dense layers, or `decoder`."""
    dense = {"decoder": "mlp", "decoder_hidden": (392, 392, 784)}
    return Architecture(
        "resnet",
        channels=channels,
        blocks=2,
        hidden=(2 * latent_dim,),
        activation="leaky_relu",
        **(decoder or dense),
    )


def _lidvae(channels: tuple[int, ...], latent_dim: int) -> Architecture:
    """Their encoder with convex networks of two hidden layers, of 512 units."""
    return _song(
        channels,
        latent_dim,
        decoder="inverse-lipschitz",
        decoder_hidden=(512, 512),
        inverse_lipschitz=0.01,
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

LINEAR, QUARTER, DIGIT = Architecture(), "mnist: quarter", "mnist: quarter of one digit"
PRESETS = {
    "dang-vae": Preset(LINEAR, VAESpec(5), "mnist", 1000, 128, 1e-4, DANG),
    "dang-vae-fixed": Preset(
        LINEAR, VAESpec(5, encoder_variance=(64.0, 16.0, 4.0, 1.0, 0.25)), "mnist",
        100, 128, 1e-3, DANG + "; SGD with momentum 0.9",
    ),
    "dang-vae-mlp": Preset(
        Architecture("mlp", hidden=256), VAESpec(16, beta=0.5), "mnist", 100, 128, 1e-4, DANG
    ),
    "dang-cvae": Preset(
        LINEAR, CVAESpec(64), QUARTER, 100, 128, 1e-4, DANG, swept="beta 0.1 to 5.0 by 0.1"
    ),
    "dang-cvae-mlp": Preset(
        Architecture("mlp", hidden=16), CVAESpec(16, beta=0.5), QUARTER,
        100, 128, 1e-3, DANG, clip_norm=0.01,
        swept="beta 0.1, 0.5, 1, 2 at eta_dec 1; eta_dec 0.25, 0.5, 1, 2 at beta 1",
    ),
    "dang-cvae-conv": Preset(
        Architecture("conv", channels=(32, 16), hidden=100),
        CVAESpec(16, beta=0.5, decoder_variance=0.25, prior_variance=0.25), QUARTER,
        100, 128, 1e-3, DANG, clip_norm=0.1,
    ),
    "dang-cvae-digit": Preset(
        LINEAR, CVAESpec(16, decoder_variance=0.25, prior_variance=0.25), DIGIT,
        100, 128, 1e-3, DANG, swept="digits 0 to 9",
    ),
    "dang-cvae-digit-mlp": Preset(
        Architecture("mlp", hidden=100),
        CVAESpec(16, beta=0.5, decoder_variance=0.25, prior_variance=0.25), DIGIT,
        100, 128, 1e-3, DANG, swept="digits 0 to 9",
    ),
    "dang-correlation": Preset(
        Architecture("mlp", hidden=128), CVAESpec(128, beta=0.5, decoder_variance=0.25),
        "gaussian: correlated pairs", 1000, 16, 1e-3, DANG, swept="correlation 0, 1/8, 1/4, 1/2, 1",
    ),
    "dang-hvae": Preset(
        LINEAR, HVAESpec.markovian((10, 10), betas=(1.0, 2.0), encoder_variances=(0.25, None),
                                   decoder_variance=0.25, prior_variance=0.25),
        "mnist", 100, 128, 1e-3, DANG, swept="beta_2 0.1 to 7.0 by 0.1",
    ),
    "dang-hvae-fixed": Preset(
        LINEAR, HVAESpec.markovian((10, 10), betas=(1.0, 2.0), encoder_variances=(0.25, 0.25),
                                   decoder_variance=0.25, prior_variance=0.25),
        "mnist", 100, 128, 1e-3, DANG,
    ),
    "dang-hvae-mlp": Preset(
        Architecture("mlp", hidden=256),
        HVAESpec.markovian((16, 16), betas=0.5, encoder_variances=(0.25, None),
                           decoder_variance=0.25, prior_variance=0.25),
        "mnist", 100, 128, 1e-3, DANG, clip_norm=0.1,
        swept="beta_1 or beta_2 0.1, 0.5, 1, 2; eta 0.25, 0.5, 0.7, 1, 2",
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
    "song-fashion-mnist": Preset(
        _song((32, 64, 128), 28), VAESpec(28, beta=0.1, decoder_variance=0.5), "fashion-mnist",
        100, 128, 1e-2, SONG, schedule="cosine",
    ),
    "song-celeba": Preset(
        _song((32, 64, 128, 256), 128, decoder="conv"),
        VAESpec(128, beta=0.1, decoder_variance=0.5), "celeba", 100, 128, 1e-2, SONG,
        schedule="cosine",
    ),
    "song-ffhq": Preset(
        _song((32, 64, 128, 256), 128, decoder="conv"),
        VAESpec(128, beta=0.1, decoder_variance=0.5), "ffhq", 100, 128, 1e-2,
        SONG + "; networks of its CelebA experiments", schedule="cosine",
    ),
    "lidvae-mnist": Preset(
        _lidvae((32, 64, 128), 32), VAESpec(32, beta=0.4, decoder_variance=0.5), "mnist",
        100, 128, 1e-2, LIDVAE, schedule="cosine",
        swept=LIPSCHITZ,
    ),
    "lidvae-fashion-mnist": Preset(
        _lidvae((32, 64, 128), 32), VAESpec(32, beta=0.4, decoder_variance=0.5), "fashion-mnist",
        100, 128, 1e-2, LIDVAE, schedule="cosine",
        swept=LIPSCHITZ,
    ),
    "lidvae-celeba": Preset(
        _lidvae((32, 64, 128, 256), 64), VAESpec(64, beta=0.4, decoder_variance=0.5), "celeba",
        100, 128, 1e-2, LIDVAE, schedule="cosine",
        swept=LIPSCHITZ,
    ),
    "he-omniglot": Preset(
        _HE, VAESpec(32, likelihood="bernoulli"), "omniglot", 1000, 50, 1e-3, HE
    ),
    "pixelcnn-small": Preset(
        Architecture("pixelcnn", channels=(8, 16), hidden=32, activation="elu"),
        VAESpec(8, likelihood="bernoulli"), "digits", 100, 128, 1e-3, "ours, for a CPU",
    ),
}  # fmt: skip
