"""Conditional encoder that sees the target only; its brute force is in `test_optimum`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest

from linvae import CVAESpec, Moments, VAESpec, objective, solve, stability
from linvae.theory.target_encoder import target_encoder_critical_beta

from .problems import draw, random_covariance


def scalar(rho2: float, variance: float = 1.5) -> Moments:
    cross = np.sqrt(rho2 * variance)
    return Moments.from_covariance([[1.0, cross], [cross, variance]], condition_dim=1)


def spec_of(beta: float = 1.0, units: int = 1, s: float = 0.2) -> CVAESpec:
    return CVAESpec(units, beta=beta, decoder_variance=s, encoder_sees="target")


def collapsed_objective(moments: Moments, s: float) -> float:
    d, R = moments.target_dim, moments.residual_covariance
    return d / 2 * np.log(2 * np.pi * s) + np.trace(R) / (2 * s)


@pytest.mark.parametrize("rho2", [0.1, 0.5, 0.6, 0.8, 0.95])
def test_scalar_transition_is_of_first_order_above_half(rho2):
    """Continuous up to rho^2 = 1/2; then a jump, between local threshold and last alive optimum."""
    moments, spec = scalar(rho2), spec_of()
    local = 1.5 * (1 - rho2) ** 2 / 0.2
    critical = solve(spec, moments).critical_beta[0]
    below = solve(spec_of(critical * (1 - 1e-6)), moments)
    if rho2 <= 0.5:
        assert critical == pytest.approx(local, rel=1e-9)
        # at rho^2 = 1/2 itself the information grows with the square root of the distance
        assert below.information[0, 0] < 2e-3
        return
    assert local * 1.001 < critical < 1.5 * (1 - rho2) / (4 * rho2 * 0.2)
    assert below.information[0, 0] > 0.01
    assert below.objective == pytest.approx(collapsed_objective(moments, 0.2), abs=1e-5)


@pytest.mark.parametrize("gap", [0.1, 1e-2, 1.5e-3, 1.4e-3, 1e-3, 1e-5, 1e-7, 1e-9])
def test_threshold_next_to_a_condition_that_explains_all(gap):
    """1 - rho^2 = gap: the best T runs to 1/gap, and log(1 + T) is all that counts there."""
    variance, s = 1.0, 1.0
    moments = Moments.from_covariance(
        [[1.0, np.sqrt(1 - gap)], [np.sqrt(1 - gap), variance]], condition_dim=1
    )
    R = float(moments.residual_covariance[0, 0])
    T = np.geomspace(1e-6, 1e6, 200_001) / gap
    scan = np.max(T * R**2 / (T * R + variance) / np.log1p(T)) / s
    found = solve(spec_of(s=s), moments).critical_beta[0]
    # the scan has 120 points per factor e, and its summit is flat: 1e-5; the residual of such a
    # condition has lost log10(1/gap) of 16 digits, which both sides share
    assert found == pytest.approx(scan, rel=1e-5)


def test_explicit_weights_do_not_beat_the_optimum_on_predictable_data():
    """Where random starts of brute force all end in the collapsed optimum."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1))
    moments = Moments.from_data(x + 0.03 * rng.normal(size=(2000, 1)), x)
    spec = spec_of(beta=1.0, s=1e-5)
    found = solve(spec, moments)
    C, R = float(moments.target_covariance[0, 0]), float(moments.residual_covariance[0, 0])
    b = float(moments.regression[0, 0])
    values = []
    for T in np.geomspace(1, 1e8, 400):
        u = np.sqrt(1e-5 * T)
        w = u * R / (T * R + C) / 1e-5
        weights = {"W2": w, "U1": u, "U2": b - u * w * b, "Sigma": 1 / (1 + T)}
        named = {name: np.array([[value]]) for name, value in weights.items()}
        values.append(objective(spec, moments, named).objective)
    assert found.objective <= min(values) + 1e-9
    assert found.objective == pytest.approx(min(values), rel=1e-4)
    assert found.objective < solve(spec.scale_betas(100), moments).objective - 30


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_scalar_optimum_solves_its_quadratic_equation(share):
    """(T R + C)^2 beta s = R^2 C (1 + T), the larger root."""
    C, R, s = 1.5, 1.5 * 0.3, 0.2
    critical = target_encoder_critical_beta(spec_of(), scalar(0.7))
    found = solve(spec_of(share * critical), scalar(0.7))
    level = share * critical * s
    roots = np.roots([level * R**2, 2 * level * R * C - R**2 * C, level * C**2 - R**2 * C])
    assert float(found.weights["U1"][0, 0] ** 2) / level == pytest.approx(max(roots), rel=1e-9)
    assert float(found.weights["Sigma"][0, 0]) == pytest.approx(1 / (1 + max(roots)), rel=1e-9)


