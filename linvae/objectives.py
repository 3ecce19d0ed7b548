"""The objective on the torch side: the one place of sign, unit and beta.

objective = distortion + sum_l beta_l rate_l (+ gamma/2 latent error), minimised, in nats per
sample; sums over dimensions, means over the batch. One entry per member of a stack: tensors
(n_seeds, n_points, ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Floors",
    "GaussianLevel",
    "Terms",
    "batch_information",
    "bernoulli_error",
    "entropies",
    "gaussian_distortion",
    "gaussian_rate_per_unit",
    "pair_log_densities",
]


@dataclass(frozen=True)
class GaussianLevel:
    """q(z_l | z_{l-1}) on a batch: mean and log variance, (n_seeds, n_points, batch, k)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + standard deviation * noise."""
        return self.mean + torch.exp(self.log_variance / 2) * noise

    def repeat(self, times: int) -> GaussianLevel:
        """The batch `times` over, for several draws of each sample."""
        if times == 1:
            return self
        return GaussianLevel(
            self.mean.repeat(1, 1, times, 1), self.log_variance.repeat(1, 1, times, 1)
        )


@dataclass(frozen=True)
class Floors:
    """Free bits: rates below which there is no price, nats, (n_seeds or 1, n_points); -inf: none.

    `unit`: under the rate of each unit of a level; `total`: under the rate of the level.
    """

    unit: Tensor
    total: Tensor


@dataclass(frozen=True)
class Terms:
    """What one forward pass gives, means over the batch.

    distortion (n_seeds, n_points), the rate of every unit [(n_seeds, n_points, k_l)], q of every
    level, and the error of the latent reconstruction, latent units^2, where there is one.
    """

    distortion: Tensor
    unit_rates: tuple[Tensor, ...]
    levels: tuple[GaussianLevel, ...]
    latent_error: Tensor | None = None

    @property
    def rates(self) -> Tensor:
        """Of every level, (n_seeds, n_points, levels)."""
        return torch.stack([rates.sum(-1) for rates in self.unit_rates], dim=-1)

    def objective(
        self, betas: Tensor, floors: Floors | None = None, gammas: Tensor | None = None
    ) -> Tensor:
        """distortion + sum_l beta_l price_l + gamma/2 latent error, (n_seeds, n_points).

        The price is the rate, or with floors max(sum_j max(rate_j, unit floor), total floor).
        betas (..., levels); gammas (n_seeds or 1, n_points), None: 0.
        """
        total = self.distortion + (betas * self._prices(floors)).sum(-1)
        if gammas is None or self.latent_error is None:
            return total
        return total + gammas / 2 * self.latent_error

    def _prices(self, floors: Floors | None) -> Tensor:
        if floors is None:
            return self.rates
        floored = [torch.maximum(rates, floors.unit[..., None]) for rates in self.unit_rates]
        prices = torch.stack([rates.sum(-1) for rates in floored], dim=-1)
        return torch.maximum(prices, floors.total[..., None])


def gaussian_distortion(squared_error: Tensor, dim: int, decoder_variance: Tensor) -> Tensor:
    """E[-log p(y|z)] from the squared error summed over the `dim` coordinates, data units^2."""
    s = decoder_variance
    return dim / 2 * torch.log(2 * math.pi * s) + squared_error / (2 * s)


def bernoulli_error(logits: Tensor, target: Tensor) -> Tensor:
    """-log p(y|z) of every row, nats: sum over coordinates of log(1 + e^a) - y a, a the logit.

    Of a y between 0 and 1 it is the expectation over a binary one of that mean.
    """
    return (F.softplus(logits) - target * logits).sum(-1)


def gaussian_rate_per_unit(
    level: GaussianLevel, expected_square: Tensor, prior_variance: float | Tensor
) -> Tensor:
    """E[log q(z|.) - log p(z|.)] of each unit, without beta.

    `expected_square` is E (z - prior mean)^2, (..., batch, k): mean^2 + variance under the prior
    N(0, eta^2), a sampled square where the prior mean comes from the level above.
    """
    log_ratio = level.log_variance - torch.log(torch.as_tensor(prior_variance))
    return (expected_square / prior_variance - 1 - log_ratio) / 2


def entropies(level: GaussianLevel) -> Tensor:
    """Of q of every sample, nats, (n_seeds, n_points, batch)."""
    return (math.log(2 * math.pi) + 1 + level.log_variance).sum(-1) / 2


def pair_log_densities(level: GaussianLevel, z: Tensor, rows: Tensor) -> Tensor:
    """log q(z_i|v_i) and log (1/B) sum_j q(z_i|v_j) of some z, (2, n_seeds, n_points, rows).

    log q(z|v_j) = -1/2 sum_u [z_u^2 a_u - 2 z_u a_u mean_u + a_u mean_u^2 - log a_u + log 2 pi],
    a = 1/variance, as a product of matrices: nothing of the size of all pairs times units. Its
    terms cancel where variances are small: give float64.
    """
    rows = rows.to(z.device)
    precision, some = torch.exp(-level.log_variance), z[:, :, rows]
    constant = precision * level.mean.square() + level.log_variance + math.log(2 * math.pi)
    left = torch.cat([some.square(), some, torch.ones_like(some[..., :1])], dim=-1)
    right = [-precision / 2, precision * level.mean, -constant.sum(-1, keepdim=True) / 2]
    pairs = left @ torch.cat(right, dim=-1).mT
    own = pairs.gather(-1, rows[None, None, :, None].expand(*pairs.shape[:3], 1))[..., 0]
    return torch.stack([own, pairs.logsumexp(-1) - math.log(pairs.shape[-1])])


def batch_information(level: GaussianLevel, latents: Tensor) -> Tensor:
    """Information of a latent about the members of its batch, nats, (n_seeds, n_points).

        mean_i [ E log q(z|y_i) - log (1/B) sum_j q(z_i|y_j) ],    z_i ~ q(z|y_i), one each

    `latents` (n_seeds, n_points, B, k): the z_i. Its own sample is among the j, so it is at most
    log B but for noise. Source: He et al. 2019, I_q as their code estimates it.
    """
    exact = GaussianLevel(level.mean.double(), level.log_variance.double())
    rows = torch.arange(latents.shape[2])
    aggregate = pair_log_densities(exact, latents.double(), rows)[1]
    return -(entropies(exact) + aggregate).mean(-1)
