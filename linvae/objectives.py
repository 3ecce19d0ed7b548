"""The objective on the torch side: the one place of sign, unit and beta.

objective = distortion + sum_l beta_l rate_l, minimised, in nats per sample; sums over dimensions,
means over the batch. One entry per member of a stack: tensors (n_seeds, n_points, ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "GaussianLevel",
    "Terms",
    "bernoulli_error",
    "gaussian_distortion",
    "gaussian_rate_per_unit",
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
class Terms:
    """What one forward pass gives: distortion (n_seeds, n_points), rates (..., levels), levels."""

    distortion: Tensor
    rates: Tensor
    levels: tuple[GaussianLevel, ...]

    def objective(self, betas: Tensor) -> Tensor:
        """distortion + sum_l beta_l rate_l, (n_seeds, n_points); betas (..., levels)."""
        return self.distortion + (betas * self.rates).sum(-1)


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
