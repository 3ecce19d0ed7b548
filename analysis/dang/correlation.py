"""Correlation of target and condition: y ~ N(0, I_d), x = a y + sqrt(1 - a^2) noise.

E = Cov(y|x) = (1 - a^2) I in the population: all modes collapse together, where
1 - a^2 = beta eta_dec^2. A sample of n spreads them (Marchenko & Pastur) and the regression on d
conditions takes a share d/n of the residual variance, so that collapse is gradual and earlier.
Both predictions are given: `setting` "sample" has that of the sample's own moments, "population"
the other one beside the same observations.
"""

from __future__ import annotations

import math

import numpy as np

from analysis.dang.drawing import Canvas, Rows, swept_panels
from analysis.dang.sweep import Point, Row, Size, predictions, sweep_rows, theory_rows
from linvae import Moments
from linvae.data import Dataset
from linvae.models import Architecture
from linvae.spec import CVAESpec

NAME = "correlation"
ARCHITECTURES = {"linear": Architecture("linear"), "mlp": Architecture("mlp", 128)}
CORRELATIONS = (0.0, 0.125, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0)
BETA, VARIANCE = 1.0, 0.25  # published: beta 1, eta_dec 0.5
SAMPLES_PER_DIM = 1000 / 128  # published
CURVE = np.linspace(0, 1, 41)
PANELS = (
    ("rate_nats", 1, "rate, nats"),
    ("active_units", 1, "active units"),
    ("collapsed_share", 1, "pairs of sample and unit\nwith KL < 0.01 nats"),
)


def sample(a: float, dim: int) -> Dataset:
    """Samples (y, x) of correlation `a`; y and the noise are the same for every a."""
    rng = np.random.default_rng(0)
    y, noise = rng.standard_normal((2, round(SAMPLES_PER_DIM * dim), dim))
    x = a * y + math.sqrt(1 - a**2) * noise
    return Dataset(name=f"correlation {a:g}", target=y, condition=x)


def population(a: float, dim: int) -> Moments:
    """The moments behind `sample`: Cov(y) = Cov(x) = I, Cov(y, x) = a I."""
    covariance = np.block([[np.eye(dim), a * np.eye(dim)], [a * np.eye(dim), np.eye(dim)]])
    return Moments.from_covariance(covariance, condition_dim=dim)


def rows(size: Size) -> list[Row]:
    """One point per correlation, beside both predictions."""
    spec = CVAESpec(size.dim, beta=BETA, decoder_variance=VARIANCE)
    found = []
    for a in CURVE:
        of_sample = theory_rows(NAME, "sample", [Point(float(a), spec)], sample(float(a), size.dim))
        found += of_sample
        found += _beside_population(of_sample, spec, float(a), size.dim)
    for a in CORRELATIONS:
        trained = sweep_rows(NAME, "sample", [Point(a, spec)], sample(a, size.dim), size)
        found += trained + _beside_population(trained, spec, a, size.dim)
    return found


def _beside_population(rows: list[Row], spec: CVAESpec, a: float, dim: int) -> list[Row]:
    expected = predictions(spec, population(a, dim))
    return [
        row | {"setting": "population", "predicted": expected[row["level"], row["quantity"]]}
        for row in rows
    ]


def draw(rows: Rows) -> Canvas:
    """One column per prediction; dotted: where the population collapses."""
    labels = {
        "sample": "correlation a; theory of the sample",
        "population": "correlation a; theory of the population",
    }
    threshold = math.sqrt(1 - BETA * VARIANCE)
    marks = dict.fromkeys(labels, threshold)
    return swept_panels(rows, labels, PANELS, marks=marks, log=False)
