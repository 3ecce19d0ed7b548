"""Closed forms of a latent that is decoded and encoded again: draws, the optimum, the penalty."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import ks_1samp

from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, VAESpec
from linvae.theory import objective, solve
from linvae.theory.observables import sample_rates
from linvae.theory.reencoding import identifiability, reencoded_rate_distribution

from .problems import random_covariance

SPECS = {
    "vae": (VAESpec(3, beta=0.3, prior_variance=1.7), 0),
    "vae-fixed": (VAESpec(2, encoder_variance=(0.3, 0.6), prior_variance=0.8), 0),
    "cvae": (CVAESpec(2, beta=0.2, prior_variance=1.3), 2),
    "cvae-target": (CVAESpec(2, encoder_sees="target"), 3),
}


def any_weights(name: str):
    """A specification, moments, and weights that are no optimum, so that nothing cancels."""
    spec, dx = SPECS[name]
    rng = np.random.default_rng(4)
    moments = Moments.from_covariance(random_covariance(rng, dx + 4), condition_dim=dx)
    k, d = spec.latent_dim, 4
    A = rng.normal(size=(k, k))
    fixed = spec.encoder_variance
    Sigma = np.eye(k) / 4 + A @ A.T / 8 if fixed is None else np.diag(np.broadcast_to(fixed, k))
    weights = {"Sigma": Sigma}
    if dx:
        weights |= {"W2": rng.normal(size=(k, d)) / 3, "U1": rng.normal(size=(d, k)) / 3}
        weights |= {"U2": rng.normal(size=(d, dx)) / 3}
        weights |= {"W1": rng.normal(size=(k, dx)) / 3} if spec.encoder_sees == "both" else {}
    else:
        weights |= {"W": rng.normal(size=(k, d)) / 2, "U": rng.normal(size=(d, k)) / 2}
    return spec, moments, weights


def drawn(spec, moments, weights, latents: str, n: int, seed: int = 0):
    """z, x, and the encoder's mean at the decoder's mean, step by step from the model."""
    rng = np.random.default_rng(seed)
    dx = moments.condition_dim
    v = rng.multivariate_normal(moments.mean, moments.covariance, n)
    x, y = v[:, :dx], v[:, dx:]
    eye = np.zeros((spec.latent_dim, dx))
    W1, W2 = weights.get("W1", eye), weights.get("W2", weights.get("W"))
    U1, U2 = weights.get("U1", weights.get("U")), weights.get("U2", np.zeros((4, dx)))
    if latents == "prior":
        z = rng.normal(size=(n, spec.latent_dim)) * np.sqrt(spec.prior_variance)
    else:
        z = x @ W1.T + y @ W2.T
        z += rng.multivariate_normal(np.zeros(spec.latent_dim), weights["Sigma"], n)
    decoded = z @ U1.T + x @ U2.T
    return z, x, decoded, x @ W1.T + decoded @ W2.T


@pytest.mark.parametrize("latents", ["prior", "posterior"])
@pytest.mark.parametrize("name", SPECS)
def test_identifiability_of_draws(name, latents):
    """Twenty samples of 5,000: means within 6 standard errors, from their scatter."""
    spec, moments, weights = any_weights(name)
    found = []
    for seed in range(20):
        z, _, _, mu = drawn(spec, moments, weights, latents, 5000, seed)
        noise = np.random.default_rng(100 + seed).multivariate_normal(
            np.zeros(spec.latent_dim), weights["Sigma"], 5000
        )
        back = mu + noise
        left = z - back @ np.linalg.lstsq(back, z, rcond=None)[0]
        total = np.sum(z**2)
        found.append((1 - np.sum((mu - z) ** 2) / total, 1 - np.sum(left**2) / total))
    exact = identifiability(spec, moments, weights, latents=latents)
    error = np.std(found, axis=0, ddof=1) / np.sqrt(20)
    assert np.all(error < 0.01)
    # a regression on k of n samples takes k/n of the noise with it
    bias = np.array([0, spec.latent_dim / 5000])
    gap = np.abs(np.mean(found, axis=0) - (exact.score, exact.linear_score))
    assert np.all(gap < 6 * error + bias)


@pytest.mark.parametrize("latents", ["prior", "posterior"])
@pytest.mark.parametrize("conditional", [False, True])
def test_at_the_optimum_only_the_noise_fractions_enter(conditional, latents):
    rng = np.random.default_rng(1)
    moments = Moments.from_covariance(random_covariance(rng, 5), condition_dim=2 * conditional)
    make = CVAESpec if conditional else VAESpec
    spec = make(4, prior_variance=1.4)
    spec = spec.scale_betas(solve(spec, moments).critical_beta[1] * 0.9)  # two units, more or less
    solution = solve(spec, moments)
    r = solution.noise_fractions[0][:4]
    found = identifiability(spec, moments, solution.weights, latents=latents)
    assert 0 < found.linear_score < found.score < 1
    # matrices of order 1 in float64
    assert found.score == pytest.approx(np.mean(1 - r**2), abs=1e-12)
    assert found.linear_score == pytest.approx(
        np.mean((1 - r) ** 2 / ((1 - r) ** 2 + r)), abs=1e-12
    )


@pytest.mark.parametrize("name", ["vae", "cvae"])
def test_the_score_is_what_the_latent_reconstruction_loss_leaves(name):
    """gamma/2 E|mu - z|^2 is the penalty of the objective."""
    spec, moments, weights = any_weights(name)
    gamma = 0.6
    penalised = dataclasses.replace(spec, latent_reconstruction=gamma)
    missed = 2 / gamma * objective(penalised, moments, weights).penalty
    expected = 1 - missed / (spec.latent_dim * spec.prior_variance)
    assert identifiability(spec, moments, weights).score == pytest.approx(expected, abs=1e-12)


def test_an_autoregressive_decoder_reads_its_own_means():
    """U z = (I - B) y, solved coordinate by coordinate."""
    rng = np.random.default_rng(2)
    spec, moments = ARVAESpec(2), Moments.from_covariance(random_covariance(rng, 3))
    B = np.tril(rng.normal(size=(3, 3)), -1)
    W, U = rng.normal(size=(2, 3)), rng.normal(size=(3, 2))
    y = np.zeros((3, 2))
    for t in range(3):
        y[t] = U[t] + B[t] @ y
    weights = {"W": W, "U": U, "B": B, "Sigma": np.eye(2) / 2}
    expected = 1 - np.sum((W @ y - np.eye(2)) ** 2) / 2
    assert identifiability(spec, moments, weights).score == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_law_of_the_re_encoded_rate(name):
    """`sample_rates` at decoded draws has it: 20,000 of them, Kolmogorov-Smirnov at 1 in 1000."""
    spec, moments, weights = any_weights(name)
    _, x, decoded, _ = drawn(spec, moments, weights, "prior", 20_000)
    rates = sample_rates(spec, moments, weights, decoded, x if moments.condition_dim else None)
    law = reencoded_rate_distribution(spec, moments, weights)
    grid = np.quantile(rates, np.linspace(0, 1, 400))  # the law at 400 points, and between
    shares = [law.share_below(nats) for nats in grid]
    assert ks_1samp(rates, lambda v: np.interp(v, grid, shares)).pvalue > 1e-3
    assert law.mean_nats == pytest.approx(rates.mean(), abs=6 * rates.std() / np.sqrt(20_000))


def test_sampled_rates_of_a_law():
    """Mean and variance of `RateDistribution.sample`: 6 standard errors, and its seed."""
    spec, moments, weights = any_weights("vae")
    law = reencoded_rate_distribution(spec, moments, weights)
    n = 50_000
    rates = law.sample(n, seed=3)
    deviation = np.sqrt(law.variance_nats2)
    assert abs(rates.mean() - law.mean_nats) < 6 * deviation / np.sqrt(n)
    fourth = np.mean((rates - rates.mean()) ** 4)
    error = np.sqrt((fourth - rates.var() ** 2) / n)
    assert abs(rates.var() - law.variance_nats2) < 6 * error
    assert np.array_equal(law.sample(3, seed=3), rates[:3])


def test_refusals():
    moments = Moments.from_covariance(np.eye(3), condition_dim=1)
    with pytest.raises(ValueError, match="spec has 2 levels but identifiability needs one"):
        identifiability(HVAESpec((2, 1)), Moments.from_covariance(np.eye(2)), {})
    with pytest.raises(ValueError, match="reencoded_rate_distribution needs an encoder that sees"):
        reencoded_rate_distribution(VAESpec(1), moments, {})
    with pytest.raises(ValueError, match="latents='data' must be 'prior' or 'posterior'"):
        identifiability(CVAESpec(1), moments, {}, latents="data")
