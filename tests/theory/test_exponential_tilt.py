"""The search over tilts: its derivative, its steps, its weights."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import skew

from linvae.theory.exponential_tilt import (
    TiltProblem,
    _leading_components,
    _value_at,
    held_out_threshold,
    maximise,
    tilted_weights,
)

every_likelihood = pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson"])


def _problem(likelihood: str) -> TiltProblem:
    rng = np.random.default_rng(3)
    y = {
        "gaussian": rng.gamma(2.0, size=(60, 3)),
        "bernoulli": (rng.random((60, 3)) < [0.3, 0.5, 0.2]).astype(float),
        "poisson": rng.poisson([1.0, 2.0, 3.0], size=(60, 3)).astype(float),
    }[likelihood]
    return TiltProblem.of(y, likelihood, 0.7 if likelihood == "gaussian" else 1.0)


@every_likelihood
def test_gradient_is_the_derivative(likelihood):
    """Size and direction: a wrong size only slows the ascent, which no maximum would show."""
    problem = _problem(likelihood)
    tau, step = np.array([0.8, -0.5, 0.3]), 1e-5
    beta, tilted = problem.evaluate(tau[:, None])
    found = problem.gradient(tau, float(beta[0]), tilted[:, 0])
    around = tau[:, None] + step * np.concatenate([np.eye(3), -np.eye(3)], axis=1)
    values, _ = problem.evaluate(around)
    # central differences: step^2 and rounding/step are both about 1e-10 of the value; the root
    # itself is found to 1e-8 squared
    assert found == pytest.approx((values[:3] - values[3:]) / (2 * step), rel=1e-5, abs=1e-6)


@every_likelihood
def test_mean_shift_never_lowers_the_threshold_of_a_tilt(likelihood):
    problem = _problem(likelihood)
    tau = np.random.default_rng(4).normal(size=(3, 40))
    before, tilted = problem.evaluate(tau)
    after, _ = problem.evaluate(problem.mean_shift(before, tilted))
    assert np.all(after >= before * (1 - 1e-12))
    assert np.mean(after > before * 1.001) > 0.5


@every_likelihood
def test_what_a_mean_is_worth_is_the_conjugate(likelihood):
    """sup over t of t.(m - mean) - D(t), by another optimiser."""
    problem = _problem(likelihood)
    tilted = 0.3 * problem.x[:4].T

    def cost(t: np.ndarray, shift: np.ndarray) -> float:
        return float(problem.family.divergence(t[:, None])[0] - t @ shift)

    for found, shift in zip(problem.conjugate(tilted), tilted.T * problem.scale, strict=True):
        best = minimize(cost, np.zeros(3), args=(shift,))  # BFGS by finite differences
        assert found == pytest.approx(-best.fun, rel=1e-6)


def test_the_limit_is_probed_next_to_zero():
    """Two points alike have no gap; 1e-4 standard deviations stand for t -> 0."""
    for unit in (0.01, 100.0):
        y = unit * np.array([-1.0, 1.0] * 4)[:, None]
        found = maximise(TiltProblem.of(y, "gaussian", 0.7), np.random.default_rng(0))
        assert found.beta == pytest.approx(unit**2 / 0.7, rel=1e-12)
        assert not np.any(found.tilt)
        assert np.std(y @ found.probe) == pytest.approx(1e-4, rel=1e-12)


@every_likelihood
def test_no_tilt_of_a_grid_beats_the_maximum_and_its_output_is_the_tilted_mean(likelihood):
    problem = _problem(likelihood)
    found = maximise(problem, np.random.default_rng(0))
    axis = np.linspace(-4, 4, 41)
    grid = np.stack([g.ravel() for g in np.meshgrid(axis, axis, axis)])
    values, _ = problem.evaluate(grid[:, np.any(grid != 0, axis=0)])
    assert found.beta >= values.max() * (1 - 1e-9)
    assert found.beta >= problem.linear
    assert found.probe @ found.tilt == pytest.approx(found.tilt @ found.tilt, rel=1e-12)
    # stationary: the best output is the mean of the tilted samples, here at a slope of 1e-8
    shifted = problem.family.shift(found.beta * found.tilt[:, None])[:, 0]
    np.testing.assert_allclose(
        shifted, tilted_weights(problem.y @ found.tilt) @ problem.y, atol=1e-5
    )


def test_weights_are_those_of_the_definition():
    z = np.array([0.3, -1.0, 700.0, 702.0])  # exp(702) is finite, its sum with the rest as well
    np.testing.assert_allclose(tilted_weights(z), np.exp(z) / np.exp(z).sum(), rtol=1e-12)
    far = np.array([0.0, 2000.0, -2000.0, 1999.0])  # exp(2000) is not
    np.testing.assert_allclose(tilted_weights(far), softmax(far), rtol=1e-12)


@pytest.mark.parametrize("rare", [[], [[0.0]] * 39 + [[9.0]]], ids=["one", "rare-coordinate"])
def test_held_out_value_is_that_of_the_other_half(rare):
    """The tilt of a half is the limit t -> 0 or beyond, at beta(t) by hand.

    The rare coordinate varies in one half only; in the other it still costs its share of t^2.
    """
    y = np.array([0.0, 3.0] * 20)[:, None]  # symmetric: no gap in either half that has both values
    y = np.concatenate([y, rare], axis=1) if rare else y
    value, error = held_out_threshold(y, [np.arange(40)], "gaussian", 0.5, np.random.default_rng(0))
    halves = np.array_split(np.random.default_rng(0).permutation(40), 2)
    rng = np.random.default_rng(1)
    expected, errors = [], []
    for one, other in (halves, halves[::-1]):
        t = maximise(TiltProblem.of(y[one], "gaussian", 0.5), rng).probe
        z = (y[other] - y[other].mean(axis=0)) @ t
        expected.append(2 * np.log(np.mean(np.exp(z))) / (0.5 * t @ t))
        spread = np.std(np.exp(z) / np.mean(np.exp(z)) - z) / np.sqrt(len(z))  # of K
        errors.append(2 * spread / (0.5 * t @ t))
    assert value == pytest.approx(np.mean(expected), rel=1e-6)
    # the two starts of the search differ: tilts to 1e-6, where there is no gap to 1e-4 rounding
    assert error == pytest.approx(np.hypot(*errors) / 2, rel=1e-4)


def test_skewness_of_the_leading_component():
    y = np.random.default_rng(5).gamma(2.0, size=(60, 1))
    found = TiltProblem.of(np.concatenate([-3 * y, y[::-1]], axis=1), "gaussian", 0.7).skewness
    scores = np.linalg.svd(np.concatenate([-3 * y, y[::-1]], axis=1) - [-3 * y.mean(), y.mean()])[0]
    assert found == pytest.approx(abs(skew(scores[:, 0])), rel=1e-9)


@pytest.mark.parametrize("n", [3, 4, 60], ids=["few", "square", "many"])
def test_components_of_dependent_coordinates_are_those_that_vary(n):
    """Rank 2 of 4, by singular values: descending, without the eigenvalues of rounding."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 4))
    vectors, values = _leading_components(x)
    np.testing.assert_allclose(values, np.linalg.svd(x)[1][:2] ** 2 / n, rtol=1e-12)
    np.testing.assert_allclose(x.T @ x / n, vectors * values @ vectors.T, atol=1e-12)


