"""Decoders as exponential families: against log-partitions, derivatives and inverses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit

from linvae.theory.log_partition import conjugate_at, family_of

MEAN, S = np.array([0.2, 0.5, 0.93]), 0.7
LOG_PARTITION = {
    "gaussian": lambda theta: S * theta**2 / 2,
    "bernoulli": lambda theta: np.logaddexp(0, theta),
    "poisson": np.exp,
}
NATURAL = {"gaussian": MEAN / S, "bernoulli": logit(MEAN), "poisson": np.log(MEAN)}
every_likelihood = pytest.mark.parametrize("likelihood", list(LOG_PARTITION))


def _points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 50)) * np.geomspace(1e-3, 8, 50)


@every_likelihood
def test_divergence_is_the_difference_of_log_partitions(likelihood):
    family, x = family_of(likelihood, MEAN, S), _points()
    A, theta0 = LOG_PARTITION[likelihood], NATURAL[likelihood]
    expected = np.sum(A(theta0[:, None] + x) - A(theta0)[:, None] - MEAN[:, None] * x, axis=0)
    # differences of terms of size 1 and more: 1e-15 each, where D itself may be 1e-6
    np.testing.assert_allclose(family.divergence(x), expected, rtol=1e-12, atol=1e-14)


@every_likelihood
def test_shift_is_its_derivative_and_natural_the_inverse(likelihood):
    family, x, h = family_of(likelihood, MEAN, S), _points(), 1e-5
    for i in range(3):
        step = np.zeros((3, 1))
        step[i] = h
        slope = (family.divergence(x + step) - family.divergence(x - step)) / (2 * h)
        # h^2 of third derivatives, and the rounding of D over h
        allowed = 1e-9 * (1 + abs(slope)) + 1e-15 * family.divergence(x) / h
        assert np.all(np.abs(family.shift(x)[i] - slope) < allowed)
    inside = np.clip(x, -12, 12)  # farther out the mean of a coin is 1 up to rounding
    np.testing.assert_allclose(family.natural(family.shift(inside)), inside, rtol=1e-8, atol=1e-10)
    curvature = family.shift(1e-9 * x) / (1e-9 * x)
    np.testing.assert_allclose(curvature, np.tile(family.curvature, (50, 1)).T, rtol=1e-6)


@every_likelihood
def test_threshold_of_a_tilt_solves_its_equation(likelihood):
    family, t = family_of(likelihood, MEAN, S), _points()
    K = np.random.default_rng(1).uniform(0.01, 3, size=50) * (family.curvature @ t**2)
    # a coin's divergence grows linearly: beta exists where K is below its final slope
    slope = np.sum(np.where(t.T > 0, 1 - MEAN, MEAN) * abs(t.T), axis=1)
    K = np.minimum(K, 0.9 * slope)
    beta = family.critical_beta(t, K)
    np.testing.assert_allclose(family.divergence(beta * t), beta * K, rtol=1e-10)
    assert np.all(beta > 0)
    assert family.critical_beta(t, -K).tolist() == [0.0] * 50


@every_likelihood
def test_conjugate_is_below_its_bound(likelihood):
    family, x = family_of(likelihood, MEAN, S), _points()
    square = np.sum(family.shift(x) ** 2 / family.curvature[:, None], axis=0)
    conjugate = np.array([conjugate_at(family, column) for column in x.T])
    assert np.all(conjugate <= family.conjugate_bound * square / 2 * (1 + 1e-12))
    if likelihood == "gaussian":
        np.testing.assert_allclose(conjugate, square / 2, rtol=1e-12)


@pytest.mark.parametrize("mean", [1e-17, 1e-30])
def test_a_coin_that_hardly_ever_falls_so_stays_finite(mean):
    """1 - mean is 1 in doubles: the logarithm of what is left is held at that of 1e-16."""
    found = family_of("bernoulli", np.array([mean]), S).divergence(np.array([[45.0, 60.0]]))
    exact = np.logaddexp(np.log(mean) + np.array([45.0, 60.0]), 0)
    assert np.all(np.isfinite(found))
    assert np.all(found >= exact)
