"""Free bits: the closed optimum against minimisation over matrices, the floor as a constraint."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from scipy.optimize import minimize

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import solve
from linvae.theory.dynamics import escape_rates
from linvae.theory.free_bits import free_bits_optimum

from .problems import random_covariance
from .test_dynamics import _descend, _setting


def _with_floor(theta2, k, f, beta, s, per, seed, starts=4):
    """Least objective over W and a diagonal encoder covariance, prior variance 1, decoder at its
    least-squares optimum; the price is an unknown bounded below by the rates and the floor."""
    rng, d, C = np.random.default_rng(seed), len(theta2), np.diag(theta2)
    n_prices = k if per == "unit" else 1

    def unpack(x):
        return x[: k * d].reshape(k, d), np.exp(x[k * d : k * d + k]), x[k * d + k :]

    def value(x):
        W, v, price = unpack(x)
        U = np.linalg.solve(W @ C @ W.T + np.diag(v), W @ C).T
        error = np.eye(d) - U @ W
        mse = np.trace(error @ C @ error.T) + np.sum(U**2 * v)
        dW, dlog_v = -2 * U.T @ error @ C, np.sum(U**2, axis=0) * v
        gradient = np.concatenate([dW.ravel() / (2 * s), dlog_v / (2 * s), [beta] * n_prices])
        return mse / (2 * s) + beta * price.sum(), gradient

    def slack(x):
        W, v, price = unpack(x)
        rates = (np.sum((W @ C) * W, axis=1) + v - 1 - np.log(v)) / 2
        return price - (rates if per == "unit" else rates.sum())

    def slack_gradient(x):
        W, v, _ = unpack(x)
        J = np.zeros((k, len(x)))
        for j in range(k):
            J[j, j * d : (j + 1) * d], J[j, k * d + j] = -(W @ C)[j], -(v[j] - 1) / 2
        J = J if per == "unit" else J.sum(axis=0, keepdims=True)
        J[np.arange(n_prices), k * d + k + np.arange(n_prices)] = 1
        return J

    found = []
    for _ in range(starts):
        x = np.concatenate(
            [rng.normal(size=k * d) / np.sqrt(theta2.mean()), rng.normal(size=k) - 0.5,
             np.full(n_prices, f + 0.5)]
        )  # fmt: skip
        result = minimize(
            value, x, jac=True, method="SLSQP", options={"maxiter": 400, "ftol": 1e-13},
            constraints={"type": "ineq", "fun": slack, "jac": slack_gradient},
            bounds=[(None, None)] * (k * d) + [(-12, 5)] * k + [(f, None)] * n_prices,
        )  # fmt: skip
        if slack(result.x).min() > -1e-8:
            found.append(result.fun)
    return min(found)


def _floor_problem(seed):
    rng = np.random.default_rng(seed)
    d, k = (int(n) for n in rng.integers(1, 4, size=2))
    theta2 = np.exp(rng.uniform(-2, 1.4, size=d))
    numbers = {"floor_nats": rng.uniform(0.02, 0.8), "beta": np.exp(rng.uniform(-1.5, 2))}
    return theta2, {"latent_dim": k, "decoder_variance": np.exp(rng.uniform(-2.5, 0))} | numbers


@pytest.mark.parametrize("per", ["unit", "total"])
@pytest.mark.parametrize("seed", range(100))
def test_optimum_with_a_floor_against_brute_force(seed, per):
    theta2, numbers = _floor_problem(seed)
    optimum = free_bits_optimum(theta2, per=per, **numbers)
    k, f, beta, s = (numbers[n] for n in ("latent_dim", "floor_nats", "beta", "decoder_variance"))
    best = _with_floor(theta2, k, f, beta, s, per, seed)
    # constraints hold to 1e-8 nats, each worth beta < 8
    assert optimum.objective == pytest.approx(best, rel=1e-6, abs=5e-7)


def test_idle_unit_helps_a_mode_that_is_carried():
    """One mode, two units: two noisy looks of rate f each beat one, x_1 + x_2 = 2 (e^2f - 1)."""
    f, s = 0.5, 0.1
    one = free_bits_optimum(1.0, latent_dim=1, floor_nats=f, beta=50.0, decoder_variance=s)
    two = free_bits_optimum(1.0, latent_dim=2, floor_nats=f, beta=50.0, decoder_variance=s)
    assert one.squared_errors == pytest.approx([np.exp(-2 * f)], rel=1e-14)
    assert two.squared_errors == pytest.approx([1 / (1 + 2 * (np.e - 1))], rel=1e-14)
    assert two.unit_rates_nats.tolist() == [f, f]


def test_one_unit_per_mode_of_equal_variance_is_the_plain_rule():
    """rate = max(floor, log(theta^2/(beta s))/2), either side of theta^2 = beta s exp(2 floor)."""
    for beta in (0.5, 2.0, 8.0):
        optimum = free_bits_optimum(
            [1.5] * 3, latent_dim=3, floor_nats=0.3, beta=beta, decoder_variance=0.4
        )
        rate = max(0.3, np.log(1.5 / (beta * 0.4)) / 2)
        np.testing.assert_allclose(optimum.unit_rates_nats, rate, rtol=1e-14)
        np.testing.assert_allclose(optimum.information_nats, rate, rtol=1e-12)


@pytest.mark.parametrize("per", ["unit", "total"])
@pytest.mark.parametrize("seed", range(10))
def test_no_floor_is_the_plain_model(seed, per):
    theta2, numbers = _setting(seed)
    spec = VAESpec(2, beta=numbers["beta"], decoder_variance=numbers["decoder_variance"])
    plain = solve(spec, Moments.from_covariance(np.diag(theta2)))
    optimum = free_bits_optimum(
        theta2, latent_dim=2, floor_nats=0.0, beta=spec.beta, per=per,
        decoder_variance=spec.decoder_variance,
    )  # fmt: skip
    constant = 2 * np.log(2 * np.pi * spec.decoder_variance)
    assert optimum.objective + constant == pytest.approx(plain.objective, rel=1e-12)
    np.testing.assert_allclose(optimum.unit_rates_nats, plain.mode_rates[0, :2], atol=1e-12)


def test_total_floor_is_a_smaller_beta():
    theta2 = np.array([2.0, 1.0, 0.5])
    optimum = free_bits_optimum(theta2, latent_dim=3, floor_nats=0.6, beta=30.0, per="total")
    assert optimum.unit_rates_nats.sum() == pytest.approx(0.6, rel=1e-13)
    smaller = float(optimum.squared_errors.max())  # the water level is beta' s
    plain = solve(VAESpec(3, beta=smaller), Moments.from_covariance(np.diag(theta2)))
    np.testing.assert_allclose(plain.mode_rates[0], optimum.unit_rates_nats, atol=1e-14)


def test_free_bits_with_nothing_to_say():
    for per in ("unit", "total"):
        optimum = free_bits_optimum([0.0, 0.0], latent_dim=3, floor_nats=0.5, per=per)
        assert optimum.unit_rates_nats.tolist() == [0.0] * 3
        assert optimum.information_nats.tolist() == [0.0, 0.0]
        assert optimum.price_nats == (1.5 if per == "unit" else 0.5)


def test_descent_below_the_floor_leaves_collapse_at_five_times_the_threshold():
    """Total floor: the gradient has beta = 0 below it, so collapse is left at that escape rate."""
    s, f, lr = 0.5, 0.4, 3e-3
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(1), 3))
    theta2 = np.linalg.eigvalsh(moments.covariance)[::-1]
    beta = 5 * theta2[0] / s
    free, priced = (
        oracles.setting_of(VAESpec(1, beta=b, decoder_variance=s), moments) for b in (1e-12, beta)
    )
    top = np.linalg.eigh(moments.covariance)[1][:, -1:]  # other directions grow as well, but later
    w = oracles.Weights(1e-6 * top.T, np.zeros((3, 0)), [], [1e-6 * top], [np.eye(1)], np.log(s))
    rate = escape_rates(theta2[0], beta=0, decoder_variance=s)[0]
    half, sizes = int(np.log(1e3) / rate / lr / 2), []
    for _ in range(2):
        w = _descend(free, w, lr, half)
        sizes.append(np.linalg.norm(w.U[0]))
    # a start with u = w has a decaying part, below 1e-3 after the first half; lr r/2 = 0.4 per cent
    assert np.log(sizes[1] / sizes[0]) / (half * lr) == pytest.approx(rate, rel=0.006)
    for step in [lr] * 1200 + [lr / 10] * 800:
        below = oracles.terms(priced, w)[1].sum() < f
        w = _descend(free if below else priced, w, step, 1)
    # it chatters about the kink by one step: 3e-4 times beta = 40 times a slope squared of size 1
    assert oracles.terms(priced, w)[1].sum() == pytest.approx(f, abs=0.02)


def test_rows_and_errors():
    optimum = free_bits_optimum([1.0, 3.0], latent_dim=1, floor_nats=0.1)
    assert [row["mode_variance"] for row in optimum.to_rows()] == [3.0, 1.0]
    assert [row["mode"] for row in optimum.to_rows()] == [1, 2]
    with pytest.raises(ValueError, match="per='batch' must be 'unit' or 'total'"):
        free_bits_optimum(1.0, latent_dim=1, floor_nats=0.1, per="batch")
    with pytest.raises(ValueError, match="latent_dim=0 must be finite"):
        free_bits_optimum(1.0, latent_dim=0, floor_nats=0.1)
