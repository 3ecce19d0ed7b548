"""Decoders whose hidden layers all read z: formulas, stacks, memory, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from linvae.data import ImageLayout
from linvae.models import Architecture, build_model
from linvae.models.activations import ACTIVATIONS
from linvae.models.layers import StackedMLP, StackShape
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.train import ConstantBetas, TrainConfig, TrainingData, predict_memory, train
from linvae.train.parts import like

from .test_networks import QUARTER, shuffled, values

N = 6
KINDS = {
    "mlp": {"name": "mlp"},
    "mlp, normalised": {"name": "mlp", "batch_norm": True},
    "conv": {"name": "conv", "channels": (3, 4)},
    "resnet": {"name": "resnet", "channels": (3, 4)},  # with batch normalisation
}


def network(kind: str, **options) -> Architecture:
    sizes = {"hidden": (5, 6), "activation": "elu", "latent_skip": True}  # no dead units
    return Architecture(**(sizes | KINDS[kind] | options))


def stack(spec, kind: str, **options):
    conditional = isinstance(spec, CVAESpec)
    target, condition = values(N, 10 if conditional else 12), values(N, 2, seed=1)
    layout = QUARTER if conditional else ImageLayout((3, 4, 1))
    build = {"architecture": network(kind), "image": layout, "seeds": (0, 1)} | options
    model = build_model(spec, target, condition if conditional else None, **build)
    return model, target, condition if conditional else None


def test_dense_layers_are_the_plain_formula():
    """Every member in double precision, two draws per sample, a condition in the first layer."""
    layer = StackedMLP(
        StackShape((0, 1), 2), 5, (4, 3, 6), 7, input_scale=2.0, activation="tanh", latent_dim=2
    ).double()
    shuffled(layer)
    z, x = values(2, 2, 2 * N, 2).double(), values(2, 1, N, 3).double()
    found = layer(z, x)
    for s, p in ((0, 0), (1, 1)):
        seen = torch.cat([z[s, p], torch.cat([x[s, 0]] * 2)], dim=-1)
        h = torch.tanh(seen @ layer.inner.weight[s, p].T + layer.inner.bias[s, p])
        for own, feed in zip(layer.middle, layer.feeds, strict=True):
            h = torch.tanh(h @ own.weight[s, p].T + own.bias[s, p] + z[s, p] @ feed.weight[s, p].T)
        expected = h @ layer.outer.weight[s, p].T + layer.outer.bias[s, p]
        torch.testing.assert_close(found[s, p], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [True, False])
def test_latents_reach_every_hidden_layer(kind, skip):
    """With silent layers below, the output still depends on z: through the layer fed last."""
    model, *_ = stack(VAESpec(3), kind, architecture=network(kind, latent_skip=skip))
    shuffled(model)
    model.eval()
    decoder = model.decoders[0]
    first = "inner" if kind == "mlp" else "first"
    fed = [name for name, _ in decoder.named_parameters() if "feed" in name]
    assert len(fed) == skip * {"mlp": 1, "mlp, normalised": 1}.get(kind, 3)
    with torch.no_grad():
        for name, value in decoder.named_parameters():
            if name.startswith(first) or ("feed" in name and name != fed[-1]):
                value.zero_()
    z = values(2, 1, N, 3)
    output = decoder(z)
    moved = (output - output[:, :, :1])[:, :, 1:].abs().amax(-1)
    # rows differ by rounding, 1e-7 of outputs of order 1
    assert bool((moved > 1e-4).all()) if skip else bool((moved < 1e-5).all())


def test_maps_are_fed_the_same_everywhere():
    """A map's layer alone is silent: its activation then is one number per channel."""
    model, *_ = stack(VAESpec(3), "conv", seeds=(0,))
    shuffled(model)
    decoder = model.decoders[0]
    maps = [n for n, p in decoder.named_parameters() if "layer__weight" in n and p.ndim == 6]
    with torch.no_grad():
        getattr(decoder, maps[-1]).zero_()
    hidden = decoder.hidden(values(1, 1, N, 3))
    assert hidden.shape[-2:] == (2, 2)
    assert torch.equal(hidden, hidden[..., :1, :1].expand_as(hidden))
    assert bool((hidden[0, 0, :, :, 0, 0].std(dim=0) > 1e-3).all())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fed_units_start_as_others_do(name):
    """Second moment of the third layer: a mean over 400 units, each layer adding its own draw."""
    layer = StackedMLP(
        StackShape((0,), 1), 50, (400,) * 3, 2, input_scale=math.sqrt(50), activation=name,
        latent_dim=50,
    )  # fmt: skip
    moment = float(layer.hidden(values(1, 1, 20, 50)).detach().square().mean())
    assert moment == pytest.approx(ACTIVATIONS[name].second_moment, rel=0.3)


