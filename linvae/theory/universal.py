"""A threshold that no architecture can pass: above it full collapse is the global optimum.

Whatever the encoder, the prior and the number of latents, rate >= I(y; decoder output), so the
objective is at least the rate-distortion Lagrangian of the data, and that problem is convex. Its
optimality condition at one constant output says: full collapse is globally optimal if, and for
unrestricted encoders and decoders only if, for every decoder output eta

    E[ (p(y|eta) / p(y|eta_0))^(1/beta) ] <= 1,    eta_0 the best constant output.

Write p(y|eta) as an exponential family with log-partition A, natural parameter theta_0 at eta_0,
and t = (theta - theta_0)/beta. Then the condition is, for every t in R^d,

    beta K(t) <= D(beta t),   K(t) = log E exp(t.(y - mean)),
                              D(x) = A(theta_0 + x) - A(theta_0) - x.mean,

and the universal threshold is beta_u = sup_t beta(t) with beta K(t) = D(beta t):

| decoder   | D(x), summed over coordinates | D''(0) = F | threshold                     |
|-----------|-------------------------------|------------|-------------------------------|
| gaussian  | s x^2 / 2                     | s          | s beta(t) = 2 K(t)/|t|^2      |
| bernoulli | log(1 - m + m e^x) - m x      | m (1 - m)  | root of beta K(t) = D(beta t) |
| poisson   | m (e^x - 1 - x)               | m          | root of beta K(t) = D(beta t) |

with m the mean of the coordinate. Gaussian: s beta_u is the **sub-Gaussian variance proxy** of the
data. As t -> 0, beta(t) tends to t.C t / t.diag(F) t: the largest such ratio is the linear
threshold (lambda_max/s; for binary data the top eigenvalue of the correlation matrix), a lower
bound of beta_u. The next term has the third cumulant: skewness opens the gap.

The dual is a supremum over weights w of the samples, with the mean m_w that they give:
beta_u = sup_w D*(m_w - mean) / KL(w || uniform), **distortion saved per nat**, D* the convex
conjugate of D (gaussian: |m_w - mean|^2/(2 s)). One sample alone saves D*(y_i - mean) for ln n.

| symbol | argument or field | shape  | unit                                   |
|--------|-------------------|--------|----------------------------------------|
| y      | target            | (n, d) | data units                             |
| s      | decoder_variance  | scalar | data units^2                           |
| t      | tilt              | (d,)   | 1/data units                           |
| m_w    | output            | (d,)   | data units, w_i = exp(t.y_i)/sum       |
| -      | effective_samples | scalar | samples, 1/sum_i w_i^2                 |

**What is found is a lower estimate**: K(t) - v|t|^2/2 is not concave, so the supremum over the
samples is approached from many starts, by t <- (theta(m_w) - theta_0)/beta, which never lowers
beta(t) (mean shift, the EM step of a mixture), and then by a quasi-Newton method. The upper bound
is rigorous. With x the data divided by sqrt(F), lambda the top eigenvalue of its covariance and R
its largest norm, Bennett's inequality (1962) gives

    beta_u <= V(lambda, R) = (R^2 - lambda^2/R^2) / (2 log(R^2/lambda))        (gaussian),

exact for two-point data, and twice that for the other two, where D* is at most a chi-square. It is
sharpened with the norms of all samples (`_upper_bound`).

Sources: the bound and its use here are ours; the optimality condition is that of rate-distortion
theory (Berger 1971) and, at beta = 1, of nonparametric mixture likelihood (Lindsay 1983).
Equality that a test checks: the proxy of a centred two-point law with probability p is
(1 - 2p)/(2 log((1 - p)/p)).
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.optimize import minimize

__all__ = ["Likelihood", "UniversalThreshold", "universal_threshold"]

Array = npt.NDArray[np.float64]
Likelihood = Literal["gaussian", "bernoulli", "poisson"]

COMPONENTS = 10  # principal directions to start from, both signs
SCALES = (0.5, 1.5, 4.0)  # standard deviations of t.y at the start
FAR_SAMPLES = NEAR_SAMPLES = 12  # samples to start from: the farthest, and random ones
ROUNDS = ((6, 24), (12, 4))  # steps of mean shift, starts kept after them
POLISH_STEPS = 150  # quasi-Newton steps from each start kept
LARGEST_LOGIT = 30.0  # outputs this certain are certain: 1e-13
PROBE = 1e-4  # standard deviations of t.y that stand for the limit t -> 0


@dataclass(frozen=True, eq=False)
class UniversalThreshold:
    """The universal threshold of a data set; d coordinates, G groups (1 without labels).

    | field                        | meaning                                            | unit   |
    |------------------------------|----------------------------------------------------|--------|
    | critical_beta                | largest beta(t) found: a lower estimate of beta_u  | -      |
    | linear_critical_beta         | the limit t -> 0: linear threshold, below beta_u   | -      |
    | critical_beta_upper_bound    | rigorous: beta_u of these samples is below it      | -      |
    | held_out_critical_beta       | tilt from one half of the samples, value on the    | -      |
    |                              | other, mean of both ways; NaN below 4 samples      |        |
    | held_out_standard_error      | of that value, from the spread over samples        | -      |
    | tilt                         | maximising t, (d,); 0 in the limit t -> 0          | 1/data |
    | direction                    | unit vector along t, in the limit of that t, (d,)  | -      |
    | output                       | best competitor of the constant output: mean of    | data   |
    |                              | the samples with weights exp(t.y), (d,)            |        |
    | effective_samples            | 1/sum w^2 of those weights: near 1, one sample is  | -      |
    |                              | memorised and the threshold says nothing of others |        |
    | leading_skewness             | absolute skewness of the leading component         | -      |
    | group_labels, group_sizes    | (G,); label -1 without a discrete condition        | -      |
    | group_critical_betas         | the threshold of every group, (G,)                 | -      |
    | binding_group                | index of the group that the other fields describe  | -      |

    Variances for the gaussian likelihood, NaN otherwise: `variance_proxy` = s critical_beta,
    `linear_variance` = s linear_critical_beta (lambda_max), `variance_proxy_upper_bound`,
    `held_out_variance_proxy`; they do not depend on s.
    `linear_critical_beta` and the bound are maxima over groups.
    Equality that a test checks: with labels, critical_beta = max of group_critical_betas.
    """

    likelihood: Likelihood
    decoder_variance: float
    critical_beta: float
    linear_critical_beta: float
    critical_beta_upper_bound: float
    held_out_critical_beta: float
    held_out_standard_error: float
    tilt: Array
    direction: Array
    output: Array
    effective_samples: float
    leading_skewness: float
    group_labels: npt.NDArray[np.intp]
    group_sizes: npt.NDArray[np.intp]
    group_critical_betas: Array
    binding_group: int

    @property
    def variance_proxy(self) -> float:
        """s critical_beta, data units^2: a lower estimate of the sub-Gaussian variance proxy."""
        return self._variance(self.critical_beta)

    @property
    def linear_variance(self) -> float:
        """s linear_critical_beta, data units^2: the largest eigenvalue of the covariance."""
        return self._variance(self.linear_critical_beta)

    @property
    def variance_proxy_upper_bound(self) -> float:
        """s critical_beta_upper_bound, data units^2: the proxy of these samples is below it."""
        return self._variance(self.critical_beta_upper_bound)

    @property
    def held_out_variance_proxy(self) -> float:
        """s held_out_critical_beta, data units^2."""
        return self._variance(self.held_out_critical_beta)

    def _variance(self, beta: float) -> float:
        return self.decoder_variance * beta if self.likelihood == "gaussian" else math.nan

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per group; what describes the whole is repeated in each."""
        whole = {
            "likelihood": self.likelihood,
            "decoder_variance": self.decoder_variance,
            "critical_beta": self.critical_beta,
            "linear_critical_beta": self.linear_critical_beta,
            "critical_beta_upper_bound": self.critical_beta_upper_bound,
            "held_out_critical_beta": self.held_out_critical_beta,
            "held_out_standard_error": self.held_out_standard_error,
            "variance_proxy": self.variance_proxy,
            "held_out_variance_proxy": self.held_out_variance_proxy,
            "effective_samples": self.effective_samples,
            "leading_skewness": self.leading_skewness,
        }
        return [
            {
                "group": int(label),
                "group_size": int(size),
                "group_critical_beta": float(beta),
                "binding": g == self.binding_group,
            }
            | whole
            for g, (label, size, beta) in enumerate(
                zip(self.group_labels, self.group_sizes, self.group_critical_betas, strict=True)
            )
        ]


