"""The optimum of a sample on the population: against the exact objective of the trained weights."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import objective, solve
from linvae.theory.held_out import (
    _log_noise,
    held_out_critical_beta,
    held_out_gains,
    held_out_terms,
    trained_noise_fractions,
)
from linvae.theory.spiked_covariance import bulk_edges, population_variance, sample_eigenvalue

from .problems import random_covariance
from .samples import STANDARD_ERRORS, along, descending, spiked_sample


def _two_moments(seed: int):
    """Any population, a small sample of it, and a model."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 7))
    population = random_covariance(rng, d)
    n = int(rng.integers(2, 12))
    x = rng.normal(size=(n, d)) @ np.linalg.cholesky(population).T
    sample = Moments.from_data(x, centered=bool(seed % 2))
    numbers = {
        "latent_dim": int(rng.integers(1, d + 3)),
        "beta": float(np.exp(rng.uniform(-2, 1))),
        "decoder_variance": float(np.exp(rng.uniform(-2, 1))),
    }
    return Moments.from_covariance(population), sample, numbers, float(np.exp(rng.uniform(-1, 1)))


@pytest.mark.parametrize("seed", range(100))
def test_held_out_terms_are_the_exact_objective_of_the_trained_weights(seed):
    population, sample, numbers, eta2 = _two_moments(seed)
    spec = VAESpec(**numbers, prior_variance=eta2)
    expected = objective(spec, population, solve(spec, sample).weights)
    found = held_out_terms(*along(sample, population), **numbers)
    # sums of at most 10 terms of size up to 1/s = 7, and one eigen-decomposition
    assert found.distortion == pytest.approx(expected.distortion, abs=1e-10)
    assert found.rates == pytest.approx(expected.rates, abs=1e-10)
    assert found.objective == pytest.approx(expected.objective, abs=1e-10)


@pytest.mark.parametrize("seed", range(0, 100, 5))
def test_held_out_terms_on_the_sample_itself_are_the_solution(seed):
    _, sample, numbers, _ = _two_moments(seed)
    theta2 = descending(sample.covariance)[0]
    found = held_out_terms(theta2, theta2, **numbers)
    assert found.objective == pytest.approx(solve(VAESpec(**numbers), sample).objective, abs=1e-10)


@pytest.mark.parametrize("seed", range(0, 100, 2))
def test_gains_are_what_the_exact_objective_loses_without_the_unit(seed):
    population, sample, numbers, _ = _two_moments(seed)
    spec, theta2_p = VAESpec(**numbers), along(sample, population)
    weights = solve(spec, sample).weights
    with_unit = objective(spec, population, weights).objective
    keys = {key: numbers[key] for key in ("beta", "decoder_variance")}
    gains = held_out_gains(*theta2_p, **keys)
    for unit in range(min(spec.latent_dim, sample.target_dim)):
        without = {name: matrix.copy() for name, matrix in weights.items()}
        without["W"][unit], without["U"][:, unit] = 0.0, 0.0
        without["Sigma"][unit, unit] = spec.prior_variance
        lost = objective(spec, population, without).objective - with_unit
        assert gains[unit] == pytest.approx(lost, abs=1e-10)


def test_held_out_threshold_is_where_the_gain_changes_sign():
    rng = np.random.default_rng(3)
    theta2 = np.exp(rng.uniform(-2, 2, 200))
    p = theta2 * rng.uniform(0.01, 0.99, 200)
    critical = held_out_critical_beta(theta2, p, decoder_variance=0.4)
    assert np.all(critical < theta2 / 0.4)
    for i in range(200):  # each beta is its own
        signs = [
            np.sign(held_out_gains(theta2[[i]], p[[i]], beta=b, decoder_variance=0.4)[0])
            for b in (critical[i] * (1 - 1e-6), critical[i] * (1 + 1e-6))
        ]
        assert signs == [1.0, -1.0]


@pytest.mark.parametrize("exponent", [*range(1, 53), 100, 300, 1000])
@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0])
def test_held_out_threshold_however_near_its_ends(exponent, factor):
    """50 digits: r solves x (1 - r) + r log r = 0; SciPy's Lambert W gives NaN next to x = 1."""
    small = factor * 2.0 ** -(exponent + 1)
    with mpmath.workdps(50):
        for x in (small, 1 - small):
            exact = mpmath.mpf(x) + mpmath.lambertw(-x * mpmath.exp(-mpmath.mpf(x)), -1).real
            found = held_out_critical_beta([2.0], [2.0 * x], decoder_variance=2.0)
            # 1e-13 of L = -log r next to x = 1, eps of W times the L of small x
            assert found[0] == pytest.approx(float(mpmath.exp(exact)), rel=5e-13, abs=1e-307)


