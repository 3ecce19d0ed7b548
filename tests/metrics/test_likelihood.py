"""Importance-weighted likelihood against exact marginals, theory's ELBO and quadrature."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from linvae.data import ImageLayout
from linvae.metrics import importance_weighted_likelihood, observe, perplexity
from linvae.models import Architecture, StackedLanguageModel, build_model
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import objective, solve
from linvae.theory.marginal import elbo_gap, log_likelihood
from linvae.train import TrainingData
from tests.metrics.test_observe import SPECS, model_with, optimum, problem
from tests.metrics.texts import LENGTH, TINY, VOCABULARY, text_vae, texts

ROUNDING = 1e-5  # of means of float32 terms of order 10
IMAGE = ImageLayout((3, 4, 1), (0, 1, 2, 3, 4, 5, 6, 7, 10, 11), (8, 9))


def detuned(name: str, by: float = 0.03):
    """Theory's optimum with noise on its matrices and variances 1.2 times as large."""
    spec, data, moments = problem(name)
    _, solution, _, _ = optimum(name)
    rng, weights = np.random.default_rng(3), {}
    for key, value in solution.weights.items():
        weights[key] = value + (0 if "Sigma" in key else by) * rng.normal(size=value.shape)
    for level, fixed in enumerate(spec.encoder_variances):
        key = f"Sigma{level + 1}" if isinstance(spec, HVAESpec) else "Sigma"
        weights[key] = weights[key] * (1.2 if fixed is None else 1)
    if "s" in weights:
        weights["s"] = np.abs(weights["s"])
    model = model_with(spec, data, weights)
    return spec, data, moments, model, model.weights(0, 0)


@pytest.mark.parametrize("name", [n for n in SPECS if n != "general"])
def test_likelihood_of_a_linear_model_is_the_exact_one(name):
    """K = 500, conditions and hierarchies included: 3 standard errors of the weights' own noise."""
    spec, data, moments, model, weights = detuned(name)
    found = importance_weighted_likelihood(model, data)
    error = float(found.log_likelihood[0, 0] - log_likelihood(spec, moments, weights))
    assert found.few_shares[0, 0] < 0.02
    assert 1e-4 < found.noise[0, 0] < 0.004
    assert abs(error - found.biases[0, 0]) < 3 * found.noise[0, 0] + ROUNDING


def test_an_encoder_that_misses_the_posterior_is_told_by_its_weights():
    """The general latent model's encoder does not see the target: a bound, low by a nat."""
    spec, data, moments, model, weights = detuned("general")
    found = importance_weighted_likelihood(model, data)
    assert found.log_likelihood[0, 0] < log_likelihood(spec, moments, weights) - 0.5
    assert found.few_shares[0, 0] > 0.3


@pytest.mark.parametrize("name", ["vae", "vae-learned-s", "cvae"])
def test_the_exact_posterior_has_weights_without_variance(name):
    """Optimum at beta = 1, learned variance: two draws are enough, and the ELBO is no lower."""
    spec, data, moments = problem(name)
    spec = spec.scale_betas(1 / spec.beta)
    weights = solve(spec, moments).weights
    found = importance_weighted_likelihood(model_with(spec, data, weights), data, samples=2)
    exact = log_likelihood(spec, moments, weights)
    assert found.log_likelihood[0, 0] == pytest.approx(exact, abs=ROUNDING)
    assert found.inference_gap[0, 0] == pytest.approx(0, abs=ROUNDING)
    assert found.effective_samples[0, 0] == pytest.approx(2, abs=ROUNDING)
    assert found.noise[0, 0] < ROUNDING


@pytest.mark.parametrize("name", ["vae", "cvae", "hvae3"])
def test_elbo_and_gap_are_those_of_theory(name):
    """K = 1 is the ELBO, means of 20 seeds within 4 standard errors; at K = 500 the gap is exact's.

    The ELBO has every beta 1, whatever the spec's are.
    """
    spec, data, moments, model, weights = detuned(name)
    exact = objective(spec, moments, weights)
    elbo = -exact.distortion - float(np.sum(exact.rates))
    some = [importance_weighted_likelihood(model, data, samples=1, seed=s) for s in range(20)]
    for found in some:
        np.testing.assert_array_equal(found.log_likelihood, found.elbo)
        assert found.effective_samples[0, 0] == 1
    values = np.array([f.elbo[0, 0] for f in some])
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert error < 0.01
    assert abs(values.mean() - elbo) < 4 * error + ROUNDING
    many = importance_weighted_likelihood(model, data, samples=500)
    # as many draws as 500 seeds: sqrt(20/500) of that error, with the weights' own noise
    tolerance = 4 * error * math.sqrt(20 / 500) + 3 * many.noise[0, 0] + ROUNDING
    gap = many.inference_gap[0, 0] - many.biases[0, 0]
    assert abs(gap - elbo_gap(spec, moments, weights)) < tolerance


