"""Generalisation of a linear VAE with one unit and weight decay on one spike, in the limit.

    x = sqrt(rho/N) W0 c + sqrt(eta) n,  |W0|^2 = N,  trained on n = alpha N samples

No bias, weights divided by sqrt(N), decoder and prior variance 1, (lambda/2)(|w|^2 + |w_enc|^2)
added to the objective summed over the samples: kappa = lambda/alpha per sample on the weights that
act. In the limit N to infinity the optimum lies along the top sample direction, whose variance
theta^2 and overlap a are those of `linvae.theory.spiked_covariance` at v = eta, tau = rho/eta,
gamma = 1/alpha; decoder u, encoder w and variance sigma^2 of the mode are those of
`linvae.theory.penalised`. With p = eta + rho a the population variance along it,

    eps_g = 1 - 2 |m| + Q,   Q = u^2,   |m| = u sqrt(a)
    error saved on the population = p (1 - (1 - u w)^2) - u^2 sigma^2
    rate on the population = (w^2 p + sigma^2 - 1 - log sigma^2)/2

| symbol     | argument or field   | shape     | unit         |
|------------|---------------------|-----------|--------------|
| alpha = n/N| samples_per_dim     | broadcast | -            |
| beta       | beta                | broadcast | -            |
| lambda     | weight_decay        | broadcast | nats         |
| rho        | signal_variance     | scalar    | data units^2 |
| eta        | noise_variance      | scalar    | data units^2 |
| eps_g      | generalisation_error| broadcast | -            |
| |m|, Q     | signal_overlap, decoder_norm | broadcast | - |

Sources: the model and eps_g: Ichikawa & Hukushima (arXiv 2309.07663); its solution is ours.
Equality that a test checks: rate, gain and error on the population are those of `objective` of the
same weights on the limit's covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.theory.arguments import checked_numbers, in_doubles
from linvae.theory.penalised import penalised_critical_beta, penalised_optimum
from linvae.theory.spiked_covariance import overlap, sample_eigenvalue

__all__ = ["SpikedGeneralisation", "spiked_generalisation"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpikedGeneralisation:
    """Limit of the trained optimum of `spiked_generalisation`, one entry per alpha (broadcast).

    | field                | meaning                                                   | unit   |
    |----------------------|-----------------------------------------------------------|--------|
    | generalisation_error | eps_g = 1 + Q - 2 |m|, 1 when collapsed                   | -      |
    | signal_overlap       | |m|, |w . W0|/N                                           | -      |
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
        """Beta above which the optimum is collapsed, `linvae.theory.penalised`."""
        return penalised_critical_beta(self.mode_variance, weight_decay=self.weight_decay)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per alpha."""
        rows = zip(*(np.ravel(v).tolist() for v in vars(self).values()), strict=True)
        return [dict(zip(vars(self), row, strict=True)) for row in rows]


@in_doubles
def spiked_generalisation(
    samples_per_dim: npt.ArrayLike,
    *,
    beta: npt.ArrayLike,
    weight_decay: npt.ArrayLike,
    signal_variance: float = 1.0,
    noise_variance: float = 1.0,
) -> SpikedGeneralisation:
    """What the optimum on n = alpha N samples of the module's model is worth, for every alpha.

    Raises ValueError for samples_per_dim, beta or noise_variance not above 0, a negative
    weight_decay or signal_variance. Equality that a test checks: rate and gain are those of
    `objective`.
    """
    where = "spiked_generalisation"
    alpha = checked_numbers("samples_per_dim", samples_per_dim, where)
    b = checked_numbers("beta", beta, where)
    kappa = checked_numbers("weight_decay", weight_decay, where, zero=True) / alpha
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
