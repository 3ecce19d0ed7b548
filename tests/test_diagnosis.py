"""Closed forms get the verdict that they have by construction; small trained networks theirs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from linvae.data import gaussian
from linvae.diagnosis import (
    ALIVE_AS_PREDICTED,
    BEYOND,
    COLLAPSED_AS_PREDICTED,
    OFF_OPTIMUM,
    OPTIMISATION,
    diagnose,
)
from linvae.diagnosis.judgement import _beyond_ranks, _verdicts
from linvae.diagnosis.observed import evidence_of, quantile
from linvae.models import Architecture, build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, VAESpec
from linvae.testing import curve_data, spectrum_data
from linvae.theory import solve
from linvae.theory.finite_training import escape_times
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train
from linvae.wording import number

SPECTRUM, BETA, S = (5.0, 2.0, 0.9, 0.3, 0.1), 0.8, 0.5  # three modes above beta s = 0.4
DATA = spectrum_data(SPECTRUM, n_samples=1200, seed=1)
SPEC = VAESpec(5, beta=BETA, decoder_variance=S)
AT = {"beta": BETA, "decoder_variance": S}


def linear_encoder(solution, keep=None):
    """The encoder of the optimum, centred data; units not in `keep` are at the prior."""
    W, Sigma = solution.weights["W"], np.diag(solution.weights["Sigma"])
    on = np.ones(len(W)) if keep is None else np.isin(np.arange(len(W)), keep)

    def encoder(batch):
        mean = batch @ W.T * on
        return mean, np.log(Sigma) * on + 0 * mean

    return encoder


@pytest.fixture(scope="module")
def optimum():
    return solve(SPEC, Moments.from_data(DATA))


# --- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize("eta2", [1.0, 0.3])
def test_rates_of_the_optimum_are_the_predicted_ones(eta2):
    """Exact: sums of 1200 doubles. Verdicts by hand: theta^2 > beta s for the first three."""
    spec = VAESpec(5, beta=BETA, decoder_variance=S, prior_variance=eta2)
    encoder = linear_encoder(solve(spec, Moments.from_data(DATA)))
    found = diagnose(encoder, DATA, **AT, prior_variance=eta2)
    by_hand = [max(0.0, math.log(v / (BETA * S)) / 2) for v in SPECTRUM]
    # float32 data: 1e-7 of the spectrum
    for field in ("predicted_nats", "observed_nats"):
        seen = [getattr(u, field) for u in found.units]
        np.testing.assert_allclose(seen, by_hand, rtol=1e-6, atol=1e-9)
    verdicts = [ALIVE_AS_PREDICTED] * 3 + [COLLAPSED_AS_PREDICTED] * 2
    assert [u.verdict for u in found.units] == verdicts
    assert found.verdict == COLLAPSED_AS_PREDICTED
    first, last = (f"beta = {number(v / S)}" for v in SPECTRUM[3:5])
    assert f"Unit 4: to wake it go below {first}" in found.sentence
    assert f"to wake all 2, below {last}" in found.sentence
    assert (found.predicted_active_units, found.observed_active_units) == (3, 3)
    np.testing.assert_allclose([u.critical_beta for u in found.units], np.array(SPECTRUM) / S, 1e-6)


def test_all_collapsed_as_predicted_says_where_to_go():
    found = diagnose(lambda y: (np.zeros((len(y), 2)),) * 2, DATA, beta=11.0, decoder_variance=S)
    assert {u.verdict for u in found.units} == {COLLAPSED_AS_PREDICTED} == {found.verdict}
    # 5/0.5 and 5/11
    assert "to wake it go below beta = 10.00 or decoder variance = 0.4545" in found.sentence


@pytest.mark.parametrize("lost", range(3))
def test_a_lost_unit_is_optimisation(optimum, lost):
    keep = [j for j in range(5) if j != lost]
    found = diagnose(linear_encoder(optimum, keep), DATA, **AT)
    assert found.verdict == OPTIMISATION
    assert [u.verdict for u in found.units].count(OPTIMISATION) == 1
    unit = next(u for u in found.units if u.verdict == OPTIMISATION)
    assert [u.verdict for u in found.units].count(ALIVE_AS_PREDICTED) == 2
    assert [m.mode for m in found.missing_modes] == [lost + 1] == [unit.mode]
    expected = [
        escape_times(SPECTRUM[lost : lost + 1], **AT, update=update)[0]
        for update in ("joint", "aggressive")
    ]
    np.testing.assert_allclose([unit.escape_time, unit.aggressive_escape_time], expected, 1e-5)
    assert unit.critical_beta == pytest.approx(SPECTRUM[lost] / S, rel=1e-6)
    assert f"Missing mode: {lost + 1} (0.000 of " in found.sentence
    assert f"mode {lost + 1}, which theory keeps alive up to beta = " in unit.advice
    assert f"steps * learning rate = {expected[0]:.3g}" in unit.advice
    assert "aggressive training of the encoder or KL annealing" in unit.advice


@pytest.mark.parametrize("lost", [None, 1])
def test_turned_units_still_hold_their_modes(optimum, lost):
    """Units 1 and 3 turned by 45 degrees: none of their modes is missing, unit 2 is or is not."""
    keep = [j for j in range(3) if j != lost]
    W = optimum.weights["W"] * np.isin(np.arange(5), keep)[:, None]
    turn = np.eye(5)
    turn[np.ix_([0, 2], [0, 2])] = np.array([[1.0, 1.0], [-1.0, 1.0]]) / math.sqrt(2)
    log_variance = np.zeros(5)
    # rounder posteriors that are best for the turned precision, diag(R Sigma^-1 R^T)^-1
    precision = turn @ np.diag(1 / np.diag(optimum.weights["Sigma"])) @ turn.T
    used = keep
    log_variance[used] = -np.log(np.diag(precision)[used])

    def encoder(batch):
        mean = batch @ (turn @ W).T
        return mean, log_variance + 0 * mean

    found = diagnose(encoder, DATA, **AT)
    assert [m.mode for m in found.missing_modes] == ([] if lost is None else [lost + 1])
    assert found.verdict == (OFF_OPTIMUM if lost is None else OPTIMISATION)
    by_unit = {u.unit: u for u in found.units}
    assert {by_unit[1].mode, by_unit[3].mode} == {1, 3}
    assert by_unit[2].mode == 2
    assert "turn towards the modes (train longer)" in by_unit[1].advice


def along(axis, variance):
    """The optimum's unit for a direction of the data, beside an idle one."""
    r = BETA * S / variance

    def encoder(batch):
        mean = np.column_stack([batch @ axis * math.sqrt((1 - r) / variance), 0 * batch[:, 0]])
        return mean, np.log([r, 1.0]) + 0 * mean

    return encoder


