"""Figures from rows: theory as a black line, observations as marks with their range over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from figures.style import (
    LOOKS,
    QUIET,
    THEORY,
    Axes,
    Canvas,
    Rows,
    legend,
    line,
    panels,
    select,
    spread_points,
    title,
)
from linvae.wording import Spread

__all__ = ["Canvas", "Panel", "Rows", "against_panels", "swept_panels"]

Panel = tuple[str, int, str]  # quantity, level (-1: the last one), name and unit


def swept_panels(
    rows: Rows,
    labels: Mapping[str, str],
    panel_rows: Sequence[Panel],
    *,
    marks: Mapping[str, float] | None = None,
    dashed: Mapping[str, str] | None = None,
    log: bool = True,
) -> Canvas:
    """One column per setting of `labels`, one row per panel.

    `marks`: values of the settings at a dotted line; `dashed`: another setting whose prediction is
    drawn dashed beside that of the setting.
    """
    size = (0.6 + 2.6 * len(labels), 0.7 + 2.1 * len(panel_rows))
    figure, axes = panels(len(labels), len(panel_rows), size=size, sharex="col")
    for i, (quantity, level, name) in enumerate(panel_rows):
        for j, setting in enumerate(labels):
            one = axes[i * len(labels) + j]
            some = _level(select(rows, setting=setting, quantity=quantity), level)
            _panel(one, some, log)
            if setting in (dashed or {}):
                other = select(rows, setting=dashed[setting], quantity=quantity)
                _dashed(one, other)
            if setting in (marks or {}):
                one.axvline(marks[setting], color=QUIET, ls=":", lw=1, zorder=0)
            if j == 0:
                one.set_ylabel(name)
    for one, label in zip(axes[-len(labels) :], labels.values(), strict=True):
        one.set_xlabel(label)
    legend(figure, axes)
    return figure


def _level(rows: Rows, level: int) -> Rows:
    if level < 0:
        level = max((row["level"] for row in rows), default=0)
    return select(rows, level=level)


def _panel(axes: Axes, rows: Rows, log: bool) -> None:
    theory = sorted(select(rows, architecture="theory"), key=lambda row: row["value"])
    counts = bool(theory) and theory[0]["quantity"] == "active_units"
    steps = "steps-mid" if counts else "default"
    line(axes, theory, "value", "predicted", label="theory (linear)", drawstyle=steps)
    for look, name in enumerate(_architectures(rows)):
        spread_points(axes, select(rows, architecture=name), "value", "observed", look,
                      label=f"{name}, trained", mfc="none" if look else None)  # fmt: skip
    if log:
        _plain_log_axis(axes, sorted({row["value"] for row in rows if row["seed"] >= 0}))


def _dashed(axes: Axes, rows: Rows) -> None:
    """The count of another theory at the values trained."""
    values = sorted({row["value"] for row in rows})
    counts = [select(rows, value=value)[0]["predicted"] for value in values]
    axes.plot(values, counts, color=LOOKS[3][0], ls=(0, (4, 2)), lw=1.2, drawstyle="steps-mid",
              label="published code's threshold")  # fmt: skip


def _plain_log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic, with the values trained as its numbers where they have room."""
    axes.set_xscale("log")
    shown = [v for i, v in enumerate(values) if i == 0 or v / values[i - 1] > 1.6]
    axes.set_xticks(shown, [f"{v:g}" for v in shown])
    axes.set_xticks([], minor=True)


def _architectures(rows: Rows) -> list[str]:
    names = dict.fromkeys(row["architecture"] for row in rows)
    return [name for name in names if name != "theory"]


def against_panels(
    rows: Rows, panel_columns: Sequence[Panel], name: Callable[[float], str]
) -> Canvas:
    """Observed against predicted, one panel per quantity; marks named by their value."""
    figure, axes = panels(len(panel_columns), 1, size=(3.5 * len(panel_columns), 4.0))
    for one, (quantity, level, words) in zip(axes, panel_columns, strict=True):
        some = _level(select(rows, quantity=quantity), level)
        for look, architecture in enumerate(_architectures(some)):
            _against(one, select(some, architecture=architecture), look, architecture, name)
        ends = [row["predicted"] for row in some]
        ends = [min(ends), max(ends)]
        one.plot(ends, ends, color=THEORY, lw=1, label="observed = predicted", zorder=1)
        one.set_xlabel(f"predicted: {words}")
        title(one, words)
    axes[0].set_ylabel("observed (mean and range of seeds)")
    legend(figure, axes)
    return figure


def _against(
    axes: Axes, rows: Rows, look: int, architecture: str, name: Callable[[float], str]
) -> None:
    colour, marker, _ = LOOKS[look]
    for value in sorted({row["value"] for row in rows}):
        same = select(rows, value=value)
        seen, x = Spread.of(row["observed"] for row in same), same[0]["predicted"]
        if not math.isfinite(seen.mean):
            continue
        ends = [[seen.mean - seen.low], [seen.high - seen.mean]]
        axes.errorbar([x], [seen.mean], yerr=ends, color=colour, marker=marker, ls="none",
                      capsize=2, elinewidth=1, mfc="none" if look else None,
                      label=f"{architecture}, trained")  # fmt: skip
        axes.annotate(name(value), (x, seen.mean), xytext=(4, 3), textcoords="offset points",
                      fontsize=7, color=colour)  # fmt: skip
