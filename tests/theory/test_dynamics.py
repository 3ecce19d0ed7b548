"""Escape from collapse and the flow of one mode.

Oracles: second differences and gradient descent of the exact objective over all matrices
(`oracles.value_and_gradient`). None of them uses a formula of `linvae.theory.mode_system`.
"""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import solve
from linvae.theory.dynamics import escape_rates, mode_flow
from linvae.theory.finite_training import escape_times

UPDATES = ["joint", "aggressive"]
WEIGHTS = ["raw", "whitened"]
every_update = pytest.mark.parametrize("update", UPDATES)
every_weight = pytest.mark.parametrize("encoder_weights", WEIGHTS)


def _setting(seed: int, n_modes: int = 4) -> tuple[np.ndarray, dict[str, float]]:
    """Mode variances and numbers of a problem, some modes above their threshold, some below."""
    rng = np.random.default_rng(seed)
    theta2 = np.sort(np.exp(rng.uniform(-2.0, 1.4, size=n_modes)))[::-1]
    s, eta2 = np.exp(rng.uniform(-2.0, 0.0)), np.exp(rng.uniform(-1.0, 1.0))
    beta = float(rng.uniform(0.3, 0.9) * theta2[1] / s)
    return theta2, {"beta": beta, "decoder_variance": float(s), "prior_variance": float(eta2)}


def _critical_free(theta2: np.ndarray, c: float) -> np.ndarray:
    """Modes more than 5 per cent away from their threshold: there the time to converge is short."""
    return theta2[np.abs(theta2 / c - 1) > 0.05]


# --- the collapsed point ----------------------------------------------------------------------


def test_example_of_one_mode():
    """eta = 1, s = 0.25, beta = 1, theta = 1.2, from the characteristic polynomials by hand."""
    numbers = {"beta": 1.0, "decoder_variance": 0.25}
    whitened = escape_rates(1.44, encoder_weights="whitened", **numbers)
    assert whitened == pytest.approx([(-5 + math.sqrt(9 + 4 * 4.8**2)) / 2], rel=1e-14)
    assert whitened == pytest.approx([2.529], abs=5e-4)
    raw = escape_rates(1.44, encoder_weights="raw", **numbers)
    assert raw == pytest.approx([(-5.44 + math.sqrt(2.56**2 + 4 * 5.76**2)) / 2], rel=1e-14)
    for encoder_weights in WEIGHTS:
        rate = escape_rates(1.44, update="aggressive", encoder_weights=encoder_weights, **numbers)
        assert rate == pytest.approx([19.04], rel=1e-14)


@pytest.mark.parametrize("seed", range(25))
def test_second_differences_of_the_exact_objective(seed):
    """All 2 d k directions of (U, W) at collapse, full covariance: each mode's pair, k times."""
    theta2, numbers = _setting(seed)
    d, k = 4, 2
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    moments = Moments.from_covariance((basis * theta2) @ basis.T)
    p = oracles.setting_of(VAESpec(k, **numbers), moments)
    size = 2 * d * k

    def gradient(vector: np.ndarray) -> np.ndarray:
        E, U = vector[: d * k].reshape(k, d), vector[d * k :].reshape(d, k)
        L = np.sqrt(numbers["prior_variance"]) * np.eye(k)
        w = oracles.Weights(E, np.zeros((d, 0)), [], [U], [L], np.log(p.s))
        g = oracles.value_and_gradient(p, w)[1]
        return np.concatenate([g.E.ravel(), g.U[0].ravel()])

    h = 1e-5
    hessian = np.array([gradient(h * e) - gradient(-h * e) for e in np.eye(size)]) / (2 * h)
    found = np.sort(np.linalg.eigvalsh(-(hessian + hessian.T) / 2))[::-1]
    slow = escape_rates(theta2, **numbers)
    s, eta2, beta = (numbers[n] for n in ("decoder_variance", "prior_variance", "beta"))
    fast = -eta2 / s - theta2 * beta / eta2 - slow  # the trace of each mode's block
    expected = np.sort(np.repeat(np.concatenate([slow, fast]), k))[::-1]
    # the gradient is cubic: differences leave h^2, and rounding 1e-16/h, times the curvature
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


