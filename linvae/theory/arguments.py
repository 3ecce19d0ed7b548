"""Checks of numbers that the functions of theory take directly, without a spec around them.

| argument       | shape    | what comes back                          |
|----------------|----------|------------------------------------------|
| value          | any      | float64 of that shape, in the same unit  |
| mode_variances | (modes,) | float64, data units^2; a number is (1,)  |

`name` and `where` are the words of the error: argument and function.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["checked_numbers", "checked_variances"]

Array = npt.NDArray[np.float64]


def checked_numbers(name: str, value: npt.ArrayLike, where: str, *, zero: bool = False) -> Array:
    """`value` as float64, finite and > 0 (>= 0 with `zero`).

    Raises ValueError that shows the first entry that is not.
    """
    array = np.asarray(value, dtype=np.float64)
    bad = ~np.isfinite(array) | (array < 0 if zero else array <= 0)
    if np.any(bad):
        shown = value if array.ndim == 0 else array[bad].flat[0]
        raise ValueError(f"{name}={shown} must be finite and {'>=' if zero else '>'} 0 in {where}")
    return array


def checked_variances(mode_variances: npt.ArrayLike, where: str) -> Array:
    """Mode variances as a 1-D array, (modes,), each finite and >= 0; else ValueError."""
    theta2 = np.atleast_1d(checked_numbers("mode_variances", mode_variances, where, zero=True))
    if theta2.ndim != 1 or theta2.size == 0:
        raise ValueError(
            f"mode_variances has shape {theta2.shape} but must be 1-D, (modes,), in {where}"
        )
    return theta2
