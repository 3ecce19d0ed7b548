"""Finite samples: what an optimum found on n samples is worth on the population.

Training sees the sample covariance C = 1/n sum x x^T, so the optimum is that of
`linvae.theory.solve` on C, exactly. Its mode i has a sample variance theta_i^2 (eigenvalue of C)
and a population variance p_i = q_i^T Cov(x) q_i along the same direction q_i. With
r_i = min(1, beta s/theta_i^2), 1 without a unit, that optimum on the population has, exactly,

    mean squared error = sum_i [ p_i r_i^2 + theta_i^2 r_i (1 - r_i) ]
    rate = 1/2 sum_i [ -log r_i - (1 - r_i)(1 - p_i/theta_i^2) ]
    what mode i gains over its collapse = [ p_i (1 - r_i) + theta_i^2 r_i log r_i ] / (2 s)

Since p_i < theta_i^2 for a direction chosen by the sample, a unit just below its threshold always
loses: it starts to pay at beta = r theta_i^2/s with r log(1/r)/(1 - r) = p_i/theta_i^2.

p_i comes from the spiked covariance model: Cov(x) = v I plus spikes of eigenvalue v (1 + tau). For
d, n to infinity with gamma = d/n, a spike with tau > sqrt(gamma) gives

    theta^2 = v (1 + tau)(1 + gamma/tau)        a = (1 - gamma/tau^2)/(1 + gamma/tau)
    p = v (1 + tau a) = theta^2 / (1 + gamma/tau)^2

with a the squared overlap of sample and population direction. All other eigenvalues fill the
Marchenko-Pastur bulk between v (1 - sqrt gamma)^2 and v (1 + sqrt gamma)^2 (d - n of them are 0
where gamma > 1), with p = v.

| symbol       | argument              | shape        | unit         |
|--------------|-----------------------|--------------|--------------|
| theta_i^2    | mode_variances        | (d,)         | data units^2 |
| p_i          | population_variances  | (d,)         | data units^2 |
| v            | noise_variance        | broadcast    | data units^2 |
| v (1 + tau)  | population_eigenvalue | broadcast    | data units^2 |
| gamma = d/n  | aspect_ratio          | broadcast    | -            |
| alpha = n/N  | samples_per_dim       | broadcast    | -            |
| kappa        | weight_decay          | broadcast    | -            |

n counts the samples of an uncentred covariance; centring by the sample mean costs one.

Sources: Marchenko & Pastur 1967; spikes: Baik & Silverstein 2006, Paul 2007; the number of
spikes: the sequential test of Kritchman & Nadler 2009.
Held-out terms and thresholds are ours. The model of
`spiked_generalisation` is that of Ichikawa & Hukushima (arXiv 2309.07663), its solution ours.
Equality that a test checks: `held_out_terms` equals `objective` of the weights of `solve` on the
sample, evaluated on the population, for any covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv, lambertw

from linvae.moments import Moments
from linvae.theory.arguments import checked_numbers
from linvae.theory.elbo import ObjectiveTerms
from linvae.theory.penalised import penalised_critical_beta, penalised_optimum
from linvae.theory.solution import rounding_of
from linvae.theory.vae import noise_fraction

__all__ = [
    "ActiveUnitSplit",
    "NoiseEstimate",
    "SpikedGeneralisation",
    "active_unit_split",
    "bulk_cdf",
    "bulk_edges",
    "debiased_eigenvalue",
    "estimate_noise",
    "expected_active_units",
    "held_out_critical_beta",
    "held_out_gains",
    "held_out_terms",
    "overlap",
    "population_variance",
    "sample_eigenvalue",
    "spiked_generalisation",
]

Array = npt.NDArray[np.float64]

FALSE_ALARM = 0.01  # share of pure-noise spectra in which a spike is seen
STEPS_APART = 6.0  # isotropic noise stays within so many of its own eigenvalues of the limit
SHARE_APART = 0.02  # and a share of modes too small to matter is allowed at any size
LEVEL_STEPS = 20  # the correction of the noise level is of order 1/d: a few would do
FEWEST_EIGENVALUES = 20  # with fewer in the bulk its shape cannot be judged


# --- spikes and bulk ----------------------------------------------------------------------------


def bulk_edges(noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike) -> tuple[Array, Array]:
    """Edges v (1 -+ sqrt gamma)^2 of the sample eigenvalues of noise; zeros not counted."""
    v = _checked("noise_variance", noise_variance, positive=True)
    root = np.sqrt(_checked("aspect_ratio", aspect_ratio))
    return v * (1 - root) ** 2, v * (1 + root) ** 2


def sample_eigenvalue(
    population_eigenvalue: npt.ArrayLike,
    noise_variance: npt.ArrayLike,
    aspect_ratio: npt.ArrayLike,
) -> Array:
    """Limit of the sample eigenvalue that belongs to a population spike v (1 + tau).

    At or below tau = sqrt(gamma) the spike drowns: the upper edge of the bulk. Raises ValueError
    for a population eigenvalue below the noise.
    """
    tau, v, gamma = _strength(population_eigenvalue, noise_variance, aspect_ratio)
    visible = tau > np.sqrt(gamma)
    spike = v * (1 + tau) * (1 + gamma / np.where(visible, tau, 1.0))
    return np.where(visible, spike, bulk_edges(v, gamma)[1])


def overlap(
    population_eigenvalue: npt.ArrayLike,
    noise_variance: npt.ArrayLike,
    aspect_ratio: npt.ArrayLike,
) -> Array:
    """Limit a of the squared overlap of sample and population direction; 0 for a drowned spike."""
    tau, _, gamma = _strength(population_eigenvalue, noise_variance, aspect_ratio)
    visible = tau > np.sqrt(gamma)
    tau = np.where(visible, tau, 1.0)
    return np.where(visible, (1 - gamma / tau**2) / (1 + gamma / tau), 0.0)


def debiased_eigenvalue(
    eigenvalue: npt.ArrayLike, noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike
) -> Array:
    """Population eigenvalue v (1 + tau) of a sample eigenvalue; v at or below the upper edge.

    Inverse of `sample_eigenvalue`: tau solves tau^2 - (theta^2/v - 1 - gamma) tau + gamma = 0.
    """
    tau, v, _ = _debiased_strength(eigenvalue, noise_variance, aspect_ratio)
    return v * (1 + tau)


def population_variance(
    eigenvalue: npt.ArrayLike, noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike
) -> Array:
    """p = v (1 + tau a): population variance along the direction of a sample eigenvalue.

    v at or below the upper edge of the bulk. Equality that a test checks:
    p = theta^2/(1 + gamma/tau)^2.
    """
    tau, v, gamma = _debiased_strength(eigenvalue, noise_variance, aspect_ratio)
    visible = tau > 0
    shrunk = np.divide(tau * (1 + tau), tau + gamma, out=np.ones_like(tau), where=visible)
    return v * shrunk


def bulk_cdf(
    eigenvalue: npt.ArrayLike, noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike
) -> Array:
    """Share of the non-zero eigenvalues of pure noise at or below `eigenvalue`.

    Marchenko-Pastur; for gamma > 1 the non-zero ones are gamma times those of 1/gamma.
    """
    x = _checked("eigenvalue", eigenvalue) / _checked("noise_variance", noise_variance, True)
    gamma = _checked("aspect_ratio", aspect_ratio, positive=True)
    x, gamma = np.where(gamma > 1, x / gamma, x), np.where(gamma > 1, 1 / gamma, gamma)
    low, high = bulk_edges(1.0, gamma)
    left, right = np.maximum(x - low, 0.0), np.maximum(high - x, 0.0)
    # over the support `outer` falls from pi/2 to -pi/2 and so does `inner`: 0 to 2 pi gamma
    outer = np.arctan2(right - left, 2 * np.sqrt(left * right))
    inner = np.arctan2(low * right - high * left, 2 * (1 - gamma) * np.sqrt(left * right))
    total = np.pi * gamma + np.sqrt(left * right) - (1 + gamma) * outer + (1 - gamma) * inner
    inside = np.clip(total / (2 * np.pi * gamma), 0.0, 1.0)
    return np.where(x <= low, 0.0, np.where(x >= high, 1.0, inside))


# --- the optimum of the sample, on the population -----------------------------------------------


def held_out_gains(
    mode_variances: npt.ArrayLike,
    population_variances: npt.ArrayLike,
    *,
    beta: float,
    decoder_variance: float,
) -> Array:
    """Nats per sample that each mode's unit saves on the population; negative where it costs.

    0 for a collapsed unit. A unit beyond `latent_dim` does not exist: slice it off.
    """
    theta2, p = _pair(mode_variances, population_variances)
    r = _noise_fractions(theta2, beta, decoder_variance)
    gains: Array = (p * (1 - r) + theta2 * r * np.log(r)) / (2 * decoder_variance)
    return gains


def held_out_critical_beta(
    mode_variances: npt.ArrayLike,
    population_variances: npt.ArrayLike,
    *,
    decoder_variance: float,
) -> Array:
    """Beta below which the unit of a mode gains on the population: at most theta^2/s.

    With x = p/theta^2 and L = log(1/r): L/(e^L - 1) = x, so L = -x - W(-x e^-x) on the lower
    branch of Lambert's function. Good to 1e-8 next to x = 1, where the branch begins.
    """
    theta2, p = _pair(mode_variances, population_variances)
    x = np.divide(p, theta2, out=np.zeros_like(theta2), where=theta2 > 0)
    inside = (x > 0) & (x < 1)
    y = np.where(inside, x, 0.5)
    L = -y - lambertw(-y * np.exp(-y), k=-1).real
    r = np.where(inside, np.exp(-np.maximum(L, 0.0)), np.where(x > 0, 1.0, 0.0))
    critical: Array = r * theta2 / decoder_variance
    return critical


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

    One level, learned encoder variance; the prior variance drops out. Both arrays hold all d
    modes, in the order of the sample's. `total_variance` = tr Cov(x) replaces the sum of
    `population_variances` where these are limits: what the spikes lost to the bulk is then
    counted once, among the modes without a unit.
    """
    theta2, p = _pair(mode_variances, population_variances)
    s, d = decoder_variance, len(theta2)
    kept = np.argsort(-theta2, kind="stable")[:latent_dim]
    r = np.ones(d)
    r[kept] = _noise_fractions(theta2[kept], beta, s)
    total = float(p.sum()) if total_variance is None else total_variance
    error = total + float(np.sum((r - 1) * (p * (1 + r) - theta2 * r)))
    shortfall = 1 - np.divide(p, theta2, out=np.ones(d), where=r < 1)
    rate = float(np.sum(-np.log(r) - (1 - r) * shortfall)) / 2
    distortion = d / 2 * np.log(2 * np.pi * s) + error / (2 * s)
    return ObjectiveTerms(float(distortion + beta * rate), float(distortion), np.array([rate]))