def universal_threshold(
    target: npt.ArrayLike,
    *,
    decoder_variance: float = 1.0,
    likelihood: Likelihood = "gaussian",
    condition: npt.ArrayLike | None = None,
    seed: int = 0,
) -> UniversalThreshold:
    """The beta above which full collapse is the global optimum for every architecture.

    `target` (n, d): the samples. `likelihood`: "gaussian" with `decoder_variance`, "bernoulli"
    (targets in [0, 1]; between 0 and 1 the cross-entropy is the loss, as it is in practice), or
    "poisson" (targets >= 0). `seed` draws the halves and some of the starts.

    `condition`, what encoder and decoder are given beside z:
    - labels, integers (n,): the threshold is the maximum over the groups, each about its own
      mean. With few samples in a group it is soon memorised: look at `group_sizes`.
    - continuous, (n, dx), gaussian only: the supremum over single conditions cannot be estimated
      from one sample at each. What is given instead is the threshold of the residuals of the
      linear regression, with intercept, on the condition: exact for decoders B x + g(z), any g,
      with B held at that regression. It bounds no decoder that mixes x and z freely: these are
      below it where E[y|x] is not linear, above it where the spread of y varies with x.

    Raises ValueError for an unknown likelihood, targets outside its range, a decoder variance
    without a gaussian, a target without variance, or a condition that is neither of these.
    """
    _check_likelihood(likelihood)
    y = _checked_target(target, likelihood)
    s = _checked_decoder_variance(decoder_variance, likelihood)
    y, labels = _conditioned(y, condition, likelihood)
    names, index = np.unique(labels, return_inverse=True)
    groups = [np.flatnonzero(index == g) for g in range(len(names))]
    problems = [_Problem.of(y[rows], likelihood, s) for rows in groups]
    if not any(problem.linear > 0 for problem in problems):
        given = "" if condition is None else " given the condition"
        raise ValueError(f"target has zero variance everywhere{given}: there is nothing to explain")
    rng = np.random.default_rng(seed)
    maxima = [_maximise(problem, rng) for problem in problems]
    betas = np.array([m.beta for m in maxima])
    g = int(betas.argmax())
    held_out, error = _held_out(y, groups, likelihood, s, rng)
    best, problem = maxima[g], problems[g]
    w = _weights(problem.y @ best.tilt)
    return UniversalThreshold(
        likelihood=likelihood,
        decoder_variance=s,
        critical_beta=best.beta,
        linear_critical_beta=max(p.linear for p in problems),
        critical_beta_upper_bound=max(_upper_bound(p) for p in problems),
        held_out_critical_beta=held_out,
        held_out_standard_error=error,
        tilt=best.tilt,
        direction=best.probe / np.linalg.norm(best.probe),
        output=problem.mean + w @ problem.y,
        effective_samples=float(1 / np.sum(w**2)),
        leading_skewness=problem.skewness,
        group_labels=names,
        group_sizes=np.array([len(rows) for rows in groups]),
        group_critical_betas=betas,
        binding_group=g,
    )


