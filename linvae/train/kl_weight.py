"""How the KL weights of the members are set while they train: constant, or by control.

Information control holds the information of one level at a set-point and lets the common factor of
all betas adapt. Near a threshold training slows down critically at a given beta; at a given
information it does not, because the unit is alive, and the threshold is where the factor goes as
the information goes to 0 (`linvae.metrics.threshold`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from linvae.objectives import Terms

__all__ = ["ConstantBetas", "InformationControl", "KLWeight", "information", "unit_statistics"]


class KLWeight(Protocol):
    """Gives the betas of a step, (n_seeds, n_points, levels), and sees what came of them."""

    def betas(self) -> Tensor:
        """The KL weights of this step."""

    def observe(self, terms: Terms, progress: float) -> None:
        """Called after each step with its terms; `progress` runs from 0 to 1."""


class ConstantBetas:
    """The same betas from beginning to end: `factors` (n_points,) times `betas` (levels,)."""

    def __init__(
        self, factors: Sequence[float], betas: Sequence[float], device: torch.device
    ) -> None:
        grid = torch.tensor(factors, device=device)[:, None]
        self._betas = (grid * torch.tensor(betas, device=device))[None]

    def betas(self) -> Tensor:
        """Constant."""
        return self._betas

    def observe(self, terms: Terms, progress: float) -> None:
        """Nothing to adapt."""


class InformationControl:
    """Proportional-integral control of the log factor on all betas, per member.

    The error is that of the previous batch: with the error of the current one, beta and the
    gradient of the rate would be correlated and the result biased low. The integral sees the error
    relative to the set-point, so that members with little information start as fast as others; it
    moves the log factor by at most GAIN per step, half of that in the second part.
    """

    GAIN, OFFSET, PROPORTIONAL = 0.01, 0.1, 5.0  # per step; nats; per nat
    AVERAGE_FROM = 0.85  # share of the run after which the results are averaged
    DRIFT_FROM = 5 / 6  # share of the run after which a drift of the log factor is one

    def __init__(
        self,
        set_points: Sequence[float],
        betas: Sequence[float],
        n_seeds: int,
        level: int,
        device: torch.device,
    ) -> None:
        shape = (n_seeds, len(set_points))
        self.set_points = torch.tensor(set_points, device=device).expand(shape)
        self.level = level
        self._base = torch.tensor(betas, device=device)
        self._log_factor = torch.zeros(shape, device=device)
        self._error = torch.zeros(shape, device=device)
        self._log_factor_before = self._log_factor
        self._factors: list[Tensor] = []
        self._pooled: list[Tensor] = []

    def _factor(self) -> Tensor:
        push = torch.clamp(1 + self.PROPORTIONAL * self._error, 0.2, 3.0)
        return torch.exp(self._log_factor) * push

    def betas(self) -> Tensor:
        """exp(log factor) times a push proportional to the last error."""
        return self._factor()[..., None] * self._base

    def observe(self, terms: Terms, progress: float) -> None:
        """Integrate the error; in the last part also keep the statistics for the result."""
        q = terms.levels[self.level]
        statistics = unit_statistics(q.mean.detach(), q.log_variance.detach())
        if progress >= self.AVERAGE_FROM:
            self._factors.append(self._factor())
            self._pooled.append(statistics)
        if progress < self.DRIFT_FROM:
            self._log_factor_before = self._log_factor
        gain = self.GAIN if progress < 0.4 else self.GAIN / 2
        self._error = information(statistics) - self.set_points
        relative = self._error / (self.set_points + self.OFFSET)
        self._log_factor = self._log_factor + gain * relative.clamp(-1.0, 1.0)

    def drift(self) -> Tensor:
        """Change of the log factor over the last sixth of the run, (seeds, points)."""
        return self._log_factor - self._log_factor_before

    def result(self) -> tuple[Tensor, Tensor]:
        """Information (nats) and factor on the betas, means over the last part, (seeds, points).

        The arithmetic mean of the factor, since the gradient is linear in it.
        """
        pooled = torch.stack(self._pooled).double().mean(0)
        return information(pooled), torch.stack(self._factors).double().mean(0)


def unit_statistics(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Means over samples of mu, mu^2 + sigma^2 and log sigma^2, (3, n_seeds, n_points, k)."""
    second = mean.square() + torch.exp(log_variance)
    return torch.stack([mean.mean(-2), second.mean(-2), log_variance.mean(-2)])


def information(statistics: Tensor) -> Tensor:
    """sum over units of 1/2 (log Var(z) - E log sigma^2): the rate against the best Gaussian prior.

    In a linear model it is I(z_l; z_{l-1}) = -log(r_l)/2, and log beta is piecewise affine in it.
    `statistics`: (3, ..., k) as from `unit_statistics`, of one batch or pooled over many.
    """
    first, second, log_variance = statistics
    spread = second - first.square()
    nats: Tensor = ((torch.log(spread) - log_variance) / 2).sum(-1)
    return nats
