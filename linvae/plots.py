"""Figures of a comparison: theory as a black line, observations as marks with their range.

Every figure is drawn from the rows alone; nothing is computed beyond means and ranges over seeds.
A drawing function takes a `Comparison` and gives a `Drawing`: the matplotlib figure and one
sentence with its key numbers, for those who cannot see it. matplotlib is imported when the first
figure is drawn, and pyplot never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linvae.comparison import LINEAR_TOLERANCE, Comparison, Threshold
from linvae.drawing import (
    LOOKS,
    QUIET,
    STYLE,
    THEORY,
    Drawing,
    Figure,
    beta_label,
    legend,
    look,
    new_figure,
    save_drawing,
    save_figure,
)
from linvae.sweep_plots import curves_shown, phases, training, unit_rates, units_shown
from linvae.wording import Spread, level_text, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "FIGURES",
    "LOOKS",
    "QUIET",
    "STYLE",
    "THEORY",
    "Drawing",
    "Figure",
    "active_units",
    "control_fit",
    "new_figure",
    "observed",
    "phases",
    "rate",
    "save_drawing",
    "save_figure",
    "save_figures",
    "spectrum",
    "thresholds",
    "training",
    "unit_rates",
]


def observed(
    comparison: Comparison, quantity: str, architecture: str, level: int
) -> dict[float, Spread]:
    """Spread over seeds at every beta of the sweep, ascending."""
    sweep = comparison.sweep(quantity, architecture, level)
    return {beta: Spread.of(row.observed for row in rows) for beta, rows in sweep.items()}


# --- figures ------------------------------------------------------------------------------------


def thresholds(comparison: Comparison) -> Drawing:
    """Thresholds over the linear prediction, per level and architecture, with what bounds them.

    Mark: mean and range of the seeds. Bar: between the two branches. Triangle: certified, below it
    a trained network beats collapse. Cross: below it the collapsed network is unstable. Dashed:
    beyond it no network can be worth its rate.
    """
    rows = sorted(comparison.thresholds(), key=lambda t: t.level)
    with new_figure(1, size=(6.4, 1.6 + 0.42 * len(rows))) as (figure, (axes,)):
        axes.axvline(1, color=THEORY, label="theory")
        band = (1 - LINEAR_TOLERANCE, 1 + LINEAR_TOLERANCE)
        name = f"theory ± {LINEAR_TOLERANCE:.0%}".replace("%", " %")
        axes.axvspan(*band, color=THEORY, alpha=0.08, lw=0, label=name)
        for y, row in enumerate(rows):
            _threshold_mark(axes, y, comparison, row.architecture, row.level)
        names = [f"{r.architecture}{level_text(comparison, r.level, ', ')}" for r in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        for y, row in enumerate(rows):
            _bounds_marks(axes, y, comparison, row.architecture, row.level)
        _room_for_ratios(axes)
        _universal_marks(axes, comparison, rows)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(r"$\beta$ / linear prediction (marks: mean and range of seeds)")
        legend(figure, axes, columns=3)
    return Drawing(figure, _thresholds_alt(comparison))


def rate(comparison: Comparison) -> Drawing:
    """Rate of each level against beta, theory and observed."""
    alt = _sweep_alt(comparison, "rate_nats", "Rate in nats per sample")
    return Drawing(_sweep(comparison, "rate_nats", "rate, nats per sample", step=False), alt)


def active_units(comparison: Comparison) -> Drawing:
    """Number of active units of each level against beta, theory and observed."""
    alt = _sweep_alt(comparison, "active_units", "Number of active units")
    return Drawing(_sweep(comparison, "active_units", "active units", step=True), alt)


def control_fit(comparison: Comparison) -> Drawing:
    """Beta that holds a level at a given information, and its line down to no information."""
    shown = _control_levels(comparison)
    if not shown:
        raise ValueError("no control run held its information: there is nothing to draw")
    with new_figure(len(shown)) as (figure, panels):
        for axes, level in zip(panels, shown, strict=True):
            _control_panel(axes, comparison, level)
        panels[0].set_ylabel(f"{beta_label(comparison)} that holds the information (log scale)")
        legend(figure, panels[0])
    return Drawing(figure, _control_alt(comparison, shown))


def spectrum(comparison: Comparison) -> Drawing:
    """Variance of each mode, with the water levels beta * s of the sweep of a one-level model."""
    from matplotlib.ticker import MaxNLocator

    rows = comparison.select("mode_variance", architecture="theory")
    modes = [row.index for row in rows]
    with new_figure(1) as (figure, (axes,)):
        variances = [row.predicted for row in rows]
        axes.plot(modes, variances, color=THEORY, marker="o", ms=3.5, label="mode, theory")
        axes.set_yscale("log", nonpositive="mask")
        axes.set_xlabel("mode, in descending order")
        axes.set_ylabel(r"variance to explain $\theta_i^2$, data units squared")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        water = _water_levels(comparison)
        _draw_water(axes, water)
        if water:
            axes.set_title("a mode below the water level is collapsed", loc="left")
        legend(figure, axes)
    return Drawing(figure, _spectrum_alt(comparison, water))


# --- panels -------------------------------------------------------------------------------------


def _threshold_mark(
    axes: Axes, y: int, comparison: Comparison, architecture: str, level: int
) -> None:
    """One line of the threshold figure: mark, range and the numbers themselves."""
    predicted = comparison.critical_beta(level)
    rows = comparison.select("critical_beta", architecture=architecture, level=level)
    seen = Spread.of(row.observed for row in rows)
    if not (math.isfinite(predicted) and predicted > 0 and seen.count):
        words = _no_ratio(predicted).replace(": ", ":\n")
        axes.annotate(words, (1, y), xycoords=("axes fraction", "data"), xytext=(6, 0), **_BESIDE)
        return
    colour, marker, _ = look(comparison, architecture)
    ratio = seen.mean / predicted
    ends = [[ratio - seen.low / predicted], [seen.high / predicted - ratio]]
    axes.errorbar([ratio], [y], xerr=ends, color=colour, marker=marker, ms=7, capsize=3)
    note = f"{seen.text()}\nof {number(predicted)}"
    axes.annotate(note, (1.0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), **_BESIDE)


def _room_for_ratios(axes: Axes) -> None:
    """At least 5 % to either side of agreement."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.95), max(high, 1.05))


