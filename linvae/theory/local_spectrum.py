"""The spread of a target given its condition, from samples: how much it varies with the condition.

Conditions fall into cells (labels are cells of their own; numbers are halved across the longest
principal axis again and again, so that all cells have as many samples). With r = y - R x, what
linear regression leaves, less its mean in the cell, C_c its covariance there, 1/(n_c - 1), and A, B
random halves of the cell,

    in_sample_c = lambda_max(C_c)
    held_out_c  = u' C_c^B u,  u the leading direction of C_c^A,  mean of both ways

in_sample_c is too large by what sampling adds to the largest of d variances, a direction from other
samples is not the best one: in expectation

    held_out_c <= lambda_max(Cov(r | cell c)) <= in_sample_c.

The largest of noisy numbers is too large again, so that for `first`, the supremum over x, one half
chooses the cell as well. Cells have a size: what E[y|x] does inside of one, beyond R x, counts as
spread, and a direction that turns inside of one is averaged. Other `n_cells` show how much.

| symbol                     | argument or field   | shape                         | unit    |
|----------------------------|---------------------|-------------------------------|---------|
| y                          | target              | (n, d)                        | data    |
| x                          | condition           | (n, dx), or labels (n,)       | its own |
| c, n_c                     | labels, sizes       | (n,), (cells,)                | -       |
| held_out_c, in_sample_c    | the same            | (cells,)                      | data^2  |
| sup_x lambda_max(Cov(y|x)) | first               | scalar                        | data^2  |
| lambda_max(E_x Cov(y|x))   | average             | scalar                        | data^2  |
| lambda_max(Cov(r))         | linear              | scalar                        | data^2  |

Divided by the decoder variance these are the thresholds of `linvae.theory.conditional_threshold`.
Source: ours. Equality that a test checks: without structure in x all three are lambda_max(Cov(y)),
within standard errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments, as_array, doubles

__all__ = ["LocalSpectrum", "local_residual_spectrum"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
FEWEST = 8  # samples of a cell: two halves with a variance and an error each


@dataclass(frozen=True, eq=False)
class LocalSpectrum:
    """Top variances of the residual in cells of the condition; fields in the module's table.

    `errors` (cells,), `first_error`: standard errors of the held-out values, over the samples that
    measure, for given directions; `average` and `linear` are in-sample values of all samples.
    """

    labels: Index
    sizes: Index
    held_out: Array
    in_sample: Array
    errors: Array
    first: float
    first_error: float
    average: float
    linear: float

    def share_above(self, variance: float) -> float:
        """Share of the samples in cells of a larger held-out variance."""
        return float(self.sizes[self.held_out > variance].sum() / self.sizes.sum())

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per cell; what describes the whole is repeated in each."""
        names = ("first", "first_error", "average", "linear")
        whole = {name: getattr(self, name) for name in names}
        columns = (self.sizes, self.held_out, self.in_sample, self.errors)
        return [
            {"size": int(n), "held_out": float(v), "in_sample": float(top), "error": float(e)}
            | whole
            for n, v, top, e in zip(*columns, strict=True)
        ]


