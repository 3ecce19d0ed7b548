"""How to train: a record, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from linvae.train.validation import Plateau

__all__ = ["Precision", "TrainConfig"]

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["float32", "tf32", "bf16"]
LAST_SHARE = 0.01  # of the learning rate, where a schedule ends


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the sweep itself is in the model (members) and the KL weights.

    Learning rate: rises linearly over `warmup_steps`; constant for `constant_share` of the steps,
    then down to 1 % of it along a cosine or a line (`schedule`; "constant": not at all).
    "sgd" has `momentum` and takes the rate in units of 1/curvature of the distortion in the
    decoder's output (`StackedVAE.curvature`): 1.0 suits any data and decoder variance, 3.8 is the
    limit of a quadratic with momentum 0.9, 2 without.
    Gradients of upper levels are scaled to a quarter of that curvature at any beta.
    `draws` of the latent per sample: see `linvae.train.data.Noise`.
    `stop_tolerance`: the criterion of `linvae.train.early_stop`, in windows of `stop_window` steps.
    `precision`: of the networks' products; parameters, latents and the objective are float32 in
    each. "tf32" is for CUDA, "bf16" for CUDA and for CPUs that have it in hardware.
    `clip_norm`: the largest norm of a member's gradient, encoder and decoder together.
    `plateau`: a rate that falls with the validated objective, beside `schedule`.
    `binarise`: pixels are drawn from their gray values in every batch (`data.Binarisation`).
    `compile`: torch.compile for the forward and backward pass. On one core a step of linear models
    takes 0.6 of the time, which pays after some thousand steps, of MLPs 1.5
    (`analysis/benchmarks/compiled.py`).
    """

    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 3e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    clip_norm: float | None = None
    plateau: Plateau | None = None
    binarise: bool = False
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
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum!r} must be in [0, 1) in TrainConfig")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ValueError(
                f"clip_norm={self.clip_norm!r} must be a finite number > 0, or None to clip "
                "nothing, in TrainConfig"
            )

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
