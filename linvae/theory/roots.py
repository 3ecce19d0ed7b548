"""Root finding of many scalar problems at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["bisect"]

Array = npt.NDArray[np.float64]
HALVINGS = 100  # down to the last bit of a double, from any bracket


def bisect(beyond: Callable[[Array], npt.NDArray[np.bool_]], low: Array, high: Array) -> Array:
    """Where `beyond` turns from false at `low` to true at `high`, elementwise."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        over = beyond(middle)
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return high