def expected_active_units(
    population_eigenvalues: npt.ArrayLike,
    noise_variance: float,
    *,
    dim: int,
    n_samples: int,
    beta: float,
    decoder_variance: float,
    latent_dim: int,
) -> tuple[float, float]:
    """Useful and spurious active units that training on n samples gives, in the limit.

    `population_eigenvalues`: those of the spikes. Useful: a visible spike whose sample eigenvalue
    is above beta s. Spurious: units left over for the share of the bulk above beta s.
    """
    gamma, level = dim / n_samples, beta * decoder_variance
    theta2 = sample_eigenvalue(population_eigenvalues, noise_variance, gamma)
    visible = theta2 > bulk_edges(noise_variance, gamma)[1]
    useful = min(int(np.sum(visible & (theta2 > level))), latent_dim)
    bulk = min(dim, n_samples) - int(np.sum(visible))
    above = bulk * (1 - float(bulk_cdf(level, noise_variance, gamma)))
    return float(useful), float(min(above, latent_dim - useful))


# --- noise level and spikes of a given spectrum -------------------------------------------------


@dataclass(frozen=True)
class NoiseEstimate:
    """Isotropic noise and spikes read off one spectrum by `estimate_noise`.

    `threshold`: the largest eigenvalue that noise alone exceeds with the false-alarm level.
    `bulk_distance`: Kolmogorov distance of the bulk and Marchenko-Pastur, between 0 and 1.
    `allowed_distance`: what isotropic noise stays below. `applies`: the bulk looks like isotropic
    noise. Where it is False, as on images, the counts have no meaning beyond a comparison.
    """

    noise_variance: float
    n_spikes: int
    aspect_ratio: float
    threshold: float
    bulk_distance: float
    allowed_distance: float
    applies: bool

    def to_rows(self) -> list[dict[str, Any]]:
        """One row."""
        return [dict(vars(self))]