def test_fed_maps_start_as_others_do():
    """Second moment of the last maps, away from their border, where fewer weights add up."""
    moments = []
    for skip in (True, False):
        record = Architecture("conv", hidden=(64, 64), channels=(64, 64), latent_skip=skip)
        model = build_model(
            VAESpec(8), values(N, 256), architecture=record, image=ImageLayout((16, 16, 1)),
            seeds=tuple(range(8)),
        )  # fmt: skip
        maps = model.decoders[0].hidden(values(8, 1, 50, 8)).detach()
        moments.append(float(maps[..., 2:-2, 2:-2].square().mean()))
    assert moments[0] == pytest.approx(moments[1], rel=0.15)  # 8 draws of 64 channels


@pytest.mark.parametrize("kind", KINDS)
def test_member_trains_alone_as_in_a_stack(kind):
    """20 steps; float32 products of other shapes add in another order: 1e-3 of the largest.

    Sums after batch normalisation lose digits to it, hence not 1e-5 as of plain layers.
    """
    data = TrainingData(values(40, 12), None, image=ImageLayout((3, 4, 1)))
    found = []
    for seeds, points in (((1,), (2.0,)), ((0, 1), (0.5, 2.0))):
        model = build_model(
            VAESpec(3), data.target, architecture=network(kind), image=data.image, seeds=seeds,
            n_points=len(points),
        )  # fmt: skip
        betas = ConstantBetas(points, (1.0,), data.target.device)
        train(model, data, betas, TrainConfig(steps=20, batch_size=8))
        found.append({k: v[-1, -1].detach() for k, v in model.decoders.named_parameters()})
    for name, value in found[0].items():
        atol = 1e-3 * max(float(value.abs().max()), 1e-2)
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=atol, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_memory_is_predicted(kind):
    for spec in (VAESpec(3), CVAESpec(2), HVAESpec((3, 2))):
        model, target, condition = stack(spec, kind)
        shuffled(model)
        noise = [values(2, 2 * N, k, seed=4) for k in spec.latent_dims]
        given = None if condition is None else condition.expand(2, -1, -1)
        terms = model(target.expand(2, -1, -1), given, noise)
        (terms.distortion.sum() + terms.rates.sum()).backward()
        learns = {k: bool((p.grad != 0).any()) for k, p in model.decoders.named_parameters()}
        assert all(learns.values()), learns
    found = predict_memory(lambda: like(model, 2, 1), TrainConfig(), n_samples=N)
    assert found.in_use > found.parameters > 0


REFUSED = {
    "linear": ({"name": "linear"}, "latent_skip=True has no hidden layers .* decoder='linear'"),
    "pixelcnn": (
        {"name": "pixelcnn"},
        "latent_skip=True has no hidden layers .* decoder='pixelcnn': use decoder='mlp', 'conv'",
    ),
    "one layer": (
        {"name": "mlp"},
        "latent_skip=True changes nothing with decoder='mlp' of one hidden layer.* depth >= 2",
    ),
    "one layer apart": (
        {"name": "mlp", "decoder": "inverse-lipschitz"},
        "changes nothing with decoder='inverse-lipschitz' of one hidden layer",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_decoders_without_layers_to_feed_are_refused(case):
    options, message = case
    with pytest.raises(ValueError, match=message):
        Architecture(**options, latent_skip=True)


@pytest.mark.parametrize("kind", KINDS)
def test_record_survives_json(kind):
    record = network(kind)
    assert Architecture(**json.loads(json.dumps(dataclasses.asdict(record)))) == record
