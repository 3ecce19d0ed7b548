"""Latent reconstruction and weight decay: the closed optimum against brute force."""

from __future__ import annotations

import dataclasses

import autograd_oracle
import numpy as np
import oracles
import pytest

from linvae import Moments, VAESpec, objective, solve
from linvae.spec import LatentReconstruction
from linvae.theory.mixed_units import reconstruction_optimum
from linvae.theory.penalised import (
    is_first_order,
    local_critical_beta,
    penalised_critical_beta,
    penalised_optimum,
)
from linvae.theory.stability import stability

from .problems import random_covariance

# L-BFGS stops at a gradient of 1e-9; with curvatures above 1e-3 that is below 1e-10 in value
BRUTE_FORCE = 1e-8
SAME = 1e-10


def _draw(number: int) -> tuple[VAESpec, Moments]:
    rng = np.random.default_rng(number)
    d = int(rng.integers(1, 4))
    gamma, kappa = [(1, 0), (0, 1), (1, 1)][number % 3]
    k = int(rng.integers(d, d + 2) if gamma else rng.integers(1, 4))

    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    spec = VAESpec(
        k,
        beta=between(0.2, 2),
        decoder_variance=between(0.2, 1.5),
        prior_variance=between(0.4, 2),
        encoder_variance=None if rng.random() < 0.7 else [between(0.1, 1) for _ in range(k)],
        latent_reconstruction=gamma * between(0.05, 2),
        weight_decay=kappa * between(0.02, 1),
    )
    return spec, Moments.from_covariance(random_covariance(rng, d))


def _penalties(spec: VAESpec) -> dict[str, float]:
    names = ("decoder_variance", "prior_variance", "latent_reconstruction", "weight_decay")
    return {name: getattr(spec, name) for name in names}


@pytest.mark.parametrize("number", range(100))
def test_solution_is_the_global_minimum(number):
    spec, moments = _draw(number)
    solution = solve(spec, moments)
    lowest = oracles.brute_force(spec, moments, seed=number).objective
    assert solution.objective <= lowest + 1e-9 * max(1, abs(lowest))
    assert solution.objective >= lowest - BRUTE_FORCE * max(1, abs(lowest))
    terms = objective(spec, moments, solution.weights)
    assert terms.objective == pytest.approx(solution.objective, rel=SAME, abs=SAME)
    assert terms.penalty == pytest.approx(solution.penalty, rel=SAME, abs=SAME)
    assert terms.rates == pytest.approx(solution.rates, rel=1e-9, abs=SAME)


def test_no_penalty_is_the_plain_model():
    """Through the same code: a weight too small to matter (1e-14 of the objective)."""
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(0), 5))
    plain = VAESpec(5, beta=0.7, decoder_variance=0.4, prior_variance=1.7)
    for name in ("latent_reconstruction", "weight_decay"):
        almost = dataclasses.replace(plain, **{name: 1e-14})
        found, expected = solve(almost, moments), solve(plain, moments)
        assert found.objective == pytest.approx(expected.objective, rel=1e-12)
        assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-12)
        # near its threshold r answers to the penalty with the inverse of the distance to it
        assert found.noise_fractions == pytest.approx(expected.noise_fractions, rel=1e-9)


@pytest.mark.parametrize("number", range(100))
def test_threshold_of_latent_reconstruction(number):
    """(theta^2/s)(1 + gamma eta^2 s/theta^2)^2: alive just below, collapsed just above."""
    spec, moments = _draw(3 * number)
    spec = dataclasses.replace(spec, encoder_variance=None)
    theta2 = np.linalg.eigvalsh(moments.covariance)[::-1]
    s, eta2 = spec.decoder_variance, spec.prior_variance
    expected = theta2 / s * (1 + spec.latent_reconstruction * eta2 * s / theta2) ** 2
    n = min(spec.latent_dim, moments.target_dim)
    critical = solve(spec, moments).critical_beta[:n]
    assert critical == pytest.approx(expected[:n], rel=1e-12)
    for mode, beta in enumerate(critical):
        assert not solve(dataclasses.replace(spec, beta=beta * 0.999), moments).collapsed[0, mode]
        assert solve(dataclasses.replace(spec, beta=beta * 1.001), moments).collapsed[0, mode]


@pytest.mark.parametrize("number", range(100))
def test_threshold_of_weight_decay(number):
    """Alive just below, collapsed just above the global threshold; never below the local one."""
    spec, moments = _draw(3 * number + 1)
    spec = dataclasses.replace(spec, encoder_variance=None)
    solution, k = solve(spec, moments), spec.latent_dim
    theta2 = solution.mode_variances
    local = local_critical_beta(theta2, **_penalties(spec))
    assert np.all(solution.critical_beta[:k] >= local[:k] * (1 - 1e-12))
    for mode, beta in enumerate(solution.critical_beta[:k]):
        if beta > 1e-6:
            below = solve(dataclasses.replace(spec, beta=beta * 0.999), moments)
            assert not below.collapsed[0, mode]
            above = solve(dataclasses.replace(spec, beta=beta * 1.001), moments)
            assert above.collapsed[0, mode]


