"""Lagging inference networks: the rate on the way, and what it costs or brings in the end.

Above: the KL of batches over the steps of the decoder, one line per seed, on a logarithmic scale,
on which leaving collapse at a rate is a straight line; crosses: where inner loops end, if they do.
Below: the comparison of He et al. 2019 in one plane, means and ranges over seeds; `decoder alone`
has no latent to spend nats on, and its NLL is the zero. Near zero the scale is linear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import NullLocator

from figures.rows import kept
from figures.style import (
    LOOKS,
    QUIET,
    Axes,
    Canvas,
    Row,
    Rows,
    legend,
    note,
    panels,
    range_bars,
    select,
    title,
)
from linvae.wording import Spread

PATHS = {"vae": 0, "annealing": 2, "aggressive": 1, "aggressive + annealing": 3}  # looks
BETAS = {f"beta {beta}": beta for beta in (0.2, 0.4, 0.6, 0.8)}
ALONE = "decoder alone"
NEAR = 0.1  # nats of NLL within which the scale is linear
GAPS = (-3, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3)
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
    """One column per data set that has a VAE, aggressive training and a decoder alone."""
    needed = {"vae", "aggressive", ALONE}
    names = [
        name
        for name in dict.fromkeys(row["data"] for row in rows)
        if needed <= {row["remedy"] for row in select(rows, data=name)}
    ]
    figure, axes = panels(len(names), 2, size=(1.2 + 4.0 * len(names), 7.2))
    for column, name in enumerate(names):
        own = select(rows, data=name)
        above, below = axes[column], axes[column + len(names)]
        _paths(above, select(own, kind="path"))
        title(above, f"{name}, small preset")
        _plane(below, select(own, kind="end"))
    axes[0].set_ylabel("KL of batches, nats")
    axes[len(names)].set_ylabel("NLL above that of the decoder alone, nats")
    note(axes[len(names)], "means and ranges over seeds", 0.03, 0.07)
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
    colour, _, dashes = LOOKS[look]
    steps, rates = ([row[key] for row in rows] for key in ("step", "kl"))
    axes.plot(steps, rates, color=colour, ls=dashes if look else "-", lw=1, label=label)
    ended = rows[0]["inner_loops_until"]
    if ended > 0:
        rate = np.interp(ended, steps, rates)
        axes.plot(ended, rate, color=colour, marker="X", ls="none", ms=7, label="inner loops end")


def _plane(axes: Axes, rows: Rows) -> None:
    """NLL against KL, means with ranges over seeds."""
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=NEAR)
    alone = Spread.of(row["nll"] for row in select(rows, remedy=ALONE))
    rows = [{**row, "gap": row["nll"] - alone.mean} for row in rows]
    for remedy, look in PATHS.items():
        colour, marker, _ = LOOKS[look]
        _mark(axes, select(rows, remedy=remedy), color=colour, marker=marker, ms=7)
    for i, (remedy, beta) in enumerate(BETAS.items()):
        at = _mark(axes, select(rows, remedy=remedy), color=QUIET, marker=".", ms=6)
        if at:
            axes.annotate(
                rf"$\beta$ {beta}",
                at,
                (4, 4 - 14 * (i % 2)),
                textcoords="offset points",
                fontsize=8,
            )
    axes.axhspan(alone.low - alone.mean, alone.high - alone.mean, color=QUIET, alpha=0.25, lw=0)
    axes.axhline(0, color=QUIET, lw=1, label=ALONE)
    axes.set_xlabel("KL, nats")
    for axis, places in ((axes.xaxis, TICKS), (axes.yaxis, GAPS)):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in places if low <= tick <= high]
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())


def _mark(axes: Axes, rows: Rows, **style: Any) -> tuple[float, float] | None:
    """Mean and range of both; where it is."""
    if not rows:
        return None
    x, y = (Spread.of(row[key] for row in rows) for key in ("kl", "gap"))
    bars = {"xerr": range_bars([x]), "yerr": range_bars([y])}
    axes.errorbar([x.mean], [y.mean], ls="none", elinewidth=1, **bars, **style)
    return x.mean, y.mean
