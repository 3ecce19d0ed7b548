"""The decoder that keeps latents apart: its bound, its gradient, stacks, memory, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
import torch
import torch.nn.functional as F

from linvae.data import ImageLayout, gaussian
from linvae.metrics import observe
from linvae.models import Architecture, build_model
from linvae.models.inverse_lipschitz import (
    ConvexGradient,
    inverse_lipschitz_decoder,
    orthonormal,
)
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory.inverse_lipschitz import idle_beta, inverse_lipschitz_optimum
from linvae.train import ConstantBetas, TrainConfig, TrainingData, predict_memory, train
from linvae.train.parts import like

from .test_networks import QUARTER, shuffled, values

N, BOUND = 6, 0.7
KINDS = {
    "mlp": {"name": "mlp"},
    "two layers": {"name": "mlp", "hidden": (5, 6)},
    "skip": {"name": "mlp", "hidden": (5, 6), "latent_skip": True},
    "conv": {"name": "conv", "channels": (3,)},
    "resnet": {"name": "resnet", "channels": (3,)},  # with batch normalisation
}


def network(**options) -> Architecture:
    sizes = {"hidden": 6, "decoder": "inverse-lipschitz", "inverse_lipschitz": BOUND}
    return Architecture(**(sizes | options))


def stack(spec, kind: str, **options):
    """A stack of 12 pixels, 10 and 2 where there is a condition, in double precision."""
    conditional = isinstance(spec, CVAESpec)
    target, condition = values(N, 10 if conditional else 12), values(N, 2, seed=1)
    layout = QUARTER if conditional else ImageLayout((3, 4, 1))
    target, condition = 3 * target.double(), condition.double() if conditional else None
    build = {"architecture": network(**KINDS[kind]), "image": layout, "seeds": (0, 1)} | options
    return build_model(spec, target, condition, **build).double(), target, condition


def stretch(decoder, z, *arguments) -> torch.Tensor:
    """|g(z) - g(z')|/|z - z'| of neighbouring rows, every member."""
    output = decoder(z, *arguments).detach()
    norms = [v.diff(dim=2)[:, :, ::2].norm(dim=-1) for v in (output, z)]
    return norms[0] / norms[1]


def pairs(members: tuple[int, int], k: int) -> torch.Tensor:
    """Pairs of latents, neighbours in a row: far apart, close, and along an axis."""
    z = 2 * values(*members, 600, k, seed=3).double()
    z[:, :, 201:400:2] = z[:, :, 200:400:2] + 1e-4 * z[:, :, 201:400:2]
    z[:, :, 401::2] = z[:, :, 400::2]
    z[:, :, 401::2, 0] += 1
    return z


# --- the bound ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_latents_stay_apart(kind):
    """In data units, at the start, for parameters of any size, and after training.

    Differences of two outputs are right to 1e-16 |output|/distance: 1e-10 for the closest pairs.
    """
    model, target, _ = stack(VAESpec(3), kind)
    z = pairs((2, 1), 3)
    least = []
    for std in (None, 0.1, 1.0, 3.0):
        if std is not None:
            shuffled(model, std)
        least.append(float(model.scale * stretch(model.decoders[0], z).min()))
    data = TrainingData(target.float(), None)
    model = build_model(
        VAESpec(3), data.target, architecture=model.architecture, image=model.image, seeds=(0, 1)
    )
    train(model, data, ConstantBetas((1.0,), (5.0,), data.target.device), TrainConfig(steps=60))
    least.append(float(model.scale * stretch(model.double().decoders[0], z).min()))
    assert min(least) > BOUND * (1 - 1e-9)
    assert least[0] < 2 * BOUND  # the bound is nearly reached: the test could fail


def test_bound_is_reached_where_nothing_else_is_said():
    """Potentials and free network silent: exactly L, in every direction, in data units."""
    model, *_ = stack(VAESpec(3), "mlp")
    with torch.no_grad():
        for name, value in model.decoders.named_parameters():
            if "columns" not in name:
                value.zero_()
    found = model.scale * stretch(model.decoders[0], pairs((2, 1), 3))
    torch.testing.assert_close(found, torch.full_like(found, BOUND), rtol=1e-9, atol=0)


def test_maps_follow_one_another():
    """L T_1(z) in the basis where the second potential and the free network are silent."""
    model, *_ = stack(VAESpec(3), "mlp", seeds=(0,))
    shuffled(model, 1.0)
    decoder = model.decoders[0]
    with torch.no_grad():
        for name, value in decoder.named_parameters():
            if name.startswith(("second", "free", "constant")):
                value.zero_()
    z = values(1, 1, N, 3).double()
    first = inverse_lipschitz_decoder(
        torch.Generator(), model.architecture, 3, 12, bound=BOUND / model.scale
    ).double()
    first.load_state_dict(
        {k.replace("__", "."): v[0, 0] for k, v in decoder.named_parameters()}, strict=False
    )
    expected = (
        BOUND / model.scale * (z[0, 0] + first.first(z[0, 0])) @ orthonormal(first.columns).mT
    )
    torch.testing.assert_close(decoder(z)[0, 0], expected, rtol=1e-10, atol=1e-12)


def test_what_keeps_latents_apart_is_never_bfloat16():
    """Of close pairs; what N adds, orthogonal, is: it can only move them farther apart."""
    model, *_ = stack(VAESpec(3), "mlp")
    model = model.float()
    shuffled(model, 1.0)
    with torch.no_grad():
        for name, value in model.decoders.named_parameters():
            if name.startswith("0.free"):
                value.zero_()
    z = values(2, 1, 200, 3)
    z[:, :, 1::2] = z[:, :, ::2] + 1e-2 * values(2, 1, 100, 3, seed=5)
    expected = stretch(model.decoders[0], z)
    with torch.autocast("cpu", torch.bfloat16):
        found = stretch(model.decoders[0], z)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_unit_of_the_bound():
    """Log odds are not scaled: the same network with a Bernoulli likelihood."""
    spec, target = VAESpec(3, likelihood="bernoulli"), (values(N, 12) > 0).double()
    model = build_model(spec, target, architecture=network(name="mlp")).double()
    with torch.no_grad():
        for name, value in model.decoders.named_parameters():
            if "columns" not in name:
                value.zero_()
    found = stretch(model.decoders[0], pairs((1, 1), 3))
    torch.testing.assert_close(found, torch.full_like(found, BOUND), rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_stay_apart_at_every_condition(kind):
    """Two latents at one condition; the condition itself moves every output."""
    model, _, condition = stack(CVAESpec(2), kind)
    shuffled(model, 1.0)
    decoder = model.decoders[0].eval()
    z, x = pairs((2, 1), 2), condition[:1].expand(2, 1, 600, -1)
    assert float(model.scale * stretch(decoder, z, x).min()) > BOUND * (1 - 1e-9)
    changed = (decoder(z, x) - decoder(z, x + 1)).abs()
    assert bool((changed.amax(-1) > 1e-6).all())
    basis = orthonormal(decoder.columns)
    assert bool(((changed @ basis).abs().amax(-1) > 1e-6).all())  # within the range of B as well


def test_no_bound_is_monotone_only():
    """L = 0: directions of z may be lost, and are in a silent network."""
    model, *_ = stack(VAESpec(3), "mlp", architecture=network(name="mlp", inverse_lipschitz=0))
    with torch.no_grad():
        for name, value in model.decoders.named_parameters():
            if "columns" not in name:
                value.zero_()
    assert float(stretch(model.decoders[0], pairs((2, 1), 3)).max()) == 0


# --- its parts ----------------------------------------------------------------------------------


def potential(network: ConvexGradient, x: torch.Tensor) -> torch.Tensor:
    """The convex network by itself, layer by layer."""
    widths = [len(network.readout)]
    widths = [m.shape[1] for m in network.mixing] + widths
    at, h = 0, None
    for i, width in enumerate(widths):
        seen = F.linear(x, network.weight[at : at + width], network.bias[at : at + width])
        if i:
            seen = seen + h @ network.mixing[i - 1].square().T
        h, at = torch.logaddexp(seen, torch.zeros_like(seen)), at + width
    return h @ network.readout.square()


@pytest.mark.parametrize("widths", [(4,), (4, 3), (4, 3, 5)])
def test_gradient_is_torchs_and_monotone(widths):
    """Against autograd, to rounding; its Jacobian is symmetric, without negative eigenvalues."""
    net = ConvexGradient(torch.Generator().manual_seed(0), 3, widths).double()
    shuffled(net, 1.0)
    x = values(7, 3).double().requires_grad_()
    expected = torch.autograd.grad(potential(net, x).sum(), x)[0]
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-14)
    for row in x.detach():
        jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None])[0], row)
        torch.testing.assert_close(jacobian, jacobian.T, rtol=1e-10, atol=1e-12)
        assert float(torch.linalg.eigvalsh(jacobian)[0]) > -1e-12


@pytest.mark.parametrize("widths", [(400,), (400, 400)])
def test_gradient_starts_small(widths):
    """Below a tenth, whatever the width, and not so small that it would have to grow first."""
    net = ConvexGradient(torch.Generator().manual_seed(0), 20, widths)
    norm = float(net(values(50, 20)).norm(dim=-1).mean().detach())
    assert 0.005 < norm < 0.1


def test_columns_become_orthonormal_and_continuous():
    """Along a path on which LAPACK's own signs jump: neighbours stay neighbours."""
    start = values(5, 2).double()
    end = start * torch.tensor([-1.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    path = torch.stack([torch.lerp(start, end, t) for t in torch.linspace(0, 1, 401)])
    bases = orthonormal(path)
    eye = torch.eye(2, dtype=torch.float64).expand(401, 2, 2)
    torch.testing.assert_close(bases.mT @ bases, eye, rtol=0, atol=1e-12)
    assert float(bases.diff(dim=0).norm(dim=(1, 2)).max()) < 0.05
    jumps = torch.linalg.qr(path)[0].diff(dim=0).norm(dim=(1, 2))
    assert float(jumps.max()) > 1  # what the signs would have done


# --- stacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_stack_is_each_member_by_itself(kind):
    """Every member's own values against the plain torch network, in double precision."""
    model, *_ = stack(CVAESpec(2), kind, n_points=2)
    shuffled(model)
    decoder, z, x = model.decoders[0], values(2, 2, 2 * N, 2).double(), values(2, 1, N, 2).double()
    found = decoder(z, x)
    single = inverse_lipschitz_decoder(
        torch.Generator(), model.architecture, 2, 10, bound=BOUND / model.scale, condition_dim=2
    ).double()
    for member in itertools.product((0, 1), (0, 1)):
        own = {k.replace("__", "."): v[member] for k, v in decoder.named_parameters()}
        single.load_state_dict(own, strict=False)
        torch.testing.assert_close(
            found[member], single(z[member], x[member[0], 0]), rtol=1e-9, atol=1e-12
        )


def test_member_trains_alone_as_in_a_stack():
    """30 steps; float32 products of other shapes add in another order: 1e-4 of the largest."""
    data = TrainingData(values(40, 12), None)
    found = []
    for seeds, points in (((1,), (2.0,)), ((0, 1), (0.5, 2.0))):
        model = build_model(
            VAESpec(3), data.target, architecture=network(name="mlp"), seeds=seeds,
            n_points=len(points),
        )  # fmt: skip
        betas = ConstantBetas(points, (1.0,), data.target.device)
        train(model, data, betas, TrainConfig(steps=30, batch_size=8))
        found.append({k: v[-1, -1].detach() for k, v in model.named_parameters()})
    for name, value in found[0].items():
        atol = 1e-4 * float(value.abs().max())
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=atol, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_memory_is_predicted(kind):
    for spec in (VAESpec(3), CVAESpec(2, decoder_variance="learned"), HVAESpec((3, 2))):
        model, target, condition = stack(spec, kind)
        model = model.float()
        noise = [values(2, 2 * N, k, seed=4) for k in spec.latent_dims]
        given = None if condition is None else condition.float().expand(2, -1, -1)
        terms = model(target.float().expand(2, -1, -1), given, noise)
        (terms.distortion.sum() + terms.rates.sum()).backward()
        learns = {k: bool((p.grad != 0).any()) for k, p in model.decoders.named_parameters()}
        assert all(learns.values()), learns
    found = predict_memory(lambda: like(model, 2, 1), TrainConfig(), n_samples=N)
    assert found.in_use > found.parameters > 0


def test_trained_network_ends_at_the_linear_optimum():
    """Gaussian data, every unit at its bound: objective, rate, variance of the posterior means.

    Noise of 400 steps is left: 1e-3 nats, some per cent of a rate. Units at the bound mix modes as
    they like, which leaves the sum of variances; beyond `idle_beta` of all modes none is active.
    """
    data = TrainingData.from_arrays(gaussian((2.0, 1.0, 0.5), 2000, seed=2).target)
    variances = torch.linalg.eigvalsh(torch.cov(data.target.T, correction=0)).numpy()
    betas, s = (8.0, 40.0), 0.5
    given = {"inverse_lipschitz": 0.5, "decoder_variance": s}
    record = Architecture("mlp", hidden=8, decoder="inverse-lipschitz", inverse_lipschitz=0.5)
    model = build_model(
        VAESpec(3, decoder_variance=s), data.target, architecture=record, n_points=2
    )
    config = TrainConfig(steps=400, batch_size=128, learning_rate=5e-3)
    train(model, data, ConstantBetas(betas, (1.0,), data.target.device), config)
    found = observe(model, data)
    means = model.posterior(data.target[None], None).mean.detach()
    spread = means.var(dim=2, correction=0).sum(-1)[0]
    for i, beta in enumerate(betas):
        expected = inverse_lipschitz_optimum(variances, latent_dim=3, beta=beta, **given)
        constant = 1.5 * math.log(2 * math.pi * s)
        objective = found.distortion[0, i] + beta * found.rates[0, i, 0] - constant
        assert objective == pytest.approx(expected.objective, abs=0.01)
        assert found.rates[0, i, 0] == pytest.approx(expected.rates_nats.sum(), rel=0.05)
        assert float(spread[i]) == pytest.approx(expected.mean_variances.sum(), rel=0.1)
    assert float(idle_beta(variances, **given).max()) < betas[1]
    active = found.active_units[0, :, 0]
    assert active[0] > 0 == active[1]


# --- what is refused ----------------------------------------------------------------------------


def test_more_latents_than_outputs_are_refused():
    with pytest.raises(ValueError, match=r"latent_dim=4 must be at most the 3 coordinates of the"):
        build_model(VAESpec(4), values(N, 3), architecture=network(name="mlp"))


REFUSED = {
    "linear": ({"name": "linear"}, r"decoder='inverse-lipschitz' must be one of \('linear',\)"),
    "negative": ({"inverse_lipschitz": -1.0}, "inverse_lipschitz=-1.0 must be a finite number >="),
    "infinite": ({"inverse_lipschitz": float("inf")}, "inverse_lipschitz=inf must be a finite"),
    "bool": ({"inverse_lipschitz": True}, "inverse_lipschitz=True must be a finite number"),
    "text": ({"inverse_lipschitz": "0.1"}, "inverse_lipschitz='0.1' must be a finite number"),
    "other decoder": (
        {"decoder": "mlp", "inverse_lipschitz": 0.2},
        "inverse_lipschitz=0.2 has no effect with decoder='mlp': use decoder='inverse-lipschitz'",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_impossible_bounds_are_refused(case):
    options, message = case
    with pytest.raises(ValueError, match=message):
        Architecture(**({"name": "mlp", "decoder": "inverse-lipschitz"} | options))


@pytest.mark.parametrize("kind", KINDS)
def test_record_survives_json(kind):
    record = network(**KINDS[kind])
    assert Architecture(**json.loads(json.dumps(dataclasses.asdict(record)))) == record


def test_none_stands_for_a_tenth_and_for_nothing():
    assert Architecture("mlp", decoder="inverse-lipschitz").inverse_lipschitz == 0.1
    assert Architecture("mlp").inverse_lipschitz is None
    record = Architecture("mlp", decoder="inverse-lipschitz")
    assert Architecture(**dataclasses.asdict(record)) == record
