"""Activations, and what their units look like where the network starts.

A unit is a(g u) with u standard normal: g, the standard deviation of its input, is chosen so that
E a(g u)^2 = 1, except that of tanh, which stays below 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "Activation"]


@dataclass(frozen=True)
class Activation:
    """The function a, its gain g, and the second moment E a(g u)^2 of its units."""

    function: Callable[[Tensor], Tensor]
    gain: float
    second_moment: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """a(x)."""
        return self.function(x)


ACTIVATIONS = {
    "relu": Activation(torch.relu, 2**0.5),
    "gelu": Activation(F.gelu, 1.4680),
    "tanh": Activation(torch.tanh, 5 / 3, 0.5767),
    "elu": Activation(F.elu, 1.2779),
    "leaky_relu": Activation(F.leaky_relu, (2 / (1 + 0.01**2)) ** 0.5),  # slope 0.01
}
