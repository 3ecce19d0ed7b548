"""Beta as a function of the information that a level holds: what fixed-information control sees.

With all betas in fixed proportion, log beta is a piecewise affine, decreasing function of
I_l = I(z_l; z_{l-1}) of the first mode (prices are geometric means, `linvae.theory.hvae`), and
meets the threshold of the level at I_l = 0. With one level it is one line: slope -2 per nat with a
learned encoder variance (I = KL), -4 with a fixed one. In a hierarchy it bends where the mode
collapses on another level.

| symbol | argument or result   | shape  | unit                          |
|--------|----------------------|--------|-------------------------------|
| l      | level                | int    | 1 = lowest                    |
| I_l    | nats                 | scalar | nats, all modes of the level  |
| f      | factor_at_information| scalar | -, betas are f times the spec's |

Source: ours. Equality that a test checks: one level is one line, log f = log f(0) - 2 I (learned
encoder variance, one unit).
"""

from __future__ import annotations

import math

from scipy.optimize import brentq

from linvae.moments import Moments
from linvae.spec import LinearSpec
from linvae.theory import solve

__all__ = ["factor_at_information"]

DEEPEST = 40.0  # log of the smallest factor tried, below the threshold


def factor_at_information(spec: LinearSpec, moments: Moments, level: int, nats: float) -> float:
    """Factor on all betas at which `level` (1 = lowest) holds `nats` in all, by root finding.

    NaN where the level has no finite positive threshold, or for negative `nats`. Raises ValueError
    where `solve` does, or no beta holds so much. Equality that a test checks:
    `solve(spec.scale_betas(factor), moments).information[level - 1].sum() == nats`.
    """
    if not 1 <= level <= len(spec.betas):
        raise ValueError(
            f"level={level} must be between 1 and {len(spec.betas)} in factor_at_information: "
            f"{type(spec).__name__} has so many levels"
        )
    critical = solve(spec, moments).level_critical_betas[level - 1, 0] / spec.betas[0]
    if not 0 < critical < math.inf or nats < 0:
        return math.nan
    if nats == 0:
        return float(critical)

    def missing(log_factor: float) -> float:
        scaled = spec.scale_betas(float(critical) * math.exp(log_factor))
        return float(solve(scaled, moments).information[level - 1].sum()) - nats

    if missing(-DEEPEST) < 0:
        raise ValueError(
            f"nats={nats} is more than level {level} holds at any beta down to exp(-{DEEPEST:.0f}) "
            "of its threshold"
        )
    return float(critical) * math.exp(brentq(missing, -DEEPEST, 0.0, xtol=1e-13))
