"""Networks of one member and their stacks: images, batch normalisation, causality, likelihood."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from linvae.data import ImageLayout
from linvae.metrics import observe
from linvae.models import ARCHITECTURES, Architecture, build_model, members
from linvae.models.activations import ACTIVATIONS
from linvae.models.blocks import BatchNorm, Doubling, image_encoder
from linvae.models.layers import StackedMLP, StackShape
from linvae.models.members import Collection, Placement
from linvae.objectives import bernoulli_error
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, VAESpec
from linvae.train import TrainingData

N = 6
QUARTER = ImageLayout((3, 4, 1), (0, 1, 2, 3, 4, 5, 6, 7, 10, 11), (8, 9))


def tiny(name: str, **options) -> Architecture:
    sizes = {"hidden": 6, "channels": (3, 4), "kernels": (5, 3, 3), "pixel_channels": 4, "lag": 1}
    return Architecture(name, **(sizes | options))


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shuffled(model: torch.nn.Module, std: float = 0.5) -> None:
    """Every member its own random parameters, none small."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


# --- where the pixels are -----------------------------------------------------------------------


def test_placement_puts_each_value_at_its_pixel():
    """Against numpy's reshape; what is no feature is 0."""
    flat = values(2, 12)
    image = flat.numpy().reshape(2, 2, 3, 2)  # H, W, C
    placed = Placement((2, 3, 2), range(12), 3.0)(flat)
    np.testing.assert_allclose(placed, 3 * image.transpose(0, 3, 1, 2), rtol=1e-6)
    some = Placement((2, 3, 2), (7, 0))(flat[:, :2])
    expected = np.zeros((2, 12), np.float32)
    expected[:, [7, 0]] = flat[:, :2]
    np.testing.assert_array_equal(some, expected.reshape(2, 2, 3, 2).transpose(0, 3, 1, 2))


def test_collection_reads_what_placement_put():
    for positions in (tuple(range(12)), (7, 0, 5)):
        flat = values(2, len(positions))
        images = Placement((2, 3, 2), positions)(flat)
        torch.testing.assert_close(Collection((2, 3, 2), positions, 2.0)(images), 2 * flat)


@pytest.mark.parametrize("name", ["conv", "resnet", "pixelcnn"])
def test_large_maps_run_one_by_one_to_the_same_values(name, monkeypatch):
    """Values and gradients of both ways; the second is that of maps from LARGE pixels on."""
    target = values(N, 4 * 4 * 2)
    model = build_model(
        VAESpec(2),
        target,
        architecture=tiny(name, batch_norm=False),
        n_points=3,
        image=ImageLayout((4, 4, 2)),
    )
    shuffled(model, 0.3)

    def found(large: int) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
        calls = []
        monkeypatch.setattr(members, "LARGE", large)
        monkeypatch.setattr(members, "_one_by_one", lambda *a: calls.append(1) or one_by_one(*a))
        terms = model(target[None], None, [values(1, 2 * N, 2)])
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(terms.distortion.sum(), parameters, allow_unused=True)
        return len(calls), terms.distortion, [g for g in gradients if g is not None]

    one_by_one = members._one_by_one
    rows = 2 * N  # two draws: the encoder sees N images, the decoder gives 2 N
    at_once, decoder_only, all_of_them = (found(16 * n) for n in (rows + 1, rows, N))
    assert [at_once[0], decoder_only[0], all_of_them[0]] == [0, 1, 2]
    for other in (decoder_only, all_of_them):
        torch.testing.assert_close(other[1:], at_once[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["conv", "resnet", "pixelcnn"])
@pytest.mark.parametrize("shape", [(7, 7, 1), (8, 8, 1), (5, 4, 3), (1, 2, 1)])
def test_images_of_any_size(name, shape):
    target = values(N, math.prod(shape))
    model = build_model(VAESpec(2), target, architecture=tiny(name), image=ImageLayout(shape))
    terms = model(target[None], None, [values(1, 2 * N, 2)])
    terms.distortion.sum().backward()
    assert bool(torch.isfinite(terms.distortion).all())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all())
               for p in model.decoders.parameters())  # fmt: skip


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_doubling_is_a_transposed_convolution(size):
    """Against torch's, kernel 4 and padding 1, with the same weights; odd sizes lose the last."""
    layer = Doubling(torch.Generator(), 3, 2, size, std=1.0, bias=True)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, -2.0]))
    kernel = torch.empty(3, 2, 4, 4)
    for a, b, u, v in itertools.product((0, 1), repeat=4):
        own = layer.weight.detach().view(2, 2, 2, 3, 2, 2)[:, a, b, :, u, v]
        kernel[:, :, a + 2 - 2 * u, b + 2 - 2 * v] = own.T
    x = values(4, 3, 3, 4)
    expected = F.conv_transpose2d(x, kernel, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(x), expected[:, :, : size[0], : size[1]])


