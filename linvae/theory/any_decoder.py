"""What a code can be worth with the best of all decoders: two bounds from its encoder alone.

Of a code z ~ q(z|y_i) of samples y_1 ... y_n no decoder has a smaller squared error than the mean
of the samples that z may stand for,

    g(z) = sum_i w_i y_i,    w_i = q(z|y_i) / sum_l q(z|y_l),

on these samples; so the objective with g is a **lower bound** for every decoder, trained or not.
Where it is above the linear optimum's on the same samples, no decoder makes this code pay.

Left out of its own mean (w_i = 0 where z came from y_i, or from a copy of it), the same g is a
decoder that has not seen the sample. Its error is the larger one at every draw, since without
copies y_i - g = (1 - w_i)(y_i - g left out); so where **its** objective is below the linear
optimum's, the code pays, on these samples and on others of their kind. In between - few samples in
the reach of a code of many nats, which g tells apart by heart and which the rest says nothing of -
only the decoder itself can tell.

| symbol     | argument       | shape  | unit           |
|------------|----------------|--------|----------------|
| y          | target         | (n, d) | data units     |
| mu, sigma^2| mean, variance | (n, k) | latent units   |
| eps        | noise          | (n, k) | -              |
| -          | copies         | (n,)   | -, equal numbers: equal samples |
| -          | returned       | (n,), (n,) | data units^2 |

**With a condition** a decoder may know every sample by its condition, so the first error bounds
nothing. The second is had all the same, of y less its regression on x and of means less theirs: a
decoder that sees x adds both back.

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
    target: Array, mean: Array, variance: Array, noise: Array, copies: npt.NDArray[np.intp]
) -> tuple[Array, Array]:
    """|y - g(z)|^2 of every sample at z = mean + sigma noise, with itself in g and left out of it.

    The second is NaN where all samples are copies. Takes n^2 doubles. Equality that a test checks:
    see the module.
    """
    y, z = target - target.mean(axis=0), mean + np.sqrt(variance) * noise
    precision = 1 / variance
    constant = np.sum(mean**2 * precision + np.log(variance), axis=1)
    exponent = z @ (mean * precision).T - (z**2 @ precision.T + constant) / 2
    own = np.sum((y - softmax(exponent, axis=1) @ y) ** 2, axis=1)
    if np.all(copies == copies[0]):
        return own, np.full(len(y), np.nan)
    exponent[copies[:, None] == copies] = -np.inf
    return own, np.sum((y - softmax(exponent, axis=1) @ y) ** 2, axis=1)
