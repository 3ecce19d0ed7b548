"""Two levels, the encoder variance of the first fixed: beta_1, beta_2 and the decoder variance.

Theorem 3. With sigma_1^2 >= (beta_2/beta_1) eta_dec^2 the second level is active on the noise of
the first, in every mode; otherwise mode i of it is collapsed iff
theta_i sigma_1 < beta_2 eta_dec^2/sqrt(beta_1). The rate of level 1 alone,
E log q(z_1|x)/p(z_1|z_2), is no KL divergence once z_2 comes from the encoder, and may be negative.
"""

from __future__ import annotations

import numpy as np

from analysis.dang.drawing import Canvas, Rows, swept_panels
from analysis.dang.sweep import Point, Row, Size, sweep_rows, theory_rows, variance_unit
from linvae.models import Architecture
from linvae.spec import HVAESpec

NAME = "hierarchy"
ARCHITECTURES = {"linear": Architecture("linear"), "mlp": Architecture("mlp", 64)}
BETAS_1 = (0.25, 0.5, 1.0, 2.0, 4.0)
BETAS_2 = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
VARIANCES = (0.1, 0.25, 0.5, 1.0)  # eta_dec^2, published
BETA_2, VARIANCE = 2.0, 0.25  # where they are not swept
NOISE = 0.25  # sigma_1^2, published
LATENT_DIM = 10
CURVE = 30
PANELS = (
    ("rate_nats", 1, "rate of level 1, nats"),
    ("rate_nats", 2, "rate of level 2, nats"),
    ("active_units", 2, "active units, level 2"),
    ("distortion_nats", 0, "distortion, nats"),
)


def spec(
    unit: float,
    beta_1: float = 1.0,
    beta_2: float = BETA_2,
    variance: float = VARIANCE,
    noise_2: float | None = None,
) -> HVAESpec:
    """The published hierarchy at eta_dec^2 = `variance`, sigma_2 learned unless `noise_2`.

    p(z_1|z_2) has variance eta_dec^2: in units of it, sigma_1^2 is NOISE/variance.
    """
    return HVAESpec(
        (LATENT_DIM, LATENT_DIM),
        betas=(beta_1, beta_2),
        decoder_variance=unit * variance,
        encoder_variances=(NOISE / variance, noise_2),
    )


def sweeps(unit: float) -> dict[str, tuple[list[Point], list[Point]]]:
    """Setting -> points trained, points of the curve."""
    kinds = {"beta_1": BETAS_1, "beta_2": BETAS_2, "variance": VARIANCES}

    def points(name: str, values: object) -> list[Point]:
        return [Point(float(v), spec(unit, **{name: float(v)})) for v in values]

    return {
        name: (points(name, values), points(name, np.geomspace(values[0], values[-1], CURVE)))
        for name, values in kinds.items()
    }


def rows(size: Size) -> list[Row]:
    """All three sweeps."""
    dataset = size.load()
    found = []
    for setting, (points, curve) in sweeps(variance_unit(dataset)).items():
        found += theory_rows(NAME, setting, curve, dataset)
        found += sweep_rows(NAME, setting, points, dataset, size)
    return found


def draw(rows: Rows) -> Canvas:
    """One column per setting, one row per quantity and level; dotted: where the regime changes."""
    variance = rf"$\eta_{{dec}}^2$ = {VARIANCE:g}"
    labels = {
        "beta_1": rf"$\beta_1$ (log scale), $\beta_2$ = {BETA_2:g}, {variance}",
        "beta_2": rf"$\beta_2$ (log scale), $\beta_1$ = 1, {variance}",
        "variance": rf"$\eta_{{dec}}^2$ (log scale), $\beta_1$ = 1, $\beta_2$ = {BETA_2:g}",
    }
    changes = {"beta_1": BETA_2 * VARIANCE / NOISE, "beta_2": NOISE / VARIANCE,
               "variance": NOISE / BETA_2}  # fmt: skip
    return swept_panels(rows, labels, PANELS, marks=changes)