def test_stack_of_encoders_is_each_member_by_itself():
    """The stack against the plain torch network that one seed builds, in double precision."""
    layout, target = ImageLayout((5, 4, 2)), values(N, 40).double()
    network = tiny("conv")
    model = build_model(
        VAESpec(2), target, architecture=network, image=layout, seeds=(3, 5), n_points=2
    ).double()
    seen = torch.stack([target, target.flip(0)])  # each seed its own data
    found = model.encoders[0](seen[:, None] / model.scale)
    for i, seed in enumerate((3, 5)):
        generator = torch.Generator().manual_seed(seed)
        alone = image_encoder(generator, network, layout.shape, 4).double()
        pixels = seen[i].view(N, 5, 4, 2).permute(0, 3, 1, 2) / model.scale * math.sqrt(40)
        for point in (0, 1):
            torch.testing.assert_close(found[i, point], alone(pixels), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["mlp", "conv", "resnet", "pixelcnn"])
def test_seeds_that_share_their_data_need_them_once(name):
    """As evidence gives them: rows and noise of one seed for all; the same as repeated."""
    target, condition, noise = values(N, 10), values(N, 2, seed=1), values(1, 2 * N, 1, seed=2)
    model = build_model(
        CVAESpec(1), target, condition, architecture=tiny(name), image=QUARTER, seeds=(3, 5),
        n_points=2,
    )  # fmt: skip
    shuffled(model)
    model.eval()
    once = model(target[None], condition[None], [noise])
    each = model(target.expand(2, -1, -1), condition.expand(2, -1, -1), [noise.expand(2, -1, -1)])
    assert once.distortion.shape == (2, 2)
    torch.testing.assert_close(once.distortion, each.distortion)
    torch.testing.assert_close(once.rates, each.rates)


def test_condition_reaches_the_decoder_through_its_own_encoder():
    target, condition = values(N, 10), values(N, 2, seed=1)
    for name in ("conv", "resnet", "pixelcnn"):
        spec = CVAESpec(2)
        network = tiny(name, activation="elu")  # no dead units
        model = build_model(spec, target, condition, architecture=network, image=QUARTER)
        shuffled(model)
        model.eval()
        z, x = values(1, 1, 2 * N, 2), condition[None, None]
        arguments = (target[None, None],) if name == "pixelcnn" else ()
        first = model.decoders[0](z, x, *arguments)
        second = model.decoders[0](z, x.flip(2), *arguments)
        assert first.shape == (1, 1, 2 * N, 10)
        changed = (first - second).abs().amax(-1)[0, 0]
        assert bool((changed > 0).all()), name


