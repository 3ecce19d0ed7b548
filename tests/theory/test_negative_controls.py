"""Deliberate errors, each of which the checks of the other files must detect.

A check that cannot fail proves nothing: here the claim is computed from wrong moments or a wrong
specification, and the same function that the real tests call has to raise.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import autograd_oracle
import numpy as np
import oracles
import pytest
from scipy.stats import multivariate_normal

from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, VAESpec
from linvae.theory import objective, solve
from linvae.theory.marginal import log_likelihood
from linvae.theory.rate_distortion import rate_distortion_curve
from linvae.theory.stability import stability
from linvae.theory.universal import universal_threshold

N = 20  # samples: n/(n-1) is 5 per cent


def _data() -> np.ndarray:
    rng = np.random.default_rng(21)
    return rng.exponential(size=(N, 5)) @ rng.normal(size=(5, 5))


DATA = _data()
PLAIN = Moments.from_data(DATA)
JOINT = Moments.from_data(DATA[:, 2:], DATA[:, :2])
COMMON = {"decoder_variance": 0.4, "encoder_variance": 0.3, "prior_variance": 1.7}
MODELS = {
    "vae": (VAESpec(2, beta=1.6, **COMMON), PLAIN),
    "vae-learned": (VAESpec(2, beta=1.6, decoder_variance=0.4), PLAIN),
    "general": (VAESpec(2, beta=1.6, **COMMON), JOINT),
    "cvae": (CVAESpec(2, beta=1.6, **COMMON), JOINT),
    "hvae": (
        HVAESpec(
            [3, 2], betas=[0.5, 1.6], decoder_variance=0.4, prior_variances=[1.7, 0.6],
            encoder_variances=[0.3, None],
        ),
        PLAIN,
    ),
}  # fmt: skip


def _times(moments: Moments, factor: float) -> Moments:
    return replace(moments, covariance=factor * moments.covariance)


def _divisor(spec, moments):
    """1/(n-1) in place of 1/n."""
    return spec, _times(moments, N / (N - 1))


def _sum_for_mean(spec, moments):
    """Scatter matrix in place of covariance."""
    return spec, _times(moments, N)


def _standard_deviation(spec, moments):
    """The decoder's standard deviation where its variance belongs."""
    return oracles.with_decoder_variance(spec, np.sqrt(spec.decoder_variance)), moments


def _beta_dropped(spec, moments):
    if isinstance(spec, HVAESpec):
        return replace(spec, betas=(1.0,) * len(spec.betas)), moments
    return replace(spec, beta=1.0), moments


ERRORS = {
    "divisor-n-1": _divisor,
    "sum-for-mean": _sum_for_mean,
    "standard-deviation-for-variance": _standard_deviation,
    "beta-dropped": _beta_dropped,
}
every_error = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


@cache
def _found(spec, moments):
    return oracles.brute_force(spec, moments, n_starts=3, seed=0)


@every_error
@every_model
def test_brute_force_detects(model, error):
    found = _found(*model)
    oracles.assert_is_minimum(solve(*model).objective, found)  # right before it is made wrong
    with pytest.raises(AssertionError):
        oracles.assert_is_minimum(solve(*error(*model)).objective, found)


@every_error
@every_model
def test_comparison_with_the_objective_detects(model, error):
    right, wrong = solve(*model), solve(*error(*model))
    oracles.assert_same_terms(right, objective(*model, right.weights))
    with pytest.raises(AssertionError):
        oracles.assert_same_terms(wrong, objective(*model, wrong.weights))


@every_error
@every_model
def test_sampled_densities_detect(model, error):
    spec, moments = model
    w = oracles.from_names(solve(*model).weights, spec, moments)
    sampled = oracles.sample_terms(
        oracles.setting_of(spec, moments), w, DATA - DATA.mean(axis=0), 40_000, seed=4
    )
    named = oracles.to_names(w, spec, moments)
    oracles.assert_matches_samples(objective(spec, moments, named), sampled)
    with pytest.raises(AssertionError):
        oracles.assert_matches_samples(objective(*error(*model), named), sampled)


@every_error
@every_model
def test_stationarity_detects(model, error):
    spec, moments = model
    p = oracles.setting_of(spec, moments)
    oracles.assert_stationary(p, oracles.from_names(solve(*model).weights, spec, moments))
    wrong = solve(*error(*model)).weights
    with pytest.raises(AssertionError):
        oracles.assert_stationary(p, oracles.from_names(wrong, spec, moments))


@every_model
def test_a_local_but_not_global_optimum_is_detected(model):
    """The collapsed point is stationary; brute force has to find what is below it."""
    spec, moments = model
    # a beta so large that everything collapses gives the weights of the collapsed point
    collapsed = solve(spec.scale_betas(1e6), moments)
    claimed = objective(spec, moments, collapsed.weights).objective
    found = _found(spec, moments)
    with pytest.raises(AssertionError, match="brute force is lower"):
        oracles.assert_is_minimum(claimed, found)


@every_model
def test_a_claim_that_no_weights_attain_is_detected(model):
    found = _found(*model)
    with pytest.raises(AssertionError, match="no start reached it"):
        oracles.assert_is_minimum(solve(*model).objective - 1e-6, found)


# --- remedies, strong decoders, collapsed points --------------------------------------------------

