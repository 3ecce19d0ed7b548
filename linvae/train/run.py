"""A run between two steps: what changes while a stack trains, and who writes it down."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from linvae.models.chain import StackedVAE
from linvae.train.checkpoint import Checkpoint, Identity, optimizer_state, restore_optimizer
from linvae.train.data import Binarisation, Noise
from linvae.train.early_stop import EarlyStop
from linvae.train.kept import Kept
from linvae.train.kl_weight import KLWeight
from linvae.train.validation import PlateauRates
from linvae.train.walk import JointWalk, MemberWalk

__all__ = ["BLOW_UP", "BlowUpWarning", "BlownUp", "Diverged", "Run", "Saver", "Stopped"]

BLOW_UP = 10.0  # times what collapse costs; a step's batch and a young network stay below it


@dataclass(frozen=True)
class Diverged:
    """A member whose objective was found not to be finite after `step` steps."""

    seed: int
    point: int
    step: int


class BlowUpWarning(RuntimeWarning):
    """A member's latent scale blew up."""


@dataclass(frozen=True)
class BlownUp:
    """A member whose rates, times their betas, once cost `ratio` times what collapse does.

    Beyond those of a collapsed level, which are not 0 where its variance is fixed. Whatever it
    reconstructs, the collapsed network is better: no optimum looks like this. Published runs with a
    latent reconstruction loss have rates of 1e14 nats and more. `step`: when it was first found, in
    steps of `log_every`; `rate_nats`: there.
    """

    seed: int
    point: int
    step: int
    rate_nats: float
    ratio: float

    @property
    def text(self) -> str:
        """What was found, and the way out."""
        return (
            f"the latent scale of seed {self.seed} point {self.point} blew up: a rate of "
            f"{self.rate_nats:.3g} nats at step {self.step}, which with its beta costs "
            f"{self.ratio:.3g} times what collapse does; clip the gradient (clip_norm=1), lower "
            "the learning rate, or where there is a latent reconstruction loss detach its z "
            "(detach='both'), give the encoder a small share of it (encoder_share=1e-4), or lower "
            "its weight"
        )


@dataclass(frozen=True)
class Stopped:
    """A member that met the criterion of `stop_tolerance` after `step` steps."""

    seed: int
    point: int
    step: int


@dataclass
class Run:
    """All that changes while a stack trains: what a checkpoint holds."""

    model: StackedVAE
    optimizer: torch.optim.Optimizer
    walk: JointWalk | MemberWalk
    noise: Noise
    kl_weight: KLWeight
    stop: EarlyStop | None = None
    plateau: PlateauRates | None = None
    binarisation: Binarisation | None = None
    prior: Noise | None = None  # of the latent reconstruction
    finished: Kept = field(default_factory=Kept)  # members that ended before others
    step: int = 0  # forward passes: more than the steps of decoders where there are inner loops
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    diverged: dict[tuple[int, int], Diverged] = field(default_factory=dict)
    blown_up: dict[tuple[int, int], BlownUp] = field(default_factory=dict)

    def ended(self, steps: int) -> bool:
        """After `steps` steps, or where early stop has ended every member."""
        return self.walk.ended(steps) or (self.stop is not None and bool(self.stop.ended.all()))

    def state(self) -> dict[str, Tensor]:
        """All tensors, their names led by the part they belong to."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state(self.model, self.optimizer),
            "walk": self.walk.state(),
            "noise": self.noise.state(),
            "kl_weight": self.kl_weight.state(),
            "stop": {} if self.stop is None else self.stop.state(),
            "plateau": {} if self.plateau is None else self.plateau.state(),
            "finished": self.finished.state(),
            "pixels": {} if self.binarisation is None else self.binarisation.state(),
            "prior": {} if self.prior is None else self.prior.state(),
        }
        return {f"{part}/{name}": t for part, state in parts.items() for name, t in state.items()}

    def notes(self) -> dict[str, Any]:
        """All that is no tensor, in JSON's types."""
        diverged = [[*member, asdict(lost)] for member, lost in self.diverged.items()]
        blown_up = [[*member, asdict(found)] for member, found in self.blown_up.items()]
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "diverged": diverged,
            "blown_up": blown_up,
        }

    def restore(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Go on from what `state` and `notes` gave."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(prefix + "/")
            }

        self.model.load_state_dict(part("model"))
        restore_optimizer(self.model, self.optimizer, part("optimizer"))
        self.walk.restore(part("walk"))
        self.noise.restore(part("noise"))
        self.kl_weight.restore(part("kl_weight"))
        if self.stop is not None:
            self.stop.restore(part("stop"))
        if self.plateau is not None:
            self.plateau.restore(part("plateau"), next(self.model.parameters()).device)
        self.finished.restore(part("finished"), next(self.model.parameters()).device)
        if self.binarisation is not None:
            self.binarisation.restore(part("pixels"))
        if self.prior is not None:
            self.prior.restore(part("prior"))
        self.step, self.seconds = notes["step"], notes["seconds"]
        self.history = notes["history"]
        self.diverged = {(s, point): Diverged(**lost) for s, point, lost in notes["diverged"]}
        self.blown_up = {(s, point): BlownUp(**found) for s, point, found in notes["blown_up"]}


class Saver:
    """Writes a run to its checkpoint in the rhythm of the latter; restores the run when made."""

    def __init__(self, checkpoint: Checkpoint, identity: Identity, run: Run) -> None:
        self.checkpoint, self.identity, self.run = checkpoint, identity, run
        saved = checkpoint.read(identity)
        if saved is not None:
            run.restore(*saved)
        self._step, self._time, self._cost = run.step, time.perf_counter(), 0.0

    def after_step(self, *, last: bool) -> None:
        """Write where it is due; the last state always."""
        steps, seconds = self.run.step - self._step, time.perf_counter() - self._time
        if last or self.checkpoint.due(steps, seconds, self._cost):
            state, notes = self.run.state(), self.run.notes()
            self._cost = self.checkpoint.write(self.identity, state, notes)
            self._step, self._time = self.run.step, time.perf_counter()
