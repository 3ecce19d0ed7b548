"""Shapes, initial values and errors of the stacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linvae.data import ImageLayout
from linvae.models import ARCHITECTURES, Architecture, build_model
from linvae.models.layers import StackedLinear, StackedMLP, StackShape
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, VAESpec

N, D, DX = 12, 5, 3
SPECS = {
    "vae": (VAESpec(4), False),
    "vae-fixed": (VAESpec(4, encoder_variance=0.4), False),
    "vae-learned-s": (VAESpec(4, decoder_variance="learned"), False),
    "general": (VAESpec(2), True),
    "cvae": (CVAESpec(2), True),
    "cvae-target": (CVAESpec(2, encoder_sees="target"), True),
    "hvae2": (HVAESpec((4, 2)), False),
    "hvae3": (HVAESpec((3, 2, 4), encoder_variances=(None, 0.5, None)), False),
    "conditional-hvae2": (HVAESpec((4, 2)), True),
}
LAYOUTS = {
    False: ImageLayout((5, 1, 1)),
    True: ImageLayout((4, 2, 1), target=(0, 1, 2, 3, 6), condition=(4, 7, 5)),
}
WEIGHT_SHAPES = {
    "vae": {"W": (4, D), "U": (D, 4), "Sigma": (4, 4)},
    "vae-fixed": {"W": (4, D), "U": (D, 4), "Sigma": (4, 4)},
    "vae-learned-s": {"W": (4, D), "U": (D, 4), "Sigma": (4, 4), "s": ()},
    "general": {"W": (2, DX), "U": (D, 2), "Sigma": (2, 2)},
    "cvae": {"W1": (2, DX), "W2": (2, D), "U1": (D, 2), "U2": (D, DX), "Sigma": (2, 2)},
    "cvae-target": {"W2": (2, D), "U1": (D, 2), "U2": (D, DX), "Sigma": (2, 2)},
    "hvae2": {"W1": (4, D), "U1": (D, 4), "Sigma1": (4, 4)}
    | {"W2": (2, 4), "U2": (4, 2), "Sigma2": (2, 2)},
    "hvae3": {"W1": (3, D), "U1": (D, 3), "Sigma1": (3, 3)}
    | {"W2": (2, 3), "U2": (3, 2), "Sigma2": (2, 2)}
    | {"W3": (4, 2), "U3": (2, 4), "Sigma3": (4, 4)},
    "conditional-hvae2": {"W1": (4, D), "U1": (D, 4), "Sigma1": (4, 4)}
    | {"W2": (2, 4), "U2": (4, 2), "Sigma2": (2, 2), "A": (4, DX), "B": (D, DX)},
}


def arrays(with_condition: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    target = 3 * torch.randn(N, D, generator=generator)
    return target, 7 * torch.randn(N, DX, generator=generator) if with_condition else None


UNTRAINED = {
    "likelihood": (VAESpec(2, likelihood="poisson"), "likelihood='poisson'.* not trained yet"),
    "bernoulli": (
        VAESpec(2, likelihood="bernoulli"),
        "target has values from -.* to .* needs them between 0 and 1: .*centered=False",
    ),
    "loss": (VAESpec(2, latent_reconstruction=0.1), "latent_reconstruction=0.1.* not trained yet"),
    "decay": (VAESpec(2, weight_decay=0.1), "weight_decay=0.1 are not trained yet"),
    "autoregressive": (ARVAESpec(2), "ARVAESpec with order=None and architecture='linear' has no"),
}


@pytest.mark.parametrize("case", UNTRAINED.values(), ids=UNTRAINED.keys())
def test_what_is_not_trained_is_refused(case):
    spec, message = case
    with pytest.raises(ValueError, match=message):
        build_model(spec, arrays(False)[0])


def tiny(architecture: str) -> Architecture:
    return Architecture(architecture, hidden=8, channels=(4, 3), kernels=(3, 3), pixel_channels=4)


def stack(name: str, architecture: str = "linear", **options):
    spec, with_condition = SPECS[name]
    target, condition = arrays(with_condition)
    options = {"architecture": tiny(architecture), "image": LAYOUTS[with_condition]} | options
    return build_model(spec, target, condition, **options)


def forward(model, name: str, draws: int = 2):
    """Terms and latents of all samples, seen by every seed."""
    target, condition = arrays(SPECS[name][1])
    seeds = len(model.seeds)
    noise = [torch.randn(seeds, draws * N, k) for k in model.spec.latent_dims]
    condition = None if condition is None else condition.expand(seeds, -1, -1)
    return model.forward_with_latents(target.expand(seeds, -1, -1), condition, noise)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SPECS)
def test_shapes(name, architecture):
    model = stack(name, architecture, seeds=(0, 1), n_points=3)
    terms, latents = forward(model, name)
    dims = model.spec.latent_dims
    assert terms.distortion.shape == (2, 3)
    assert terms.rates.shape == (2, 3, len(dims))
    assert terms.objective(torch.tensor(model.spec.betas)).shape == (2, 3)
    assert [z.shape for z in latents] == [(2, 3, 2 * N, k) for k in dims]
    assert bool(torch.isfinite(terms.distortion).all() and torch.isfinite(terms.rates).all())


@pytest.mark.parametrize("name", SPECS)
def test_weights_have_the_names_and_shapes_of_theory(name):
    weights = stack(name).weights(0, 0)
    assert {key: value.shape for key, value in weights.items()} == WEIGHT_SHAPES[name]
    assert all(np.asarray(value).dtype == np.float64 for value in weights.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SPECS)
def test_points_of_a_seed_start_from_the_same_values(name, architecture):
    model = stack(name, architecture, seeds=(0, 1), n_points=3)
    for key, value in model.named_parameters():
        assert torch.equal(value, value[:, :1].expand_as(value)), key
    drawn = [v for k, v in model.named_parameters() if k.endswith("weight")]
    assert drawn
    assert all(not torch.equal(v[0], v[1]) for v in drawn)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_values_depend_on_the_seed_only(architecture):
    alone = stack("hvae2", architecture, seeds=(5,), n_points=1)
    among = stack("hvae2", architecture, seeds=(2, 5), n_points=4)
    others = dict(among.named_parameters())
    for key, value in alone.named_parameters():
        assert torch.equal(value[0, 0], others[key][1, 3]), key


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SPECS)
def test_members_do_not_see_each_other(name, architecture):
    """The gradient of one member's terms is zero on all others."""
    model = stack(name, architecture, seeds=(0, 1), n_points=2)
    terms, _ = forward(model, name)
    (terms.distortion[1, 0] + terms.rates[1, 0].sum()).backward()
    touched = torch.zeros(2, 2)
    for parameter in model.parameters():
        if parameter.grad is not None:
            touched += (
                parameter.grad.flatten(2).abs().sum(-1)
                if parameter.ndim > 2
                else (parameter.grad.abs())
            )
    assert (touched > 0).tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_data_scale_changes_the_parametrisation_only(architecture):
    """c times the data with c^2 times the decoder variance: same rates, distortion + d log c."""
    c, seeds = 20.0, (0,)
    target, _ = arrays(False)
    noise = [torch.randn(1, 2 * N, 4, generator=torch.Generator().manual_seed(1))]
    terms = []
    for factor in (1.0, c):
        spec = VAESpec(4, decoder_variance=0.3 * factor**2)
        data = factor * target
        network = tiny(architecture)
        model = build_model(spec, data, architecture=network, image=LAYOUTS[False], seeds=seeds)
        terms.append(model(factor * target[None], None, noise))
    # float32 rounding of sums of 60 terms: 1e-5 relative
    torch.testing.assert_close(terms[0].rates, terms[1].rates, rtol=1e-5, atol=1e-6)
    shift = D * np.log(c)
    torch.testing.assert_close(terms[0].distortion + shift, terms[1].distortion, rtol=1e-5, atol=0)


