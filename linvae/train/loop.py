"""The training loop: one visible `for` that trains all members of a stack at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from linvae.models.chain import StackedVAE
from linvae.objectives import Terms
from linvae.train.checkpoint import Checkpoint, stack_identity, study_identity
from linvae.train.data import BatchOrder, Noise, TrainingData
from linvae.train.early_stop import EarlyStop
from linvae.train.kl_weight import InformationControl, KLWeight
from linvae.train.run import Diverged, Run, Saver, Stopped

__all__ = [
    "DivergedError",
    "TrainConfig",
    "TrainResult",
    "make_optimizer",
    "train",
    "update",
]

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["float32", "tf32", "bf16"]
LAST_SHARE = 0.01  # of the learning rate, where a schedule ends
LEAST = 1e-20  # of what gradients are divided by: where a beta is 0 they are 0 and stay so
UPPER_SHARE = 0.25  # of the steps of upper levels: latents have variances of several eta^2


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

    Learning rate: rises linearly over `warmup_steps`; constant for `constant_share` of the steps,
    then down to 1 % of it along a cosine or a line (`schedule`; "constant": not at all).
    "sgd" has momentum 0.9 and takes it in units of 1/curvature of the distortion in the decoder's
    output (`StackedVAE.curvature`): 1.0 suits any data and decoder variance, 3.8 is the limit of a
    quadratic. Gradients of upper levels are scaled to a quarter of that curvature at any beta.
    `draws` of the latent per sample: see `linvae.train.data.Noise`.
    `stop_tolerance`: the criterion of `linvae.train.early_stop`, in windows of `stop_window` steps.
    `precision`: of the networks' products; parameters, latents and the objective are float32 in
    each. "tf32" is for CUDA, "bf16" for CUDA and for CPUs that have it in hardware.
    `compile`: torch.compile for the forward and backward pass. On one core a step of linear models
    takes 0.6 of the time, which pays after some thousand steps, of MLPs 1.5
    (`analysis/benchmarks/compiled.py`).
    """

    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 3e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    constant_share: float = 0.4
    log_every: int = 100
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    draws: Literal[1, 2] = 2
    stop_tolerance: float | None = None
    stop_window: int = 200
    precision: Precision = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, naming it."""
        for name in ("steps", "batch_size", "log_every", "stop_window"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be an integer >= 1 in TrainConfig")
        self._check_choices()
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

    def _check_choices(self) -> None:
        if not isinstance(self.warmup_steps, int) or not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps!r} must be an integer between 0 and "
                f"steps={self.steps} in TrainConfig"
            )
        if self.draws not in (1, 2):
            raise ValueError(f"draws={self.draws!r} must be 1 or 2 in TrainConfig")
        for name, choices in (("schedule", get_args(Schedule)), ("precision", get_args(Precision))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be one of {choices} in TrainConfig"
                )
        if self.stop_tolerance is not None and not 0 < self.stop_tolerance < math.inf:
            raise ValueError(
                f"stop_tolerance={self.stop_tolerance!r} must be a finite number > 0, or None to "
                "train all steps, in TrainConfig"
            )

    def learning_rate_factor(self, step: int) -> float:
        """Multiplier of the learning rate at `step`."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        start = self.constant_share * self.steps
        if step < start or self.schedule == "constant":
            return rise
        phase = (step - start) / max(1.0, self.steps - start)
        left = 1 - phase if self.schedule == "linear" else (1 + math.cos(math.pi * phase)) / 2
        return rise * (LAST_SHARE + (1 - LAST_SHARE) * left)


