"""The three decoders as exponential families, about the best constant output.

    p(y|theta) = h(y) exp(theta.y - A(theta)),         theta_0 the parameter with A'(theta_0) = mean
    D(x)  = A(theta_0 + x) - A(theta_0) - x.mean       convex, D(0) = 0, D'(x) = output - mean
    D*(m) = sup_x [x.m - D(x)]                         KL from the output mean to mean + m

| decoder   | D(x), summed over coordinates | D'(x)                     | F = D''(0) | c |
|-----------|-------------------------------|---------------------------|------------|---|
| gaussian  | s x^2 / 2                     | s x                       | s          | 1 |
| bernoulli | log(1 - m + m e^x) - m x      | logistic(logit m + x) - m | m (1 - m)  | 2 |
| poisson   | m (e^x - 1 - x)               | m (e^x - 1)               | m          | 2 |

with m the mean of the coordinate. c bounds the conjugate, D*(m) <= c |m/sqrt(F)|^2/2: a gaussian
has equality, the others the chi-square divergence, which is never below Kullback-Leibler's
(log x <= x - 1).

The threshold of one tilt t, where exp(t.y) has the cumulant K = log E exp(t.(y - mean)), is the
root beta > 0 of D(beta t) = beta K: gaussian beta = 2 K/(s |t|^2), the others by Newton's method.

| symbol              | argument or result | shape  | unit                    |
|---------------------|--------------------|--------|-------------------------|
| m                   | mean               | (d,)   | data units              |
| s                   | decoder_variance   | scalar | data units^2            |
| x = theta - theta_0 | x, natural         | (d, S) | 1/data units            |
| D'(x)               | shift              | (d, S) | data units              |
| D(x)                | divergence         | (S,)   | nats                    |
| F                   | curvature          | (d,)   | data units^2            |
| t                   | t                  | (d, S) | 1/data units            |
| K                   | K                  | (S,)   | nats                    |
| beta                | critical_beta      | (S,)   | -                       |

Sources: exponential families and their conjugates: Barndorff-Nielsen 1978; the threshold is ours.
Equalities that tests check: D is that difference of log-partitions, D' its derivative, `natural`
the inverse of D', D(beta t) = beta K at the root.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Family", "Likelihood", "conjugate_at", "family_of"]

Array = npt.NDArray[np.float64]
Likelihood = Literal["gaussian", "bernoulli", "poisson"]

LARGEST_LOGIT = 30.0  # outputs this certain are certain: 1e-13


@dataclass(frozen=True, eq=False)
class _Gaussian:
    curvature: Array  # F = s, (d,)
    conjugate_bound: ClassVar[float] = 1.0  # c

    def divergence(self, x: Array) -> Array:
        total: Array = self.curvature @ x**2 / 2
        return total

    def shift(self, x: Array) -> Array:
        """D'(x): mean of the output less the mean of the data."""
        return self.curvature[:, None] * x

    def natural(self, shift: Array) -> Array:
        """The x with D'(x) = shift."""
        return shift / self.curvature[:, None]

    def critical_beta(self, t: Array, K: Array) -> Array:
        """2 K(t)/(s |t|^2)."""
        return np.maximum(K, 0) / self.divergence(t)


@dataclass(frozen=True, eq=False)
class _Bernoulli:
    curvature: Array  # F = m (1 - m)
    mean: Array
    conjugate_bound: ClassVar[float] = 2.0

    def _far(self, x: Array) -> Array:
        """m where x < 0, 1 - m where x > 0: what is left to lose."""
        m = self.mean[:, None]
        return np.where(x > 0, 1 - m, m)

    def divergence(self, x: Array) -> Array:
        # with z = |x|: no overflow, and no cancellation at small x
        p, z = self._far(x), np.abs(x)
        total: Array = np.sum(p * z + _log1p_above(p * np.expm1(-z)), axis=0)
        return total

    def shift(self, x: Array) -> Array:
        fall = np.expm1(-np.abs(x))
        denominator = np.maximum(1 + self._far(x) * fall, 1e-300)
        return -np.sign(x) * self.curvature[:, None] * fall / denominator

    def natural(self, shift: Array) -> Array:
        m = self.mean[:, None]
        with np.errstate(divide="ignore"):
            logits = np.log(np.maximum(m + shift, 0)) - np.log(np.maximum(1 - m - shift, 0))
        x: Array = np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT) - np.log(m) + np.log1p(-m)
        return x

    def critical_beta(self, t: Array, K: Array) -> Array:
        return _critical_beta(self, t, K)


@dataclass(frozen=True, eq=False)
class _Poisson:
    curvature: Array  # F = m
    conjugate_bound: ClassVar[float] = 2.0

    def divergence(self, x: Array) -> Array:
        total: Array = self.curvature @ (np.expm1(_not_above_500(x)) - x)
        return total

    def shift(self, x: Array) -> Array:
        return self.curvature[:, None] * np.expm1(_not_above_500(x))

    def natural(self, shift: Array) -> Array:
        ratio = 1 + shift / self.curvature[:, None]
        x: Array = np.log(np.maximum(ratio, math.exp(-LARGEST_LOGIT)))
        return x

    def critical_beta(self, t: Array, K: Array) -> Array:
        return _critical_beta(self, t, K)


Family = _Gaussian | _Bernoulli | _Poisson


def family_of(likelihood: Likelihood, mean: Array, decoder_variance: float) -> Family:
    """D, D', its inverse and the threshold of a tilt, about the constant output `mean`.

    Symbols as in the module's table; `decoder_variance` is that of a gaussian. Every coordinate
    has to vary: 0 < mean < 1 (bernoulli), 0 < mean (poisson). Nothing is checked here.
    Equality that a test checks: D is the difference of log-partitions.
    """
    if likelihood == "gaussian":
        return _Gaussian(np.full(len(mean), decoder_variance))
    if likelihood == "bernoulli":
        return _Bernoulli(mean * (1 - mean), mean)
    return _Poisson(mean)


def conjugate_at(family: Family, x: Array) -> float:
    """D*(D'(x)) = x.D'(x) - D(x) of one x (d,), nats: the divergence of the output that it gives.

    Equality that a test checks: gaussian |D'(x)|^2/(2 s).
    """
    column = x[:, None]
    return float(family.shift(column)[:, 0] @ x - family.divergence(column)[0])


def _log1p_above(x: Array) -> Array:
    """log(1 + x), x >= -1; at -1 (a coordinate without variance) finite."""
    return np.log1p(np.maximum(x, -1 + 1e-16))


def _not_above_500(x: Array) -> Array:
    return np.minimum(x, 500.0)  # e^500 is finite and above every root


def _critical_beta(family: Family, t: Array, K: Array) -> Array:
    """The root beta > 0 of the convex function D(beta t) - beta K, (S,); 0 where K <= 0.

    Newton's method from above it: monotone.
    """
    K = np.maximum(K, 0)
    beta = np.where(K > 0, 2 * K / (family.curvature @ t**2), 0.0)
    for _ in range(200):
        below = family.divergence(beta * t) < beta * K
        if not below.any():
            break
        beta = np.where(below, 2 * beta, beta)
    for _ in range(200):
        x = beta * t
        slope = np.sum(family.shift(x) * t, axis=0) - K
        excess = family.divergence(x) - beta * K
        step = np.divide(excess, slope, out=np.zeros_like(K), where=(slope > 0) & (excess > 0))
        beta = beta - step
        if np.all(step <= 1e-8 * beta):  # quadratic: the error is its square
            break
    return beta
