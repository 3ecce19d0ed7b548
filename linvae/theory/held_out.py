"""What an optimum found on n samples is worth on the population.

Training sees the sample covariance C = 1/n sum x x^T, so the optimum is that of
`linvae.theory.solve` on C, exactly. Its mode i has a sample variance theta_i^2 (eigenvalue of C)
and a population variance p_i = q_i^T Cov(x) q_i along the same direction q_i. With
r_i = min(1, beta s/theta_i^2), 1 without a unit, that optimum on the population has, exactly,

    mean squared error = sum_i [ p_i r_i^2 + theta_i^2 r_i (1 - r_i) ]
    rate = 1/2 sum_i [ -log r_i - (1 - r_i)(1 - p_i/theta_i^2) ]
    what mode i gains over its collapse = [ p_i (1 - r_i) + theta_i^2 r_i log r_i ] / (2 s)

Since p_i < theta_i^2 for a direction chosen by the sample, a unit just below its threshold always
loses: it starts to pay at beta = r theta_i^2/s with r log(1/r)/(1 - r) = p_i/theta_i^2. With
x = p/theta^2 and L = log(1/r): L/(e^L - 1) = x, so L = -x - W(-x e^-x) on the lower branch of
Lambert's function.

| symbol    | argument             | shape  | unit         |
|-----------|----------------------|--------|--------------|
| theta_i^2 | mode_variances       | (d,)   | data units^2 |
| p_i       | population_variances | (d,)   | data units^2 |
| tr Cov(x) | total_variance       | scalar | data units^2 |
| beta      | beta                 | scalar | -            |
| s         | decoder_variance     | scalar | data units^2 |
| r_i       | noise fractions      | (d,)   | -            |

One level, learned encoder variance; the prior variance drops out. p_i is known for a population
that is known; `linvae.theory.spiked_covariance` has its limit.

All functions raise ValueError for variances below 0, beta or s not above 0, and arrays that are not
1-D and of one length.

Source: ours. Equality that a test checks: `held_out_terms` equals `objective` of the weights of
`solve` on the sample, evaluated on the population, for any covariance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import lambertw

from linvae.theory.arguments import checked_numbers, in_doubles
from linvae.theory.elbo import ObjectiveTerms
from linvae.theory.vae import noise_fraction

__all__ = [
    "held_out_critical_beta",
    "held_out_gains",
    "held_out_terms",
    "trained_noise_fractions",
]

Array = npt.NDArray[np.float64]

WHERE = "linvae.theory.held_out"
NEAR = 1e-3  # the series misses 3e-16 there, SciPy 3e-13
TINY = 2.3e-308  # the least normal double: SciPy's Lambert W may be NaN below


@in_doubles
def held_out_gains(
    mode_variances: npt.ArrayLike,
    population_variances: npt.ArrayLike,
    *,
    beta: float,
    decoder_variance: float,
) -> Array:
    """Nats per sample that each mode's unit saves on the population; negative where it costs.

    0 for a collapsed unit. A unit beyond `latent_dim` does not exist: slice it off. Equality that a
    test checks: what `objective` on the population loses when the unit is taken away.
    """
    theta2, p = _pair(mode_variances, population_variances)
    r = trained_noise_fractions(theta2, beta, decoder_variance)
    gains: Array = (p * (1 - r) + theta2 * r * np.log(r)) / (2 * decoder_variance)
    return gains


@in_doubles
def held_out_critical_beta(
    mode_variances: npt.ArrayLike,
    population_variances: npt.ArrayLike,
    *,
    decoder_variance: float,
) -> Array:
    """Beta below which the unit of a mode gains on the population, (d,): at most theta^2/s.

    Equality that a test checks: `held_out_gains` changes its sign there.
    """
    theta2, p = _pair(mode_variances, population_variances)
    x = np.divide(p, theta2, out=np.zeros_like(theta2), where=theta2 > 0)
    inside = (x >= TINY) & (x < 1)
    L = _log_noise(np.where(inside, x, 0.5))
    r = np.where(inside, np.exp(-L), np.where(x >= 1, 1.0, 0.0))
    critical: Array = r * theta2 / decoder_variance
    return critical


def _log_noise(x: Array) -> Array:
    """L = -log r > 0 with L/(e^L - 1) = x, 0 < x < 1: where x (1 - r) + r log r = 0.

    Lambert's function, but next to x = 1, where its branch begins and SciPy's is off by up to 1e-5
    or NaN, the series in gap = 1 - x: both good to 3e-13.
    """
    gap = 1 - x
    series = gap * (2 + gap * (2 / 3 + gap * (4 / 9 + gap * (44 / 135))))
    y = np.where(gap < NEAR, 0.5, x)
    return np.where(gap < NEAR, series, -y - lambertw(-y * np.exp(-y), k=-1).real)


@in_doubles
def held_out_terms(
    mode_variances: npt.ArrayLike,
    population_variances: npt.ArrayLike,
    *,
    latent_dim: int,
    beta: float,
    decoder_variance: float,
    total_variance: float | None = None,
) -> ObjectiveTerms:
    """Objective, distortion and rate on the population of the optimum found on the sample.

    Both arrays hold all d modes, in the order of the sample's; the `latent_dim` (int) largest have
    a unit. Nats per sample, all constants. `total_variance` = tr Cov(x) replaces the sum of
    `population_variances` where these are limits: what the spikes lost to the bulk is then
    counted once, among the modes without a unit. Equality that a test checks: `objective`.
    """
    theta2, p = _pair(mode_variances, population_variances)
    s, d = decoder_variance, len(theta2)
    kept = np.argsort(-theta2, kind="stable")[:latent_dim]
    r = np.ones(d)
    r[kept] = trained_noise_fractions(theta2[kept], beta, s)
    total = float(p.sum()) if total_variance is None else total_variance
    error = total + float(np.sum((r - 1) * (p * (1 + r) - theta2 * r)))
    shortfall = 1 - np.divide(p, theta2, out=np.ones(d), where=r < 1)
    rate = float(np.sum(-np.log(r) - (1 - r) * shortfall)) / 2
    distortion = d / 2 * np.log(2 * np.pi * s) + error / (2 * s)
    return ObjectiveTerms(float(distortion + beta * rate), float(distortion), np.array([rate]))


def trained_noise_fractions(theta2: Array, beta: float, decoder_variance: float) -> Array:
    """r = min(1, beta s/theta^2), (d,), as trained on the sample.

    Raises ValueError for beta or s not above 0. Equality that a test checks: r < 1 exactly where
    `solve` on the sample has an active unit.
    """
    b = checked_numbers("beta", beta, WHERE)
    level = float(b * checked_numbers("decoder_variance", decoder_variance, WHERE))
    with np.errstate(divide="ignore"):
        return noise_fraction(theta2 / level)


def _pair(
    mode_variances: npt.ArrayLike, population_variances: npt.ArrayLike
) -> tuple[Array, Array]:
    theta2 = checked_numbers("mode_variances", mode_variances, WHERE, zero=True)
    p = checked_numbers("population_variances", population_variances, WHERE, zero=True)
    if theta2.shape != p.shape or theta2.ndim != 1:
        raise ValueError(
            f"population_variances has shape {p.shape} but mode_variances has {theta2.shape}: "
            "both must be 1-D, one entry per mode"
        )
    return theta2, p
