"""One level, no condition for the decoder: the optimum, its thresholds and its properties."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import oracles
import pytest

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import objective, solve

from .problems import problems, random_covariance

LEARNED = problems(vae_learned=12)
GENERAL = problems(general_learned=12)


def _diagonal(*variances: float) -> Moments:
    return Moments.from_covariance(np.diag(variances))


@pytest.mark.parametrize("problem", LEARNED + GENERAL, ids=lambda q: q.id)
def test_mean_squared_error_is_reverse_water_filling(problem):
    spec, moments = problem.spec, problem.moments
    solution = solve(spec, moments)
    p = oracles.setting_of(spec, moments)
    error = oracles.mean_squared_error(p, oracles.from_names(solution.weights, spec, moments))
    level = spec.beta * spec.decoder_variance
    theta2 = solution.mode_variances
    kept = np.minimum(theta2[: spec.latent_dim], level).sum() + theta2[spec.latent_dim :].sum()
    out_of_reach = np.trace(moments.target_covariance) - theta2.sum()
    # both are sums of at most 10 numbers of size 1 to 10
    assert error == pytest.approx(kept + out_of_reach, rel=1e-11)


@pytest.mark.parametrize("problem", LEARNED + GENERAL, ids=lambda q: q.id)
def test_rate_is_the_information_of_the_channel(problem):
    spec, moments = problem.spec, problem.moments
    solution = solve(spec, moments)
    p = oracles.setting_of(spec, moments)
    w = oracles.from_names(solution.weights, spec, moments)
    second_moment = w.E @ p.C @ w.E.T + w.L[0] @ w.L[0].T
    log_det = np.linalg.slogdet(second_moment)[1] - np.linalg.slogdet(w.L[0] @ w.L[0].T)[1]
    # two log determinants of matrices of condition at most 1e4
    assert solution.rates[0] == pytest.approx(log_det / 2, abs=1e-10)
    assert solution.information.sum() == pytest.approx(log_det / 2, abs=1e-10)


@pytest.mark.parametrize("problem", LEARNED, ids=lambda q: q.id)
def test_aggregate_posterior_is_the_prior(problem):
    solution = solve(problem.spec, problem.moments)
    p = oracles.setting_of(problem.spec, problem.moments)
    w = oracles.from_names(solution.weights, problem.spec, problem.moments)
    aggregate = w.E @ p.C @ w.E.T + w.L[0] @ w.L[0].T
    expected = problem.spec.prior_variance * np.eye(problem.spec.latent_dim)
    np.testing.assert_allclose(aggregate, expected, atol=1e-12)  # rounding of unit-size products


@pytest.mark.parametrize("problem", LEARNED + problems(vae_diagonal=6), ids=lambda q: q.id)
def test_rotating_the_data_changes_nothing(problem):
    moments, rng = problem.moments, np.random.default_rng(problem.seed)
    rotation = np.linalg.qr(rng.normal(size=(moments.target_dim,) * 2))[0]
    rotated = Moments.from_covariance(rotation @ moments.covariance @ rotation.T)
    before, after = solve(problem.spec, moments), solve(problem.spec, rotated)
    oracles.assert_same_terms(after, before)
    # eigenvalues move by rounding, 1e-16 times the largest
    np.testing.assert_allclose(after.critical_beta, before.critical_beta, rtol=1e-11)


@pytest.mark.parametrize("factor", [1e-6, 0.3, 40.0, 1e6])
@pytest.mark.parametrize("problem", LEARNED[:4] + problems(vae_diagonal=3), ids=lambda q: q.id)
def test_scaling_data_and_decoder_variance_together(problem, factor):
    spec, moments = problem.spec, problem.moments
    scaled = Moments.from_covariance(factor * moments.covariance)
    same = oracles.with_decoder_variance(spec, factor * spec.decoder_variance)
    before, after = solve(spec, moments), solve(same, scaled)
    shift = moments.target_dim / 2 * np.log(factor)  # the change of unit of a density
    assert after.objective == pytest.approx(before.objective + shift, abs=1e-11)
    np.testing.assert_allclose(after.rates, before.rates, atol=1e-11)
    np.testing.assert_allclose(after.critical_beta, before.critical_beta, rtol=1e-11)


@pytest.mark.parametrize("prior_variance", [0.01, 3.0, 500.0])
@pytest.mark.parametrize("problem", LEARNED[:4], ids=lambda q: q.id)
def test_prior_variance_drops_out_when_the_encoder_variance_is_learned(problem, prior_variance):
    other = replace(problem.spec, prior_variance=prior_variance)
    before, after = solve(problem.spec, problem.moments), solve(other, problem.moments)
    oracles.assert_same_terms(after, before)
    np.testing.assert_array_equal(after.collapsed, before.collapsed)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_order_of_a_fixed_diagonal_only_reorders_the_units(order):
    variances = np.array([0.1, 0.5, 0.9])
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(7), 4))
    sorted_spec = VAESpec(3, encoder_variance=variances, decoder_variance=0.1)
    spec = replace(sorted_spec, encoder_variance=variances[list(order)])
    expected, found = solve(sorted_spec, moments), solve(spec, moments)
    oracles.assert_same_terms(found, expected)
    # row j of the encoder belongs to the unit with the j-th variance of the given order
    np.testing.assert_allclose(found.weights["W"], expected.weights["W"][list(order)], atol=1e-12)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:], ids=str)
def test_no_other_pairing_of_units_and_modes_is_better(order):
    moments = _diagonal(2.0, 1.0, 0.6)
    spec = VAESpec(3, encoder_variance=(0.1, 0.5, 0.9), decoder_variance=0.2)
    best = solve(spec, moments)
    by_mode = [solve(VAESpec(1, encoder_variance=spec.encoder_variance[unit],
                             decoder_variance=0.2), _diagonal(theta2)).objective
               for unit, theta2 in zip(order, (2.0, 1.0, 0.6), strict=True)]  # fmt: skip
    assert sum(by_mode) > best.objective + 1e-3


def test_rate_is_continuous_at_the_threshold_and_its_slope_jumps():
    """KL = 1/2 log(theta^2/(beta s)): zero at the threshold, slope -1/(2 beta) just below it."""
    moments, step = _diagonal(1.6), 1e-6
    critical = solve(VAESpec(1, decoder_variance=0.4), moments).critical_beta[0]
    at, below, above = (
        solve(VAESpec(1, beta=beta, decoder_variance=0.4), moments).rates[0]
        for beta in (critical, critical - step, critical + step)
    )
    assert critical == pytest.approx(4.0, rel=1e-15)
    assert at == pytest.approx(0.0, abs=1e-15)
    assert above == 0.0
    # second-order term of the logarithm: step/beta^2/4, and rounding 1e-16/step
    assert below / step == pytest.approx(1 / (2 * critical), abs=1e-6)


@pytest.mark.parametrize("extra", [1, 3])
def test_units_beyond_the_modes_stay_the_prior(extra):
    moments = _diagonal(2.0, 1.0)
    narrow = solve(VAESpec(2, decoder_variance=0.3), moments)
    wide = solve(VAESpec(2 + extra, decoder_variance=0.3), moments)
    oracles.assert_same_terms(wide, narrow)
    np.testing.assert_array_equal(wide.encoder_variances[0, 2:], np.ones(extra))
    assert wide.collapsed[0, 2:].all()
    assert not wide.weights["U"][:, 2:].any()


def test_mode_without_a_unit_is_collapsed_with_undefined_threshold():
    solution = solve(VAESpec(1, decoder_variance=0.3), _diagonal(2.0, 1.0))
    assert solution.collapsed.tolist() == [[False, True]]
    assert solution.mode_rates[0, 1] == 0
    assert np.isnan(solution.critical_beta[1])
    assert np.isnan(solution.encoder_variances[0, 1])


@pytest.mark.parametrize("problem", GENERAL, ids=lambda q: q.id)
def test_general_model_explains_the_linear_prediction_only(problem):
    C, dx = problem.moments.covariance, problem.moments.condition_dim
    explained = C[dx:, :dx] @ np.linalg.solve(C[:dx, :dx], C[:dx, dx:])
    theta2 = np.sort(np.linalg.eigvalsh(explained))[::-1]
    found = solve(problem.spec, problem.moments).mode_variances[: len(theta2)]
    np.testing.assert_allclose(found, theta2, atol=1e-12)  # rounding of a 4 x 4 solve


def test_target_given_as_its_own_condition_is_the_plain_model():
    """The encoder of the general model sees the condition; here that is the target itself."""
    C = random_covariance(np.random.default_rng(11), 3)
    doubled = Moments.from_covariance(np.block([[C, C], [C, C]]), condition_dim=3)
    spec = VAESpec(2, decoder_variance=0.2)
    plain, general = solve(spec, Moments.from_covariance(C)), solve(spec, doubled)
    oracles.assert_same_terms(general, plain)
    np.testing.assert_allclose(general.weights["W"], plain.weights["W"], atol=1e-10)


def test_rows_state_every_level_and_mode():
    solution = solve(VAESpec(1, decoder_variance=0.5), _diagonal(2.0, 1.0))
    rows = solution.to_rows()
    assert [(row["level"], row["mode"]) for row in rows] == [(1, 1), (1, 2)]
    assert rows[0]["critical_beta"] == 4.0
    assert [row["collapsed"] for row in rows] == [False, True]
    assert rows[0]["rate_nats"] == pytest.approx(np.log(4.0) / 2, rel=1e-14)


def test_unknown_specification_is_refused():
    class Chain:
        latent_dims = (1,)

    with pytest.raises(ValueError, match="must be a VAESpec, CVAESpec, ARVAESpec or HVAESpec"):
        solve(Chain(), _diagonal(1.0))  # type: ignore[arg-type]


def test_solution_does_not_depend_on_an_earlier_call():
    """The decomposition is cached; a change of the specification must not be."""
    moments = _diagonal(2.0, 1.0)
    first = solve(VAESpec(1, decoder_variance=0.5), moments)
    solve(VAESpec(2, beta=9.0, decoder_variance=0.1), moments)
    again = solve(VAESpec(1, decoder_variance=0.5), moments)
    assert again.objective == first.objective
    terms = objective(VAESpec(1, decoder_variance=0.5), moments, again.weights)
    oracles.assert_same_terms(again, terms)
