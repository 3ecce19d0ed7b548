"""Free bits: the optimum of a linear VAE whose rate has a floor below which it costs nothing.

A rate R is replaced by max(R, f) (Kingma et al. 2016). Below the floor the rate has no
price, the flow is that of beta = 0 and collapse is unstable at any beta.

Total floor: reverse water-filling with c = min(beta s, the level at which the rate is f): **a
smaller beta**, no more.

Floor per unit, factorised q (ours): with signal-to-noise ratio x_j of unit
j (its rate log(1 + x_j)/2) and p_i of mode i (its error theta_i^2/(1 + p_i)), the weights can
reach every p that majorises x (Schur-Horn), so n units on their floor share a power n (e^2f - 1)
freely among at most n modes: 1 + p_i = max(1, theta_i * const), **water-filling in standard
deviations**. An idle unit helps a mode that others carry. At most one unit above its floor shares
like that, the others own a mode, 1 + p_i = theta_i^2/(beta s). With one unit per mode of equal
variance this is rate = max(f, log(theta^2/(beta s))/2).

| symbol    | argument         | shape    | unit         |
|-----------|------------------|----------|--------------|
| theta_i^2 | mode_variances   | (modes,) | data units^2 |
| n         | latent_dim       | int      | units        |
| f         | floor_nats       | scalar   | nats         |
| beta      | beta             | scalar   | -            |
| s         | decoder_variance | scalar   | data units^2 |

Sources: the floors: Kingma et al. 2016; majorisation: the Schur-Horn theorem; the optima are ours.
Equality that a test checks: floor 0 is the optimum of `linvae.solve`; elsewhere brute force over
the encoder's matrices agrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from linvae.theory.arguments import checked_numbers, checked_variances, in_doubles

__all__ = ["FreeBitsOptimum", "free_bits_optimum"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FreeBitsOptimum:
    """The global optimum of the objective with a floor under the rate.

    | field          | meaning                                                       | shape    |
    |----------------|---------------------------------------------------------------|----------|
    | objective      | sum squared_errors/(2 s) + beta * price, nats, no constant    | scalar   |
    | price_nats     | sum of max(rate, floor) over units, or max(sum of rates, floor)| scalar  |
    | unit_rates_nats| KL divergence of each unit                                    | (units,) |
    | squared_errors | what is left of each mode, data units^2                       | (modes,) |
    | information_nats| about each mode, log(mode variance/squared error)/2          | (modes,) |
    """

    mode_variances: Array
    objective: float
    price_nats: float
    unit_rates_nats: Array
    squared_errors: Array

    @property
    def information_nats(self) -> Array:
        """log(theta^2/error)/2 of each mode, 0 for a mode without variance."""
        theta2, errors = self.mode_variances, self.squared_errors
        ratio = np.divide(theta2, errors, out=np.ones_like(errors), where=errors > 0)
        information: Array = np.log(ratio) / 2
        return information

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per mode."""
        return [
            {"mode": i + 1, "mode_variance": float(theta2), "squared_error": float(error),
             "information_nats": float(nats)}
            for i, (theta2, error, nats) in enumerate(
                zip(self.mode_variances, self.squared_errors, self.information_nats, strict=True)
            )
        ]  # fmt: skip


@in_doubles
def free_bits_optimum(
    mode_variances: npt.ArrayLike,
    *,
    latent_dim: int,
    floor_nats: float,
    beta: float = 1.0,
    decoder_variance: float = 1.0,
    per: Literal["unit", "total"] = "unit",
) -> FreeBitsOptimum:
    """Minimum of distortion + beta * price over all linear models with factorised encoder.

    `per="unit"`: price = sum_j max(rate_j, floor); `"total"`: max(sum_j rate_j, floor). Modes are
    returned in descending order of variance. The prior variance drops out. floor 0 is the plain
    model. Where free bits are worth nothing (no variance left) the smallest rates are given.
    Raises ValueError for numbers out of range and an unknown `per`. Equality that a test checks:
    brute force over matrices, the floor as a constraint.
    """
    where = "free_bits_optimum"
    theta2 = np.sort(checked_variances(mode_variances, where))[::-1]
    k = int(checked_numbers("latent_dim", latent_dim, where))
    if k != latent_dim:
        raise ValueError(f"latent_dim={latent_dim} must be an integer in {where}")
    f = float(checked_numbers("floor_nats", floor_nats, where, zero=True))
    b = float(checked_numbers("beta", beta, where))
    s = float(checked_numbers("decoder_variance", decoder_variance, where))
    if per not in ("unit", "total"):
        raise ValueError(f"per={per!r} must be 'unit' or 'total' in {where}")
    if per == "total":
        errors, rates = _total_floor(theta2, k, f, b * s)
        price = max(float(rates.sum()), f)
    else:
        errors, rates = _unit_floor(theta2, k, f, b, s)
        price = float(np.maximum(rates, f).sum())
    objective = float(errors.sum()) / (2 * s) + b * price
    return FreeBitsOptimum(theta2, objective, price, rates, errors)


