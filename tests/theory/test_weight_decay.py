"""The optimum of a mode with weight decay, against minimisation written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import solve
from linvae.theory.penalised import penalised_critical_beta, penalised_optimum

from .problems import random_covariance


def _decay_problem(seed: int) -> dict[str, float]:
    """Half of them near the threshold of strong decay, where the transition is of first order."""
    rng = np.random.default_rng(seed)
    theta2, s, eta2 = np.exp(rng.uniform(-1, 1.5, size=3))
    share = rng.uniform(0.0, 0.3) if seed % 2 else rng.uniform(0.3, 0.95)
    kappa = share * theta2 / s
    top = float(penalised_critical_beta(
        theta2, weight_decay=kappa, decoder_variance=s, prior_variance=eta2
    ))  # fmt: skip
    return {"theta2": theta2, "s": s, "eta2": eta2, "kappa": kappa, "critical": top,
            "beta": top * rng.uniform(0.3, 1.1)}  # fmt: skip


def _cost(x: np.ndarray, q: dict[str, float]) -> float:
    u, w, log_variance = x
    variance = np.exp(log_variance)
    second_moment = w**2 * q["theta2"] + variance
    error = q["theta2"] - 2 * u * w * q["theta2"] + u**2 * second_moment
    ratio = variance / q["eta2"]
    rate = (second_moment / q["eta2"] - 1 - np.log(ratio)) / 2
    return error / (2 * q["s"]) + q["beta"] * rate + q["kappa"] / 2 * (u**2 + w**2)


def _slope(x: np.ndarray, q: dict[str, float]) -> np.ndarray:
    u, w, log_variance = x
    T, s, variance, price = q["theta2"], q["s"], np.exp(log_variance), q["beta"] / q["eta2"]
    along_u = (u * (w**2 * T + variance) - w * T) / s + q["kappa"] * u
    along_w = (u**2 * w * T - u * T) / s + price * w * T + q["kappa"] * w
    return np.array([along_u, along_w, variance * (u**2 / s + price) / 2 - q["beta"] / 2])


def _brute_force(q: dict[str, float]) -> float:
    """Gain over the collapsed point of the best of several minimisations."""
    collapsed = np.array([0.0, 0.0, np.log(q["eta2"])])
    u = np.sqrt(q["theta2"] / q["eta2"]) * np.array([0.1, 0.4, 0.9])
    starts = [np.array([a, 1 / a, np.log(q["eta2"] * b)]) for a in u for b in (1e-3, 0.3)]
    options = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 2000}
    best = min(
        minimize(_cost, start, (q,), jac=_slope, method="L-BFGS-B", options=options).fun
        for start in starts
    )
    return _cost(collapsed, q) - best


def _solved(q: dict[str, float], **changes: float):
    q = q | changes
    return penalised_optimum(q["theta2"], beta=q["beta"], weight_decay=q["kappa"],
                                   decoder_variance=q["s"], prior_variance=q["eta2"])  # fmt: skip


@pytest.mark.parametrize("seed", range(100))
def test_weight_decay_optimum_is_the_minimum(seed):
    q = _decay_problem(seed)
    found = _solved(q)
    # L-BFGS stops at a slope of 1e-8 or less, so within 1e-10 of the minimum where it is not flat
    assert float(found.gain_nats) == pytest.approx(max(_brute_force(q), 0.0), abs=1e-9)
    x = np.array([found.decoder, found.encoder, np.log(found.encoder_variance)])
    collapsed = _cost(np.array([0.0, 0.0, np.log(q["eta2"])]), q)
    assert collapsed - _cost(x, q) == pytest.approx(float(found.gain_nats), abs=1e-12)
    assert bool(found.collapsed) == (q["beta"] > q["critical"])


@pytest.mark.parametrize("seed", range(0, 100, 9))
def test_collapse_with_weight_decay(seed):
    q = _decay_problem(seed)
    assert _brute_force(q | {"beta": 0.98 * q["critical"]}) > 0
    assert _brute_force(q | {"beta": 1.02 * q["critical"]}) < 1e-12
    # never below the end of stability of the collapsed point
    k = q["kappa"] * q["s"] / q["eta2"]
    local = q["theta2"] / (q["s"] * (1 + k)) - q["kappa"] * q["eta2"] / q["theta2"]
    assert q["critical"] >= local * (1 - 1e-12)


def test_strong_weight_decay_makes_the_transition_first_order():
    """Continuous while y < 1 + 2 k at the end of stability; theta = eta = s = 1: k < 0.4516."""
    for kappa, first_order in ((0.3, False), (0.45, False), (0.453, True), (0.6, True)):
        local = 1 / (1 + kappa) - kappa
        top = float(penalised_critical_beta(1.0, weight_decay=kappa))
        below = penalised_optimum(1.0, beta=top * (1 - 1e-9), weight_decay=kappa)
        assert (top > local + 1e-6) == first_order
        # it jumps by 0.05 at 0.453; where it does not, it is a root of the distance 1e-9
        assert (float(below.decoder) > 0.01) == first_order
    assert penalised_critical_beta(1.0, weight_decay=1.0) == 0.0
    # the collapsed point is stable at any beta from k = (sqrt 5 - 1)/2 on, the optimum is not
    assert penalised_critical_beta(1.0, weight_decay=0.63) > 0.05


def test_weight_decay_optimum_on_the_full_covariance():
    """All entries of U, W and Sigma free, two units: the optimum still decouples into modes."""
    rng = np.random.default_rng(8)
    for _ in range(4):
        C, k = random_covariance(rng, 4), 2
        theta2 = np.linalg.eigvalsh(C)[::-1]
        beta, kappa, s = 0.3 * theta2[1], 0.2 * theta2[1], 0.7

        def cost(x, C=C, k=k, beta=beta, kappa=kappa, s=s):
            U, W = x[:8].reshape(4, k), x[8:16].reshape(k, 4)
            L = np.array([[np.exp(x[16]), 0.0], [x[17], np.exp(x[18])]])
            S, E = L @ L.T, np.eye(4) - U @ W
            error = np.trace(E @ C @ E.T) + np.trace(U @ S @ U.T)
            rate = (np.trace(W @ C @ W.T + S) - k) / 2 - x[16] - x[18]
            return error / (2 * s) + beta * rate + kappa / 2 * np.sum(x[:16] ** 2)

        best = min(
            minimize(cost, rng.normal(size=19) * 0.5, method="BFGS", options={"gtol": 1e-7}).fun
            for _ in range(4)
        )
        gains = penalised_optimum(
            theta2[:k], beta=beta, weight_decay=kappa, decoder_variance=s
        ).gain_nats
        # numerical gradients: 1e-7 from the minimum, squared
        assert np.trace(C) / (2 * s) - gains.sum() == pytest.approx(best, abs=1e-8)


def test_no_weight_decay_is_the_plain_optimum():
    theta2 = np.array([5.0, 2.0, 2.0, 0.6, 0.3, 0.0])
    found = penalised_optimum(theta2, beta=0.75, weight_decay=0.0, decoder_variance=0.8)
    solution = solve(
        VAESpec(6, beta=0.75, decoder_variance=0.8), Moments.from_covariance(np.diag(theta2))
    )
    np.testing.assert_allclose(found.encoder_variance, solution.encoder_variances[0], rtol=1e-12)
    np.testing.assert_allclose(
        found.decoder, np.linalg.svd(solution.weights["U"], compute_uv=False), atol=1e-12
    )
    np.testing.assert_array_equal(found.collapsed, solution.collapsed[0])
    assert len(found.to_rows()) == 6


def test_negative_weight_decay_is_refused():
    with pytest.raises(ValueError, match=r"weight_decay=-1.0 must be finite and >= 0"):
        penalised_optimum(1.0, beta=1.0, weight_decay=-1.0)


def test_vanishing_decay_is_none():
    """Decays down to the smallest double: no overflow, the optimum without decay."""
    moments = Moments.from_covariance([[2.0]])
    expected = solve(VAESpec(1, decoder_variance=0.3), moments)
    with np.errstate(over="raise"):
        found = solve(VAESpec(1, decoder_variance=0.3, weight_decay=5e-324), moments)
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
