"""How far above the linear threshold networks stay alive: predicted beside observed."""

from __future__ import annotations

from figures.rows import kept
from figures.style import Canvas, Row, Rows, legend, line, panels, select, spread_points, title


def rows() -> list[Row]:
    """The tables of analysis/shift.py, and the trained networks of analysis/figure_runs.py."""
    shift = kept("shift")
    laws = [{"source": "law"} | row for row in shift["laws"]]
    networks = [
        {"source": "mlp", "lower_bound_shift": row["lower_bound"] - 1} | row
        for row in kept("figure_runs")["skewness"]
    ]
    return laws + networks + [{"source": "dataset"} | row for row in shift["datasets"]]


def draw(rows: Rows) -> Canvas:
    """Shift against skewness, and the observed against the predicted line of image sets."""
    figure, (left, right) = panels(2)
    laws = select(rows, source="law")
    small = [row for row in laws if row["law_shift"] is not None]
    line(left, laws, "skewness", "gaussian_shift", label="Gaussian encoder, predicted")
    line(left, small, "skewness", "law_shift", look=0, ls=":", label="law of small skewness")
    line(left, laws, "skewness", "universal_shift", look=1, label="every encoder: upper bound")
    spread_points(
        left, select(rows, source="mlp"), "skewness", "lower_bound_shift", 2,
        label="MLP, lower bound",
    )  # fmt: skip
    left.set_xlabel("skewness of the data")
    left.set_ylabel("threshold / linear threshold - 1")
    left.set_ylim(-0.2, 2)
    title(left, "a rare event and 2 % noise")
    datasets = select(rows, source="dataset")
    ends = [{"x": value, "y": value} for value in (-0.04, 0.11)]
    line(right, ends, "x", "y", lw=0.8)
    spread_points(right, spread_rows(datasets), "predicted", "observed", 2)
    for i, row in enumerate(datasets):  # names left and right in turn: neighbours stay legible
        right.annotate(
            row["dataset"], (row["control_shift"], row["mlp_control"]), (-6 if i % 2 else 6, -3),
            textcoords="offset points", ha="right" if i % 2 else "left", fontsize=8,
        )  # fmt: skip
    right.set_xlabel("predicted from the data")
    right.set_ylabel("MLPs, lowest to highest seed")
    title(right, "shift that fixed-KL control reports")
    legend(figure, [left, right], columns=2)
    return figure


def spread_rows(datasets: Rows) -> list[Row]:
    """Three seeds as rows of one place: the lowest, the highest, and what the mean leaves."""
    found = []
    for row in datasets:
        low, high = row["mlp_control_low"], row["mlp_control_high"]
        seeds = (low, high, 3 * row["mlp_control"] - low - high)
        found += [{"predicted": row["control_shift"], "observed": value} for value in seeds]
    return found
