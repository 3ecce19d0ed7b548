"""How much of every mode a code holds, whatever its units are rotated to.

The code z = mu + sigma eps of an encoder, eps ~ N(0, I), and the scores e_i of the modes
(`linvae.theory.modes`, uncorrelated, variances theta_i^2). A linear decoder reads off z

    h_i = c_i^T (Cov(mu) + E diag sigma^2)^-1 c_i / theta_i^2,    c_i = Cov(mu, e_i),

of the variance of mode i: the share that the best linear prediction explains. Any invertible map
of z leaves h_i as it is, so units may be in any order and turned in any way; and a unit at the
prior, whose mean does not move, adds nothing.

**Sum rule.** The held nats -log(1 - h_i)/2 add up to at most G = log(det D / det C)/2, D = diag
theta^2 and C the covariance of what the linear prediction leaves, whose determinant is at most the
product of its diagonal, theta_i^2 (1 - h_i) (Hadamard). For linear encoders of Gaussian data G is
at most I(z; y). For any encoder of any data it is at most the rate: G is log(det Cov(z) / det
Cov(z|e))/2 with Cov(z|e) no less than E diag sigma^2, so at most the sum of log(E z_j^2/E
sigma_j^2)/2, and that is below the KL from the prior, as x - 1 >= log x and by Jensen. At the
optimum z_i = w_i e_i + noise and h_i = 1 - r_i with r the noise fraction (`linvae.theory.vae`):
every mode holds its information, and all are equal. So what the held nats of a mode lack, no unit
has in a form that a linear decoder reads.

**Modes as good as equal** (variances within a factor `ALIKE`) are worth the same along any axes, so
a code may hold one direction between two of them in full and lose the other, with half of each
mode. `turned_scores` gives such modes the axes of what is held, each named after the mode that it
is most of; of modes beyond the number of units that are as good as the last with one, the axes that
are held least go without a unit.

| symbol  | argument or field | shape  | unit                     |
|---------|-------------------|--------|--------------------------|
| e       | scores            | (n, m) | data units               |
| mu      | mean              | (n, k) | latent units             |
| sigma^2 | variance          | (n, k) | latent units^2           |
| h_i     | shares            | (m,)   | -                        |
| h_ij    | unit_shares       | (m, k) | -, of unit j alone       |
| -       | held_nats         | (m,)   | nats, -log(1 - h)/2      |
| -       | influence         | (n, m) | nats, of every sample    |

The noise is integrated, so only mu and e are sampled: held nats are too high by about k/(2 n) where
units hold something else (n well above k), and their standard error is that of the mean of
`influence` (delta method; the regression is at its minimum and adds nothing to first order).

Source: ours; linear prediction and Hadamard's inequality are textbook (Cover & Thomas 2006,
Theorem 17.9.2). Equalities that tests check: held nats are those of `solve(...).information` for
its own encoder, and the same after any rotation of an encoder with one variance; a lost direction
between equal modes is one lost mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

__all__ = ["ALIKE", "HeldModes", "assign_units", "held_modes", "turned_scores"]

Array = npt.NDArray[np.float64]
LEAST_LEFT = 1e-12  # share of a mode that is never explained: rounding of its regression
ALIKE = float(np.exp(0.2))  # ratio of variances worth 0.1 nats, what diagnoses grant to training
LEAST_SHARE = 0.02  # of a mode; a unit that holds less of it, 0.01 nats, is not its unit


@dataclass(frozen=True, eq=False)
class HeldModes:
    """Fields in the module's table; modes without any variance are held by nobody."""

    shares: Array
    unit_shares: Array
    held_nats: Array
    influence: Array