@every_update
@every_weight
@pytest.mark.parametrize("seed", range(13))  # two to four growing modes each
def test_small_weights_grow_at_the_escape_rate(seed, update, encoder_weights):
    theta2, numbers = _setting(seed)
    how = {"update": update, "encoder_weights": encoder_weights} | numbers
    rates = escape_rates(theta2, **how)
    growing = np.flatnonzero(rates > 0)
    assert len(growing) >= 2
    for i in growing:
        # from 1e-8 by a factor 1e4: the decaying part is below 1e-4 of the weight after half of it
        times = np.log(1e4) / rates[i] * np.array([0.5, 1.0])
        flow = mode_flow(theta2[i], times=times, start_weights=1e-8, **how)
        for weights in (flow.decoder_weights, flow.encoder_weights):
            slope = np.log(weights[1, 0] / weights[0, 0]) / (times[1] - times[0])
            assert slope == pytest.approx(rates[i], rel=1e-3)
        slope = np.log(flow.rate_nats[1, 0] / flow.rate_nats[0, 0]) / (times[1] - times[0])
        assert slope == pytest.approx(2 * rates[i], rel=1e-3)


@every_update
@every_weight
def test_positive_exactly_above_the_threshold(update, encoder_weights):
    theta2 = np.linspace(0.05, 3.0, 60)
    beta, s = 1.25, 0.5
    edge = np.array([np.nextafter(0.625, 0), 0.625, np.nextafter(0.625, 1)])
    how = {"beta": beta, "decoder_variance": s, "prior_variance": 0.3}
    how |= {"update": update, "encoder_weights": encoder_weights}
    np.testing.assert_array_equal(escape_rates(theta2, **how) > 0, theta2 > beta * s)
    np.testing.assert_array_equal(np.sign(escape_rates(edge, **how)), [-1, 0, 1])


def test_modes_without_variance_and_beta_zero():
    raw, whitened = (
        escape_rates(0.0, decoder_variance=0.5, prior_variance=2.0, encoder_weights=weights)[0]
        for weights in WEIGHTS
    )
    assert raw == 0  # no gradient reaches the row
    assert whitened == -0.5  # -beta/eta^2, the slower of 4 and 1/2
    # without a price a mode of any variance leaves, with a finite rate in joint updates
    assert np.all(escape_rates([1e-6, 1.0], beta=0.0) > 0)
    assert escape_rates([1.0, 0.0], beta=0.0, update="aggressive").tolist() == [math.inf, -1.0]


def test_one_mode_against_many_betas():
    betas = np.array([0.5, 1.0, 4.0])
    found = escape_rates(2.0, beta=betas, decoder_variance=0.5)
    expected = [escape_rates(2.0, beta=b, decoder_variance=0.5)[0] for b in betas]
    np.testing.assert_array_equal(found, expected)


# --- the flow against descent of all matrices -------------------------------------------------


def _descend(p, w, lr: float, n_steps: int):
    """Plain descent in U, W and the logarithms of a diagonal encoder covariance."""
    for _ in range(n_steps):
        g = oracles.value_and_gradient(p, w)[1]
        scale = np.diag(w.L[0])
        log_variance = 2 * np.log(scale) - lr * np.diag(g.L[0]) * scale / 2
        L = np.diag(np.exp(log_variance / 2))
        w = oracles.Weights(w.E - lr * g.E, w.B, [], [w.U[0] - lr * g.U[0]], [L], w.log_s)
    return w


@pytest.mark.parametrize("seed", range(2))
def test_descent_of_random_small_matrices_grows_mode_by_mode(seed):
    theta2, numbers = _setting(seed)
    numbers["beta"] *= 0.4  # further from the thresholds: fewer steps
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    moments = Moments.from_covariance((basis * theta2) @ basis.T)
    p = oracles.setting_of(VAESpec(2, **numbers), moments)
    rates = escape_rates(theta2, **numbers)
    L = np.sqrt(numbers["prior_variance"]) * np.eye(2)
    E, U = 1e-9 * rng.normal(size=(2, 4)), 1e-9 * rng.normal(size=(4, 2))
    w = oracles.Weights(E, np.zeros((4, 0)), [], [U], [L], np.log(p.s))
    s, eta2, beta = (numbers[n] for n in ("decoder_variance", "prior_variance", "beta"))
    lr = 0.02 / np.max(eta2 / s + theta2 * beta / eta2)
    half = int(np.log(300) / rates[0] / lr)
    middle = _descend(p, w, lr, half)
    end = _descend(p, middle, lr, half)
    sizes = [np.hypot(*(np.linalg.norm(m, axis=0) for m in (x.E @ basis, x.U[0].T @ basis)))
             for x in (middle, end)]  # fmt: skip
    slopes = np.log(sizes[1] / sizes[0]) / (half * lr)
    alive = rates > 0.5 * rates[0]  # the transient of slower modes has not died out
    # a step of descent grows by 1 + lr r, not exp(lr r): lr r/2 < 1 per cent less
    np.testing.assert_allclose(slopes[alive], rates[alive], rtol=0.01)


