"""Second moments of a data set: all that a linear VAE can see of it.

| symbol      | field               | shape    | unit         |
|-------------|---------------------|----------|--------------|
| v = (x, y)  | condition, target   | (dx + d) |              |
| mean        | mean                | (dx + d,)| data units   |
| C           | covariance          | (dx+d)^2 | data units^2 |
| Cov(y|x)    | residual_covariance | (d, d)   | data units^2 |

`covariance = 1/n sum (v - mean)(v - mean)^T`, with 1/n (maximum likelihood), never 1/(n-1).
With `centered=False` it is the second moment `1/n sum v v^T`: the model without biases, as in
some published experiments. Accumulated in float64, batch by batch: memory is one batch plus
three d x d matrices of doubles. Sums of disjoint parts, about their own means, combine to those of
the whole (`_Partial`), so the blocks of a dask array are summed wherever they lie and never meet.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dsyr, dsyrk

__all__ = ["Moments", "as_array", "doubles"]

Array = npt.NDArray[np.float64]
Batch = npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike]
BATCH_ROWS = 512  # rows converted to float64 at a time: 3 MB at 784 columns stay in cache
STRIP_BYTES = 2**30  # of a dask array, all its columns put together for one block


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of (condition, target); build it with one of the `from_` methods.

    `condition_dim` = dx coordinates of the condition come first, 0 means no condition.
    `n_samples` is None where the covariance was given. Equality that a test checks:
    `residual_covariance == covariance` without a condition, and
    `Cov(y) - Cov(y,x) Cov(x)^+ Cov(x,y)` with one.
    """

    mean: Array
    covariance: Array
    condition_dim: int = 0
    n_samples: int | None = None
    centered: bool = True

    @classmethod
    def from_data(
        cls,
        target: npt.ArrayLike,
        condition: npt.ArrayLike | None = None,
        *,
        centered: bool = True,
    ) -> Moments:
        """Moments of arrays: `target` (n, d), `condition` (n, dx) or None.

        Dask arrays stay out of core: each block is read once, by whatever scheduler is active, and
        a worker holds one block and a few d x d matrices at a time.
        Raises ValueError for NaN or infinite entries, fewer than 2 samples, no variance at all,
        or different lengths of the two; for dask arrays of unknown lengths, and with columns in
        several chunks whose rows, put together, exceed `STRIP_BYTES`.
        """
        if _is_lazy(target) or _is_lazy(condition):
            joint, condition_dim = _lazy_joint(target, condition)
            return _sum_of_blocks(joint, condition_dim).moments(centered)
        y = _matrix("target", target)
        if condition is None:
            return cls.from_batches(_rows(y), centered=centered)
        x = _matrix("condition", condition)
        _check_lengths(x, y)
        return cls.from_batches(zip(_rows(x), _rows(y), strict=True), centered=centered)

    @classmethod
    def from_batches(cls, batches: Iterable[Batch], *, centered: bool = True) -> Moments:
        """Moments of a stream of targets (rows, d) or of pairs (condition, target)."""
        total: _Accumulator | None = None
        for batch in batches:
            v, condition_dim = _joint(batch)
            if len(v) == 0:
                continue
            if total is None:
                total = _Accumulator(_mean(v), condition_dim)
            total.add(v, condition_dim)
        if total is None:
            raise ValueError("target has 0 samples but moments need at least 2")
        return total.partial().moments(centered)

    @classmethod
    def from_covariance(
        cls,
        covariance: npt.ArrayLike,
        *,
        condition_dim: int = 0,
        mean: npt.ArrayLike | None = None,
        n_samples: int | None = None,
    ) -> Moments:
        """Moments from the joint covariance (dx + d, dx + d), condition first.

        Raises ValueError unless it is finite, symmetric and positive semi-definite up to rounding
        (1e-10 of its largest entry per dimension), with a positive variance in the target.
        """
        c = doubles("covariance", covariance)
        if c.ndim != 2 or c.shape[0] != c.shape[1] or c.size == 0:
            raise ValueError(f"covariance has shape {c.shape} but must be square, (dx + d, dx + d)")
        k, n = _whole(condition_dim), _whole(n_samples)
        if k is None or not 0 <= k < len(c):
            raise ValueError(
                f"condition_dim={condition_dim} must be an integer between 0 and {len(c) - 1}: "
                f"covariance is {len(c)} x {len(c)} and at least one coordinate is the target"
            )
        _check_semidefinite(c)
        m = np.zeros(len(c)) if mean is None else np.array(doubles("mean", mean))
        if m.shape != (len(c),) or not np.all(np.isfinite(m)):
            raise ValueError(f"mean has shape {m.shape} but must be finite with shape ({len(c)},)")
        _check_variance(c, k)
        if n_samples is not None and (n is None or n < 2):
            raise ValueError(
                f"n_samples={n_samples!r} must be at least 2 and whole, or None where not known"
            )
        return cls(m, c / 2 + c.T / 2, k, n)

    @property
    def target_dim(self) -> int:
        """d, the number of target coordinates."""
        return len(self.mean) - self.condition_dim

    @property
    def target_covariance(self) -> Array:
        """Cov(y), (d, d)."""
        return self.covariance[self.condition_dim :, self.condition_dim :]

    @cached_property
    def regression(self) -> Array:
        """R = Cov(y,x) Cov(x)^+, (d, dx): the best linear prediction of y from x is R x."""
        k = self.condition_dim
        if k == 0:
            return np.zeros((self.target_dim, 0))
        # in units of each coordinate's deviation: no unit decides what is rounding; a coordinate
        # without variance (below 0 by rounding, too) tells nothing
        variances = np.diag(self.covariance)[:k]
        alive = variances >= np.finfo(np.float64).tiny
        scale = np.sqrt(np.where(alive, variances, 1.0))
        correlation = self.covariance[:k, :k] / np.outer(scale, scale)
        values, vectors = np.linalg.eigh(np.where(np.outer(alive, alive), correlation, 0.0))
        # directions of the condition below rounding carry no information about the target
        keep = values > k * np.finfo(np.float64).eps * max(values[-1], 0.0)
        basis = vectors[:, keep]
        with np.errstate(over="ignore", invalid="ignore"):
            cross = np.where(alive, self.covariance[k:, :k] / scale, 0.0)
            coefficients: Array = (cross @ basis / values[keep]) @ basis.T / scale
        return _representable(coefficients)

    @cached_property
    def explained_covariance(self) -> Array:
        """Cov(y,x) Cov(x)^+ Cov(x,y), (d, d): the part of Cov(y) that x predicts linearly."""
        k = self.condition_dim
        with np.errstate(over="ignore", invalid="ignore"):
            explained = self.regression @ self.covariance[:k, k:]
        symmetric: Array = explained / 2 + explained.T / 2
        return _representable(symmetric)

    @cached_property
    def residual_covariance(self) -> Array:
        """Cov(y|x) = Cov(y) - Cov(y,x) Cov(x)^+ Cov(x,y), (d, d); Cov(y) without a condition."""
        return self.target_covariance - self.explained_covariance

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per coordinate: role, index, mean, variance."""
        variances = np.diag(self.covariance)
        return [
            {
                "role": "condition" if i < self.condition_dim else "target",
                "coordinate": i if i < self.condition_dim else i - self.condition_dim,
                "mean": float(self.mean[i]),
                "variance": float(variances[i]),
            }
            for i in range(len(self.mean))
        ]


class _Accumulator:
    """Running count, sum and scatter matrix of a stream, about the mean of its first batch.

    The shift keeps the cancellation harmless: the first b of n rows bound the squared distance of
    shift and mean by n/b times the total variance, so at most n/b * 2e-16 is lost, relatively.
    """

    def __init__(self, shift: Array, condition_dim: int) -> None:
        dim = len(shift)
        self.n = 0
        self.condition_dim = condition_dim
        self.shift = shift
        self.total = np.zeros(dim)
        self.scatter = np.zeros((dim, dim), order="F")  # BLAS fills the upper triangle only

    def add(self, v: npt.NDArray[Any], condition_dim: int) -> None:
        """Add the rows of `v`."""
        if (v.shape[1], condition_dim) != (len(self.shift), self.condition_dim):
            raise ValueError(
                f"batch has {condition_dim} condition and {v.shape[1] - condition_dim} target "
                f"columns but the batches before had {self.condition_dim} and "
                f"{len(self.shift) - self.condition_dim}"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # refused by `partial`
            shifted = np.subtract(v, self.shift, dtype=np.float64, order="C")
            self.total += np.ones(len(v)) @ shifted
        self.scatter = dsyrk(1.0, shifted.T, beta=1.0, c=self.scatter, overwrite_c=1)
        self.n += len(v)

    def partial(self) -> _Partial:
        """The sums of everything added so far, in place: nothing can be added afterwards."""
        self._check_finite()
        offset = self.total / self.n
        centred = dsyr(-self.n, offset, a=self.scatter, overwrite_a=1)
        return _Partial(self.n, self.condition_dim, self.shift, offset, centred)

    def _check_finite(self) -> None:
        bad = np.flatnonzero(~np.isfinite(self.total))
        if len(bad):
            k = self.condition_dim
            where = f"condition[:, {bad[0]}]" if bad[0] < k else f"target[:, {bad[0] - k}]"
            raise ValueError(
                f"{where} contains NaN or infinite entries, or some whose sum overflows "
                f"({len(bad)} of {len(self.total)} coordinates do): remove those samples or "
                "coordinates"
            )


@dataclass(frozen=True, eq=False)
class _Partial:
    """Sums of part of the data: n rows of mean `shift + offset`, and their scatter about it.

    The mean is kept in two parts, or far means would cost the difference of two means its digits.
    Only the upper triangle of `scatter` counts.
    """

    n: int
    condition_dim: int
    shift: Array
    offset: Array
    scatter: Array

    def __add__(self, other: _Partial) -> _Partial:
        """Of both parts: S = S_a + S_b + n_a n_b / n delta delta^T, delta the means' difference.

        Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979: nothing cancels, whatever the order of the parts.
        """
        if self.n == 0 or other.n == 0:
            return self if other.n == 0 else other
        n = self.n + other.n
        delta = (other.shift - self.shift) + (other.offset - self.offset)
        scatter = dsyr(self.n / n * other.n, delta, a=self.scatter + other.scatter, overwrite_a=1)
        offset = self.offset + other.n / n * delta
        return _Partial(n, self.condition_dim, self.shift, offset, scatter)

    def moments(self, centered: bool) -> Moments:
        """The moments of this part, in the memory of `scatter`."""
        if self.n < 2:
            raise ValueError(f"target has {self.n} samples but moments need at least 2")
        # turned into the covariance in place: d^2 doubles fewer; what came by wire may be read-only
        covariance: Array = np.require(self.scatter, requirements="W")
        for i in range(len(covariance)):
            covariance[i + 1 :, i] = covariance[i, i + 1 :]
        covariance /= self.n
        mean = self.shift + self.offset
        if not centered:
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                covariance += np.outer(mean, mean)
        if not np.all(np.isfinite(np.diag(covariance))):
            raise ValueError(
                "target or condition has entries so large that their squares overflow: rescale them"
            )
        _check_variance(covariance, self.condition_dim)
        return Moments(mean, covariance, self.condition_dim, self.n, centered)


def _is_lazy(values: object) -> bool:
    """True for a dask array, known by its protocol: dask is not imported here."""
    return hasattr(values, "__dask_graph__") and hasattr(values, "map_blocks")


def _lazy_joint(target: Any, condition: Any) -> tuple[Any, int]:
    """(condition, target) side by side as one dask array in blocks of whole rows, and dx."""
    parts = {"target": target} if condition is None else {"condition": condition, "target": target}
    arrays = {name: v if _is_lazy(v) else np.asarray(v) for name, v in parts.items()}
    for name, values in arrays.items():
        _check_matrix(name, values)
        if any(math.isnan(n) for n in values.shape):
            raise ValueError(
                f"{name} has chunks of unknown length, shape {values.shape}: call its "
                "compute_chunk_sizes() first"
            )
    if condition is None:
        return _whole_rows("target", arrays["target"]), 0
    _check_lengths(arrays["condition"], arrays["target"])
    rows = [_whole_rows(name, v) if _is_lazy(v) else v for name, v in arrays.items()]
    # numpy hands this to dask, which splits rows where either of the two does
    joint: Any = np.concatenate(rows, axis=1)
    return joint.rechunk({1: -1}), rows[0].shape[1]


def _whole_rows(name: str, values: Any) -> Any:
    """The dask array with all columns in one chunk; refused where that would fill the memory."""
    strip = max(values.chunks[0]) * values.shape[1] * values.dtype.itemsize
    if values.numblocks[1] > 1 and strip > STRIP_BYTES:
        raise ValueError(
            f"{name} has its {values.shape[1]} columns in {values.numblocks[1]} chunks of up to "
            f"{max(values.chunks[0])} rows: whole rows of one chunk would take "
            f"{strip / 2**30:.1f} GiB (limit {STRIP_BYTES / 2**30:.0f}); store it in chunks of "
            "fewer rows and all columns"
        )
    return values.rechunk({1: -1})


def _sum_of_blocks(joint: Any, condition_dim: int) -> _Partial:
    """Partial sums of every block, in parallel, added one after the other as they come.

    A tree of sums would keep log2(blocks) matrices waiting; this keeps one.
    """
    sums = joint.map_blocks(_block_sums, condition_dim, dtype=np.float64, meta=np.empty((0, 0)))
    # `+` of two delayed values is a task that calls _Partial.__add__
    total: _Partial = reduce(operator.add, sums.to_delayed().ravel().tolist()).compute()
    return total


def _block_sums(block: npt.NDArray[Any], condition_dim: int) -> _Partial:
    """Partial sums of one block (rows, dx + d), about its own mean."""
    dim = block.shape[1]
    if len(block) == 0:
        empty = np.zeros(dim)
        return _Partial(0, condition_dim, empty, empty, np.zeros((dim, dim), order="F"))
    sums = _Accumulator(_mean(block), condition_dim)
    for rows in _rows(block):
        sums.add(rows, condition_dim)
    return sums.partial()


def _mean(rows: npt.NDArray[Any]) -> Array:
    """Of every column, in float64; what is not finite or overflows is refused with the sums."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(rows.mean(axis=0, dtype=np.float64))


