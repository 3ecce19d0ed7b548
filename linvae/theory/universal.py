"""A threshold that no architecture can pass: above it full collapse is the global optimum.

Whatever the encoder, the prior and the number of latents, rate >= I(y; decoder output), so the
objective is at least the rate-distortion Lagrangian of the data, and that problem is convex. Its
optimality condition at one constant output says: full collapse is globally optimal if, and for
unrestricted encoders and decoders only if, for every decoder output eta

    E[ (p(y|eta) / p(y|eta_0))^(1/beta) ] <= 1,    eta_0 the best constant output.

With natural parameter theta_0 at eta_0 and t = (theta - theta_0)/beta the condition is, for every t
in R^d and with D of `linvae.theory.log_partition`,

    beta K(t) <= D(beta t),   K(t) = log E exp(t.(y - mean)),

and the universal threshold is beta_u = sup_t beta(t) with beta K(t) = D(beta t). Gaussian decoder:
s beta(t) = 2 K(t)/|t|^2, and s beta_u is the **sub-Gaussian variance proxy** of the data. As
t -> 0, beta(t) tends to t.C t / t.diag(F) t: the largest such ratio is the linear threshold
(lambda_max/s; for binary data the top eigenvalue of the correlation matrix), a lower bound of
beta_u. The next term has the third cumulant: skewness opens the gap.

The dual is a supremum over weights w of the samples, with the mean m_w that they give:
beta_u = sup_w D*(m_w - mean) / KL(w || uniform), **distortion saved per nat** (gaussian:
D* = |m_w - mean|^2/(2 s)). One sample alone saves D*(y_i - mean) for ln n.

| symbol | argument or field | shape  | unit                                   |
|--------|-------------------|--------|----------------------------------------|
| y      | target            | (n, d) | data units                             |
| s      | decoder_variance  | scalar | data units^2                           |
| t      | tilt              | (d,)   | 1/data units                           |
| m_w    | output            | (d,)   | data units, w_i = exp(t.y_i)/sum       |
| beta_u | critical_beta     | scalar | -                                      |
| -      | effective_samples | scalar | samples, 1/sum_i w_i^2                 |

**What is found is a lower estimate** (`linvae.theory.exponential_tilt`). The upper bound is
rigorous: with x the data divided by sqrt(F), D*(m) <= c |m|^2/2 in units of x (c = 1 gaussian, 2
else) and so beta_u <= c times the variance proxy of x, bounded in `linvae.theory.bennett_bound`.

Sources: the bound and its use here are ours; the optimality condition is that of rate-distortion
theory (Berger 1971) and, at beta = 1, of nonparametric mixture likelihood (Lindsay 1983).
Equality that a test checks: the proxy of a centred two-point law with probability p is
(1 - 2p)/(2 log((1 - p)/p)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from linvae.moments import as_array
from linvae.theory.bennett_bound import variance_proxy_bound
from linvae.theory.exponential_tilt import (
    TiltProblem,
    held_out_threshold,
    maximise,
    tilted_weights,
)
from linvae.theory.log_partition import Likelihood

__all__ = ["UniversalThreshold", "universal_threshold"]

Array = npt.NDArray[np.float64]


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
      with B held at that regression. It bounds neither a trained B nor a decoder that mixes x and
      z: these are below it where E[y|x] is not linear, above it where few samples with much
      leverage, or a spread of y that varies with x, make another fit worth a nat.

    Raises ValueError for an unknown likelihood, targets outside its range, a decoder variance
    without a gaussian, a target without variance, or a condition that is neither of these. Equality
    that a test checks: no tilt of a grid over the plane has a larger beta(t).
    """
    _check_likelihood(likelihood)
    y = _checked_target(target, likelihood)
    s = _checked_decoder_variance(decoder_variance, likelihood)
    y, labels = _conditioned(y, condition, likelihood)
    names, index = np.unique(labels, return_inverse=True)
    groups = [np.flatnonzero(index == g) for g in range(len(names))]
    problems = [TiltProblem.of(y[rows], likelihood, s) for rows in groups]
    if not any(problem.linear > 0 for problem in problems):
        given = "" if condition is None else " given the condition"
        raise ValueError(f"target has zero variance everywhere{given}: there is nothing to explain")
    rng = np.random.default_rng(seed)
    maxima = [maximise(problem, rng) for problem in problems]
    betas = np.array([m.beta for m in maxima])
    g = int(betas.argmax())
    held_out, error = held_out_threshold(y, groups, likelihood, s, rng)
    best, problem = maxima[g], problems[g]
    w = tilted_weights(problem.y @ best.tilt)
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


def _upper_bound(problem: TiltProblem) -> float:
    """Rigorous bound of beta_u; data of one group."""
    if not problem.linear > 0:
        return 0.0
    return problem.family.conjugate_bound * variance_proxy_bound(problem.x, problem.linear)


# --- arguments -----------------------------------------------------------------------------------


def _check_likelihood(likelihood: str) -> None:
    if likelihood not in get_args(Likelihood):
        raise ValueError(
            f"likelihood={likelihood!r} must be 'gaussian', 'bernoulli' or 'poisson' in "
            "universal_threshold: the condition on exponential tilts is not worked out for others"
        )


def _checked_target(target: npt.ArrayLike, likelihood: str) -> Array:
    array = as_array("target", target)
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
    c = as_array("condition", condition)
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