def test_descent_of_matrices_follows_the_flow_as_steps_shrink():
    """Aligned start in a full covariance: the gap to the flow is proportional to the step."""
    theta2, numbers = _setting(3)
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    moments = Moments.from_covariance((basis * theta2) @ basis.T)
    p = oracles.setting_of(VAESpec(2, **numbers), moments)
    start = 0.05
    end = float(1.3 * escape_times(theta2[0], start_weights=start, **numbers)[0])
    flow = mode_flow(theta2[:2], times=[0.0, end], start_weights=start, **numbers)
    L = np.sqrt(numbers["prior_variance"]) * np.eye(2)
    w = oracles.Weights(
        start * basis[:, :2].T, np.zeros((4, 0)), [], [start * basis[:, :2]], [L], np.log(p.s)
    )
    gaps = []
    for n_steps in (500, 1000, 2000):
        w_end = _descend(p, w, end / n_steps, n_steps)
        found = [np.diag(basis[:, :2].T @ w_end.U[0]), np.diag(w_end.E @ basis[:, :2]),
                 np.diag(w_end.L[0]) ** 2]  # fmt: skip
        expected = [flow.decoder_weights[1], flow.encoder_weights[1], flow.encoder_variances[1]]
        gaps.append(np.abs(np.array(found) - np.array(expected)).max())
        # the other directions stay empty: modes decouple
        assert np.abs(basis[:, 2:].T @ w_end.U[0]).max() < 1e-14
    assert gaps[2] < 0.01
    # first order: halved with the step, up to second-order terms
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 2.0, atol=0.1)


@every_update
@every_weight
@pytest.mark.parametrize("seed", range(4))
def test_flow_ends_in_the_closed_form(seed, update, encoder_weights):
    theta2, numbers = _setting(seed)
    theta2 = _critical_free(theta2, numbers["beta"] * numbers["decoder_variance"])
    d = len(theta2)
    solution = solve(VAESpec(d, **numbers), Moments.from_covariance(np.diag(theta2)))
    how = {"update": update, "encoder_weights": encoder_weights} | numbers
    # 60 times the slowest time constant of the collapsed point; the alive end is faster or similar
    slowest = np.abs(escape_rates(theta2, **how)).min()
    flow = mode_flow(theta2, times=[0.0, 60 / min(slowest, 0.1)], start_weights=0.01, **how)
    # the integrator's 1e-10 per step, in quantities of size 0.1 to 10
    np.testing.assert_allclose(flow.rate_nats[-1], solution.mode_rates[0], atol=1e-7)
    np.testing.assert_allclose(flow.encoder_variances[-1], solution.encoder_variances[0], rtol=1e-7)
    np.testing.assert_allclose(flow.decoder_weights[-1], np.diag(solution.weights["U"]), atol=1e-7)
    W = np.diag(solution.weights["W"])
    whitening = np.sqrt(theta2) if encoder_weights == "whitened" else 1.0
    np.testing.assert_allclose(flow.encoder_weights[-1], W * whitening, atol=1e-7)
    constant = d / 2 * np.log(2 * np.pi * numbers["decoder_variance"])
    assert flow.objective[-1].sum() + constant == pytest.approx(solution.objective, abs=1e-7)


@every_update
@every_weight
@pytest.mark.parametrize("seed", range(4))
def test_objective_falls_along_the_flow(seed, update, encoder_weights):
    theta2, numbers = _setting(seed)
    flow = mode_flow(
        theta2, times=np.linspace(0, 30, 200), start_weights=0.1, update=update,
        encoder_weights=encoder_weights, **numbers,
    )  # fmt: skip
    assert np.diff(flow.objective, axis=0).max() <= 1e-8  # the integrator's error per mode
    assert flow.objective[0].sum() > flow.objective[-1].sum() + 0.01


def test_flow_that_starts_at_another_variance():
    """Weights zero: log v relaxes on its own, d log v/dt = -beta/2 (v/eta^2 - 1), solvable."""
    times, beta = np.array([0.0, 0.5, 2.0]), 0.7
    flow = mode_flow(1.0, times=times, beta=beta, start_weights=0.0, start_variance=0.2)
    # with x = 1/v: dx/dt = -beta/2 (x - 1), v in units of the prior variance
    expected = 1 / (1 + (1 / 0.2 - 1) * np.exp(-beta * times / 2))
    np.testing.assert_allclose(flow.encoder_variances[:, 0], expected, rtol=1e-8)


