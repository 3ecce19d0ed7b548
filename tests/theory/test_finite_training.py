"""What a finite run sees: first passages of the flow, hand-written descent of scalar modes."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from linvae.theory.dynamics import mode_flow
from linvae.theory.finite_training import escape_times, finite_training_threshold

from .test_dynamics import _setting, every_update


def _scalar_descent(theta2, beta, s, eta2, lr, n_steps, start, update, whitened):
    """KL after plain descent of scalar modes, hand gradients of the objective in (u, w, log v)."""
    theta = np.sqrt(theta2)
    scale = 1.0 if whitened else theta  # lambda = scale * w
    u, w = np.full_like(theta, start), np.full_like(theta, start)
    v = np.full_like(theta, eta2)
    for _ in range(n_steps):
        lam = scale * w
        if update == "aggressive":
            precision = u**2 / s + beta / eta2
            lam, v = u * theta / s / precision, beta / precision
        miss = theta - u * lam
        du = u * v / s - lam * miss / s
        if update == "joint":
            w = w - lr * scale * (beta * lam / eta2 - u * miss / s)
            v = v * np.exp(-lr * (u**2 * v / s + beta * (v / eta2 - 1)) / 2)
        u = u - lr * du
    if update == "aggressive":
        precision = u**2 / s + beta / eta2
        w, v = u * theta / s / precision / scale, beta / precision
    return ((scale * w) ** 2 / eta2 + v / eta2 - 1 - np.log(v / eta2)) / 2


RUNS = [("joint", "raw"), ("joint", "whitened"), ("aggressive", "raw")]


@pytest.mark.parametrize(("update", "encoder_weights"), RUNS)
def test_threshold_of_a_finite_run_against_descent(update, encoder_weights):
    theta2 = np.array([1.4, 0.9, 0.6, 0.5, 0.2])
    s, eta2, eps, start, lr, n_steps = 0.3, 0.8, 0.03, 1e-3, 0.01, 1500
    how = {"update": update, "encoder_weights": encoder_weights}
    found = finite_training_threshold(
        theta2, n_steps=n_steps, learning_rate=lr, decoder_variance=s, prior_variance=eta2,
        epsilon_nats=eps, start_weights=start, **how,
    )  # fmt: skip
    alive, dead = (
        _scalar_descent(
            theta2, factor * found.observed_beta, s, eta2, lr, n_steps, start, update,
            encoder_weights == "whitened",
        )
        for factor in (0.99, 1.01)
    )  # fmt: skip
    frees = found.observed_beta > 0
    assert frees.sum() >= 4
    assert np.all(alive[frees] > eps)
    assert np.all(dead < eps)  # where the threshold is 0, also without any price
    assert np.all(found.observed_beta < found.infinite_training_beta * (1 + 1e-7))
    assert found.flow_time == 15.0


@every_update
def test_threshold_tends_to_the_bias_of_the_criterion(update):
    thresholds = [
        finite_training_threshold(
            [1.0, 0.5], n_steps=n, learning_rate=0.02, decoder_variance=0.3, epsilon_nats=0.05,
            update=update,
        )
        for n in (10, 300, 3000, 10000)
    ]  # fmt: skip
    seen = np.array([t.observed_beta for t in thresholds])
    assert np.all(np.diff(seen, axis=0) > -1e-7 * seen[-1])  # precision of the root
    np.testing.assert_allclose(seen[-1], np.array([1.0, 0.5]) / 0.3 * np.exp(-0.1), rtol=1e-6)
    linear = np.array([t.linearised_beta for t in thresholds])
    np.testing.assert_allclose(linear[-1], seen[-1], rtol=1e-6)
    for threshold in thresholds:
        infinite = np.array([1.0, 0.5]) / 0.3 * np.exp(-0.1)
        np.testing.assert_allclose(threshold.infinite_training_beta, infinite, rtol=1e-14)
    if update == "joint":
        assert seen[0].tolist() == [0.0, 0.0]  # a fifth of a time unit frees nothing
        np.testing.assert_allclose(linear[2], seen[2], rtol=0.01)  # saturation is slight here


@pytest.mark.parametrize(
    ("update", "share"),
    [("joint", 1e-5), ("joint", 1e-3), ("joint", 0.6), ("aggressive", 0.1), ("aggressive", 0.6)],
)
def test_threshold_is_the_beta_whose_escape_takes_the_run(update, share):
    """The inverse of `escape_times`, for the flow and for its linearisation."""
    theta2, s, eps = 0.8, 0.3, 0.02
    beta, how = share * theta2 / s, {"decoder_variance": s, "epsilon_nats": eps, "update": update}
    for linearised, field in ((False, "observed_beta"), (True, "linearised_beta")):
        time = float(escape_times(theta2, beta=beta, linearised=linearised, **how)[0])
        found = finite_training_threshold(theta2, n_steps=5000, learning_rate=time / 5000, **how)
        assert getattr(found, field)[0] == pytest.approx(beta, rel=1e-3)


@every_update
@pytest.mark.parametrize("seed", range(4))
def test_escape_time_is_the_first_passage_of_the_flow(seed, update):
    theta2, numbers = _setting(seed)
    how = numbers | {"update": update, "start_weights": 1e-3}
    times = escape_times(theta2, epsilon_nats=0.02, **how)
    final = np.log(theta2 / (numbers["beta"] * numbers["decoder_variance"])) / 2
    np.testing.assert_array_equal(np.isfinite(times), final > 0.02)
    for variance, time in zip(theta2[final > 0.02], times[final > 0.02], strict=True):
        flow = mode_flow(variance, times=[time * 0.9, time], **how)
        assert flow.rate_nats[0, 0] < 0.02
        # 2001 points and a straight line of log K: about 1e-5 of the passage
        assert flow.rate_nats[1, 0] == pytest.approx(0.02, rel=1e-4)


@pytest.mark.parametrize("short", [1e-2, 1e-4, 1e-6])
def test_first_passage_next_to_the_end(short):
    """What is left to the optimum halves again and again: the time needed has no bound."""
    final = math.log(6.0) / 2
    time = escape_times(6.0, epsilon_nats=final * (1 - short))[0]
    left = 1 - mode_flow(6.0, times=[time]).rate_nats[0, 0] / final
    # 2001 points on an exponential decay of at most 50 time constants: 2e-4; the flow's 1e-9
    assert left == pytest.approx(short, rel=5e-3)


@pytest.mark.parametrize("s", [1.0, 0.2])
def test_first_passage_where_the_rate_overshoots(s):
    """theta^2 = 6 beta s: the aggressive rate has a crest of 0.8826 at q = 2 beta s, then a dip of
    0.8806 at 3 beta s, then rises to log(6)/2: epsilon = 0.882 is passed three times."""
    how = {"update": "aggressive", "start_weights": 1e-2, "decoder_variance": s}
    time = escape_times(6.0 * s, epsilon_nats=0.882, **how)[0]
    flow = mode_flow(6.0 * s, times=np.linspace(0, 3, 4001) * time, **how)
    above = flow.rate_nats[:, 0] >= 0.882
    assert np.count_nonzero(np.diff(above.astype(int))) == 3
    assert time == pytest.approx(flow.time[np.argmax(above)], abs=3 * time / 4000)  # the spacing


@pytest.mark.parametrize("start", [1e-3, 0.5])
@pytest.mark.parametrize("epsilon", [0.6, 0.882, 0.89])
def test_first_passage_of_the_aggressive_rate_from_any_start(epsilon, start):
    """Before, on and beyond the crest of the same mode."""
    how = {"update": "aggressive", "start_weights": start}
    time = escape_times(6.0, epsilon_nats=epsilon, **how)[0]
    flow = mode_flow(6.0, times=np.linspace(0, 1, 2001) * time, **how)
    assert flow.rate_nats[-1, 0] == pytest.approx(epsilon, rel=1e-6)
    assert np.all(flow.rate_nats[:-1, 0] < epsilon)


@every_update
@pytest.mark.parametrize("eta2", [1.0, 0.3])
def test_critical_slowing_down(update, eta2):
    """The time is log(growth needed)/(2 rate), with saturation, up to terms of order epsilon."""
    distance = np.array([0.3, 0.1, 0.03, 0.02])
    theta2, s = 1.0, 0.25
    beta = theta2 / s * np.exp(-2 * distance)
    how = {"beta": beta, "decoder_variance": s, "prior_variance": eta2, "update": update}
    for epsilon in (1e-2, 1e-3):
        full = escape_times(theta2, epsilon_nats=epsilon, **how)
        linear = escape_times(theta2, epsilon_nats=epsilon, linearised=True, **how)
        assert np.all(np.diff(full) > 0)
        assert full[-1] > 10 * full[0]  # 15 times the distance
        np.testing.assert_allclose(linear, full, rtol=0.7 * epsilon)


def test_escape_times_at_the_edges():
    assert escape_times([0.0, 0.25, 0.2], decoder_variance=0.25).tolist() == [math.inf] * 3
    assert escape_times(2.0, start_weights=0.5).tolist() == [0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for update in ("joint", "aggressive"):
            assert escape_times(2.0, start_weights=0.0, update=update).tolist() == [math.inf]
    repeated = escape_times([2.0, 2.0], epsilon_nats=0.1)
    assert repeated[0] == repeated[1] == pytest.approx(escape_times(2.0, epsilon_nats=0.1)[0])


def test_the_fastest_mode_limits_the_learning_rate():
    """On raw weights the encoder of a mode moves theta^2 times as fast."""
    run = {"n_steps": 10, "learning_rate": 100.0}
    said = []
    for theta2 in ([4.0], [4.0, 0.5], [0.5]):
        with pytest.raises(
            ValueError, match=r"learning_rate=100.0 must be below (\S+) in"
        ) as error:
            finite_training_threshold(theta2, **run)
        said.append(str(error.value))
    assert said[0] == said[1] != said[2]


@every_update
def test_a_mode_without_variance_changes_no_other(update):
    run = {"n_steps": 500, "learning_rate": 0.01, "update": update}
    both, alone = (finite_training_threshold(v, **run) for v in ([1.0, 0.0], [1.0]))
    assert both.observed_beta.tolist() == [*alone.observed_beta, 0.0]


def test_rows():
    threshold = finite_training_threshold([1.0, 0.0], n_steps=500, learning_rate=0.01)
    assert [row["critical_beta"] for row in threshold.to_rows()] == [1.0, 0.0]
    assert threshold.to_rows()[1]["observed_beta"] == 0.0
    assert [row["mode"] for row in threshold.to_rows()] == [1, 2]


RUN = {"n_steps": 100, "learning_rate": 0.01}
MESSAGES = [
    (lambda: escape_times(1.0, epsilon_nats=0), r"epsilon_nats=0 must be finite and > 0"),
    (
        lambda: finite_training_threshold(1.0, start_weights=1.0, **RUN),
        r"start_weights hold 0.5 nats but must hold less than epsilon_nats=0.01",
    ),
    (
        lambda: finite_training_threshold(1.0, start_weights=1.0, epsilon_nats=0.5, **RUN),
        r"start_weights hold 0.5 nats but must hold less than epsilon_nats=0.5 ",
    ),
    (
        lambda: finite_training_threshold(1.0, n_steps=100, learning_rate=2.0),
        r"learning_rate=2.0 must be below 1 in finite_training_threshold: gradient descent div",
    ),
    (lambda: escape_times([[1.0]]), r"mode_variances has shape \(1, 1\) but must be 1-D"),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=[m[:40] for _, m in MESSAGES])
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
