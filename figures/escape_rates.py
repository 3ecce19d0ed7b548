"""Escape rates, escape times and the cost of inner loops: measured against predicted."""

from __future__ import annotations

import math

from matplotlib.ticker import NullFormatter

from figures.rows import kept
from figures.style import LOOKS, QUIET, Canvas, Row, Rows, legend, line, note, panels, select, title

UPDATES = ("joint", "aggressive")
NETWORKS = {"linear": 0, "mlp": 1, "pixelcnn": 2}  # and their looks
COSTS = {
    "predicted_gain_in_decoder_steps": "fewer steps of the decoder, predicted",
    "measured_gain_in_decoder_steps": "fewer steps of the decoder",
    "predicted_cost_in_passes": "more passes in all, predicted",
    "measured_cost_in_passes": "more passes in all",
}


def rows() -> list[Row]:
    """Rates per step of linear models, times of networks, and inner loops on minibatches."""
    runs = kept("escape_rates")
    found: list[Row] = [
        {
            "kind": "rate",
            "update": row["update"],
            "predicted": row["predicted_rate"],
            "measured": row["measured_rate"],
        }
        for row in runs["rates"]
    ]
    for row in runs["networks"]:
        network = row["network"].split(", ")[1]
        if row["measured_steps"] is not None and row["path_steps"] is not None:
            found.append(
                {
                    "kind": "time",
                    "update": row["update"],
                    "network": network if network in NETWORKS else "mlp",
                    "predicted": row["path_steps"],
                    "measured": row["measured_steps"],
                }
            )
    for row in runs["inner_loops"]:
        if row["batch_size"] < runs["settings"]["loop_samples"]:
            found.append(
                {"kind": "loop", "beta_over_critical": row["beta_over_critical"]}
                | {name: row[name] for name in COSTS}
            )
    return found


def draw(rows: Rows) -> Canvas:
    """Rates, times, and what an inner loop gains and costs against joint steps."""
    figure, axes = panels(3, size=(11.5, 4.2))
    left, middle, right = axes
    for look, update in enumerate(UPDATES):
        colour, marker, _ = LOOKS[look]
        style = {"color": colour, "mfc": "none" if look else colour}
        seen = select(rows, kind="rate", update=update)
        line(
            left,
            seen,
            "predicted",
            "measured",
            look,
            ls="none",
            marker=marker,
            label=f"rate, {update}",
            **style,
        )
        for network, other in NETWORKS.items():
            seen = select(rows, kind="time", update=update, network=network)
            line(
                middle, seen, "predicted", "measured", look, ls="none", marker=LOOKS[other][1],
                label=f"{network}, {update}", **style,
            )  # fmt: skip
    for one in (left, middle):
        _diagonal(one)
    _costs(right, select(rows, kind="loop"))
    title(left, "growth at collapse, linear VAEs")
    left.set_xlabel("predicted rate, 1/time")
    left.set_ylabel("measured rate, 1/time")
    title(middle, "time of escape, gradient descent")
    middle.set_xlabel("predicted steps until KL = 0.01 nats")
    middle.set_ylabel("measured steps")
    title(right, "loops of 10-step windows, linear VAE")
    legend(figure, axes, columns=5)
    return figure


def _diagonal(axes) -> None:
    """Equal scales, and the line on which both agree."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = [min(*axes.get_xlim(), *axes.get_ylim()), max(*axes.get_xlim(), *axes.get_ylim())]
    axes.plot(ends, ends, color=QUIET, lw=1, zorder=0)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    if math.log10(ends[1] / ends[0]) > 2:
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())


def _costs(axes, rows: Rows) -> None:
    for number, (name, label) in enumerate(COSTS.items()):
        look = 2 + number // 2
        marker = LOOKS[look][1]
        style = {"ls": "none", "marker": marker} if number % 2 else {}
        line(axes, rows, "beta_over_critical", name, look, label=label, **style)
    axes.axhline(1, color=QUIET, lw=1)
    axes.set_ylim(0, None)
    axes.set_xlabel(r"$\beta$ / threshold")
    axes.set_ylabel("aggressive against joint, ratio")
    note(axes, "passes below 1: an inner loop would pay", 0.03, 0.09)