def _matrix(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    array = as_array(name, values)
    _check_matrix(name, array)
    return array


def as_array(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """As NumPy reads it; ValueError for ragged lists, tensors it cannot read, masked entries."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked entries: fill them, or remove those samples")
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # the last two from torch
        raise ValueError(f"{name} must be an array of numbers: {error}") from None


def doubles(name: str, values: npt.ArrayLike) -> Array:
    """In float64, a copy where it is not; infinite where a longer number does not fit.

    Raises ValueError for what is no array of real numbers.
    """
    array = as_array(name, values)
    if array.dtype == np.float64:
        return array
    try:
        if array.dtype.kind not in "fiubO":
            raise TypeError("not real")
        with np.errstate(over="ignore"):
            return array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} has dtype {array.dtype} but must be real numbers") from None


def _whole(value: Any) -> int | None:
    """An integer, also one of NumPy or torch; None for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        return None


def _check_matrix(name: str, array: Any) -> None:
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} has shape {array.shape} but must be 2-D, (samples, dimensions)")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {array.dtype} but must be numeric")


def _check_lengths(x: Any, y: Any) -> None:
    if len(x) != len(y):
        raise ValueError(
            f"condition has {len(x)} samples but target has {len(y)}: "
            "they must have the same length"
        )


def _rows(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(values), BATCH_ROWS):
        yield values[start : start + BATCH_ROWS]