BRACKET, CERTIFIED, LOCAL, UNIVERSAL = "#56B4E9", "#E69F00", "#CC79A7", "#009E73"
FAR = 1.5  # a universal threshold beyond this multiple of everything else is named, not drawn


def _bounds_marks(
    axes: Axes, y: int, comparison: Comparison, architecture: str, level: int
) -> None:
    """Bracket, certified bound and local threshold of one line, over the prediction."""
    predicted = comparison.critical_beta(level)
    if not (math.isfinite(predicted) and predicted > 0):
        return

    where = {"architecture": architecture, "level": level}

    def seen(quantity: str) -> list[float]:
        rows = comparison.select(quantity, **where)
        return [r.observed / predicted for r in rows if not math.isnan(r.observed)]

    tried = [r.beta / predicted for r in comparison.select("alive_branch_nats", **where)]
    if tried:  # an end that was not found: the last beta tried
        low = min(seen("bracket_low"), default=min(tried))
        high = min(max(seen("bracket_high")), max(tried))
        axes.plot([low, high], [y, y], color=BRACKET, lw=9, alpha=0.45, solid_capstyle="butt",
                  zorder=1, label=_once(axes, "bracket of two branches"))  # fmt: skip
    if certified := seen("certified_beta"):
        axes.plot([max(certified)], [y], color=CERTIFIED, marker=">", ms=8, ls="none", mec=THEORY,
                  mew=0.6, zorder=5, label=_once(axes, "certified lower bound"))  # fmt: skip
    for i, value in enumerate(seen("local_beta")):
        label = _once(axes, "collapsed network unstable below") if i == 0 else "_"
        axes.plot([value], [y], color=LOCAL, marker="x", ms=6, mew=1.8, ls="none", zorder=4,
                  label=label)  # fmt: skip


def _universal_marks(axes: Axes, comparison: Comparison, rows: Sequence[Threshold]) -> None:
    """The universal threshold of level 1 on its lines, or a note where it is far to the right."""
    found = [r.predicted for r in comparison.select("universal_beta", architecture="theory")]
    lines = [y for y, row in enumerate(rows) if row.level == 1]
    if not found or not lines or not comparison.critical_beta(1) > 0:
        return
    ratio = found[0] / comparison.critical_beta(1)
    left, right = axes.get_xlim()
    if ratio > FAR * right:
        axes.set_title(f"universal threshold: {number(ratio, 3)} →", loc="right", fontsize=8,
                       color=UNIVERSAL)  # fmt: skip
        return
    axes.set_xlim(left, max(right, ratio + 0.03 * (ratio - left)))
    axes.plot([ratio, ratio], [min(lines) - 0.45, max(lines) + 0.45], color=UNIVERSAL, lw=1.6,
              ls=(0, (4, 2)), label="universal threshold")  # fmt: skip


