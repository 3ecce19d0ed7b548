"""Skewed data: networks stay alive above the linear threshold, up to the universal one."""

from __future__ import annotations

import numpy as np

from analysis.figure_runs import SKEW_SPEC, two_point_law
from figures.rows import kept
from figures.style import Canvas, Row, Rows, legend, line, panels, select, spread_points, title
from linvae import Moments, solve, universal_threshold

PROBABILITIES = (0.5, 0.4, 0.3, 0.24, 0.18, 0.14, 0.1, 0.08, 0.06, 0.045, 0.035)


def rows() -> list[Row]:
    """Thresholds of one law after the other, and the lower bounds of trained networks."""
    found = []
    for probability in PROBABILITIES:
        y = two_point_law(probability)
        bound = universal_threshold(y, decoder_variance=float(SKEW_SPEC.decoder_variance))
        linear = solve(SKEW_SPEC, Moments.from_data(y)).critical_beta[0]
        found.append(
            {
                "source": "theory",
                "probability": probability,
                "skewness": float(np.mean(y**3) / np.mean(y**2) ** 1.5),
                "linear": float(linear),
                "universal": bound.critical_beta,
                "universal_upper_bound": bound.critical_beta_upper_bound,
            }
        )
    return found + [{"source": "mlp"} | row for row in kept("figure_runs")["skewness"]]


def draw(rows: Rows) -> Canvas:
    """Thresholds against skewness."""
    figure, (axes,) = panels(1, size=(6.4, 4.4))
    theory = select(rows, source="theory")
    line(axes, theory, "skewness", "linear", label=r"linear threshold $\lambda_{max}/s$")
    line(axes, theory, "skewness", "universal", look=1, ls="--",
         label="universal threshold (variance proxy / s)")  # fmt: skip
    spread_points(
        axes, select(rows, source="mlp"), "skewness", "lower_bound", 2,
        label="MLP, exchange ratio: alive is better below (lower bound)",
    )  # fmt: skip
    axes.set_xlabel("skewness of the data (two points and 2 % noise, variance 1)")
    axes.set_ylabel(r"critical $\beta$, s = 1")
    axes.set_ylim(bottom=0)
    title(axes, "trained networks beat collapse far above the linear threshold")
    legend(figure, axes, columns=1)
    return figure
