"""Gaussian encoders: exact cases, another quadrature, another optimiser, the upper bound."""

from __future__ import annotations

import math

import numpy as np
import pytest

from linvae.theory.gaussian_encoder import (
    _held_out,
    alive_branch,
    gaussian_encoder_threshold,
    held_out_shift,
)
from linvae.theory.universal import universal_threshold


def gaussian_nodes(order: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of N(0, 1); what weighs below 1e-12 is left out."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    keep = weights > 1e-12 * weights.sum()
    return nodes[keep], weights[keep] / weights[keep].sum()


def rare_event(p: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """0 or 1 with probability p, and Gaussian noise: nodes and weights."""
    z, w = gaussian_nodes(14)
    z = math.sqrt(noise) * z
    return np.concatenate([z, 1 + z]), np.concatenate([(1 - p) * w, p * w])


def skewed(seed: int, n: int = 30, d: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = rng.exponential(size=(n, d)) ** rng.uniform(0.3, 1.3)
    return y @ rng.normal(size=(d, d)) + rng.normal(size=d)


def exchange_ratio(y: np.ndarray, w: np.ndarray, mean: np.ndarray, v: np.ndarray) -> float:
    """V/(2 R) from the definition, s = 1, with Gauss-Legendre nodes over z."""
    z, step = np.polynomial.legendre.leggauss(240)
    z, step = 12 * z, 12 * step
    y = y - w @ y
    density = np.exp(-((z[:, None] - mean) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    joint = density * w
    output = joint @ y / joint.sum(axis=1)[:, None]
    saved = step @ (joint.sum(axis=1) * np.sum(output**2, axis=1))
    return float(saved / (w @ (mean**2 + v - 1 - np.log(v))))


# --- exact special cases -------------------------------------------------------------------------


def test_gaussian_data_have_no_gap():
    z, w = gaussian_nodes()
    found = gaussian_encoder_threshold(3 * z, decoder_variance=0.5, weights=w)
    assert found.linear_critical_beta == pytest.approx(18, rel=1e-10)  # nodes left out
    assert found.critical_beta == found.linear_critical_beta
    assert (found.information, found.shift) == (0, 0)
    assert np.array_equal(found.encoder_variances, np.ones(len(z)))
    assert found.outputs == pytest.approx(np.zeros_like(found.outputs), abs=1e-12)


def test_gaussian_data_follow_the_rate_distortion_function():
    """The optimum is linear: v = exp(-2 R), V = 1 - v.

    What is left of the ratio is of second order in what is left of betas.
    """
    z, w = gaussian_nodes()
    branch = alive_branch(z, [0.3, 0.02, 0.1], decoder_variance=0.5, weights=w)
    R = branch.information
    assert pytest.approx([0.02, 0.1, 0.3], rel=0.1) == R  # a spring of stiffness 10
    assert branch.betas == pytest.approx(2 * np.exp(-2 * R), rel=1e-5)
    assert branch.exchange_ratios == pytest.approx(-np.expm1(-2 * R) / R, rel=1e-6)
    assert branch.end_beta == branch.betas[0]


def test_weights_count_up_to_a_factor():
    y, w = skewed(0, n=12, d=1), np.random.default_rng(0).uniform(0.5, 2.0, 12)
    found, expected = (gaussian_encoder_threshold(y, weights=v) for v in (7 * w, w / w.sum()))
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-9)
    assert found.linear_critical_beta == pytest.approx(np.cov(y.T, ddof=0, aweights=w), rel=1e-12)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_units_of_the_data_change_nothing(unit):
    """A jump of small size, as the tests of the shift have it."""
    y = np.repeat([0.0, 1.0], [12, 8])
    expected = gaussian_encoder_threshold(y)
    found = gaussian_encoder_threshold(unit * y, decoder_variance=unit**2)
    assert expected.shift > 1e-3
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-9)
    far = gaussian_encoder_threshold(unit * (1 + 1e-7 * y), decoder_variance=unit**2)
    # nine of sixteen digits are lost to the mean
    assert far.critical_beta == pytest.approx(1e-14 * expected.critical_beta, rel=1e-6)
    with pytest.raises(ValueError, match="zero variance"):
        gaussian_encoder_threshold(np.full(7, 0.1 * unit))  # but for the rounding of its mean


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_symmetric_two_point_law_has_no_gap(noise):
    """Strictly sub-Gaussian: the bound for every architecture is the linear threshold."""
    y, w = rare_event(0.5, noise)
    found = gaussian_encoder_threshold(y, weights=w)
    assert found.critical_beta == found.linear_critical_beta == pytest.approx(0.25 + noise)


# --- other ways to the same number ---------------------------------------------------------------


@pytest.mark.parametrize("case", ["rare", "plane"])
def test_the_fields_are_a_model_with_that_ratio(case):
    y, w = rare_event(0.1, 0.01) if case == "rare" else (skewed(1), np.full(30, 1 / 30))
    found = gaussian_encoder_threshold(y, decoder_variance=0.4, weights=w)
    y = y.reshape(len(w), -1)
    mean, v = found.encoder_means, found.encoder_variances
    ratio = exchange_ratio(y, w, mean, v)
    assert found.information > 0.01
    assert found.critical_beta == pytest.approx(ratio / 0.4, rel=1e-6)  # beyond 9 sd
    assert found.information == pytest.approx(float(w @ (mean**2 + v - 1 - np.log(v))) / 2)
    density = w * np.exp(-((found.latents[:, None] - mean) ** 2) / (2 * v)) / np.sqrt(v)
    posterior_mean = density @ y / density.sum(axis=1)[:, None]
    middle = np.abs(found.latents) < 5
    assert found.outputs[middle] == pytest.approx(posterior_mean[middle], rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_encoder_is_better(seed):
    """Three points and 20,000 random encoders: six numbers each, so some come close."""
    rng = np.random.default_rng(seed)
    y, w = rng.normal(size=3), rng.dirichlet(np.full(3, 2.0))
    y = y - w @ y
    amplitude = rng.uniform(0, 1, size=(20_000, 1))
    mean = amplitude * rng.normal(size=(20_000, 3))
    log_v = np.clip(amplitude * rng.normal(size=(20_000, 3)), -2.5, 1.1)
    z = np.linspace(-9, 9, 61)[:, None, None]  # exact to 1e-5 at the smallest variance
    joint = w * np.exp(-((z - mean) ** 2) / (2 * np.exp(log_v)) - log_v / 2)
    total = np.sum(joint, axis=2)
    saved = np.sum((joint @ y) ** 2 / np.maximum(total, 1e-300), axis=0)
    saved *= 0.3 / math.sqrt(2 * math.pi)
    ratios = saved / ((mean**2 + np.expm1(log_v) - log_v) @ w)
    found = gaussian_encoder_threshold(y, weights=w).critical_beta
    assert 0.9 * found < ratios.max() <= found * (1 + 1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_it_lies_between_the_linear_and_the_universal_threshold(seed):
    y = skewed(seed, n=12, d=1 + seed % 3)
    found = gaussian_encoder_threshold(y)
    bound = universal_threshold(y)
    assert found.linear_critical_beta == pytest.approx(bound.linear_critical_beta, rel=1e-12)
    assert found.linear_critical_beta <= found.critical_beta
    assert found.critical_beta <= bound.critical_beta * (1 + 1e-8)


def test_more_directions_never_lose():
    y = skewed(3, n=60, d=3)
    y = (y - y.mean(axis=0)) @ np.linalg.svd(y - y.mean(axis=0))[2].T
    values = [gaussian_encoder_threshold(y[:, :k]).critical_beta for k in (1, 2, 3)]
    assert values[0] < values[1] < values[2]


# --- the alive branch ----------------------------------------------------------------------------


def test_the_branch_has_the_threshold_on_it_and_its_slope_for_beta():
    y, w = rare_event(0.1, 0.01)
    found = gaussian_encoder_threshold(y, weights=w)
    R = found.information * np.array([0.99, 1.0, 1.01])
    branch = alive_branch(y, R, weights=w)
    # at the largest ratio the beta of the branch is the ratio
    assert branch.exchange_ratios.max() == pytest.approx(found.critical_beta, rel=1e-5)
    assert branch.betas[1] == pytest.approx(found.critical_beta, rel=1e-3)
    saved = branch.information * branch.exchange_ratios
    slope = (saved[2] - saved[0]) / (branch.information[2] - branch.information[0])
    assert branch.betas[1] == pytest.approx(slope, rel=1e-4)  # central difference: 1 % squared


def test_alive_optima_survive_above_the_threshold():
    y, w = rare_event(0.1, 0.01)
    found = gaussian_encoder_threshold(y, weights=w)
    branch = alive_branch(y, [0.01, 0.015, 0.02], weights=w)
    assert branch.end_beta > 1.005 * found.critical_beta


# --- held out ------------------------------------------------------------------------------------


def test_both_halves_alike():
    """Two points: only the share of ones can differ, by 3 standard errors at most."""
    y = np.repeat([0.0, 1.0], [180, 20])
    shift, error = held_out_shift(y)
    assert abs(shift - gaussian_encoder_threshold(y).shift) < 3 * error
    assert 0 < error < 0.3


def test_the_standard_error_is_the_scatter():
    """12 samples; a standard deviation of 12 is good to 20 %, three of them 60 %."""
    rngs = [np.random.default_rng(i) for i in range(12)]
    draws = [(rng.random(200) < 0.25) + 0.1 * rng.normal(size=200) for rng in rngs]
    shifts, errors = np.array([held_out_shift(y) for y in draws]).T
    assert np.mean(errors) == pytest.approx(float(np.std(shifts)), rel=0.6)


def test_the_standard_error_is_that_of_leaving_samples_out():
    """The jackknife of 40 samples under one decoder, encoder found anew; terms of order 1/n."""
    rng = np.random.default_rng(2)
    y, rest = (((rng.random(n) < 0.25) + 0.1 * rng.normal(size=n))[:, None] for n in (120, 40))
    error = _held_out(y, rest)[1]
    without = [_held_out(y, np.delete(rest, i, axis=0))[0] for i in range(40)]
    assert error == pytest.approx(math.sqrt(39) * np.std(without), rel=0.1)


def test_each_half_is_seen_by_the_decoder_of_the_other_alone():
    y = skewed(1, n=40, d=1)
    order = np.random.default_rng(3).permutation(40)
    one, other = y[order[::2]], y[order[1::2]]
    (a, a_error), (b, b_error) = _held_out(one, other), _held_out(other, one)
    expected = (a + b) / 2 - 1, math.hypot(a_error, b_error) / 2
    assert held_out_shift(y, seed=3) == pytest.approx(expected, rel=1e-12)


def test_memorised_samples_do_not_pass():
    """One outlier is worth a code of its own, in one half alone."""
    y = np.random.default_rng(0).normal(size=(100, 20))
    y[0] *= 8
    shift, _ = held_out_shift(y)
    assert gaussian_encoder_threshold(y).shift > 0.3
    assert shift < 0


def test_no_gap_no_decoder():
    assert np.isnan(held_out_shift(np.repeat([-1.0, 1.0], 1)[[0, 1, 0, 1]], seed=0)).all()


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "arguments", "words"),
    [
        (np.zeros((3, 2, 2)), {}, r"shape \(3, 2, 2\)"),
        ([1.0], {}, "at least 2 samples"),
        ([1.0, np.nan], {}, "NaN or infinite"),
        ([2.0, 2.0], {}, "zero variance"),
        (np.outer(np.ones(6), [0.1, 0.0]), {}, "zero variance"),  # but for rounding of the mean
        ([1.0, 2.0], {"weights": [1.0, 0.0]}, "weights=0.0 must be finite and > 0"),
        ([1.0, 2.0], {"weights": [1.0]}, r"shape \(1,\) but target has 2 samples"),
        ([1.0, 2.0], {"decoder_variance": 0.0}, "decoder_variance=0.0 must be finite and > 0"),
    ],
)
def test_bad_arguments(target, arguments, words):
    with pytest.raises(ValueError, match=words):
        gaussian_encoder_threshold(target, **arguments)
    if "weights" not in arguments:
        with pytest.raises(ValueError, match=words):
            alive_branch(target, [0.1], **arguments)


def test_bad_information():
    with pytest.raises(
        ValueError, match=r"information=-1\.0 must be finite and > 0 in alive_branch"
    ):
        alive_branch([0.0, 1.0, 3.0], [0.1, -1.0])
