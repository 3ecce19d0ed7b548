"""A decoder that must keep latents apart, |U z - U z'| >= L |z - z'|: the linear VAE's optimum.

All singular values of U are at least L (U^T U >= L^2 I), the encoder is free, its variance learned.
With c = beta s/eta^2 and t = 1 + omega^2/c, omega a singular value of U, the best encoder leaves

    twice the objective = sum_i theta_i^2/s - sum_j q_j^T C q_j (1 - 1/t_j)/s + beta sum_j log t_j

with q_j the left singular vectors. The sum is largest with units and modes in the same order, so
**unit i carries mode i for the k largest modes, bound or not** (units at the bound, whose t is one,
may as well share theirs in any rotation), and each is a scalar problem with one minimum,
theta^2/(beta s), cut off by the bound:

    t_i = max(theta_i^2/(beta s), 1 + L^2 eta^2/(beta s))
    omega_i^2 = max((theta_i^2 - beta s)/eta^2, L^2)
    encoder weight w = omega/(omega^2 + c),   encoder variance sigma^2 = eta^2/t
    squared error = theta^2/t^2 + beta s (t - 1)/t
    rate = (theta^2 (t - 1)/(beta s t^2) + 1/t - 1 + log t)/2
    information = log(1 + theta^2 (t - 1)/(beta s t))/2

The bound acts from beta = (theta^2 - L^2 eta^2)/s on, before the mode would collapse. No unit
collapses at any beta: sigma^2 < eta^2, the prior is no best response to a decoder that must listen
to z. But **a unit at the bound is kept awake, not useful**: for large beta its rate falls as

    L^2 eta^2 (theta^2 + L^2 eta^2/2)/(2 beta^2 s^2)

and the variance of its mean, w^2 theta^2, as beta^-2, so that a count of active units with a
threshold tau leaves it out from `idle_beta` on; without data (theta = 0) it has a rate and no
information. A mode above its optimum t_0 = max(theta^2/(beta s), 1) without the bound pays
(beta log(t/t_0) + theta^2 (1/t - 1/t_0)/s)/2 nats.

| symbol    | argument or field       | shape        | unit                     |
|-----------|-------------------------|--------------|--------------------------|
| theta_i^2 | mode_variances          | (modes,)     | data units^2             |
| k         | latent_dim              | int <= modes | units                    |
| L         | inverse_lipschitz       | scalar, >= 0 | data units/latent unit   |
| beta, s   | beta, decoder_variance  | scalar       | -, data units^2          |
| eta^2     | prior_variance          | scalar       | latent units^2           |
| omega, w  | decoder, encoder        | (units,)     | data/latent, latent/data |
| sigma^2   | encoder_variances       | (units,)     | latent units^2           |
| tau       | threshold               | scalar       | latent units^2           |

Source: ours; the constraint: Wang, Blei & Cunningham 2021. Equality that a test checks: L = 0 is
the optimum of `linvae.solve`; elsewhere brute force over matrices with the constraint agrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.theory.arguments import checked_numbers, checked_variances, in_doubles

__all__ = ["InverseLipschitzOptimum", "idle_beta", "inverse_lipschitz_optimum"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class InverseLipschitzOptimum:
    """The global optimum under the bound; unit i carries mode i of `mode_variances`, descending.

    | field            | meaning                                                | shape    |
    |------------------|--------------------------------------------------------|----------|
    | objective        | sum squared_errors/(2 s) + beta sum rates, no constant | scalar   |
    | price_nats       | above the optimum without a bound, of each unit        | (units,) |
    | rates_nats       | KL divergence of each unit                             | (units,) |
    | information_nats | about the mode, at most the rate                       | (units,) |
    | mean_variances   | of the posterior mean, latent units^2                  | (units,) |
    | squared_errors   | what is left of each mode, data units^2                | (modes,) |
    | bound            | True where omega = L because of the bound              | (units,) |
    """

    mode_variances: Array
    objective: float
    price_nats: Array
    rates_nats: Array
    information_nats: Array
    mean_variances: Array
    squared_errors: Array
    decoder: Array
    encoder: Array
    encoder_variances: Array
    bound: npt.NDArray[np.bool_]

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per unit."""
        names = ("rates_nats", "information_nats", "price_nats", "mean_variances", "bound")
        columns = {"unit": range(1, len(self.decoder) + 1), "mode_variance": self.mode_variances}
        columns |= {name: getattr(self, name).tolist() for name in names}
        rows = zip(*columns.values(), strict=False)  # modes without a unit have no row
        return [dict(zip(columns, row, strict=True)) for row in rows]


