"""Spiked covariance: sample eigenvalues and directions against those of the population.

Cov(x) = v I plus spikes of eigenvalue v (1 + tau); C = 1/n sum x x^T of n samples in d dimensions.
For d, n to infinity with gamma = d/n, a spike with tau > sqrt(gamma) shows as an eigenvalue
theta^2 of C along a direction whose squared overlap with the population's is a, and the population
variance along it is p:

    theta^2 = v (1 + tau)(1 + gamma/tau)        a = (1 - gamma/tau^2)/(1 + gamma/tau)
    p = v (1 + tau a) = theta^2 / (1 + gamma/tau)^2

A weaker spike drowns. All other eigenvalues fill the Marchenko-Pastur bulk between
v (1 - sqrt gamma)^2 and v (1 + sqrt gamma)^2 (d - n of them are 0 where gamma > 1), with p = v and
density sqrt((x_high - x)(x - x_low))/(2 pi gamma x), x in units of v, of the non-zero ones times
max(1, gamma).

| symbol      | argument or result    | shape     | unit         |
|-------------|-----------------------|-----------|--------------|
| v           | noise_variance        | broadcast | data units^2 |
| v (1 + tau) | population_eigenvalue | broadcast | data units^2 |
| theta^2     | eigenvalue            | broadcast | data units^2 |
| gamma = d/n | aspect_ratio          | broadcast | -            |
| a           | overlap               | broadcast | -            |
| p           | population_variance   | broadcast | data units^2 |

n counts the samples of an uncentred covariance; centring by the sample mean costs one.

All functions raise ValueError for numbers that are not finite or out of range: v > 0, gamma >= 0
(> 0 in `bulk_cdf`), eigenvalues >= 0, population eigenvalues >= v.

Sources: bulk: Marchenko & Pastur 1967; spikes: Baik & Silverstein 2006; overlaps: Paul 2007;
p in this form is ours. Equality that a test checks: `debiased_eigenvalue` and
`population_variance` of `sample_eigenvalue` are v (1 + tau) and v (1 + tau a).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linvae.theory.arguments import checked_numbers, in_doubles

__all__ = [
    "bulk_cdf",
    "bulk_edges",
    "debiased_eigenvalue",
    "debiased_strength",
    "overlap",
    "population_variance",
    "sample_eigenvalue",
]

Array = npt.NDArray[np.float64]


@in_doubles
def bulk_edges(noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike) -> tuple[Array, Array]:
    """Edges v (1 -+ sqrt gamma)^2 of the sample eigenvalues of noise; zeros not counted.

    Equality that a test checks: the density integrates to 1 between them.
    """
    v = _checked("noise_variance", noise_variance, positive=True)
    root = np.sqrt(_checked("aspect_ratio", aspect_ratio))
    return v * (1 - root) ** 2, v * (1 + root) ** 2


@in_doubles
def bulk_cdf(
    eigenvalue: npt.ArrayLike, noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike
) -> Array:
    """Share of the non-zero eigenvalues of pure noise at or below `eigenvalue`.

    For gamma > 1 the non-zero ones are gamma times those of 1/gamma. Equality that a test checks:
    it is the integral of the density.
    """
    x = _checked("eigenvalue", eigenvalue) / _checked("noise_variance", noise_variance, True)
    gamma = _checked("aspect_ratio", aspect_ratio, positive=True)
    x, gamma = np.where(gamma > 1, x / gamma, x), np.where(gamma > 1, 1 / gamma, gamma)
    low, high = bulk_edges(1.0, gamma)
    left, right = np.maximum(x - low, 0.0), np.maximum(high - x, 0.0)
    # over the support `outer` falls from pi/2 to -pi/2 and so does `inner`: 0 to 2 pi gamma
    outer = np.arctan2(right - left, 2 * np.sqrt(left * right))
    inner = np.arctan2(low * right - high * left, 2 * (1 - gamma) * np.sqrt(left * right))
    total = np.pi * gamma + np.sqrt(left * right) - (1 + gamma) * outer + (1 - gamma) * inner
    inside = np.clip(total / (2 * np.pi * gamma), 0.0, 1.0)
    return np.where(x <= low, 0.0, np.where(x >= high, 1.0, inside))


@in_doubles
def sample_eigenvalue(
    population_eigenvalue: npt.ArrayLike,
    noise_variance: npt.ArrayLike,
    aspect_ratio: npt.ArrayLike,
) -> Array:
    """Limit of the sample eigenvalue that belongs to a population spike v (1 + tau).

    At or below tau = sqrt(gamma) the spike drowns: the upper edge of the bulk. Equality that a test
    checks: gamma = 0 gives v (1 + tau).
    """
    tau, v, gamma = _strength(population_eigenvalue, noise_variance, aspect_ratio)
    visible = tau > np.sqrt(gamma)
    spike = v * (1 + tau) * (1 + gamma / np.where(visible, tau, 1.0))
    return np.where(visible, spike, bulk_edges(v, gamma)[1])


@in_doubles
def overlap(
    population_eigenvalue: npt.ArrayLike,
    noise_variance: npt.ArrayLike,
    aspect_ratio: npt.ArrayLike,
) -> Array:
    """Limit a of the squared overlap of sample and population direction; 0 for a drowned spike.

    Equality that a test checks: gamma = 0 gives 1.
    """
    tau, _, gamma = _strength(population_eigenvalue, noise_variance, aspect_ratio)
    visible = tau > np.sqrt(gamma)
    tau = np.where(visible, tau, 1.0)
    return np.where(visible, (1 - gamma / tau**2) / (1 + gamma / tau), 0.0)


@in_doubles
def debiased_eigenvalue(
    eigenvalue: npt.ArrayLike, noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike
) -> Array:
    """Population eigenvalue v (1 + tau) of a sample eigenvalue; v at or below the upper edge.

    Equality that a test checks: the inverse of `sample_eigenvalue`, for a visible spike.
    """
    tau, v, _ = debiased_strength(eigenvalue, noise_variance, aspect_ratio)
    return v * (1 + tau)


@in_doubles
def population_variance(
    eigenvalue: npt.ArrayLike, noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike
) -> Array:
    """p = v (1 + tau a): population variance along the direction of a sample eigenvalue.

    v at or below the upper edge of the bulk. Equality that a test checks:
    p = theta^2/(1 + gamma/tau)^2.
    """
    tau, v, gamma = debiased_strength(eigenvalue, noise_variance, aspect_ratio)
    visible = tau > 0
    shrunk = np.divide(tau * (1 + tau), tau + gamma, out=np.ones_like(tau), where=visible)
    return v * shrunk


@in_doubles
def debiased_strength(
    eigenvalue: npt.ArrayLike, noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike
) -> tuple[Array, Array, Array]:
    """tau of sample eigenvalues, 0 within the bulk; v and gamma, of one shape.

    The larger root of tau^2 - (theta^2/v - 1 - gamma) tau + gamma = 0. A test checks it as the
    inverse of `sample_eigenvalue`.
    """
    theta2, v, gamma = np.broadcast_arrays(
        _checked("eigenvalue", eigenvalue),
        _checked("noise_variance", noise_variance, positive=True),
        _checked("aspect_ratio", aspect_ratio),
    )
    b = theta2 / v - 1 - gamma
    root = np.sqrt(np.maximum(b**2 - 4 * gamma, 0.0))
    return np.where(theta2 > bulk_edges(v, gamma)[1], (b + root) / 2, 0.0), v, gamma


def _strength(
    population_eigenvalue: npt.ArrayLike,
    noise_variance: npt.ArrayLike,
    aspect_ratio: npt.ArrayLike,
) -> tuple[Array, Array, Array]:
    """tau, v and gamma, of one shape."""
    population, v, gamma = np.broadcast_arrays(
        _checked("population_eigenvalue", population_eigenvalue),
        _checked("noise_variance", noise_variance, positive=True),
        _checked("aspect_ratio", aspect_ratio),
    )
    below = population < v
    if np.any(below):
        raise ValueError(
            f"population_eigenvalue={population[below].flat[0]} must be at least "
            f"noise_variance={v[below].flat[0]}: spikes below the noise are not covered"
        )
    return population / v - 1, v, gamma


def _checked(name: str, values: npt.ArrayLike, positive: bool = False) -> Array:
    return checked_numbers(name, values, "linvae.theory.spiked_covariance", zero=not positive)