@pytest.mark.parametrize("encoder_variance", [None, 0.4, (0.3, 0.5, 0.9)], ids=str)
@pytest.mark.parametrize("number", range(6))
def test_threshold_holds_for_any_number_of_units(number, encoder_variance):
    """Brute force with three units: collapsed at 1.02 times the value, below it at 0.98."""
    problem = draw("target-learned", number)
    rng = np.random.default_rng(number)
    moments = Moments.from_covariance(random_covariance(rng, 4), condition_dim=2)
    spec = replace(problem.spec, latent_dim=3, encoder_variance=encoder_variance)
    critical = target_encoder_critical_beta(spec, moments)
    collapsed = collapsed_objective(moments, spec.decoder_variance)
    if encoder_variance is not None:
        shares = np.broadcast_to(encoder_variance, 3) / spec.prior_variance
        collapsed += critical * np.sum(shares - 1 - np.log(shares)) / 2
    values = [
        oracles.brute_force(replace(spec, beta=f * critical), moments, n_starts=6, seed=number)
        for f in (0.98, 1.02)
    ]
    constant = collapsed - collapsed_objective(moments, spec.decoder_variance)
    assert values[0].objective < collapsed - 0.02 * constant - 1e-6
    assert values[1].objective == pytest.approx(collapsed + 0.02 * constant, abs=1e-9)


def test_spectrum_that_iteration_cannot_separate_is_eliminated(monkeypatch):
    monkeypatch.setattr("linvae.theory.target_encoder.DENSE", 10)
    rng = np.random.default_rng(1)
    Q = np.linalg.qr(rng.normal(size=(41, 41)))[0]
    values = np.r_[np.linspace(1, 1 - 1e-9, 20), np.linspace(0.5, 1, 21)]
    moments = Moments.from_covariance((Q * values) @ Q.T, condition_dim=1)
    assert solve(spec_of(0.5, s=0.1), moments).critical_beta[0] == pytest.approx(10, rel=0.01)


def test_iteration_and_elimination_find_the_same_leading_direction(monkeypatch):
    """60 dimensions through Lanczos and by all eigenvalues."""
    monkeypatch.setattr("linvae.theory.target_encoder.DENSE", 10)
    moments = Moments.from_covariance(
        random_covariance(np.random.default_rng(7), 70), condition_dim=10
    )
    iterated = solve(spec_of(0.5), moments)
    monkeypatch.setattr("linvae.theory.target_encoder.DENSE", 100)
    dense = solve(spec_of(0.5), moments)
    assert iterated.objective == pytest.approx(dense.objective, rel=1e-12)
    assert iterated.critical_beta[0] == pytest.approx(dense.critical_beta[0], rel=1e-12)
    assert not iterated.collapsed[0, 0]


def test_threshold_is_never_below_that_of_stability():
    """And never above that of an encoder that sees both."""
    for number in range(40):
        problem = draw("target-learned", number)
        critical = target_encoder_critical_beta(problem.spec, problem.moments)
        local = stability(problem.spec, problem.moments).critical_beta[0]
        both = solve(replace(problem.spec, encoder_sees="both"), problem.moments).critical_beta[0]
        assert local * (1 - 1e-9) <= critical <= both * (1 + 1e-9)


@pytest.mark.parametrize(("beta", "chosen"), [(0.910, 1), (0.912, 0)])
def test_the_better_of_two_summits(beta, chosen):
    """The condition tells 95 % of a wide coordinate, nothing of a narrow one: both may pay."""
    joint = np.array([[1.0, 0.0, 95**0.5], [0.0, 1.0, 0.0], [95**0.5, 0.0, 100.0]])
    found = solve(spec_of(beta, s=1.0), Moments.from_covariance(joint, condition_dim=1))
    each = [Moments.from_covariance(joint[np.ix_([0, i], [0, i])], condition_dim=1) for i in (1, 2)]
    alive = np.array([solve(spec_of(beta, s=1.0), moments).objective for moments in each])
    dead = np.array([collapsed_objective(moments, 1.0) for moments in each])
    assert np.all(alive < dead - 1e-3)
    # the coordinates do not talk: the one unit serves one of them
    assert found.objective == pytest.approx(np.min(alive + dead[::-1]), rel=1e-12)
    assert np.flatnonzero(np.abs(found.weights["U1"][:, 0]) > 1e-9).tolist() == [chosen]


