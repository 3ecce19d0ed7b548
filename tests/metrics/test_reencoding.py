"""Latents that are decoded and encoded again: a linear model has theory's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from linvae.data import load_dataset
from linvae.metrics import identifiability, latent_cell_rates
from linvae.models import Architecture, build_model
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.theory.observables import sample_rates
from linvae.theory.reencoding import identifiability as exact_identifiability
from linvae.theory.reencoding import reencoded_rate_distribution
from linvae.train import TrainingData
from tests.metrics.test_observe import model_with, problem


def detuned(name: str):
    """A linear model that is no optimum, so that prior and posterior, W and U, all differ."""
    spec, data, moments = problem(name)
    rng = np.random.default_rng(0)
    weights = {
        key: value if key == "Sigma" else value + 0.2 * rng.normal(size=value.shape)
        for key, value in solve(spec, moments).weights.items()
    }
    return spec, data, moments, weights, model_with(spec, data, weights)


@pytest.mark.parametrize("name", ["vae", "vae-fixed", "cvae"])
def test_identifiability_of_a_linear_model(name):
    """Twelve seeds, 1,200 latents each: means within 6 standard errors, from their scatter."""
    spec, data, moments, weights, model = detuned(name)
    found = [identifiability(model, data, n_latents=1200, seed=seed) for seed in range(12)]
    fields = ("prior_score", "prior_linear_score", "posterior_score", "posterior_linear_score")
    values = np.array([[float(getattr(f, field)[0, 0]) for field in fields] for f in found])
    exact = [
        exact_identifiability(spec, moments, weights, latents=z) for z in ("prior", "posterior")
    ]
    expected = np.array([v for e in exact for v in (e.score, e.linear_score)])
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    bias = np.array([0, 1, 0, 1]) * spec.latent_dim / 1200
    assert np.all(error < 0.01)
    assert np.all(np.abs(values.mean(axis=0) - expected) < 6 * error + bias)


def test_latent_cells_of_one_unit_are_medians_of_equal_shares():
    """Their re-encoded KL is `sample_rates` at U z; and its mean that of the prior's law."""
    spec, data, moments = problem("vae")
    spec = VAESpec(1, beta=0.8, decoder_variance=0.5, prior_variance=2.3)
    weights = solve(spec, moments).weights
    model = model_with(spec, data, weights)
    found = latent_cell_rates(model, data, 64)[0, 0]
    z = norm(scale=np.sqrt(2.3)).ppf((np.arange(64) + 0.5) / 64)[:, None]
    exact = sample_rates(spec, moments, weights, z @ weights["U"].T + moments.mean)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    law = reencoded_rate_distribution(spec, moments, weights)
    cuts = law.floor_nats + np.array([0.1, 0.3, 1.0])
    shares = [law.share_below(nats) for nats in cuts]
    # the share of cells is a probability, to one cell at each end of the interval of z
    seen = [float(np.mean(found < nats)) for nats in cuts]
    assert 0 < seen[0] < seen[-1] < 1
    assert seen == pytest.approx(shares, abs=2 / 64)


@pytest.mark.parametrize(("k", "cells"), [(2, 16**2), (4, 2**8)], ids=["grid", "sobol"])
def test_share_of_latent_cells_is_the_probability_under_the_prior(k, cells):
    spec, data, moments = problem("vae")
    spec = VAESpec(k, beta=0.4, decoder_variance=0.5)
    weights = solve(spec, moments).weights
    found = latent_cell_rates(model_with(spec, data, weights), data, cells)[0, 0]
    assert found.shape == (cells,)
    law = reencoded_rate_distribution(spec, moments, weights)
    nats = law.mean_nats
    # independent draws would scatter by 0.03; equal shares must do twice as well
    assert np.mean(found < nats) == pytest.approx(law.share_below(nats), abs=0.015)


def test_cells_of_a_conditional_model_are_means_over_conditions():
    """At the optimum x drops out of the encoder's mean: as without, at every z."""
    spec, data, moments = problem("cvae")
    spec = CVAESpec(1, beta=1.2, decoder_variance=0.5)
    weights = solve(spec, moments).weights
    found = latent_cell_rates(model_with(spec, data, weights), data, 9)[0, 0]
    z = norm.ppf((np.arange(9) + 0.5) / 9)[:, None]
    x = np.repeat([[0.3, -1.0, 2.0]], 9, axis=0)
    y = z @ weights["U1"].T + x @ weights["U2"].T
    np.testing.assert_allclose(found, sample_rates(spec, moments, weights, y, x), rtol=1e-4)
    # and with one that leaves x in, the mean differs from any single x
    off = weights | {"U2": 0 * weights["U2"]}
    other = latent_cell_rates(model_with(spec, data, off), data, 9)[0, 0]
    assert np.all(other > found + 0.01)


