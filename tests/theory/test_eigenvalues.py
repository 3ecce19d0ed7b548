"""The largest eigenvalues, where many are equal too."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.theory.eigenvalues import largest_eigenvalues

from .problems import random_covariance


def _turned(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    Q = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return Q @ np.diag(values) @ Q.T


@pytest.mark.parametrize("count", [1, 2])
def test_equal_eigenvalues_are_all_found(count):
    """Asked for some, LAPACK finds none in a few of these matrices, which depends on its build."""
    rng = np.random.default_rng(count)
    for _ in range(1000):
        values = np.full(int(rng.integers(2, 8)), 2.0)
        values[0] = rng.choice([1.0, 2.0])
        A = _turned(rng, values)
        found, vectors = largest_eigenvalues(A, count)
        expected = np.sort(values)[-count:]
        # eps of the norm, some 10 roundings of 7 terms
        np.testing.assert_allclose(found, expected, rtol=1e-13)
        np.testing.assert_allclose(A @ vectors, vectors * expected, atol=1e-13)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-13)


@pytest.mark.parametrize("seed", range(10))
def test_they_are_the_largest_of_all(seed):
    A = random_covariance(np.random.default_rng(seed), 6)
    for count in range(1, 7):
        found = largest_eigenvalues(A, count)[0]
        np.testing.assert_allclose(found, np.linalg.eigvalsh(A)[-count:], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_what_lapack_leaves_out_is_computed(count, monkeypatch):
    none = lambda A, subset_by_index: (np.empty(0), np.empty((len(A), 0)))  # noqa: E731
    monkeypatch.setattr("linvae.theory.eigenvalues.eigh", none)
    A = random_covariance(np.random.default_rng(3), 4)
    found, vectors = largest_eigenvalues(A, count)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(A)[-count:], rtol=1e-12)
    np.testing.assert_allclose(A @ vectors, vectors * found, atol=1e-12)
