"""The record of a solved model, and the errors of the solvers.

Symbols, shapes and units are in the tables of the records; the formulas behind them are those of
`linvae.theory.elbo` (objective) and of the theorem files (`vae`, `penalised`, `hvae`), which name
their sources. Tests check that modes add up to rates, and brute force that the objective is lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from linvae.notebook import html_table

__all__ = ["ModeStates", "Solution", "UnboundedObjectiveError", "rounding_of"]

Array = npt.NDArray[np.float64]
Status = Literal["unique", "continuum", "unbounded"]
ROUNDING = 1e-12  # information (nats) below this is rounding of the logarithms: exactly collapsed


def rounding_of(size: int) -> float:
    """Share of the largest variance of `size` coordinates below which a variance is rounding.

    10: three times the largest seen in Cov(y|x), ill-conditioned conditions included. A test checks
    that a covariance of low rank has exactly that many modes.
    """
    return 10 * size * float(np.finfo(np.float64).eps)


class UnboundedObjectiveError(ValueError):
    """The objective has no minimum; the message says which part runs away, and the way out."""


@dataclass(frozen=True, eq=False)
class ModeStates:
    """What a theorem file returns: the optimum of every scalar problem, (levels, modes).

    `noise_fractions` r_l = sigma_l^2 / m_l and `second_moments` m_l, latent units^2, NaN where the
    level has no unit for the mode. `critical_scale`: factor on all betas at which the level of the
    mode collapses (NaN without a unit). `units[l][i]` is the unit of level l that carries mode i.
    `decoder_gains`: the decoder weight u of every mode where a penalty keeps it from its best
    response w theta^2/m; None where it is that.
    """

    noise_fractions: Array
    second_moments: Array
    critical_scale: Array
    units: tuple[npt.NDArray[np.intp], ...]
    decoder_variance: float
    status: Status
    decoder_gains: Array | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """The global optimum of a linear model; arrays (levels, modes), modes by descending variance.

    There are as many modes as the larger of the target dimension and the widest level; a mode
    that has no unit on a level is collapsed there with rate 0, and its variances are NaN.

    | field                     | meaning                                              | unit   |
    |---------------------------|------------------------------------------------------|--------|
    | objective                 | distortion + sum_l beta_l rates[l] + penalty         | nats   |
    | distortion                | E[-log p(y|z_1)], all constants                      | nats   |
    | squared_error             | E|y - decoded mean|^2, summed over target dimensions | data^2 |
    | rates                     | E KL of each level, (levels,)                        | nats   |
    | penalty                   | latent reconstruction and weight decay, `linvae.spec`| nats   |
    | mode_variances            | theta_i^2, (modes,)                                  | data^2 |
    | decoder_variance          | s, the optimal one where it is learned               | data^2 |
    | noise_fractions           | r = encoder variance/second moment; 1 = collapsed    | -      |
    | encoder_variances         | sigma^2 of the unit that carries the mode            | latent^2 |
    | mode_rates                | the part of `rates` that belongs to the mode         | nats   |
    | collapsed                 | noise fraction exactly 1                             | bool   |
    | active_units              | number of modes not collapsed, int (levels,)         | -      |
    | critical_beta             | first beta at which the mode collapses on level 1,   | -      |
    |                           | all betas in fixed proportion, (modes,)              |        |
    | level_critical_betas      | the same for every level                             | -      |
    | critical_decoder_variance | value of s at which it does, all else fixed, (modes,)| data^2 |
    | weights                   | optimal matrices, names in `linvae.theory.elbo`      |        |
    | status                    | "unique", "continuum" or "unbounded"                 |        |

    A "continuum" has many optima: the most collapsed one is given. "unbounded": objective -inf,
    all arrays NaN.
    Critical values are NaN where there is no unit or the decoder variance is learned, critical
    decoder variances also with a penalty, which s does not scale; critical betas need not descend
    with a latent reconstruction loss, which favours modes of little variance; infinite for
    an upper level that is active on encoder noise alone, 0 for one that can never be active.
    Equalities that tests check: `mode_rates.sum(1) == rates`, `information == -log(r)/2`, and
    with a learned encoder variance `squared_error` = sum of min(theta_i^2, beta s). It is NaN where
    a conditional encoder sees the target only.
    """

    objective: float
    distortion: float
    rates: Array
    mode_variances: Array
    decoder_variance: float
    noise_fractions: Array
    encoder_variances: Array
    mode_rates: Array
    critical_beta: Array
    level_critical_betas: Array
    critical_decoder_variance: Array
    weights: dict[str, Array]
    status: Status
    penalty: float = 0.0
    squared_error: float = np.nan

    @property
    def collapsed(self) -> npt.NDArray[np.bool_]:
        """True where a level carries nothing of a mode, (levels, modes)."""
        return ~(self.noise_fractions < 1)

    @property
    def active_units(self) -> npt.NDArray[np.intp]:
        """Number of modes that each level carries, (levels,)."""
        return np.asarray(np.sum(~self.collapsed, axis=1))

    @property
    def information(self) -> Array:
        """I(z_l; z_{l-1}) = -log(r)/2 of each mode, nats, (levels, modes)."""
        return -np.log(self.noise_fractions) / 2

    def __repr__(self) -> str:
        """What one reads first; arrays in short, weights by name."""
        with np.printoptions(precision=4, threshold=8, edgeitems=3):
            return (
                f"Solution({self._summary()}, mode_variances={self.mode_variances}, "
                f"critical_beta={self.critical_beta}, weights={sorted(self.weights)})"
            )

    def _repr_html_(self) -> str:
        """The modes as a table, in notebooks."""
        return html_table(f"Solution({self._summary()})", self.to_rows())

    def _summary(self) -> str:
        with np.printoptions(precision=4):
            return (
                f"status={self.status!r}, objective={self.objective:.5g}, "
                f"distortion={self.distortion:.5g}, rates={self.rates}, "
                f"active_units={self.active_units}"
            )

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per level and mode."""
        levels, modes = self.noise_fractions.shape
        return [
            {
                "level": level + 1,
                "mode": mode + 1,
                "mode_variance": float(self.mode_variances[mode]),
                "critical_beta": float(self.level_critical_betas[level, mode]),
                "noise_fraction": float(self.noise_fractions[level, mode]),
                "encoder_variance": float(self.encoder_variances[level, mode]),
                "rate_nats": float(self.mode_rates[level, mode]),
                "collapsed": bool(self.collapsed[level, mode]),
            }
            for level in range(levels)
            for mode in range(modes)
        ]
