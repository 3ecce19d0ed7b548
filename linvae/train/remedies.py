"""Remedies against collapse, one per member: what a remedy is, and the KL weights it gives.

| remedy         | what it does                                              | source              |
|----------------|-----------------------------------------------------------|---------------------|
| beta           | a smaller KL weight from beginning to end                 | Higgins et al. 2017 |
| `Annealing`    | the KL weight rises from `start` of its value to all of it | Bowman et al. 2016 |
| `Cyclical`     | it rises again and again                                  | Fu et al. 2019      |
| `Aggressive`   | many steps of the encoder for one of the decoder          | He et al. 2019      |
| floor per unit | max(rate_j, floor) is paid for unit j (free bits)         | Kingma et al. 2016  |
| floor in total | max(sum_j rate_j, floor)                                  | the same, one group |
| latent reconstruction | gamma/2 E|mu(dec(z)) - z|^2 is added               | Song et al. 2025    |

A step is one of the decoder: a whole inner loop of `Aggressive` counts as one, as published.
`linvae.theory.dynamics`, `free_bits` and `latent_reconstruction` say what each does to a linear
model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from linvae.models.reconstruction import Routing
from linvae.objectives import Floors, Terms
from linvae.spec import LatentReconstruction

__all__ = [
    "REMEDIES",
    "WARMUPS",
    "Adaptive",
    "Aggressive",
    "Annealing",
    "Cyclical",
    "Exponential",
    "Remedy",
    "RemedyBetas",
    "named_remedy",
]


@dataclass(frozen=True)
class Annealing:
    """start + (1 - start) min(1, step/warmup_steps), the share of the betas at a step."""

    warmup_steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        _check_count("warmup_steps", self.warmup_steps, "Annealing")
        _check_share("start", self.start, "Annealing")

    def share(self, step: Tensor) -> Tensor:
        """Of the final betas."""
        return self.start + (1 - self.start) * (step / self.warmup_steps).clamp(max=1.0)


@dataclass(frozen=True)
class Cyclical:
    """`cycles` times over: from 0 to 1 during `ramp` of the cycle, then 1.

    A cycle has `steps`/`cycles` steps; after the last one the share stays 1. Source: Fu et al.
    2019, equations 6 and 7.
    """

    steps: int
    cycles: int = 4
    ramp: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        _check_count("steps", self.steps, "Cyclical")
        _check_count("cycles", self.cycles, "Cyclical")
        _check_share("ramp", self.ramp, "Cyclical")

    def share(self, step: Tensor) -> Tensor:
        """Of the final betas."""
        position = (step * self.cycles) % self.steps / self.steps
        risen = (step >= self.steps) | (position >= self.ramp)
        return torch.where(risen, 1.0, position / max(self.ramp, 1 / self.steps))


@dataclass(frozen=True)
class Exponential:
    """2^min(1, step/warmup_steps) - 1: from 0 to 1, half as fast in the beginning as in the end."""

    warmup_steps: int

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        _check_count("warmup_steps", self.warmup_steps, "Exponential")

    def share(self, step: Tensor) -> Tensor:
        """Of the final weight."""
        return torch.exp2((step / self.warmup_steps).clamp(max=1.0)) - 1


@dataclass(frozen=True)
class Adaptive:
    """1/(1 + exp(rate - centre)): all of the weight at collapse, half of it at `centre_nats`."""

    centre_nats: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        if not math.isfinite(self.centre_nats):
            raise ValueError(
                f"centre_nats={self.centre_nats!r} must be a finite number of nats in Adaptive"
            )

    def share(self, rate_nats: Tensor) -> Tensor:
        """Of the final weight, at the rate of the last batch."""
        return torch.sigmoid(self.centre_nats - rate_nats)


Warmup = Annealing | Exponential | Adaptive


@dataclass(frozen=True)
class Aggressive:
    """Encoder steps alone, on one batch after another, before each step of the decoder.

    The inner loop ends when the objective, averaged over `window` steps, is above the average of
    the window before, or after `most_steps`. The phase of inner loops ends at the `falls`-th epoch
    whose validated information (`linvae.objectives.batch_information`) is below the best before
    it; from then on both sides step together. None: never. A first fall below the epoch before is
    one below the best, so both published rules are this one: 5 for images, 1 for texts.
    """

    window: int = 10
    most_steps: int = 99
    falls: int | None = 5

    def __post_init__(self) -> None:
        """Refuse what never steps."""
        _check_count("window", self.window, "Aggressive")
        _check_count("most_steps", self.most_steps, "Aggressive")
        if self.falls is not None:
            _check_count("falls", self.falls, "Aggressive")


@dataclass(frozen=True)
class Remedy:
    """How one member is trained, beside what is the same for all.

    `beta` multiplies the betas of the spec; `floor_nats` is free bits `floor_per` unit or level;
    `warmup` is that of the weight of `latent_reconstruction`, None: all of it from the first step.
    """

    beta: float = 1.0
    schedule: Annealing | Cyclical | None = None
    aggressive: Aggressive | None = None
    floor_nats: float = 0.0
    floor_per: Literal["unit", "total"] = "unit"
    latent_reconstruction: LatentReconstruction | None = None
    warmup: Warmup | None = None

    def __post_init__(self) -> None:
        """Refuse what is no remedy."""
        if self.warmup is not None and self.latent_reconstruction is None:
            raise ValueError(
                f"warmup={self.warmup} needs a latent_reconstruction in Remedy: KL weights have a "
                "schedule"
            )
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta={self.beta!r} must be a finite number >= 0 in Remedy")
        if not 0 <= self.floor_nats < math.inf:
            raise ValueError(
                f"floor_nats={self.floor_nats!r} must be a finite number of nats >= 0 in Remedy"
            )
        if self.floor_per not in ("unit", "total"):
            raise ValueError(f"floor_per={self.floor_per!r} must be 'unit' or 'total' in Remedy")

    @property
    def floors(self) -> dict[str, float]:
        """Nats under the rate by what they are per, "unit" or "total"; empty without free bits."""
        return {self.floor_per: self.floor_nats} if self.floor_nats else {}


REMEDIES = (
    "none", "aggressive", "annealing", "aggressive-annealing", "cyclical", "free-bits",
    "total-free-bits", "latent-reconstruction",
)  # fmt: skip
WARMUPS = ("none", "linear", "exponential", "kl-adaptive")


def named_remedy(
    name: str,
    steps: int,
    *,
    window: int = 10,
    falls: int | None = 5,
    warmup_share: float = 0.1,
    start: float = 0.1,
    floor_nats: float = 0.1,
    reconstruction: LatentReconstruction | None = None,
    warmup: str = "linear",
) -> Remedy:
    """The remedy of that name (`REMEDIES`) for a run of `steps` steps; errors name all names.

    Annealing takes `warmup_share` of the steps from `start` on; cyclical annealing four cycles in
    the first half of them, so that what the last rise holds too much is undone by the end.
    `reconstruction` (None: as published) comes with a `warmup` (`WARMUPS`)
    over half of the steps, so that the rest is trained with all of it.
    """
    if name not in REMEDIES:
        raise ValueError(f"remedy={name!r} must be one of {', '.join(REMEDIES)}")
    aggressive = Aggressive(window, falls=falls) if "aggressive" in name else None
    if "annealing" in name:
        rise = max(1, round(warmup_share * steps))
        return Remedy(schedule=Annealing(rise, start), aggressive=aggressive)
    if name == "cyclical":
        return Remedy(schedule=Cyclical(max(1, steps // 2)))
    if name == "latent-reconstruction":
        return _reconstructed(reconstruction, warmup, max(1, steps // 2))
    if "free-bits" in name:
        per: Literal["unit", "total"] = "total" if name.startswith("total") else "unit"
        return Remedy(floor_nats=floor_nats, floor_per=per)
    return Remedy(aggressive=aggressive)


def _reconstructed(loss: LatentReconstruction | None, warmup: str, steps: int) -> Remedy:
    known: dict[str, Warmup | None] = {
        "none": None,
        "linear": Annealing(steps),
        "exponential": Exponential(steps),
        "kl-adaptive": Adaptive(),
    }
    if warmup not in known:
        raise ValueError(f"warmup={warmup!r} must be one of {', '.join(WARMUPS)}")
    return Remedy(latent_reconstruction=loss or LatentReconstruction(), warmup=known[warmup])


class RemedyBetas:
    """A `KLWeight`: the betas and floors of stacks whose points are remedies.

    Betas are share(steps of the member's decoder) times `beta` times the betas of the spec.
    """

    def __init__(
        self,
        remedies: Sequence[Remedy],
        betas: Sequence[float],
        n_seeds: int,
        device: torch.device,
    ) -> None:
        self.remedies = tuple(remedies)
        self._spec_betas = tuple(betas)
        grid = torch.tensor([remedy.beta for remedy in remedies], device=device)[:, None]
        self._betas = (grid * torch.tensor(betas, device=device))[None]
        self._steps = torch.zeros(n_seeds, len(remedies), dtype=torch.long, device=device)
        self._rates = torch.zeros(self._steps.shape, device=device)  # of the last batch, nats
        self.floors = _floors(remedies, device)
        self._scheduled = any(remedy.schedule for remedy in remedies)
        losses = [remedy.latent_reconstruction for remedy in remedies]
        self.routing = Routing.of(losses, device) if any(losses) else None
        self._gammas = torch.tensor(
            [loss.weight if loss else 0.0 for loss in losses], device=device
        )

    @property
    def aggressive(self) -> tuple[Aggressive | None, ...]:
        """The inner loop of every point."""
        return tuple(remedy.aggressive for remedy in self.remedies)

    def gammas(self) -> Tensor | None:
        """Weights of the latent reconstruction at this step, (n_seeds, n_points); None without."""
        if self.routing is None:
            return None
        ones = torch.ones_like(self._rates)
        shares = [
            ones[:, point]
            if remedy.warmup is None
            else remedy.warmup.share(
                (self._rates if isinstance(remedy.warmup, Adaptive) else self._steps)[:, point]
            )
            for point, remedy in enumerate(self.remedies)
        ]
        return torch.stack(shares, dim=1) * self._gammas

    def betas(self) -> Tensor:
        """The share of this step times the final betas."""
        if not self._scheduled:
            return self._betas
        shares = [
            torch.ones_like(steps, dtype=torch.get_default_dtype())
            if remedy.schedule is None
            else remedy.schedule.share(steps)
            for remedy, steps in zip(self.remedies, self._steps.unbind(1), strict=True)
        ]
        return torch.stack(shares, dim=1)[..., None] * self._betas

    def observe(self, terms: Terms, progress: float, stepped: Tensor | None = None) -> None:
        """Count the steps of decoders; `stepped`: whose, None: all."""
        self._steps = self._steps + (1 if stepped is None else stepped.to(self._steps.device))
        if self.routing is not None:
            self._rates = terms.rates.detach().sum(-1)

    def setting(self, point: int) -> dict[str, object]:
        """The remedy and the betas that it multiplies."""
        remedy = self.remedies[point]
        kinds = {
            name: type(value).__name__
            for name, value in (("schedule", remedy.schedule), ("warmup", remedy.warmup))
            if value is not None
        }
        return {
            "kind": "remedy",
            "remedy": dataclasses.asdict(remedy) | {"kinds": kinds},
            "betas": list(self._spec_betas),
        }

    def found(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Steps of the decoders, and the last rates where a loss reads them."""
        return {"steps": self._steps} | ({"rates": self._rates} if self.routing else {})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self._steps = state["steps"].to(self._steps.device)
        if self.routing is not None:
            self._rates = state["rates"].to(self._rates.device)


def _floors(remedies: Sequence[Remedy], device: torch.device) -> Floors | None:
    if not any(remedy.floor_nats for remedy in remedies):
        return None
    unit, total = (
        torch.tensor([[r.floors.get(per, -math.inf) for r in remedies]], device=device)
        for per in ("unit", "total")
    )
    return Floors(unit, total)


def _check_count(name: str, value: int, where: str) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer >= 1 in {where}")


def _check_share(name: str, value: float, where: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r} must be between 0 and 1 in {where}")
