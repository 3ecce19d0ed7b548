"""What single members of a stack had at some step, to be given back to them later, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["Kept"]

WHO = "kept members"  # no name of a parameter


class Kept:
    """Parameters and running statistics of members, as they were when they were kept."""

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}

    def keep(self, model: nn.Module, members: Tensor) -> None:
        """Those of `members`, a mask (n_seeds, n_points), as they are now."""
        for name, values in _own(model, members).items():
            kept = self._values.setdefault(name, values.detach().clone())
            kept[members] = values.detach()[members]
        self._values[WHO] = members | self._values.get(WHO, torch.zeros_like(members))

    @torch.no_grad()
    def put_back(self, model: nn.Module, members: Tensor | None = None) -> None:
        """Give `members`, None: all, what they had; who was never kept stays as it is."""
        if WHO not in self._values:
            return
        kept = self._values[WHO] if members is None else self._values[WHO] & members
        for name, values in _own(model, kept).items():
            values[kept] = self._values[name][kept]

    def state(self) -> dict[str, Tensor]:
        """All that is kept, and of whom."""
        return dict(self._values)

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from `state`."""
        self._values = {name: values.to(device) for name, values in state.items()}


def _own(model: nn.Module, members: Tensor) -> dict[str, Tensor]:
    """All that every member has of its own."""
    shape = members.shape
    return {k: v for k, v in model.state_dict().items() if v.shape[: len(shape)] == shape}
