"""Pictures in rows and columns: what is shown of a model's images, before it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sheet", "as_bytes", "joined"]


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures of one size, uint8 from black to white, with what each row and column is.

    | field         | meaning                                             | shape                 |
    |---------------|-----------------------------------------------------|-----------------------|
    | name, title   | of the file, and in words                           | -                     |
    | images        | 0 black, 255 white; C is 1 or 3                     | (rows, cols, H, W, C) |
    | row_labels    | one per row                                         | (rows,)               |
    | column_labels | one per column, or none                             | (cols,) or (0,)       |
    | alt           | key numbers in a sentence, for who cannot see it    | -                     |

    Raises ValueError where the shapes do not fit each other.
    """

    name: str
    title: str
    images: NDArray[np.uint8]
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]
    alt: str

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        shape = self.images.shape
        if self.images.dtype != np.uint8 or len(shape) != 5 or shape[-1] not in (1, 3):
            raise ValueError(
                f"images of sheet {self.name!r} are {self.images.dtype} of shape {shape} and must "
                "be uint8 of shape (rows, columns, H, W, C) with 1 or 3 channels: see as_bytes"
            )
        for name, labels, counts in (
            ("row_labels", self.row_labels, (shape[0],)),
            ("column_labels", self.column_labels, (0, shape[1])),
        ):
            if len(labels) not in counts:
                raise ValueError(
                    f"{name} of sheet {self.name!r} has {len(labels)} entries and must have "
                    f"{counts[-1]}, as there are pictures"
                )


def as_bytes(images: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """`low` -> 0 and `high` -> 255, linear and rounded; what lies beyond them is cut off."""
    share = np.clip((np.asarray(images, dtype=np.float64) - low) / (high - low), 0, 1)
    return np.rint(255 * np.nan_to_num(share)).astype(np.uint8)


def joined(name: str, sheets: Sequence[Sheet]) -> Sheet:
    """The rows of all sheets under one title, that of the first; one label, one row.

    Raises ValueError where their pictures or columns differ. Equality that a test checks: the
    images are those of the sheets, in order.
    """
    shapes = {(sheet.images.shape[1:], sheet.column_labels) for sheet in sheets}
    if len(shapes) != 1:
        raise ValueError(
            f"sheets of {name!r} have {sorted(shapes)} for shapes and columns of a row and must "
            "agree: join sheets of one size"
        )
    rows = {
        label: image
        for sheet in sheets
        for label, image in zip(sheet.row_labels, sheet.images, strict=True)
    }
    return replace(
        sheets[0],
        name=name,
        images=np.stack(list(rows.values())),
        row_labels=tuple(rows),
        alt=" ".join(sheet.alt for sheet in sheets),
    )