def estimate_noise(
    data: Moments | npt.ArrayLike,
    n_samples: int | None = None,
    *,
    centered: bool | None = None,
    false_alarm: float = FALSE_ALARM,
) -> NoiseEstimate:
    """Noise level and number of spikes of a sample spectrum.

    Rule: the noise level is the mean of the bulk, corrected for what the spikes took from it;
    the largest eigenvalue left is a spike if it exceeds the (1 - `false_alarm`) quantile of the
    largest of pure noise (Tracy-Widom); then both again without it, up to a quarter of the
    spectrum. It does not apply where the noise is not isotropic: see `NoiseEstimate.applies`.

    `data`: moments of a target without a condition, or all d eigenvalues (then `n_samples` is
    needed; `centered` says whether the sample mean was taken off, default True). Raises
    ValueError for a spectrum without any variance.
    """
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm={false_alarm} must be between 0 and 1 in estimate_noise")
    values, n = _spectrum(data, n_samples, centered)
    d, m = len(values), min(len(values), n)
    n_spikes, v = 0, _noise_level(values, n, 0)
    threshold = v * _largest_of_noise(n, d, false_alarm)
    while n_spikes < m // 4 and values[n_spikes] > threshold:
        n_spikes += 1
        v = _noise_level(values, n, n_spikes)
        threshold = v * _largest_of_noise(n, d - n_spikes, false_alarm)
    left = m - n_spikes
    distance = _bulk_distance(values[n_spikes:m], v, (d - n_spikes) / n)
    allowed = max(STEPS_APART / left, SHARE_APART)
    found_all = n_spikes < m // 4 and left >= FEWEST_EIGENVALUES
    return NoiseEstimate(
        noise_variance=v,
        n_spikes=n_spikes,
        aspect_ratio=d / n,
        threshold=threshold,
        bulk_distance=distance,
        allowed_distance=allowed,
        applies=bool(found_all and distance <= allowed),
    )