# --- the three likelihoods: D(x), D'(x) and its inverse, per coordinate (d,) by columns (S,) ------


@dataclass(frozen=True, eq=False)
class _Gaussian:
    curvature: Array  # F = s, (d,)

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
    mean: Array

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


_Family = _Gaussian | _Bernoulli | _Poisson


def _log1p_above(x: Array) -> Array:
    """log(1 + x), x >= -1; at -1 (a coordinate without variance) finite."""
    return np.log1p(np.maximum(x, -1 + 1e-16))


def _not_above_500(x: Array) -> Array:
    return np.minimum(x, 500.0)  # e^500 is finite and above every root


def _critical_beta(family: _Family, t: Array, K: Array) -> Array:
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


# --- one group -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Problem:
    """Samples about their mean, and what the search needs of them.

    y (n, d), centred; x (n, k) = y/sqrt(F) where y varies (`kept`, (d,) bool), the same samples in
    units in which the linear threshold is the top eigenvalue of their covariance. `axes` (k, c)
    and `variances` (c,): leading eigenvectors and eigenvalues of it, descending.
    """

    y: Array
    mean: Array
    x: Array
    kept: npt.NDArray[np.bool_]
    scale: Array
    family: _Family
    axes: Array
    variances: Array

    @classmethod
    def of(cls, y: Array, likelihood: str, s: float) -> _Problem:
        mean = y.mean(axis=0)
        # less than this is rounding of the mean
        kept = np.ptp(y, axis=0) > 1e-13 * np.abs(mean)
        y = np.where(kept, y - mean, 0.0)
        family = _family(likelihood, mean[kept], s)
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
        x = (beta * tau / self.scale)[:, None]
        shift = self.family.shift(x)[:, 0]
        conjugate = float(shift @ x[:, 0] - self.family.divergence(x)[0])  # D*(m) >= 0
        g: Array = beta**2 * (tilted - shift / self.scale) / max(conjugate, 1e-300)
        return g


