"""The supremum over exponential tilts of a sample: from below, and held out.

    w_i(t) = exp(t.y_i) / sum_j exp(t.y_j)      weights of the samples, m_w = sum_i w_i y_i
    K(t)   = log mean_i exp(t.(y_i - mean))
    beta(t) the root of beta K(t) = D(beta t),   D of `linvae.theory.log_partition`

| symbol       | argument or field    | shape  | unit                               |
|--------------|----------------------|--------|------------------------------------|
| y - mean     | y                    | (n, d) | data units                         |
| x            | x = y/sqrt(F)        | (n, k) | -, the k coordinates that vary     |
| t            | tilt                 | (d,)   | 1/data units                       |
| tau          | tau = sqrt(F) t      | (k, S) | -                                  |
| beta(t)      | beta                 | (S,)   | -                                  |
| m_w - mean   | tilted               | (k, S) | -, of x                            |
| D*(m - mean) | conjugate            | (S,)   | nats                               |
| s            | s                    | scalar | data units^2                       |

As t -> 0, beta(t) tends to t.C t/t.diag(F) t, at most the top eigenvalue of the covariance of x:
the linear threshold. Elsewhere, by the implicit function theorem,

    dbeta/dt = beta^2 (m_w - mean - D'(beta t)) / D*(D'(beta t)),

so at a maximum the output D'(beta t) + mean is the tilted mean m_w. The step that makes it so at
the present weights, t <- (theta(m_w) - theta_0)/beta, never lowers beta(t) (mean shift, the EM step
of a mixture). K(t) - v|t|^2/2 is not concave, so this is done from many starts, and the best are
polished by a quasi-Newton method: **a lower estimate**.

Held out: the tilt of one half of the samples, beta(t) on the other. Its standard error is that of
K(t), the spread of n w_i - t.y_i over sqrt(n), times |dbeta/dK| = beta^2/D*(D'(beta t)).

Sources: mean shift as EM: Carreira-Perpinan 2007; the rest is ours. Equalities that tests check:
`gradient` is the derivative of `evaluate`; no point of a grid over t is better than `maximise`.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from linvae.theory.eigenvalues import largest_eigenvalues
from linvae.theory.log_partition import Family, Likelihood, conjugate_at, family_of

__all__ = ["TiltMaximum", "TiltProblem", "held_out_threshold", "maximise", "tilted_weights"]

Array = npt.NDArray[np.float64]

COMPONENTS = 10  # principal directions to start from, both signs
SCALES = (0.5, 1.5, 4.0)  # standard deviations of t.y at the start
FAR_SAMPLES = NEAR_SAMPLES = 12  # samples to start from: the farthest, and random ones
ROUNDS = ((6, 24), (12, 4))  # steps of mean shift, starts kept after them
POLISH_STEPS = 150  # quasi-Newton steps from each start kept
PROBE = 1e-4  # standard deviations of t.y that stand for the limit t -> 0


# --- one group -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TiltProblem:
    """Samples about their mean, and what the search needs of them; symbols as in the module.

    y (n, d), centred; x (n, k) = y/sqrt(F) where y varies (`kept`, (d,) bool), the same samples in
    units in which the linear threshold is the top eigenvalue of their covariance. `scale` (k,) is
    sqrt(F), `axes` (k, c) and `variances` (c,) are leading eigenvectors and eigenvalues of that
    covariance, descending.
    """

    y: Array
    mean: Array
    x: Array
    kept: npt.NDArray[np.bool_]
    scale: Array
    family: Family
    axes: Array
    variances: Array

    @classmethod
    def of(cls, y: Array, likelihood: Likelihood, s: float) -> TiltProblem:
        """The problem of the samples y (n, d) of one group; s is the decoder variance."""
        mean = y.mean(axis=0)
        # less than this is rounding of the mean
        kept = np.ptp(y, axis=0) > 1e-13 * np.abs(mean)
        y = np.where(kept, y - mean, 0.0)
        family = family_of(likelihood, mean[kept], s)
        scale = np.sqrt(family.curvature)
        x = y[:, kept] / scale
        axes, variances = _leading_components(x)
        return cls(y, mean, x, kept, scale, family, axes, variances)

    @property
    def linear(self) -> float:
        """Linear threshold of beta."""
        return float(self.variances[0]) if len(self.variances) else 0.0

    @property
    def skewness(self) -> float:
        """Absolute skewness of the leading component of x."""
        scores = self.x @ self.axes[:, 0]
        return float(abs(np.mean(scores**3)) / np.mean(scores**2) ** 1.5)

    def tilt(self, tau: Array) -> Array:
        """t of the data units from tau = sqrt(F) t on the kept coordinates."""
        t = np.zeros(len(self.kept))
        t[self.kept] = tau / self.scale
        return t

    def evaluate(self, tau: Array) -> tuple[Array, Array]:
        """beta(t) and the tilted mean of x for each column of tau (k, S): (S,), (k, S)."""
        exponents = self.x @ tau
        top = exponents.max(axis=0)
        weights = np.exp(exponents - top)
        total = weights.sum(axis=0)
        K = _log_mean_exp(exponents, top, total)
        beta = self.family.critical_beta(tau / self.scale[:, None], K)
        return beta, self.x.T @ (weights / total)

    def mean_shift(self, beta: Array, tilted: Array) -> Array:
        """sqrt(F) (theta(m_w) - theta_0)/beta: beta(t) does not fall."""
        natural = self.family.natural(tilted * self.scale[:, None])
        shifted: Array = natural * self.scale[:, None] / beta
        return shifted

    def conjugate(self, tilted: Array) -> Array:
        """D*(m - mean) for each column of tilted means of x, (S,)."""
        shift = tilted * self.scale[:, None]
        natural = self.family.natural(shift)
        saved: Array = np.sum(natural * shift, axis=0) - self.family.divergence(natural)
        return saved

    def gradient(self, tau: Array, beta: float, tilted: Array) -> Array:
        """Derivative of beta(t) with respect to tau, by the implicit function theorem."""
        x = beta * tau / self.scale
        shift = self.family.shift(x[:, None])[:, 0]
        conjugate = conjugate_at(self.family, x)
        g: Array = beta**2 * (tilted - shift / self.scale) / max(conjugate, 1e-300)
        return g


def _leading_components(x: Array) -> tuple[Array, Array]:
    """Leading eigenvectors and eigenvalues of x^T x / n, at most COMPONENTS, descending."""
    n, k = x.shape
    count = min(COMPONENTS, n - 1, k)
    if count < 1:
        return np.zeros((k, 0)), np.zeros(0)
    small = (x.T @ x if k <= n else x @ x.T) / n
    values, vectors = largest_eigenvalues(small, count)
    keep = values[::-1] > 1e-12 * values[-1]
    values, vectors = values[::-1][keep], vectors[:, ::-1][:, keep]
    if k > n:
        vectors = x.T @ vectors / np.sqrt(n * values)
    return vectors, values


def _log_mean_exp(exponents: Array, top: Array, total: Array) -> Array:
    """K per column of exponents of mean 0, with their largest and the sum of exp(z - largest).

    Where all are small K is about mean z^2/2, which log(mean exp z) would lose to rounding.
    """
    K: Array = top + np.log(total / len(exponents))
    small = np.flatnonzero(top < 0.1)
    if len(small):
        z = exponents[:, small]
        K[small] = np.log1p(np.mean(np.expm1(z) - z, axis=0))
    return K


def tilted_weights(exponents: Array) -> Array:
    """w_i, (n,), of the exponents t.y_i; they sum to 1. A test checks the definition."""
    w = np.exp(exponents - exponents.max())
    normalised: Array = w / w.sum()
    return normalised


# --- the supremum from below ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TiltMaximum:
    """beta(t) at the tilt t (d,); `probe` is t, or a short vector along it in the limit t -> 0."""

    beta: float
    tilt: Array
    probe: Array


def maximise(problem: TiltProblem, rng: np.random.Generator) -> TiltMaximum:
    """The best of all starts and of the limit t -> 0, which is the linear threshold.

    `rng` draws some of the starts. 0 for samples without variance. Equality that a test checks: its
    output is the tilted mean, and no tilt of a grid is better.
    """
    d = len(problem.kept)
    if not problem.linear > 0:
        return TiltMaximum(0.0, np.zeros(d), np.zeros(d))
    tau = _starts(problem, rng)
    for steps, kept in ROUNDS:
        for _ in range(steps):
            beta, tilted = problem.evaluate(tau)
            tau = problem.mean_shift(beta, tilted)
        beta, _ = problem.evaluate(tau)
        tau = tau[:, _distinct(tau, beta, kept)]
    value, best = max((_polish(problem, column) for column in tau.T), key=operator.itemgetter(0))
    # nearer to 0 than the probe the gap is below skewness * PROBE/3, and lost in rounding
    near = float(np.linalg.norm(best)) * math.sqrt(problem.linear) < PROBE
    if near or value <= problem.linear * (1 + 1e-9):
        limit = problem.axes[:, 0] * PROBE / math.sqrt(problem.linear)
        return TiltMaximum(problem.linear, np.zeros(d), problem.tilt(limit))
    return TiltMaximum(value, problem.tilt(best), problem.tilt(best))


def _starts(problem: TiltProblem, rng: np.random.Generator) -> Array:
    """Columns tau: principal directions at several scales, and samples, (k, S)."""
    axes = problem.axes / np.sqrt(problem.variances)
    principal = [sign * scale * axes for scale in SCALES for sign in (1, -1)]
    n = len(problem.x)
    saved = problem.conjugate(problem.x.T)  # what each sample alone is worth, for log n nats
    far = np.argsort(saved)[-FAR_SAMPLES:]
    near = rng.choice(n, min(n, NEAR_SAMPLES), replace=False)
    rows = np.union1d(far, near)
    rows = rows[saved[rows] > 0]
    alone = problem.mean_shift(saved[rows] / math.log(n), problem.x[rows].T)
    return np.concatenate([*principal, alone, 0.4 * alone], axis=1)


def _distinct(tau: Array, beta: Array, count: int) -> npt.NDArray[np.intp]:
    """Indices of the best columns, at most `count`, none within 8 degrees of a better one."""
    unit = tau / np.maximum(np.linalg.norm(tau, axis=0), 1e-300)
    chosen: list[int] = []
    for j in np.argsort(-beta):
        if len(chosen) < count and np.all(unit[:, chosen].T @ unit[:, j] < 0.99):
            chosen.append(int(j))
    return np.array(chosen)


def _polish(problem: TiltProblem, start: Array) -> tuple[float, Array]:
    """Quasi-Newton ascent of log beta(t) from `start`: value and tau."""

    def fall(tau: Array) -> tuple[float, Array]:
        beta, tilted = problem.evaluate(tau[:, None])
        value = max(float(beta[0]), 1e-300)
        return -math.log(value), -problem.gradient(tau, value, tilted[:, 0]) / value

    options = {"maxiter": POLISH_STEPS, "ftol": 1e-12, "gtol": 1e-8}
    found = minimize(fall, start, jac=True, method="L-BFGS-B", options=options)
    return math.exp(-found.fun), found.x


# --- held out ------------------------------------------------------------------------------------


def held_out_threshold(
    y: Array,
    groups: list[npt.NDArray[np.intp]],
    likelihood: Likelihood,
    s: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Tilt and group from one half, beta(t) on the other: mean of both ways, standard error.

    y (n, d), `groups` the rows of each group, s the decoder variance; `rng` draws the halves. NaN
    where no group has 4 samples or a half has no variance. Equality that a test checks: 2 K/(s t^2)
    of the other half, by hand.
    """
    halves = [np.array_split(rng.permutation(g), 2) for g in groups if len(g) >= 4]
    values, errors = [], []
    for one in (0, 1):
        maxima = [maximise(TiltProblem.of(y[pair[one]], likelihood, s), rng) for pair in halves]
        best = max(range(len(maxima)), key=lambda g: maxima[g].beta, default=-1)
        if best < 0 or not maxima[best].beta > 0:
            return math.nan, math.nan
        rest = y[halves[best][1 - one]]
        value, error = _value_at(rest, maxima[best].probe, likelihood, s)
        values.append(value)
        errors.append(error)
    return float(np.mean(values)), math.hypot(*errors) / 2


def _value_at(y: Array, t: Array, likelihood: Likelihood, s: float) -> tuple[float, float]:
    """beta(t) on the samples y, about their own mean, with its standard error.

    The error is that of K(t): the spread of n w_i - t.y_i, the influence of each sample on it. The
    noise of the mean inside D is left out; a gaussian has none.
    """
    varies = np.ptp(y, axis=0) > 0  # elsewhere a Bernoulli or Poisson output is certain already
    mean, t = y.mean(axis=0), np.where(varies, t, 0.0) if likelihood != "gaussian" else t
    if not t.any():
        return 0.0, math.nan
    family = family_of(likelihood, mean, s)
    exponents = (y - mean) @ t
    w = tilted_weights(exponents)
    top = exponents.max()
    total = np.exp(exponents - top).sum()
    K = _log_mean_exp(exponents[:, None], np.array([top]), np.array([total]))
    beta = family.critical_beta(t[:, None], K)
    conjugate = conjugate_at(family, beta * t)
    error = float(np.std(len(y) * w - exponents)) / math.sqrt(len(y))
    slope = float(beta[0]) ** 2 / conjugate if conjugate > 0 else math.nan
    return float(beta[0]), slope * error
