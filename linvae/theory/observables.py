"""What a solved linear model predicts for the statistics that people count.

Per mode of a solution, with second moment m, noise fraction r and prior variance eta^2: the
posterior mean has variance m (1 - r) and is Gaussian where the data are. One level:

    KL(q(z|y) || p(z)) = sum_i 1/2 (sigma_i^2/eta^2 - 1 - log(sigma_i^2/eta^2)) + mu_i^2/(2 eta^2)
                       = floor + sum_i a_i chi^2_1,    a_i = m_i (1 - r_i)/(2 eta^2)

independent chi-squared variables on Gaussian data: the floor is what every sample pays, the rest
differs from sample to sample. The share of samples below a small epsilon is local collapse (Song et
al. 2025): zero as soon as the floor exceeds epsilon.

| symbol         | argument or field                  | shape           | unit           |
|----------------|------------------------------------|-----------------|----------------|
| sigma^2        | Solution.encoder_variances         | (levels, modes) | latent units^2 |
| r, m           | Solution.noise_fractions, sigma^2/r| (levels, modes) | -, latent units^2 |
| eta^2          | spec.prior_variances               | (levels,)       | latent units^2 |
| tau            | threshold                          | scalar          | latent units^2 |
| epsilon, delta | epsilon, delta                     | scalar          | nats, -        |
| floor          | floor_nats                         | scalar          | nats           |
| a_i            | scales_nats                        | (modes,)        | nats           |
| KL             | sample_rates, nats                 | (n,), scalar    | nats           |

Sources: active units: Burda et al. 2016; (epsilon, delta)-collapse: Lucas et al. 2019; the laws of
a linear model are ours. Equality that a test checks: the mean of `rate_distribution` is
`Solution.rates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtr

from linvae.moments import Moments, doubles
from linvae.spec import HVAESpec, LinearSpec
from linvae.theory.elbo import Chain
from linvae.theory.solution import Solution

__all__ = [
    "RateDistribution",
    "active_unit_counts",
    "collapsed_unit_counts",
    "rate_distribution",
    "rate_floor",
    "require_one_level",
    "sample_rates",
    "units_above",
]

Array = npt.NDArray[np.float64]
NODES = (24, 20)  # of two Talbot contours, which agree to 1e-10 where rounding does not grow
AGREEMENT = 1e-9
MOST_TERMS = 512 * 400  # of the Fourier sum, which many units end after some hundred


def active_unit_counts(solution: Solution, threshold: float = 0.01) -> npt.NDArray[np.intp]:
    """Units whose posterior mean has variance m (1 - r) > `threshold`, (levels,).

    With a learned encoder variance these are the modes with
    theta^2 > beta s / (1 - threshold/eta^2), slightly fewer than `solution.active_units`. Equality
    that a test checks: the diagonal of the exact covariance of the posterior mean.
    """
    return np.asarray(np.sum(_mean_variances(solution) > threshold, axis=1))


def units_above(solution: Solution, cutoff_nats: float) -> npt.NDArray[np.intp]:
    """Units with KL > `cutoff_nats`, (levels,): what a count with a cut-off sees.

    One level with a learned variance: #{theta^2 > beta s exp(2 cutoff)}, fewer than
    `solution.active_units`. Equality that a test checks: that count.
    """
    return np.asarray(np.sum(np.nan_to_num(solution.mode_rates) > cutoff_nats, axis=1))


def collapsed_unit_counts(
    spec: LinearSpec, solution: Solution, epsilon: float, delta: float
) -> npt.NDArray[np.intp]:
    """Units with KL(q(z|x) || p(z)) < `epsilon` for a share >= 1 - `delta` of Gaussian data.

    The KL exceeds its mean part by mu^2/(2 v), chi-squared with one degree of freedom; v is the
    prior variance in a model of one level with a learned variance, else the variance m of the
    aggregate posterior (the convention of `linvae.metrics.observe`). Units without a mode count.
    Equality that a test checks: the share among drawn samples.
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


@dataclass(frozen=True, eq=False)
class RateDistribution:
    """KL of a random sample: `floor_nats` + sum of `scales_nats` times chi-squared variables."""

    floor_nats: float
    scales_nats: Array

    @property
    def mean_nats(self) -> float:
        """The rate. Equality that a test checks: `solution.rates[0]`."""
        return self.floor_nats + float(np.sum(self.scales_nats))

    def sample(self, n: int, seed: int) -> Array:
        """KL of `n` random samples, (n,) nats."""
        drawn = np.random.default_rng(seed).chisquare(1, size=(n, len(self.scales_nats)))
        return np.asarray(self.floor_nats + drawn @ self.scales_nats)

    @property
    def variance_nats2(self) -> float:
        """Variance over samples, 2 sum a_i^2."""
        return 2 * float(np.sum(self.scales_nats**2))

    def share_below(self, nats: float) -> float:
        """Share of samples with KL below `nats`, to about 1e-9.

        Few units: the Laplace transform prod (1 + 2 a_i t)^(-1/2) has its singularities on the
        negative axis, and Talbot's contour inverts it (Abate & Valko 2004). Many: rounding would
        grow along that contour, but the characteristic function dies out fast (Davies 1973).
        Equality that a test checks: k equal scales 1/2 give chi-squared with k degrees of freedom.
        """
        room, a = nats - self.floor_nats, self.scales_nats[self.scales_nats > 0]
        if room <= 0 or len(a) == 0:
            return float(room > 0)
        shares = [_talbot(a, room, nodes) for nodes in NODES]
        share = shares[0] if abs(shares[0] - shares[1]) < AGREEMENT else _fourier(a, room)
        return float(np.clip(share, 0.0, 1.0))


