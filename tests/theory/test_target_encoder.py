"""Conditional encoder that sees the target only; its brute force is in `test_optimum`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest

from linvae import CVAESpec, Moments, VAESpec, solve, stability
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


@pytest.mark.parametrize("number", range(12))
def test_threshold_holds_for_any_number_of_units(number):
    """Brute force with three units: collapsed at 1.02 times the value, below it at 0.98."""
    problem = draw("target-learned", number)
    rng = np.random.default_rng(number)
    moments = Moments.from_covariance(random_covariance(rng, 4), condition_dim=2)
    spec = replace(problem.spec, latent_dim=3)
    critical = target_encoder_critical_beta(spec, moments)
    collapsed = collapsed_objective(moments, spec.decoder_variance)
    values = [
        oracles.brute_force(replace(spec, beta=f * critical), moments, n_starts=6, seed=number)
        for f in (0.98, 1.02)
    ]
    assert values[0].objective < collapsed - 1e-6
    assert values[1].objective == pytest.approx(collapsed, abs=1e-9)


def test_iteration_and_elimination_find_the_same_leading_direction(monkeypatch):
    """60 dimensions go through Lanczos, unless all eigenvalues are asked for."""
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


def test_condition_that_determines_the_target_leaves_nothing():
    found = solve(spec_of(1e-6), Moments.from_covariance(np.ones((2, 2)), condition_dim=1))
    assert found.collapsed.all()
    assert found.critical_beta[0] == 0


def test_singular_target_is_the_target_without_its_empty_directions():
    rng = np.random.default_rng(5)
    C = random_covariance(rng, 3)
    T = np.zeros((4, 3))
    T[0, 0] = 1
    T[1:, 1:] = rng.normal(size=(3, 2))
    found = solve(spec_of(), Moments.from_covariance(T @ C @ T.T, condition_dim=1))
    basis = np.linalg.qr(T[1:, 1:])[0]
    reduced = T.T[:, 1:] @ basis
    P = np.eye(3)
    P[1:, 1:] = reduced[1:]
    same = solve(spec_of(), Moments.from_covariance(P.T @ C @ P, condition_dim=1))
    constant = np.log(2 * np.pi * 0.2) / 2
    assert found.objective == pytest.approx(same.objective + constant, rel=1e-9)
    assert found.critical_beta[0] == pytest.approx(same.critical_beta[0], rel=1e-9)


def test_refusals_name_the_way_out():
    moments = Moments.from_covariance(
        random_covariance(np.random.default_rng(0), 3), condition_dim=1
    )
    with pytest.raises(ValueError, match=r"latent_dim=2 and 2 target dimensions: use latent_dim=1"):
        solve(spec_of(units=2), moments)
    learned = CVAESpec(1, decoder_variance="learned", encoder_sees="target")
    with pytest.raises(ValueError, match=r"'target' has no known global optimum with decoder_var"):
        solve(learned, moments)