REFUSED = {
    "no image": (False, None, "architecture='conv' needs to know which pixel .*image is None"),
    "condition outside": (
        True,
        ImageLayout((5, 2, 1)),
        "reads a condition as part of the image, and here it is none",
    ),
    "other data": (False, ImageLayout((3, 4, 1)), "image places 12 target values but the target"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_data_that_are_no_image_are_refused(case):
    conditional, image, message = case
    spec, condition = (CVAESpec(2), values(N, 2)) if conditional else (VAESpec(2), None)
    with pytest.raises(ValueError, match=message):
        build_model(spec, values(N, 10), condition, architecture="conv", image=image)


# --- hidden layers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_units_start_with_the_second_moment_they_should(name):
    """Quadrature on a fine grid: 1e-4 is the rounding of the gains."""
    activation = ACTIVATIONS[name]
    u = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    density = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)
    moment = torch.trapezoid(activation(activation.gain * u).square() * density, u)
    assert float(moment) == pytest.approx(activation.second_moment, abs=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_deep_mlp_keeps_the_size_of_its_hidden_units(name):
    """Second moment of the third layer: a mean over 400 units, each layer adding its own draw."""
    layer = StackedMLP(StackShape((0,), 1), 50, (400,) * 3, 2, input_scale=1.0, activation=name)
    x = F.normalize(values(1, 1, 20, 50), dim=-1)
    moment = float(layer.hidden(x).detach().square().mean())
    assert moment == pytest.approx(ACTIVATIONS[name].second_moment, rel=0.3)


@pytest.mark.parametrize("name", ["conv", "resnet", "pixelcnn"])
def test_networks_of_images_start_with_hidden_units_of_order_one(name):
    target = values(40, 64)
    model = build_model(
        VAESpec(2), target, image=ImageLayout((8, 8, 1)), architecture=tiny(name, hidden=64)
    )
    moment = float(
        model.encoders[0].hidden(target[None, None] / model.scale).detach().square().mean()
    )
    assert 0.2 < moment < 4


# --- batch normalisation ------------------------------------------------------------------------


def test_batch_norm_is_that_of_torch():
    own, theirs = BatchNorm(3), torch.nn.BatchNorm2d(3)
    for _ in range(2):
        x = 3 * values(5, 3, 2, 4) + 1
        torch.testing.assert_close(own(x), theirs(x))
    torch.testing.assert_close(own.running_var, theirs.running_var)
    own.eval(), theirs.eval()
    torch.testing.assert_close(own(x), theirs(x))


def test_observing_uses_running_statistics_and_leaves_them():
    pixels = values(30, 16).numpy()
    data = TrainingData.from_arrays(pixels, image=ImageLayout((4, 4, 1)))
    model = build_model(VAESpec(2), data.target, architecture=tiny("resnet"), image=data.image)
    model(data.target[None], None, [values(1, 60, 2)])
    before = {k: v.clone() for k, v in model.named_buffers()}
    assert any("running_mean" in k and bool((v != 0).any()) for k, v in before.items())
    whole = observe(model, data)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers())
    # in eval mode a sample's rate does not depend on the others
    half = [
        observe(model, dataclasses.replace(data, target=part)).rates
        for part in data.target.split(15)
    ]
    np.testing.assert_allclose(sum(half) / 2, whole.rates, rtol=1e-5)


# --- autoregressive decoder ---------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [False, True])
def test_pixelcnn_is_causal(batch_norm):
    """Exactly, for every member: pixel t sees what is before it in raster order, and z."""
    shape = (4, 5, 2)
    target, members = values(3, 40), [(s, p) for s in (0, 1) for p in (0, 1)]
    network = tiny("pixelcnn", batch_norm=batch_norm, activation="elu")  # no dead units
    model = build_model(
        VAESpec(2), target, architecture=network, image=ImageLayout(shape), seeds=(0, 1), n_points=2
    )
    shuffled(model)
    decoder = model.decoders[0].eval()
    decoder.requires_grad_(False)
    z, y = values(2, 2, 3, 2), target.expand(2, 1, 3, 40)
    output = decoder(z, None, y).unflatten(-1, (20, 2))  # pixels, channels
    for t in (0, 7, 12, 19):
        changed = y.clone()
        changed[..., 2 * t :] = 5.0
        found = decoder(z, None, changed).unflatten(-1, (20, 2))
        assert torch.equal(found[..., : t + 1, :], output[..., : t + 1, :])
        if t < 19:
            later = (found - output)[..., t + 1, :].abs().amax((-1, -2))
            assert all(float(later[m]) > 1e-6 for m in members)
    moved = (decoder(z + 1, None, y).unflatten(-1, (20, 2)) - output).abs().amax((2, 4))
    assert bool((moved > 1e-7).all())


def test_pixelcnn_needs_its_target():
    spec, target = ARVAESpec(2), values(N, 12)
    model = build_model(spec, target, architecture=tiny("pixelcnn"), image=ImageLayout((3, 4, 1)))
    with pytest.raises(ValueError, match="target=None in PixelCNN"):
        model.decoders[0](values(1, 1, N, 2))


# --- Bernoulli ----------------------------------------------------------------------------------


def test_bernoulli_error_is_a_normalised_probability():
    """exp(-error) of one sample sums to 1 over all binary images."""
    logits = values(1, 4).double()
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    total = torch.exp(-bernoulli_error(logits, every)).sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bernoulli_distortion_is_torchs(architecture):
    """Value and gradient, two draws per sample, against the plain formula on one member."""
    target = (values(N, 12) > 0.3).float()
    model = build_model(
        VAESpec(2, likelihood="bernoulli"), target, architecture=tiny(architecture),
        image=ImageLayout((3, 4, 1)), n_points=2,
    )  # fmt: skip
    noise = [values(1, 2 * N, 2)]
    terms, latents = model.forward_with_latents(target[None], None, noise)
    y = (target - target.mean(0))[None, None] / model.scale
    seen = (None, y) if architecture == "pixelcnn" else ()
    logits = model.decoders[0](latents[0], *seen) + model.offset[:, :, None]
    twice = target.repeat(2, 1).expand_as(logits)
    expected = F.binary_cross_entropy_with_logits(logits, twice, reduction="none").sum(-1).mean(-1)
    torch.testing.assert_close(terms.distortion, expected, rtol=1e-5, atol=1e-5)
    parameters = [*model.decoders.parameters(), model.offset]
    for a, b in zip(
        torch.autograd.grad(terms.distortion.sum(), parameters, retain_graph=True),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # float32 sums of 144 terms


def test_bernoulli_starts_at_the_best_constant():
    """Distortion with a silent decoder: the entropy of the means, with half a one added."""
    target = (values(200, 4) > torch.tensor([-1.0, 0.0, 1.0, 9.0])).float()
    model = build_model(VAESpec(2, likelihood="bernoulli"), target)
    with torch.no_grad():
        model.decoders[0].weight.zero_()
    found = model(target[None], None, [values(1, 200, 2)]).distortion
    p = (target.double().sum(0) + 0.5) / 201
    mean = target.double().mean(0)
    expected = -(mean * p.log() + (1 - mean) * (1 - p).log()).sum()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_bernoulli_model_of_continuous_values_is_refused():
    target = values(N, 4)
    with pytest.raises(ValueError, match=r"needs them between 0 and 1: .* centered=False"):
        build_model(VAESpec(1, likelihood="bernoulli"), target)


# --- hierarchies --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "conv", "resnet"])
def test_skip_encoders_read_the_data(name):
    """q(z_2|v) does not depend on what was drawn of z_1, and does on v; without skip it does."""
    spec, target = HVAESpec((3, 2)), values(N, 12)
    noise = [values(1, 2 * N, 3), values(1, 2 * N, 2)]
    other = [noise[0].flip(1), noise[1]]
    for skip in (True, False):
        model = build_model(
            spec,
            target,
            architecture=tiny(name, skip=skip, batch_norm=False),
            image=ImageLayout((3, 4, 1)),
        )
        shuffled(model)
        found = [model(target[None], None, eps).levels[1].mean for eps in (noise, other)]
        assert torch.equal(*found) == skip
        assert torch.equal(found[0][:, :, :N], found[0][:, :, N:]) == skip
        assert not torch.equal(model(target.flip(0)[None], None, noise).levels[1].mean, found[0])


# --- the record ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_survives_json(name):
    network = Architecture(name, hidden=(8, 4), decoder_hidden=3, depth=2)
    assert Architecture(**json.loads(json.dumps(dataclasses.asdict(network)))) == network
    assert network.encoder_widths == (8, 4)
    assert network.decoder_widths == (3, 3)
    assert Architecture("mlp", hidden=(8, 4)).decoder_widths == (4, 8)


IMPOSSIBLE = {
    "depth": ({"depth": 0}, "depth=0 must be an integer >= 1 in Architecture"),
    "hidden": ({"hidden": (3, 0)}, "hidden=0 must be an integer >= 1"),
    "none hidden": ({"hidden": ()}, r"hidden=\(\) must have at least one layer"),
    "both": ({"hidden": (3, 4), "depth": 3}, r"depth=3 with hidden=\(3, 4\)"),
    "channels": ({"channels": ()}, r"channels=\(\) must have at least one level"),
    "kernels": ({"kernels": (3, 4)}, r"kernels=\(3, 4\) must be odd"),
    "activation": ({"activation": "sine"}, "activation='sine' must be one of relu, gelu"),
    "encoder": ({"encoder": "pixelcnn"}, "encoder='pixelcnn' must be one of"),
    "decoder": ({"decoder": "resnet"}, "decoder='resnet' must be one of"),
    "skip": ({"name": "linear", "skip": True}, "skip=True needs another architecture"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_architectures_are_refused(case):
    options, message = case
    with pytest.raises(ValueError, match=message):
        Architecture(**({"name": "mlp"} | options))