def _family(likelihood: str, mean: Array, s: float) -> _Family:
    if likelihood == "gaussian":
        return _Gaussian(np.full(len(mean), s))
    if likelihood == "bernoulli":
        return _Bernoulli(mean * (1 - mean), mean)
    return _Poisson(mean, mean)


def _leading_components(x: Array) -> tuple[Array, Array]:
    """Leading eigenvectors and eigenvalues of x^T x / n, at most COMPONENTS, descending."""
    n, k = x.shape
    count = min(COMPONENTS, n - 1, k)
    if count < 1:
        return np.zeros((k, 0)), np.zeros(0)
    small = (x.T @ x if k <= n else x @ x.T) / n
    size = len(small)
    values, vectors = eigh(small, subset_by_index=[size - count, size - 1])
    keep = values[::-1] > 1e-12 * values[-1]
    values, vectors = values[::-1][keep], vectors[:, ::-1][:, keep]
    if k > n:
        vectors = x.T @ vectors / np.sqrt(n * values)
    return vectors, values


# --- the supremum from below ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Maximum:
    """beta(t) at the tilt t; `probe` is t, or a short vector along it where t = 0 is the limit."""

    beta: float
    tilt: Array
    probe: Array


def _maximise(problem: _Problem, rng: np.random.Generator) -> _Maximum:
    """The best of all starts and of the limit t -> 0, which is the linear threshold."""
    d = len(problem.kept)
    if not problem.linear > 0:
        return _Maximum(0.0, np.zeros(d), np.zeros(d))
    tau = _starts(problem, rng)
    beta = np.zeros(0)
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
        return _Maximum(problem.linear, np.zeros(d), problem.tilt(limit))
    return _Maximum(value, problem.tilt(best), problem.tilt(best))


def _starts(problem: _Problem, rng: np.random.Generator) -> Array:
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


def _polish(problem: _Problem, start: Array) -> tuple[float, Array]:
    """Quasi-Newton ascent of log beta(t) from `start`: value and tau."""

    def fall(tau: Array) -> tuple[float, Array]:
        beta, tilted = problem.evaluate(tau[:, None])
        value = max(float(beta[0]), 1e-300)
        return -math.log(value), -problem.gradient(tau, value, tilted[:, 0]) / value

    options = {"maxiter": POLISH_STEPS, "ftol": 1e-12, "gtol": 1e-8}
    found = minimize(fall, start, jac=True, method="L-BFGS-B", options=options)
    return math.exp(-found.fun), found.x


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


def _weights(exponents: Array) -> Array:
    w = np.exp(exponents - exponents.max())
    normalised: Array = w / w.sum()
    return normalised


# --- held out ------------------------------------------------------------------------------------