# --- annealing --------------------------------------------------------------------------------


def test_schedules_that_are_the_same_schedule():
    times = np.linspace(0, 6, 13)
    knots = [(1.0, 0.2), (4.0, 2.0)]

    def ramp(t: float) -> float:
        return float(np.interp(t, [1.0, 4.0], [0.2, 2.0]))

    for update in UPDATES:
        common = {"times": times, "decoder_variance": 0.3, "start_weights": 0.05, "update": update}
        by_knots = mode_flow([1.0, 0.4], beta=knots, **common)
        by_function = mode_flow([1.0, 0.4], beta=ramp, **common)
        np.testing.assert_allclose(by_knots.beta, [ramp(t) for t in times], rtol=1e-14)
        # the function has kinks, which the integrator passes with its own error control only
        np.testing.assert_allclose(by_knots.rate_nats, by_function.rate_nats, rtol=1e-6)


@pytest.mark.parametrize(
    "knots",
    [
        [(-3.0, 9.0), (-1.0, 5.0), (0.5, 2.0), (2.0, 0.5), (2.5, 0.5), (20.0, 3.0), (30.0, 90.0)],
        [(-3.0, 9.0), (-1.0, 0.7)],
        [(0.0, 0.7), (0.0, 0.4), (4.0, 0.4)],
        [(6.0, 0.7), (8.0, 2.0)],
    ],
    ids=["around", "before", "from-a-jump", "after"],
)
def test_straight_lines_are_clipped_to_the_run(knots):
    times, after_the_jump = np.linspace(0.0, 5.0, 7), knots[1:] if knots[0][0] == 0 else knots

    def between(t: float) -> float:
        return float(np.interp(t, *np.array(after_the_jump).T))

    found, expected = (mode_flow([1.5, 0.6], times=times, beta=beta) for beta in (knots, between))
    np.testing.assert_allclose(found.beta, expected.beta, rtol=1e-12)
    # corners cost the integrator what its tolerance allows
    np.testing.assert_allclose(found.rate_nats, expected.rate_nats, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.7, [(0.0, 0.7), (3.0, 2.0)]], ids=["number", "line"])
def test_at_time_zero_there_is_the_start(beta):
    flow = mode_flow([1.5, 0.6], times=[0.0, 0.0], beta=beta, start_weights=(0.3, 0.2))
    assert flow.beta.tolist() == [0.7, 0.7]
    assert flow.decoder_weights.tolist() == 2 * [[0.3, 0.3]]
    np.testing.assert_allclose(flow.encoder_weights, 0.2, rtol=1e-15)
    assert flow.encoder_variances.tolist() == 2 * [[1.0, 1.0]]


@pytest.mark.parametrize(
    "beta",
    [[(-1.0, 1.0), (0.0, 3.0)], [(-2.0, 1.0), (-1.0, 5.0)], [(0.0, 1.0), (0.0, 3.0)],
     [(0.0, 2.0), (5.0, 3.0)], [(-1.0, 1.0), (1.0, 5.0)], [(1.0, 4.0)]],
)  # fmt: skip
def test_at_time_0_a_run_of_no_length_has_the_beta_of_a_longer_one(beta):
    alone, longer = (mode_flow([1.0], times=times, beta=beta) for times in ([0.0], [0.0, 1.0]))
    assert alone.beta[0] == longer.beta[0]
    assert alone.objective[0] == longer.objective[0]


def test_without_a_price_all_modes_are_learned():
    """beta = 0: nothing holds the rate, and the output tends to the data."""
    flow = mode_flow([1.5, 0.6], times=[60.0], beta=0.0, start_weights=0.1)
    product = flow.decoder_weights[-1] * flow.encoder_weights[-1]
    np.testing.assert_allclose(product, 1, atol=0.05)


def test_jump_is_two_runs_in_succession():
    common = {"decoder_variance": 0.3}
    whole = mode_flow(1.0, times=[2.0, 5.0], beta=[(2.0, 0.5), (2.0, 1.5)], **common)
    first = mode_flow(1.0, times=[2.0], beta=0.5, **common)
    second = mode_flow(
        1.0, times=[3.0], beta=1.5, start_variance=first.encoder_variances[0, 0],
        start_weights=(first.decoder_weights[0], first.encoder_weights[0]), **common,
    )  # fmt: skip
    np.testing.assert_allclose(whole.rate_nats[-1], second.rate_nats[-1], rtol=1e-8)
    assert whole.beta.tolist() == [0.5, 1.5]