def test_the_estimated_probability_is_unbiased():
    """One sample 40 000 times over with K = 2: mean p_2/p within 3 standard errors of 1.

    The mean of log p_2 is low by far more, that of log p_20 by -v/2, as stated.
    """
    _, data, _, model, weights = detuned("vae", by=0.06)
    y, U = data.target[7].double().numpy(), weights["U"]
    K = 0.5 * np.eye(5) + U @ U.T
    exact = -(5 * np.log(2 * np.pi) + np.linalg.slogdet(K)[1] + y @ np.linalg.solve(K, y)) / 2
    same = TrainingData(data.target[7].expand(40_000, -1), None)
    found = importance_weighted_likelihood(model, same, samples=2, per_sample=True)
    ratios = np.exp(found.per_sample[0, 0] - exact)
    error = ratios.std(ddof=1) / math.sqrt(len(ratios))
    assert error < 0.02
    assert abs(ratios.mean() - 1) < 3 * error
    assert found.log_likelihood[0, 0] - exact < -10 * found.errors[0, 0]
    some = importance_weighted_likelihood(model, same, samples=20)
    assert some.biases[0, 0] < -6 * some.errors[0, 0]
    # the next order is the leading one times cv^2/K, a tenth here
    tolerance = 3 * some.errors[0, 0] + 0.1 * abs(some.biases[0, 0])
    assert some.log_likelihood[0, 0] - exact == pytest.approx(some.biases[0, 0], abs=tolerance)
    assert some.noise[0, 0] == pytest.approx(some.errors[0, 0], rel=0.1)  # all of it is noise


def test_more_draws_only_raise_the_bound():
    _, data, _, model, _ = detuned("vae", by=0.15)
    found = [importance_weighted_likelihood(model, data, samples=k) for k in (1, 5, 50, 500)]
    values = [float(f.log_likelihood[0, 0]) for f in found]
    assert np.all(np.diff(values) > 0.005)
    shares = [float(f.few_shares[0, 0]) for f in found]
    assert shares[0] == shares[1] == 1.0
    assert shares[2] > shares[3]


@pytest.mark.parametrize("chunk", [1, 7, 60])
def test_result_depends_on_neither_chunks_nor_rows(chunk, monkeypatch):
    """More than one part of samples, odd sizes; float32 products of other shapes: 1e-6 relative."""
    _, data, _, model, _ = detuned("hvae2")
    data = TrainingData(data.target[:507], None)
    options = {"samples": 60, "per_sample": True, "seed": 4}
    whole = importance_weighted_likelihood(model, data, chunk=20, **options)
    monkeypatch.setattr(sys.modules["linvae.metrics.observe"], "CHUNK", 500)
    monkeypatch.setattr(sys.modules["linvae.metrics.observe"], "_rows_at_once", lambda *_: 33)
    parts = importance_weighted_likelihood(model, data, chunk=chunk, **options)
    np.testing.assert_allclose(parts.per_sample, whole.per_sample, rtol=2e-6)
    np.testing.assert_allclose(parts.elbo, whole.elbo, rtol=1e-6)
    other = importance_weighted_likelihood(model, data, **(options | {"seed": 5}))
    assert np.all(other.per_sample != whole.per_sample)


def tiny(name: str) -> Architecture:
    sizes = {"hidden": 6, "channels": (3, 4), "kernels": (5, 3, 3), "pixel_channels": 4, "lag": 1}
    return Architecture(name, **sizes)


NETWORKS = {
    "mlp": (VAESpec(1, decoder_variance=0.4, prior_variance=1.7), "mlp", False),
    "mlp-learned-s": (VAESpec(1, decoder_variance="learned"), "mlp", False),
    "mlp-bernoulli": (VAESpec(1, likelihood="bernoulli"), "mlp", False),
    "conv-bernoulli": (VAESpec(1, likelihood="bernoulli"), "conv", False),
    "mlp-conditional": (CVAESpec(1, decoder_variance=0.6), "mlp", True),
    "conv-conditional": (CVAESpec(1, decoder_variance=0.6), "conv", True),
    "pixelcnn": (VAESpec(1, decoder_variance=0.6), "pixelcnn", False),
}


