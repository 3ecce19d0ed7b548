"""Clusters in the plane or above: data whose information is known and whose spectrum is wide.

    y = c_K + sigma e,   K uniform on 1 ... m,   c_j uniform in a cube of side a, e standard normal

A VAE whose beta s lies between sigma^2 and the spread of the centres has log m nats to say; one
that codes a curve through the centres says which of them, and hardly where in it.

| symbol  | argument   | meaning                                 | shape | unit         |
|---------|------------|-----------------------------------------|-------|--------------|
| m       | components | number of clusters                      | -     | -            |
| a       | side       | of the cube, centred at 0               | -     | data units   |
| sigma^2 | variance   | of a cluster, per coordinate            | -     | data units^2 |
| n       | n_samples  | as many of every cluster, or one more   | -     | -            |

Source: the two-dimensional study of Song, Kim, Lee 2025 has 8 clusters over a range of 16 with a
standard deviation of 0.1; where their centres lie could not be read, ours come from the seed.
"""

from __future__ import annotations

import math

import numpy as np

from .dataset import Dataset

__all__ = ["gaussian_mixture"]


def gaussian_mixture(
    n_samples: int,
    *,
    components: int = 8,
    side: float = 16.0,
    variance: float = 0.01,
    dim: int = 2,
    seed: int = 0,
) -> Dataset:
    """Draw the clusters, labelled by their number; centres depend on `seed` alone.

    Raises ValueError for fewer than 2 components or samples than components, and for a side or a
    variance that is not finite and positive. Equality that a test checks: covariance within a
    cluster `variance` times the identity.
    """
    for name, value in (("side", side), ("variance", variance)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r} must be a finite number > 0 in gaussian_mixture")
    if components < 2 or n_samples < components or dim < 1:
        raise ValueError(
            f"components={components} must be >= 2, n_samples={n_samples} >= components and "
            f"dim={dim} >= 1 in gaussian_mixture"
        )
    centres = (np.random.default_rng([seed, 0]).random((components, dim)) - 0.5) * side
    rng = np.random.default_rng([seed, 1])
    labels = rng.permutation(np.arange(n_samples) % components)
    target = centres[labels] + math.sqrt(variance) * rng.standard_normal((n_samples, dim))
    step = {
        "step": "gaussian mixture", "components": components, "side": side, "variance": variance,
        "dim": dim, "seed": seed,
    }  # fmt: skip
    return Dataset(
        name="gaussian-mixture",
        target=target.astype(np.float32),
        labels=labels,
        preprocessing=(step,),
        note="synthetic, independent samples of clusters of equal weight",
    )
