"""Samples of a spiked covariance, and their spectra."""

from __future__ import annotations

import numpy as np

from linvae.moments import Moments

ASPECTS = [0.2, 0.5, 1.0, 2.0, 4.0]
STANDARD_ERRORS = 5.0  # 100 comparisons: a true formula fails once in 10,000 runs


def spiked_sample(rng, n: int, eigenvalues: np.ndarray) -> np.ndarray:
    """Uncentred sample covariance of independent coordinates with these variances."""
    x = rng.normal(size=(n, len(eigenvalues))) * np.sqrt(eigenvalues)
    return x.T @ x / n


def descending(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(covariance)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def along(sample: Moments, population: Moments) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = descending(sample.covariance)
    return values, np.sum(vectors * (population.covariance @ vectors), axis=0)
