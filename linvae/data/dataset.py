"""`Dataset`: samples with where they came from, checked once when they enter the package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .layout import ImageLayout

__all__ = ["Dataset", "Step"]

Step = Mapping[str, Any]
FloatArray = NDArray[np.float32]

# Rows looked at together when checking: temporaries stay small for data that barely fit in memory.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of a target, and optionally of a condition, with their provenance.

    Parameters
    ----------
    name : str
        Name in the registry, or the user's own.
    target : array, shape (n, d)
        Samples that the decoder predicts; stored as C-contiguous float32, in data units.
    split : str, default="all"
        Which published part of the data this is.
    condition : array, shape (n, dx), or None
        What a conditional model is given, same storage and same units; None without a condition.
    labels : array, shape (n,) or (n, k), or None
        Annotations as published. No function of this package trains on them.
    image_shape : (H, W), (H, W, C) or None
        Shape of one row of `target` as an image, row-major; None when the target is no image.
    preprocessing : tuple of dicts
        One JSON-able dict per step, in the order applied, each with a key "step".
    files : tuple of str
        Names of the files read, in order.
    sha256 : str
        Hex digest of the raw bytes of `files` in that order. When empty it is filled in with
        the digest of the array bytes, target first.
    note : str
        What a reader should know: which split was taken and why, what is incomplete.
    layout : ImageLayout or None
        Where target and condition lie in an image that was divided, as by `quarter_task`.

    Raises
    ------
    ValueError
        For a wrong number of dimensions, fewer than 2 samples, NaN or infinite values, a target
        without any variance, lengths that disagree, or an image shape that does not fit.
    """

    name: str
    target: FloatArray
    split: str = "all"
    condition: FloatArray | None = None
    labels: NDArray[Any] | None = None
    image_shape: tuple[int, ...] | None = None
    preprocessing: tuple[Step, ...] = ()
    files: tuple[str, ...] = ()
    sha256: str = ""
    note: str = ""
    layout: ImageLayout | None = None

    def __post_init__(self) -> None:
        """Convert to float32 and refuse what no model can use."""
        target = _as_samples("target", self.target, self.name)
        _check_varies(target, self.name)
        object.__setattr__(self, "target", target)
        if self.condition is not None:
            condition = _as_samples("condition", self.condition, self.name)
            _check_length("condition", len(condition), len(target), self.name)
            object.__setattr__(self, "condition", condition)
        if self.labels is not None:
            _check_length("labels", len(self.labels), len(target), self.name)
        if self.image_shape is not None:
            _check_image_shape(self.image_shape, target.shape[1], self.name)
        if not self.sha256:
            object.__setattr__(self, "sha256", _array_sha256(target, self.condition))

    @property
    def n_samples(self) -> int:
        """Number of samples n."""
        return int(self.target.shape[0])

    @property
    def target_dim(self) -> int:
        """Number of target dimensions d."""
        return int(self.target.shape[1])

    @property
    def condition_dim(self) -> int:
        """Number of condition dimensions dx; 0 without a condition."""
        return 0 if self.condition is None else int(self.condition.shape[1])

    def image_layout(self) -> ImageLayout | None:
        """Where the values lie in an image, None when they are no pixels.

        Known for images, whole or divided by `quarter_task`; lost by `rotated_to_span` where that
        rotates.
        """
        if self.image_shape is None:
            return self.layout
        return ImageLayout(_with_channels(self.image_shape))

    def describe(self) -> str:
        """Return one line: name, split, n, dimensions and the first 12 digits of the sha256."""
        condition = f", condition dim {self.condition_dim}" if self.condition_dim else ""
        return (
            f"{self.name} [{self.split}]: n {self.n_samples}, dim {self.target_dim}{condition}, "
            f"sha256 {self.sha256[:12]}"
        )

    def subset(self, n: int, seed: int) -> Dataset:
        """Return `n` samples drawn without replacement, in their original order.

        The draw is recorded in `preprocessing`; `files` and `sha256` keep naming the source.

        Raises
        ------
        ValueError
            If n is not between 2 and `n_samples`.
        """
        if not 2 <= n <= self.n_samples:
            raise ValueError(
                f"n={n} must be between 2 and n_samples={self.n_samples} of dataset {self.name!r}; "
                "samples are drawn without replacement"
            )
        rows = np.sort(np.random.default_rng(seed).choice(self.n_samples, size=n, replace=False))
        return replace(
            self,
            target=self.target[rows],
            condition=None if self.condition is None else self.condition[rows],
            labels=None if self.labels is None else self.labels[rows],
            preprocessing=(*self.preprocessing, {"step": "subset", "n": n, "seed": seed}),
        )

    def quarter_task(self) -> Dataset:
        """Return the conditional task: given the bottom-left quarter, predict the other three.

        The quarter has floor(H/2) rows, the lowest ones, and floor(W/2) columns, the leftmost
        ones; a middle row or column of an image of odd size belongs to the target. Channels of
        a pixel stay together, and both parts keep row-major order. A 28x28 image gives 196
        condition and 588 target values. The result is no image: its `image_shape` is None,
        the original one is in `preprocessing`, and `image_layout` says where the values lie.

        Raises
        ------
        ValueError
            If the dataset holds no images, or an image is a single row or column.
        """
        if self.image_shape is None or self.condition is not None:
            raise ValueError(
                f"quarter_task: dataset {self.name!r} has image_shape={self.image_shape} and "
                f"condition_dim={self.condition_dim}, and needs images without a condition; take "
                "an image dataset such as 'digits' or 'mnist', or pass your own condition"
            )
        quarter = _bottom_left_quarter(self.image_shape, self.name)
        step = {
            "step": "quarter_task",
            "condition": "bottom-left quarter",
            "image_shape": list(self.image_shape),
        }
        return replace(
            self,
            target=self.target[:, ~quarter],
            condition=self.target[:, quarter],
            image_shape=None,
            preprocessing=(*self.preprocessing, step),
            layout=ImageLayout(
                _with_channels(self.image_shape),
                target=tuple(np.flatnonzero(~quarter).tolist()),
                condition=tuple(np.flatnonzero(quarter).tolist()),
            ),
        )

    def rotated_to_span(self) -> Dataset:
        """Return target and condition in coordinates of the space that the samples span.

        n samples span at most n - 1 directions around their mean; where n - 1 is less than the
        dimension, each of target and condition is centred and rotated into that many coordinates,
        losing nothing. Distances, covariances, thresholds, rates and squared errors stay the same;
        the distortion lacks the constant log(2 pi s)/2 of each dropped direction, in which no
        sample varies. Where neither is that wide, the dataset itself is returned.
        """
        target, condition = _in_span(self.target), None
        if self.condition is not None:
            condition = _in_span(self.condition)
        if target is self.target and condition is self.condition:
            return self
        step = {
            "step": "rotate to span",
            "target_dim": [self.target_dim, target.shape[1]],
            "condition_dim": [self.condition_dim, 0 if condition is None else condition.shape[1]],
        }
        return replace(
            self,
            target=target,
            condition=condition,
            image_shape=None,
            preprocessing=(*self.preprocessing, step),
            layout=None,
        )