@dataclass(frozen=True, eq=False)
class ActiveUnitSplit:
    """Modes of a sample, the active ones split into useful and spurious.

    | field                  | per mode of the sample, descending                       | unit   |
    |------------------------|----------------------------------------------------------|--------|
    | mode_variances         | theta_i^2 that training sees                             | data^2 |
    | population_variances   | p_i along the same direction, estimated                  | data^2 |
    | overlaps               | a_i with the population direction, estimated             | -      |
    | critical_beta          | theta_i^2/s: collapses in training                       | -      |
    | debiased_critical_beta | v (1 + tau_i)/s: collapses with samples without end      | -      |
    | held_out_critical_beta | above it the trained unit costs more than it saves       | -      |
    | held_out_gains         | nats that the trained unit saves on the population       | nats   |
    | useful, spurious       | active and a spike; active and part of the bulk          | bool   |

    `noise.applies` says whether the split has a meaning.
    """

    noise: NoiseEstimate
    mode_variances: Array
    population_variances: Array
    overlaps: Array
    critical_beta: Array
    debiased_critical_beta: Array
    held_out_critical_beta: Array
    held_out_gains: Array
    useful: npt.NDArray[np.bool_]
    spurious: npt.NDArray[np.bool_]

    @property
    def useful_units(self) -> int:
        """Active units that follow a spike."""
        return int(self.useful.sum())

    @property
    def spurious_units(self) -> int:
        """Active units that carry noise."""
        return int(self.spurious.sum())

    @property
    def costly_units(self) -> int:
        """Active units, useful or spurious, that raise the objective on the population."""
        return int(np.sum(self.held_out_gains < 0))

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per mode."""
        names = [name for name in vars(self) if name != "noise"]
        columns = [getattr(self, name).tolist() for name in names]
        rows = zip(*columns, strict=True)
        return [{"mode": i} | dict(zip(names, row, strict=True)) for i, row in enumerate(rows, 1)]


def active_unit_split(
    data: Moments | npt.ArrayLike,
    n_samples: int | None = None,
    *,
    beta: float,
    decoder_variance: float,
    latent_dim: int,
    centered: bool | None = None,
    false_alarm: float = FALSE_ALARM,
) -> ActiveUnitSplit:
    """Active units of the optimum on a sample: which carry signal, which carry noise.

    Arguments of the data as in `estimate_noise`; one level, learned encoder variance. Look at
    `.noise.applies` first: images have no isotropic noise.
    """
    noise = estimate_noise(data, n_samples, centered=centered, false_alarm=false_alarm)
    scaled, n = _spectrum(data, n_samples, centered)
    theta2 = scaled * _training_scale(data, n, centered)
    s, v, gamma = decoder_variance, noise.noise_variance, noise.aspect_ratio
    spike = np.arange(len(theta2)) < noise.n_spikes
    debiased = np.where(spike, debiased_eigenvalue(scaled, v, gamma), v)
    p = np.where(spike, population_variance(scaled, v, gamma), v)
    has_unit = np.arange(len(theta2)) < latent_dim
    active = has_unit & (_noise_fractions(theta2, beta, s) < 1)
    gains = held_out_gains(theta2, p, beta=beta, decoder_variance=s)
    return ActiveUnitSplit(
        noise=noise,
        mode_variances=theta2,
        population_variances=p,
        overlaps=np.where(spike, overlap(debiased, v, gamma), 0.0),
        critical_beta=theta2 / s,
        debiased_critical_beta=debiased / s,
        held_out_critical_beta=held_out_critical_beta(theta2, p, decoder_variance=s),
        held_out_gains=np.where(active, gains, 0.0),
        useful=active & spike,
        spurious=active & ~spike,
    )


# --- the model of Ichikawa & Hukushima ----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SpikedGeneralisation:
    """Limit of the trained optimum of `spiked_generalisation`, one entry per alpha (broadcast).

    | field                | meaning                                                   | unit   |
    |----------------------|-----------------------------------------------------------|--------|
    | generalisation_error | eps_g = 1 - 2 |m| + Q, 1 when collapsed                   | -      |
    | signal_overlap       | |m| = |w . W0|/N                                          | -      |
    | decoder_norm         | Q = |w|^2/N                                               | -      |
    | mode_variance        | top eigenvalue of the sample                              | data^2 |
    | weight_decay         | kappa = lambda/alpha, per sample, on the acting weights   | -      |
    | rate, held_out_rate  | KL on the sample and on the population                    | nats   |
    | held_out_gain        | objective saved on the population, decay not counted      | nats   |
    | held_out_error       | squared error on the population minus eta N;              | data^2 |
    |                      | rho when collapsed                                        |        |
    """

    samples_per_dim: Array
    generalisation_error: Array
    signal_overlap: Array
    decoder_norm: Array
    mode_variance: Array
    weight_decay: Array
    rate: Array
    held_out_rate: Array
    held_out_gain: Array
    held_out_error: Array

    @property
    def critical_beta(self) -> Array:
        """Beta above which the optimum is collapsed."""
        return penalised_critical_beta(self.mode_variance, weight_decay=self.weight_decay)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per alpha."""
        rows = zip(*(np.ravel(v).tolist() for v in vars(self).values()), strict=True)
        return [dict(zip(vars(self), row, strict=True)) for row in rows]