@pytest.mark.parametrize("encoder_variance", [None, 0.4], ids=str)
@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1e4])
def test_units_of_the_data_change_nothing(unit, encoder_variance):
    C = random_covariance(np.random.default_rng(11), 5)
    spec = replace(spec_of(beta=0.3), encoder_variance=encoder_variance)
    expected = solve(spec, Moments.from_covariance(C, condition_dim=2))
    assert not expected.collapsed[0, 0]
    scaled = replace(spec, decoder_variance=0.2 * unit)
    found = solve(scaled, Moments.from_covariance(unit * C, condition_dim=2))
    # the root of a slope is good to rounding of the slope, the square of it in the summit's place
    np.testing.assert_allclose(found.noise_fractions, expected.noise_fractions, rtol=1e-9)
    assert found.critical_beta[0] == pytest.approx(expected.critical_beta[0], rel=1e-9)


def test_useless_condition_is_the_plain_model():
    joint = np.zeros((5, 5))
    joint[:2, :2], joint[2:, 2:] = np.eye(2), random_covariance(np.random.default_rng(3), 3)
    plain = Moments.from_covariance(joint[2:, 2:])
    for fixed in (None, 0.4):
        fields = {"decoder_variance": 0.2, "beta": 0.8, "encoder_variance": fixed}
        found = solve(
            CVAESpec(1, encoder_sees="target", **fields),
            Moments.from_covariance(joint, condition_dim=2),
        )
        expected = solve(VAESpec(1, **fields), plain)
        oracles.assert_same_terms(found, expected)
        assert found.critical_beta[0] == pytest.approx(expected.critical_beta[0], rel=1e-9)


def test_one_unit_serves_one_dimension_and_the_other_never_can():
    found = solve(spec_of(0.5, units=2), scalar(0.3))
    alone = solve(spec_of(0.5), scalar(0.3))
    assert found.critical_beta.tolist() == [alone.critical_beta[0], 0.0]
    assert found.collapsed.tolist() == [[False, True]]


def test_condition_that_determines_the_target_leaves_nothing():
    found = solve(spec_of(1e-6), Moments.from_covariance(np.ones((2, 2)), condition_dim=1))
    assert found.collapsed.all()
    assert found.critical_beta[0] == 0


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_singular_target_is_the_target_without_its_empty_directions(unit):
    rng, s = np.random.default_rng(5), 0.2 * unit
    C = unit * random_covariance(rng, 3)
    T = np.zeros((4, 3))
    T[0, 0] = 1
    T[1:, 1:] = rng.normal(size=(3, 2))
    found = solve(spec_of(s=s), Moments.from_covariance(T @ C @ T.T, condition_dim=1))
    basis = np.linalg.qr(T[1:, 1:])[0]
    reduced = T.T[:, 1:] @ basis
    P = np.eye(3)
    P[1:, 1:] = reduced[1:]
    same = solve(spec_of(s=s), Moments.from_covariance(P.T @ C @ P, condition_dim=1))
    constant = np.log(2 * np.pi * s) / 2
    assert found.objective == pytest.approx(same.objective + constant, rel=1e-9)
    assert found.critical_beta[0] == pytest.approx(same.critical_beta[0], rel=1e-9)


def test_refusals_name_the_way_out():
    moments = Moments.from_covariance(
        random_covariance(np.random.default_rng(0), 3), condition_dim=1
    )
    with pytest.raises(ValueError, match=r"latent_dim=2 and 2 target dimensions: use latent_dim=1"):
        solve(spec_of(units=2), moments)
    for other in (CVAESpec(1), VAESpec(1)):
        with pytest.raises(ValueError, match="must be a CVAESpec with encoder_sees='target'"):
            target_encoder_critical_beta(other, moments)
    decay = CVAESpec(1, weight_decay=0.1, encoder_sees="target")
    with pytest.raises(ValueError, match=r"weight_decay=0\.1, .* use stability"):
        target_encoder_critical_beta(decay, moments)
    with pytest.raises(ValueError, match="CVAESpec needs a condition"):
        target_encoder_critical_beta(spec_of(), Moments.from_covariance(np.eye(2)))
    learned = CVAESpec(1, decoder_variance="learned", encoder_sees="target")
    with pytest.raises(ValueError, match=r"'target' has no known global optimum with decoder_var"):
        solve(learned, moments)