def _once(axes: Axes, label: str) -> str:
    """`label` the first time, then one that the legend leaves out."""
    used = {line.get_label() for line in axes.get_lines()}
    return "_" if label in used else label


_BESIDE: Mapping[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8}


def _no_ratio(predicted: float) -> str:
    """What to write where observed / predicted does not exist."""
    if predicted == math.inf:
        return "predicted: never collapses"
    return "predicted: never active" if predicted == 0 else "no estimate"


def _sweep(comparison: Comparison, quantity: str, label: str, *, step: bool) -> Canvas:
    """One panel per level of a quantity against beta."""
    shown = comparison.levels
    with new_figure(len(shown)) as (figure, panels):
        for axes, level in zip(panels, shown, strict=True):
            _sweep_panel(axes, comparison, quantity, level, step=step)
        panels[0].set_ylabel(label)
        legend(figure, panels[0])
    return figure


def _sweep_panel(
    axes: Axes, comparison: Comparison, quantity: str, level: int, *, step: bool
) -> None:
    """Theory curve, observed means with their range, and the predicted threshold."""
    from matplotlib.ticker import MaxNLocator

    curve = sorted(
        (row.beta, row.predicted)
        for row in comparison.select(quantity, architecture="theory", level=level, index=0)
    )
    style = "steps-mid" if step else "default"
    betas, values = [b for b, _ in curve], [v for _, v in curve]
    axes.plot(betas, values, color=THEORY, drawstyle=style, label="theory", zorder=2)
    for architecture in comparison.architectures:
        points = observed(comparison, quantity, architecture, level)
        _draw_points(axes, comparison, architecture, points)
    axes.set_xlabel(beta_label(comparison))
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.04 * top, 1.18 * top)  # room for the words at the threshold
    if step:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(level_text(comparison, level), loc="left", fontweight="bold")
    _mark_threshold(axes, comparison.critical_beta(level))


def _draw_points(
    axes: Axes, comparison: Comparison, architecture: str, points: Mapping[float, Spread]
) -> None:
    """Means with the range over seeds as bars; the first architecture filled, the others open."""
    colour, marker, _ = look(comparison, architecture)
    rank = comparison.architectures.index(architecture)
    shown = {beta: p for beta, p in points.items() if p.count}
    means = [p.mean for p in shown.values()]
    ends = [[p.mean - p.low for p in shown.values()], [p.high - p.mean for p in shown.values()]]
    axes.errorbar(
        list(shown), means, yerr=ends, linestyle="none", color=colour, marker=marker,
        markersize=5 + 1.5 * rank, markerfacecolor=colour if rank == 0 else "none",
        capsize=2, elinewidth=1, label=architecture, zorder=4 - 0.1 * rank,
    )  # fmt: skip


def _mark_threshold(axes: Axes, threshold: float) -> None:
    """Dotted vertical line at the predicted threshold, or words where it is not in the panel."""
    low, high = axes.get_xlim()
    if not low < threshold < high:
        finite = 0 < threshold < math.inf
        words = f"predicted: {number(threshold)}" if finite else _no_ratio(threshold)
        axes.set_title(words, loc="right", fontsize=8, color=QUIET)
        return
    left = threshold > (low + high) / 2
    axes.axvline(threshold, color=QUIET, ls=":", lw=1.2, zorder=1)
    axes.annotate(
        f"predicted threshold\n{number(threshold)}", (threshold, 0.97),
        xycoords=("data", "axes fraction"), xytext=(-4 if left else 4, 0),
        textcoords="offset points", ha="right" if left else "left", va="top", fontsize=8,
        color=QUIET,
    )  # fmt: skip


def _control_points(comparison: Comparison, level: int) -> dict[str, list[tuple[float, float]]]:
    """(information, beta) of the control runs of a level, by architecture."""
    first = float((comparison.settings.get("betas") or [1.0])[0])
    points: dict[str, list[tuple[float, float]]] = {}
    for row in comparison.select("factor_at_information", level=level):
        if math.isfinite(row.observed) and math.isfinite(row.information_nats):
            found = points.setdefault(row.architecture, [])
            found.append((row.information_nats, first * row.observed))
    points.pop("theory", None)
    return points


