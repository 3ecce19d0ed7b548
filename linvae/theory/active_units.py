"""Useful and spurious active units: which follow a spike of the population, which carry noise.

A unit of the optimum on n samples is active where the sample's theta_i^2 exceeds beta s. Useful:
the mode is a visible spike. Spurious: it is part of the bulk, an eigenvalue that noise alone makes.
With v, tau, gamma, a and p of `linvae.theory.spiked_covariance` the mode has three thresholds,

    theta_i^2/s                                       collapses in training
    v (1 + tau_i)/s                                   collapses with samples without end
    held_out_critical_beta(theta_i^2, p_i) < both     above it the unit costs more than it saves

In the limit the bulk has (min(d, n) - visible spikes) (1 - F_MP(beta s)) eigenvalues above beta s,
F_MP its distribution function.

| symbol      | argument or field      | shape  | unit         |
|-------------|------------------------|--------|--------------|
| v (1 + tau) | population_eigenvalues | (k,)   | data units^2 |
| v           | noise_variance         | scalar | data units^2 |
| d, n        | dim, n_samples         | scalar | -            |
| beta, s     | beta, decoder_variance | scalar | -, data units^2 |
| theta_i^2   | mode_variances         | (d,)   | data units^2 |
| p_i         | population_variances   | (d,)   | data units^2 |
| a_i         | overlaps               | (d,)   | -            |

One level, learned encoder variance. Source: ours. Equality that a test checks: useful plus spurious
units are `solve`'s active units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments
from linvae.theory.arguments import in_doubles
from linvae.theory.held_out import (
    held_out_critical_beta,
    held_out_gains,
    trained_noise_fractions,
)
from linvae.theory.noise_estimation import (
    FALSE_ALARM,
    NoiseEstimate,
    estimate_noise,
    training_scale,
    unbiased_spectrum,
)
from linvae.theory.spiked_covariance import (
    bulk_cdf,
    bulk_edges,
    debiased_eigenvalue,
    overlap,
    population_variance,
    sample_eigenvalue,
)

__all__ = ["ActiveUnitSplit", "active_unit_split", "expected_active_units"]

Array = npt.NDArray[np.float64]


@in_doubles
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

    `population_eigenvalues`: those of the spikes. Spurious units are those left over of
    `latent_dim`, as far as the bulk above beta s has modes for them. Raises ValueError as the maps
    of `linvae.theory.spiked_covariance`. Equality that a test checks: their sum is the mean count
    of samples, within 1.
    """
    gamma, level = dim / n_samples, beta * decoder_variance
    theta2 = sample_eigenvalue(population_eigenvalues, noise_variance, gamma)
    visible = theta2 > bulk_edges(noise_variance, gamma)[1]
    rank = min(dim, n_samples)
    useful = min(int(np.sum(visible & (theta2 > level))), latent_dim, rank)
    bulk = max(rank - int(np.sum(visible)), 0)
    above = bulk * (1 - float(bulk_cdf(level, noise_variance, gamma)))
    return float(useful), float(min(above, latent_dim - useful))


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


@in_doubles
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

    Arguments of the data, and errors, as in `estimate_noise`; also ValueError for beta or a decoder
    variance not above 0. Look at `.noise.applies` first: images have no isotropic noise. Equality
    that a test checks: useful and spurious units are `solve`'s active units.
    """
    noise = estimate_noise(data, n_samples, centered=centered, false_alarm=false_alarm)
    scaled, n = unbiased_spectrum(data, n_samples, centered)
    theta2 = scaled * training_scale(data, n, centered)
    s, v, gamma = decoder_variance, noise.noise_variance, noise.aspect_ratio
    spike = np.arange(len(theta2)) < noise.n_spikes
    debiased = np.where(spike, debiased_eigenvalue(scaled, v, gamma), v)
    p = np.where(spike, population_variance(scaled, v, gamma), v)
    has_unit = np.arange(len(theta2)) < latent_dim
    active = has_unit & (trained_noise_fractions(theta2, beta, s) < 1)
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
