"""Lagging inference networks: the rate on the way, and what it costs or brings in the end.

Above: the KL of batches over the steps of the decoder, one line per seed, on a logarithmic scale,
on which leaving collapse at a rate is a straight line; inner loops end at the mark. Below: the
comparison of He et al. 2019 in one plane, with ranges over seeds; `decoder alone` has no latent to
spend nats on.
"""

from __future__ import annotations

from typing import Any

from figures.rows import kept
from figures.style import (
    LOOKS,
    QUIET,
    Axes,
    Canvas,
    Row,
    Rows,
    legend,
    panels,
    select,
    title,
)
from linvae.wording import Spread

PATHS = {"vae": 0, "annealing": 2, "aggressive": 1, "aggressive + annealing": 3}  # looks
BETAS = {f"beta {beta}": beta for beta in (0.2, 0.4, 0.6, 0.8)}
ALONE = "decoder alone"
TICKS = [tick * 10.0**power for power in range(-4, 3) for tick in (1, 3)]  # nats
LEAST = 5e-4  # nats of a path that are drawn


def rows() -> list[Row]:
    """Steps and rates of the paths, and the last row of every training."""
    found: list[Row] = []
    for row in kept("lagging")["rows"]:
        place = {name: row[name] for name in ("data", "preset", "remedy", "seed")}
        if row["preset"] != "small" or "seconds" not in row:
            continue
        found.append({"kind": "end", **place, "nll": row["nll"], "kl": row.get("kl", 0.0)})
        if row["remedy"] in PATHS:
            ended = row["until"] if "aggressive" in row["remedy"] else 0
            found += [
                {"kind": "path", **place, "step": step, "kl": rate, "inner_loops_until": ended}
                for step, rate in row["path"]
            ]
    return found


def draw(rows: Rows) -> Canvas:
    """One column per data set."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    size = (1.2 + 4.0 * len(names), 7.2)
    figure, axes = panels(len(names), 2, size=size)
    for column, name in enumerate(names):
        own = select(rows, data=name)
        above, below = axes[column], axes[column + len(names)]
        _paths(above, select(own, kind="path"))
        title(above, f"{name}, small preset")
        _plane(below, select(own, kind="end"))
    axes[0].set_ylabel("KL of batches, nats")
    axes[len(names)].set_ylabel("NLL of the test part, nats")
    legend(figure, axes, columns=4)
    return figure


def _paths(axes: Axes, rows: Rows) -> None:
    for remedy, look in PATHS.items():
        for seed in sorted({row["seed"] for row in rows}):
            own = select(rows, remedy=remedy, seed=seed)
            if own:
                _path(axes, own, look, remedy if seed == 0 else None)
    axes.set_xlabel("steps of the decoder")
    axes.set_yscale("log")
    axes.set_ylim(bottom=LEAST)


def _path(axes: Axes, rows: Rows, look: int, label: str | None) -> None:
    colour, marker, dashes = LOOKS[look]
    steps, rates = ([row[key] for row in rows] for key in ("step", "kl"))
    axes.plot(steps, rates, color=colour, ls=dashes if look else "-", lw=1, label=label)
    ended = rows[0]["inner_loops_until"]
    if ended > 0:
        at = min(range(len(steps)), key=lambda i: abs(steps[i] - ended))
        ends = f"{rows[0]['remedy']}: inner loops end"
        axes.plot(steps[at], rates[at], color=colour, marker=marker, ls="none", ms=6, label=ends)


def _plane(axes: Axes, rows: Rows) -> None:
    """NLL against KL, means with ranges over seeds."""
    for remedy, look in PATHS.items():
        colour, marker, _ = LOOKS[look]
        _mark(axes, select(rows, remedy=remedy), color=colour, marker=marker, ms=7)
    for remedy, beta in BETAS.items():
        at = _mark(axes, select(rows, remedy=remedy), color=QUIET, marker="o", ms=4)
        if at:
            axes.annotate(rf"$\beta$ {beta}", at, (4, 4), textcoords="offset points", fontsize=8)
    alone = [row["nll"] for row in select(rows, remedy=ALONE)]
    if alone:
        seen = Spread.of(alone)
        axes.axhspan(seen.low, seen.high, color=QUIET, alpha=0.25, lw=0)
        axes.axhline(seen.mean, color=QUIET, lw=1, label=ALONE)
    axes.set_xlabel("KL, nats")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _mark(axes: Axes, rows: Rows, **style: Any) -> tuple[float, float] | None:
    """Mean and range of both; where it is."""
    if not rows:
        return None
    x, y = (Spread.of(row[key] for row in rows) for key in ("kl", "nll"))
    ranges = [[[s.mean - s.low], [s.high - s.mean]] for s in (x, y)]
    axes.errorbar(
        [x.mean], [y.mean], xerr=ranges[0], yerr=ranges[1], ls="none", elinewidth=1, **style
    )
    return x.mean, y.mean