@in_doubles
def inverse_lipschitz_optimum(
    mode_variances: npt.ArrayLike,
    *,
    latent_dim: int,
    inverse_lipschitz: float,
    beta: float = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
) -> InverseLipschitzOptimum:
    """Minimum over all linear VAEs whose decoder has no singular value below `inverse_lipschitz`.

    Modes are returned in descending order of variance. Raises ValueError for numbers out of range
    and more units than modes: no matrix with fewer rows than columns keeps all latents apart.
    Equality that a test checks: brute force over matrices with the constraint.
    """
    where = "inverse_lipschitz_optimum"
    theta2 = np.sort(checked_variances(mode_variances, where))[::-1]
    k = _units(latent_dim, len(theta2), where)
    L, b, s, eta2 = _numbers(inverse_lipschitz, beta, decoder_variance, prior_variance, where)
    carried, c = theta2[:k], b * s / eta2
    free, least = np.maximum(carried / (b * s), 1.0), 1 + L**2 / c
    t = np.maximum(free, least)
    errors = theta2.copy()
    errors[:k] = carried / t**2 + b * s * (t - 1) / t
    mean_variances = carried * (t - 1) / (c * t**2)
    rates = (mean_variances / eta2 + 1 / t - 1 + np.log(t)) / 2
    omega = np.sqrt(c * (t - 1))
    return InverseLipschitzOptimum(
        mode_variances=theta2,
        objective=float(errors.sum() / (2 * s) + b * rates.sum()),
        price_nats=(b * np.log(t / free) + carried * (1 / t - 1 / free) / s) / 2,
        rates_nats=rates,
        information_nats=np.log1p(carried * (t - 1) / (b * s * t)) / 2,
        mean_variances=mean_variances,
        squared_errors=errors,
        decoder=omega,
        encoder=omega / (c * t),
        encoder_variances=eta2 / t,
        bound=free < least,
    )


@in_doubles
def idle_beta(
    mode_variances: npt.ArrayLike,
    *,
    inverse_lipschitz: float,
    threshold: float = 0.01,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
) -> Array:
    """Beta from which the posterior mean of each unit varies by less than `threshold`, (modes,).

    The mean's variance falls in beta: without the bound eta^2 (1 - beta s/theta^2), with it
    (theta L/(L^2 + beta s/eta^2))^2. What counts as an active unit ends there, though q is not the
    prior. 0: idle at every beta. Raises ValueError for numbers out of range. Equality that a test
    checks: `inverse_lipschitz_optimum` has the threshold there.
    """
    where = "idle_beta"
    theta2 = checked_variances(mode_variances, where)
    tau = float(checked_numbers("threshold", threshold, where))
    L, _, s, eta2 = _numbers(inverse_lipschitz, 1.0, decoder_variance, prior_variance, where)
    unbound = theta2 * (1 - tau / eta2) / s
    bound = (np.sqrt(theta2 / tau) * L - L**2) * eta2 / s
    begins = (theta2 - L**2 * eta2) / s
    return np.asarray(np.maximum(np.where(unbound < begins, unbound, bound), 0.0))


def _units(latent_dim: int, modes: int, where: str) -> int:
    k = int(checked_numbers("latent_dim", latent_dim, where))
    if k != latent_dim:
        raise ValueError(f"latent_dim={latent_dim} must be an integer in {where}")
    if k > modes:
        raise ValueError(
            f"latent_dim={k} must be at most the {modes} modes in {where}: a map onto fewer "
            "dimensions cannot keep all latents apart; give all modes, those without variance too"
        )
    return k


def _numbers(
    inverse_lipschitz: float, beta: float, s: float, eta2: float, where: str
) -> tuple[float, float, float, float]:
    return (
        float(checked_numbers("inverse_lipschitz", inverse_lipschitz, where, zero=True)),
        float(checked_numbers("beta", beta, where)),
        float(checked_numbers("decoder_variance", s, where)),
        float(checked_numbers("prior_variance", eta2, where)),
    )
