"""Learned against fixed encoder variances, of one level and of the second of two.

One level (Theorem 1 and learned Sigma): mode i is active iff theta_i > sqrt(beta) c sigma_i, the
smallest sigma going with the largest theta, or theta_i^2 > beta eta_dec^2 where Sigma is learned.
Two levels: Theorem 3 (sigma_2 learned) against Theorem 5 (fixed), whose second threshold is
beta_2 c^2 sigma_2^2/(sqrt(beta_1) sigma_1); the authors' code multiplies by sqrt(beta_1) instead of
dividing. `setting` "hierarchy, fixed, published code" has the count by that code beside the same
observations: beta_1 = BETA_1 tells the two apart.
"""

from __future__ import annotations

import math

import numpy as np

from analysis.dang import hierarchy
from analysis.dang.drawing import Canvas, Rows, swept_panels
from analysis.dang.sweep import Point, Row, Size, sweep_rows, theory_rows, variance_unit
from linvae import Moments
from linvae.data import Dataset
from linvae.models import Architecture
from linvae.spec import VAESpec

NAME = "variances"
ARCHITECTURES = {"linear": Architecture("linear"), "mlp": Architecture("mlp", 64)}
LATENT_DIM = 5
BETAS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
DIAGONAL = (64.0, 16.0, 4.0, 1.0, 0.25)  # squares of (8, 4, 2, 1, 0.5)
KINDS = {"learned": None, "identity": 1.0, "diagonal": DIAGONAL}
BETA_1 = 4.0
BETAS_2 = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0)
NOISE_2 = 1.0  # sigma_2^2 over the prior variance; published: 0.25 and 0.25
CURVE = 30
CODE = "hierarchy, fixed, published code"


def one_level(unit: float) -> dict[str, tuple[list[Point], list[Point]]]:
    """Sweeps of beta at eta_dec = 1 for every kind of Sigma: points trained, curve."""

    def points(kind: str, betas: object) -> list[Point]:
        return [
            Point(
                float(b),
                VAESpec(
                    LATENT_DIM, beta=float(b), decoder_variance=unit, encoder_variance=KINDS[kind]
                ),
            )
            for b in betas
        ]

    curve = np.geomspace(BETAS[0], BETAS[-1], CURVE)
    return {f"one level, {kind}": (points(kind, BETAS), points(kind, curve)) for kind in KINDS}


def two_levels(unit: float) -> dict[str, tuple[list[Point], list[Point]]]:
    """Sweeps of beta_2 at beta_1 = BETA_1."""

    def points(noise_2: float | None, betas: object) -> list[Point]:
        return [
            Point(float(b), hierarchy.spec(unit, beta_1=BETA_1, beta_2=float(b), noise_2=noise_2))
            for b in betas
        ]

    curve = np.geomspace(BETAS_2[0], BETAS_2[-1], CURVE)
    return {
        f"hierarchy, {kind}": (points(noise, BETAS_2), points(noise, curve))
        for kind, noise in (("learned", None), ("fixed", NOISE_2))
    }


def rows(size: Size) -> list[Row]:
    """All five sweeps, and the published code's count beside the last."""
    dataset = size.load()
    unit = variance_unit(dataset)
    found = []
    for setting, (points, curve) in (one_level(unit) | two_levels(unit)).items():
        found += theory_rows(NAME, setting, curve, dataset)
        found += sweep_rows(NAME, setting, points, dataset, size)
    found = [row for row in found if row["quantity"] in ("rate_nats", "active_units")]
    return found + _beside_published_code(found, dataset)


def second_level_active(
    theta: np.ndarray, beta_1: float, beta_2: float, s: float, noise_1: float, *, corrected: bool
) -> np.ndarray:
    """Modes whose second level is active by Theorem 5, (modes,) bool.

    theta: square roots of the mode variances, data units; s: decoder variance, data units^2;
    noise_1: sigma_1^2 over the variance of p(z_1|z_2), where that variance is s in the paper.
    sigma_2 is that of the prior. `corrected`: beta_2^2/beta_1 in the second threshold, else
    beta_2^2 beta_1 as in the authors' code.
    """
    sigma_1 = math.sqrt(noise_1 * s)
    first = math.sqrt(math.sqrt(beta_1 * beta_2 * s * NOISE_2) * sigma_1)
    second = beta_2 * s * NOISE_2 / sigma_1 * beta_1 ** (-0.5 if corrected else 0.5)
    on_noise = math.sqrt(beta_1) * sigma_1 > math.sqrt(beta_2 * s * NOISE_2)
    return (theta >= first) & (theta >= second) | on_noise


def _beside_published_code(rows: list[Row], dataset: Dataset) -> list[Row]:
    unit, found = variance_unit(dataset), []
    variances = np.linalg.eigvalsh(Moments.from_data(dataset.target).covariance)[::-1]
    theta = np.sqrt(np.maximum(variances[: hierarchy.LATENT_DIM], 0))
    for row in rows:
        wanted = (row["setting"], row["quantity"], row["level"])
        if wanted == ("hierarchy, fixed", "active_units", 2):
            count = second_level_active(
                theta, BETA_1, row["value"], unit * hierarchy.VARIANCE,
                hierarchy.NOISE / hierarchy.VARIANCE, corrected=False,
            ).sum()  # fmt: skip
            found.append(row | {"setting": CODE, "predicted": float(count)})
    return found


def draw(rows: Rows) -> Canvas:
    """Rate and active units of the level whose variance is learned or fixed, per setting."""
    names = {"learned": "learned", "identity": "1", "diagonal": "(8, 4, 2, 1, 0.5)^2"}
    labels = {f"one level, {kind}": rf"$\beta$, $\Sigma$: {name}" for kind, name in names.items()}
    labels |= {
        f"hierarchy, {kind}": rf"$\beta_2$ at $\beta_1$ = {BETA_1:g}, $\sigma_2$ {kind}"
        for kind in ("learned", "fixed")
    }
    panels = (("rate_nats", -1, "rate of the last level, nats"),
              ("active_units", -1, "active units of the last level"))  # fmt: skip
    return swept_panels(rows, labels, panels, dashed={"hierarchy, fixed": CODE})
