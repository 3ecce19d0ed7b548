"""Numbers of parameters of the published settings, counted from their descriptions."""

from __future__ import annotations

import itertools

import pytest
import torch

from linvae.data import ImageLayout
from linvae.models import PRESETS, Architecture, build_model
from linvae.train import TrainConfig

IMAGE = {"digits": (8, 1), "celeba": (64, 3), "ffhq": (64, 3)}  # side, channels; 28, 1 elsewhere


def dense(*widths: int) -> int:
    """Weights and biases of a chain of dense layers."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def normed(weights: int, channels: int) -> int:
    """A layer without bias, and the gain and bias of its normalisation."""
    return weights + 2 * channels


def residual(a: int, b: int, shortcut: bool) -> int:
    """Two 3x3 convolutions, and a 1x1 one where the shape changes."""
    return normed(9 * a * b, b) + normed(9 * b * b, b) + shortcut * normed(a * b, b)


def song_encoder(channels: tuple[int, ...], positions: int, k: int, colours: int = 1) -> int:
    count, below = 0, colours
    for c in channels:
        count += residual(below, c, True) + residual(c, c, False)
        below = c
    return count + normed(below * positions * 2 * k, 2 * k) + dense(2 * k, 2 * k)


def song_decoder(k: int) -> int:
    layers = [(k, 392), (392, 392), (392, 784)]
    return sum(normed(a * b, b) for a, b in layers) + dense(784, 784)


def song_images(channels: tuple[int, ...], positions: int, k: int) -> int:
    """One dense layer of 2 k, one onto the maps, one transposed convolution per level."""
    count = normed(k * 2 * k, 2 * k)
    count += normed(2 * k * channels[-1] * positions, channels[-1] * positions)
    for above, below in itertools.pairwise(channels[::-1]):
        count += normed(16 * above * below, below)
    return count + 16 * channels[0] * 3 + 3


def convex(k: int, h: int) -> int:
    """Two hidden layers that see all inputs, the second the first as well, and the readout."""
    return dense(k, 2 * h) + h * h + h


def lidvae_decoder(k: int, d: int) -> int:
    """Two potentials, the basis with its offset, and the free network."""
    free = normed(k * 512, 512) + normed(512 * 512, 512) + dense(512, d)
    return 2 * convex(k, 512) + k * d + k + free


def masked(kernel: int, a: int, b: int, centre: int) -> int:
    """What comes before the centre: kernel//2 whole rows and kernel//2 values."""
    return (kernel // 2 * kernel + kernel // 2 + centre) * a * b


def pixelcnn(kernels: list[int], wide: int, maps: int, pixels: int, k: int, skips: int) -> int:
    half = wide // 2
    count = dense(k, maps * pixels)
    count += normed(masked(kernels[0], 1, wide, 0) + kernels[0] ** 2 * maps * wide, wide)
    for kernel in kernels[1:]:
        count += normed(wide * half, half) + normed(masked(kernel, half, half, 1), half)
        count += normed(half * wide, wide)
    count += skips * wide * wide
    return count + normed(wide * wide, wide) + dense(wide, 1)


def conv(kernel: int, a: int, b: int) -> int:
    return kernel**2 * a * b + b


def conv_encoder(a: int, b: int, hidden: int, outputs: int) -> int:
    return conv(4, 1, a) + conv(4, a, b) + dense(b * 49, hidden, outputs)


def conv_decoder(a: int, b: int, hidden: int, k: int) -> int:
    return dense(k, hidden, b * 49) + conv(4, b, a) + conv(4, a, 1)


def linear(*widths: int) -> int:
    """Matrices alone: data are centred."""
    return sum(a * b for a, b in itertools.pairwise(widths))


EXPECTED = {
    "dang-vae": linear(784, 5, 784),
    "dang-vae-fixed": linear(784, 5, 784),
    "dang-cvae": linear(784, 64) + linear(64 + 196, 588),
    "dang-cvae-digit": linear(784, 16) + linear(16 + 196, 588),
    "dang-cvae-digit-mlp": dense(784, 100, 32) + dense(16 + 196, 100, 588),
    "dang-correlation": dense(256, 128, 256) + dense(128 + 128, 128, 128),
    "dang-hvae": linear(784, 10, 10) + linear(10, 10, 784),
    "dang-hvae-fixed": linear(784, 10, 10) + linear(10, 10, 784),
    "dang-vae-mlp": dense(784, 256, 32) + dense(16, 256, 784),
    "dang-cvae-mlp": dense(784, 16, 32) + dense(16 + 196, 16, 588),
    "dang-cvae-conv": conv_encoder(32, 16, 100, 32)
    + conv_decoder(32, 16, 100, 16)
    + conv_encoder(32, 16, 100, 100)
    - 100,  # the condition's encoder adds to a layer that has its bias
    "dang-hvae-mlp": dense(784, 256, 16) + dense(16, 256, 32) + dense(16, 256, 784)
    + dense(16, 256, 16),
    "dang-hvae-conv": conv_encoder(64, 32, 64, 32) + conv_decoder(64, 32, 64, 16)
    + dense(16, 64, 32) + dense(16, 64, 16),
    "song-mnist": song_encoder((32, 64, 128), 16, 28) + song_decoder(28),
    "song-omniglot": song_encoder((32, 64, 128, 256), 4, 32) + song_decoder(32),
    "song-fashion-mnist": song_encoder((32, 64, 128), 16, 28) + song_decoder(28),
    "song-celeba": song_encoder((32, 64, 128, 256), 16, 128, 3)
    + song_images((32, 64, 128, 256), 16, 128),
    "song-ffhq": song_encoder((32, 64, 128, 256), 16, 128, 3)
    + song_images((32, 64, 128, 256), 16, 128),
    "lidvae-mnist": song_encoder((32, 64, 128), 16, 32) + lidvae_decoder(32, 784),
    "lidvae-fashion-mnist": song_encoder((32, 64, 128), 16, 32) + lidvae_decoder(32, 784),
    "lidvae-celeba": song_encoder((32, 64, 128, 256), 16, 64, 3) + lidvae_decoder(64, 12288),
    "he-omniglot": residual(1, 64, True) + 2 * residual(64, 64, True)
    + normed(64 * 16 * 512, 512) + dense(512, 64)
    + pixelcnn([7] * 5 + [5] * 4 + [3] * 4, 64, 4, 784, 32, skips=9),
    "pixelcnn-small": normed(16 * 8, 8) + normed(16 * 8 * 16, 16)
    + normed(4 * 16 * 32, 32) + dense(32, 16)
    + pixelcnn([5, 3, 3], 16, 2, 64, 8, skips=0),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_number_of_parameters(name):
    """Of the networks alone: no latent variance of its own, no offset of a Bernoulli target."""
    preset = PRESETS[name]
    data, _, task = preset.data.partition(": ")
    side, channels = IMAGE.get(data, (28, 1))
    image, condition = ImageLayout((side, side, channels)), None
    pixels = torch.rand(4, side**2 * channels, generator=torch.Generator().manual_seed(0))
    target = pixels
    if data == "gaussian":
        target, condition = torch.randn(2, 4, 128, generator=torch.Generator().manual_seed(0))
    if "quarter" in task:
        at = torch.zeros(side, side, dtype=bool)
        at[side // 2 :, : side // 2] = True
        at = at.flatten()
        target, condition = pixels[:, ~at], pixels[:, at]
        indices = (torch.nonzero(v)[:, 0].tolist() for v in (~at, at))
        image = ImageLayout(image.shape, *(tuple(v) for v in indices))
    model = build_model(
        preset.spec, target, condition, architecture=preset.architecture, image=image
    )
    networks = [*model.encoders.parameters(), *model.decoders.parameters()]
    assert sum(p.numel() for p in networks) == EXPECTED[name]


@pytest.mark.parametrize("name", PRESETS)
def test_settings_are_those_of_a_training(name):
    preset = PRESETS[name]
    TrainConfig(batch_size=preset.batch_size, learning_rate=preset.learning_rate)
    assert preset.source
    assert isinstance(preset.architecture, Architecture)


def test_published_betas_are_in_our_convention():
    """The nonlinear scripts of Dang et al. have beta = 1 where ours is 1/2; the linear ones 1."""
    for name, preset in PRESETS.items():
        if name.startswith("dang") and name != "dang-hvae-conv":
            assert preset.spec.betas[0] == (1.0 if preset.architecture.name == "linear" else 0.5)
    assert PRESETS["dang-hvae"].spec.prior_variances == (0.25, 0.25)


def test_presets_of_compare_have_data_and_gaussian_pixels():
    from linvae.compare import PRESET_NAMES as offered

    gaussian = [
        k for k, p in PRESETS.items() if getattr(p.spec, "likelihood", "gaussian") == "gaussian"
    ]
    fit = [k for k in gaussian if PRESETS[k].dataset]
    assert sorted(offered) == sorted(fit)
