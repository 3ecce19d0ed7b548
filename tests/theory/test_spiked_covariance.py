"""Spikes and bulk: limits against samples, maps against inverses, the bulk against its density."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from linvae.theory.spiked_covariance import (
    bulk_cdf,
    bulk_edges,
    debiased_eigenvalue,
    overlap,
    population_variance,
    sample_eigenvalue,
)

from .samples import ASPECTS, STANDARD_ERRORS, descending, spiked_sample


@pytest.mark.parametrize("gamma", ASPECTS)
@pytest.mark.parametrize("strength", [1.5, 2.0, 3.0, 6.0])
def test_visible_spike(gamma, strength):
    """`strength` = tau/sqrt(gamma); d = 100, 40 samples; population eigenvalue v (1 + tau)."""
    d, v, draws = 100, 0.7, 40
    n, rng = round(d / gamma), np.random.default_rng(int(1000 * gamma + 10 * strength))
    tau = strength * np.sqrt(gamma)
    population = np.full(d, v)
    population[0] *= 1 + tau
    found = []
    for _ in range(draws):
        values, vectors = descending(spiked_sample(rng, n, population))
        q = vectors[:, 0]
        found.append([values[0], q[0] ** 2, q @ (population * q)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(draws)
    expected = np.array([
        sample_eigenvalue(population[0], v, gamma),
        overlap(population[0], v, gamma),
        population_variance(sample_eigenvalue(population[0], v, gamma), v, gamma),
    ])  # fmt: skip
    # the limit is off by O(1/d), with a factor that grows next to the transition
    bias = expected * 2 / d / (1 - 1 / strength**2)
    assert np.all(np.abs(mean - expected) < STANDARD_ERRORS * error + bias)


@pytest.mark.parametrize("gamma", ASPECTS)
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_drowned_spike(gamma, strength):
    d, v, draws = 100, 0.7, 40
    n, rng = round(d / gamma), np.random.default_rng(int(1000 * gamma + 10 * strength))
    population = np.full(d, v)
    population[0] *= 1 + strength * np.sqrt(gamma)
    found = []
    for _ in range(draws):
        values, vectors = descending(spiked_sample(rng, n, population))
        found.append([values[0], vectors[0, 0] ** 2])
    top, a = np.mean(found, axis=0)
    edge = sample_eigenvalue(population[0], v, gamma)
    assert edge == bulk_edges(v, gamma)[1]
    # Tracy-Widom: the top stays within a few d^(-2/3) of the edge; the overlap is of order 1/d
    assert abs(top - edge) < 2 * edge * min(d, n) ** (-2 / 3)
    assert overlap(population[0], v, gamma) == 0.0
    assert a < 10 / d


def test_spike_maps_invert_each_other():
    rng = np.random.default_rng(0)
    gamma, v = np.exp(rng.uniform(-3, 2, 200)), np.exp(rng.uniform(-3, 3, 200))
    tau = np.sqrt(gamma) * (1 + np.exp(rng.uniform(-4, 4, 200)))
    sample = sample_eigenvalue(v * (1 + tau), v, gamma)
    # a square root of differences of size 1e-2 and more next to the transition
    np.testing.assert_allclose(debiased_eigenvalue(sample, v, gamma), v * (1 + tau), rtol=1e-11)
    p = population_variance(sample, v, gamma)
    a = overlap(v * (1 + tau), v, gamma)
    np.testing.assert_allclose(p, v * (1 + tau * a), rtol=1e-11)
    np.testing.assert_allclose(p, sample / (1 + gamma / tau) ** 2, rtol=1e-11)


def test_spike_maps_at_their_limits():
    assert sample_eigenvalue(3.0, 1.0, 0.0) == 3.0  # samples without end
    assert overlap(3.0, 1.0, 0.0) == 1.0
    assert overlap(1.0, 1.0, 0.0) == 0.0  # no spike, no direction
    assert overlap(2.0, 1.0, 1.0) == 0.0  # exactly at the transition
    assert sample_eigenvalue(2.0, 1.0, 1.0) == 4.0
    np.testing.assert_array_equal(debiased_eigenvalue([0.0, 1.0, 4.0], 1.0, 1.0), 1.0)
    np.testing.assert_array_equal(population_variance([0.0, 1.0, 4.0], 1.0, 1.0), 1.0)
    just_above = population_variance(4.0 + 1e-9, 1.0, 1.0)
    assert just_above == pytest.approx(1.0, abs=1e-4)  # continuous, with a root: 3e-5


@pytest.mark.parametrize("gamma", [0.05, *ASPECTS, 20.0])
def test_bulk_is_the_integral_of_its_density(gamma):
    low, high = bulk_edges(1.0, gamma)

    def share(angle: float) -> float:  # x = low + (high - low) sin^2: no singular edges
        x = low + (high - low) * np.sin(angle) ** 2
        slope = (high - low) * np.sin(2 * angle)
        return np.sqrt((high - x) * (x - low)) / (2 * np.pi * gamma * x) * slope * max(1.0, gamma)

    for angle in np.linspace(0.1, np.pi / 2, 7):
        x = low + (high - low) * np.sin(angle) ** 2
        # both to rounding
        assert bulk_cdf(2.5 * x, 2.5, gamma) == pytest.approx(quad(share, 0, angle)[0], abs=1e-10)
    np.testing.assert_array_equal(bulk_cdf([low / 2, high * 2], 1.0, gamma), [0.0, 1.0])


ERRORS = [
    (lambda: sample_eigenvalue(0.5, 1.0, 0.5), "population_eigenvalue=0.5 must be at least"),
    (lambda: sample_eigenvalue(2.0, 0.0, 0.5), "noise_variance=0.0 must be finite and > 0"),
    (lambda: overlap(2.0, 1.0, -1.0), "aspect_ratio=-1.0 must be finite and >= 0"),
    (lambda: debiased_eigenvalue(2.0, 0.0, 0.5), "noise_variance=0.0 must be finite and > 0"),
    (lambda: bulk_cdf(1.0, 0.0, 0.5), "noise_variance=0.0 must be finite and > 0"),
    (lambda: bulk_edges(0.0, 0.5), "noise_variance=0.0 must be finite and > 0"),
    (lambda: bulk_cdf(1.0, 1.0, 0.0), "aspect_ratio=0.0 must be finite and > 0"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
