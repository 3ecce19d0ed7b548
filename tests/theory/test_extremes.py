"""How many digits are left: ill-conditioned data, close eigenvalues, far means, scales.

References are mpmath at 60 digits on the very doubles that are given, or exact constructions.
Errors of variances and thresholds are relative to the largest of them, the size that rounding has.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator

import mpmath
import numpy as np
import pytest
import torch

from linvae import CVAESpec, HVAESpec, Moments, VAESpec, objective, solve, stability
from linvae.moments import _block_sums
from linvae.spec import ARVAESpec
from linvae.theory.solution import rounding_of

CONDITIONS = [1e2, 1e4, 1e6, 1e8, 1e10, 1e12, 1e14]
ROUNDING = rounding_of(8)  # 1.8e-14: below that share of the largest a variance is exactly zero
# The collapsed point of a decoder that regresses: products of regression and covariance first.
REGRESSED = 20 * ROUNDING
S = 1e-3

# symmetric, orthogonal, and every entry a double
BASIS = np.eye(8) - np.full((8, 8), 0.25)


def covariance(values: np.ndarray) -> np.ndarray:
    C = (BASIS * values) @ BASIS
    return (C + C.T) / 2


def precise(M: mpmath.matrix) -> np.ndarray:
    """Eigenvalues of a symmetric matrix, descending."""
    return np.array(sorted(map(float, mpmath.eigsy(M, eigvals_only=True)), reverse=True))


def precise_modes(C: np.ndarray, kind: str) -> np.ndarray:
    """Variances of y, of its innovations, or of what 3 coordinates explain of it or leave."""
    with mpmath.workdps(60):
        M = mpmath.matrix(C.tolist())
        if kind == "innovations":
            minors = [mpmath.mpf(1), *(mpmath.det(M[:i, :i]) for i in range(1, 9))]
            ratios = (float(b / a) for a, b in itertools.pairwise(minors))
            return np.array(sorted(ratios, reverse=True))
        if kind == "plain":
            return precise(M)
        explained = M[:3, 3:8].T * M[:3, :3] ** -1 * M[:3, 3:8]
        return precise(M[3:8, 3:8] - explained if kind == "residual" else explained)


MODELS = {
    "plain": VAESpec(8, decoder_variance=S),
    "innovations": ARVAESpec(8, decoder_variance=S),
    "residual": CVAESpec(5, decoder_variance=S),
    "explained": VAESpec(5, decoder_variance=S),
}


@pytest.mark.parametrize("condition", CONDITIONS, ids="{:.0e}".format)
@pytest.mark.parametrize("kind", MODELS)
def test_variances_thresholds_and_objective_of_ill_conditioned_data(kind, condition):
    """Measured: variances 1e-14, local thresholds 1e-13, objective 5e-12, of weights 2e-11 nats."""
    C, spec = covariance(np.geomspace(1, 1 / condition, 8)), MODELS[kind]
    dx = 3 if kind in ("residual", "explained") else 0
    moments, expected = Moments.from_covariance(C, condition_dim=dx), precise_modes(C, kind)
    found = solve(spec, moments)
    assert found.mode_variances == pytest.approx(expected, abs=ROUNDING)
    assert S * found.critical_beta == pytest.approx(expected, abs=ROUNDING)
    local = S * stability(spec, moments).critical_beta
    local = np.pad(local, (0, len(expected) - len(local)))
    allowed = REGRESSED if kind in ("innovations", "residual") else ROUNDING
    assert local == pytest.approx(expected, abs=allowed)
    # the slope of the objective in a variance is 1/(2 s) at most, for every mode
    error = ROUNDING * len(expected) / (2 * S)
    if kind != "explained":  # without what the latents never reach
        d = len(expected)
        terms = np.minimum(expected / S, 1) + np.log(np.maximum(expected / S, 1))
        exact = d / 2 * math.log(2 * math.pi * S) + np.sum(terms) / 2
        assert found.objective == pytest.approx(exact, abs=error)
    assert objective(spec, moments, found.weights).objective == pytest.approx(
        found.objective, abs=error
    )


@pytest.mark.parametrize("condition", CONDITIONS, ids="{:.0e}".format)
def test_hierarchy_on_ill_conditioned_data(condition):
    """Equal learned betas: the upper level has no price of its own, the values are those of one."""
    moments = Moments.from_covariance(covariance(np.geomspace(1, 1 / condition, 8)))
    found = solve(spec := HVAESpec([8, 8], decoder_variance=S), moments)
    one = solve(MODELS["plain"], moments)
    assert found.objective == pytest.approx(one.objective, rel=1e-14)
    at = objective(spec, moments, found.weights).objective
    assert at == pytest.approx(found.objective, abs=ROUNDING * 8 / (2 * S))


@pytest.mark.parametrize("unit", [1.0, 1e4, 1e8], ids=str)
def test_units_of_the_condition_cost_no_digits(unit):
    """Deviations of 1e-8, 1 and 1e8: a condition number of 1e32 that is no ill-conditioning."""
    C = covariance(np.geomspace(1, 0.01, 8))
    units = np.append([1 / unit, 1, unit], np.ones(5))
    scaled = Moments.from_covariance(C * np.outer(units, units), condition_dim=3)
    expected = precise_modes(C, "residual")
    found = solve(MODELS["residual"], scaled).mode_variances
    assert found == pytest.approx(expected, abs=ROUNDING)


GAPS = pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-12, 1e-8], ids=str)
CLOSE = {
    "learned": VAESpec(3, decoder_variance=0.3),
    "fixed": VAESpec(8, decoder_variance=0.3, encoder_variance=0.4),
    "s": VAESpec(3, decoder_variance="learned"),
    "decay": VAESpec(8, decoder_variance=0.3, weight_decay=0.1),
    "loss": VAESpec(8, decoder_variance=0.3, latent_reconstruction=0.1),
    "hierarchy": HVAESpec([8, 3], decoder_variance=0.3, encoder_variances=[0.5, None]),
}


@GAPS
@pytest.mark.parametrize("spec", CLOSE.values(), ids=CLOSE.keys())
def test_eigenvalues_that_nearly_agree(spec, gap):
    """Any basis of a pair serves: value and weights keep all their digits. Measured 2e-15."""
    values = np.array([2, 2 * (1 - gap), 1 + gap, 1, 0.5, 0.5, 0.5 * (1 - gap), 0.1])
    moments = Moments.from_covariance(covariance(values))
    found = solve(spec, moments)
    assert found.mode_variances == pytest.approx(values, abs=ROUNDING)
    apart = solve(spec, Moments.from_covariance(np.diag(values)))
    assert found.objective == pytest.approx(apart.objective, abs=1e-13)
    assert objective(spec, moments, found.weights).objective == pytest.approx(
        found.objective, abs=1e-13
    )


@GAPS
def test_order_of_equal_modes_is_no_matter_at_their_threshold(gap):
    """Half way between two thresholds one of the two is active; within 1e-12 they are one."""
    values = np.array([4.0, 2.0, 2.0 * (1 - gap), 1, 0.5, 0.25, 0.125, 0.0625])
    spec = VAESpec(8, decoder_variance=0.5, beta=4 * (1 - gap / 2))
    active = solve(spec, Moments.from_covariance(covariance(values))).active_units[0]
    assert active == (2 if gap == 1e-8 else 1)


# --- few samples and few dimensions ---------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("dims", [1, 2, 9])
def test_few_samples_have_n_minus_one_modes(n, dims):
    """Against the singular values of the centred data; d = 1 is the variance itself."""
    y = np.random.default_rng([n, dims]).normal(size=(n, dims)) + 1e3
    found = solve(VAESpec(dims, decoder_variance=1e-6), Moments.from_data(y)).mode_variances
    rank = min(n - 1, dims)
    assert np.count_nonzero(found) == rank
    expected = np.linalg.svd(y - y.mean(axis=0), compute_uv=False)[:rank] ** 2 / n
    # the data are rounded to 1e-13 of the spread, both sides see the same; means to 1e-13 again
    assert found[:rank] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("make", ["numpy", "torch", "batches", "dask"])
def test_one_sample_is_refused(make, dims):
    with pytest.raises(ValueError, match="target has 1 samples but moments need at least 2"):
        ENTRIES[make](np.ones((1, dims), dtype=np.float32))


# --- float32 with a far mean ----------------------------------------------------------------------


def of_dask(rows: np.ndarray) -> Moments:
    dask = pytest.importorskip("dask.array", reason="pip install linvae[cluster]")
    return Moments.from_data(dask.from_array(rows, chunks=(70, rows.shape[1])))


def of_batches(size: int):
    return lambda rows: Moments.from_batches(
        rows[at : at + size] for at in range(0, len(rows), size)
    )


def merged(seed: int):
    """Ten parts, added in a random order."""

    def of(rows: np.ndarray) -> Moments:
        parts = [_block_sums(part, 0) for part in np.array_split(rows, 10)]
        order = np.random.default_rng(seed).permutation(10)
        return functools.reduce(operator.add, (parts[i] for i in order)).moments(centered=True)

    return of


ENTRIES = {
    "numpy": Moments.from_data,
    "torch": lambda rows: Moments.from_data(torch.from_numpy(rows)),
    "dask": of_dask,
    "batches": of_batches(1),
    "batches-7": of_batches(7),
    "batches-1000": of_batches(1000),
    "merged-0": merged(0),
    "merged-1": merged(1),
    "merged-2": merged(2),
}


def far(ratio: float) -> np.ndarray:
    """(3000, 4) in float32, means of `ratio` times the spread, which float32 still tells."""
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(3000, 4)) @ rng.normal(size=(4, 4))
    return (spread + ratio * np.array([1, -1, 0.5, 2])).astype(np.float32)


def two_passes(rows: np.ndarray) -> np.ndarray:
    """About the mean, in long doubles where the machine has them."""
    centred = rows.astype(np.longdouble) - rows.astype(np.longdouble).mean(axis=0)
    return (centred.T @ centred / len(rows)).astype(np.float64)


@pytest.mark.parametrize("ratio", [0.0, 1e3, 1e6], ids="{:.0e}".format)
@pytest.mark.parametrize("entry", ENTRIES)
def test_far_mean_of_float32_costs_no_digits(entry, ratio):
    """1e-9 of the largest entry is asked; measured 7e-15 at most, the two-pass float64 6e-15."""
    rows = far(ratio)
    expected = two_passes(rows)
    error = np.abs(ENTRIES[entry](rows).covariance - expected).max() / np.abs(expected).max()
    assert error < 1e-13


def test_sum_of_squares_would_have_lost_them():
    """The control: raw second moments in float64 miss by 2e-3, so the test above can fail."""
    rows = far(1e6).astype(np.float64)
    raw = rows.T @ rows / len(rows) - np.outer(rows.mean(axis=0), rows.mean(axis=0))
    expected = two_passes(rows)
    assert np.abs(raw - expected).max() / np.abs(expected).max() > 1e-4


# --- scales ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-150, 1e-100, 1e100, 1e150], ids="{:.0e}".format)
def test_samples_of_any_scale(scale):
    """Entries of 1e-150 to 1e150, variances of 1e-300 to 1e300, and s with them."""
    y = np.random.default_rng(0).exponential(size=(50, 3))
    moments, plain = Moments.from_data(scale * y), Moments.from_data(y)
    assert moments.covariance / scale / scale == pytest.approx(plain.covariance, rel=1e-14)
    spec, larger = VAESpec(3), VAESpec(3, decoder_variance=scale**2)
    found, expected = solve(larger, moments), solve(spec, plain)
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-13)
    shift = 3 * math.log(scale)
    assert found.objective - shift == pytest.approx(expected.objective, abs=1e-12)
    at = objective(larger, moments, found.weights).objective
    assert at - shift == pytest.approx(expected.objective, abs=1e-12)
    local = stability(larger, moments)
    assert local.critical_beta == pytest.approx(expected.critical_beta, rel=1e-13)
    assert np.all(np.isfinite(local.escape_rates))
