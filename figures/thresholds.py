"""The headline: predicted against observed threshold over data sets, models and architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from figures.rows import kept
from figures.style import (
    LOOKS,
    QUIET,
    THEORY,
    Axes,
    Canvas,
    Row,
    Rows,
    legend,
    note,
    panels,
    select,
    title,
)
from linvae.comparison import LINEAR_TOLERANCE

MARKERS = {("vae", 1): "o", ("cvae", 1): "s", ("hvae", 1): "^", ("hvae", 2): "v"}
ARCHITECTURES = ("linear", "mlp")


def rows() -> list[Row]:
    """The rows of the comparisons, with the ratio of observed to predicted."""
    found = []
    for row in kept("thresholds"):
        seen = {"ratio": "observed", "ratio_low": "observed_low", "ratio_high": "observed_high"}
        if row["observed"] is None:
            row = {key: value for key, value in row.items() if value is not None}
            found.append(row)
            continue
        found.append(row | {name: row[key] / row["predicted"] for name, key in seen.items()})
    return found


def draw(rows: Rows) -> Canvas:
    """All thresholds against their prediction, and the ratios one by one."""
    figure, (left, right) = panels(2, size=(11.0, 5.4))
    measured = [row for row in rows if "ratio" in row]
    _diagonal(left, measured)
    cases = list(dict.fromkeys(_case(row) for row in rows))
    for look, architecture in enumerate(ARCHITECTURES):
        _ratios(right, select(rows, architecture=architecture), cases, look)
    right.axvline(1, color=THEORY)
    right.axvspan(1 - LINEAR_TOLERANCE, 1 + LINEAR_TOLERANCE, color=THEORY, alpha=0.08, lw=0)
    right.set_yticks(range(len(cases)), cases)
    right.set_ylim(len(cases) - 0.4, -0.6)
    right.set_xlabel("observed / predicted threshold (mean and range of seeds)")
    title(right, f"grey band: ± {100 * LINEAR_TOLERANCE:.0f} %")
    legend(figure, [left], columns=5)
    return figure


def _case(row: Mapping[str, Any]) -> str:
    level = f", level {row['level']}" if row["model"] == "hvae" else ""
    return f"{row['dataset']} {row['model'].upper()}{level}, n = {row['n_samples']}"


def _diagonal(axes: Axes, rows: Rows) -> None:
    ends = [min(row["predicted"] for row in rows) / 2, max(row["predicted"] for row in rows) * 2]
    axes.plot(ends, ends, color=THEORY, label="theory: observed = predicted", zorder=1)
    for look, architecture in enumerate(ARCHITECTURES):
        colour = LOOKS[look][0]
        for (model, level), marker in MARKERS.items():
            part = select(rows, architecture=architecture, model=model, level=level)
            name = f"{architecture} {model.upper()}" + f", level {level}" * (model == "hvae")
            axes.plot(
                [row["predicted"] for row in part], [row["observed"] for row in part],
                color=colour, marker=marker, ls="none", ms=6 + 3 * look, label=name,
                mfc=colour if look == 0 else "none", zorder=3 - look,
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set_xlabel(r"predicted threshold $\beta$ (log scale)")
    axes.set_ylabel(r"observed threshold $\beta$ (log scale)")
    worst = max(abs(np.log(row["ratio"])) for row in select(rows, architecture="linear"))
    share = 100 * np.expm1(worst)
    count = len(rows)
    text = f"{count} thresholds; linear networks\nare within {share:.1f} % of the prediction"
    note(axes, text, 0.97, 0.06, ha="right", va="bottom", color="black")


def _ratios(axes: Axes, rows: Rows, cases: list[str], look: int) -> None:
    colour, marker, _ = LOOKS[look]
    for row in rows:
        y = cases.index(_case(row)) + (0.16 if look else -0.16)
        if "ratio" not in row:
            axes.text(1.03, y, f"{row['architecture']}: no estimate", fontsize=8, color=QUIET,
                      va="center")  # fmt: skip
            continue
        ends = [[row["ratio"] - row["ratio_low"]], [row["ratio_high"] - row["ratio"]]]
        axes.errorbar(
            [row["ratio"]], [y], xerr=ends, color=colour, marker=marker, capsize=2,
            mfc=colour if look == 0 else "none",
        )  # fmt: skip
