"""Clusters against what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.data import gaussian_mixture


def test_clusters_have_their_size_variance_and_centres():
    """4000 coordinates each: the standard error of a variance is sigma^2 sqrt(2/4000)."""
    data = gaussian_mixture(16_000, components=8, side=16.0, variance=0.25, seed=3)
    other = gaussian_mixture(80, components=8, side=16.0, variance=1e-12, seed=3)
    assert np.bincount(data.labels).tolist() == [2000] * 8
    for label in range(8):
        own = data.target[data.labels == label].astype(float)
        centre = other.target[other.labels == label].mean(0)
        assert np.abs(centre).max() <= 8
        np.testing.assert_allclose(own.mean(0), centre, atol=5 * 0.5 / 2000**0.5)
        assert own.var(0).mean() == pytest.approx(0.25, rel=5 * (2 / 4000) ** 0.5)


def test_samples_and_clusters_are_not_in_step():
    """A batch in order holds every cluster, not as many of each."""
    labels = gaussian_mixture(800, seed=1).labels
    assert 2 < np.bincount(labels[:80], minlength=8).std() < 9  # binomial: sqrt(80 * 7/64) = 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 0.0}, "side=0.0 must be a finite number > 0 in gaussian_mixture"),
        ({"variance": float("inf")}, "variance=inf must be a finite number > 0"),
        ({"components": 1}, "components=1 must be >= 2, n_samples=9 >= components"),
        ({"components": 10}, "components=10 must be >= 2, n_samples=9 >= components"),
    ],
)
def test_what_is_no_mixture_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gaussian_mixture(9, **options)
