"""The published settings as records, in our conventions; nothing here trains or predicts.

A published script is named by its file; `published_beta` is what it calls beta, `spec` has the one
that means the same beside |y - g|^2/(2 s). The nonlinear scripts halve the KL divergence and not
the squared error: there beta is half the published one. Published deviations are squared; latents
keep the published units (eta_enc), unlike in the sweeps of this folder.
"""

from __future__ import annotations

from dataclasses import dataclass

from linvae.models import Architecture
from linvae.spec import CVAESpec, HVAESpec, LinearSpec, VAESpec

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """A published model and how it was trained.

    `steps` are epochs times batches of the 60,000 images (1,000 samples in the correlation study);
    `swept` are published values of what the experiment varies.
    """

    script: str
    model: str  # what `compare --model` calls it
    spec: LinearSpec
    architecture: Architecture
    published_beta: tuple[float, ...]
    batch_size: int
    learning_rate: float
    steps: int
    swept: str = ""
    note: str = ""


def _steps(epochs: int, batch_size: int = 128, samples: int = 60_000) -> int:
    return epochs * -(-samples // batch_size)


LINEAR, RELU = Architecture("linear"), "mlp"
PRESETS: dict[str, Preset] = {
    "dang-vae-learned": Preset(
        "MNIST_VAE_Linear_learnable", "vae", VAESpec(5), LINEAR, (1.0,), 128, 1e-4, _steps(1000)
    ),
    "dang-vae-fixed": Preset(
        "MNIST_VAE_Linear_nonlearnable", "vae",
        VAESpec(5, encoder_variance=(64.0, 16.0, 4.0, 1.0, 0.25)),
        LINEAR, (1.0,), 128, 1e-3, _steps(100), note="SGD with momentum 0.9",
    ),
    "dang-cvae": Preset(
        "MNIST_CVAE_Linear", "cvae", CVAESpec(64), LINEAR, (1.0,), 128, 1e-4, _steps(100),
        "beta 0.1 to 5.0 in steps of 0.1",
    ),
    "dang-cvae-relu": Preset(
        "MNIST_CVAE_Relu", "cvae", CVAESpec(16, beta=0.5), Architecture(RELU, 16),
        (1.0,), 128, 1e-3, _steps(100),
        "beta 0.1, 0.5, 1, 2 at eta_dec 1; eta_dec 0.25, 0.5, 1, 2 at beta 1",
        "gradient norm clipped at 0.01",
    ),
    "dang-cvae-digit": Preset(
        "MNIST_CVAE_Linear_single_digit", "cvae",
        CVAESpec(16, decoder_variance=0.25, prior_variance=0.25), LINEAR,
        (1.0,), 128, 1e-3, _steps(100, samples=6_000), "digits 0 to 9, each alone",
        "the published linear network has a hidden layer of 16",
    ),
    "dang-cvae-digit-relu": Preset(
        "MNIST_CVAE_Relu_single_digit", "cvae",
        CVAESpec(16, beta=0.5, decoder_variance=0.25, prior_variance=0.25), Architecture(RELU, 100),
        (1.0,), 128, 1e-3, _steps(100, samples=6_000), "digits 0 to 9, each alone",
    ),
    "dang-correlation": Preset(
        "Synthetic_CVAE_Relu_correlation", "cvae",
        CVAESpec(128, beta=0.5, decoder_variance=0.25), Architecture(RELU, 128),
        (1.0,), 16, 1e-3, _steps(1000, 16, 1000), "correlation 0, 1/8, 1/4, 1/2, 1",
    ),
    "dang-hvae": Preset(
        "MNIST_HVAE_Linear_learnable_sigma_2", "hvae",
        HVAESpec.markovian((10, 10), betas=(1.0, 2.0), decoder_variance=0.25, prior_variance=0.25,
                           encoder_variances=(0.25, None)),
        LINEAR, (1.0, 2.0), 128, 1e-3, _steps(100), "beta_2 0.1 to 7.0 in steps of 0.1",
    ),
    "dang-hvae-fixed": Preset(
        "MNIST_HVAE_Linear_nonlearnable_sigma_2", "hvae",
        HVAESpec.markovian((10, 10), betas=(1.0, 2.0), decoder_variance=0.25, prior_variance=0.25,
                           encoder_variances=(0.25, 0.25)),
        LINEAR, (1.0, 2.0), 128, 1e-3, _steps(100),
    ),
    "dang-hvae-relu": Preset(
        "MNIST_HVAE_Relu", "hvae",
        HVAESpec.markovian((16, 16), betas=(0.5, 0.5), decoder_variance=0.25, prior_variance=0.25,
                           encoder_variances=(0.25, None)),
        Architecture(RELU, 256), (1.0, 1.0), 128, 1e-3, _steps(100),
        "beta_1 or beta_2 0.1, 0.5, 1, 2; eta 0.25, 0.5, 0.7, 1, 2",
        "outputs through tanh; both KL divergences clamped at 0",
    ),
}  # fmt: skip