def _joint(batch: Batch) -> tuple[npt.NDArray[Any], int]:
    """(condition, target) side by side, and the condition's width."""
    if not isinstance(batch, tuple):
        return _matrix("target", batch), 0
    x, y = _matrix("condition", batch[0]), _matrix("target", batch[1])
    _check_lengths(x, y)
    return np.concatenate([x, y], axis=1), x.shape[1]


def _representable(values: Array) -> Array:
    if not np.all(np.isfinite(values)):
        raise ValueError(
            "covariance has condition and target too far apart to regress one on the other in "
            "double precision: rescale them"
        )
    return values


def _check_variance(covariance: Array, condition_dim: int) -> None:
    variances = np.diag(covariance)[condition_dim:]
    if not np.any(variances >= np.finfo(np.float64).tiny):
        raise ValueError(
            f"target has zero variance everywhere (largest: {variances.max():.3g}): there is "
            "nothing to explain"
        )


def _check_semidefinite(c: Array) -> None:
    scale = np.abs(c).max()
    if not np.isfinite(scale):
        raise ValueError("covariance contains NaN or infinite entries")
    unit = c / max(scale, np.finfo(np.float64).tiny)
    asymmetry = np.abs(unit - unit.T).max()
    if asymmetry > 1e-10:
        raise ValueError(
            f"covariance is not symmetric: largest |C - C^T| is {asymmetry * scale:.3g}"
        )
    lowest = np.linalg.eigvalsh(unit)[0]
    if lowest < -1e-10 * len(c):
        raise ValueError(
            f"covariance is not positive semi-definite: its smallest eigenvalue is "
            f"{lowest * scale:.3g}"
        )