def test_local_threshold_is_that_of_stability():
    for number in range(100):
        spec, moments = _draw(number)
        spec = dataclasses.replace(spec, encoder_variance=None)
        theta2 = np.sort(np.linalg.eigvalsh(moments.covariance))[::-1]
        found = np.maximum(stability(spec, moments).critical_beta, 0)
        local = local_critical_beta(theta2, **_penalties(spec))  # need not descend with a loss
        assert found == pytest.approx(np.sort(local)[::-1], rel=1e-9, abs=1e-12)


def test_weight_decay_can_make_the_transition_first_order():
    """One mode inside the predicted window, one above it: the optimum jumps, or does not."""
    s, eta2, kappa = 1.0, 1.0, 0.4
    x = eta2 / s
    onset, edge = kappa * (x + kappa), 2 * kappa * (x + kappa) ** 2 / (x + 2 * kappa)
    for A2, jumps in ((0.5 * (onset + edge), True), (1.05 * edge, False)):
        moments = Moments.from_covariance([[np.sqrt(A2) * s]])
        spec = VAESpec(1, decoder_variance=s, prior_variance=eta2, weight_decay=kappa)
        assert bool(is_first_order(np.sqrt(A2) * s, **_penalties(spec))) is jumps
        local = stability(spec, moments).critical_beta[0]
        critical = solve(spec, moments).critical_beta[0]
        below = solve(dataclasses.replace(spec, beta=critical * (1 - 1e-6)), moments)
        if jumps:
            assert critical > 1.005 * local
            assert below.information[0, 0] > 0.01  # nats: does not start from 0
            lowest = autograd_oracle.minimum(
                autograd_oracle.model_of(dataclasses.replace(spec, beta=1.002 * local), moments)
            )
            flat = solve(dataclasses.replace(spec, beta=10.0), moments)
            collapsed_value = flat.objective  # rate 0: the same at every beta
            assert lowest < collapsed_value - 1e-6  # alive is better although collapse is stable
        else:
            assert critical == pytest.approx(local, rel=1e-9)
            assert below.information[0, 0] < 1e-4


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_one_unit_for_data_and_latents_changes_nothing(unit):
    """The first mode jumps, see above; both weights are pure numbers then."""
    theta2 = np.array([0.9, 1.5, 0.0])
    penalties = {
        "decoder_variance": 1.0,
        "prior_variance": 1.0,
        "latent_reconstruction": 0.0,
        "weight_decay": 0.4,
    }
    assert is_first_order(theta2, **penalties).tolist() == [True, False, False]
    scaled = penalties | {"decoder_variance": unit, "prior_variance": unit}
    for critical in (local_critical_beta, penalised_critical_beta):
        found, expected = critical(unit * theta2, **scaled), critical(theta2, **penalties)
        np.testing.assert_allclose(found, expected, rtol=1e-9)  # of a bisection that meets rounding
    at = penalised_optimum(theta2, beta=0.1, **penalties)
    assert [row["mode"] for row in at.to_rows()] == [1, 2, 3]
    same = penalised_optimum(unit * theta2, beta=0.1, **scaled)
    np.testing.assert_allclose(same.decoder, at.decoder, rtol=1e-9)
    np.testing.assert_allclose(same.encoder_variance, unit * at.encoder_variance, rtol=1e-9)
    np.testing.assert_allclose(same.gain_nats, at.gain_nats, rtol=1e-9)


def test_strong_decay_kills_everything():
    moments = Moments.from_covariance(np.diag([2.0, 0.5]))
    solution = solve(VAESpec(2, beta=1e-6, weight_decay=50.0), moments)
    assert solution.collapsed.all()
    assert solution.critical_beta.tolist() == [0.0, 0.0]


def test_theta_exactly_at_the_threshold_is_collapsed():
    gamma, theta2, s = 0.3, 2.0, 0.5
    beta = theta2 / s * (1 + gamma * s / theta2) ** 2
    spec = VAESpec(1, beta=beta, decoder_variance=s, latent_reconstruction=gamma)
    assert solve(spec, Moments.from_covariance([[theta2]])).collapsed.all()


def test_repeated_modes_share_everything():
    spec = VAESpec(3, beta=0.4, decoder_variance=0.5, weight_decay=0.1, latent_reconstruction=0.2)
    solution = solve(spec, Moments.from_covariance(np.eye(3) * 1.3))
    assert np.ptp(solution.noise_fractions) < 1e-14
    assert np.ptp(solution.critical_beta) < 1e-12


