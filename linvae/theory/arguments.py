"""Checks of what the functions of theory are given: a pair of spec and moments, or bare numbers.

| argument       | shape    | what comes back                          |
|----------------|----------|------------------------------------------|
| value          | any      | float64 of that shape, in the same unit  |
| mode_variances | (modes,) | float64, data units^2; a number is (1,)  |

`name` and `where` are the words of the error: argument and function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments, doubles
from linvae.spec import HVAESpec, VAESpec

__all__ = [
    "check_pair",
    "check_result",
    "check_spec",
    "check_wholes",
    "checked_numbers",
    "checked_variances",
    "in_doubles",
]

Array = npt.NDArray[np.float64]
P = ParamSpec("P")
T = TypeVar("T")


def in_doubles(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, with a ValueError for NaN and warnings where doubles cannot hold what it takes.

    Arrays whose shapes do not fit together are refused in words, too. Finite numbers may be so far
    apart (a variance of 1e300 beside one of 1e-300) that a quotient or a square overflows, or
    underflows and is divided by.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with np.errstate(over="raise", divide="raise", invalid="raise"):
                return function(*args, **kwargs)
        except (ArithmeticError, np.linalg.LinAlgError) as error:
            raise ValueError(
                f"the numbers given to {function.__name__} are too large, too small or too far "
                f"apart for double precision ({error}): rescale the data, the decoder variance "
                "with them, or the latents"
            ) from error
        except ValueError as error:
            if "broadcast" not in str(error):
                raise
            raise ValueError(
                f"the arrays given to {function.__name__} do not fit together: {error}"
            ) from error

    return guarded


def check_result(name: str, value: npt.ArrayLike, *, infinite: bool = False) -> None:
    """FloatingPointError, a ValueError after `in_doubles`, for a NaN, or inf unless `infinite`."""
    if isinstance(value, float):  # NumPy takes 20 times as long for one number
        wrong = math.isnan(value) if infinite else not math.isfinite(value)
    else:
        wrong = bool(np.any(np.isnan(value) if infinite else ~np.isfinite(value)))
    if wrong:
        raise FloatingPointError(f"{name} would be {value!r}")


def check_spec(spec: object) -> None:
    """ValueError unless this is a specification."""
    if not isinstance(spec, VAESpec | HVAESpec):
        raise ValueError(
            f"spec is a {type(spec).__name__} but must be a VAESpec, CVAESpec, ARVAESpec or "
            "HVAESpec"
        )


def check_pair(spec: object, moments: object) -> None:
    """ValueError, without printing data, unless these are a specification and moments."""
    check_spec(spec)
    if not isinstance(moments, Moments):
        raise ValueError(
            f"moments is a {type(moments).__name__} but must be Moments: make them with "
            "Moments.from_data(target) or Moments.from_covariance(covariance)"
        )


def check_wholes(where: str, **named: int) -> None:
    """ValueError for an argument that is not an integer >= 1."""
    for name, value in named.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer >= 1 in {where}")


def checked_numbers(name: str, value: npt.ArrayLike, where: str, *, zero: bool = False) -> Array:
    """`value` as float64, finite and > 0 (>= 0 with `zero`).

    Raises ValueError that shows the first entry that is not.
    """
    array = doubles(name, value)
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
