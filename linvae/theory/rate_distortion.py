"""The rate-distortion function of a Gaussian with given mode variances: what every beta traces out.

A linear VAE with learned encoder variance at KL weight beta and decoder variance s is the optimal
code of a Gaussian source at water level w = beta s (reverse water-filling, Cover & Thomas 2006,
Theorem 10.3.3; the identity with the VAE: Wang & Ziyin 2022, Theorem 2):

    rate(w) = 1/2 sum_i max(0, log(theta_i^2/w)),    mean squared error(w) = sum_i min(theta_i^2, w)

| symbol    | argument           | shape  | unit         |
|-----------|--------------------|--------|--------------|
| theta_i^2 | mode_variances     | (modes,)| data units^2|
| w         | water_levels       | (n,)   | data units^2 |
| -         | rates              | (n,)   | nats         |
| -         | squared_errors     | (n,)   | data units^2 |
| -         | unexplained        | scalar | data units^2 |
| -         | active_modes       | (n,)   | modes above w|

Both are monotone and piecewise smooth, so each can be inverted exactly, segment by segment. With
latent_dim below the number of modes those without a unit are added to the error. Equality that a
test checks: `solve(VAESpec(...)).rates` and its squared error are the curve at w = beta s, and the
slope d(error)/d(rate) = -2 w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.moments import doubles
from linvae.theory.arguments import checked_numbers, in_doubles

__all__ = [
    "RateDistortionCurve",
    "rate_distortion_curve",
    "water_level",
    "water_level_of_error",
]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RateDistortionCurve:
    """Points of the curve, one per water level; the table is in the module's docstring."""

    water_levels: Array
    rates: Array
    squared_errors: Array
    active_modes: npt.NDArray[np.intp]

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per point."""
        columns = (self.water_levels, self.rates, self.squared_errors, self.active_modes)
        return [
            {
                "water_level": float(w),
                "rate_nats": float(rate),
                "squared_error": float(error),
                "active_modes": int(active),
            }
            for w, rate, error, active in zip(*columns, strict=True)
        ]


@in_doubles
def rate_distortion_curve(
    mode_variances: npt.ArrayLike, water_levels: npt.ArrayLike, *, latent_dim: int | None = None
) -> RateDistortionCurve:
    """Rate and mean squared error at every water level beta * decoder_variance.

    Raises ValueError for mode variances that are negative, not finite or all zero, water levels
    not above 0, latent_dim below 1. Equality that a test checks: `solve` at w = beta s.
    """
    theta2, w = (
        _checked(mode_variances, latent_dim),
        np.atleast_1d(checked_numbers("water_levels", water_levels, "rate_distortion_curve")),
    )
    used, unused = theta2[:latent_dim], theta2[latent_dim:] if latent_dim else theta2[:0]
    active = used[None] > w[:, None]
    ratio = np.where(active, used[None] / w[:, None], 1.0)
    return RateDistortionCurve(
        water_levels=w,
        rates=np.sum(np.log(ratio), axis=1) / 2,
        squared_errors=np.minimum(used[None], w[:, None]).sum(axis=1) + float(np.sum(unused)),
        active_modes=active.sum(axis=1),
    )


@in_doubles
def water_level(mode_variances: npt.ArrayLike, *, rate_nats: float) -> float:
    """The water level beta * s at which the optimal code spends `rate_nats` (exact).

    With k modes above water, log w = (sum log theta_i^2 - 2 rate)/k for the first k whose level
    covers all other modes. Raises ValueError for a negative rate and bad mode variances. Equality
    that a test checks: the inverse of `rate_distortion_curve`.
    """
    theta2 = _checked(mode_variances, None)
    theta2 = theta2[theta2 > 0]
    checked_numbers("rate_nats", rate_nats, "water_level", zero=True)
    k = np.arange(1, len(theta2) + 1)
    candidates = np.exp((np.cumsum(np.log(theta2)) - 2 * rate_nats) / k)
    below = np.append(theta2[1:], 0.0)
    return float(candidates[np.argmax(candidates >= below * (1 - 1e-12))])


@in_doubles
def water_level_of_error(
    mode_variances: npt.ArrayLike,
    *,
    squared_error: float,
    latent_dim: int | None = None,
    unexplained: float = 0.0,
) -> float:
    """The water level beta * s at which the mean squared error is `squared_error` (exact).

    With k modes above water, w = (error - what the others have - unexplained)/k for the one k that
    is consistent; `unexplained`: error that no latent can reach. Raises ValueError outside of what
    the curve reaches, and for bad mode variances. Equality that a test checks: the inverse of
    `rate_distortion_curve`.
    """
    theta2 = _checked(mode_variances, latent_dim)
    used = theta2[:latent_dim]
    least = float(np.sum(theta2[len(used) :])) + unexplained
    most = least + float(np.sum(used))
    if not least < squared_error <= most:
        raise ValueError(
            f"squared_error={squared_error} must be above {least:.6g}, what {len(used)} latent "
            f"units must leave, and at most {most:.6g}, that of the collapsed model"
        )
    beyond = least + np.append(np.cumsum(used[:0:-1])[::-1], 0.0)
    candidates = (squared_error - beyond) / np.arange(1, len(used) + 1)
    # error(w) rises with w, so k is the last whose mode is not below its own water; the collapsed
    # model's own error can miss the first by rounding
    k = max(1, int(np.count_nonzero(candidates <= used)))
    return float(candidates[k - 1])


def _checked(mode_variances: npt.ArrayLike, latent_dim: int | None) -> Array:
    theta2 = np.sort(np.atleast_1d(doubles("mode_variances", mode_variances)))[::-1]
    if theta2.ndim != 1 or not np.all(np.isfinite(theta2)) or theta2[-1] < 0 or theta2[0] <= 0:
        raise ValueError(
            f"mode_variances must be finite, >= 0 and not all zero, got {theta2[:5].tolist()} ..."
        )
    if latent_dim is not None and latent_dim < 1:
        raise ValueError(f"latent_dim={latent_dim} must be >= 1 in rate_distortion_curve")
    return theta2