def network(name: str, std: float = 0.3):
    """A stack of 2 x 2 members with random parameters, and 20 random samples."""
    spec, architecture, conditional = NETWORKS[name]
    rng, binary = np.random.default_rng(0), spec.likelihood == "bernoulli"
    values = rng.normal(size=(20, 12))
    values = (values > 0.3).astype(float) if binary else values
    parts = (values[:, :2], values[:, 2:]) if conditional else (None, values)
    data = TrainingData.from_arrays(parts[1], parts[0], centered=not binary)
    layout = IMAGE if conditional else ImageLayout((3, 4, 1))
    model = build_model(
        spec, data.target, data.condition, architecture=tiny(architecture),
        image=layout, seeds=(0, 1), n_points=2,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(std * torch.randn(p.shape, generator=generator))
    return model, data


@torch.no_grad()
def log_joint_of_network(model, data: TrainingData, i: int, z: torch.Tensor) -> torch.Tensor:
    """log p(y_i|z) + log p(z) from the decoder's output and torch's distributions, (2, 2, m)."""
    model.eval()
    y = data.target[i]
    x = None if data.condition is None else data.condition[i][None, None, None]
    x, scaled = model._scaled(y[None, None, None], x)
    latent = z.float()[None, None, :, None].expand(2, 2, -1, 1)
    sees = (x, scaled) if model.architecture.decoder == "pixelcnn" else (x,)
    output = model.decoders[0](latent, *sees)
    if model.is_bernoulli:
        logits = output + model.offset[:, :, None]
        log_p = torch.distributions.Bernoulli(logits=logits.double()).log_prob(y.double()).sum(-1)
    else:
        s = model.decoder_variance().double().expand(2, 2)[..., None, None]
        mean = output.double() * model.scale
        log_p = torch.distributions.Normal(mean, s.sqrt()).log_prob(y.double()).sum(-1)
    prior = torch.distributions.Normal(0.0, math.sqrt(model.spec.prior_variance))
    return log_p + prior.log_prob(z)


@pytest.mark.parametrize("name", NETWORKS)
def test_likelihood_of_networks_is_the_integral(name):
    """One latent: sums over a fine grid of z, whose error is far below that of K = 500."""
    model, data = network(name)
    training = model.training
    found = importance_weighted_likelihood(model, data)
    assert model.training == training
    step = 0.01
    z = torch.arange(-12, 12, step, dtype=torch.float64)
    exact = [log_joint_of_network(model, data, i, z).logsumexp(-1) for i in range(len(data))]
    exact = torch.stack(exact).mean(0).numpy() + math.log(step)
    assert np.all(found.effective_samples > 30)
    error = np.abs(found.log_likelihood - found.biases - exact)
    assert np.all(error < 4 * found.noise + 2 * ROUNDING)  # of 28 members in all


def test_likelihood_and_elbo_of_texts():
    """The integral again, with padding, and the ELBO that `observe` finds, dropout off."""
    model, data = text_vae(prior_variance=1.5), texts()
    found = importance_weighted_likelihood(model.train(), data, samples=300, per_sample=True)
    assert model.training
    step, tokens = 0.01, data.target
    z = torch.arange(-12, 12, step, dtype=torch.float64)
    rows = z[None, None, :, None].expand(2, 2, -1, 1)
    prior = torch.distributions.Normal(0.0, math.sqrt(1.5)).log_prob(z) + math.log(step)
    model.eval()
    exact = np.empty((2, 2, len(tokens)))
    for i, sequence in enumerate(tokens):
        words = sequence[sequence >= 0]
        with torch.no_grad():
            log_p = torch.log_softmax(model.decoder.logits(rows, words.expand(2, 1, -1)), dim=-1)
        index = words[1:, None, None].expand(2, 2, -1, len(z), 1)
        nats = log_p[:, :, :-1].gather(-1, index)[..., 0].sum(2)
        exact[..., i] = (nats + prior).logsumexp(-1).numpy()
    error = np.abs(found.log_likelihood - found.biases - exact.mean(-1))
    assert np.all(found.effective_samples > 30)
    assert np.all(error < 4 * found.noise + 1e-9)
    seen = [observe(model, data, seed=s) for s in range(20)]
    elbos = -np.array([s.distortion + s.rates[..., 0] for s in seen])
    # its noise has the moments of normal noise to 1/n: 40 samples, hence the second term
    tolerance = 4 * elbos.std(0) / math.sqrt(20) + 4 * found.errors / math.sqrt(300) + 0.01
    assert np.all(np.abs(elbos.mean(0) - found.elbo) < tolerance)


def test_observation_of_texts_by_hand():
    """Rates, active and collapsed units from the encoder's numbers, one sequence at a time."""
    model, data = text_vae(2, prior_variance=1.5), texts()
    model.eval()
    with torch.no_grad():
        levels = [model.encoder(row[row >= 0].expand(2, 1, -1)) for row in data.target]
    mean = torch.cat([q.mean for q in levels], dim=2)
    variance = torch.exp(torch.cat([q.log_variance for q in levels], dim=2))
    q = torch.distributions.Normal(mean, variance.sqrt())
    prior = torch.distributions.Normal(0.0, torch.tensor(1.5, dtype=torch.float64).sqrt())
    kl = torch.distributions.kl_divergence(q, prior)
    units = np.sort(kl.mean(2).numpy(), axis=-1)[..., ::-1]
    variances = mean.var(dim=2, correction=0)
    threshold = float(variances.flatten().sort().values[3:5].mean())  # half of the units
    seen = observe(model.train(), data, threshold=threshold, epsilon=0.2, delta=0.3)
    np.testing.assert_allclose(seen.unit_rates[0], units, rtol=1e-12)
    np.testing.assert_allclose(seen.rates[..., 0], units.sum(-1), rtol=1e-12)
    active = (variances > threshold).sum(-1)
    np.testing.assert_array_equal(seen.active_units[..., 0], active)
    assert int(active.sum()) == 4
    collapsed = ((kl < 0.2).double().mean(2) >= 0.7).sum(-1)
    np.testing.assert_array_equal(seen.collapsed_units[..., 0], collapsed)
    assert 0 < collapsed.sum() < collapsed.numel() * 2
    generator = torch.Generator().manual_seed(2)
    noise = [torch.randn(2, 2000 * len(data), 2, generator=generator, dtype=torch.float64)]
    with torch.no_grad():
        distortion = model.eval()(data.target.expand(2, -1, -1), None, noise).distortion
    found = np.mean([observe(model, data, seed=s).distortion for s in range(40)], axis=0)
    np.testing.assert_allclose(found, distortion.numpy(), atol=0.02)  # of 3200 and 80 000 draws


def test_perplexity_of_a_uniform_model_is_the_vocabulary():
    """Every predicted token costs log V, whatever the lengths; the start token costs nothing."""
    data = texts()
    model = text_vae(size=0.0)
    found = importance_weighted_likelihood(model, data, samples=3)
    np.testing.assert_allclose(perplexity(found.log_likelihood, data), VOCABULARY, rtol=1e-12)
    language = StackedLanguageModel(model.spec, vocabulary=VOCABULARY, sizes=TINY).eval()
    for p in language.parameters():
        p.data.zero_()
    nats = language(data.target[None], None, []).distortion.detach().numpy()
    np.testing.assert_allclose(perplexity(-nats, data), VOCABULARY, rtol=1e-6)
    lengths = (data.target >= 0).sum(1)
    assert set(lengths.tolist()) == set(range(2, LENGTH + 1))


def test_member_that_diverged_is_nan_and_leaves_the_others():
    data = problem("vae")[1]
    model = build_model(VAESpec(2), data.target, n_points=2)
    before = importance_weighted_likelihood(model, data, samples=5)
    with torch.no_grad():
        model.encoders[0].weight[0, 1] = torch.nan
    found = importance_weighted_likelihood(model, data, samples=5)
    for name in ("log_likelihood", "elbo", "noise", "few_shares", "effective_samples"):
        assert np.isnan(getattr(found, name)[0, 1]), name
        assert getattr(found, name)[0, 0] == getattr(before, name)[0, 0], name


def test_refusals():
    _, data, _, model, _ = detuned("vae")
    with pytest.raises(ValueError, match=r"samples=0 must be >= 1 in importance_weighted"):
        importance_weighted_likelihood(model, data, samples=0)
    with pytest.raises(ValueError, match=r"chunk=0 must be >= 1"):
        importance_weighted_likelihood(model, data, chunk=0)
    with pytest.raises(ValueError, match="int64 tokens in perplexity: other data have no tokens"):
        perplexity(-1.0, data)
