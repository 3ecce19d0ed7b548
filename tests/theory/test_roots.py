"""Root finding on arrays, against roots that are known."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.theory.roots import bisect, false_position


def test_bisection_ends_at_neighbouring_doubles():
    edges = np.array([0.1, 1.0, np.pi, 29.7])
    found = bisect(lambda x: x >= edges, np.full(4, -3.0), np.full(4, 64.0))
    np.testing.assert_array_equal(found, edges)


def test_bisection_without_a_turn_ends_high():
    assert bisect(lambda x: x > 5, np.zeros(1), np.ones(1)).tolist() == [1.0]


def test_false_position_finds_every_root_of_its_own():
    powers = np.array([1.0, 3.0, 9.0])
    found = false_position(lambda x: 1 - x**powers, np.full(3, 0.2), np.full(3, 4.0), 1e-9)
    np.testing.assert_allclose(found, 1.0, rtol=1e-8)
    cosine = false_position(np.cos, np.zeros(1), np.full(1, 3.0), 1e-9)
    assert cosine[0] == pytest.approx(np.pi / 2, rel=1e-9)
