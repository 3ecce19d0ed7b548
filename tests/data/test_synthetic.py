"""Gaussian data: the sample moments are the ones that were asked for."""

import numpy as np
import pytest

from linvae.data import gaussian

SPECTRUM = np.array([2.0, 1.0, 0.5, 0.0])
# Each value is stored as float32 (relative rounding 6e-8); sums of n products of such values
# keep that relative size, and 20 times it covers eigenvalues close to 0 beside ones near 2.
ROUNDING = 20 * 6e-8


def moments(dataset):
    """Mean and 1/n covariance of (target, condition) in float64."""
    parts = [dataset.target] if dataset.condition is None else [dataset.target, dataset.condition]
    joint = np.concatenate(parts, axis=1).astype(np.float64)
    return joint.mean(axis=0), np.cov(joint.T, bias=True)


def test_exact_spectrum():
    mean, covariance = moments(gaussian(SPECTRUM, 40, seed=0))
    np.testing.assert_allclose(mean, 0, atol=ROUNDING)
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance)[::-1], SPECTRUM, atol=2 * ROUNDING)


def test_denominator_is_n():
    """With 1/(n-1) the largest eigenvalue would be 2 * 40/39, 5 % above."""
    _, covariance = moments(gaussian(SPECTRUM, 40, seed=0))
    assert np.linalg.eigvalsh(covariance)[-1] == pytest.approx(2.0, abs=2 * ROUNDING)


@pytest.mark.parametrize(
    "correlation", [0.6, [0.9, 0.0, -0.5, 0.3], 1.0], ids=["scalar", "per mode", "complete"]
)
def test_exact_conditional_spectrum(correlation):
    dataset = gaussian(SPECTRUM, 60, correlation=correlation, seed=1)
    _, covariance = moments(dataset)
    yy, yx, xx = covariance[:4, :4], covariance[:4, 4:], covariance[4:, 4:]
    np.testing.assert_allclose(xx, np.eye(4), atol=2 * ROUNDING)
    residual = np.linalg.eigvalsh(yy - yx @ np.linalg.solve(xx, yx.T))
    expected = np.sort(SPECTRUM * (1 - np.broadcast_to(correlation, 4) ** 2))
    np.testing.assert_allclose(residual, expected, atol=4 * ROUNDING)


def test_component_i_of_the_condition_correlates_with_mode_i():
    rho = np.array([0.9, 0.0, -0.5, 0.0])
    dataset = gaussian([4.0, 3.0, 2.0, 1.0], 60, correlation=rho, seed=2)
    _, covariance = moments(dataset)
    modes = np.linalg.eigh(covariance[:4, :4])[1][:, ::-1]  # columns by descending eigenvalue
    cross = modes.T @ covariance[:4, 4:]
    expected = np.diag(np.abs(rho) * np.sqrt([4.0, 3.0, 2.0, 1.0]))
    # Eigenvectors have no sign, and rotate by the rounding over the gap of 1 between eigenvalues.
    np.testing.assert_allclose(np.abs(cross), expected, atol=8 * ROUNDING)


def test_no_correlation_means_no_condition():
    assert gaussian(SPECTRUM, 40, seed=0).condition is None


def test_useless_condition_when_asked_for():
    dataset = gaussian(SPECTRUM, 40, condition_dim=2, seed=0)
    _, covariance = moments(dataset)
    assert dataset.condition_dim == 2
    np.testing.assert_allclose(covariance[:4, 4:], 0, atol=2 * ROUNDING)


@pytest.mark.parametrize(("condition_dim", "correlated"), [(2, 2), (6, 4)], ids=["short", "long"])
def test_condition_dim_differs_from_target_dim(condition_dim, correlated):
    dataset = gaussian(
        [4.0, 3.0, 2.0, 1.0], 60, correlation=0.5, condition_dim=condition_dim, seed=0
    )
    _, covariance = moments(dataset)
    squared = np.linalg.svd(covariance[:4, 4:], compute_uv=False) ** 2
    expected = [1.0, 0.75, 0.5, 0.25][:correlated]  # rho^2 lambda_i
    np.testing.assert_allclose(squared[:correlated], expected, atol=8 * ROUNDING)
    np.testing.assert_allclose(squared[correlated:], 0, atol=ROUNDING)


def test_independent_samples_scatter_as_theory_says():
    """exact=False: variance of one mode within 6 standard errors, sqrt(2/n) relative, not on it."""
    n = 4000
    error = gaussian([1.0], n, seed=5, exact=False).target.astype(np.float64).var() - 1.0
    assert 1e-6 < abs(error) < 6 * np.sqrt(2 / n)


def test_seed_decides_everything():
    first, again, other = (gaussian(SPECTRUM, 40, seed=seed) for seed in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256


REFUSED = {
    "empty": ([], {}, r"spectrum has shape \(0,\)"),
    "matrix": (np.eye(2), {}, r"spectrum has shape \(2, 2\) and must be \(d,\)"),
    "negative": ([1.0, -0.5], {}, "spectrum holds -0.5; .* >= 0"),
    "nan": ([1.0, np.nan], {}, "spectrum holds nan"),
    "zeros": ([0.0, 0.0], {}, "spectrum holds only zeros"),
    "rho > 1": (SPECTRUM, {"correlation": 1.5}, "correlation=1.5 must lie between -1 and 1"),
    "rho nan": (SPECTRUM, {"correlation": np.nan}, "must lie between -1 and 1"),
    "rho shape": (SPECTRUM, {"correlation": [0.1, 0.2]}, r"shape \(2,\) .* shape \(4,\)"),
    "negative dim": (SPECTRUM, {"condition_dim": -1}, "condition_dim=-1 must be >= 0"),
    "no component": (
        SPECTRUM,
        {"correlation": [0, 0, 0.5, 0], "condition_dim": 2},
        "condition_dim=2 leaves modes with a correlation",
    ),
    "no condition": (SPECTRUM, {"correlation": 0.5, "condition_dim": 0}, "condition_dim=0 leaves"),
}


@pytest.mark.parametrize(("spectrum", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(spectrum, options, message):
    with pytest.raises(ValueError, match=message):
        gaussian(spectrum, 40, seed=0, **options)


@pytest.mark.parametrize(
    ("n", "options"), [(4, {}), (8, {"correlation": 0.5})], ids=["target", "both"]
)
def test_exact_needs_more_samples_than_dimensions(n, options):
    with pytest.raises(ValueError, match=f"n_samples={n} must be at least {n + 1} .* exact=False"):
        gaussian(SPECTRUM, n, seed=0, **options)
    assert gaussian(SPECTRUM, n + 1, seed=0, **options).n_samples == n + 1
