"""How every figure looks, and how its files are written: whole or not at all.

matplotlib is imported when the first figure is drawn, and pyplot never.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from linvae.comparison import Comparison, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "QUIET",
    "THEORY",
    "Drawing",
    "Figure",
    "beta_label",
    "legend",
    "look",
    "new_figure",
    "save_drawing",
    "save_figure",
]

THEORY = "#000000"
QUIET = "#6b6b6b"
# Okabe & Ito, safe for colour-blind readers; (colour, marker, line style), cycled in this order.
LOOKS = (
    ("#0072B2", "o", (0, (5, 2))),
    ("#D55E00", "s", (0, (1, 1.2))),
    ("#009E73", "^", (0, (5, 2, 1, 2))),
    ("#CC79A7", "D", (0, (3, 1, 1, 1, 1, 1))),
    ("#E69F00", "v", (0, (8, 2))),
)
STYLE: Any = {  # matplotlib settings
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "text.parse_math": True,
}
RESOLUTION = 150  # dots per inch of the PNG files


class Drawing(NamedTuple):
    """A matplotlib figure and its key numbers in one sentence."""

    figure: Canvas
    alt: str


@dataclass(frozen=True)
class Figure:
    """A figure on disk: `png_path`, and a PDF of the same name beside it."""

    name: str
    title: str
    alt: str
    png_path: Path


def look(comparison: Comparison, architecture: str) -> tuple[str, str, Any]:
    """Colour, marker and line style: linear and mlp have theirs, the rest follow in turn."""
    known = ["linear", "mlp"]
    names = known + [name for name in comparison.architectures if name not in known]
    return LOOKS[names.index(architecture) % len(LOOKS)]


def beta_label(comparison: Comparison) -> str:
    """Name of the axis of beta."""
    return r"$\beta$ of level 1" if len(comparison.levels) > 1 else r"$\beta$"


@contextmanager
def new_figure(
    count: int, size: tuple[float, float] | None = None, rows: int = 1
) -> Iterator[tuple[Canvas, list[Axes]]]:
    """A figure with `count` panels side by side, in `rows` rows, in the style of this file."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(STYLE):
        figure = Canvas(figsize=size or (6.0 if count < 2 else 3.4 * count, 4.0))
        FigureCanvasAgg(figure)
        yield figure, list(figure.subplots(rows, count, squeeze=False).flat)


def legend(figure: Canvas, axes: Axes, columns: int = 5) -> None:
    """One legend above all panels, in at most so many columns."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), columns))


def save_drawing(drawing: Drawing, name: str, title: str, folder: Path) -> Figure:
    """Write one drawing as PNG and PDF into a folder that exists."""
    path = folder / f"{name}.png"
    for suffix in (".png", ".pdf"):
        save_figure(drawing.figure, path.with_suffix(suffix))
    return Figure(name, title, drawing.alt, path)


def save_figure(figure: Canvas, path: Path) -> None:
    """Save, whole or not at all; no date, so runs repeat."""
    import matplotlib as mpl

    dateless = {"CreationDate": None} if path.suffix == ".pdf" else {}
    content = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(content, format=path.suffix[1:], dpi=RESOLUTION, metadata=dateless)
    write_bytes(path, content.getvalue())
