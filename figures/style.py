"""Panels, looks and files of all figures: those of `linvae.plots`, plus grids of panels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from linvae.plots import LOOKS, QUIET, STYLE, THEORY
from linvae.wording import Spread

__all__ = [
    "LOOKS",
    "QUIET",
    "STYLE",
    "THEORY",
    "Axes",
    "Canvas",
    "Row",
    "Rows",
    "csv_text",
    "legend",
    "line",
    "note",
    "panels",
    "range_bars",
    "save_animation",
    "select",
    "spread_points",
    "title",
]

Row = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
FRAMES_PER_SECOND, PIXELS_PER_INCH = 6, 100  # of animations


def select(rows: Rows, **where: Any) -> Rows:
    """The rows whose columns have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in where.items())]


def panels(
    columns: int, rows: int = 1, *, size: tuple[float, float] | None = None, **grid: Any
) -> tuple[Canvas, list[Axes]]:
    """An empty figure and its axes, row by row; `grid` goes to matplotlib's `subplots`."""
    width = 6.0 if columns == 1 else 3.6 * columns
    figure = Canvas(figsize=size or (width, 0.7 + 3.2 * rows))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **grid).flat)


def line(axes: Axes, rows: Rows, x: str, y: str, look: int | None = None, **kwargs: Any) -> None:
    """A theory line: black and solid, or in colour and dashes of that look."""
    style: dict[str, Any] = {"color": THEORY}
    if look is not None:
        colour, _, dashes = LOOKS[look]
        style = {"color": colour, "ls": dashes if look else "-"}
    axes.plot([row[x] for row in rows], [row[y] for row in rows], **(style | kwargs))


def spread_points(axes: Axes, rows: Rows, x: str, y: str, look: int, **kwargs: Any) -> None:
    """Means at every x, with the range over seeds as bars where it is wider than the mark."""
    colour, marker, _ = LOOKS[look]
    places = sorted({row[x] for row in rows})
    seen = [Spread.of(row[y] for row in rows if row[x] == place) for place in places]
    means = [point.mean for point in seen]
    style: dict[str, Any] = {
        "color": colour,
        "marker": marker,
        "ls": "none",
        "capsize": 2,
        "elinewidth": 1,
    }
    axes.errorbar(places, means, yerr=range_bars(seen), **(style | kwargs))


def range_bars(seen: Sequence[Spread]) -> list[list[float]]:
    """How far the ranges reach below and above the means, never less than 0 by rounding."""
    return [[max(p.mean - p.low, 0) for p in seen], [max(p.high - p.mean, 0) for p in seen]]


def title(axes: Axes, text: str) -> None:
    """What the panel shows, above its left end."""
    axes.set_title(text, loc="left")


def note(axes: Axes, text: str, x: float, y: float, **kwargs: Any) -> None:
    """Words inside the panel, at shares of its width and height."""
    style: dict[str, Any] = {"fontsize": 8, "color": QUIET, "va": "top", "ha": "left"}
    axes.text(x, y, text, transform=axes.transAxes, **(style | kwargs))


def legend(figure: Canvas, axes: Axes | Iterable[Axes], columns: int = 4) -> None:
    """One legend above all panels, with every label once."""
    found: dict[str, Any] = {}
    for one in [axes] if not isinstance(axes, Iterable) else axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=columns)


def save_animation(frames: Iterator[Canvas], path: Path) -> None:
    """A GIF that begins again; `frames` gives one figure, changed from frame to frame."""
    writer, temporary = PillowWriter(fps=FRAMES_PER_SECOND), path.with_name(f".{path.name}")
    with writer.saving(next(frames), temporary, PIXELS_PER_INCH):
        writer.grab_frame()
        for _ in frames:
            writer.grab_frame()
    temporary.replace(path)


def csv_text(rows: Rows) -> str:
    """The rows as CSV; a column that a row lacks is empty there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
