"""Isotropic noise and spikes of a sample spectrum: is there a noise level, and what exceeds it?

The sample is that of `linvae.theory.spiked_covariance`: v the noise, tau_j the strengths of k
spikes, gamma = d/n. With l_1 >= ... >= l_d the eigenvalues of the unbiased covariance,

    v (d - k - sum_j gamma (1 + tau_j)/tau_j) = l_{k+1} + ... + l_d

since each spike takes gamma v (1 + tau)/tau from the bulk. The largest of m eigenvalues of unit
noise stays, with probability 1 - alpha, below

    [ (a + b)^2 + F^-1(1 - alpha) (a + b)(1/a + 1/b)^(1/3) ] / n,   a^2 = n - 1/2, b^2 = m - 1/2

F the Tracy-Widom law (order 1), approximated by a shifted gamma law with its first three moments.
An eigenvalue above v times this is a spike; then both again without it.

| symbol  | argument or field | shape  | unit         |
|---------|-------------------|--------|--------------|
| l_i     | data              | (d,)   | data units^2 |
| n       | n_samples         | scalar | -            |
| alpha   | false_alarm       | scalar | -            |
| v       | noise_variance    | scalar | data units^2 |
| k       | n_spikes          | scalar | -            |
| gamma   | aspect_ratio      | scalar | -            |

Sources: the sequential test: Kritchman & Nadler 2009; centring and scale: Johnstone
2001 and Ma 2012; the quantile: Chiani 2014. The test of isotropy (`applies`) is ours. Equality that
a test checks: pure noise has a spike in a share `false_alarm` of samples, within 3 standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

from linvae.moments import Moments, doubles
from linvae.theory.solution import rounding_of
from linvae.theory.spiked_covariance import bulk_cdf, debiased_strength

__all__ = ["FALSE_ALARM", "NoiseEstimate", "estimate_noise", "training_scale", "unbiased_spectrum"]

Array = npt.NDArray[np.float64]

FALSE_ALARM = 0.01  # share of pure-noise spectra in which a spike is seen
STEPS_APART = 6.0  # isotropic noise stays within so many of its own eigenvalues of the limit
SHARE_APART = 0.02  # and a share of modes too small to matter is allowed at any size
LEVEL_STEPS = 20  # the correction of the noise level is of order 1/d: a few would do
FEWEST_EIGENVALUES = 20  # with fewer in the bulk its shape cannot be judged


@dataclass(frozen=True)
class NoiseEstimate:
    """Isotropic noise and spikes read off one spectrum by `estimate_noise`; scalars.

    | field            | meaning                                                | unit   |
    |------------------|--------------------------------------------------------|--------|
    | noise_variance   | v                                                      | data^2 |
    | n_spikes         | k, eigenvalues above the threshold                     | -      |
    | aspect_ratio     | gamma = d/n                                            | -      |
    | threshold        | noise alone exceeds it with probability `false_alarm`  | data^2 |
    | bulk_distance    | Kolmogorov distance of the bulk and Marchenko-Pastur   | -      |
    | allowed_distance | what isotropic noise stays below                       | -      |
    | applies          | the bulk looks like isotropic noise                    | bool   |

    Where `applies` is False, as on images, the counts have no meaning beyond a comparison.
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
    ValueError for a spectrum without any variance, eigenvalues that are not 1-D and finite, fewer
    than 3 samples or none given, a condition, and a `false_alarm` outside (0, 1). Equality that a
    test checks: three visible spikes are three, and v is the noise within 5 standard errors + 1/d.
    """
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm={false_alarm} must be between 0 and 1 in estimate_noise")
    values, n = unbiased_spectrum(data, n_samples, centered)
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


def _noise_level(values: Array, n: int, n_spikes: int) -> float:
    """v, by iteration: the strengths of the spikes depend on it."""
    d, gamma = len(values), len(values) / n
    spikes, rest = values[:n_spikes], float(values[n_spikes:].sum())
    v = rest / (d - n_spikes)
    for _ in range(LEVEL_STEPS):
        tau = np.maximum(debiased_strength(spikes, v, gamma)[0], np.sqrt(gamma))
        v = rest / (d - n_spikes - float(np.sum(gamma * (1 + tau) / tau)))
    return v


def _largest_of_noise(n: int, d: int, false_alarm: float) -> float:
    """(1 - false_alarm) quantile of the largest sample eigenvalue of unit noise."""
    a, b = np.sqrt(n - 0.5), np.sqrt(d - 0.5)
    quantile = 0.186054 * float(gammaincinv(46.446, 1 - false_alarm)) - 9.84801
    return float((a + b) ** 2 + quantile * (a + b) * (1 / a + 1 / b) ** (1 / 3)) / n


def _bulk_distance(bulk: Array, v: float, gamma: float) -> float:
    """Largest difference of the two distribution functions."""
    expected = bulk_cdf(bulk[::-1], v, gamma)
    steps = np.arange(len(bulk) + 1) / len(bulk)
    return float(max(np.max(steps[1:] - expected), np.max(expected - steps[:-1])))


def unbiased_spectrum(
    data: Moments | npt.ArrayLike, n_samples: int | None, centered: bool | None
) -> tuple[Array, int]:
    """Descending eigenvalues of an unbiased covariance, (d,), and its degrees of freedom.

    Arguments and errors as in `estimate_noise`. Equality that a test checks: with the sample mean
    taken off, n/(n - 1) times the eigenvalues of the moments, and n - 1.
    """
    if isinstance(data, Moments):
        if data.condition_dim:
            raise ValueError(
                f"data has condition_dim={data.condition_dim} but finite samples are covered for "
                "a target without a condition only"
            )
        n_samples = data.n_samples if n_samples is None else n_samples
        values = np.linalg.eigvalsh(data.target_covariance)
    else:
        values = doubles("data", data)
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


def training_scale(data: Moments | npt.ArrayLike, n: int, centered: bool | None) -> float:
    """What turns those eigenvalues into the theta_i^2 that training sees, n degrees of freedom.

    Training divides by all samples. Equality that a test checks: n/(n + 1) with the mean taken off.
    """
    return n / (n + _lost_to_mean(data, centered))


def _lost_to_mean(data: Moments | npt.ArrayLike, centered: bool | None) -> int:
    """Degrees of freedom that the sample mean costs, 0 or 1."""
    known = data.centered if isinstance(data, Moments) else True
    return int(known if centered is None else centered)