NETWORKS = {
    "mlp": Architecture("mlp", hidden=8),
    "conv": Architecture("conv", channels=(4, 4), hidden=8),
    "resnet": Architecture("resnet", channels=(4, 4), hidden=8),
}


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli", "conditional"])
@pytest.mark.parametrize("network", NETWORKS)
def test_members_are_measured_as_if_alone(network, kind):
    """Each is the result of a stack of its seed and point; rounding of batched products, 1e-4."""
    digits = load_dataset("digits", conditional=kind == "conditional")
    data = TrainingData.from_arrays(
        digits.target[:60],
        None if digits.condition is None else digits.condition[:60],
        centered=kind != "bernoulli",
        image=digits.image_layout(),
    )
    likelihood = "bernoulli" if kind == "bernoulli" else "gaussian"
    spec = CVAESpec(2) if kind == "conditional" else VAESpec(2, likelihood=likelihood)

    def stack(seeds, n_points):
        model = build_model(
            spec, data.target, data.condition, architecture=NETWORKS[network], image=data.image,
            seeds=seeds, n_points=n_points,
        )  # fmt: skip
        with torch.no_grad():  # points of a seed start alike
            for parameter in model.parameters():
                parameter *= torch.linspace(1, 3, n_points).view(-1, *[1] * (parameter.ndim - 2))
        return model

    whole = latent_cell_rates(stack((3, 5), 2), data, 16)
    for s, seed in enumerate((3, 5)):
        one = latent_cell_rates(stack((seed,), 2), data, 16)
        np.testing.assert_allclose(whole[s], one[0], rtol=1e-4, atol=1e-6)
    assert np.all(np.abs(whole[:, 0] - whole[:, 1]).max(axis=-1) > 1e-6)
    scores = identifiability(stack((3, 5), 2), data, n_latents=32)
    assert np.all(scores.prior_score <= 1)
    assert np.all((scores.prior_linear_score >= 0) & (scores.prior_linear_score <= 1))


def test_a_probability_is_decoded_and_encoded_as_data():
    """Bernoulli: dec(z) = 1/(1 + exp(-U z - offset)), the encoder sees it less the mean."""
    rng = np.random.default_rng(0)
    y = (rng.uniform(size=(40, 3)) < [0.2, 0.5, 0.7]).astype(np.float32)
    data = TrainingData.from_arrays(y, centered=False)
    model = build_model(VAESpec(1, likelihood="bernoulli"), data.target)
    weights = model.weights(0, 0)
    z = np.array([[0.7]])
    p = 1 / (1 + np.exp(-(z @ weights["U"].T + weights["offset"])))
    found = model.decode(torch.tensor(z, dtype=torch.float32)[None, None], None)
    np.testing.assert_allclose(found[0, 0].detach(), p, rtol=1e-5)
    mu = (p - y.mean(axis=0)) @ weights["W"].T
    posterior = model.posterior(found, None)
    np.testing.assert_allclose(posterior.mean[0, 0].detach(), mu, rtol=1e-4)


def test_lost_members_are_nan_and_leave_the_others():
    spec, data, _, _, _ = detuned("vae")
    model = build_model(spec, data.target, n_points=2)
    before = identifiability(model, data).prior_linear_score
    with torch.no_grad():
        model.encoders[0].weight[0, 1] = torch.nan
    after = identifiability(model, data)
    assert after.prior_linear_score[0, 0] == before[0, 0]
    assert np.isnan([after.prior_score[0, 1], after.posterior_linear_score[0, 1]]).all()
    assert np.isnan(latent_cell_rates(model, data, 16)[0, 1]).all()


def test_refusals():
    _, data, _ = problem("vae")
    hierarchy = build_model(HVAESpec((2, 1)), data.target)
    with pytest.raises(ValueError, match="spec has 2 levels but latent_cell_rates needs one"):
        latent_cell_rates(hierarchy, data)
    spec, given, _ = problem("general")
    blind = build_model(spec, given.target, given.condition)
    with pytest.raises(ValueError, match="identifiability needs an encoder that sees the target"):
        identifiability(blind, given)
    digits = load_dataset("digits")
    pixels = TrainingData.from_arrays(digits.target[:50], image=digits.image_layout())
    ordered = build_model(VAESpec(2), pixels.target, architecture="pixelcnn", image=pixels.image)
    with pytest.raises(ValueError, match=r"identifiability needs .* a decoder that does not"):
        identifiability(ordered, pixels)
    with pytest.raises(ValueError, match="decoder='pixelcnn' has no mean of the target given z"):
        ordered.decode(torch.zeros(1, 1, 3, 2), None)
    model = build_model(VAESpec(2), data.target)
    with pytest.raises(ValueError, match="n_latents=1 must be at least 2"):
        identifiability(model, data, n_latents=1)
    with pytest.raises(ValueError, match="n_cells=0 must be at least 1"):
        latent_cell_rates(model, data, 0)
