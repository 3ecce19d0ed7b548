"""Conditional VAE of each class of images alone: which one collapses most, by theory and trained.

Prediction: theory on the moments of that class. Data of less conditional variance collapse more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from analysis.dang.drawing import Canvas, Rows, against_panels
from analysis.dang.sweep import Point, Row, Size, sweep_rows, variance_unit
from linvae.data import Dataset
from linvae.models import Architecture
from linvae.spec import CVAESpec

NAME = "digits"
ARCHITECTURES = {"linear": Architecture("linear"), "mlp": Architecture("mlp", 100)}
LATENT_DIM = 16
BETA, VARIANCE = 1.0, 0.25  # published: beta 1, eta_dec 0.5
CLASSES = tuple(range(10))
PANELS = (
    ("rate_nats", 1, "rate, nats"),
    ("active_units", 1, "active units"),
    ("collapsed_share", 1, "collapsed share of pairs"),
)


def of_class(dataset: Dataset, label: int, samples: int | None) -> Dataset:
    """The first `samples` images of one class."""
    rows = np.flatnonzero(np.asarray(dataset.labels) == label)[:samples]
    step = {"step": "class", "label": label, "first": len(rows)}
    condition = None if dataset.condition is None else dataset.condition[rows]
    return replace(
        dataset,
        target=dataset.target[rows],
        condition=condition,
        labels=None,
        preprocessing=(*dataset.preprocessing, step),
    )


def rows(size: Size) -> list[Row]:
    """One point per class; its value is the class."""
    dataset = replace(size, samples=None).load(conditional=True)
    unit = variance_unit(dataset)
    spec = CVAESpec(LATENT_DIM, beta=BETA, decoder_variance=unit * VARIANCE)
    found = []
    for label in CLASSES:
        one = of_class(dataset, label, size.samples)
        found += sweep_rows(NAME, "class", [Point(label, spec)], one, size)
    return found


def rank_correlations(rows: Rows) -> dict[str, float | None]:
    """Spearman's rank correlation over classes of predicted and mean observed values.

    None where one of them is the same in all classes.
    """
    found = {}
    for architecture in dict.fromkeys(row["architecture"] for row in rows):
        for quantity, _, _ in PANELS:
            some = [
                r for r in rows if r["architecture"] == architecture and r["quantity"] == quantity
            ]
            classes = sorted({r["value"] for r in some})
            pairs = [
                (
                    np.mean([r["predicted"] for r in some if r["value"] == label]),
                    np.mean([r["observed"] for r in some if r["value"] == label]),
                )
                for label in classes
            ]
            sides = list(zip(*pairs, strict=True))
            constant = any(len(set(side)) == 1 for side in sides)  # no ranks: no correlation
            rank = None if constant else round(float(spearmanr(*sides).statistic), 3)
            found[f"{architecture}, {quantity}"] = rank
    return found


def draw(rows: Rows) -> Canvas:
    """Observed against predicted, one mark per class."""
    return against_panels(rows, PANELS, name=lambda value: f"{value:.0f}")