THREE = Moments.from_data(DATA[:, :3])
NUMBERS = {"beta": 1.6, "decoder_variance": 0.4, "prior_variance": 1.7}
PENALISED = {
    "decay": (VAESpec(5, **NUMBERS, weight_decay=0.05), PLAIN),
    "loss": (VAESpec(5, **NUMBERS, latent_reconstruction=0.2), PLAIN),
    "both-fixed": (
        VAESpec(5, **COMMON, beta=1.6, weight_decay=0.05, latent_reconstruction=0.2), PLAIN
    ),
}  # fmt: skip
COLLAPSED_POINTS = {
    "plain": (VAESpec(1, **NUMBERS), PLAIN),
    "decay": (VAESpec(1, **NUMBERS, weight_decay=0.05), PLAIN),
    "general": (VAESpec(1, **NUMBERS), JOINT),
    "both": (CVAESpec(1, **NUMBERS), JOINT),
    "target": (CVAESpec(1, **NUMBERS, encoder_sees="target"), JOINT),
}
WITHOUT_BETA = {name: error for name, error in ERRORS.items() if name != "beta-dropped"}
every_penalty = pytest.mark.parametrize("model", PENALISED.values(), ids=PENALISED.keys())
every_error_but_beta = pytest.mark.parametrize(
    "error", WITHOUT_BETA.values(), ids=WITHOUT_BETA.keys()
)


@every_error
@every_penalty
def test_brute_force_of_penalties_detects(model, error):
    found = _found(*model)
    oracles.assert_is_minimum(solve(*model).objective, found)
    with pytest.raises(AssertionError):
        oracles.assert_is_minimum(solve(*error(*model)).objective, found)


@every_penalty
@pytest.mark.parametrize("name", ["weight_decay", "latent_reconstruction"])
def test_brute_force_detects_a_dropped_penalty(model, name):
    spec, moments = model
    if getattr(spec, name) == 0:
        pytest.skip("the model has no such penalty")
    found = _found(spec, moments)
    with pytest.raises(AssertionError):
        oracles.assert_is_minimum(solve(replace(spec, **{name: 0.0}), moments).objective, found)


@cache
def _lowest(spec, moments):
    return autograd_oracle.minimum(autograd_oracle.model_of(spec, moments), n_starts=2, seed=0)


@every_error
def test_brute_force_of_autoregressive_decoders_detects(error):
    model = (ARVAESpec(3, **NUMBERS), THREE)
    lowest = _lowest(*model)
    # bounds: see tests/theory/test_penalised.py
    assert solve(*model).objective == pytest.approx(lowest, rel=1e-8)
    assert solve(*error(*model)).objective != pytest.approx(lowest, rel=1e-8)


@every_error
@pytest.mark.parametrize("model", COLLAPSED_POINTS.values(), ids=COLLAPSED_POINTS.keys())
def test_curvature_detects_in_stability(model, error):
    """Lowest eigenvalue of the Hessian by automatic differentiation: the escape rate."""
    rate = -autograd_oracle.collapsed_curvature(autograd_oracle.model_of(*model))
    assert stability(*model).escape_rates[0] == pytest.approx(rate, rel=1e-9)
    assert stability(*error(*model)).escape_rates[0] != pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("error", [_divisor, _sum_for_mean], ids=["divisor-n-1", "sum-for-mean"])
def test_correlations_detect_in_binary_data(error):
    y = (DATA - np.median(DATA, axis=0) > 0.2).astype(float)
    spec, moments = VAESpec(1, likelihood="bernoulli"), Moments.from_data(y)
    top = np.linalg.eigvalsh(np.corrcoef(y.T))[-1]
    assert stability(spec, moments).critical_beta[0] == pytest.approx(top, rel=1e-10)
    assert stability(*error(spec, moments)).critical_beta[0] != pytest.approx(top, rel=1e-3)


@every_error
def test_brute_force_detects_in_the_rate_distortion_curve(error):
    spec, moments = VAESpec(5, **NUMBERS), PLAIN
    found = _found(spec, moments)
    expected = (found.rates[0], oracles.mean_squared_error(
        oracles.setting_of(spec, moments), found.weights))  # fmt: skip

    def point(spec, moments):
        level = spec.beta * spec.decoder_variance
        curve = rate_distortion_curve(np.linalg.eigvalsh(moments.covariance), level)
        return curve.rates[0], curve.squared_errors[0]

    # the minimiser's own rate and error are first-order in its distance from the optimum: 1e-5
    assert point(spec, moments) == pytest.approx(expected, rel=1e-5)
    assert point(*error(spec, moments)) != pytest.approx(expected, rel=1e-3)


@every_error_but_beta
def test_density_of_the_samples_detects_in_the_likelihood(error):
    """Beta is no part of a likelihood: dropping it must not change anything."""
    spec, moments = VAESpec(2, **NUMBERS), PLAIN
    weights = solve(spec, moments).weights
    covariance = 0.4 * np.eye(5) + 1.7 * weights["U"] @ weights["U"].T
    expected = multivariate_normal(DATA.mean(axis=0), covariance).logpdf(DATA).mean()
    assert log_likelihood(spec, moments, weights) == pytest.approx(expected, rel=1e-10)
    assert log_likelihood(*error(spec, moments), weights) != pytest.approx(expected, rel=1e-3)
    dropped = log_likelihood(*_beta_dropped(spec, moments), weights)
    assert dropped == pytest.approx(expected, rel=1e-10)


@every_error_but_beta
def test_local_threshold_detects_in_the_universal_one(error):
    """The linear threshold of the samples against that of (wrong) moments; beta does not enter."""
    spec = VAESpec(1, decoder_variance=0.4)
    found = universal_threshold(DATA, decoder_variance=0.4).linear_critical_beta
    assert stability(spec, PLAIN).critical_beta[0] == pytest.approx(found, rel=1e-10)
    assert stability(*error(spec, PLAIN)).critical_beta[0] != pytest.approx(found, rel=1e-3)