def _control_theory(comparison: Comparison, level: int) -> list[tuple[float, float]]:
    """(information, beta) of the theory, from no information upwards."""
    first = float((comparison.settings.get("betas") or [1.0])[0])
    rows = comparison.select("factor_at_information", level=level)
    known = {r.information_nats: first * r.predicted for r in rows if math.isfinite(r.predicted)}
    return sorted(({0.0: comparison.critical_beta(level)} | known).items())


def _control_levels(comparison: Comparison) -> list[int]:
    """Levels with at least one control run that held its information."""
    return [level for level in comparison.levels if _control_points(comparison, level)]


def _control_panel(axes: Axes, comparison: Comparison, level: int) -> None:
    """Control runs of one level, their fitted lines and the line of the theory."""
    points = _control_points(comparison, level)
    end = 1.05 * max(x for pairs in points.values() for x, _ in pairs)
    fits = {t.architecture: t for t in comparison.thresholds() if t.level == level}
    theory = _control_theory(comparison, level)
    if len(theory) > 1:
        axes.plot(*zip(*theory, strict=True), color=THEORY, label="theory", zorder=2)
    for architecture, pairs in points.items():
        colour, marker, dashes = look(comparison, architecture)
        filled = colour if architecture == comparison.architectures[0] else "none"
        axes.plot(*zip(*sorted(pairs), strict=True), color=colour, marker=marker, ls="none",
                  mfc=filled, label=f"{architecture}, control runs", zorder=3)  # fmt: skip
        fit = fits.get(architecture)
        if fit and math.isfinite(fit.observed) and math.isfinite(fit.slope):
            label = f"{architecture}, fit"
            line = _line(fit.observed, fit.slope, end)
            axes.plot(*line, color=colour, ls=dashes, lw=1.2, label=label)
            axes.plot([0], [fit.observed], color=colour, marker=marker, ms=8, mfc=filled,
                      clip_on=False, zorder=5)  # fmt: skip
    _finish_control(axes, comparison, level, end)


def _finish_control(axes: Axes, comparison: Comparison, level: int, end: float) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 20 * low:  # less than a decade or so has too few powers of ten to read from
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, end)
    axes.set_xlabel(f"information{level_text(comparison, level, ' of ')}, nats")
    axes.set_title(
        level_text(comparison, level) or "threshold = where the line meets information 0",
        loc="left", fontweight="bold" if level_text(comparison, level) else "normal",
    )  # fmt: skip


def _line(threshold: float, slope: float, end: float) -> tuple[list[float], list[float]]:
    """A line of log beta over information, from no information to `end`."""
    return [0.0, end], [threshold, threshold * math.exp(slope * end)]


def _water_levels(comparison: Comparison) -> dict[float, float]:
    """beta -> beta * s for the sweep of one level with a learned encoder variance; else empty."""
    variance = comparison.settings.get("decoder_variance")
    learned = comparison.settings.get("encoder_variances", [None]) == [None]
    if len(comparison.levels) != 1 or not learned or not isinstance(variance, (int, float)):
        return {}
    return {beta: beta * variance for beta in comparison.settings.get("betas_swept") or ()}


