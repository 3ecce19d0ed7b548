"""Where the coordinates of target and condition lie in an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ImageLayout"]


@dataclass(frozen=True)
class ImageLayout:
    """Which value of an image each coordinate of target and condition is.

    | field     | meaning                                                   | shape     |
    |-----------|-----------------------------------------------------------|-----------|
    | shape     | height, width and channels                                | (H, W, C) |
    | target    | index of each target coordinate; None: all H W C in order | (d,)      |
    | condition | the same of the condition; None: it is no part of the image | (dx,)   |

    Indices count the values of an image row by row, the channels of a pixel together. Raises
    ValueError for an index that is out of range or given twice.
    """

    shape: tuple[int, int, int]
    target: tuple[int, ...] | None = None
    condition: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no part of one image."""
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(
                f"shape={self.shape} must be three numbers >= 1, (H, W, C), in ImageLayout"
            )
        given = (*self.target_index, *(self.condition or ()))
        if len(set(given)) < len(given) or not all(0 <= i < self.size for i in given):
            raise ValueError(
                f"target and condition must be different indices from 0 to {self.size - 1}, the "
                f"values of an image of shape {self.shape}, in ImageLayout"
            )

    @property
    def size(self) -> int:
        """H W C."""
        return math.prod(self.shape)

    @property
    def target_index(self) -> tuple[int, ...]:
        """Index of each target coordinate, (d,)."""
        return tuple(range(self.size)) if self.target is None else self.target

    def check(self, target_dim: int, condition_dim: int) -> None:
        """ValueError where target or condition has another number of coordinates."""
        if len(self.target_index) != target_dim:
            raise ValueError(
                f"image places {len(self.target_index)} target values but the target has "
                f"{target_dim}: pass the layout of these data (Dataset.image_layout), or None"
            )
        if self.condition is not None and len(self.condition) != condition_dim:
            raise ValueError(
                f"image places {len(self.condition)} condition values but the condition has "
                f"{condition_dim}: pass the layout of these data (Dataset.image_layout), or None"
            )
