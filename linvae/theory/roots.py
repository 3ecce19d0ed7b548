"""Root finding of many scalar problems at once, elementwise on arrays of one shape.

| symbol | argument         | shape | unit              |
|--------|------------------|-------|-------------------|
| f      | beyond, function | (n,)  | any               |
| a, b   | low, high        | (n,)  | of the unknown    |

Sources: textbook bisection and false position with the Illinois correction (Dowell & Jarratt 1971).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["bisect", "false_position"]

Array = npt.NDArray[np.float64]
HALVINGS = 100  # down to the last bit of a double, from any bracket
STEPS = 100  # of false position; the order of convergence is 1.44


def bisect(beyond: Callable[[Array], npt.NDArray[np.bool_]], low: Array, high: Array) -> Array:
    """Where `beyond` turns from false at `low` to true at `high`, to the last bit.

    Nothing is checked: without a change of sign the result is `high`. Equality that a test checks:
    `beyond` is true at the result and false one double below.
    """
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        over = beyond(middle)
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return high


def false_position(
    function: Callable[[Array], Array], low: Array, high: Array, precision: float
) -> Array:
    """Zero of a falling function, positive at `low`, negative at `high`, to within `precision`.

    Nothing is checked. Equality that a test checks: cos on [0, 3] is zero at pi/2.
    """
    f_low, f_high = function(low), function(high)
    middle, last = low, np.zeros(len(low))
    for _ in range(STEPS):
        previous = middle
        middle = low + (high - low) * f_low / (f_low - f_high)
        value = function(middle)
        up = value > 0
        low, high = np.where(up, middle, low), np.where(up, high, middle)
        f_high = np.where(up, np.where(last > 0, f_high / 2, f_high), value)
        f_low = np.where(up, value, np.where(last < 0, f_low / 2, f_low))
        last = np.where(up, 1.0, -1.0)
        if np.max(np.minimum(np.abs(middle - previous), high - low)) < precision:
            break
    return middle
