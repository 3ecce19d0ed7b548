"""When a member of a stack has had enough training, and the parameters it had then.

The criterion of a member: with m_j the mean of its objective over the j-th window of steps,

    |m_j - m_{j-1}| <= tolerance |m_{j-1}|

while its betas were the same throughout both windows. A window must be long enough that mini-batch
noise alone does not meet it by chance, or miss it for ever: the mean of W steps scatters by the
scatter of one step over sqrt(W).

Members never interact, so a member that stopped may train on among the others: what it had when it
stopped, running statistics of its networks too, is kept and put back at the end, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from linvae.models.chain import StackedVAE
from linvae.train.kept import Kept

__all__ = ["EarlyStop"]

STATE = ("stopped_at", "ended", "total", "previous", "steady", "was_steady")


class EarlyStop:
    """Watches the members of a stack; `stopped_at` (n_seeds, n_points): the step, 0 while it runs.

    The whole state is in the attributes below.
    """

    def __init__(self, model: StackedVAE, tolerance: float, window: int) -> None:
        shape = (len(model.seeds), model.n_points)
        device = next(model.parameters()).device
        self.tolerance, self.window = tolerance, window
        self.stopped_at = torch.zeros(shape, dtype=torch.long, device=device)
        self.ended = torch.zeros(shape, dtype=torch.bool, device=device)  # stopped, or not finite
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)  # of this window
        self.previous = torch.full_like(self.total, torch.nan)  # mean of the last window
        self.steady = torch.ones_like(self.ended)  # same betas in this window and into it
        self.was_steady = torch.zeros_like(self.ended)  # in the last one
        self.betas: Tensor | None = None
        self.kept = Kept()

    def observe(self, step: int, model: StackedVAE, members: Tensor, betas: Tensor) -> bool:
        """After `step` steps, with the objectives of the last; True where some member stops now."""
        if self.betas is not None:
            self.steady &= (betas == self.betas).all(-1)
        self.betas = betas.detach().clone()
        self.total += members.detach()
        if step % self.window:
            return False
        mean = self.total / self.window
        small = (mean - self.previous).abs() <= self.tolerance * self.previous.abs()
        now = small & self.steady & self.was_steady & ~self.ended
        self.previous, self.total = mean, torch.zeros_like(mean)
        self.was_steady, self.steady = self.steady, torch.ones_like(self.steady)
        self.stopped_at[now] = step
        self.ended |= now | ~torch.isfinite(mean)
        if bool(now.any()):
            self.kept.keep(model, now)
            return True
        return False

    def put_back(self, model: StackedVAE) -> None:
        """Give every member that stopped the parameters it had then."""
        self.kept.put_back(model)

    def state(self) -> dict[str, Tensor]:
        """All that changed since the first step."""
        kept = {f"kept.{name}": values for name, values in self.kept.state().items()}
        betas = {} if self.betas is None else {"betas": self.betas}
        return {name: getattr(self, name) for name in STATE} | betas | kept

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        device = self.total.device
        for name in STATE:
            setattr(self, name, state[name].to(device))
        self.betas = state["betas"].to(device) if "betas" in state else None
        kept = {k.removeprefix("kept."): v for k, v in state.items() if k.startswith("kept.")}
        self.kept.restore(kept, device)
