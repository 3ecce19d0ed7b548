"""Optimisers of a stack: torch's where all members step together, one of our own where they do not.

Torch's optimisers count steps per parameter, that is, per stack. `MemberOptimizer` has one count,
one learning rate and one mask per member, so that a member that does not step keeps its parameters,
its moments and its bias correction. Where all members step, it is torch's Adam or SGD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["MemberOptimizer", "clip_gradients", "make_optimizer"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


class Parametrised(Protocol):
    """A stack: all of its parameters have the axes of seeds and points in front."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """All of them."""

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those of the encoders."""


def make_optimizer(
    model: Parametrised, kind: str, learning_rate: float, momentum: float, *, by_member: bool
) -> torch.optim.Optimizer:
    """The optimiser of all members; it works entry by entry. `by_member`: `MemberOptimizer`."""
    if by_member:
        return MemberOptimizer(model, kind, learning_rate, momentum)
    if kind == "adam":
        return torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)


class MemberOptimizer(torch.optim.Optimizer):
    """Adam or SGD with momentum in which every member has its own steps and learning rate.

    Two groups, encoders and decoders. Set per group before a step: "lr", a number or a tensor
    (n_seeds, n_points), and "members", a mask of that shape of those that step, None: all.
    """

    def __init__(
        self, model: Parametrised, kind: str, learning_rate: float, momentum: float = 0.0
    ) -> None:
        encoder = list(model.encoder_parameters())
        known = {id(p) for p in encoder}
        decoder = [p for p in model.parameters() if id(p) not in known]
        sides = {"encoder": encoder, "decoder": decoder}
        groups = [{"params": own, "side": side} for side, own in sides.items() if own]
        super().__init__(groups, {"lr": learning_rate, "members": None})
        self._kind, self._momentum = kind, momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the members of every group."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group["lr"], group["members"])

    def _move(self, p: Tensor, grad: Tensor, lr: Any, members: Tensor | None) -> None:
        state, shape = self.state[p], (*p.shape[:2], *[1] * (p.ndim - 2))
        mask = torch.ones(shape, dtype=torch.bool, device=p.device)
        if members is not None:
            mask = members.view(shape)
        rate = lr.to(p.device, p.dtype).view(shape) if isinstance(lr, Tensor) else lr
        move = self._adam(state, p, grad, mask) if self._kind == "adam" else None
        if move is None:
            move = self._sgd(state, p, grad, mask)
        p.sub_(torch.where(mask, rate * move, 0.0))

    def _adam(self, state: dict[str, Tensor], p: Tensor, grad: Tensor, mask: Tensor) -> Tensor:
        if not state:
            state["step"] = torch.zeros(mask.shape, device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += mask
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.copy_(torch.where(mask, torch.lerp(first, grad, 1 - BETA1), first))
        second.copy_(torch.where(mask, BETA2 * second + (1 - BETA2) * grad.square(), second))
        steps = state["step"].clamp(min=1)
        seen1, seen2 = (-torch.expm1(steps * math.log(beta)) for beta in (BETA1, BETA2))
        return first / seen1 / ((second / seen2).sqrt() + EPSILON)

    def _sgd(self, state: dict[str, Tensor], p: Tensor, grad: Tensor, mask: Tensor) -> Tensor:
        if self._momentum == 0:
            return grad
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"]
        buffer.copy_(torch.where(mask, self._momentum * buffer + grad, buffer))
        return buffer

    def forget(self, members: Tensor) -> None:
        """Moments and counts of these members as if nothing had been trained."""
        for values in self.state.values():
            for value in values.values():
                value[members.to(value.device)] = 0


@torch.no_grad()
def clip_gradients(model: Parametrised, most: float) -> None:
    """Scale the gradient of every member, encoder and decoder together, to a norm of `most`."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    square = torch.stack([g.square().view(*g.shape[:2], -1).sum(-1) for g in grads]).sum(0)
    scale = (most / (square.sqrt() + 1e-6)).clamp(max=1.0)
    for g in grads:
        g *= scale.view(*scale.shape, *[1] * (g.ndim - 2))
