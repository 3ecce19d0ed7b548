"""The bound of the variance proxy: exact for two points, above every tilt elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from linvae.theory.bennett_bound import _chord_bounds, _norms_bound, variance_proxy_bound


def _bound(x: np.ndarray) -> float:
    x = x - x.mean(axis=0)
    return variance_proxy_bound(x, float(np.linalg.eigvalsh(x.T @ x / len(x))[-1]))


@pytest.mark.parametrize(("ones", "n"), [(1, 4_000_000), (1, 1000), (1, 3), (3, 10), (9, 10)])
def test_two_points_have_their_own_proxy(ones, n):
    """One of four million: the supremum is at a tilt below the grid, where the start bounds it."""
    p = ones / n
    proxy = (1 - 2 * p) / (2 * math.log((1 - p) / p))
    assert _bound(np.r_[np.ones(ones), np.zeros(n - ones)][:, None]) == pytest.approx(
        proxy, rel=1e-8
    )


@pytest.mark.parametrize("seed", range(10))
def test_chords_are_bounded_on_their_own_interval(seed):
    """Against 2 B(r)/r^2 on a fine grid, B piecewise linear and B/r rising."""
    rng = np.random.default_rng(seed)
    r = np.cumsum(rng.uniform(0.1, 1.0, 6))
    B = r * np.cumsum(rng.exponential(size=6))
    for found, low, high in zip(_chord_bounds(r, B), r[:-1], r[1:], strict=True):
        at = np.linspace(low, high, 2001)
        expected = np.max(2 * np.interp(at, r, B) / at**2)
        # half a step of the grid from a summit: at most (step/r)^2 of it, r > 10 steps of 0.1
        assert found == pytest.approx(expected, rel=1e-5)
        assert found >= expected * (1 - 1e-12)


ANGLES = 2 * np.pi * np.arange(3) / 3
EXACT = {
    "two-points": np.repeat([[0.7], [-0.3]], [3, 7], axis=0),
    "triangle": np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1),
}


@pytest.mark.parametrize("r", [0.1, 1.0, 6.0])
@pytest.mark.parametrize("x", EXACT.values(), ids=EXACT.keys())
def test_the_bound_by_all_norms_is_bennett_s_for_equal_norms_and_two_points(x, r):
    norms, largest = np.linalg.norm(x, axis=1), np.linalg.eigvalsh(x.T @ x / len(x))[-1]
    R = norms.max()
    p = largest / (largest + R**2)
    bennett = math.log((1 - p) * math.exp(-r * largest / R) + p * math.exp(r * R))
    assert _norms_bound(x, norms, r, largest / R) == pytest.approx(bennett, rel=1e-12)


def test_symmetric_points_have_no_gap():
    assert _bound(np.array([[-2.0], [2.0]])) == pytest.approx(4.0, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_no_tilt_exceeds_the_bound_and_bennett_s_is_not_below_it(seed):
    rng = np.random.default_rng(seed)
    x = rng.exponential(size=(int(rng.integers(5, 40)), 3)) @ rng.normal(size=(3, 3))
    x -= x.mean(axis=0)
    bound = _bound(x)
    t = rng.normal(size=(2000, 3)) * np.exp(rng.uniform(-3, 3, size=(2000, 1)))
    z = x @ t.T
    K = z.max(axis=0) + np.log(np.mean(np.exp(z - z.max(axis=0)), axis=0))
    assert np.max(2 * K / np.sum(t**2, axis=1)) <= bound
    largest, R2 = np.linalg.eigvalsh(x.T @ x / len(x))[-1], np.sum(x**2, axis=1).max()
    q = R2 / largest
    assert largest <= bound <= largest * (q - 1 / q) / (2 * math.log(q)) * (1 + 1e-12)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_the_bound_has_the_unit_of_a_variance(unit):
    x = np.random.default_rng(8).exponential(size=(60, 3)) ** 2
    assert _bound(unit * x) == pytest.approx(unit**2 * _bound(x), rel=1e-9)


@pytest.mark.parametrize("n", [50, 500])
def test_the_bound_of_a_uniform_law_is_near_its_proxy(n):
    """The proxy is the variance; by the largest norm alone the bound is 1.2 times that."""
    x = np.linspace(-1, 1, n)[:, None]
    variance = float(np.mean(x**2))
    assert variance <= _bound(x) < 1.05 * variance
