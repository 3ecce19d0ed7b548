"""Figures of the sweep, unit by unit: KL, phases, and how its members trained.

As in `linvae.plots`, which lists them, everything is read from a `Comparison`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from linvae.comparison import WITH, Boundary, Comparison, CurvePoint
from linvae.drawing import THEORY, Drawing, beta_label, legend, look, new_figure
from linvae.wording import Spread, level_text, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curves_shown", "phases", "training", "unit_rates", "units_shown"]

MOST_UNITS = 24  # of a level, in the figure of their KL
COLOURS = "cividis"  # the same order in grey and for colour-blind readers
IDLE = "#d9dbde"
FAR = 1e3  # beyond the end of an axis


# --- KL of every unit ---------------------------------------------------------------------------


def units_shown(comparison: Comparison) -> list[int]:
    """Levels whose units are modes, so that each has a prediction."""
    return sorted({row.level for row in comparison.select("unit_rate_nats")})


def unit_rates(comparison: Comparison) -> Drawing:
    """KL of every unit at every beta of the sweep: a row of panels per level, theory first."""
    levels, names = units_shown(comparison), ["theory", *comparison.architectures]
    tables = {(i, name): _unit_table(comparison, name, i) for i in levels for name in names}
    units = sum(len(tables[level, "theory"]) for level in levels)
    size = (1.2 + min(2.2 * len(names), 11.0), 1.0 + 0.9 * len(levels) + 0.14 * units)
    every = [value for table in tables.values() for row in table for value in row]
    top = max((value for value in every if math.isfinite(value)), default=0.0) or 1.0
    with new_figure(len(names), size, rows=len(levels)) as (figure, panels):
        for axes, (level, name) in zip(panels, tables, strict=True):
            image = _unit_panel(axes, comparison, level, name, tables[level, name], top)
        bar = figure.colorbar(image, ax=panels, pad=0.01, shrink=0.9)
        bar.set_label("KL of the unit, nats; mean of seeds")
    return Drawing(figure, _units_alt(comparison, tables))


def _unit_table(comparison: Comparison, name: str, level: int) -> list[list[float]]:
    """Mean of the seeds by unit and beta, ascending; of "theory" the plain optimum."""
    rows = comparison.select("unit_rate_nats", level=level)
    theory = name == "theory"
    seen: dict[tuple[int, float], list[float]] = {}
    for row in rows:
        if row.is_plain if theory else row.architecture == name:
            value = row.predicted if theory else row.observed
            seen.setdefault((row.index, row.beta), []).append(value)
    betas = _unit_betas(comparison, level)
    count = min(MOST_UNITS, max(row.index for row in rows))
    return [
        [Spread.of(seen.get((unit, beta), ())).mean for beta in betas]
        for unit in range(1, count + 1)
    ]


def _unit_betas(comparison: Comparison, level: int) -> list[float]:
    return sorted({row.beta for row in comparison.select("unit_rate_nats", level=level)})


def _unit_panel(
    axes: Axes,
    comparison: Comparison,
    level: int,
    name: str,
    table: Sequence[Sequence[float]],
    top: float,
) -> Any:
    from matplotlib.ticker import MaxNLocator

    betas = _unit_betas(comparison, level)
    image = axes.imshow(
        table, aspect="auto", vmin=0, vmax=top, cmap=COLOURS, interpolation="nearest",
        extent=(-0.5, len(betas) - 0.5, len(table) + 0.5, 0.5),
    )  # fmt: skip
    axes.set_xticks(range(len(betas)), [f"{beta:.3g}" for beta in betas], rotation=90)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.set_xlabel(beta_label(comparison))
    if name == "theory":
        axes.set_ylabel(f"unit{level_text(comparison, level, ' of ')}")
    axes.set_title(name.replace(WITH, WITH.replace(" ", "\n", 1)), loc="left")
    return image


def _units_alt(comparison: Comparison, tables: dict[tuple[int, str], list[list[float]]]) -> str:
    sentences = []
    for level in units_shown(comparison):
        betas = _unit_betas(comparison, level)
        ends = []
        for column in sorted({0, len(betas) // 2, len(betas) - 1}):
            seen = [
                f"{name} {number(tables[level, name][0][column], 3)}"
                for name in ("theory", *comparison.architectures)
            ]
            ends.append(f"at beta {betas[column]:.4g} {', '.join(seen)}")
        where = level_text(comparison, level, " of ")
        sentences.append(f"KL of the leading unit{where} in nats: {'; '.join(ends)}.")
    return " ".join(sentences)


# --- phases -------------------------------------------------------------------------------------


def phases(comparison: Comparison) -> Drawing:
    """Units alive as theory predicts, as colour; the sweep's own as marks of the same colours.

    Over beta and the decoder variance; of a hierarchy over beta and how much more beta the level
    above has. Where a mark has the colour of its ground, the network has as many as predicted.
    """
    levels = sorted({b.level for b in comparison.boundaries})
    most = max(b.unit for b in comparison.boundaries)
    with new_figure(len(levels)) as (figure, panels):
        for axes, level in zip(panels, levels, strict=True):
            _phase_panel(axes, comparison, level, most)
        panels[0].set_ylabel(_other_axis(comparison))
        scale = _phase_colours(most)
        bar = figure.colorbar(scale, ax=panels, pad=0.01, ticks=_count_ticks(most))
        bar.set_label("units alive")
        legend(figure, panels[0], columns=3)
    return Drawing(figure, _phases_alt(comparison))


def _phase_colours(most: int) -> Any:
    """Grey for none, then one colour per count."""
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    ramp = mpl.colormaps[COLOURS]
    colours: list[Any] = [IDLE, *(ramp(i / max(1, most - 1)) for i in range(most))]
    edges = [i - 0.5 for i in range(most + 2)]
    return ScalarMappable(BoundaryNorm(edges, most + 1), ListedColormap(colours))


def _count_ticks(most: int) -> list[int]:
    """About eight of the counts from none to all."""
    return list(range(0, most + 1, -(-most // 8)))


def _phase_panel(axes: Axes, comparison: Comparison, level: int, most: int) -> None:
    scale, boundaries = _phase_colours(most), [b for b in comparison.boundaries if b.level == level]
    swept = comparison.settings["betas_swept"]
    low, high = 0.7 * min(swept), 2 * max(swept)
    places = sorted({b.at for b in boundaries})
    ranked = {at: _descending(boundaries, at) for at in places}
    axes.set_facecolor(IDLE)
    for i in range(max(map(len, ranked.values()))):  # each over the last: what is left is alive
        edge = [_inside(ranked[at][i] if i < len(ranked[at]) else 0.0, high) for at in places]
        axes.fill_betweenx(places, low / FAR, edge, color=scale.to_rgba(i + 1), lw=0)
        if i == 0:
            axes.plot(edge, places, color=THEORY, label="predicted: all units dead to the right")
    _phase_marks(axes, comparison, level, scale)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(places[0], places[-1]))
    axes.set_xlabel(beta_label(comparison))
    axes.set_title(level_text(comparison, level), loc="left", fontweight="bold")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_ticks(axis)


def _inside(beta: float, high: float) -> float:
    """What a logarithmic axis up to `high` can show: never, and always, far beyond its ends."""
    return min(max(beta, high / FAR**2), FAR * high)


def _descending(boundaries: Sequence[Boundary], at: float) -> list[float]:
    return sorted((b.critical_beta for b in boundaries if b.at == at), reverse=True)


def _phase_marks(axes: Axes, comparison: Comparison, level: int, scale: Any) -> None:
    """The sweep, one mark in another, the first network outermost."""
    at = _spec_place(comparison)
    for rank, architecture in enumerate(comparison.architectures):
        sweep = comparison.sweep("active_units", architecture, level)
        seen = {beta: Spread.of(row.observed for row in rows) for beta, rows in sweep.items()}
        counts = {beta: spread.mean for beta, spread in seen.items() if spread.count}
        axes.scatter(
            list(counts), [at] * len(counts), s=max(190 / 3**rank, 5), c=scale.to_rgba(
                list(counts.values())), edgecolors="white" if rank == 0 else "black",
            linewidths=1.2, marker=look(comparison, architecture)[1], zorder=4 + rank,
            label=f"{architecture}, active units",
        )  # fmt: skip


def _spec_place(comparison: Comparison) -> float:
    """Where the sweep was: the decoder variance, or the ratio of the first two betas."""
    betas = comparison.settings["betas"]
    if len(betas) > 1:
        return float(betas[1] / betas[0])
    return float(comparison.settings["decoder_variance"])


def _other_axis(comparison: Comparison) -> str:
    if len(comparison.settings["betas"]) > 1:
        return r"$\beta$ of level 2 / $\beta$ of level 1"
    return r"decoder variance $s$, data units squared"


def _plain_ticks(axis: Any) -> None:
    """1, 2, 5, 10 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def _phases_alt(comparison: Comparison) -> str:
    sentences = []
    for level in sorted({b.level for b in comparison.boundaries}):
        first = sorted(
            (b.at, b.critical_beta)
            for b in comparison.boundaries
            if (b.level, b.unit) == (level, 1)
        )
        places = (first[0], first[len(first) // 2], first[-1])
        words = ", ".join(f"{_death(beta)} at {at:.3g}" for at, beta in places)
        where = level_text(comparison, level, " of ")
        sentences.append(f"Beta from which on the leading unit{where} is dead: {words}.")
    name = "ratio of the two betas" if len(comparison.settings["betas"]) > 1 else "decoder variance"
    return f"{' '.join(sentences)} The numbers after 'at' are the {name}."


def _death(beta: float) -> str:
    return "never" if beta == math.inf else "always" if beta == 0 else number(beta)


# --- training -----------------------------------------------------------------------------------

SHOWN = {"rate_nats": "KL, nats", "distortion_nats": "distortion, nats"}


def curves_shown(comparison: Comparison) -> list[float]:
    """Betas of the sweep whose training is drawn: alive, next to the threshold, above it."""
    betas = sorted({point.beta for point in comparison.curves})
    edge = comparison.critical_beta(1)
    if not betas or not 0 < edge < math.inf:
        return betas[:1]
    nearest = [min(betas, key=lambda b: abs(math.log(b / (x * edge)))) for x in (0.35, 1.0, 1.5)]
    return sorted(set(nearest))


def training(comparison: Comparison) -> Drawing:
    """KL and distortion of the batches against the step: median and range of the seeds.

    Black: what theory predicts for the optimum, without a remedy. A curve that still falls or
    rises at its end has not converged.
    """
    betas = curves_shown(comparison)
    with new_figure(len(betas), (1.2 + 2.6 * len(betas), 4.8), rows=2) as (figure, panels):
        for axes, (name, beta) in zip(
            panels, ((name, beta) for name in SHOWN for beta in betas), strict=True
        ):
            _curve_panel(axes, comparison, name, beta)
            if beta == betas[0]:
                axes.set_ylabel(SHOWN[name])
            if name == "rate_nats":
                axes.set_title(f"{beta_label(comparison)} = {beta:.4g}", loc="left")
            else:
                axes.set_xlabel("step")
        legend(figure, panels[0], columns=3)
    return Drawing(figure, _training_alt(comparison, betas))


def _curve_panel(axes: Axes, comparison: Comparison, name: str, beta: float) -> None:
    for architecture in comparison.architectures:
        spreads = _curve(comparison, architecture, name, beta)
        colour, _, dashes = look(comparison, architecture)
        steps = list(spreads)
        axes.fill_between(
            steps, [min(v) for v in spreads.values()], [max(v) for v in spreads.values()],
            color=colour, alpha=0.22, lw=0,
        )  # fmt: skip
        axes.plot(
            steps, [statistics.median(v) for v in spreads.values()], color=colour, ls=dashes,
            label=architecture,
        )  # fmt: skip
    axes.axhline(_optimum(comparison, name, beta), color=THEORY, lw=1, label="theory, optimum")
    axes.set_xlim(left=0)
    axes.margins(y=0.12)


def _curve(
    comparison: Comparison, architecture: str, name: str, beta: float
) -> dict[int, list[float]]:
    """Values of the seeds by step."""
    found: dict[int, list[float]] = {}
    for point in _points(comparison, architecture, beta):
        value = getattr(point, name)
        if math.isfinite(value):
            found.setdefault(point.step, []).append(value)
    return dict(sorted(found.items()))


def _points(comparison: Comparison, architecture: str, beta: float) -> list[CurvePoint]:
    return [p for p in comparison.curves if (p.architecture, p.beta) == (architecture, beta)]


def _optimum(comparison: Comparison, name: str, beta: float) -> float:
    """Predicted of the whole model without a remedy; NaN where no row has it."""
    rows = [r for r in comparison.select(name, index=0, beta=beta) if r.seed >= 0 and r.is_plain]
    levels = {row.level: row.predicted for row in rows}
    return sum(levels.values()) if levels else math.nan


def _training_alt(comparison: Comparison, betas: Sequence[float]) -> str:
    sentences = []
    for beta in betas:
        parts = []
        for architecture in comparison.architectures:
            curve = list(_curve(comparison, architecture, "rate_nats", beta).values())
            if curve:
                middle, end = (statistics.median(v) for v in (curve[len(curve) // 2], curve[-1]))
                seen = f"{number(middle, 3)} half way and {number(end, 3)} at the end"
                parts.append(f"{architecture} {seen}")
        optimum = number(_optimum(comparison, "rate_nats", beta), 3)
        sentences.append(f"KL at beta {beta:.4g}, theory {optimum}: {', '.join(parts)}.")
    return "Training, medians of the seeds in nats. " + " ".join(sentences)