def test_aggressive_growth_is_the_integral_of_the_escape_rate():
    """d log u/dt = (eta^2/s)(theta^2/(beta(t) s) - 1): what counts is the mean of 1/beta."""
    theta2, s, eta2, knots = np.array([1.0, 0.3]), 0.5, 0.7, [(0.0, 0.4), (3.0, 2.0)]
    flow = mode_flow(
        theta2, times=[0.0, 3.0], beta=knots, decoder_variance=s, prior_variance=eta2,
        update="aggressive", start_weights=1e-9,
    )  # fmt: skip
    mean_inverse = np.log(2.0 / 0.4) / (2.0 - 0.4)  # of 1/beta on a line from 0.4 to 2
    expected = 3.0 * eta2 / s * (theta2 / s * mean_inverse - 1)
    grown = np.log(flow.decoder_weights[1] / flow.decoder_weights[0])
    np.testing.assert_allclose(grown, expected, rtol=1e-7)


@every_update
def test_collapse_stays_under_any_schedule_and_the_end_decides(update):
    dead = mode_flow(
        2.0, times=[0, 50.0], beta=[(0.0, 1e-3), (10.0, 1.0)], start_weights=0.0, update=update
    )
    assert dead.rate_nats.tolist() == [[0.0], [0.0]]
    # alive at the beginning, above the threshold at the end: back to collapse
    back = mode_flow(
        2.0, times=[10.0, 200.0], beta=[(10.0, 0.5), (11.0, 3.0)], start_weights=0.1, update=update
    )
    assert back.rate_nats[0, 0] > 0.5
    assert back.rate_nats[1, 0] < 1e-12


# --- records and messages ---------------------------------------------------------------------


def test_rows():
    flow = mode_flow([1.0, 0.2], times=[0.0, 1.0, 2.0], decoder_variance=0.3)
    rows = flow.to_rows()
    assert len(rows) == 6
    assert rows[3]["mode"] == 2
    assert rows[3]["time"] == 1.0
    assert rows[3]["rate_nats"] == flow.rate_nats[1, 1]
    assert rows[3]["encoder_weight"] == flow.encoder_weights[1, 1]


def test_mode_without_variance_keeps_its_row():
    flow = mode_flow([1.0, 0.0], times=[0.0, 5.0], start_weights=(0.1, [0.2, 0.3]))
    assert flow.encoder_weights[:, 1].tolist() == [0.3, 0.3]
    assert flow.rate_nats[-1, 1] < 1e-4  # the decoder's weight decays at eta^2/s


MESSAGES = [
    (lambda: escape_rates(-1.0), r"mode_variances=-1.0 must be finite and >= 0"),
    (lambda: escape_rates([[1.0]]), r"mode_variances has shape \(1, 1\) but must be 1-D"),
    (lambda: escape_rates(1.0, beta=math.nan), r"beta=nan must be finite and >= 0"),
    (lambda: escape_rates(1.0, decoder_variance=0), r"decoder_variance=0 must be finite and > 0"),
    (lambda: escape_rates(1.0, prior_variance=-2), r"prior_variance=-2 must be finite and > 0"),
    (lambda: escape_rates(1.0, update="lazy"), r"update='lazy' must be 'joint' or 'aggressive'"),
    (
        lambda: escape_rates(1.0, encoder_weights="white"),
        r"encoder_weights='white' must be 'raw' or 'whitened'",
    ),
    (
        lambda: mode_flow(1.0, times=[2.0, 1.0]),
        r"times has shape \(2,\) but must be 1-D, not empty and asc",
    ),
    (lambda: mode_flow(1.0, times=[]), r"times has shape \(0,\) but must be 1-D, not empty"),
    (lambda: mode_flow(1.0, times=[1.0], beta=[(1, 2), (0, 1)]), r"must be a number, a function"),
    (lambda: mode_flow(1.0, times=[1.0], beta=[(0, 1, 2)]), r"must be a number, a function"),
    (lambda: mode_flow(1.0, times=[1.0], beta=[1.0, 2.0]), r"must be a number, a function"),
    (
        lambda: mode_flow(1.0, times=[1.0], beta=-1.0),
        r"beta=-1.0 at time 0.0 must be finite and >= 0 in mode_flow",
    ),
    (
        lambda: mode_flow(1.0, times=[1.0], beta=lambda t: 0.0, update="aggressive"),
        r"the encoder has no best response",
    ),
    (
        lambda: mode_flow([1.0, 2.0], times=[1.0], start_weights=(0.1, [1.0, 2.0, 3.0])),
        r"start_weights has shape \(3,\) but must be finite, one number or one per mode \(2,\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=[m[:40] for _, m in MESSAGES])
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