def spiked_generalisation(
    samples_per_dim: npt.ArrayLike,
    *,
    beta: npt.ArrayLike,
    weight_decay: npt.ArrayLike,
    signal_variance: float = 1.0,
    noise_variance: float = 1.0,
) -> SpikedGeneralisation:
    """Linear VAE with one unit on x = sqrt(rho/N) W0 c + sqrt(eta) n, trained on n = alpha N.

    The model of Ichikawa & Hukushima: no bias, weights divided by sqrt(N), |W0|^2 = N, decoder and
    prior variance 1, (lambda/2)(|w|^2 + |w_enc|^2) added to the objective summed over the n
    samples; that is kappa = lambda/alpha per sample on the weights that act. In the limit the
    decoder lies along the top sample direction: Q = u^2, m = u sqrt(a).
    """
    alpha = _checked("samples_per_dim", samples_per_dim, positive=True)
    b = _checked("beta", beta, positive=True)
    kappa = _checked("weight_decay", weight_decay) / alpha
    alpha, b, kappa = np.broadcast_arrays(alpha, b, kappa)
    population = noise_variance + signal_variance
    theta2 = sample_eigenvalue(population, noise_variance, 1 / alpha)
    a = overlap(population, noise_variance, 1 / alpha)
    optimum = penalised_optimum(theta2, beta=b, weight_decay=kappa)
    u, w, sigma2 = optimum.decoder, optimum.encoder, optimum.encoder_variance
    m, p = u * np.sqrt(a), noise_variance + signal_variance * a
    saved = p * (1 - (1 - u * w) ** 2) - u**2 * sigma2
    held_out_rate = (w**2 * p + sigma2 - 1 - np.log(sigma2)) / 2
    return SpikedGeneralisation(
        samples_per_dim=alpha,
        generalisation_error=1 - 2 * m + u**2,
        signal_overlap=m,
        decoder_norm=u**2,
        mode_variance=theta2,
        weight_decay=kappa,
        rate=(w**2 * theta2 + sigma2 - 1 - np.log(sigma2)) / 2,
        held_out_rate=held_out_rate,
        held_out_gain=saved / 2 - b * held_out_rate,
        held_out_error=signal_variance - saved,
    )


