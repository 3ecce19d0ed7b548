"""What a solved linear model predicts for the statistics that people count.

Per mode of a solution, with second moment m, noise fraction r and prior variance eta^2: the
posterior mean has variance m (1 - r) and is Gaussian where the data are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import chdtr

from linvae.spec import LinearSpec
from linvae.theory.solution import Solution

__all__ = ["active_unit_counts", "collapsed_unit_counts"]

Array = npt.NDArray[np.float64]


def active_unit_counts(solution: Solution, threshold: float = 0.01) -> npt.NDArray[np.intp]:
    """Units whose posterior mean has variance m (1 - r) > `threshold`, (levels,).

    With a learned encoder variance these are the modes with
    theta^2 > beta s / (1 - threshold/eta^2), slightly fewer than `solution.active_units`.
    """
    return np.asarray(np.sum(_mean_variances(solution) > threshold, axis=1))


def collapsed_unit_counts(
    spec: LinearSpec, solution: Solution, epsilon: float, delta: float
) -> npt.NDArray[np.intp]:
    """Units with KL(q(z|x) || p(z)) < `epsilon` for a share >= 1 - `delta` of Gaussian data.

    The KL exceeds its mean part by mu^2/(2 v), chi-squared with one degree of freedom; v is the
    prior variance in a model of one level with a learned variance, else the variance m of the
    aggregate posterior (the convention of `linvae.metrics.observe`). Units without a mode count.
    """
    m = solution.encoder_variances / solution.noise_fractions
    v = m
    if spec.encoder_variances == (None,):
        v = np.full_like(m, spec.prior_variances[0])
    ratio = solution.encoder_variances / v
    room = 2 * epsilon + 1 + np.log(ratio) - ratio  # of mu^2/v below epsilon
    with np.errstate(divide="ignore", invalid="ignore"):
        share = chdtr(1, np.maximum(room, 0) * v / _mean_variances(solution))
    collapsed = np.where(solution.collapsed, room > 0, share >= 1 - delta)
    return np.asarray(np.sum(collapsed & np.isfinite(m), axis=1))


def _mean_variances(solution: Solution) -> Array:
    """m (1 - r) of every level and mode, 0 without a unit."""
    r = solution.noise_fractions
    variances: Array = np.nan_to_num(solution.encoder_variances * (1 / r - 1), nan=0.0)
    return variances