@pytest.mark.parametrize("log_noise", [1e-4, 1e-3, 1.9e-3])
def test_noise_next_to_the_sample_s_own_variance(log_noise):
    """gap = 1 - L/(e^L - 1) = L/2 - L^2/12 + L^4/720 - ..., with Bernoulli's numbers."""
    L = mpmath.mpf(log_noise)
    gap = float(L / 2 - L**2 / 12 + L**4 / 720)  # the next term is L^6/30240
    # 1 - x keeps eps of 1, at least 1e-12 of the gap; the series misses gap^4/10
    found = float(_log_noise(np.array([1 - gap]))[0])
    assert found == pytest.approx(log_noise, abs=5e-16)


@pytest.mark.parametrize("share", [5e-324, 1e-320, 1e-318, 1e-310, 1e-301, 1e-299])
def test_held_out_threshold_of_hardly_any_variance(share):
    """r is about x L, and L = -log r at most 745."""
    found = held_out_critical_beta([1.0], [share], decoder_variance=1.0)
    assert 0 <= found[0] <= 760 * share


def test_held_out_threshold_at_its_limits():
    found = held_out_critical_beta([2.0, 2.0, 2.0, 0.0], [0.0, 2.0, 3.0, 1.0], decoder_variance=0.5)
    np.testing.assert_array_equal(found, [0.0, 4.0, 4.0, 0.0])


@pytest.mark.parametrize("gamma", [0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("beta", [0.9, 1.5, 4.0])
def test_limit_of_the_held_out_terms(gamma, beta):
    """Two spikes; p and theta^2 of the spikes from the limit, the bulk from noise alone."""
    d, s, v, k, draws = 200, 0.5, 0.8, 3, 6
    n, rng = round(d / gamma), np.random.default_rng(int(100 * gamma + 10 * beta))
    population = np.full(d, v)
    population[:2] = v * (1 + np.sqrt(gamma) * np.array([6.0, 3.0]))
    spec, truth = VAESpec(k, beta=beta, decoder_variance=s), Moments.from_covariance(
        np.diag(population)
    )  # fmt: skip
    found = []
    for _ in range(draws):
        sample = Moments.from_covariance(spiked_sample(rng, n, population), n_samples=n)
        terms = objective(spec, truth, solve(spec, sample).weights)
        found.append([terms.objective, terms.distortion, terms.rates[0]])
    theta2 = np.full(d, float(bulk_edges(v, gamma)[1]))
    theta2[:2] = sample_eigenvalue(population[:2], v, gamma)
    p = population_variance(theta2, v, gamma)
    limit = held_out_terms(
        theta2, p, latent_dim=k, beta=beta, decoder_variance=s, total_variance=population.sum()
    )
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(draws)
    off = np.abs(mean - [limit.objective, limit.distortion, limit.rates[0]])
    # the third unit sits d^(-2/3) = 3 % below the edge: its rate is off by 1.5 %, its share of
    # the distortion by that times p/s; the distortion is about d/2
    assert np.all(off < STANDARD_ERRORS * error + [0.06, 0.06, 0.06])


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_trained_noise_fractions_are_those_of_the_solution(seed):
    _, sample, numbers, _ = _two_moments(seed)
    numbers["latent_dim"] = sample.target_dim
    solution = solve(VAESpec(**numbers), sample)
    found = trained_noise_fractions(
        solution.mode_variances, numbers["beta"], numbers["decoder_variance"]
    )
    np.testing.assert_allclose(found, solution.noise_fractions[0], rtol=1e-14)
    np.testing.assert_array_equal(found < 1, ~solution.collapsed[0])


ERRORS = [
    (
        lambda: held_out_gains([1.0], [1.0, 2.0], beta=1.0, decoder_variance=1.0),
        r"population_variances has shape \(2,\) but mode_variances has \(1,\)",
    ),
    (
        lambda: held_out_gains([1.0], [1.0], beta=0.0, decoder_variance=1.0),
        "beta=0.0 must be finite and > 0 in linvae.theory.held_out",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