def _draw_water(axes: Axes, water: Mapping[float, float]) -> None:
    """Thin lines; the lowest, the middle and the highest are named at the right edge."""
    betas = sorted(water)
    named = {betas[0], betas[len(betas) // 2], betas[-1]} if betas else set()
    for beta in betas:
        label = r"water level $\beta s$ of a sweep point" if beta == betas[0] else None
        axes.axhline(water[beta], color="#56B4E9", lw=1, ls=(0, (4, 2)), zorder=1, label=label)
        if beta in named:
            axes.annotate(rf"$\beta$ = {beta:.4g}", (1, water[beta]), fontsize=8, color=QUIET,
                          xycoords=("axes fraction", "data"), xytext=(4, 0),
                          textcoords="offset points", va="center")  # fmt: skip


# --- sentences for those who cannot see the figure ----------------------------------------------


def _thresholds_alt(comparison: Comparison) -> str:
    parts = []
    for row in comparison.thresholds():
        name = f"{row.architecture}{level_text(comparison, row.level, ' ')}"
        if math.isfinite(row.predicted) and row.predicted > 0 and row.seeds:
            ratio = number(row.observed / row.predicted, 3)
            bounds = _bounds_text(comparison, row.architecture, row.level)
            parts.append(f"{name} {ratio} times the predicted {number(row.predicted)}{bounds}")
        else:
            parts.append(f"{name}: {_no_ratio(row.predicted)}")
    return "Observed against predicted thresholds: " + "; ".join(parts) + "."


def _bounds_text(comparison: Comparison, architecture: str, level: int) -> str:
    """Certified bound and bracket in words; "" without them."""
    where = {"architecture": architecture, "level": level}
    certified = Spread.of(r.observed for r in comparison.select("certified_beta", **where)).high
    low = Spread.of(r.observed for r in comparison.select("bracket_low", **where)).low
    ends = [r.observed for r in comparison.select("bracket_high", **where)]
    text = "" if math.isnan(certified) else f", certified from {number(certified)} down"
    return text + (f", bracket {number(low)} to {number(max(ends))}" if ends else "")


def _sweep_alt(comparison: Comparison, quantity: str, subject: str) -> str:
    sentences = []
    for level in comparison.levels:
        rows = comparison.select(quantity, level=level, index=0)
        betas = sorted({r.beta for r in rows if r.architecture != "theory"})
        ends = [_at(comparison, quantity, level, b) for b in betas[:1] + betas[1:][-1:]]
        threshold = comparison.critical_beta(level)
        place = number(threshold) if 0 < threshold < math.inf else _no_ratio(threshold)
        where = level_text(comparison, level, " of ")
        sentences.append(
            f"{subject}{where} against beta: {'; '.join(ends)}; "
            f"predicted threshold {place.removeprefix('predicted: ')}."
        )
    return " ".join(sentences)


def _at(comparison: Comparison, quantity: str, level: int, beta: float) -> str:
    """All values at one beta, in words."""
    rows = comparison.select(quantity, level=level, index=0, beta=beta)
    theory = Spread.of(row.predicted for row in rows if row.is_plain)
    seen = []
    for architecture in comparison.architectures:
        spread = Spread.of(row.observed for row in rows if row.architecture == architecture)
        seen.append(f"{architecture} {spread.text(lambda value: number(value, 3))}")
    return f"at beta {beta:.4g} theory {number(theory.mean, 3)}, {', '.join(seen)}"


def _control_alt(comparison: Comparison, shown: Sequence[int]) -> str:
    parts = [
        f"{t.architecture}{level_text(comparison, t.level, ' ')} meets information 0 at beta "
        f"{number(t.observed)} with slope {number(t.slope, 3)} per nat "
        f"(theory {number(t.predicted)}, {number(t.predicted_slope, 3)})"
        for t in comparison.thresholds()
        if t.level in shown
    ]
    return "Beta that holds the information of a level, fitted: " + "; ".join(parts) + "."


def _spectrum_alt(comparison: Comparison, water: Mapping[float, float]) -> str:
    rows = comparison.select("mode_variance", architecture="theory")
    values = [row.predicted for row in rows]
    text = (
        f"Variances of the first {len(values)} modes, from {number(values[0])} "
        f"down to {number(values[-1])} data units squared"
    )
    if not water:
        return text + "."
    low, high = min(water), max(water)
    return (
        f"{text}; {sum(v > water[low] for v in values)} of them are above the water level "
        f"{number(water[low])} of beta {low:.4g}, and {sum(v > water[high] for v in values)} "
        f"above {number(water[high])} of beta {high:.4g}."
    )


# --- files ----------------------------------------------------------------------------------------


def save_figures(comparison: Comparison, folder: Path) -> list[Figure]:
    """Write every figure that the rows allow as PNG and PDF; each file appears whole or not."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for name, title, ready, draw in _FIGURES:
        if not ready(comparison):
            continue
        records.append(save_drawing(draw(comparison), name, title, folder))
    return records


_Ready = Callable[[Comparison], Sequence[object]]
_FIGURES: tuple[tuple[str, str, _Ready, Callable[[Comparison], Drawing]], ...] = (
    ("thresholds", "Observed over predicted threshold", Comparison.thresholds, thresholds),
    ("rate", "Rate against beta", lambda c: c.select("rate_nats"), rate),
    ("active_units", "Active units against beta", lambda c: c.select("active_units"), active_units),
    ("unit_rates", "KL of every unit against beta", units_shown, unit_rates),
    ("phases", "What is alive where", lambda c: c.boundaries, phases),
    (
        "training",
        "Training of the sweep: median and range of the seeds",
        curves_shown,
        training,
    ),
    ("control_fit", "How the threshold was measured", _control_levels, control_fit),
    ("spectrum", "Variances of the modes", lambda c: c.select("mode_variance"), spectrum),
)

FIGURES = tuple(name for name, *_ in _FIGURES)  # file names without suffix, drawn or not
