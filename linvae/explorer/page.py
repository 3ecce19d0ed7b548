"""The page: four figures of Bokeh, and a template whose plain HTML controls hold the state.

The controls are native elements, since those of the library lie in shadow roots where no label of
the page reaches their handles. A script of the template writes their values, as JSON, into the
model `state`; the answer comes back as new data of the figures and as JSON in the model `said`.
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
from bokeh.models import ColumnDataSource, Range1d
from bokeh.models.widgets import Div, TextInput
from bokeh.plotting import figure
from jinja2 import Environment, PackageLoader, StrictUndefined

from linvae.explorer.curves import Curves, Unsolvable, curves
from linvae.explorer.source import Source
from linvae.explorer.state import CONTROLS, MODELS, SPECTRA, Choice, State, preset
from linvae.wording import nats, number

__all__ = ["page"]

Array = npt.NDArray[np.float64]
# Okabe & Ito, safe for colour-blind readers; the lighter ones on a dark page
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#7a7a7a"
LEVELS = ((BLUE, "solid"), (ORANGE, "dashed"))
INK = {False: ("#1b1c1e", "#d9dbde"), True: ("#e8e8e6", "#363b41")}  # text, grid; by darkness
LOOKS = {"active": ("circle", BLUE), "collapsed": ("x", ORANGE), "no unit": ("dot", GREY)}
LOG_FLOOR = 1e-12  # of the largest variance: what a logarithmic axis can still show
FIGURES = {
    "unit_rates": ("Rate of each unit", "beta", "rate, nats"),
    "active": ("Active units", "beta", "active units"),
    "tradeoff": ("Squared error against rate", "rate of level 1, nats", "error, data units²"),
    "spectrum": ("Spectrum of the modes", "mode", "variance, data units²"),
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
        self.betas = Range1d(start=0.1, end=10)
        self.figures = {name: self._figure(name, *SCALES[name]) for name in FIGURES}
        for level, (colour, dash) in enumerate(LEVELS):
            self._level(level, colour, dash)
        self._marks()

    def _figure(self, name: str, x_axis: Scale, y_axis: Scale) -> Any:
        title, x_label, y_label = FIGURES[name]
        shared: dict[str, Any] = {"x_range": self.betas} if x_label == "beta" else {}
        return figure(
            name=name, title=title, x_axis_label=x_label, y_axis_label=y_label,
            x_axis_type=x_axis, y_axis_type=y_axis, height=300, sizing_mode="stretch_width",
            tools="pan,wheel_zoom,box_zoom,reset,save", active_drag=None, toolbar_location="below",
            background_fill_alpha=0, border_fill_alpha=0, outline_line_alpha=0, **shared,
        )  # fmt: skip

    def _source(self, name: str, *columns: str) -> ColumnDataSource:
        self.data[name] = ColumnDataSource({column: [] for column in columns}, name=name)
        return self.data[name]

    def _level(self, level: int, colour: str, dash: str) -> None:
        look = {"line_color": colour, "line_dash": dash, "line_width": 2}
        label = {"legend_label": f"level {level + 1}"}
        rates = self._source(f"rates_{level}", "xs", "ys")
        self.figures["unit_rates"].multi_line("xs", "ys", source=rates, **look, **label)
        limits = self._source(f"thresholds_{level}", "x")
        self.figures["unit_rates"].vspan(
            x="x", source=limits, line_color=colour, line_dash="dotted",
            legend_label=f"thresholds, level {level + 1}",
        )  # fmt: skip
        steps = self._source(f"steps_{level}", "x", "y")
        self.figures["active"].step("x", "y", source=steps, mode="after", **look, **label)

    def _marks(self) -> None:
        line = {"line_color": GREY, "line_width": 3, "line_alpha": 0.8}
        at = self._source("beta", "x")
        for name in ("unit_rates", "active"):
            self.figures[name].vspan(x="x", source=at, legend_label="this beta", **line)
        path = self._source("path", "x", "y")
        self.figures["tradeoff"].line("x", "y", source=path, line_color=BLUE, line_width=2)
        here = self._source("here", "x", "y")
        self.figures["tradeoff"].scatter(
            "x", "y", source=here, size=12, marker="diamond", color=ORANGE, legend_label="this beta"
        )
        for state, (marker, colour) in LOOKS.items():
            self.figures["spectrum"].scatter(
                "x", "y", source=self._source(state, "x", "y"), marker=marker, color=colour,
                size=14 if marker == "dot" else 8, line_width=2, legend_label=state,
            )  # fmt: skip
        water = self._source("water", "y")
        self.figures["spectrum"].hspan(y="y", source=water, legend_label="waterline", **line)

    def update(self, found: Curves | None) -> None:
        """The data of `found`, nothing where there is no optimum."""
        for name, columns in (_columns(found) if found else {}).items():
            self.data[name].data = columns
        if found is None:
            for source in self.data.values():
                source.data = {column: [] for column in source.column_names}
        else:
            self.betas.update(start=float(found.betas[0]), end=float(found.betas[-1]))

    def ink(self, dark: bool) -> None:
        """Colours of text and grid for a light or a dark page."""
        text, line = INK[dark]
        for drawn in self.figures.values():
            drawn.title.text_color = text
            for axis in drawn.axis:
                axis.update(
                    axis_label_text_color=text, major_label_text_color=text, axis_line_color=text,
                    major_tick_line_color=text, minor_tick_line_color=line,
                )  # fmt: skip
            drawn.grid.grid_line_color = line
            drawn.legend.update(label_text_color=text, background_fill_alpha=0, border_line_alpha=0)


def _columns(found: Curves) -> dict[str, dict[str, Any]]:
    """The columns of every data source."""
    columns: dict[str, dict[str, Any]] = {
        "beta": {"x": [found.beta]},
        "path": {"x": found.rates[0], "y": found.squared_errors},
        "here": {"x": [float(found.now.rates[0])], "y": [found.squared_error]},
        "water": {"y": [found.waterline]},
    }
    for level in range(len(LEVELS)):
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


# --- text ---------------------------------------------------------------------------------------


def _said(found: Curves | Unsolvable, milliseconds: float) -> str:
    """What the script of the template writes: sentences, and the numbers as rows of a table."""
    rows = _rows(found) if isinstance(found, Curves) else []
    content = {
        "source": found.source,
        "words": list(found.words),
        "rows": rows,
        "milliseconds": round(milliseconds, 1),
    }
    return json.dumps(content)


def _rows(found: Curves) -> list[tuple[str, ...]]:
    """Name and value, one column per level."""
    now, shown = found.now, np.nan_to_num(found.thresholds, nan=0.0)
    return [
        ("Active units", *map(str, now.active_units)),
        ("Rate, nats", *map(nats, now.rates)),
        ("Critical beta of the first unit to die", *(number(_first(row)) for row in shown)),
        ("Critical beta of the last", *(number(float(row.max())) for row in shown)),
        ("Squared error, data units²", number(found.squared_error)),
        ("Waterline, data units²", number(found.waterline)),
    ]


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
        drawn, said = _Figures(), Div(name="said", visible=False)
        wanted = TextInput(name="state", visible=False)
        wanted.on_change("value", lambda _, __, text: _answer(document, drawn, said, text, source))
        _show(drawn, said, start, source)
        drawn.ink(dark=False)
        for root in (*drawn.figures.values(), wanted, said):
            document.add_root(root)
        document.title = "linvae explore"
        document.template = template
        document.template_variables.update(_variables(start, source))

    return open_page


def _answer(
    document: Document, drawn: _Figures, said: Div, text: str, source: Source | None
) -> None:
    """Redraw; what is no state changes nothing and is said."""
    document.hold("combine")
    try:
        fields = json.loads(text)
        drawn.ink(dark=bool(fields.pop("dark", False)))
        _show(drawn, said, State.of(fields), source)
    except (ValueError, AttributeError) as error:
        problem = Unsolvable("", (f"This setting is refused: {error}.",))
        said.text = _said(problem, 0.0)
    finally:
        document.unhold()


def _show(drawn: _Figures, said: Div, state: State, source: Source | None) -> None:
    begin = time.perf_counter()
    found = curves(state, source)
    drawn.update(found if isinstance(found, Curves) else None)
    said.text = _said(found, 1e3 * (time.perf_counter() - begin))


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
        "unit_rates": "KL of each of the first 8 units. Dotted: the beta from which a unit is "
        "collapsed. Thick: this beta. Betas of further levels rise in proportion.",
        "active": "Units that carry anything, per level.",
        "tradeoff": "What every beta buys: more nats, less error.",
        "spectrum": "A mode of level 1 is carried where its variance exceeds the waterline.",
    }