def test_target_without_a_preferred_direction():
    """Four equal variances, turned: LAPACK has no largest eigenvalue for 1 in 17 of these."""
    spec, rng = CVAESpec(1, encoder_sees="target"), np.random.default_rng(0)
    plain = np.diag([1.0, 2.0, 2.0, 2.0, 2.0])
    expected = solve(spec, Moments.from_covariance(plain, condition_dim=1)).objective
    for _ in range(100):
        turned = plain.copy()
        Q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        turned[1:, 1:] = Q @ plain[1:, 1:] @ Q.T
        found = solve(spec, Moments.from_covariance(turned, condition_dim=1))
        assert found.objective == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_units_of_a_transition_of_first_order_change_nothing(unit):
    expected = solve(spec_of(s=1.5), scalar(0.9, 1.5)).critical_beta[0]
    found = solve(spec_of(s=1.5 * unit), scalar(0.9, 1.5 * unit)).critical_beta[0]
    assert found == pytest.approx(expected, rel=1e-9)
    assert expected > 1.001 * (1 - 0.9) ** 2


def test_target_that_holds_the_condition_is_an_encoder_that_sees_both():
    C = random_covariance(np.random.default_rng(12), 3)
    T = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])  # x, and (x, y)
    plain = Moments.from_covariance(C, condition_dim=1)
    both = Moments.from_covariance(T @ C @ T.T, condition_dim=1)
    expected = solve(CVAESpec(1, decoder_variance=0.2), plain).critical_beta[0]
    assert target_encoder_critical_beta(spec_of(), both) == pytest.approx(expected, rel=1e-9)


def test_iteration_gives_the_same_bits_at_every_call(monkeypatch):
    monkeypatch.setattr("linvae.theory.target_encoder.DENSE", 10)
    moments = Moments.from_covariance(
        random_covariance(np.random.default_rng(8), 45), condition_dim=5
    )
    first, second = (solve(spec_of(0.5), moments) for _ in range(2))
    for name, value in first.weights.items():
        np.testing.assert_array_equal(value, second.weights[name])


@pytest.mark.parametrize("noise", [0.05, 20.0])
def test_the_better_of_two_summits_with_a_fixed_variance(noise):
    """Two coordinates that do not talk, the condition tells of the wide one: one of them is served.

    Which one changes with beta, and both ways are met.
    """
    joint = np.array([[1.0, 0.0, 95**0.5], [0.0, 1.0, 0.0], [95**0.5, 0.0, 100.0]])
    each = [Moments.from_covariance(joint[np.ix_([0, i], [0, i])], condition_dim=1) for i in (1, 2)]
    met = set()
    for beta in np.geomspace(0.01, 0.9, 15) / noise:
        spec = replace(spec_of(beta, s=1.0), encoder_variance=noise)
        found = solve(spec, Moments.from_covariance(joint, condition_dim=1))
        idle = beta * (noise - 1 - np.log(noise)) / 2
        alive = np.array([solve(spec, moments).objective for moments in each])
        dead = np.array([collapsed_objective(moments, 1.0) + idle for moments in each])
        # the idle value is paid once
        values = alive + dead[::-1] - idle
        assert found.objective == pytest.approx(values.min(), rel=1e-12)
        met.add(int(values.argmin()))
    assert met == {0, 1}


def test_threshold_of_coordinates_that_do_not_talk_is_the_largest_of_theirs():
    """The condition tells almost all of the wide one, whose best T is large; nothing of the other.

    Where the other ends decides nothing about where the first is looked for.
    """
    tells = np.sqrt(100 * (1 - 1e-3))
    joint = np.array([[1.0, 0.0, tells], [0.0, 1e-4, 0.0], [tells, 0.0, 100.0]])
    each = [Moments.from_covariance(joint[np.ix_([0, i], [0, i])], condition_dim=1) for i in (1, 2)]
    expected = [target_encoder_critical_beta(spec_of(), moments) for moments in each]
    found = target_encoder_critical_beta(spec_of(), Moments.from_covariance(joint, condition_dim=1))
    assert found == pytest.approx(max(expected), rel=1e-9)