def _total_floor(theta2: Array, k: int, f: float, c: float) -> tuple[Array, Array]:
    """Reverse water-filling at the lower of c = beta s and the level where the rate is f."""
    carried = theta2[:k][theta2[:k] > 0]
    rates = np.zeros(k)
    if len(carried) == 0:
        return theta2, rates
    m = np.arange(1, len(carried) + 1)
    # rate f over the first m modes needs the level exp((sum log theta^2 - 2 f)/m); the right m is
    # the one with the highest level
    level = min(c, float(np.exp(np.max((np.cumsum(np.log(carried)) - 2 * f) / m))))
    rates[: len(carried)] = np.maximum(np.log(carried / level), 0.0) / 2
    errors = theta2.copy()
    errors[: len(carried)] = np.minimum(carried, level)
    return errors, rates


def _unit_floor(theta2: Array, k: int, f: float, beta: float, s: float) -> tuple[Array, Array]:
    """Best of the candidates: `a` units own a mode, one may be above its floor in the pool."""
    best = (np.inf, theta2, np.zeros(k))
    n_owned = int(np.sum(theta2[:k] > beta * s * np.exp(2 * f)))
    free = np.expm1(2 * f)
    for a in range(n_owned + 1):
        pool = np.sqrt(theta2[a:][: k - a])  # k - a units carry at most k - a modes
        for power, above in _pools(pool, k - a, free, beta * s):
            gain = _filled(pool, power)
            errors = theta2.copy()
            errors[:a] = beta * s
            errors[a : a + len(pool)] /= gain
            rates = np.full(k, f if pool.any() else 0.0)
            rates[:a] = np.log(theta2[:a] / (beta * s)) / 2
            rates[a : a + len(above)] = np.log(above) / 2
            value = errors.sum() / (2 * s) + beta * np.maximum(rates, f).sum()
            if value < best[0]:
                best = (float(value), errors, rates)
    return best[1], best[2]


def _pools(theta: Array, n: int, free: float, c: float) -> list[tuple[float, Array]]:
    """Powers that n pooled units can have: all on the floor, or one paying for more.

    The payer's X = 1 + snr solves c (X + B)^2 = (sum of m theta)^2 X, m modes in the pool and
    B = m - 1 + (n - 1) free; the larger root is the minimum. It can share only what majorisation
    allows: the pool's largest p is at least its own snr.
    """
    pools = [(n * free, np.empty(0))]
    m = np.arange(1, np.count_nonzero(theta) + 1)
    if n == 0 or len(m) == 0:
        return pools
    S2, B = np.cumsum(theta[: len(m)]) ** 2, m - 1 + (n - 1) * free
    inside = S2 - 4 * c * B
    X = (S2 - 2 * c * B + np.sqrt(S2 * np.maximum(inside, 0.0))) / (2 * c)
    for i in np.flatnonzero(inside >= 0):  # a payer below its floor is never the best
        power = float((n - 1) * free + X[i] - 1)
        if _filled(theta, power)[0] >= X[i] * (1 - 1e-12):
            pools.append((power, X[i : i + 1]))
    return pools


def _filled(theta: Array, power: float) -> Array:
    """1 + p of each mode: theta * const where above 1, sum of p = power; theta descending."""
    positive = np.count_nonzero(theta)
    if positive == 0:
        return np.ones(len(theta))
    m = np.arange(1, positive + 1)
    scale = np.min((m + power) / np.cumsum(theta[:positive]))
    gain: Array = np.maximum(theta * scale, 1.0)
    return gain
