"""Collapse sample by sample and cell by cell: where the posterior is the prior.

A unit can be alive while most data points, or whole regions of data or of latent space, carry
nothing. Of every member of one level, with a cut-off epsilon,

    share of samples       those with KL(q(z|v_i) || p(z)) < epsilon
    share of data cells    those where the mean of it over the samples of the cell is < epsilon
    share of latent cells  those with KL(q(.|dec(z, x), x) || p(z)) < epsilon at the cell's z

*Data cells*: a grid of equal squares over the range of 2-D targets, clusters of k-means else; only
cells with samples count. *Latent cells*: `linvae.metrics.reencoding`; with a condition their KL is
the mean over some x. A mean can hide collapsed samples, and a sample below epsilon can lie in a
cell above: no share bounds another. All are 0 where every sample pays more than epsilon, as with an
encoder variance that is fixed below the prior's.

| symbol   | here                        | shape                       | unit |
|----------|-----------------------------|-----------------------------|------|
| KL       | sample_rates                | (seeds, points, n, k)       | nats |
| epsilon  | epsilon                     | scalar                      | nats |

Sources: the idea, 256 cells and the cut-off 0.1 are those of Song, Kim, Lee 2025 and of their code
(the definition of the paper could not be read); shares of samples are ours. Equality that a test
checks: of a linear model, `linvae.theory.observables.sample_rates`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from linvae.metrics.information import posteriors
from linvae.metrics.observe import Stack
from linvae.metrics.reencoding import CELLS, can_reencode, latent_cell_rates, one_level
from linvae.models import StackedVAE
from linvae.train.data import TrainingData

__all__ = ["LocalCollapse", "local_collapse", "sample_rates"]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]
CLUSTERED = 10_000  # samples that k-means sees; the others go to the nearest centre
ROUNDS = 30  # of k-means: cells must be compact, not the best


@dataclass(frozen=True, eq=False)
class LocalCollapse:
    """KL of every sample and cell of every member; NaN for members that diverged.

    | field        | meaning                                     | shape                  | unit |
    |--------------|---------------------------------------------|------------------------|------|
    | epsilon      | collapsed is what is below                  | scalar                 | nats |
    | sample_rates | KL of every sample, summed over units       | (seeds, points, n)     | nats |
    | data_cells   | its mean over the samples of every cell     | (seeds, points, cells) | nats |
    | latent_cells | KL of re-encoded cells; None where decoding | (seeds, points, cells) | nats |
    |              | and encoding again is not defined           |                        |      |
    """

    epsilon: float
    sample_rates: Array
    data_cells: Array
    latent_cells: Array | None

    @property
    def share_of_samples(self) -> Array:
        """(n_seeds, n_points)."""
        return self._share(self.sample_rates)

    @property
    def share_of_data_cells(self) -> Array:
        """(n_seeds, n_points)."""
        return self._share(self.data_cells)

    @property
    def share_of_latent_cells(self) -> Array | None:
        """(n_seeds, n_points), or None as `latent_cells`."""
        return None if self.latent_cells is None else self._share(self.latent_cells)

    def quantiles(self, levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> Array:
        """Of the KL over samples, nats, (levels, n_seeds, n_points)."""
        return np.asarray(np.quantile(self.sample_rates, levels, axis=-1))

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per member."""
        numbers = {
            "mean_nats": self.sample_rates.mean(axis=-1),
            "median_nats": np.median(self.sample_rates, axis=-1),
            "share_of_samples": self.share_of_samples,
            "share_of_data_cells": self.share_of_data_cells,
            "share_of_latent_cells": self.share_of_latent_cells,
        }
        return [
            {"seed_index": s, "point": p, "epsilon_nats": self.epsilon}
            | {name: None if v is None else float(v[s, p]) for name, v in numbers.items()}
            for s, p in np.ndindex(self.sample_rates.shape[:2])
        ]

    def _share(self, nats: Array) -> Array:
        below = np.mean(nats < self.epsilon, axis=-1)
        return np.where(np.isnan(nats).any(axis=-1), np.nan, below)


def local_collapse(
    model: StackedVAE,
    data: TrainingData,
    *,
    epsilon: float = 0.1,
    n_cells: int = CELLS,
    cells: npt.ArrayLike | None = None,
    seed: int = 0,
) -> LocalCollapse:
    """Local collapse of every member, on all samples of `data`.

    `cells`: labels, integers (n,), of other data cells than the module's `n_cells`, for instance
    of the condition. Raises ValueError for several levels, an epsilon that is not above 0, more
    cells than samples, or labels of another shape.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon={epsilon!r} must be a finite number > 0 in local_collapse")
    rates = sample_rates(model, data).sum(axis=-1)
    labels = _cell_labels(data, n_cells, seed) if cells is None else _checked_labels(cells, data)
    reencodes = can_reencode(model)
    return LocalCollapse(
        epsilon=float(epsilon),
        sample_rates=rates,
        data_cells=_means(rates, labels),
        latent_cells=latent_cell_rates(model, data, n_cells, seed=seed) if reencodes else None,
    )


@torch.no_grad()
def sample_rates(model: Stack, data: TrainingData) -> Array:
    """KL(q(z|v) || p(z)) of every sample and unit, nats, (n_seeds, n_points, n, k).

    Raises ValueError for several levels.
    """
    one_level(model, "sample_rates")
    (rates,) = model.rates_per_unit([posteriors(model, data)], [])
    return np.asarray(rates.cpu(), dtype=np.float64)


def _means(rates: Array, labels: Labels) -> Array:
    """Mean over every cell that has samples, (n_seeds, n_points, cells)."""
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return np.apply_along_axis(lambda nats: np.bincount(index, nats) / sizes, -1, rates)


def _cell_labels(data: TrainingData, n_cells: int, seed: int) -> Labels:
    """The module's data cells: a label for every sample, (n,)."""
    n, d = data.target.shape
    if not 1 <= n_cells <= n:
        raise ValueError(
            f"n_cells={n_cells} must be between 1 and the {n} samples in local_collapse"
        )
    y = data.target[:].cpu().numpy()
    if d != 2:
        return _clusters(y, n_cells, seed)
    side = round(math.sqrt(n_cells))
    low, width = y.min(axis=0), np.ptp(y, axis=0)
    place = np.minimum((y - low) / np.where(width > 0, width, 1) * side, side - 1).astype(np.intp)
    return np.asarray(place[:, 0] * side + place[:, 1])


def _clusters(y: npt.NDArray[np.floating[Any]], n_cells: int, seed: int) -> Labels:
    """k-means on some of the samples; here, so that nothing else waits for scikit-learn."""
    from sklearn.cluster import KMeans

    some = np.random.default_rng(seed).permutation(len(y))[: max(CLUSTERED, n_cells)]
    means = KMeans(n_cells, n_init=1, max_iter=ROUNDS, random_state=seed).fit(y[some])
    return np.asarray(means.predict(y), dtype=np.intp)


def _checked_labels(cells: npt.ArrayLike, data: TrainingData) -> Labels:
    labels = np.asarray(cells)
    if labels.shape != (len(data),) or labels.dtype.kind not in "iub":
        raise ValueError(
            f"cells has shape {labels.shape} and dtype {labels.dtype} but must be labels, integers "
            f"({len(data)},), one for each sample, in local_collapse"
        )
    return labels.astype(np.intp)
