"""How the KL weights of the members are set while they train: constant, or by control.

Information control holds the information of one level at a set-point and lets the common factor of
all betas adapt. Near a threshold training slows down critically at a given beta; at a given
information it does not, because the unit is alive, and the threshold is where the factor goes as
the information goes to 0 (`linvae.metrics.threshold`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from linvae.models.reconstruction import Routing
from linvae.objectives import Floors, Terms
from linvae.train.remedies import Aggressive

__all__ = [
    "ConstantBetas",
    "InformationControl",
    "KLWeight",
    "information",
    "level_statistics",
    "unit_statistics",
]


class KLWeight(Protocol):
    """Gives the betas of a step, (n_seeds, n_points, levels), and sees what came of them.

    What changes from step to step is in `state`, so that a run can stop and go on; what never does
    is in `setting`, so that a finished member is recognised.
    """

    @property
    def floors(self) -> Floors | None:
        """Free bits under the rates, None where there are none."""

    @property
    def aggressive(self) -> tuple[Aggressive | None, ...]:
        """The inner loops of the points, () where there are none."""

    @property
    def routing(self) -> Routing | None:
        """Of the latent reconstruction, None where no point has that loss."""

    def gammas(self) -> Tensor | None:
        """Its weights at this step, (n_seeds or 1, n_points), None without it."""

    def betas(self) -> Tensor:
        """The KL weights of this step."""

    def observe(self, terms: Terms, progress: float, stepped: Tensor | None = None) -> None:
        """Called after each step with its terms; `progress` runs from 0 to 1.

        `stepped`: the members whose decoders did; None: all.
        """

    def setting(self, point: int) -> dict[str, object]:
        """What sets the KL weight of the members of `point`, in JSON's types."""

    def found(self) -> dict[str, Tensor]:
        """What a whole run found for every member, each (n_seeds, n_points), by name."""

    def state(self) -> dict[str, Tensor]:
        """All that changed since the first step."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""


class NoRemedy:
    """What a `KLWeight` without remedies has."""

    floors = None
    routing = None
    aggressive: tuple[Aggressive | None, ...] = ()

    def gammas(self) -> None:
        """None."""


class ConstantBetas(NoRemedy):
    """The same betas from beginning to end: `factors` (n_points,) times `betas` (levels,)."""

    def __init__(
        self, factors: Sequence[float], betas: Sequence[float], device: torch.device
    ) -> None:
        grid = torch.tensor(factors, device=device)[:, None]
        self._betas = (grid * torch.tensor(betas, device=device))[None]

    def betas(self) -> Tensor:
        """Constant."""
        return self._betas

    def observe(self, terms: Terms, progress: float, stepped: Tensor | None = None) -> None:
        """Nothing to adapt."""

    def setting(self, point: int) -> dict[str, object]:
        """The betas themselves."""
        return {"kind": "constant betas", "betas": self._betas[0, point].tolist()}

    def found(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Nothing changes."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to go on from."""


