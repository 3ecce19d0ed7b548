"""The page: four figures of Bokeh, and a template whose plain HTML controls hold the state.

The controls are native elements, since those of the library lie in shadow roots where no label of
the page reaches their handles. A script of the template writes their values, as JSON, into the
model `state`; the answer comes back as new data of the figures and as JSON in the model `said`.
Both are data sources of one cell, `text`: so no more of Bokeh's scripts is needed than the plots.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from bokeh.document import Document
from bokeh.models import BasicTickFormatter, ColumnDataSource, FixedTicker, Range1d
from bokeh.plotting import figure
from jinja2 import Environment, PackageLoader, StrictUndefined

from linvae.explorer.curves import UNITS_SHOWN, Curves, Unsolvable, curves
from linvae.explorer.source import Source
from linvae.explorer.state import CONTROLS, MODELS, SPECTRA, Choice, State, preset
from linvae.wording import nats, number

__all__ = ["page"]

Array = npt.NDArray[np.float64]
Ends = tuple[float, float]
# Okabe & Ito, safe for colour-blind readers; by darkness of the page: text, grid, levels 1 and 2
INK = {
    False: ("#1b1c1e", "#d9dbde", ("#0072B2", "#D55E00")),
    True: ("#e8e8e6", "#363b41", ("#56B4E9", "#E69F00")),
}
GREY = "#7a7a7a"
DASHES = ("solid", "dashed")  # of levels
LOOKS = {"active": ("circle", 0, 8), "collapsed": ("x", 1, 8), "no unit": ("dot", None, 20)}
LOG_FLOOR = 1e-12  # of the largest variance: what a logarithmic axis can still show
BETA = "beta of level 1, no unit"
FIGURES = {
    "unit_rates": ("Rate of each unit", BETA, "rate, nats"),
    "active": ("Active units", BETA, "number of active units"),
    "tradeoff": ("Squared error against rate", "rate of all levels, nats", "error, data units²"),
    "spectrum": ("Spectrum of the modes", "number of the mode", "variance, data units²"),
}
Scale = Literal["linear", "log"]
SCALES: dict[str, tuple[Scale, Scale]] = {
    "unit_rates": ("log", "linear"),
    "active": ("log", "linear"),
    "tradeoff": ("linear", "linear"),
    "spectrum": ("linear", "log"),
}


class _Figures:
    """The four figures and their data, which `update` replaces."""

    def __init__(self) -> None:
        self.data: dict[str, ColumnDataSource] = {}
        self.dark: bool | None = None
        self.coloured: list[tuple[Any, int]] = []  # glyphs, and which colour of `INK` they have
        self.figures = {name: self._figure(name, *SCALES[name]) for name in FIGURES}
        for level in range(len(DASHES)):
            self._level(level)
        self._marks()
        for drawn in self.figures.values():
            drawn.add_layout(drawn.legend[0], "above")

    def _figure(self, name: str, x_axis: Scale, y_axis: Scale) -> Any:
        title, x_label, y_label = FIGURES[name]
        drawn = figure(
            name=name, title=title, x_axis_label=x_label, y_axis_label=y_label,
            x_axis_type=x_axis, y_axis_type=y_axis, height=340, sizing_mode="stretch_width",
            tools="", toolbar_location=None,  # a third of the time that a browser draws
            background_fill_alpha=0, border_fill_alpha=0, outline_line_alpha=0,
            x_range=Range1d(start=0.1, end=10), y_range=Range1d(start=0.1, end=10),
        )  # fmt: skip
        if x_axis == "log":
            drawn.xaxis.ticker, drawn.xaxis.formatter = FixedTicker(), BasicTickFormatter()
        return drawn

    def _source(self, name: str, *columns: str) -> ColumnDataSource:
        self.data[name] = ColumnDataSource({column: [] for column in columns}, name=name)
        return self.data[name]

    def _level(self, level: int) -> None:
        look = {"line_dash": DASHES[level], "line_width": 2, "legend_label": f"level {level + 1}"}
        rates, limits = self._source(f"rates_{level}", "xs", "ys"), f"thresholds_{level}"
        units, steps = self.figures["unit_rates"], self._source(f"steps_{level}", "x", "y")
        for drawn in (
            units.multi_line("xs", "ys", source=rates, **look),
            units.vspan(
                x="x", source=self._source(limits, "x"), line_dash="dotted",
                legend_label=f"thresholds of level {level + 1}",
            ),
            self.figures["active"].step("x", "y", source=steps, mode="after", **look),
        ):  # fmt: skip
            self.coloured.append((drawn.glyph, level))

    def _marks(self) -> None:
        line = {"line_color": GREY, "line_width": 3, "line_alpha": 0.8}
        at = self._source("beta", "x")
        for name in ("unit_rates", "active"):
            self.figures[name].vspan(x="x", source=at, legend_label="this beta", **line)
        trade, path = self.figures["tradeoff"], self._source("path", "x", "y")
        curve = trade.line("x", "y", source=path, line_width=2, legend_label="all betas")
        here = trade.scatter(
            "x", "y", source=self._source("here", "x", "y"), size=12, marker="diamond",
            legend_label="this beta",
        )  # fmt: skip
        self.coloured += [(curve.glyph, 0), (here.glyph, 1)]
        for state, (marker, colour, size) in LOOKS.items():
            modes = self.figures["spectrum"].scatter(
                "x", "y", source=self._source(state, "x", "y"), marker=marker, color=GREY,
                size=size, line_width=2, legend_label=state,
            )  # fmt: skip
            self.coloured += [(modes.glyph, colour)] if colour is not None else []
        water = self._source("water", "y")
        self.figures["spectrum"].hspan(y="y", source=water, legend_label="waterline", **line)

    def update(self, found: Curves | None) -> None:
        """The data of `found`, nothing where there is no optimum."""
        if found is None:
            for source in self.data.values():
                source.data = {column: [] for column in source.column_names}
            return
        for name, columns in _columns(found).items():
            self.data[name].data = columns
        ranges = _ranges(found)
        for name, (across, up) in ranges.items():
            for axis, (start, end) in zip(("x_range", "y_range"), (across, up), strict=True):
                getattr(self.figures[name], axis).update(start=float(start), end=float(end))
        for name in ("unit_rates", "active"):
            self.figures[name].xaxis.ticker.ticks = _round_betas(*ranges[name][0])
            for item in self.figures[name].legend[0].items:
                item.visible = len(found.rates) > 1 or "2" not in item.label.value
        for item in self.figures["spectrum"].legend[0].items:
            item.visible = item.label.value in ("waterline", *found.states)

    def ink(self, dark: bool) -> None:
        """Colours for a light or a dark page; they take as long to set as curves to solve."""
        if dark == self.dark:
            return
        self.dark = dark
        text, line, levels = INK[dark]
        for glyph, level in self.coloured:
            glyph.line_color = levels[level]
            if hasattr(glyph, "fill_color"):
                glyph.fill_color = levels[level]
        for drawn in self.figures.values():
            drawn.title.text_color = text
            for axis in drawn.axis:
                axis.update(
                    axis_label_text_color=text, major_label_text_color=text, axis_line_color=text,
                    major_tick_line_color=text, minor_tick_line_color=line,
                )  # fmt: skip
            drawn.grid.grid_line_color = line
            drawn.legend.update(
                label_text_color=text, background_fill_alpha=0, border_line_alpha=0,
                orientation="horizontal", ncols=3, padding=0, margin=0,
            )  # fmt: skip


def _round_betas(low: float, high: float) -> list[float]:
    """1, 2, 5 of every decade, and 1 alone where there are more than three."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if math.log10(high / low) <= 3 else (1,)
    return [digit * 10.0**decade for decade in decades for digit in digits]