def local_residual_spectrum(
    target: npt.ArrayLike, condition: npt.ArrayLike, *, n_cells: int = 16, seed: int = 0
) -> LocalSpectrum:
    """Spread of `target` (n, d) in cells of `condition`, numbers (n, dx) or labels, integers (n,).

    `n_cells`: a power of two, for numbers; `seed` draws the halves. Raises ValueError for a
    condition of another shape or kind, cells of fewer than 8 samples, and as `Moments.from_data`.
    """
    y, x = doubles("target", target), as_array("condition", condition)
    _check(y, x)
    numbers = x.astype(np.float64) if x.ndim == 2 else None
    moments = Moments.from_data(y, numbers)
    residual = y - y.mean(axis=0)
    if numbers is None:
        names = np.unique(x, return_inverse=True)[1].ravel()
    else:
        residual = residual - (numbers - numbers.mean(axis=0)) @ moments.regression.T
        names = _halved(numbers, n_cells)
    sizes = np.bincount(names)
    if sizes.min() < FEWEST:
        raise ValueError(
            f"condition has a cell of {sizes.min()} samples but local_residual_spectrum needs "
            f"{FEWEST} in each: fewer cells, or labels that are not so rare"
        )
    rng = np.random.default_rng(seed)
    cells = [residual[rng.permutation(np.flatnonzero(names == c))] for c in range(len(sizes))]
    halves = [np.array_split(r, 2) for r in cells]
    ways = [[_Way.of(a, b), _Way.of(b, a)] for a, b in halves]
    chosen = [max((way[i] for way in ways), key=lambda w: w.found) for i in (0, 1)]
    within = sum((len(r) - 1) * np.cov(r.T).reshape(y.shape[1], -1) for r in cells)
    return LocalSpectrum(
        labels=names,
        sizes=sizes,
        held_out=np.array([_mean(pair)[0] for pair in ways]),
        in_sample=np.array([_top(r)[0] for r in cells]),
        errors=np.array([_mean(pair)[1] for pair in ways]),
        first=_mean(chosen)[0],
        first_error=_mean(chosen)[1],
        average=float(np.linalg.eigvalsh(within / (len(y) - len(sizes)))[-1]),
        linear=float(np.linalg.eigvalsh(moments.residual_covariance)[-1]),
    )


@dataclass(frozen=True)
class _Way:
    """One half of a cell chooses a direction, in which it has `found`; the other half measures."""

    found: float
    measured: float
    error: float

    @classmethod
    def of(cls, chooses: Array, measures: Array) -> _Way:
        found, direction = _top(chooses)
        along = (measures - measures.mean(axis=0)) @ direction
        squares = along**2 * len(along) / (len(along) - 1)
        error = squares.std(ddof=1) / np.sqrt(len(along))
        return cls(found, float(squares.mean()), float(error))


def _mean(ways: list[_Way]) -> tuple[float, float]:
    """Of two ways, whose measuring halves have no sample in common, and its standard error."""
    value = np.mean([way.measured for way in ways])
    return float(value), math.hypot(*[way.error for way in ways]) / 2


def _top(values: Array) -> tuple[float, Array]:
    """Largest eigenvalue of the covariance, 1/(n - 1), and its direction."""
    centred = values - values.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    return float(singular[0] ** 2 / (len(values) - 1)), directions[0]


def _halved(x: Array, n_cells: int) -> Index:
    """Label of every sample: cells are halved until there are `n_cells`"""
    depth = n_cells.bit_length() - 1
    if n_cells != 2**depth or n_cells < 1:
        raise ValueError(
            f"n_cells={n_cells} must be a power of two in local_residual_spectrum: cells are halved"
        )
    cells = [np.arange(len(x))]
    for _ in range(depth):
        cells = [half for rows in cells for half in _halves(x, rows)]
    labels = np.zeros(len(x), dtype=np.intp)
    for c, rows in enumerate(cells):
        labels[rows] = c
    return labels


def _halves(x: Array, rows: Index) -> list[Index]:
    if len(rows) < 2 * FEWEST:
        raise ValueError(
            f"condition has {len(x)} samples, too few for cells of {FEWEST} in "
            "local_residual_spectrum: give a smaller n_cells"
        )
    axis = _top(x[rows])[1]
    return np.array_split(rows[np.argsort(x[rows] @ axis, kind="stable")], 2)


def _check(y: Array, x: npt.NDArray[Any]) -> None:
    labels = x.ndim == 1 and x.dtype.kind in "iub"
    if y.ndim != 2 or len(x.shape) == 0 or len(x) != len(y) or not (labels or x.ndim == 2):
        raise ValueError(
            f"target has shape {y.shape} and condition {x.shape}, {x.dtype}, but "
            "local_residual_spectrum needs (n, d), and numbers (n, dx) or labels, integers (n,)"
        )
