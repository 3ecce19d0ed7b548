"""The training loop: one visible `for` that trains all members of a stack at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from linvae.models.chain import StackedVAE
from linvae.objectives import Terms
from linvae.train.checkpoint import Checkpoint, stack_identity, study_identity
from linvae.train.data import BatchOrder, Noise, TrainingData
from linvae.train.kl_weight import KLWeight
from linvae.train.run import Diverged, Run, Saver

__all__ = ["Diverged", "DivergedError", "TrainConfig", "TrainResult", "train"]


class DivergedError(ArithmeticError):
    """No member is left whose objective is finite; the message says which failed first.

    `result`: of the run up to there.
    """

    def __init__(self, result: TrainResult) -> None:
        self.result = result
        first = min(result.diverged, key=lambda d: d.step)
        super().__init__(
            f"training diverged: the objective of all {len(result.diverged)} members is not finite "
            f"(first seed {first.seed} point {first.point}, at step {first.step}); lower the "
            "learning rate"
        )

    def __reduce__(self) -> tuple[type[DivergedError], tuple[TrainResult]]:
        """Made again from its result when it comes from another process."""
        return DivergedError, (self.result,)


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the sweep itself is in the model (members) and the KL weights.

    Learning rate: constant for `constant_share` of the steps, then a cosine down to 1 % of it.
    "sgd" has momentum 0.9 and takes it in units of 1/curvature of the distortion in the decoder's
    output (`StackedVAE.curvature`): 1.0 suits any data and decoder variance, 3.8 is the limit of a
    quadratic.
    """

    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 3e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    constant_share: float = 0.4
    log_every: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, naming it."""
        for name in ("steps", "batch_size", "log_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be an integer >= 1 in TrainConfig")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"learning_rate={self.learning_rate!r} must be a finite number > 0 in TrainConfig"
            )
        if not 0 <= self.constant_share <= 1:
            raise ValueError(
                f"constant_share={self.constant_share!r} must be between 0 and 1 in TrainConfig"
            )
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer={self.optimizer!r} must be 'adam' or 'sgd'")

    def learning_rate_factor(self, step: int) -> float:
        """Multiplier of the learning rate at `step`."""
        start = self.constant_share * self.steps
        if step < start:
            return 1.0
        phase = (step - start) / max(1.0, self.steps - start)
        return 0.01 + 0.99 * (1 + math.cos(math.pi * phase)) / 2


@dataclass(frozen=True)
class TrainResult:
    """History rows (step, mean distortion, rates and betas of every member) and seconds.

    `diverged`: members that are lost, with NaN in their parameters and rows; the others are not
    touched by them.
    """

    history: list[dict[str, float]]
    seconds: float
    steps: int
    diverged: tuple[Diverged, ...] = ()


def train(
    model: StackedVAE,
    data: TrainingData,
    kl_weight: KLWeight,
    config: TrainConfig,
    progress: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainResult:
    """Train every member of `model` on `data`; parameters are updated in place.

    Members never interact: the loss is their sum, the optimiser works entry by entry, and members
    of one seed see the same batches and the same noise, so a member's result does not depend on
    what else is in the stack. `progress` is called with the number of steps done.
    A member that diverges is reported in the result and stays as it is; raises DivergedError where
    all do.
    With a `checkpoint` the run goes on from its file where there is one, and writes it as it goes
    (`linvae.train.checkpoint`, errors there); `model` and `kl_weight` must be as if new.
    """
    device = data.target.device
    order = BatchOrder(len(data), config.batch_size, model.seeds)
    noise = Noise(model.spec.latent_dims, model.seeds, device)
    optimizer = _optimizer(model, config)
    run = Run(model, optimizer, order, noise, kl_weight)
    saver = None
    if checkpoint is not None:
        study = study_identity(model.spec, model.architecture, data, config)
        saver = Saver(checkpoint, stack_identity(study, model, kl_weight), run)
    start = time.perf_counter() - run.seconds
    for step in range(run.step, config.steps):
        _set_learning_rate(optimizer, config, step)
        target, condition = data.take(order.next().to(device))
        terms = model(target, condition, noise.next(target.shape[1]))
        betas = kl_weight.betas()
        members = terms.objective(betas)
        optimizer.zero_grad(set_to_none=True)
        members.sum().backward()
        optimizer.step()
        kl_weight.observe(terms, step / config.steps)
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            _note_diverged(run.diverged, members, model, step + 1)
            run.history += _history_rows(step + 1, model, terms, betas)
            if progress:
                progress(step + 1)
        run.step, run.seconds = step + 1, time.perf_counter() - start
        if len(run.diverged) == members.numel():
            raise DivergedError(_result(run))
        if saver:
            saver.after_step(last=run.step == config.steps)
    return _result(run)


def _result(run: Run) -> TrainResult:
    return TrainResult(run.history, run.seconds, run.step, tuple(run.diverged.values()))


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * config.learning_rate_factor(step)


def _optimizer(model: StackedVAE, config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    return torch.optim.SGD(
        model.parameters(), lr=config.learning_rate / model.curvature, momentum=0.9
    )


def _note_diverged(
    found: dict[tuple[int, int], Diverged], members: Tensor, model: StackedVAE, step: int
) -> None:
    """Add members that are no longer finite to `found`."""
    for s, point in torch.nonzero(~torch.isfinite(members.detach())).tolist():
        found.setdefault((s, point), Diverged(model.seeds[s], point, step))


def _history_rows(
    step: int, model: StackedVAE, terms: Terms, betas: Tensor
) -> list[dict[str, float]]:
    distortion, rates = terms.distortion.detach(), terms.rates.detach()
    betas = betas.expand_as(rates)
    return [
        {
            "step": step,
            "seed": seed,
            "point": point,
            "distortion_nats": float(distortion[s, point]),
            "rate_nats": float(rates[s, point].sum()),
            "first_beta": float(betas[s, point, 0]),
        }
        for s, seed in enumerate(model.seeds)
        for point in range(model.n_points)
    ]