def held_modes(scores: Array, mean: Array, variance: Array) -> HeldModes:
    """What codes of mean and variance (n, k) hold of centred scores (n, m); see the module.

    With a condition, give means less their regression on it: the decoder sees it anyhow.
    Equality that a test checks: see the module.
    """
    mu = mean - mean.mean(axis=0)
    cross, weights = _regression(scores, mu, variance)
    theta2 = np.mean(scores**2, axis=0)
    safe = np.where(theta2 > 0, theta2, 1.0)
    left = ((scores - mu @ weights) ** 2 + variance @ weights**2) / safe
    rest = np.clip(left.mean(axis=0), LEAST_LEFT, None)
    rest = np.where(theta2 > 0, np.minimum(rest, 1.0), 1.0)
    return HeldModes(
        shares=1 - rest,
        unit_shares=(cross**2 / safe).T,
        held_nats=-np.log(rest) / 2,
        influence=(scores**2 / safe - left / rest) / 2,
    )


def _regression(scores: Array, mu: Array, variance: Array) -> tuple[Array, Array]:
    """Covariances of scaled units with the scores, and the weights on units, (k, m)."""
    n = len(scores)
    scale = np.sqrt(np.mean(mu**2, axis=0) + np.mean(variance, axis=0))
    correlation = (mu / scale).T @ (mu / scale) / n
    np.fill_diagonal(correlation, 1.0)
    cross = (mu / scale).T @ scores / n
    return cross, np.linalg.pinv(correlation, hermitian=True) @ cross / scale[:, None]


def turned_scores(scores: Array, mean: Array, variance: Array, units: int) -> Array:
    """Scores of at most `units` modes, (n, m) -> (n, min(units, m)), alike ones along held axes.

    `scores` by descending variance, as many beyond `units` as are like the last. Each keeps its own
    mode's variance. Equality that a test checks: see the module.
    """
    theta2 = np.mean(scores**2, axis=0)
    m, kept = int(np.count_nonzero(theta2)), min(units, scores.shape[1])
    mu, turned = mean - mean.mean(axis=0), scores[:, :kept].copy()
    for start, stop in _alike(theta2[:m]):
        inside = np.arange(start, min(stop, kept))
        if stop - start == 1 or not len(inside):
            continue
        white = scores[:, start:stop] / np.sqrt(theta2[start:stop])
        _, weights = _regression(white, mu, variance)
        axes = np.linalg.eigh(white.T @ mu @ weights / len(scores))[1]
        axes = axes[:, len(axes) - len(inside) :]  # those held most
        named, axis = linear_sum_assignment(axes[: len(inside)] ** 2, maximize=True)
        turned[:, inside[named]] = white @ axes[:, axis] * np.sqrt(theta2[inside[named]])
    return turned


def _alike(theta2: Array) -> list[tuple[int, int]]:
    """Runs of descending variances within `ALIKE`, cut at their widest gaps."""
    found, todo = [], [(0, len(theta2))]
    while todo:
        start, stop = todo.pop()
        run = np.log(theta2[start:stop])
        if len(run) < 2 or run[0] - run[-1] <= np.log(ALIKE):
            found.append((start, stop))
            continue
        cut = start + 1 + int(np.argmax(-np.diff(run)))
        todo += [(start, cut), (cut, stop)]
    return found


def assign_units(unit_shares: Array, rates: Array) -> npt.NDArray[np.intp]:
    """The mode that every unit carries, (k,), one each: the most of all shares together.

    Units without a mode, by descending rate, take the modes without a unit, in order; modes beyond
    the m of `unit_shares` (m, k) have no variance. Equality that a test checks: a permuted
    optimum's units get its modes.
    """
    m, k = unit_shares.shape
    clear = np.where(unit_shares > LEAST_SHARE, unit_shares, 0.0)
    pairs = zip(*linear_sum_assignment(clear, maximize=True), strict=True)
    unit_of = {int(i): int(j) for i, j in pairs if clear[i, j] > 0}
    modes = np.full(k, -1, dtype=np.intp)
    for i, j in unit_of.items():
        modes[j] = i
    free = (i for i in range(max(m, k)) if i not in unit_of)
    for j in np.argsort(-rates, kind="stable"):
        if modes[j] < 0:
            modes[j] = next(free)
    return modes
