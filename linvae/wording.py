"""Numbers and ranges as text: the one way the report and the figures write them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from linvae.comparison import Comparison

__all__ = ["Spread", "count", "level_text", "nats", "number", "plain", "slope"]


@dataclass(frozen=True)
class Spread:
    """Mean and range of a quantity over seeds; NaN without a finite value."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summary of the finite values."""
        finite = [v for v in values if math.isfinite(v)]
        if not finite:
            return cls(math.nan, math.nan, math.nan, 0)
        return cls(statistics.fmean(finite), min(finite), max(finite), len(finite))

    def text(self, write: Callable[[float], str] | None = None) -> str:
        """`mean (low-high)`; the mean alone where all are the same in print."""
        write = write or number
        mean, low, high = (write(value) for value in (self.mean, self.low, self.high))
        return mean if low == high else f"{mean} ({low}-{high})"


def number(value: float, digits: int = 4) -> str:
    """Significant digits; "-" for NaN, "inf" for infinity; whole numbers without decimals."""
    if math.isnan(value):
        return "-"
    if math.isinf(value) or value == round(value) or abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.1e}"


def plain(value: float, digits: int = 6) -> str:
    """Up to that many significant digits, no trailing zeros: settings, betas of a sweep."""
    return f"{value:.{digits}g}"


def nats(value: float) -> str:
    """Three digits, at most three of them decimals, and no minus before a zero."""
    if math.isnan(value) or abs(value) >= 1:
        return number(value, 3)
    return f"{value:.3f}" if abs(value) >= 0.0005 else "0.000"


def count(value: float) -> str:
    """A whole number, or one decimal for the mean of some."""
    return number(value) if math.isnan(value) or value == round(value) else f"{value:.1f}"


def slope(value: float) -> str:
    """Two decimals."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def level_text(comparison: Comparison, level: int, prefix: str = "") -> str:
    """`prefix` and "level 2" in a hierarchy, nothing where there is one level only."""
    return f"{prefix}level {level}" if len(comparison.levels) > 1 else ""
