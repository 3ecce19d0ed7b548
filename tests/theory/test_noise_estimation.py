"""Noise level and number of spikes of samples with known ones; images are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.datasets import load_digits

from linvae.moments import Moments
from linvae.theory.noise_estimation import estimate_noise, training_scale, unbiased_spectrum
from linvae.theory.spiked_covariance import bulk_cdf

from .samples import ASPECTS, STANDARD_ERRORS, descending, spiked_sample


@pytest.mark.parametrize(("d", "n"), [(40, 80), (100, 50), (60, 600)])
def test_false_alarms_on_pure_noise(d, n):
    rng, draws = np.random.default_rng(d), 200
    estimates = [
        estimate_noise(descending(spiked_sample(rng, n, np.full(d, 3.0)))[0], n, centered=False)
        for _ in range(draws)
    ]
    # three standard errors of a share of 1 % in 200
    assert np.mean([e.n_spikes > 0 for e in estimates]) <= 0.01 + 3 * np.sqrt(0.01 / draws)
    assert all(e.applies for e in estimates)
    levels = np.array([e.noise_variance for e in estimates])
    # the mean of n d squares: standard deviation v sqrt(2/(n d))
    assert np.abs(levels / 3.0 - 1).max() < STANDARD_ERRORS * np.sqrt(2 / (n * d))


@pytest.mark.parametrize(("d", "n"), [(30, 40), (40, 30), (12, 120)])
def test_threshold_is_the_quantile_of_the_largest_eigenvalue_of_noise(d, n):
    """Equal eigenvalues are no spikes, so the threshold is that of unit noise."""
    rng, draws = np.random.default_rng(n), 2000
    largest = np.linalg.norm(rng.normal(size=(draws, n, d)), 2, axis=(1, 2)) ** 2 / n
    for share in (0.9, 0.5, 0.1):
        found = estimate_noise(np.ones(d), n, centered=False, false_alarm=share)
        # three standard errors, and what the limit is off by at this size
        allowed = 3 * np.sqrt(share * (1 - share) / draws) + 0.01
        assert np.mean(largest > found.threshold) == pytest.approx(share, abs=allowed)


@pytest.mark.parametrize("gamma", ASPECTS)
def test_visible_spikes_are_counted_and_removed(gamma):
    d, draws = 200, 8
    n, rng = round(d / gamma), np.random.default_rng(int(10 * gamma))
    population = np.full(d, 0.5)
    population[:3] = 0.5 * (1 + np.sqrt(gamma) * np.array([50.0, 8.0, 4.0]))
    for _ in range(draws):
        values = descending(spiked_sample(rng, n, population))[0]
        found = estimate_noise(values, n, centered=False)
        assert found.n_spikes == 3
        assert found.applies
        # as for pure noise, plus the fluctuation of what the spikes took: of order 1/d
        allowed = STANDARD_ERRORS * np.sqrt(2 / (n * d)) + 1 / d
        assert found.noise_variance == pytest.approx(0.5, rel=allowed)


def test_threshold_beside_spikes_is_that_of_the_other_dimensions():
    d, n = 60, 90
    values = np.r_[500.0, 400.0, 300.0, np.ones(d - 3)]
    found = estimate_noise(values, n, centered=False)
    alone = estimate_noise(np.ones(d - 3), n, centered=False)
    assert found.n_spikes == 3
    assert found.threshold / found.noise_variance == pytest.approx(alone.threshold, rel=1e-12)
    assert found.allowed_distance == pytest.approx(6 / (d - 3), rel=1e-12)


def test_images_and_coloured_noise_are_refused():
    digits = Moments.from_data(load_digits().data)
    found = estimate_noise(digits)
    assert not found.applies
    assert found.bulk_distance > 4 * found.allowed_distance
    rng = np.random.default_rng(2)
    coloured = descending(spiked_sample(rng, 400, np.linspace(0.5, 1.5, 200)))[0]
    assert not estimate_noise(coloured, 400, centered=False).applies


@pytest.mark.parametrize("centered", [True, False])
def test_spectrum_is_unbiased_and_scales_back_to_what_training_sees(centered):
    x = np.random.default_rng(0).normal(size=(40, 6)) + 1.0
    moments = Moments.from_data(x, centered=centered)
    found, n = unbiased_spectrum(moments, None, None)
    expected = np.linalg.eigvalsh(np.cov(x.T) if centered else x.T @ x / 40)[::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert n == 40 - centered
    seen = found * training_scale(moments, n, None)
    np.testing.assert_allclose(seen, np.linalg.eigvalsh(moments.covariance)[::-1], rtol=1e-12)


ERRORS = [
    (lambda: estimate_noise(np.ones(30)), "n_samples=None must be an integer >= 3"),
    (lambda: estimate_noise(np.zeros(30), 9), "must have some variance"),
    (lambda: estimate_noise(np.eye(3), 9), r"data has shape \(3, 3\)"),
    (lambda: estimate_noise(np.ones(30), 9, false_alarm=1.0), "false_alarm=1.0 must be"),
    (
        lambda: estimate_noise(Moments.from_covariance(np.eye(3), condition_dim=1), 9),
        "condition_dim=1",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_spikes_at_their_limits_give_the_noise_exactly():
    """Eigenvalues v (1 + tau)(1 + gamma/tau), and a flat bulk that lacks what these took."""
    tau, d, n, v = np.array([8.0, 5.0, 3.0]), 100, 200, 0.7
    gamma = d / n
    spikes = v * (1 + tau) * (1 + gamma / tau)
    bulk = v * (d - 3 - np.sum(gamma * (1 + tau) / tau)) / (d - 3)
    found = estimate_noise(np.append(spikes, np.full(d - 3, bulk)), n, centered=False)
    assert found.n_spikes == 3
    assert found.noise_variance == pytest.approx(v, rel=1e-9)  # the iteration contracts


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units_of_the_spectrum_change_nothing(unit):
    """Rounding of a spectrum of rank 3 is no eigenvalue."""
    values = np.append([3.0, 2.0, 1.0], np.full(7, 1e-17))
    found, _ = unbiased_spectrum(unit * values, 50, False)
    np.testing.assert_allclose(found, unit * np.append([3.0, 2.0, 1.0], np.zeros(7)), rtol=1e-15)


@pytest.mark.parametrize("d", [22, 31, 90])
def test_no_more_than_a_quarter_are_spikes_and_then_it_does_not_apply(d):
    """Half of all would be, geometrically far from the bulk and from each other."""
    values = np.r_[np.geomspace(1e6, 1e3, d // 2), np.linspace(1.3, 0.7, d - d // 2)]
    found = estimate_noise(values, 10 * d, centered=False)
    assert found.n_spikes == d // 4
    assert not found.applies


def test_it_does_not_apply_to_few_eigenvalues_however_flat():
    """The distance allowed, six steps, is then no test of the shape."""
    found = estimate_noise(np.linspace(1.2, 0.8, 12), 400, centered=False)
    assert found.n_spikes == 0
    assert found.bulk_distance <= found.allowed_distance
    assert not found.applies


@pytest.mark.parametrize("spikes", [21, 22])
def test_a_search_that_ends_at_a_quarter_has_not_found_all(spikes):
    """Even where what is left looks like noise: there might be more."""
    d, n = 90, 900
    noise = descending(spiked_sample(np.random.default_rng(5), n, np.ones(d - spikes)))[0]
    found = estimate_noise(np.r_[np.geomspace(1e6, 1e3, spikes), noise], n, centered=False)
    assert found.n_spikes == spikes
    assert found.bulk_distance <= found.allowed_distance
    assert found.applies == (spikes < d // 4)


@pytest.mark.parametrize("power", [0.7, 1.0, 1.4])
def test_distance_of_the_bulk_is_that_of_kolmogorov_and_smirnov(power):
    """Too narrow, as noise, and too wide: the largest difference is on either side."""
    d, n = 50, 200
    values = descending(spiked_sample(np.random.default_rng(6), n, np.ones(d)))[0] ** power
    found = estimate_noise(values, n, centered=False)
    bulk, gamma = values[found.n_spikes :], (d - found.n_spikes) / n
    expected = kstest(bulk, lambda x: bulk_cdf(x, found.noise_variance, gamma)).statistic
    assert found.bulk_distance == pytest.approx(expected, rel=1e-9)