@dataclass(frozen=True)
class TrainResult:
    """History rows (step, mean distortion, rates and betas of every member) and seconds.

    `diverged`: members that are lost, with NaN in their parameters and rows; the others are not
    touched by them. `stopped`: members that stopped early, with the parameters they had then; they
    have no rows after that. `stacks`: in how many, one after another, they were trained now (0: all
    came from a store).
    """

    history: list[dict[str, float]]
    seconds: float
    steps: int
    diverged: tuple[Diverged, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    stacks: int = 1


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
    _check_run(config, kl_weight, device)
    order = BatchOrder(len(data), config.batch_size, model.seeds)
    noise = Noise(model.spec.latent_dims, model.seeds, device, config.draws)
    optimizer = make_optimizer(model, config)
    forward = torch.compile(model) if config.compile else model
    stop = _early_stop(model, config)
    run = Run(model, optimizer, order, noise, kl_weight, stop)
    saver = _saver(run, data, config, checkpoint)
    start = time.perf_counter() - run.seconds
    while not run.ended(config.steps):
        _set_learning_rate(optimizer, model, config, run.step)
        target, condition = data.take(order.next())
        betas = kl_weight.betas()
        draw = noise.next(target.shape[1])
        terms, members = update(model, optimizer, (target, condition, draw), betas, config, forward)
        kl_weight.observe(terms, run.step / config.steps)
        run.step += 1
        some_stop = stop is not None and stop.observe(run.step, model, members, betas)
        last = run.ended(config.steps)
        if last or some_stop or run.step % config.log_every == 0:
            running = _running(members, stop, run.step)
            _note_diverged(run.diverged, members, running, model, run.step)
            run.history += _history_rows(run.step, model, terms, betas, running)
            if progress:
                progress(config.steps if last else run.step)
        run.seconds = time.perf_counter() - start
        if len(run.diverged) == members.numel():
            raise DivergedError(_result(run))
        if saver:
            saver.after_step(last=last)
    if stop:
        stop.put_back(model)
    return _result(run)


def _result(run: Run) -> TrainResult:
    lost, stopped = tuple(run.diverged.values()), _stopped(run.stop, run.model)
    return TrainResult(run.history, run.seconds, run.step, lost, stopped)


def _early_stop(model: StackedVAE, config: TrainConfig) -> EarlyStop | None:
    if config.stop_tolerance is None:
        return None
    return EarlyStop(model, config.stop_tolerance, config.stop_window)


def _saver(
    run: Run, data: TrainingData, config: TrainConfig, checkpoint: Checkpoint | None
) -> Saver | None:
    if checkpoint is None:
        return None
    study = study_identity(run.model.spec, run.model.architecture, data, config)
    return Saver(checkpoint, stack_identity(study, run.model, run.kl_weight), run)


def _set_learning_rate(
    optimizer: torch.optim.Optimizer, model: StackedVAE, config: TrainConfig, step: int
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = _learning_rate(model, config) * config.learning_rate_factor(step)


def _learning_rate(model: StackedVAE, config: TrainConfig) -> float:
    """Of the first step: for SGD in units of 1/curvature."""
    return config.learning_rate / (model.curvature if config.optimizer == "sgd" else 1.0)


def update(
    model: StackedVAE,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor | None, Sequence[Tensor]],
    betas: Tensor,
    config: TrainConfig,
    forward: Callable[..., Any] | None = None,
) -> tuple[Terms, Tensor]:
    """One step of all members on `batch` (target, condition, noise): terms and objectives.

    `forward`: the compiled forward pass of the model; None, its own. The gradients are dropped
    before it, so that they and its activations are not there together.
    """
    device = batch[0].device
    optimizer.zero_grad(set_to_none=True)
    with _tensor_cores(config.precision, device):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            terms: Terms = (model if forward is None else forward)(*batch)
        members = terms.objective(betas)
        torch.autograd.backward(members.sum())
    _balance(model, betas)
    optimizer.step()
    return terms, members.detach()


@torch.no_grad()
def _balance(model: StackedVAE, betas: Tensor) -> None:
    """Gradients of upper levels as if their betas gave them the curvature of the distortion.

    That of a decoder is beta_(l-1)/eta_(l-1)^2, that of an encoder beta_l/eta_l^2 where this is
    more. Without it they stand still where beta is small, under Adam too, below the 1e-8 that it
    adds to every gradient.
    """
    etas = model.spec.prior_variances
    for level in range(1, len(etas)):
        told = betas[..., level - 1] / etas[level - 1]
        seen = torch.maximum(told, betas[..., level] / etas[level])
        decoder, encoder = model.level_parameters(level)
        for own, parameters in ((told, decoder), (seen, encoder)):
            factor = UPPER_SHARE * model.curvature / own.clamp(min=LEAST)
            for p in parameters:
                if p.grad is not None:
                    scale = factor.clamp(max=1 / LEAST).expand(p.shape[:2])
                    p.grad *= scale.reshape(*scale.shape, *[1] * (p.ndim - 2))


@contextmanager
def _tensor_cores(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products of float32 matrices on CUDA in TF32 for "tf32" and never else; put back after."""
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _check_run(config: TrainConfig, kl_weight: KLWeight, device: torch.device) -> None:
    """Refuse options that this device, or these KL weights, cannot have."""
    if config.precision == "tf32" and device.type != "cuda":
        raise ValueError(
            f"precision='tf32' needs a CUDA device, the data are on {str(device)!r}: use 'float32'"
        )
    if config.stop_tolerance is not None and isinstance(kl_weight, InformationControl):
        raise ValueError(
            f"stop_tolerance={config.stop_tolerance} must be None with InformationControl: its "
            "betas, and with them the objective, move until the end"
        )


def _running(members: Tensor, stop: EarlyStop | None, step: int) -> Tensor:
    """Members that have not stopped before this step."""
    if stop is None:
        return torch.ones_like(members, dtype=torch.bool)
    return (stop.stopped_at == 0) | (stop.stopped_at == step)


def _stopped(stop: EarlyStop | None, model: StackedVAE) -> tuple[Stopped, ...]:
    if stop is None:
        return ()
    steps = stop.stopped_at.tolist()
    found = torch.nonzero(stop.stopped_at).tolist()
    return tuple(Stopped(model.seeds[s], point, steps[s][point]) for s, point in found)


def make_optimizer(model: StackedVAE, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of `config` for all members; it works entry by entry."""
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=_learning_rate(model, config), fused=True)
    return torch.optim.SGD(model.parameters(), lr=_learning_rate(model, config), momentum=0.9)


def _note_diverged(
    found: dict[tuple[int, int], Diverged],
    members: Tensor,
    running: Tensor,
    model: StackedVAE,
    step: int,
) -> None:
    """Add running members that are no longer finite to `found`."""
    for s, point in torch.nonzero(~torch.isfinite(members) & running).tolist():
        found.setdefault((s, point), Diverged(model.seeds[s], point, step))


def _history_rows(
    step: int, model: StackedVAE, terms: Terms, betas: Tensor, running: Tensor
) -> list[dict[str, float]]:
    """One row for every member that runs."""
    runs = running.tolist()
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
        if runs[s][point]
    ]
