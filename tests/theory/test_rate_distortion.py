"""Reverse water-filling against the solver, a convex program, and its own inverse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from linvae import Moments, VAESpec, objective, solve
from linvae.theory.rate_distortion import (
    rate_distortion_curve,
    water_level,
    water_level_of_error,
)

SPECTRUM = np.array([3.0, 1.2, 1.2, 0.4, 0.05])


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_curve_is_what_the_vae_traces_out(latent_dim):
    moments = Moments.from_covariance(np.diag(SPECTRUM))
    s = 0.3
    for beta in (0.05, 0.5, 2.0, 4.0, 9.9, 20.0):
        spec = VAESpec(latent_dim, beta=beta, decoder_variance=s)
        solution = solve(spec, moments)
        curve = rate_distortion_curve(SPECTRUM, beta * s, latent_dim=latent_dim)
        terms = objective(spec, moments, solution.weights)
        error = 2 * s * (terms.distortion - 5 / 2 * np.log(2 * np.pi * s))
        assert curve.rates[0] == pytest.approx(solution.rates[0], rel=1e-12, abs=1e-14)
        assert curve.squared_errors[0] == pytest.approx(error, rel=1e-12)
        assert solution.squared_error == pytest.approx(error, rel=1e-12)
        assert curve.active_modes[0] == solution.active_units[0]


@pytest.mark.parametrize("number", range(100))
def test_curve_is_the_optimal_allocation(number):
    """Least error at the same rate, by brute force over how the rate is split."""
    rng = np.random.default_rng(number)
    theta2 = np.exp(rng.uniform(-2, 1, size=3))
    w = float(np.exp(rng.uniform(-2.5, 0.5)))
    curve = rate_distortion_curve(theta2, w)
    total = float(curve.rates[0])

    def error(split: np.ndarray) -> float:
        share = np.exp(split - split.max())
        return float(np.sum(theta2 * np.exp(-2 * total * share / share.sum())))

    best = min(
        minimize(
            error,
            rng.normal(size=3),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000},
        ).fun
        for _ in range(3)
    )
    # the boundary (a share of exactly 0) is reached as a limit of the softmax: 1e-6
    assert curve.squared_errors[0] == pytest.approx(best, rel=1e-6)
    assert curve.squared_errors[0] <= best * (1 + 1e-12)


def test_slope_of_the_frontier_is_minus_twice_the_water_level():
    w = np.array([0.3, 0.3 * (1 + 1e-6)])
    curve = rate_distortion_curve(SPECTRUM, w)
    slope = np.diff(curve.squared_errors) / np.diff(curve.rates)
    assert slope == pytest.approx([-2 * 0.3], rel=1e-5)  # difference quotient: 1e-6 relative


@pytest.mark.parametrize("w", [1e-4, 0.05, 0.4, 0.9, 1.2, 2.9])
def test_water_level_inverts_the_rate(w):
    rate = float(rate_distortion_curve(SPECTRUM, w).rates[0])
    assert water_level(SPECTRUM, rate_nats=rate) == pytest.approx(w, rel=1e-12)


def test_no_rate_needs_the_largest_variance():
    assert water_level(SPECTRUM, rate_nats=0.0) == pytest.approx(3.0)
    assert water_level([2.0, 0.0], rate_nats=np.log(2) / 2) == pytest.approx(1.0)


@pytest.mark.parametrize("latent_dim", [None, 4, 2])
@pytest.mark.parametrize("w", [1e-7, 1e-4, 0.05, 0.4, 0.9, 1.2, 2.9, 3.0])
def test_water_level_inverts_the_error(w, latent_dim):
    error = float(rate_distortion_curve(SPECTRUM, w, latent_dim=latent_dim).squared_errors[0])
    found = water_level_of_error(
        SPECTRUM, squared_error=error + 0.7, latent_dim=latent_dim, unexplained=0.7
    )
    # the error is about 6: its rounding, 1e-15, is shared by at least one mode above water
    assert found == pytest.approx(w, rel=1e-12, abs=5e-15)
    all_told = water_level_of_error(SPECTRUM, squared_error=error, latent_dim=latent_dim)
    assert all_told == pytest.approx(w, rel=1e-12, abs=5e-15)


def test_rows():
    rows = rate_distortion_curve(SPECTRUM, [0.1, 1.0]).to_rows()
    assert [row["active_modes"] for row in rows] == [4, 3]
    assert set(rows[0]) == {"water_level", "rate_nats", "squared_error", "active_modes"}


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="water_levels=0 must be finite and > 0"):
        rate_distortion_curve(SPECTRUM, 0)
    with pytest.raises(ValueError, match="mode_variances must be finite, >= 0 and not all zero"):
        rate_distortion_curve([0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="rate_nats=-1 must be finite and >= 0"):
        water_level(SPECTRUM, rate_nats=-1)
    with pytest.raises(ValueError, match="latent_dim=0 must be >= 1"):
        rate_distortion_curve(SPECTRUM, 1.0, latent_dim=0)