# --- the parts ----------------------------------------------------------------------------------


def _checked(name: str, values: npt.ArrayLike, positive: bool = False) -> Array:
    return checked_numbers(name, values, "linvae.theory.finite_samples", zero=not positive)


def _strength(
    population_eigenvalue: npt.ArrayLike,
    noise_variance: npt.ArrayLike,
    aspect_ratio: npt.ArrayLike,
) -> tuple[Array, Array, Array]:
    """tau, v and gamma, of one shape."""
    population, v, gamma = np.broadcast_arrays(
        _checked("population_eigenvalue", population_eigenvalue),
        _checked("noise_variance", noise_variance, positive=True),
        _checked("aspect_ratio", aspect_ratio),
    )
    below = population < v
    if np.any(below):
        raise ValueError(
            f"population_eigenvalue={population[below].flat[0]} must be at least "
            f"noise_variance={v[below].flat[0]}: spikes below the noise are not covered"
        )
    return population / v - 1, v, gamma


def _debiased_strength(
    eigenvalue: npt.ArrayLike, noise_variance: npt.ArrayLike, aspect_ratio: npt.ArrayLike
) -> tuple[Array, Array, Array]:
    """tau of sample eigenvalues, 0 within the bulk; v and gamma, of one shape."""
    theta2, v, gamma = np.broadcast_arrays(
        _checked("eigenvalue", eigenvalue),
        _checked("noise_variance", noise_variance, positive=True),
        _checked("aspect_ratio", aspect_ratio),
    )
    b = theta2 / v - 1 - gamma
    root = np.sqrt(np.maximum(b**2 - 4 * gamma, 0.0))
    return np.where(theta2 > bulk_edges(v, gamma)[1], (b + root) / 2, 0.0), v, gamma


