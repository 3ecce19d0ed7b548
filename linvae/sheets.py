"""Sheets of pictures as labelled figures, on disk as the figures of a comparison are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linvae.data.sheet import Sheet
from linvae.plots import Drawing, Figure, new_figure, save_drawing

__all__ = ["draw_sheet", "mosaic", "save_sheets"]

GAP = 1  # pixels of white between pictures
CELL = 0.62  # inches, the longer side of a picture
LETTER = 0.085  # inches that a letter of a label takes


def draw_sheet(sheet: Sheet) -> Drawing:
    """One figure: pictures as they are, pixel by pixel, rows and columns labelled."""
    rows, columns, height, width, channels = sheet.images.shape
    cell = CELL / max(height, width)
    label = LETTER * max(len(text) for text in sheet.row_labels)
    size = (label + cell * width * columns + 0.4, cell * height * rows + 0.7)
    with new_figure(1, size=(max(size[0], LETTER * len(sheet.title) + 0.3), size[1])) as (
        figure,
        (a,),
    ):
        shown = mosaic(sheet.images)
        cmap = "gray" if channels == 1 else None
        a.imshow(shown.squeeze(-1) if channels == 1 else shown, cmap=cmap, vmin=0, vmax=255,
                 interpolation="nearest")  # fmt: skip
        middle = (height + GAP) * np.arange(rows) + (height - 1) / 2
        a.set_yticks(middle, sheet.row_labels)
        middle = (width + GAP) * np.arange(len(sheet.column_labels)) + (width - 1) / 2
        a.set_xticks(middle, sheet.column_labels)
        a.tick_params(length=0)
        a.spines[:].set_visible(False)
        a.set_title(sheet.title, loc="left")
    return Drawing(figure, sheet.alt)


def mosaic(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, columns, H, W, C) -> one picture (rows (H + GAP) - GAP, ..., C), white between."""
    rows, columns, height, width, channels = images.shape
    framed = np.full((rows, columns, height + GAP, width + GAP, channels), 255, dtype=np.uint8)
    framed[:, :, :height, :width] = images
    whole = framed.swapaxes(1, 2).reshape(rows * (height + GAP), columns * (width + GAP), channels)
    return whole[:-GAP, :-GAP]


def save_sheets(sheets: Iterable[Sheet], folder: Path) -> list[Figure]:
    """Write every sheet as PNG and PDF; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save_drawing(draw_sheet(sheet), sheet.name, sheet.title, folder) for sheet in sheets]
