"""Thresholds at every condition: brute force over all matrices, one condition, known families."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from linvae.data import Heteroscedastic
from linvae.moments import Moments
from linvae.spec import CVAESpec, VAESpec
from linvae.theory import solve
from linvae.theory.conditional_threshold import conditional_threshold

from .problems import random_covariance

ANGLES = (np.arange(128) + 0.5) * 2 * np.pi / 128


def family():
    """Three conditions of two dimensions, unequally likely, with other leading directions."""
    rng = np.random.default_rng(5)
    C = np.array([random_covariance(rng, 2) for _ in range(3)])
    return C, np.array([0.5, 0.3, 0.2])


def brute_force(C, weights, beta: float, s: float, eta2: float, shared: bool) -> float:
    """Least objective less that of collapse; one unit, U_x of every x or one U, from 8 starts.

    |y - U z|^2/(2 s) + beta KL, W_x and log sigma_x^2 of every x: the encoder always sees x.
    """
    m = len(C)

    def objective(v):
        W, U, log_variance = v[: 2 * m].reshape(m, 2), v[3 * m :].reshape(-1, 2), v[2 * m : 3 * m]
        W_C, noise = np.einsum("mi,mij->mj", W, C), np.exp(log_variance)
        seen = np.sum(W_C * W, axis=1) + noise
        gained = np.sum(U**2, axis=1) * seen - 2 * np.sum(W_C * U, axis=1)
        rate = seen / eta2 - 1 - log_variance + np.log(eta2)
        return weights @ (gained / s + beta * rate) / 2

    rng = np.random.default_rng(0)
    size = 3 * m + (2 if shared else 2 * m)
    starts = rng.normal(size=(8, size)) * rng.choice([0.1, 0.5, 1.5], size=(8, 1))
    return min(minimize(objective, start, options={"gtol": 1e-8}).fun for start in starts)


@pytest.mark.parametrize("shared", [False, True], ids=["free", "one direction"])
def test_collapse_ends_at_the_supremum_or_at_the_average(shared):
    """A decoder that may lean anywhere at each x; one that leans one way at all of them."""
    (C, weights), s, eta2 = family(), 0.6, 1.7
    found = conditional_threshold(
        CVAESpec(1, decoder_variance=s, prior_variance=eta2), C, weights * 7
    )
    critical = found.average_critical_beta if shared else found.critical_beta
    assert found.average_critical_beta < 0.9 * found.critical_beta
    # 3 % below its threshold a mode gains beta/2 (log(1/0.97) - 0.03) = 2e-4 beta, times P(x)
    assert brute_force(C, weights, 0.97 * critical, s, eta2, shared) < -1e-5
    assert brute_force(C, weights, 1.03 * critical, s, eta2, shared) == pytest.approx(0, abs=1e-9)


def test_the_objective_of_free_decoders_is_the_mean_over_conditions():
    C, weights = family()
    found = conditional_threshold(CVAESpec(1), C, weights)
    beta = 0.4 * found.critical_beta
    plain = [solve(VAESpec(1, beta=beta), Moments.from_covariance(c)) for c in C]
    collapsed = [np.log(2 * np.pi) + np.trace(c) / 2 for c in C]
    expected = sum(w * (p.objective - c) for w, p, c in zip(weights, plain, collapsed, strict=True))
    assert brute_force(C, weights, beta, 1.0, 1.0, False) == pytest.approx(expected, abs=1e-7)
    assert found.rate(beta) == pytest.approx(sum(weights * [p.rates[0] for p in plain]), rel=1e-12)


@pytest.mark.parametrize("encoder_variance", [None, 0.4])
@pytest.mark.parametrize("k", [1, 2])
def test_one_condition_is_the_linear_cvae(k, encoder_variance):
    rng = np.random.default_rng(k)
    moments = Moments.from_covariance(random_covariance(rng, 5), condition_dim=2)
    spec = CVAESpec(k, decoder_variance=0.3, prior_variance=1.4, encoder_variance=encoder_variance)
    found = conditional_threshold(spec, moments.residual_covariance[None])
    critical = solve(spec, moments).critical_beta[0]
    assert found.critical_beta == pytest.approx(critical, rel=1e-10)
    assert found.average_critical_beta == pytest.approx(critical, rel=1e-10)
    for beta in (0.2 * critical, 0.8 * critical, 1.2 * critical):
        expected = solve(spec.scale_betas(beta), moments).rates[0]
        assert found.rate(beta) == pytest.approx(expected, abs=1e-10)
    assert found.share_collapsed(0.99 * critical) == 0
    assert found.share_collapsed(1.01 * critical) == 1


@pytest.mark.parametrize("turns", [0, 1])
def test_a_turning_direction_by_hand(turns):
    """lambda from 0.2 to 1, s = 0.5: the mean over x of 1/2 log+(lambda(x)/(beta s))."""
    model = Heteroscedastic(0.2, 1.0, noise=0.1, turns=turns)
    spec = CVAESpec(2, beta=3.0, decoder_variance=0.5)  # its own beta does not matter
    found = conditional_threshold(spec, model.covariances(ANGLES))
    assert found.critical_beta == pytest.approx(1.0 / 0.5, rel=2e-4)  # no angle is 0 exactly
    average = 0.6 if turns == 0 else 0.35
    assert found.average_critical_beta == pytest.approx(average / 0.5, rel=1e-12)
    top = model.top_variances(ANGLES)
    for beta in (0.1, 0.7, 1.5, 2.0):
        level = beta * 0.5
        alive = np.log(np.maximum(1, np.stack([top, np.full(128, 0.1)]) / level)) / 2
        np.testing.assert_allclose(found.rates(beta), alive.sum(axis=0), atol=1e-12)
        assert found.share_collapsed(beta) == pytest.approx(np.mean(top <= level))
    assert found.rate(found.critical_beta) == 0
    assert found.share_collapsed(found.critical_beta) == pytest.approx(1.0)


def test_rate_at_the_end_of_a_line_of_conditions_is_a_power_three_halves():
    """Where it goes to 0, not linearly: slope of the logarithms between 4 % and 1 % below."""
    model = Heteroscedastic(0.2, 1.0)
    angles = np.linspace(-0.6, 0.6, 601)  # the others are collapsed there
    found = conditional_threshold(CVAESpec(1), model.covariances(angles))
    rates = [found.rate(beta) for beta in (0.96, 0.99)]
    # the next order changes the local slope by about (1 - beta)
    assert np.log(rates[0] / rates[1]) / np.log(4) == pytest.approx(1.5, abs=0.04)


def test_conditions_without_variance_or_weight():
    C = np.array([np.zeros((2, 2)), np.eye(2), 9 * np.eye(2)])
    found = conditional_threshold(CVAESpec(1), C, [1.0, 1.0, 0.0])
    assert found.critical_beta == 1
    assert found.average_critical_beta == 0.5
    np.testing.assert_array_equal(found.rates(0.5)[:1], 0)
    assert found.rate(0.5) == pytest.approx(np.log(2) / 4)
    assert found.share_collapsed(0.5) == 0.5
    assert [row["critical_beta"] for row in found.to_rows()] == pytest.approx([0, 1, 9])


REFUSED = {
    "plain": (VAESpec(1), np.eye(2)[None], None, "must be a CVAESpec with encoder_sees='both'"),
    "target": (CVAESpec(1, encoder_sees="target"), np.eye(2)[None], None, "encoder_sees='both'"),
    "learned": (CVAESpec(1, decoder_variance="learned"), np.eye(2)[None], None, "tie all cond"),
    "decay": (CVAESpec(1, weight_decay=0.1), np.eye(2)[None], None, "weight_decay and dec"),
    "shape": (CVAESpec(1), np.eye(2), None, r"shape \(2, 2\) but must be \(m, d, d\)"),
    "weights": (CVAESpec(1), np.eye(2)[None], [1, 1], r"weights has shape \(2,\) and sum 2"),
    "no weight": (CVAESpec(1), np.eye(2)[None], [0.0], r"weights has shape \(1,\) and sum 0"),
    "negative": (CVAESpec(1), np.eye(2)[None], [-1.0], "weights=-1.0 must be finite and >= 0"),
    "no covariance": (CVAESpec(1), -np.eye(2)[None], None, "zero variance|not positive"),
}


@pytest.mark.parametrize(("spec", "C", "weights", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(spec, C, weights, message):
    with pytest.raises(ValueError, match=message):
        conditional_threshold(spec, C, weights)
