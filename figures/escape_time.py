"""How long a linear VAE takes to leave collapse: joint and aggressive updates, and trained runs."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from figures.rows import kept
from figures.style import (
    LOOKS,
    Canvas,
    Row,
    Rows,
    legend,
    line,
    panels,
    select,
    spread_points,
    title,
)
from linvae.theory.dynamics import escape_rates
from linvae.theory.finite_training import escape_times

BETAS = np.linspace(0.05, 0.97, 60)
UPDATES: tuple[Literal["joint", "aggressive"], ...] = ("joint", "aggressive")


def rows() -> list[Row]:
    """Times and rates of the flow at every beta, and the times of the runs."""
    runs = kept("figure_runs")
    settings = runs["settings"]["escape"]
    found = []
    for update in UPDATES:
        times = escape_times(
            [1.0],
            beta=BETAS,
            update=update,
            start_weights=settings["start"],
            epsilon_nats=settings["escaped_nats"],
        )
        rates = [float(escape_rates([1.0], beta=float(b), update=update)[0]) for b in BETAS]
        found += [
            {"source": "theory", "update": update, "beta": float(b), "time": float(t), "rate": r}
            for b, t, r in zip(BETAS, times, rates, strict=True)
            if math.isfinite(t)
        ]
    trained = [{"source": "trained"} | row for row in runs["escape"]]
    return found + [row for row in trained if math.isfinite(row["time"])]


def draw(rows: Rows) -> Canvas:
    """Time until the KL divergence is seen, and the rate of growth behind it."""
    figure, (left, right) = panels(2, size=(9.2, 4.0))
    for look, update in enumerate(UPDATES):
        theory = select(rows, source="theory", update=update)
        line(left, theory, "beta", "time", look=look, label=f"{update}, theory")
        line(right, theory, "beta", "rate", look=look)
        spread_points(
            left, select(rows, source="trained", update=update), "beta", "time", look,
            mfc=LOOKS[look][0] if look == 0 else "none",
            label=f"{update}, trained (mean and range of seeds)",
        )  # fmt: skip
    left.set_ylabel("steps x learning rate until KL = 0.01 nats (log scale)")
    right.set_ylabel("growth rate at collapse, 1/time (log scale)")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_xlabel(r"$\beta$ / threshold")
        axes.set_xlim(0, 1)
    title(left, r"one mode, $\theta^2$ = s = prior variance = 1")
    title(right, "both rates go to 0 at the threshold")
    legend(figure, left, columns=2)
    return figure