def _pair(
    mode_variances: npt.ArrayLike, population_variances: npt.ArrayLike
) -> tuple[Array, Array]:
    theta2 = _checked("mode_variances", mode_variances)
    p = _checked("population_variances", population_variances)
    if theta2.shape != p.shape or theta2.ndim != 1:
        raise ValueError(
            f"population_variances has shape {p.shape} but mode_variances has {theta2.shape}: "
            "both must be 1-D, one entry per mode"
        )
    return theta2, p


def _noise_fractions(theta2: Array, beta: float, decoder_variance: float) -> Array:
    """r = min(1, beta s/theta^2), as trained on the sample."""
    level = float(
        _checked("beta", beta, True) * _checked("decoder_variance", decoder_variance, True)
    )
    with np.errstate(divide="ignore"):
        return noise_fraction(theta2 / level)


def _spectrum(
    data: Moments | npt.ArrayLike, n_samples: int | None, centered: bool | None
) -> tuple[Array, int]:
    """Descending eigenvalues of an unbiased covariance, and its degrees of freedom."""
    if isinstance(data, Moments):
        if data.condition_dim:
            raise ValueError(
                f"data has condition_dim={data.condition_dim} but finite samples are covered for "
                "a target without a condition only"
            )
        n_samples = data.n_samples if n_samples is None else n_samples
        values = np.linalg.eigvalsh(data.target_covariance)
    else:
        values = np.asarray(data, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"data has shape {values.shape} but must be d finite eigenvalues, 1-D")
    if n_samples is None or n_samples < 3:
        raise ValueError(
            f"n_samples={n_samples} must be an integer >= 3: the bulk depends on it; "
            "pass the number of samples behind the covariance"
        )
    if not values.max() > 0:
        raise ValueError(f"data has largest eigenvalue {values.max()} but must have some variance")
    floor = rounding_of(len(values)) * values.max()
    lost = _lost_to_mean(data, centered)
    scale = n_samples / (n_samples - lost)
    unbiased: Array = np.sort(np.where(values > floor, values * scale, 0.0))[::-1]
    return unbiased, n_samples - lost


def _lost_to_mean(data: Moments | npt.ArrayLike, centered: bool | None) -> int:
    """Degrees of freedom that the sample mean costs, 0 or 1."""
    known = data.centered if isinstance(data, Moments) else True
    return int(known if centered is None else centered)


def _training_scale(data: Moments | npt.ArrayLike, n: int, centered: bool | None) -> float:
    """Training divides by all samples, not by the degrees of freedom n."""
    return n / (n + _lost_to_mean(data, centered))


def _noise_level(values: Array, n: int, n_spikes: int) -> float:
    """Mean of the bulk, plus what the spikes took from it: gamma v (1 + tau)/tau each."""
    d, gamma = len(values), len(values) / n
    spikes, rest = values[:n_spikes], float(values[n_spikes:].sum())
    v = rest / (d - n_spikes)
    for _ in range(LEVEL_STEPS if n_spikes else 0):
        tau = np.maximum(_debiased_strength(spikes, v, gamma)[0], np.sqrt(gamma))
        v = rest / (d - n_spikes - float(np.sum(gamma * (1 + tau) / tau)))
    return v


def _largest_of_noise(n: int, d: int, false_alarm: float) -> float:
    """(1 - false_alarm) quantile of the largest sample eigenvalue of unit noise.

    Tracy-Widom with the centring of Johnstone 2001 and Ma 2012; its quantile by the shifted
    gamma law of Chiani 2014, which has its first three moments.
    """
    a, b = np.sqrt(n - 0.5), np.sqrt(d - 0.5)
    quantile = 0.186054 * float(gammaincinv(46.446, 1 - false_alarm)) - 9.84801
    return float((a + b) ** 2 + quantile * (a + b) * (1 / a + 1 / b) ** (1 / 3)) / n


def _bulk_distance(bulk: Array, v: float, gamma: float) -> float:
    """Largest difference of the two distribution functions."""
    expected = bulk_cdf(bulk[::-1], v, gamma)
    steps = np.arange(len(bulk) + 1) / len(bulk)
    return float(max(np.max(steps[1:] - expected), np.max(expected - steps[:-1])))
