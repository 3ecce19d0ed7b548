"""What the latents explain: the scores of the modes, and the regressions behind them."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.theory.modes import autoregression, mode_decomposition

from .problems import random_covariance

JOINT = Moments.from_covariance(random_covariance(np.random.default_rng(0), 7), condition_dim=3)
PLAIN = Moments.from_covariance(random_covariance(np.random.default_rng(1), 5))
SPECS = {
    "vae": (VAESpec(2), PLAIN),
    "general": (VAESpec(2), JOINT),
    "cvae": (CVAESpec(2), JOINT),
    "hvae": (HVAESpec((2, 1)), JOINT),
    "full-order": (ARVAESpec(2), PLAIN),
    "order-2": (ARVAESpec(2, order=2), PLAIN),
}
every_spec = pytest.mark.parametrize(("spec", "moments"), SPECS.values(), ids=SPECS.keys())


@every_spec
def test_scores_are_uncorrelated_with_the_variances_of_the_modes(spec, moments):
    modes = mode_decomposition(spec, moments)
    scores = modes.readout @ moments.covariance @ modes.readout.T
    # two routes through matrices of size 1 to 10
    np.testing.assert_allclose(scores, np.diag(modes.variances), atol=1e-12)
    np.testing.assert_allclose(modes.basis.T @ modes.basis, np.eye(len(modes.basis)), atol=1e-14)
    assert np.all(np.diff(modes.variances) <= 0)


@every_spec
def test_target_is_the_modes_the_skip_and_the_unexplained(spec, moments):
    """E|y - B v - Q scores|^2 is `unexplained`: nothing else is left."""
    modes = mode_decomposition(spec, moments)
    rest = -modes.skip - modes.basis @ modes.readout
    rest[:, moments.condition_dim :] += np.eye(moments.target_dim)
    left = np.trace(rest @ moments.covariance @ rest.T)
    assert left == pytest.approx(modes.unexplained, abs=1e-12)


@pytest.mark.parametrize("order", [None, 0, 1, 3])
def test_autoregression_is_the_best_prediction_from_what_is_seen(order):
    spec = ARVAESpec(1, order=order)
    A, errors = autoregression(spec, PLAIN)
    residual = np.eye(5) - A
    np.testing.assert_allclose(errors, residual @ PLAIN.covariance @ residual.T, atol=1e-12)
    cross = residual @ PLAIN.covariance  # the error is uncorrelated with what is seen
    for t, columns in enumerate(spec.seen(5)):
        assert np.abs(cross[t, list(columns)]).max(initial=0.0) < 1e-12


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_has_that_many_modes(rank):
    factor = np.random.default_rng(rank).normal(size=(40, rank))
    modes = mode_decomposition(VAESpec(2), Moments.from_covariance(factor @ factor.T))
    assert np.count_nonzero(modes.variances) == rank


@every_spec
def test_rates_and_information_of_the_modes_add_up(spec, moments):
    if isinstance(spec, ARVAESpec):
        spec = ARVAESpec(5, order=None if spec.order is None else 0)  # known optima
    solution = solve(spec.scale_betas(0.1), moments)
    assert solution.rates.sum() > 0
    np.testing.assert_allclose(solution.mode_rates.sum(axis=1), solution.rates, rtol=1e-12)
    np.testing.assert_allclose(
        solution.information, -np.log(solution.noise_fractions) / 2, rtol=1e-12
    )


@every_spec
def test_the_largest_entry_of_every_mode_is_positive(spec, moments):
    basis = mode_decomposition(spec, moments).basis
    assert np.all(basis.max(axis=0) >= -basis.min(axis=0))


@every_spec
@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_units_of_the_data_change_no_mode(spec, moments, unit):
    """The last target is the sum of two others: one mode less, in any unit."""
    dx, d = moments.condition_dim, moments.target_dim
    T = np.eye(dx + d)
    T[-1] = T[-2] + T[-3]
    scale = np.r_[np.ones(dx), np.full(d, unit**0.5)]
    C = T @ moments.covariance @ T.T
    expected = mode_decomposition(spec, Moments.from_covariance(C, condition_dim=dx)).variances
    scaled = Moments.from_covariance(C * np.outer(scale, scale), condition_dim=dx)
    found = mode_decomposition(spec, scaled).variances
    assert found[-1] == expected[-1] == 0 < expected[-2]
    np.testing.assert_allclose(found, unit * expected, rtol=1e-9)
    if isinstance(spec, ARVAESpec):  # a ratio of variances; the ridge is 1e-12 of the largest
        A, before = (autoregression(spec, m)[0] for m in (scaled, Moments.from_covariance(C)))
        np.testing.assert_allclose(A, before, atol=1e-9)


def test_what_a_condition_explains_of_a_large_coordinate_is_no_mode_beside_a_small_one():
    """Var(y|x) of the first is rounding, though not beside the variance of the second."""
    x, a = 0.3, 1e4 / 7
    joint = np.array([[x, a * x, 0.0], [a * x, a * a * x, 0.0], [0.0, 0.0, 1e-4]])
    moments = Moments.from_covariance(joint, condition_dim=1)
    assert moments.residual_covariance[0, 0] > 1e-7 * 1e-4
    found = mode_decomposition(CVAESpec(2), moments).variances
    assert found.tolist() == [pytest.approx(1e-4, rel=1e-9), 0.0]


def test_what_the_past_says_of_a_large_coordinate_is_no_mode_beside_a_small_one():
    """Its innovation is rounding, of the large one."""
    x = np.random.default_rng(2).normal(size=(200, 3)) * [1e3, 1e-3, 1e3]
    x[:, 2] = x[:, 0]
    spec = ARVAESpec(1)
    assert autoregression(spec, Moments.from_data(x))[1][2, 2] == 0


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_sum_of_what_is_seen_is_foretold_exactly(size):
    """The ridge of a singular covariance, 1e-12 of its largest variance, is not seen."""
    T = np.vstack([np.eye(3), [1.0, -2.0, 0.5]]) * size
    C = T @ random_covariance(np.random.default_rng(3), 3) @ T.T
    A, errors = autoregression(ARVAESpec(1), Moments.from_covariance(C))
    np.testing.assert_allclose(A[3, :3], [1.0, -2.0, 0.5], atol=1e-9)
    np.testing.assert_allclose((np.eye(4) - A) @ C @ (np.eye(4) - A).T, errors, atol=1e-9 * size**2)


@pytest.mark.parametrize("seed", range(4))
def test_a_sum_of_large_coordinates_has_no_innovation_beside_a_small_one(seed):
    """Its rounding, 1e-16 of the large ones, may be a thousandth of the small one."""
    x = np.random.default_rng(seed).normal(size=(200, 4)) * [1e3, 1e-3, 1e3, 1.0]
    x[:, 3] = x[:, 0] - 0.3 * x[:, 2]
    innovations = np.diag(autoregression(ARVAESpec(1), Moments.from_data(x))[1])
    assert np.flatnonzero(innovations).tolist() == [0, 1, 2]
