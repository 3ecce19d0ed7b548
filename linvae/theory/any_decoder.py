"""What a code can be worth with the best of all decoders: two bounds from its encoder alone.

Of a code z ~ q(z|y_i) of samples y_1 ... y_n no decoder has a smaller squared error than the mean
of the samples that z may stand for,

    g(z) = sum_i w_i y_i,    w_i = q(z|y_i) / sum_l q(z|y_l),

on these samples; so the objective with g is a **lower bound** for every decoder, trained or not.
Where it is above the linear optimum's on the same samples, no decoder makes this code pay.

Left out of its own mean (w_i = 0 where z came from y_i), the same g is a decoder that has not seen
the sample, and can be had: where **its** objective is below the linear optimum's, the code pays.
In between - few samples in the reach of a code of many nats, which g tells apart by heart and which
the rest says nothing of - only the decoder itself can tell.

| symbol     | argument       | shape  | unit           |
|------------|----------------|--------|----------------|
| y          | target         | (n, d) | data units     |
| mu, sigma^2| mean, variance | (n, k) | latent units   |
| eps        | noise          | (n, k) | -              |
| -          | returned       | (n,), (n,) | data units^2 |

Source: ours; g is the regression of the Nadaraya-Watson form with the encoder's own kernel.
Equality that a test checks: both errors of a collapsed code, by hand, and of a code of two
far clusters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

__all__ = ["best_decoder_errors"]

Array = npt.NDArray[np.float64]


def best_decoder_errors(
    target: Array, mean: Array, variance: Array, noise: Array
) -> tuple[Array, Array]:
    """|y - g(z)|^2 of every sample at z = mean + sigma noise, with itself in g and left out of it.

    Takes n^2 doubles. Equality that a test checks: see the module.
    """
    y, z = target - target.mean(axis=0), mean + np.sqrt(variance) * noise
    precision = 1 / variance
    constant = np.sum(mean**2 * precision + np.log(variance), axis=1)
    exponent = z @ (mean * precision).T - (z**2 @ precision.T + constant) / 2
    errors = []
    for own in (True, False):
        if not own:
            np.fill_diagonal(exponent, -np.inf)
        errors.append(np.sum((y - softmax(exponent, axis=1) @ y) ** 2, axis=1))
    return errors[0], errors[1]