def _columns(found: Curves) -> dict[str, dict[str, Any]]:
    """The columns of every data source."""
    columns: dict[str, dict[str, Any]] = {
        "beta": {"x": [found.beta]},
        "path": {"x": found.rates.sum(axis=0), "y": found.squared_errors},
        "here": {"x": [float(found.now.rates.sum())], "y": [found.squared_error]},
        "water": {"y": found.waterlines},
    }
    for level in range(len(DASHES)):
        there = level < len(found.rates)
        rates = found.unit_rates[level] if there else []
        limits = found.thresholds[level] if there else np.empty(0)
        columns[f"rates_{level}"] = {"xs": [found.betas] * len(rates), "ys": list(rates)}
        columns[f"thresholds_{level}"] = {"x": limits[np.isfinite(limits) & (limits > 0)]}
        columns[f"steps_{level}"] = {
            "x": found.step_betas if there else [],
            "y": found.active_units[level] if there else [],
        }
    for state in LOOKS:
        columns[state] = _modes(found, state)
    return columns


def _modes(found: Curves, state: str) -> dict[str, Any]:
    """Number and variance of the modes in `state` that a logarithmic axis can show."""
    shown = found.variances > LOG_FLOOR * found.variances[0]
    index = np.flatnonzero((np.array(found.states) == state) & shown)
    return {"x": index + 1.0, "y": found.variances[index]}


def _ranges(found: Curves) -> dict[str, tuple[Ends, Ends]]:
    """The ends of both axes of every figure, with room for marks; a logarithmic one has no 0."""
    betas = found.betas[0], found.betas[-1]
    rates, errors = found.rates.sum(axis=0), found.squared_errors
    shown = found.variances[found.variances > LOG_FLOOR * found.variances[0]]
    heights = np.append(shown, found.waterlines)
    return {
        "unit_rates": (betas, _room(0.0, found.unit_rates.max())),
        "active": (betas, _room(0.0, found.active_units.max())),
        "tradeoff": (_room(rates.min(), rates.max()), _room(errors.min(), errors.max())),
        "spectrum": ((0, len(shown) + 1), (heights.min() / 1.5, heights.max() * 1.5)),
    }


