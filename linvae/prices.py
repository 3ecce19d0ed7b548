"""Prices of the levels of a hierarchy: what theory's optimum and the certificate share.

With a_l = beta_l sigma_l^2/eta_l^2 (beta_l where sigma_l^2 is learned), the prices p do not
decrease upwards and p_l = a_l on learned levels: log p is the isotonic regression of log a between
them, clipped to theirs (`linvae.theory.hvae`, `linvae.metrics.evidence`).

| symbol | argument | shape             | unit |
|--------|----------|-------------------|------|
| log a  | log_a    | (levels, columns) | -    |
| -      | learned  | (levels,)         | -    |
| k_l    | weights  | (levels,)         | -    |

Source: ours. Equality that a test checks: scipy's isotonic regression.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["fixed_runs", "isotonic_regression", "log_prices"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def isotonic_regression(values: Array, weights: Array | None = None) -> Array:
    """Non-decreasing weighted least-squares fit along axis 0, one per column: max-min formula.

    fit_l = max_{i<=l} min_{j>=l} mean(values_i .. values_j); -inf entries are allowed at the start.
    `weights` of the entries of axis 0, None: equal. Equality that a test checks: scipy's isotonic
    regression.
    """
    weights = np.ones(len(values)) if weights is None else weights
    fit = np.full_like(values, -np.inf)
    for i in range(len(values)):
        sums = np.cumsum(values[i:] * weights[i:, None], axis=0)
        means = sums / np.cumsum(weights[i:])[:, None]
        fit[i:] = np.maximum(fit[i:], np.minimum.accumulate(means[::-1])[::-1])
    return fit


def fixed_runs(learned: Flags) -> Iterator[slice]:
    """Maximal runs of fixed levels between learned ones (possibly empty), as slices."""
    start = 0
    for position in [*np.flatnonzero(learned), len(learned)]:
        yield slice(start, int(position))
        start = int(position) + 1


def log_prices(log_a: Array, learned: Flags, weights: Array | None = None) -> Array:
    """log p, (levels, columns); that of learned levels is taken as it is, also where it falls."""
    log_p = log_a.copy()
    for run in fixed_runs(learned):
        if run.start == run.stop:
            continue
        fit = isotonic_regression(log_a[run], None if weights is None else weights[run])
        below = log_a[run.start - 1] if run.start > 0 else -np.inf
        above = log_a[run.stop] if run.stop < len(log_a) else np.inf
        log_p[run] = np.clip(fit, below, above)
    return log_p
