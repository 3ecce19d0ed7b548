"""The system of a mode: against differences of the objective written out, and linear equations."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.theory.mode_system import integrate, mode_system, start_state, weight_pair

THETA2, S, ETA2, BETA = np.array([1.7, 0.4]), 0.3, 1.4, np.array([0.9, 1.3])


def _objective(u: float, w: float, log_v: float, theta2: float, beta: float) -> float:
    v = np.exp(log_v)
    rate = ((theta2 * w**2 + v) / ETA2 - 1 - np.log(v / ETA2)) / 2
    return (theta2 * (1 - u * w) ** 2 + u**2 * v) / (2 * S) + beta * rate


def test_velocity_is_minus_the_gradient():
    system = mode_system(THETA2, S, ETA2, "joint", "raw")
    u, w, log_v, h = np.array([0.4, -0.7]), np.array([0.2, 0.5]), np.array([-0.3, 0.1]), 1e-6
    theta = np.sqrt(THETA2)
    state = np.stack([u, theta * w, log_v - np.log(ETA2)], axis=1)
    found = system.velocity(state, BETA)
    for mode in range(2):
        point = np.array([u[mode], w[mode], log_v[mode]])
        slope = np.array([
            _objective(*(point + h * e), THETA2[mode], BETA[mode])
            - _objective(*(point - h * e), THETA2[mode], BETA[mode])
            for e in np.eye(3)
        ]) / (2 * h)  # fmt: skip
        in_state = -slope * np.array([1.0, theta[mode], 1.0])  # lambda = theta w
        np.testing.assert_allclose(found[mode], in_state, atol=1e-8)  # rounding/h


@pytest.mark.parametrize("update", ["joint", "aggressive"])
@pytest.mark.parametrize("encoder_weights", ["raw", "whitened"])
def test_growth_is_that_of_the_velocity_of_small_weights(update, encoder_weights):
    system = mode_system(THETA2, S, ETA2, update, encoder_weights)
    size, n = 1e-6, 3 if update == "joint" else 1
    growth = system.growth(BETA)
    for mode in range(2):
        columns = []
        for e in np.eye(n)[: min(n, 2)]:
            state = np.zeros((2, n))
            state[mode] = size * e
            columns.append(system.velocity(state, BETA)[mode, : min(n, 2)] / size)
        rates = np.linalg.eigvals(np.array(columns).T).real
        assert rates.max() == pytest.approx(growth[mode], rel=1e-5)
        if update == "joint":
            assert -rates.min() == pytest.approx(system.fastest_decay(BETA)[mode], rel=1e-5)


def test_start_holds_the_rate_of_its_encoder_weight():
    system = mode_system(THETA2, S, ETA2, "joint", "raw")
    start = start_state(system, (0.1, [0.2, 0.3]), "raw")
    np.testing.assert_allclose(start[:, 0], 0.1)
    expected = np.array([0.2, 0.3]) ** 2 * THETA2 / (2 * ETA2)
    np.testing.assert_allclose(system.rate(start, BETA), expected, rtol=1e-12)
    assert [x.tolist() for x in weight_pair(2.0, 3)] == [[2.0] * 3] * 2


def test_integration_of_a_linear_system():
    rates = np.array([[-1.0], [0.5]])
    times = np.array([0.0, 1.0, 1.0, 3.0])
    found = integrate(lambda y, t: rates * y, np.ones((2, 1)), 0.0, times, np.full((2, 1), 1e-14))
    expected = np.exp(rates.T * times[:, None])
    np.testing.assert_allclose(found[:, :, 0], expected, rtol=1e-8)  # 1e-10 per step


@pytest.mark.parametrize("beta", [0.0, 0.7, 20.0])
def test_without_data_an_answering_encoder_leaves_the_decoder_its_own_decay(beta):
    """-eta^2/s: the encoder answers nothing, at no beta."""
    system = mode_system(np.zeros(1), S, ETA2, "aggressive", "whitened")
    assert system.growth(np.array([beta])) == pytest.approx([-ETA2 / S], rel=1e-12)
    assert system.fastest_decay(np.array([beta])) == pytest.approx([ETA2 / S], rel=1e-12)


def test_all_of_a_small_start_grows_where_the_encoder_answers():
    system = mode_system(THETA2, S, ETA2, "aggressive", "raw")
    start = np.array([[1e-4, 0.0, 0.0], [3e-4, 0.0, 0.0]])
    found = system.growing_rate(start, BETA)
    # the rate's next order is u^2 eta^2/s = 1e-6 of it
    np.testing.assert_allclose(found, system.rate(start, BETA), rtol=1e-5)


def test_at_the_start_the_path_is_the_start():
    state = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found = integrate(lambda y, t: y, state, 2.0, np.array([2.0, 2.0]), np.full((2, 3), 1e-14))
    np.testing.assert_array_equal(found, [state, state])


def test_an_unknown_update_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'joint' or 'aggressive' in linvae\.theory\.mode_system"):
        mode_system(THETA2, S, ETA2, "slow", "raw")