def test_unit_without_data_is_refused():
    moments = Moments.from_covariance(np.diag([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"only 1 of 2 modes have any variance.*drop constant"):
        solve(VAESpec(2, latent_reconstruction=0.1), moments)
    decayed = VAESpec(2, latent_reconstruction=0.1, weight_decay=0.1)
    assert np.isfinite(solve(decayed, moments).objective)


def test_condition_is_refused_by_name():
    joint = Moments.from_covariance(np.eye(3) + 0.2, condition_dim=1)
    message = r"weight_decay=0\.1 have no known global optimum with a condition: use stability"
    with pytest.raises(ValueError, match=message):
        solve(VAESpec(1, weight_decay=0.1), joint)


def test_learned_decoder_variance_is_refused():
    with pytest.raises(
        ValueError, match="decoder_variance='learned' needs latent_reconstruction=0"
    ):
        VAESpec(1, decoder_variance="learned", weight_decay=0.1)


@pytest.mark.parametrize("name", ["latent_reconstruction", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, "1", True])
def test_bad_weights_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* must be a finite number >= 0 in VAESpec"):
        VAESpec(1, **{name: value})


def test_too_few_units_for_the_loss_are_refused_because_they_mix_modes():
    """One unit, two modes: no single mode is as good as a mixture, found by brute force."""
    moments = Moments.from_covariance(np.diag([1.0, 0.1]))
    spec = VAESpec(1, latent_reconstruction=3.0)
    words = "latent_dim=1 below the target's 2 dimensions: a unit then"
    for weight in (3.0, 0.5):
        with pytest.raises(ValueError, match=words):
            solve(dataclasses.replace(spec, latent_reconstruction=weight), moments)
    found = oracles.brute_force(spec, moments)
    assert found.objective == pytest.approx(2.59598, abs=1e-5)
    mixed = reconstruction_optimum(
        [1.0, 0.1], LatentReconstruction(3.0, "prior"), latent_dim=1, beta=1.0,
        decoder_variance=1.0, prior_variance=1.0,
    )  # fmt: skip
    assert mixed.objective == pytest.approx(found.objective, abs=BRUTE_FORCE)
    assert np.all(np.abs(found.weights.U[0]) > 0.4)  # both modes at once


def test_fixed_variance_and_a_mode_without_data():
    """Weight decay must not wake it (it once did)."""
    spec = VAESpec(3, beta=0.5, decoder_variance=0.5, weight_decay=0.01, encoder_variance=0.5)
    moments = Moments.from_covariance(np.diag([2.0, 1.0, 0.0]))
    expected = oracles.brute_force(spec, moments).objective
    assert solve(spec, moments).objective == pytest.approx(expected, rel=1e-9)


def test_decoder_variance_has_no_scaling_law_with_penalties():
    spec = VAESpec(1, weight_decay=0.1)
    assert np.isnan(solve(spec, Moments.from_covariance([[1.0]])).critical_decoder_variance).all()


@pytest.mark.parametrize("eta2", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("s", [1e-3, 1.0, 1e2])
def test_threshold_of_modes_that_jump_with_both_penalties(eta2, s):
    """Alive just below, collapsed just above, in any units; also without data."""
    rng = np.random.default_rng(0)
    kappa = rng.uniform(0.05, 2.0, size=400) * eta2 / s
    gamma = rng.uniform(0.0, 1.5, size=400) * kappa / eta2
    theta2 = rng.choice([0.0, 0.3, 1.0, 3.0], size=400) * kappa * s
    penalties = {
        "decoder_variance": s,
        "prior_variance": eta2,
        "latent_reconstruction": gamma,
        "weight_decay": kappa,
    }
    jumps = is_first_order(theta2, **penalties)
    assert np.sum(jumps & (theta2 > 0)) > 30
    assert np.sum(jumps & (theta2 == 0)) > 10
    critical = penalised_critical_beta(theta2, **penalties)
    local = local_critical_beta(theta2, **penalties)
    assert np.array_equal(critical > local, jumps)
    wakes = (critical > 0) & np.isfinite(critical)
    beta = np.where(wakes, critical, 1.0)
    below = penalised_optimum(theta2, beta=0.999 * beta, **penalties)
    above = penalised_optimum(theta2, beta=1.001 * beta, **penalties)
    assert not below.collapsed[wakes].any()
    assert above.collapsed[wakes].all()


def test_numbers_out_of_range_are_refused_by_name():
    with pytest.raises(ValueError, match=r"weight_decay=-1.* in linvae\.theory\.penalised"):
        local_critical_beta([1.0], weight_decay=-1)