def test_unknown_architecture():
    with pytest.raises(ValueError, match=r"architecture='transformer' must be one of \('linear', "):
        stack("vae", "transformer")


def test_mlp_has_no_matrices():
    with pytest.raises(ValueError, match="architecture='mlp' has no matrices: use 'linear'"):
        stack("vae", "mlp").weights(0, 0)


@pytest.mark.parametrize("rows", [2, 40], ids=["by-output", "by-gram-matrix"])
@pytest.mark.parametrize("extra", [0, 2], ids=["alone", "with-shared-inputs"])
@pytest.mark.parametrize("kind", ["linear", "bias", "mlp"])
def test_squared_error_is_that_of_the_output(kind, extra, rows):
    """Both ways of computing it, value and gradient, against the plain formula in float64."""
    torch.manual_seed(0)
    stack = StackShape((0, 1), 3)
    if kind == "mlp":
        layer = StackedMLP(stack, 3 + extra, (5,), 7, input_scale=1.0).double()
    else:
        layer = StackedLinear(stack, 3 + extra, 7, std=1.0, bias=kind == "bias").double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(2, 3, 2 * rows, 3, dtype=torch.float64)  # two draws per sample
    target = torch.randn(2, 1, rows, 7, dtype=torch.float64)
    shared = torch.randn(2, 1, rows, extra, dtype=torch.float64) if extra else None
    inputs = x
    if shared is not None:
        inputs = torch.cat([x, shared.repeat(1, 3, 2, 1)], dim=-1)
    expected = (torch.cat([target, target], dim=2) - layer(inputs)).square().sum(-1)
    found = layer.squared_error(x, target, shared)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(expected)
    parameters = list(layer.parameters())
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
