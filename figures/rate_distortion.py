"""Rate-distortion frontier of the digits, with trained networks on it.

Linear networks cannot be below the frontier of a Gaussian with the data's covariance; others can.
"""

from __future__ import annotations

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
from linvae import Moments, VAESpec, solve
from linvae.data import load_dataset
from linvae.theory.rate_distortion import rate_distortion_curve

POINTS = 200


def rows() -> list[Row]:
    """The frontier at every water level, and the trained points."""
    runs = kept("figure_runs")
    settings = runs["settings"]["frontier"]
    s, k = settings["decoder_variance"], settings["latent_dim"]
    moments = Moments.from_data(load_dataset(settings["dataset"]).rotated_to_span().target)
    variances = solve(VAESpec(k, decoder_variance=s), moments).mode_variances
    trained = [row["beta"] for row in runs["frontier"]]
    levels = np.geomspace(0.5 * s * min(trained), float(variances[0]), POINTS)
    curve = rate_distortion_curve(variances, levels, latent_dim=k)
    theory: list[Row] = [{"architecture": "theory", "beta": row["water_level"] / s} | row
              for row in curve.to_rows()]  # fmt: skip
    return [*theory, *runs["frontier"]]


def draw(rows: Rows) -> Canvas:
    """Squared error against rate, and rate against beta."""
    figure, (left, right) = panels(2, size=(9.2, 4.0))
    theory = select(rows, architecture="theory")
    line(left, theory, "rate_nats", "squared_error", label="theory: frontier of linear VAEs")
    line(right, theory, "beta", "rate_nats")
    for look, name in enumerate(("linear", "mlp")):
        points = select(rows, architecture=name)
        colour, marker, _ = LOOKS[look]
        left.plot(
            [row["rate_nats"] for row in points], [row["squared_error"] for row in points],
            color=colour, marker=marker, ls="none", mfc=colour if look == 0 else "none",
            label=f"{name}, trained (every seed)",
        )  # fmt: skip
        spread_points(right, points, "beta", "rate_nats", look, mfc=colour if look == 0 else "none")
    left.set_xlabel("rate, nats per sample")
    left.set_ylabel("mean squared error, data units squared")
    right.set_xlabel(r"$\beta$ (log scale)")
    right.set_ylabel("rate, nats per sample")
    right.set_xscale("log")
    right.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    right.minorticks_off()
    title(left, "digits, 16 latent units")
    title(right, "rate at every beta (marks: mean and range of seeds)")
    legend(figure, left)
    return figure