def _talbot(a: Array, room: float, n: int) -> float:
    radius = 2 * n / (5 * room)
    angle = np.arange(1, n) * np.pi / n
    cot = 1 / np.tan(angle)
    nodes = np.append(radius, radius * angle * (cot + 1j))
    steps = np.append(0.5, 1 + 1j * (angle + (angle * cot - 1) * cot))
    log_transform = -np.log1p(2 * a[:, None] * nodes).sum(axis=0) / 2
    terms = np.exp(nodes * room + log_transform) / nodes * steps
    return float(radius / n * terms.real.sum())


def _fourier(a: Array, room: float) -> float:
    """1/2 - sum_k Im[phi(u_k) exp(-i u_k x)]/(pi (k + 1/2)), u_k = (k + 1/2) step."""
    mean, deviation = float(np.sum(a)), float(np.sqrt(2 * np.sum(a**2)))
    step = 2 * np.pi / (mean + 40 * deviation + room)  # the period: nothing lies beyond it
    total = 0.0
    for start in range(0, MOST_TERMS, 512):
        k = np.arange(start, start + 512) + 0.5
        phi = np.exp(-np.log1p(-2j * a[:, None] * (k * step)).sum(axis=0) / 2)
        total += float(np.sum((phi * np.exp(-1j * k * step * room)).imag / (np.pi * k)))
        if abs(phi[-1]) < 1e-12:
            break
    return 0.5 - total


def rate_distribution(spec: LinearSpec, solution: Solution) -> RateDistribution:
    """Distribution of the KL over Gaussian samples, of a model with one level; else ValueError.

    Equality that a test checks: its mean is `solution.rates[0]`.
    """
    require_one_level(spec, "rate_distribution")
    eta2 = spec.prior_variances[0]
    ratio = solution.encoder_variances[0] / eta2
    ratio = ratio[np.isfinite(ratio)]
    floor = float(np.sum(ratio - 1 - np.log(ratio)) / 2)
    return RateDistribution(floor, _mean_variances(solution)[0] / (2 * eta2))


def sample_rates(
    spec: LinearSpec,
    moments: Moments,
    weights: Mapping[str, npt.ArrayLike],
    target: npt.ArrayLike,
    condition: npt.ArrayLike | None = None,
) -> Array:
    """KL(q(z|v) || p(z)) of every sample, (n,) nats, for the weights of a model with one level.

    `target` (n, d), `condition` (n, dx). Raises ValueError for several levels, other columns than
    those of `moments`, and as `objective`. Equality that a test checks: the mean over the samples
    behind `moments` is `objective(spec, moments, weights).rates[0]`.
    """
    require_one_level(spec, "sample_rates")
    chain = Chain.from_weights(spec, moments, weights)
    y = doubles("target", target)
    v = y if condition is None else np.concatenate([doubles("condition", condition), y], axis=1)
    if v.shape[1] != len(moments.mean):
        raise ValueError(
            f"target and condition have {v.shape[1]} columns but moments have {len(moments.mean)}"
        )
    mu = (v - moments.mean if moments.centered else v) @ chain.encoder.T
    floor = rate_floor(chain, eta2 := spec.prior_variances[0])
    rates: Array = floor + np.sum(mu**2, axis=1) / (2 * eta2)
    return rates


def rate_floor(chain: Chain, prior_variance: float) -> float:
    """KL of a sample whose posterior mean is 0, nats: what every sample pays."""
    Sigma, k = chain.Sigma[0], len(chain.Sigma[0])
    log_det = np.linalg.slogdet(Sigma)[1] - k * np.log(prior_variance)
    return float(np.trace(Sigma) / prior_variance - k - log_det) / 2


def require_one_level(spec: LinearSpec, what: str) -> None:
    """ValueError for a hierarchy."""
    if isinstance(spec, HVAESpec) and len(spec.latent_dims) > 1:
        raise ValueError(
            f"spec has {len(spec.latent_dims)} levels but {what} needs one: the KL of a lower "
            "level depends on the sample above it"
        )


def _mean_variances(solution: Solution) -> Array:
    """m (1 - r) of every level and mode, 0 without a unit."""
    r = solution.noise_fractions
    variances: Array = np.nan_to_num(solution.encoder_variances * (1 / r - 1), nan=0.0)
    return variances
