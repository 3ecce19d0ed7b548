"""Deliberate errors, each of which the checks of the other files must detect.

A check that cannot fail proves nothing: here the claim is computed from wrong moments or a wrong
specification, and the same function that the real tests call has to raise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import objective, solve

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


@every_error
@every_model
def test_brute_force_detects(model, error):
    found = oracles.brute_force(*model, n_starts=3, seed=0)
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
    found = oracles.brute_force(spec, moments, n_starts=3, seed=0)
    with pytest.raises(AssertionError, match="brute force is lower"):
        oracles.assert_is_minimum(claimed, found)


@every_model
def test_a_claim_that_no_weights_attain_is_detected(model):
    found = oracles.brute_force(*model, n_starts=3, seed=0)
    with pytest.raises(AssertionError, match="no start reached it"):
        oracles.assert_is_minimum(solve(*model).objective - 1e-6, found)
