"""Conditional VAE: the condition takes variance away from the latents."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from sklearn.linear_model import LinearRegression

from linvae.moments import Moments
from linvae.spec import CVAESpec, VAESpec
from linvae.theory import UnboundedObjectiveError, solve

from .problems import random_covariance


def _correlated(rho: float, variance: float = 1.5) -> Moments:
    """Scalar condition of variance 2 and scalar target with correlation rho."""
    cross = rho * np.sqrt(2.0 * variance)
    return Moments.from_covariance([[2.0, cross], [cross, variance]], condition_dim=1)


def test_modes_are_the_variances_of_regression_residuals():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(60, 2))
    y = x @ rng.normal(size=(2, 3)) + rng.normal(size=(60, 3)) * [1.0, 0.6, 0.3] + 4.0
    residual = y - LinearRegression().fit(x, y).predict(x)
    expected = np.sort(np.linalg.eigvalsh(residual.T @ residual / 60))[::-1]
    found = solve(CVAESpec(2), Moments.from_data(y, x)).mode_variances
    np.testing.assert_allclose(found, expected, rtol=1e-11)  # two routes to a 3 x 3 matrix


def test_without_latents_in_use_the_decoder_is_the_regression():
    C = random_covariance(np.random.default_rng(1), 5)
    moments = Moments.from_covariance(C, condition_dim=2)
    solution = solve(CVAESpec(2, beta=1e6), moments)
    regression = C[2:, :2] @ np.linalg.inv(C[:2, :2])
    assert solution.collapsed.all()
    np.testing.assert_allclose(solution.weights["U2"], regression, atol=1e-12)
    assert not solution.weights["W1"].any()


@pytest.mark.parametrize("encoder_variance", [None, 0.4, (0.2, 0.7)], ids=str)
def test_useless_condition_is_the_plain_model(encoder_variance):
    C = random_covariance(np.random.default_rng(12), 3)
    joint = np.zeros((5, 5))
    joint[:2, :2], joint[2:, 2:] = random_covariance(np.random.default_rng(13), 2), C
    fields = {"beta": 0.8, "decoder_variance": 0.3, "encoder_variance": encoder_variance}
    conditional = solve(CVAESpec(2, **fields), Moments.from_covariance(joint, condition_dim=2))
    plain = solve(VAESpec(2, **fields), Moments.from_covariance(C))
    oracles.assert_same_terms(conditional, plain)
    np.testing.assert_allclose(conditional.weights["W2"], plain.weights["W"], atol=1e-12)
    assert not conditional.weights["W1"].any()
    assert not conditional.weights["U2"].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_scalar_model_collapses_at_the_critical_correlation(sign):
    """|rho| >= sqrt(1 - beta s/Var y); Var y = 1.5, beta s = 0.3."""
    spec = CVAESpec(1, beta=1.2, decoder_variance=0.25)
    critical = np.sqrt(1 - 0.3 / 1.5)
    assert not solve(spec, _correlated(sign * 0.999 * critical)).collapsed[0, 0]
    assert solve(spec, _correlated(sign * 1.001 * critical)).collapsed[0, 0]


@pytest.mark.parametrize("encoder_variance", [None, 0.4])
def test_linear_map_of_the_condition_changes_nothing(encoder_variance):
    C = random_covariance(np.random.default_rng(14), 5)
    mix = np.eye(5)
    mix[:2, :2] = [[3.0, 1.0], [-0.4, 0.2]]
    spec = CVAESpec(2, decoder_variance=0.2, encoder_variance=encoder_variance)
    before = solve(spec, Moments.from_covariance(C, condition_dim=2))
    after = solve(spec, Moments.from_covariance(mix @ C @ mix.T, condition_dim=2))
    oracles.assert_same_terms(after, before)


@pytest.mark.parametrize("seed", range(8))
def test_condition_that_determines_the_target_leaves_nothing(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 3))
    moments = Moments.from_data(x @ rng.normal(size=(3, 3)), x)
    solution = solve(CVAESpec(2, decoder_variance=1e-12), moments)
    np.testing.assert_array_equal(solution.mode_variances, np.zeros(3))
    assert solution.collapsed.all()
    with pytest.raises(UnboundedObjectiveError, match=r"condition explains all .* 0; use a fixed"):
        solve(CVAESpec(2, decoder_variance="learned"), moments)


def test_model_that_sees_the_condition_only_cannot_beat_the_conditional_one():
    C = random_covariance(np.random.default_rng(16), 5)
    moments = Moments.from_covariance(C, condition_dim=2)
    general = solve(VAESpec(3, decoder_variance=0.2), moments)
    conditional = solve(CVAESpec(3, decoder_variance=0.2), moments)
    assert conditional.objective < general.objective - 0.1


def test_condition_is_required():
    with pytest.raises(ValueError, match="condition_dim=0 but CVAESpec needs a condition"):
        solve(CVAESpec(1), Moments.from_covariance(np.eye(2)))
