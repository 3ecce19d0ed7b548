"""Conditional VAE, the bottom-left quarter of an image to the rest: beta and decoder variance.

Theorem 2: mode i of E = Cov(y|x) is collapsed iff theta_i <= beta eta_dec^2. The published ReLU
network has hidden layers of 16 units, as many as latents: part of what it does not explain is
the regression on the condition, which theory takes to be perfect. A wider one stands beside it.
"""

from __future__ import annotations

import numpy as np

from analysis.dang.drawing import Canvas, Rows, swept_panels
from analysis.dang.sweep import Point, Row, Size, sweep_rows, theory_rows, variance_unit
from linvae.models import Architecture
from linvae.spec import CVAESpec

NAME = "cvae"
ARCHITECTURES = {
    "linear": Architecture("linear"),
    "mlp 16": Architecture("mlp", 16),
    "mlp 128": Architecture("mlp", 128),
}
BETAS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
DEVIATIONS = (0.25, 0.5, 1.0, 2.0)  # eta_dec, published
CURVE = 40
PANELS = (
    ("rate_nats", 1, "rate, nats"),
    ("active_units", 1, "active units"),
    ("collapsed_share", 1, "pairs of sample and unit\nwith KL < 0.01 nats"),
    ("distortion_nats", 0, "distortion, nats"),
)


def sweeps(unit: float, latent_dim: int) -> dict[str, tuple[list[Point], list[Point]]]:
    """Setting -> points trained, points of the curve."""

    def spec(beta: float, variance: float) -> CVAESpec:
        return CVAESpec(latent_dim, beta=beta, decoder_variance=unit * variance)

    betas = np.geomspace(min(BETAS), max(BETAS), CURVE)
    variances = np.geomspace(min(DEVIATIONS) ** 2, max(DEVIATIONS) ** 2, CURVE)
    return {
        "beta": (
            [Point(b, spec(b, 1.0)) for b in BETAS],
            [Point(float(b), spec(float(b), 1.0)) for b in betas],
        ),
        "decoder variance": (
            [Point(d**2, spec(1.0, d**2)) for d in DEVIATIONS],
            [Point(float(v), spec(1.0, float(v))) for v in variances],
        ),
    }


def rows(size: Size) -> list[Row]:
    """Both sweeps."""
    dataset = size.load(conditional=True)
    found = []
    for setting, (points, curve) in sweeps(variance_unit(dataset), size.latent_dim).items():
        found += theory_rows(NAME, setting, curve, dataset)
        found += sweep_rows(NAME, setting, points, dataset, size)
    return found


def draw(rows: Rows) -> Canvas:
    """One column per setting, one row per quantity."""
    labels = {
        "beta": r"$\beta$ (log scale), decoder variance 1",
        "decoder variance": r"$\eta_{dec}^2$ (log scale), published units, $\beta$ = 1",
    }
    return swept_panels(rows, labels, PANELS)