def test_no_variance_has_no_held_out_value():
    y, groups = np.full((8, 2), 0.25), [np.arange(8)]
    for likelihood in ("gaussian", "bernoulli"):
        found = held_out_threshold(y, groups, likelihood, 1.0, np.random.default_rng(0))
        assert np.isnan(found).all()


def test_one_sample_has_no_components():
    vectors, values = _leading_components(np.zeros((1, 3)))
    assert (vectors.shape, values.shape) == ((3, 0), (0,))


def test_value_of_a_tilt_whose_weights_overflow():
    """K = 3000 (1 - mean) + log(1/4): exp(3000) is not a double."""
    y = np.array([0.0, 0.0, 0.0, 1.0])[:, None]
    found, _ = _value_at(y, np.array([3000.0]), "gaussian", 0.5)
    assert found == pytest.approx(2 * (2250 - np.log(4)) / (0.5 * 3000**2), rel=1e-12)


def test_value_along_a_coordinate_without_variance():
    """No tilt moves a certain Bernoulli output; a Gaussian one pays for its length."""
    y = np.random.default_rng(9).integers(0, 2, (50, 2)) * [1.0, 0.0]
    assert _value_at(y, np.array([0.0, 2.0]), "bernoulli", 1.0) == (
        0.0,
        pytest.approx(np.nan, nan_ok=True),
    )
    both, alone = (_value_at(y, np.array([2.0, t]), "bernoulli", 1.0) for t in (3.0, 0.0))
    assert both == alone
    nearly = y + [[0.0, 1e-9]] * np.arange(50)[:, None]
    found, limit = (_value_at(x, np.array([1.0, 1.0]), "gaussian", 1.0)[0] for x in (y, nearly))
    assert found == pytest.approx(limit, rel=1e-6)
