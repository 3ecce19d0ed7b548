"""Validation while a stack trains: when inner loops end, and when the learning rate falls.

Evaluated in batches of the training's size, which bounds the information by its logarithm, with the
betas of the spec (no remedy's) and one draw of the latent, the same at every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.models.chain import StackedVAE
from linvae.models.layers import evaluating
from linvae.objectives import batch_information
from linvae.train.data import Noise, TrainingData
from linvae.train.kept import Kept

__all__ = ["Plateau", "PlateauRates", "Validated", "validate"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plateau:
    """The learning rate falls where the validated objective does not.

    After `patience` epochs in a row without progress, not before epoch `first`, the first being 1,
    the rate is multiplied by `factor` and the member goes on from its best parameters with a fresh
    optimiser; after `most` times it stops. In the end every member has its best parameters.
    Progress is an objective not above the lowest since the last decay, that at the decay included
    ("decay"), or not above the lowest of all ("best"). The objective has no latent reconstruction
    loss here.
    Source: He et al. 2019, code: 2 epochs from epoch 16 on against "decay" for texts, 20 against
    "best" for images, 5 times 1/2.
    """

    patience: int = 2
    first: int = 16
    factor: float = 0.5
    most: int = 5
    against: Literal["decay", "best"] = "decay"

    def __post_init__(self) -> None:
        """Refuse what never falls, or rises."""
        for name, least in (("patience", 1), ("first", 0), ("most", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} must be an integer >= {least} in Plateau")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor={self.factor!r} must be between 0 and 1 in Plateau")
        if self.against not in ("decay", "best"):
            raise ValueError(f"against={self.against!r} must be 'decay' or 'best' in Plateau")


@dataclass(frozen=True, eq=False)
class Validated:
    """Objective at the betas of the spec, and information of a batch; nats, (n_seeds, n_points)."""

    objective: Array
    information: Array


@torch.no_grad()
def validate(model: StackedVAE, data: TrainingData, batch_size: int) -> Validated:
    """Both, means over the samples of `data`; networks with running statistics."""
    device = data.target.device
    noise = Noise(model.spec.latent_dims, model.seeds, device, 1, purpose="validation")
    betas = torch.tensor(model.spec.betas, device=device)
    objective: Tensor | float = 0.0
    information: Tensor | float = 0.0
    with evaluating(model):
        for index in _batches(data, batch_size):
            target, condition = data.take(index.expand(len(model.seeds), -1))
            draws = noise.next(len(index))
            terms, latents = model.forward_with_latents(target, condition, draws)
            share = len(index) / len(data)
            objective = objective + share * terms.objective(betas)
            information = information + share * batch_information(terms.levels[0], latents[0])
    return Validated(_numpy(objective), _numpy(information))


def _batches(data: TrainingData, batch_size: int) -> Iterator[Tensor]:
    """All samples once; sequences of about the same length together."""
    order = torch.arange(len(data))
    if data.lengths is not None:
        order = torch.argsort(data.lengths.cpu(), stable=True)
    return iter(torch.split(order.to(data.target.device), batch_size))


def _numpy(values: Tensor | float) -> Array:
    return np.asarray(torch.as_tensor(values).cpu(), dtype=np.float64)


class PlateauRates:
    """Learning rates of the members under a `Plateau`; arrays (n_seeds, n_points).

    `share`: of the learning rate; `decays`: how often it fell; `best`: objective, nats.
    """

    _arrays = ("share", "decays", "bad", "best", "reference")

    def __init__(self, plateau: Plateau, shape: tuple[int, int]) -> None:
        self.plateau = plateau
        self.share, self.decays = np.ones(shape), np.zeros(shape, int)
        self.bad = np.zeros(shape, int)  # epochs in a row
        self.best = np.full(shape, np.inf)  # of the whole run: of the parameters that are kept
        self.reference = np.full(shape, np.inf)  # what is progress
        self.kept = Kept()

    def hear(
        self, model: StackedVAE, objective: Array, members: Mask, epoch: Array
    ) -> tuple[Mask, Mask]:
        """Whose rate falls now, and who has had all of its decays, at the end of their `epoch`."""
        device = next(model.parameters()).device
        better = members & (objective < self.best)
        if better.any():
            self.kept.keep(model, torch.as_tensor(better, device=device))
        self.best = np.where(better, objective, self.best)
        improved = members & (objective <= self.reference)
        self.reference = np.where(improved, objective, self.reference)
        self.bad = np.where(members, np.where(improved, 0, self.bad + 1), self.bad)
        falls: Mask = members & (self.bad >= self.plateau.patience) & (epoch >= self.plateau.first)
        self.decays += falls
        self.share = np.where(falls, self.share * self.plateau.factor, self.share)
        self.bad = np.where(falls, 0, self.bad)
        if self.plateau.against == "decay":
            self.reference = np.where(falls, objective, self.reference)
        if falls.any():
            self.put_back(model, falls)
        return falls, falls & (self.decays >= self.plateau.most)

    def put_back(self, model: StackedVAE, members: Mask | None = None) -> None:
        """Give members, None: all, the parameters with their best objective."""
        if members is None:
            self.kept.put_back(model)
        else:
            device = next(model.parameters()).device
            self.kept.put_back(model, torch.as_tensor(members, device=device))

    def state(self) -> dict[str, Tensor]:
        """All that changes."""
        arrays = {name: torch.as_tensor(getattr(self, name)) for name in self._arrays}
        return arrays | {f"kept.{k}": v for k, v in self.kept.state().items()}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from `state`."""
        for name in self._arrays:
            setattr(self, name, state[name].cpu().numpy().copy())
        kept = {k.removeprefix("kept."): v for k, v in state.items() if k.startswith("kept.")}
        self.kept.restore(kept, device)