def _room(low: float, high: float) -> Ends:
    """A twentieth more on both sides, and never nothing between them."""
    room = max(0.05 * (high - low), 1e-9 + 0.01 * abs(high))
    return low - room, high + room


# --- text ---------------------------------------------------------------------------------------


def _said(found: Curves | Unsolvable, request: int, begin: float) -> str:
    """What the script of the template writes: sentences, and the numbers as rows of a table.

    `request`: which one this answers; `begin`: when that was.
    """
    heads, rows = (_heads(found), _rows(found)) if isinstance(found, Curves) else ([], [])
    content = {
        "source": found.source,
        "words": list(found.words),
        "heads": heads,
        "rows": rows,
        "request": request,
        "milliseconds": round(1e3 * (time.perf_counter() - begin), 2),
    }
    return json.dumps(content)


def _rows(found: Curves) -> list[tuple[str, ...]]:
    """Name and value, one column per level or one for all."""
    now, shown = found.now, np.nan_to_num(found.thresholds, nan=0.0)
    return [
        ("Active units", *map(str, now.active_units)),
        ("Rate, nats", *map(nats, now.rates)),
        ("Critical beta of the first unit to die", *(number(_first(row)) for row in shown)),
        ("Critical beta of the last", *(number(float(row.max())) for row in shown)),
        ("Squared error, data units²", number(found.squared_error)),
        ("Waterline, data units²", _waterline(found)),
    ]


def _heads(found: Curves) -> list[str]:
    """Of the columns of values, where there are several."""
    levels = len(found.rates)
    return [f"level {level + 1}" for level in range(levels)] if levels > 1 else []


def _waterline(found: Curves) -> str:
    """Of all modes, or of those with and without a unit on level 2."""
    first, *second = map(number, found.waterlines)
    return first if not second else f"{first}; {second[0]} without a unit on level 2"


def _first(thresholds: Array) -> float:
    """The lowest that is not 0: of those the model or the data have no use at any beta."""
    alive = thresholds[thresholds > 0]
    return float(alive.min()) if alive.size else 0.0


# --- document -----------------------------------------------------------------------------------


def page(start: State, source: Source | None) -> Callable[[Document], None]:
    """What Bokeh calls for every visitor: a page of their own at `start`."""
    environment = Environment(
        loader=PackageLoader("linvae"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["log10"] = math.log10
    template = environment.get_template("explore.html")

    def open_page(document: Document) -> None:
        drawn, said = _Figures(), ColumnDataSource({"text": [""]}, name="said")
        wanted = ColumnDataSource({"text": [""]}, name="state")
        wanted.on_change("data", lambda _, __, data: _answer(document, drawn, said, data, source))
        drawn.ink(dark=False)  # the script asks at once for what the visitor's page is
        begin, found = time.perf_counter(), curves(start, source)
        drawn.update(found if isinstance(found, Curves) else None)
        said.data = {"text": [_said(found, 0, begin)]}
        for root in (*drawn.figures.values(), wanted, said):
            document.add_root(root)
        document.title = "linvae explore"
        document.template = template
        document.template_variables.update(_variables(start, source))

    return open_page


def _answer(
    document: Document, drawn: _Figures, said: ColumnDataSource, data: Any, source: Source | None
) -> None:
    """Redraw; what is no state changes nothing and is said."""
    begin, request = time.perf_counter(), 0
    document.hold("combine")
    try:
        asked = json.loads(data["text"][0])
        request = int(asked["request"])
        found = curves(State.of(asked["state"]), source)
        drawn.ink(dark=bool(asked["dark"]))
        drawn.update(found if isinstance(found, Curves) else None)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        found = Unsolvable("", (f"This setting is refused: {error}.",))
    said.data = {"text": [_said(found, request, begin)]}
    document.unhold()


def _variables(start: State, source: Source | None) -> dict[str, Any]:
    """What the template asks for."""
    return {
        "controls": CONTROLS,
        "start": dataclasses.asdict(start),
        "is_choice": lambda control: isinstance(control, Choice),
        "options": lambda control: _options(control, source),
        "presets": {model: preset(model) for model in MODELS},
        "synthetic": SPECTRA,
        "has_condition": source is not None and source.given is not None,
        "captions": _captions(),
    }


def _options(control: Choice, source: Source | None) -> Sequence[str]:
    """The spectrum of the data only where there are data."""
    without = control.name == "spectrum" and source is None
    return control.options[1:] if without else control.options


def _captions() -> dict[str, str]:
    return {
        "unit_rates": f"KL of each of the first {UNITS_SHOWN} units. Dotted: the beta from which a "
        "unit is collapsed. Thick: this beta. Betas of further levels rise in proportion. With a "
        "fixed encoder variance a dead unit still costs nats.",
        "active": "Units that carry anything, per level.",
        "tradeoff": "What every beta buys: more nats, less error.",
        "spectrum": "A mode of level 1 is carried where its variance exceeds the waterline (the "
        "second one where level 2 has no unit for it).",
    }