class InformationControl(NoRemedy):
    """Proportional-integral control of the log factor on all betas, per member.

    The error is that of the previous batch: with the error of the current one, beta and the
    gradient of the rate would be correlated and the result biased low. The integral sees the error
    relative to the set-point, so that members with little information start as fast as others; it
    moves the log factor by at most GAIN per step, half of that in the second part.

    A level wakes up slowly, long after the one below it; meanwhile the betas would run away. So the
    level below may hold at most `most_below` nats: beyond that, its excess is the error. Training
    can be slower than the control still; so the log factor stays above the one at which the level
    below, once awake, would come to hold them.
    """

    GAIN, OFFSET, PROPORTIONAL = 0.01, 0.1, 5.0  # per step; nats; per nat
    AWAKE = 0.05  # nats, well above what noise alone holds
    AVERAGE_FROM = 0.85  # share of the run after which the results are averaged
    DRIFT_FROM = 5 / 6  # share of the run after which a drift of the log factor is one

    def __init__(
        self,
        set_points: Sequence[float],
        betas: Sequence[float],
        n_seeds: int,
        level: int,
        device: torch.device,
        most_below: float = math.inf,
    ) -> None:
        shape = (n_seeds, len(set_points))
        self.set_points = torch.tensor(set_points, device=device).expand(shape)
        self.level = level
        self.most_below = most_below if level else math.inf  # there is nothing below level 0
        self._base = torch.tensor(betas, device=device)
        self._log_factor = torch.zeros(shape, device=device)
        self._error = torch.zeros(shape, device=device)
        self._log_factor_before = torch.zeros(shape, device=device)
        self._asleep_at = torch.zeros(shape, device=device)  # of the level below, the last time
        # sums over the last part of the run
        self._averaged = 0
        self._factors = torch.zeros(shape, dtype=torch.float64, device=device)
        self._pooled = torch.zeros((3, *shape, 1), dtype=torch.float64, device=device)

    def _factor(self) -> Tensor:
        push = torch.clamp(1 + self.PROPORTIONAL * self._error, 0.2, 3.0)
        return torch.exp(self._log_factor) * push

    def betas(self) -> Tensor:
        """exp(log factor) times a push proportional to the last error."""
        return self._factor()[..., None] * self._base

    def observe(self, terms: Terms, progress: float, stepped: Tensor | None = None) -> None:
        """Integrate the error; in the last part also keep the statistics for the result."""
        statistics = level_statistics(terms, self.level)
        if progress >= self.AVERAGE_FROM:
            self._averaged += 1
            self._factors = self._factors + self._factor()
            self._pooled = self._pooled + statistics
        if progress < self.DRIFT_FROM:
            self._log_factor_before = self._log_factor
        gain = self.GAIN if progress < 0.4 else self.GAIN / 2
        below = self._below(terms)
        self._asleep_at = torch.where(below < self.AWAKE, self._log_factor, self._asleep_at)
        own = information(statistics) - self.set_points
        self._error = torch.maximum(own, below - self.most_below)
        relative = self._error / (self.set_points + self.OFFSET)
        moved = self._log_factor + gain * relative.clamp(-1.0, 1.0)
        self._log_factor = torch.maximum(moved, self._floor())

    def _below(self, terms: Terms) -> Tensor:
        """Information of the level below, nats; 0 where there is none."""
        if self.level == 0:
            return torch.zeros_like(self._error)
        return information(level_statistics(terms, self.level - 1))

    def _floor(self) -> Tensor:
        """Of the log factor: where the level below, l, would hold `most_below` nats.

        Per nat it falls by 2 (l + 1) where all variances up to l are fixed, else by less.
        """
        return self._asleep_at - 2 * (self.level + 1) * self.most_below

    def drift(self) -> Tensor:
        """Change of the log factor over the last sixth of the run, (seeds, points)."""
        return self._log_factor - self._log_factor_before

    def result(self) -> tuple[Tensor, Tensor]:
        """Information (nats) and factor on the betas, means over the last part, (seeds, points).

        The arithmetic mean of the factor, since the gradient is linear in it. NaN before that part.
        """
        return information(self._pooled / self._averaged), self._factors / self._averaged

    def setting(self, point: int) -> dict[str, object]:
        """Set-point (nats), level (from 0) and the betas that the factor multiplies."""
        bound = {"most_below": self.most_below} if math.isfinite(self.most_below) else {}
        return bound | {
            "kind": "information control",
            "set_point": float(self.set_points[0, point]),
            "level": self.level,
            "betas": self._base.tolist(),
        }

    def found(self) -> dict[str, Tensor]:
        """`result` and `drift` by name."""
        information, factor = self.result()
        return {"information": information, "factor": factor, "drift": self.drift().double()}

    def state(self) -> dict[str, Tensor]:
        """Log factor, now and before, last error, and the sums of the last part."""
        return {
            "log_factor": self._log_factor,
            "log_factor_before": self._log_factor_before,
            "asleep_at": self._asleep_at,
            "error": self._error,
            "averaged": torch.tensor(self._averaged),
            "factors": self._factors,
            "pooled": self._pooled,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        device = self._error.device
        self._log_factor = state["log_factor"].to(device)
        self._log_factor_before = state["log_factor_before"].to(device)
        self._asleep_at = state["asleep_at"].to(device)
        self._error = state["error"].to(device)
        self._averaged = int(state["averaged"])
        self._factors, self._pooled = state["factors"].to(device), state["pooled"].to(device)


def unit_statistics(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Means over samples of mu, mu^2 + sigma^2 and log sigma^2, (3, n_seeds, n_points, k)."""
    second = mean.square() + torch.exp(log_variance)
    return torch.stack([mean.mean(-2), second.mean(-2), log_variance.mean(-2)])


def level_statistics(terms: Terms, level: int) -> Tensor:
    """`unit_statistics` of a level, from 0, on the batch of `terms`; without gradient."""
    q = terms.levels[level]
    return unit_statistics(q.mean.detach(), q.log_variance.detach())


def information(statistics: Tensor) -> Tensor:
    """sum over units of 1/2 (log Var(z) - E log sigma^2): the rate against the best Gaussian prior.

    In a linear model it is I(z_l; z_{l-1}) = -log(r_l)/2, and log beta is piecewise affine in it.
    `statistics`: (3, ..., k) as from `unit_statistics`, of one batch or pooled over many.
    """
    first, second, log_variance = statistics
    spread = second - first.square()
    nats: Tensor = ((torch.log(spread) - log_variance) / 2).sum(-1)
    return nats