@pytest.mark.parametrize("gap", [0.0, 1e-9, 0.01, 0.1])
def test_a_direction_lost_between_equal_modes_is_a_lost_mode(gap):
    """One unit at 45 degrees of two modes: it has half of each, and one of them is missing."""
    y = spectrum_data((2.0, 2.0 - gap, 0.3), n_samples=500).astype(float)
    axes = np.linalg.eigh(np.cov(y.T))[1][:, ::-1]
    found = diagnose(along(axes[:, :2].sum(axis=1) / math.sqrt(2), 2.0 - gap / 2), y, **AT)
    (missing,) = found.missing_modes
    # the other axis is not held at all, or by a mixture of modes that are not quite equal
    assert missing.held_nats < 0.01
    assert found.verdict == OPTIMISATION
    alive, idle = found.units
    assert (alive.mode_missing, idle.mode_missing) == (False, True)
    assert "is in no unit" in idle.advice
    assert "Missing mode:" in found.sentence


@pytest.mark.parametrize(("second", "missing"), [(1.99, 0), (1.5, 1)])
def test_any_of_equal_modes_may_have_the_last_unit(second, missing):
    """Two units and modes 1, 2 and 3: a unit on mode 3 misses 2 unless they are worth the same."""
    y = spectrum_data((6.0, 2.0, second), n_samples=500).astype(float)
    axes = np.linalg.eigh(np.cov(y.T))[1][:, [2, 0]]
    r = BETA * S / np.array([6.0, second])

    def encoder(batch):
        mean = batch @ axes * np.sqrt((1 - r) * r / (BETA * S))
        return mean, np.log(r) + 0 * mean

    found = diagnose(encoder, y, **AT)
    assert len(found.missing_modes) == missing


def test_a_unit_on_a_weak_mode_in_place_of_a_strong_one():
    """Two units on modes 1 and 3: none is collapsed, and mode 2 is named."""
    full = solve(VAESpec(3, **AT), Moments.from_data(DATA))
    W, Sigma = full.weights["W"][[0, 2]], np.diag(full.weights["Sigma"])[[0, 2]]
    found = diagnose(lambda y: (y @ W.T, np.log(Sigma) + 0 * (y @ W.T)), DATA, **AT)
    assert [u.verdict for u in found.units] == [ALIVE_AS_PREDICTED, OFF_OPTIMUM]
    assert found.verdict == OFF_OPTIMUM
    # log(2/0.4)/2 nats, alive up to 2/0.5
    assert "Missing mode: 2 (0.000 of 0.805 nats, alive up to beta = 4.000)" in found.sentence


