"""Marginal likelihood and gap against densities, sampling-free identities and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from linvae import CVAESpec, HVAESpec, Moments, VAESpec, objective, solve
from linvae.spec import ARVAESpec
from linvae.theory.marginal import elbo_gap, log_likelihood

from .problems import draw, random_covariance


def _data(seed: int = 0, n: int = 40, d: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 1.5


def test_one_level_is_the_density_of_the_samples():
    y = _data()
    moments, spec = Moments.from_data(y), VAESpec(2, decoder_variance=0.4, prior_variance=1.7)
    rng = np.random.default_rng(1)
    U = rng.normal(size=(3, 2))
    weights = {"W": rng.normal(size=(2, 3)), "U": U, "Sigma": np.eye(2)}
    law = multivariate_normal(y.mean(0), 0.4 * np.eye(3) + 1.7 * U @ U.T)
    expected = float(np.mean(law.logpdf(y)))
    assert log_likelihood(spec, moments, weights) == pytest.approx(expected, rel=1e-12)


def test_hierarchy_is_the_density_of_the_samples():
    """Three levels: the covariance built from independent noises, level by level."""
    y = _data(2)
    spec = HVAESpec((2, 3, 1), decoder_variance=0.3, prior_variances=(0.5, 1.2, 2.0))
    moments = Moments.from_data(y)
    weights = solve(spec, moments).weights
    rng = np.random.default_rng(3)
    weights |= {f"U{i}": rng.normal(size=weights[f"U{i}"].shape) for i in (1, 2, 3)}
    U1, U2, U3 = (weights[f"U{i}"] for i in (1, 2, 3))
    paths = [np.sqrt(0.3) * np.eye(3), np.sqrt(0.5) * U1, np.sqrt(1.2) * U1 @ U2]
    mixing = np.concatenate([*paths, np.sqrt(2.0) * U1 @ U2 @ U3], axis=1)
    law = multivariate_normal(y.mean(0), mixing @ mixing.T)
    expected = float(np.mean(law.logpdf(y)))
    assert log_likelihood(spec, moments, weights) == pytest.approx(expected, rel=1e-12)


def test_autoregressive_decoder_has_unit_jacobian():
    """A random walk through the decoder's own map: y = (I - B)^-1 (U z + noise)."""
    y = _data(4)
    spec, moments = ARVAESpec(1, decoder_variance=0.6), Moments.from_data(y)
    B = np.array([[0, 0, 0], [0.7, 0, 0], [-0.2, 0.5, 0]])
    U = np.array([[1.0], [0.3], [-0.4]])
    weights = {"W": np.ones((1, 3)), "U": U, "Sigma": np.eye(1), "B": B}
    T = np.linalg.inv(np.eye(3) - B)
    law = multivariate_normal(y.mean(0), T @ (0.6 * np.eye(3) + U @ U.T) @ T.T)
    assert log_likelihood(spec, moments, weights) == pytest.approx(
        float(np.mean(law.logpdf(y))), rel=1e-12
    )


@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("kind", ["vae-learned", "hvae2", "cvae-learned"])
def test_gap_is_never_negative(kind, number):
    problem = draw(kind, number)
    weights = solve(problem.spec, problem.moments).weights
    assert elbo_gap(problem.spec, problem.moments, weights) > -1e-10


def test_gap_closes_at_the_optimum_with_beta_one():
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(5), 5))
    joint = Moments.from_covariance(random_covariance(np.random.default_rng(6), 5), condition_dim=2)
    for spec, data in ((VAESpec(3), moments), (CVAESpec(2, decoder_variance=0.3), joint)):
        assert elbo_gap(spec, data, solve(spec, data).weights) == pytest.approx(0, abs=1e-12)
    half = VAESpec(3, beta=0.5)
    assert elbo_gap(half, moments, solve(half, moments).weights) > 0.01
    fixed = VAESpec(3, encoder_variance=0.9)
    assert elbo_gap(fixed, moments, solve(fixed, moments).weights) > 0.001


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("k", [2, 4, 7])
def test_any_scale_is_right_to_rounding(k, scale):
    """Against 60 digits: at 1e12 the decoder variance is below the rounding of the covariance."""
    from mpmath import mp

    rng = np.random.default_rng(k)
    moments = Moments.from_data(scale * _data(k, d=4))
    U = scale * rng.normal(size=(4, k))
    weights = {"W": np.ones((k, 4)), "U": U, "Sigma": np.eye(k)}
    with mp.workdps(60):
        K = mp.matrix(U.tolist()) * mp.matrix(U.tolist()).T + mp.mpf("0.5") * mp.eye(4)
        solved = K**-1 * mp.matrix(moments.covariance.tolist())
        trace = sum(solved[i, i] for i in range(4))
        expected = -(4 * mp.log(2 * mp.pi) + mp.log(mp.det(K)) + trace) / 2
    # float64 in a covariance whose condition number is below 1e3
    found = log_likelihood(VAESpec(k, decoder_variance=0.5), moments, weights)
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_a_hierarchy_of_any_scale_closes_on_the_entropy_of_the_data():
    """Enough units and a vanishing decoder variance: K is the covariance, and log p its entropy."""
    moments = Moments.from_data(1e12 * _data(8))
    spec = HVAESpec((3, 2), decoder_variance=1.0)
    root = np.linalg.cholesky(moments.covariance)
    weights = solve(spec, moments).weights | {"U1": root, "U2": np.zeros((3, 2))}
    entropy = (3 * np.log(2 * np.pi) + np.linalg.slogdet(moments.covariance)[1] + 3) / 2
    assert log_likelihood(spec, moments, weights) == pytest.approx(-entropy, rel=1e-12)


def test_likelihood_is_minus_the_objective_where_the_gap_closes():
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(7), 4))
    spec = VAESpec(2, decoder_variance="learned")
    weights = solve(spec, moments).weights
    assert log_likelihood(spec, moments, weights) == pytest.approx(
        -objective(spec, moments, weights).objective, rel=1e-12
    )


def test_other_likelihoods_are_refused():
    moments = Moments.from_covariance(np.eye(2))
    for function in (log_likelihood, elbo_gap):
        with pytest.raises(ValueError, match="likelihood='poisson' has no closed form"):
            function(VAESpec(1, likelihood="poisson"), moments, {})
