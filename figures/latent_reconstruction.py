"""Latent reconstruction loss: how far it moves every threshold, and what that costs.

Units carry more and the distortion falls, but less than the rate could buy: the price is the
squared error above the rate-distortion frontier at the same rate.
"""

from __future__ import annotations

import math

import numpy as np

from figures.style import Canvas, Row, Rows, line, panels, select, title
from linvae import Moments, Solution, VAESpec, solve
from linvae.theory.rate_distortion import rate_distortion_curve, water_level

MODE_VARIANCES = (4.0, 2.0, 1.0, 0.5)
WEIGHTS = np.linspace(0.0, 3.0, 61)
BETAS = (0.25, 1.5, 3.0)


def rows() -> list[Row]:
    """Threshold per mode, and distortion, rate and active units at some betas."""
    moments = Moments.from_covariance(np.diag(MODE_VARIANCES))
    k = len(MODE_VARIANCES)
    found = []
    for weight in WEIGHTS:
        spec = VAESpec(k, latent_reconstruction=float(weight))
        solution = solve(spec, moments)
        found += [
            {"kind": "threshold", "latent_reconstruction": float(weight), "mode": i + 1,
             "mode_variance": theta2, "critical_beta": float(solution.critical_beta[i])}
            for i, theta2 in enumerate(MODE_VARIANCES)
        ]  # fmt: skip
        for beta in BETAS:
            at_beta = solve(spec.scale_betas(beta), moments)
            error = _squared_error(at_beta)
            frontier = _frontier(float(at_beta.rates[0]))
            found.append(
                {
                    "kind": "price",
                    "latent_reconstruction": float(weight),
                    "beta": beta,
                    "squared_error": error,
                    "squared_error_above_frontier": error - frontier,
                    "rate_nats": float(at_beta.rates[0]),
                    "active_units": int(at_beta.active_units[0]),
                }
            )
    return found


def _squared_error(solution: Solution) -> float:
    """E|y - mean of p(y|z)|^2 from the distortion in nats."""
    s = solution.decoder_variance
    constant = len(MODE_VARIANCES) / 2 * math.log(2 * math.pi * s)
    return 2 * s * (solution.distortion - constant)


def _frontier(rate: float) -> float:
    """Least squared error of a linear VAE at this rate."""
    level = water_level(MODE_VARIANCES, rate_nats=rate)
    return float(rate_distortion_curve(MODE_VARIANCES, level).squared_errors[0])


def draw(rows: Rows) -> Canvas:
    """Thresholds, squared error with its share above the frontier, and rate."""
    figure, (left, middle, right) = panels(3, size=(10.8, 4.0))
    x = "latent_reconstruction"
    for i, theta2 in enumerate(MODE_VARIANCES):
        curve = select(rows, kind="threshold", mode=i + 1)
        line(left, curve, x, "critical_beta", look=i, label=rf"$\theta^2$ = {theta2:g}")
    for i, beta in enumerate(BETAS):
        price = select(rows, kind="price", beta=beta)
        label = rf"$\beta$ = {beta:g}"
        line(middle, price, x, "squared_error_above_frontier", look=i, label=label)
        line(right, price, x, "rate_nats", look=i, label=label)
    left.set_yscale("log")
    left.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    left.minorticks_off()
    left.set_ylabel(r"critical $\beta$ (log scale)")
    middle.set_ylabel("squared error above frontier, data units squared")
    right.set_ylabel("rate, nats per sample")
    for axes, text in zip(
        (left, middle, right),
        (
            "threshold of every mode, s = 1",
            "price in distortion at equal rate",
            "what the units carry",
        ),
        strict=True,
    ):
        axes.set_xlabel(r"weight $\gamma$ of the loss, nats / latent unit squared")
        axes.set_xlim(0, float(rows[-1][x]))
        title(axes, text)
        axes.legend(loc="best")
    return figure