def _held_out(
    y: Array,
    groups: list[npt.NDArray[np.intp]],
    likelihood: str,
    s: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Tilt and group from one half, beta(t) on the other: mean of both ways, standard error."""
    halves = [np.array_split(rng.permutation(g), 2) for g in groups if len(g) >= 4]
    values, errors = [], []
    for one in (0, 1):
        maxima = [_maximise(_Problem.of(y[pair[one]], likelihood, s), rng) for pair in halves]
        best = max(range(len(maxima)), key=lambda g: maxima[g].beta, default=-1)
        if best < 0 or not maxima[best].beta > 0:
            return math.nan, math.nan
        rest = y[halves[best][1 - one]]
        value, error = _value_at(rest, maxima[best].probe, likelihood, s)
        values.append(value)
        errors.append(error)
    return float(np.mean(values)), math.hypot(*errors) / 2


def _value_at(y: Array, t: Array, likelihood: str, s: float) -> tuple[float, float]:
    """beta(t) on the samples y, about their own mean, with its standard error.

    The error is that of K(t): the spread of n w_i - t.y_i, the influence of each sample on it. The
    noise of the mean inside D is left out; a gaussian has none.
    """
    varies = np.ptp(y, axis=0) > 0  # elsewhere a Bernoulli or Poisson output is certain already
    mean, t = y.mean(axis=0), np.where(varies, t, 0.0) if likelihood != "gaussian" else t
    if not t.any():
        return 0.0, math.nan
    family = _family(likelihood, mean, s)
    exponents = (y - mean) @ t
    w = _weights(exponents)
    top = exponents.max()
    total = np.exp(exponents - top).sum()
    K = _log_mean_exp(exponents[:, None], np.array([top]), np.array([total]))
    beta = family.critical_beta(t[:, None], K)
    x = beta * t[:, None]
    conjugate = float(np.sum(family.shift(x) * x) - family.divergence(x)[0])
    error = float(np.std(len(y) * w - exponents)) / math.sqrt(len(y))
    slope = float(beta[0]) ** 2 / conjugate if conjugate > 0 else math.nan
    return float(beta[0]), slope * error


# --- the supremum from above ---------------------------------------------------------------------


def _upper_bound(problem: _Problem) -> float:
    """Rigorous bound of beta_u from the norms of the samples; data of one group."""
    if not problem.linear > 0:
        return 0.0
    bound = _proxy_bound(problem.x, problem.linear)
    # D*(m) <= |m|^2 in units of x (a chi-square bounds the Kullback-Leibler divergence), against
    # |m|^2/2 for a gaussian
    return bound if isinstance(problem.family, _Gaussian) else 2 * bound


def _proxy_bound(x: Array, largest: float) -> float:
    """A bound of sup_t 2 K(t)/|t|^2 for centred x with top eigenvalue `largest`.

    Upper bounds B_k of K on the spheres |t| = r_k give one in between, as K is convex on rays: the
    chord. Bennett's bound serves first, and is replaced where the supremum sits, until there is
    nothing left to replace. Below r_0 the inequality e^z <= 1 + z + phi(r R) z^2 (phi as in
    `_norms_bound`) is close, above r_max 2 K/|t|^2 <= 2 R/r_max = lambda.
    """
    norms = np.linalg.norm(x, axis=1)
    R = float(norms.max())
    q = R**2 / largest
    closed = largest * ((q - 1 / q) / (2 * math.log(q)) if q > 1 + 1e-9 else 1.0)
    low, high = 0.03 / math.sqrt(largest), 2 * R / largest
    r = np.geomspace(low, high, 2 + int(math.log(high / low) / 0.2))
    p = 1 / (1 + q)  # the two-point law with variance lambda and largest value R
    B = np.logaddexp(np.log1p(-p) - r * largest / R, math.log(p) + r * R)
    fresh = np.ones(len(r), dtype=bool)
    start = 2 * float(_phi(np.array(low * R))) * largest
    while True:
        bounds = _chord_bounds(r, B)
        worst = int(bounds.argmax())
        ends = [k for k in (worst, worst + 1) if fresh[k]]
        if not ends or bounds[worst] <= max(start, largest):
            return min(closed, max(float(bounds[worst]), start, largest))
        for k in ends:
            B[k] = min(B[k], _norms_bound(x, norms, float(r[k]), largest / R))
            fresh[k] = False


def _chord_bounds(r: Array, B: Array) -> Array:
    """Largest 2 (a + b r)/r^2 on each interval of the grid, with the chord a + b r through B."""
    # K/r rises with r, so B/r may be made to: then a <= 0 < b, and the summit is at -2a/b
    B = r * np.minimum.accumulate((B / r)[::-1])[::-1]
    b = np.diff(B) / np.diff(r)
    a = B[:-1] - b * r[:-1]
    summit = np.clip(-2 * a / b, r[:-1], r[1:])
    bounds: Array = 2 * (a + b * summit) / summit**2
    return bounds


def _norms_bound(x: Array, norms: Array, r: float, alpha: float) -> float:
    """Bound of K on |t| = r, Bennett's inequality sample by sample.

    z <= r (R_i + alpha) gives e^z <= 1 + z + phi_i z^2, phi(z) = (e^z - 1 - z)/z^2, for
    z = t.x_i + r alpha; its mean is a quadratic form in t, at most its top eigenvalue. With equal
    norms R_i and alpha = lambda/R this is Bennett's bound.
    """
    f = _phi(r * (norms + alpha))
    weighted = x * np.sqrt(f / len(x))[:, None]
    side = weighted.T @ weighted if x.shape[1] <= len(x) else weighted @ weighted.T
    last = len(side) - 1
    top = float(eigh(side, eigvals_only=True, subset_by_index=[last, last])[0])
    v = float(np.linalg.norm(f @ x)) / len(x)
    quadratic = top + 2 * alpha * v + alpha**2 * float(f.mean())
    return math.log1p(r * alpha + r**2 * quadratic) - r * alpha


def _phi(z: Array) -> Array:
    """(e^z - 1 - z)/z^2, increasing; 1/2 at 0."""
    z = np.maximum(z, 1e-4)  # phi is 1/2 + z/6 there: rounded up
    values: Array = (np.expm1(z) - z) / z**2
    return values


# --- arguments -----------------------------------------------------------------------------------


def _check_likelihood(likelihood: str) -> None:
    if likelihood not in get_args(Likelihood):
        raise ValueError(
            f"likelihood={likelihood!r} must be 'gaussian', 'bernoulli' or 'poisson' in "
            "universal_threshold: the condition on exponential tilts is not worked out for others"
        )


def _checked_target(target: npt.ArrayLike, likelihood: str) -> Array:
    array = np.asarray(target)
    if array.ndim != 2 or array.shape[1] == 0 or len(array) < 2:
        raise ValueError(
            f"target has shape {array.shape} but must be 2-D, (samples, dimensions), with at least "
            "2 samples"
        )
    if array.dtype.kind not in "fiub":
        raise ValueError(f"target has dtype {array.dtype} but must be numeric")
    y = array.astype(np.float64)
    low, high = float(y.min()), float(y.max()) + 0.0  # no -0
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("target contains NaN or infinite entries: remove those samples")
    top = {"gaussian": math.inf, "bernoulli": 1.0, "poisson": math.inf}[likelihood]
    if likelihood != "gaussian" and not (low >= 0 and high <= top):
        allowed = "[0, 1]" if likelihood == "bernoulli" else "[0, inf)"
        raise ValueError(
            f"target has entries from {low:.6g} to {high:.6g} but likelihood={likelihood!r} needs "
            f"them in {allowed}: rescale them, or use likelihood='gaussian'"
        )
    return y


def _checked_decoder_variance(value: float, likelihood: str) -> float:
    if likelihood != "gaussian":
        if value != 1.0:
            raise ValueError(
                f"decoder_variance={value!r} has no meaning with likelihood={likelihood!r} in "
                "universal_threshold: leave it out"
            )
        return 1.0
    if isinstance(value, (bool, str)) or not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"decoder_variance={value!r} must be a finite number > 0 in universal_threshold: for "
            "'learned' give its value when collapsed, the mean variance per dimension"
        )
    return float(value)


def _conditioned(
    y: Array, condition: npt.ArrayLike | None, likelihood: str
) -> tuple[Array, npt.NDArray[np.intp]]:
    """Targets (residuals for a continuous condition) and group labels (-1: all one group)."""
    one_group = np.full(len(y), -1)
    if condition is None:
        return y, one_group
    c = np.asarray(condition)
    if len(c.shape) == 0 or len(c) != len(y):
        raise ValueError(
            f"condition has shape {c.shape} but target has {len(y)} samples: they must have the "
            "same length"
        )
    if c.ndim == 1 and c.dtype.kind in "iub":
        return y, c.astype(np.intp)
    if c.ndim != 2 or c.dtype.kind not in "fiub":
        raise ValueError(
            f"condition has shape {c.shape} and dtype {c.dtype} but must be labels, integers (n,), "
            "or continuous, numbers (n, dx)"
        )
    if likelihood != "gaussian":
        raise ValueError(
            f"condition is continuous but likelihood={likelihood!r}: only a gaussian has linear "
            "residuals; give labels, integers (n,)"
        )
    return _residuals(y, c.astype(np.float64)), one_group


def _residuals(y: Array, condition: Array) -> Array:
    """y less its linear regression, with intercept, on the condition."""
    if not np.all(np.isfinite(condition)):
        raise ValueError("condition contains NaN or infinite entries: remove those samples")
    design = np.column_stack([np.ones(len(y)), condition - condition.mean(axis=0)])
    residuals: Array = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    # exact regressions leave rounding, which is no variance
    floor = 1e-12 * np.abs(y - y.mean(axis=0)).max(axis=0, initial=0.0)
    return np.where(np.abs(residuals).max(axis=0) > floor, residuals, 0.0)