def untrained(seed, d=16, k=4):
    """Two layers of torch's own start, a stack of means and log-variances."""
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(
        torch.nn.Linear(d, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2 * k)
    )
    return lambda y: np.split(layers(torch.as_tensor(y).float()).detach().numpy() * 2, 2, axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_encoder_is_not_beyond_the_theory(seed):
    """Above all thresholds, where its nats are in excess: no decoder makes them pay."""
    y = np.random.default_rng(seed).standard_normal((600, 16))
    found = diagnose(untrained(seed), y, beta=2.0)
    assert found.observed_rate > 0.2 > found.predicted_rate
    assert {u.evidence for u in found.units} == {"costs"}
    assert found.verdict in (OFF_OPTIMUM, COLLAPSED_AS_PREDICTED)


def test_what_samples_do_not_tell_is_said():
    """5.5 nats tell 200 samples apart (log 200 = 5.3) by a number that means nothing.

    With all 64 dimensions told by heart they pay, 5.5 * 3 of 32; with those of the others not.
    """
    y = np.random.default_rng(0).standard_normal((200, 64))
    axis = np.full((64, 1), 1 / 8)
    given = {"beta": 3.0, "decoder_variance": 1.0}

    def encoder(v):
        return v @ axis, np.full((len(v), 1), -11.0)

    found = diagnose(encoder, y, **given)
    assert found.verdict == BEYOND
    assert "cannot tell without decoder (give it)" in found.sentence
    told = diagnose(encoder, y, **given, decoder=lambda z: 0 * z @ axis.T)
    assert told.verdict == OFF_OPTIMUM
    assert "its nats do not pay: train longer" in told.sentence


@pytest.mark.parametrize(
    ("lead", "evidence"), [(0.02, "even"), (0.03, "pays"), (-0.02, "even"), (-0.03, "costs")]
)
def test_a_difference_below_what_training_is_granted_says_nothing(lead, evidence):
    """0.1 nats of a unit are worth 2 * (e^0.2 - 1.2)/2 = 0.0214 at beta 2, by `solve` here."""
    spec = VAESpec(1, beta=2.0, decoder_variance=0.5)
    moments = Moments.from_covariance([[1.0 * math.exp(0.2)]])
    idle = solve(VAESpec(1, beta=1e6, decoder_variance=0.5), moments).objective
    assert idle - solve(spec, moments).objective == pytest.approx(0.0214, abs=1e-4)
    assert evidence_of(spec, lead, 0.0) == evidence
    assert evidence_of(spec, lead, 1.0) == evidence_of(spec, math.nan, 0.0) == "even"


@pytest.mark.parametrize(("beta", "s"), [(BETA, 2 * S), (BETA / 3, S), (1.0, 0.2)])
def test_rates_of_another_setting_are_known(optimum, beta, s):
    """Exact rates of beta s = 0.4, asked about another product: root finding gives it back."""
    found = diagnose(linear_encoder(optimum), DATA, beta=beta, decoder_variance=s)
    assert found.fitting_beta * s == pytest.approx(BETA * S, rel=1e-6)
    words = f"All rates are those of beta * decoder variance = 0.400, not {number(beta * s, 3)}: "
    assert words in found.sentence


@pytest.mark.parametrize("keep", [None, [0, 2], [0]])
def test_no_other_setting_explains_these_rates(optimum, keep):
    """As asked about; a mode lost in the middle; one unit alone, which any beta would fit."""
    found = diagnose(linear_encoder(optimum, keep), DATA, **AT)
    assert math.isnan(found.fitting_beta)
    assert "All rates are those" not in found.sentence


def test_one_active_unit_explains_no_setting():
    data = spectrum_data((5.0, 0.01), n_samples=500)
    right = solve(VAESpec(2, beta=BETA, decoder_variance=S), Moments.from_data(data))
    found = diagnose(linear_encoder(right), data, beta=BETA, decoder_variance=3 * S)
    assert found.verdict != ALIVE_AS_PREDICTED
    assert math.isnan(found.fitting_beta)


def test_order_of_units_does_not_matter(optimum):
    encoder, order = linear_encoder(optimum), [3, 1, 4, 0, 2]
    found = diagnose(lambda y: tuple(v[:, order] for v in encoder(y)), DATA, **AT)
    assert [u.unit for u in found.units][:3] == [4, 2, 5]
    assert found.verdict == COLLAPSED_AS_PREDICTED


def test_a_fixed_variance_is_compared_on_principal_axes():
    """Any rotation of an isotropic code is as good; idle units pay their floor and are collapsed.

    Predicted without `mode_rates`: E mean^2/(2 eta^2) of the optimum's encoder, mode by mode.
    """
    fixed = {**AT, "encoder_variance": 0.3, "prior_variance": 0.5}
    spec = VAESpec(4, **fixed)
    solution = solve(spec, Moments.from_data(DATA))
    rotated = hadamard(4) / 2 @ solution.weights["W"]
    log_variance = np.full((len(DATA), 4), math.log(0.3))

    def encoder(batch):
        return batch @ rotated.T, log_variance[: len(batch)]

    found = diagnose(encoder, DATA, **fixed)
    W = solution.weights["W"]
    by_hand = np.diag(W @ np.cov(DATA.T, ddof=0) @ W.T) / (2 * 0.5)
    for field in ("predicted_nats", "observed_nats"):
        seen = [getattr(u, field) for u in found.units]
        np.testing.assert_allclose(seen, np.sort(by_hand)[::-1], rtol=1e-6, atol=1e-9)
    assert found.verdict == ALIVE_AS_PREDICTED


def test_prices_are_not_rounded_to_single_precision():
    """An idle unit of variance 1e7 costs 1.7e7 nats: 3e-8 of them would be half a nat."""
    wide = np.full((len(DATA), 1), math.log(1e7))
    at = {"beta": 1.0, "prior_variance": 0.3, "encoder_variance": 1e7}
    found = diagnose(lambda y: (0 * wide, wide), DATA, **at)
    (unit,) = found.units
    # 1e7/0.3 doubles
    assert unit.predicted_nats == pytest.approx(0, abs=1e-6)
    # a decoder of the mean, which is 0: (sum of 8.3)/(2 s) nats
    s = 3e-7
    objective = diagnose(
        lambda y: (0 * y, 0 * y), DATA, beta=1e9, decoder_variance=s, decoder=lambda z: 0 * z
    )
    assert objective.objective_nats == pytest.approx(objective.linear.objective, rel=1e-12)


def test_conditional_encoder_sees_both():
    data = gaussian(SPECTRUM, 1200, correlation=[0.9, 0.6, 0.3, 0.0, 0.0], condition_dim=3, seed=1)
    y, x = data.target.astype(float), data.condition.astype(float)
    solution = solve(CVAESpec(3, **AT), Moments.from_data(y, x))
    W1, W2 = solution.weights["W1"], solution.weights["W2"]
    log_variance = np.log(np.diag(solution.weights["Sigma"]))

    def encoder(target, condition):
        mean = condition @ W1.T + target @ W2.T
        return mean, log_variance + 0 * mean

    found = diagnose(encoder, y, condition=x, **AT)
    # lambda (1 - rho^2), descending
    by_hand = [max(0.0, math.log(v / (BETA * S)) / 2) for v in (1.28, 0.95, 0.819)]
    np.testing.assert_allclose([u.observed_nats for u in found.units], by_hand, rtol=1e-5)
    assert found.verdict == ALIVE_AS_PREDICTED
    assert math.isnan(found.units[0].escape_time)


def test_what_a_code_says_of_the_condition_hides_no_mode():
    """The decoder sees it: means that add ten times the condition hold their modes as before."""
    data = gaussian(SPECTRUM, 1200, correlation=[0.9, 0.6, 0.3, 0.0, 0.0], condition_dim=3, seed=1)
    y, x = data.target.astype(float), data.condition.astype(float)
    solution = solve(CVAESpec(3, **AT), Moments.from_data(y, x))
    W1, W2 = solution.weights["W1"], solution.weights["W2"]
    log_variance = np.log(np.diag(solution.weights["Sigma"]))

    def encoder(target, condition):
        mean = condition @ (W1 + 10).T + target @ W2.T
        return mean, log_variance + 0 * mean

    found = diagnose(encoder, y, condition=x, **AT)
    assert found.missing_modes == ()
    held = [m.held_nats for m in found.modes]
    np.testing.assert_allclose(held, solution.information[0, :3], rtol=1e-5)
    # (10 x)^2 costs more than all that is left of the target would
    assert found.units[0].evidence == "costs"
    assert found.verdict == OFF_OPTIMUM


def test_a_curved_code_pays_given_a_condition():
    """A circle beside what the condition explains; the code is its angle, without a decoder.

    A decoder that knows the angle has 2 * 0.1^2 of 2 left; the linear one, with a unit of three
    nats, half of it.
    """
    rng = np.random.default_rng(0)
    angle, x = rng.uniform(-math.pi, math.pi, 1000), rng.standard_normal((1000, 2))
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    y = 1.4 * circle + 3 * x + 0.1 * rng.standard_normal((1000, 2))

    def encoder(target, condition):
        left = target - 3 * condition
        mean = np.arctan2(left[:, 1:], left[:, :1]) / (math.pi / math.sqrt(3))
        return mean + 0.2 * condition[:, :1], np.full((len(target), 1), -6.0)

    found = diagnose(encoder, y, condition=x, decoder_variance=0.05)
    assert found.units[0].evidence == "pays"
    # a code of noise, of as many nats, does not
    noise = rng.standard_normal((1000, 1))
    noisy = diagnose(lambda *_: (noise, np.full((1000, 1), -6.0)), y, condition=x, beta=30.0)
    assert noisy.units[0].evidence == "costs"
    none = diagnose(lambda *_: (noise, np.full((1000, 1), -6.0)), y, condition=x, beta=0.1)
    assert none.units[0].evidence == "unknown"


def test_a_subset_is_held_against_the_optimum_of_all_samples():
    """Of 20000 samples no mode is above beta s, of 2000 ten are, for nothing: spectra widen.

    Edges (1 + sqrt(100/n))^2 = 1.15 and 1.50 about beta s = 1.2; the optimum itself is judged.
    """
    y = np.random.default_rng(0).standard_normal((20000, 100))
    found = diagnose(lambda v: (np.zeros((len(v), 10)),) * 2, y, beta=1.2)
    assert found.verdict == COLLAPSED_AS_PREDICTED
    assert {u.evidence for u in found.units} == {"unknown"}


def test_reflected_draws_have_the_error_of_what_they_share(monkeypatch):
    """Errors that are even in the noise: a pair agrees, and says nothing of its own error."""

    def even(target, mean, variance, noise, copies):
        errors = 100 * noise[:, 0] ** 2
        return errors, errors

    monkeypatch.setattr("linvae.diagnosis.observed.best_decoder_errors", even)
    y = np.tile([[-10.0], [10.0]], (250, 1))  # 100 on average, as the draws
    found = [diagnose(lambda v: (0 * v, 0 * v), y, beta=100.0, seed=i) for i in range(20)]
    # a mean of two draws of each is 100/sqrt(500)/2 = 2.2 nats off, and the margin 1.07
    assert {f.units[0].evidence for f in found} == {"unknown"}


# --- tolerance and rules ------------------------------------------------------------------------


def test_tolerance_has_the_error_of_both_means():
    """A unit that moves with its mode by hand: KL less half its square over the variance."""
    found = diagnose(linear_encoder(solve(SPEC, Moments.from_data(DATA))), DATA, **AT)
    axes = np.linalg.eigh(np.cov(DATA.T))[1][:, ::-1]
    ratio = (DATA @ axes[:, 0]) ** 2 / SPECTRUM[0]
    r = BETA * S / SPECTRUM[0]  # KL of a sample: (1 - r) e^2/(2 theta^2) + constant
    error = np.std(((1 - r) - 1) * ratio / 2, ddof=1) / math.sqrt(len(DATA))
    kl = np.std((1 - r) * ratio / 2, ddof=1) / math.sqrt(len(DATA))
    unit = found.units[0]
    assert unit.standard_error == pytest.approx(kl, rel=1e-6)
    # the slope is a difference over sqrt(2/n) = 0.04, exact for a unit in use
    assert unit.tolerance_nats == pytest.approx(0.1 + quantile(5) * error, rel=1e-6)


def test_false_alarms_are_as_rare_as_said(monkeypatch):
    """2000 sets of 2000 Gaussian samples, each with the encoder that their law makes optimal.

    Nothing granted to training, so only the samples differ from the theory's: the share with any
    unit off is 1 % up to 3 binomial standard errors, 20 +- 13 of 2000. (The error is that of first
    order in 1/sqrt(n), a twentieth off here.)
    """
    monkeypatch.setattr("linvae.diagnosis.judgement.RATE_TOLERANCE", (0.0, 0.0))
    # neither evidence nor times are asked for here, and they take the most
    monkeypatch.setattr("linvae.diagnosis.observed.SUBSET", 2)
    monkeypatch.setattr("linvae.diagnosis.judgement.escape_times", lambda theta2, **_: 0 * theta2)
    law, rng, alarms = np.array([1.0, 0.6]), np.random.default_rng(0), 0
    r = BETA * S / law

    def encoder(y):
        return y * np.sqrt((1 - r) / law), np.log(r) + 0 * y

    for _ in range(2000):
        found = diagnose(encoder, rng.standard_normal((2000, 2)) * np.sqrt(law), **AT)
        alarms += any(abs(u.observed_nats - u.predicted_nats) > u.tolerance_nats
                      for u in found.units)  # fmt: skip
    assert 20 - 13 <= alarms <= 20 + 13


A, C, F, B, O = (  # noqa: E741
    ALIVE_AS_PREDICTED,
    COLLAPSED_AS_PREDICTED,
    OPTIMISATION,
    BEYOND,
    OFF_OPTIMUM,
)
RULES = {
    "rotated": ([1.0, 0.3], [0.65, 0.65], [O, O]),
    "merged": ([0.4, 0.4, 0.4, 0.4], [1.0, 0.0, 0.0, 0.0], [B, B, F, F]),
    "dead-in-theory": ([1.0, 0.0], [0.6, 0.4], [O, O]),
    "near-threshold": ([1.0, 0.1], [1.0, 0.0], [A, C]),
    "small-noise": ([1.0, 0.0], [1.0, 0.05], [A, C]),
    "barely-awake": ([1.0, 0.8], [1.0, 0.1], [A, F]),
    "half-awake": ([1.0, 0.8], [1.0, 0.4], [A, O]),
    "noise-hides-nothing": ([1.0, 0.2], [1.21, 0.0], [O, F]),
}


def judged(predicted, observed, tolerance, slack, evidence="unknown"):
    """Units whose modes have their ranks."""
    predicted, observed = np.array(predicted), np.array(observed)
    tolerance, slack = (np.full(len(predicted), t) for t in (tolerance, slack))
    ranks = _beyond_ranks(predicted, observed, tolerance, slack)
    return _verdicts(predicted, observed, tolerance, *ranks, evidence)


@pytest.mark.parametrize("case", RULES.values(), ids=RULES)
def test_rules(case):
    predicted, observed, expected = case
    assert judged(predicted, observed, 0.15, 0.25) == expected


def test_a_code_that_pays_excuses_a_collapsed_unit():
    assert judged([1.0, 0.8], [1.0, 0.0], 0.1, 0.1, "even") == [A, F]
    assert judged([1.0, 0.8], [1.0, 0.0], 0.1, 0.1, "pays") == [A, B]


def test_a_code_that_costs_is_not_beyond_the_theory():
    rates = [1.0, 0.8, 0.0], [2.0, 1.0, 0.5]
    assert judged(*rates, 0.1, 0.1) == [B] * 3
    assert judged(*rates, 0.1, 0.1, "costs") == [O] * 3


def test_objective_of_the_optimum_is_the_solution(optimum):
    """Within 5 Monte-Carlo errors; a lost unit is worse by what it was worth, and not excused."""
    U = optimum.weights["U"]
    found = diagnose(linear_encoder(optimum), DATA, **AT, decoder=lambda z: z @ U.T)
    assert 0 < found.objective_error < 0.05
    assert abs(found.objective_nats - optimum.objective) < 5 * found.objective_error
    used = np.array([1, 0, 1, 1, 1])
    encoder = linear_encoder(optimum, [0, 2])
    lost = diagnose(encoder, DATA, **AT, decoder=lambda z: z * used @ U.T)
    r = BETA * S / 2.0
    worth = 2.0 * (1 - r) / (2 * S) + BETA * math.log(r) / 2
    gap = lost.objective_nats - optimum.objective
    assert gap == pytest.approx(worth, abs=5 * lost.objective_error)
    assert lost.verdict == OPTIMISATION
    assert f"against {optimum.objective:.3f}" in lost.sentence


# --- errors -------------------------------------------------------------------------------------

OK = np.zeros((1200, 2))
BROKEN = {
    "one-array": (lambda y: OK, r"returned ndarray but must return a pair"),
    "three": (lambda y: (OK, OK, OK), r"returned 3 parts but must return a pair"),
    "rows": (lambda y: (OK[:7], OK[:7]), r"means of shape \(7, 2\) but must return \(1200, k\)"),
    "flat": (lambda y: (OK[:, 0], OK[:, 0]), r"means of shape \(1200,\)"),
    "latent-dims": (lambda y: (OK, OK[:, :1]), r"log-variances of shape \(1200, 1\) but its means"),
    "nan": (lambda y: (OK * np.nan, OK), r"2400 of 2400 means that are NaN or infinite"),
    "infinite": (lambda y: (OK, OK - np.inf), r"log-variances that are NaN or infinite"),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_broken_outputs_are_named(case):
    encoder, message = case
    with pytest.raises(ValueError, match=message):
        diagnose(encoder, DATA)


@pytest.mark.parametrize("power", [1.0, 0.5], ids=["variance", "deviation"])
@pytest.mark.parametrize("beta", [0.01, 0.8, 30.0])
def test_variances_in_place_of_their_logarithms_are_seen(beta, power):
    spec = VAESpec(5, beta=beta, decoder_variance=S)
    encoder = linear_encoder(solve(spec, Moments.from_data(DATA)))

    def mistaken(y):
        mean, log_variance = encoder(y)
        return mean, np.exp(log_variance) ** power

    with pytest.raises(ValueError, match=r"log-variances are all above log\(prior_variance\)=0"):
        diagnose(mistaken, DATA, beta=beta, decoder_variance=S)


def test_log_variances_that_are_trusted_pass():
    rates = diagnose(lambda y: (OK, OK + 1), DATA, trust_log_variances=True).observed_rate
    assert rates == pytest.approx(2 * (math.e - 2) / 2)
    with pytest.raises(ValueError, match=r"probably it returns variances .* trust_log_variances"):
        diagnose(lambda y: (OK, OK + 1), DATA)


def test_numbers_of_other_types_are_numbers():
    at = {"beta": np.float32(0.5), "decoder_variance": np.float32(0.5)}
    assert diagnose(lambda y: (OK, OK), DATA, **at).spec.beta == 0.5
    for no in (True, np.bool_(True)):
        with pytest.raises(ValueError, match=r"decoder_variance=.*True.* must be a number"):
            diagnose(lambda y: (OK, OK), DATA, decoder_variance=no)


REFUSED = {
    "bernoulli": ({"likelihood": "bernoulli"}, r"stability\(VAESpec\(k, likelihood='bernoulli'\)"),
    "target": ({"encoder_sees": "target"}, r"CVAESpec\(k, encoder_sees='target', ...\), moments"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_models_without_an_optimum_to_hold_against(options, message):
    with pytest.raises(ValueError, match=message):
        diagnose(lambda y: (OK, OK), DATA, **options)


@pytest.mark.parametrize("levels", [2, 3])
def test_a_hierarchy_is_not_one_level(levels):
    with pytest.raises(ValueError, match=f"returned {levels} pairs, as a hierarchy"):
        diagnose(lambda y: [(OK, OK)] * levels, DATA)


def test_a_learned_decoder_variance_is_asked_for():
    with pytest.raises(ValueError, match="give the value that the network has learned"):
        diagnose(lambda y: (OK, OK), DATA, decoder_variance="learned")


def test_decoder_of_another_width():
    with pytest.raises(ValueError, match=r"decoder returned \(1200, 2\) for \(1200, 2\) latents"):
        diagnose(lambda y: (OK, OK), DATA, decoder=lambda z: z)


def test_units_that_change_between_batches():
    def encoder(y):
        return (np.zeros((len(y), 1 + len(y) // 4096)),) * 2

    with pytest.raises(ValueError, match=r"encoder returned \[1, 2\] units in different batches"):
        diagnose(encoder, np.tile(DATA, (4, 1)))


# --- what is shown ------------------------------------------------------------------------------


def test_rows_table_and_picture(optimum):
    found = diagnose(linear_encoder(optimum, [0, 2]), DATA, **AT)
    rows = found.to_rows()
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2]["verdict"] == OPTIMISATION
    assert rows[2]["advice"] == found.units[2].advice
    table = found.table()
    assert table.row_count == 5
    drawing = found.draw()
    (axes,) = drawing.figure.axes
    assert axes.get_xlabel().endswith("nats (linear optimum)")
    labels = axes.get_legend_handles_labels()[1]
    assert {ALIVE_AS_PREDICTED, OPTIMISATION, COLLAPSED_AS_PREDICTED} < set(labels)
    assert drawing.alt.endswith(found.sentence)


# --- trained networks ---------------------------------------------------------------------------

SEEDS = (0, 1, 2)
CPU = torch.device("cpu")


def trained(y, latent_dim, betas, steps, architecture="linear"):
    """A stack of three seeds per beta, decoder variance 0.1."""
    data = TrainingData.from_arrays(y.astype(np.float32))
    spec = VAESpec(latent_dim, decoder_variance=0.1)
    sizes = {"architecture": architecture, "seeds": SEEDS, "n_points": len(betas)}
    model = build_model(spec, data.target, **sizes)
    config = TrainConfig(steps=steps, batch_size=64, learning_rate=0.02)
    train(model, data, ConstantBetas(betas, spec.betas, CPU), config)
    return model


def member(model, seed, point, mean):
    """Encoder of one member, as a function of arrays."""

    @torch.no_grad()
    def encoder(batch):
        rows = torch.as_tensor(batch - mean, dtype=torch.float32)
        q = model.posterior(rows.expand(len(model.seeds), *rows.shape), None)
        return q.mean[seed, point].numpy(), q.log_variance.expand(q.mean.shape)[seed, point].numpy()

    return encoder


def verdicts_of(model, y, betas):
    """{beta: verdict of every seed}."""
    return {
        beta: [
            diagnose(
                member(model, seed, point, y.mean(axis=0)), y, beta=beta, decoder_variance=0.1
            ).verdict
            for seed in SEEDS
        ]
        for point, beta in enumerate(betas)
    }


def test_linear_models_above_the_threshold_healthy_and_stopped_early():
    """Threshold 4/0.1 = 40: collapsed at 60; all three units alive at 1, but not in 20 steps."""
    y = spectrum_data((4.0, 1.0, 0.25), n_samples=500)
    found = verdicts_of(trained(y, 3, (1.0, 60.0), 1000), y, (1.0, 60.0))
    assert found == {1.0: [ALIVE_AS_PREDICTED] * 3, 60.0: [COLLAPSED_AS_PREDICTED] * 3}
    stopped = verdicts_of(trained(y, 3, (1.0,), 20), y, (1.0,))
    assert stopped == {1.0: [OPTIMISATION] * 3}


def test_a_network_on_a_curve_is_alive_beyond_the_linear_theory():
    """Eight modes of threshold 5: at 4 each is worth log(5/4)/2 = 0.11 nats, the curve far more."""
    y = curve_data(4, n_samples=500)
    network = Architecture("mlp", hidden=32, activation="tanh")
    model = trained(y, 4, (4.0,), 300, network)
    for seed in SEEDS:
        encoder = member(model, seed, 0, y.mean(axis=0))
        found = diagnose(encoder, y, beta=4.0, decoder_variance=0.1)
        assert found.verdict == BEYOND
        assert {u.evidence for u in found.units} == {"pays"}
        assert "and they pay: curved structure" in found.sentence


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_of_pythae_trained_by_pythae(seed, tmp_path):
    """Its loss is half the squared error: decoder variance 1. Healthy, stopped early, collapsed.

    The encoder is pythae's own; its decoders end in a sigmoid, which these data do not fit.
    """
    models = pytest.importorskip("pythae.models")
    trainers = pytest.importorskip("pythae.trainers")
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder
    from pythae.pipelines import TrainingPipeline

    class LinearDecoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)

        def forward(self, z):
            return ModelOutput(reconstruction=self.linear(z))

    y = spectrum_data((4.0, 1.0, 0.25), n_samples=500).astype(np.float32)
    found = []
    for beta, epochs in ((0.1, 60), (0.1, 1), (6.0, 30)):
        torch.manual_seed(seed)
        config = models.BetaVAEConfig(input_dim=(3,), latent_dim=3, beta=beta)
        model = models.BetaVAE(config, decoder=LinearDecoder())
        settings = trainers.BaseTrainerConfig(
            output_dir=str(tmp_path),
            num_epochs=epochs,
            learning_rate=5e-3 if epochs > 1 else 1e-5,
            per_device_train_batch_size=100,
            seed=seed,
            no_cuda=True,
        )
        TrainingPipeline(training_config=settings, model=model)(train_data=y)
        found.append(diagnose(model, y, beta=beta, decoder=model))
    healthy, stopped, collapsed = found
    # 0.03 to 0.06 nats above the optimum, with up to 0.5 nats more than it has: pythae's encoder is
    # an MLP, which is free to spend them at this beta
    assert healthy.verdict in (ALIVE_AS_PREDICTED, OFF_OPTIMUM)
    assert healthy.missing_modes == ()
    assert (stopped.verdict, collapsed.verdict) == (OPTIMISATION, COLLAPSED_AS_PREDICTED)


def test_a_fixed_variance_is_that_of_the_encoder():
    y = np.random.default_rng(0).standard_normal((50, 3))
    with pytest.raises(
        ValueError, match=r"its variances are 0\.5 to 0\.5 in diagnose; leave it out"
    ):
        diagnose(lambda v: (v[:, :2], np.full((len(v), 2), math.log(0.5))), y, encoder_variance=1.0)