def _in_span(samples: FloatArray) -> FloatArray:
    """Principal coordinates (n, n - 1) of centred samples, or `samples` where n - 1 >= d."""
    n, d = samples.shape
    if n > d:
        return samples
    centred = samples - samples.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates: FloatArray = (left * singular)[:, : n - 1].astype(np.float32)
    return coordinates


def _with_channels(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, *channels = image_shape
    return height, width, channels[0] if channels else 1


def _bottom_left_quarter(image_shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """Mask, shape (d,), of the values of the bottom-left quarter of a flattened image."""
    height, width = image_shape[:2]
    if min(height, width) < 2:
        raise ValueError(
            f"quarter_task: images of dataset {name!r} are {height}x{width} and must be at least "
            "2x2 to have a quarter; use larger images"
        )
    mask = np.zeros(image_shape, dtype=bool)
    mask[height - height // 2 :, : width // 2] = True
    return mask.reshape(-1)


def _as_samples(argument: str, values: ArrayLike, name: str) -> FloatArray:
    """Return `values` as (n, d) C-contiguous float32, or say what is wrong with them."""
    with np.errstate(over="ignore"):  # what overflows float32 is reported below, as infinite
        array = np.ascontiguousarray(values, dtype=np.float32)
    if np.ndim(values) != 2:
        raise ValueError(
            f"{argument} of dataset {name!r} has {np.ndim(values)} dimensions, shape "
            f"{np.shape(values)}, and must have 2: (samples, features); reshape it with "
            f"{argument}.reshape(len({argument}), -1)"
        )
    if array.shape[0] < 2 or array.shape[1] < 1:
        raise ValueError(
            f"{argument} of dataset {name!r} has shape {array.shape} and must have at least 2 "
            "samples and 1 feature; a covariance needs more data"
        )
    _check_finite(argument, array, name)
    return array


def _check_finite(argument: str, array: FloatArray, name: str) -> None:
    for start in range(0, len(array), _BLOCK):
        bad = np.argwhere(~np.isfinite(array[start : start + _BLOCK]))
        if len(bad):
            row, column = start + int(bad[0, 0]), int(bad[0, 1])
            raise ValueError(
                f"{argument}[{row}, {column}]={array[row, column]} of dataset {name!r} must be "
                "finite in float32; drop or impute such samples first"
            )


def _check_varies(target: FloatArray, name: str) -> None:
    for start in range(0, len(target), _BLOCK):
        if np.any(target[start : start + _BLOCK] != target[0]):
            return
    raise ValueError(
        f"target of dataset {name!r} has zero variance in all {target.shape[1]} features: its "
        f"{len(target)} samples are equal, and at least one feature must vary; check how the "
        "data were read"
    )


def _check_length(argument: str, got: int, expected: int, name: str) -> None:
    if got != expected:
        raise ValueError(
            f"{argument} of dataset {name!r} has {got} entries and target has {expected} samples; "
            "they must be equal, entry i belonging to sample i"
        )


def _check_image_shape(image_shape: tuple[int, ...], dim: int, name: str) -> None:
    if len(image_shape) not in (2, 3) or int(np.prod(image_shape)) != dim:
        raise ValueError(
            f"image_shape={image_shape} of dataset {name!r} must be (H, W) or (H, W, C) with a "
            f"product equal to the {dim} target features; give the shape of one flattened image, "
            "or None"
        )


def _array_sha256(target: FloatArray, condition: FloatArray | None) -> str:
    digest = hashlib.sha256(target.data)
    if condition is not None:
        digest.update(condition.data)
    return digest.hexdigest()
