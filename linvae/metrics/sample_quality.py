"""How good and how diverse the images of a VAE are: two sets compared in a feature space.

Real features x_1 ... x_n, generated y_1 ... y_n, as many of both. With means m and covariances C

    Fréchet distance   |m_x - m_y|^2 + tr C_x + tr C_y - 2 tr (C_x^(1/2) C_y C_x^(1/2))^(1/2)

squared, that is W_2^2 of two Gaussians. X and Y being the centred features over sqrt(n - 1), the
last trace is the sum of the singular values of X Y', which needs no root of a singular matrix.

    kernel distance    U = mean over i != j of h_ij,    k(x, y) = (x'y/units + 1)^3
                       h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)

the squared maximum mean discrepancy, unbiased: about 0, also below, for sets of one distribution.

    variance of U = [4 (n-2) zeta_1 + 2 zeta_2]/(n (n-1))
    zeta_1 = E h_ij h_il - square,   zeta_2 = E h_ij^2 - square,   square = E h_ij h_lm = (E U)^2

with means over different indices for expectations; a zeta below 0 counts as 0. The standard error
then is, near U = 0, up to about sqrt(2) times too large, and never smaller than at U = 0.

With r_k(x_i) the distance from x_i to its k-th neighbour among the other real features, r_k(y_j)
among the generated, and closed balls B(x_i, r_k(x_i)), B(y_j, r_k(y_j)):

    precision   share of y_j in the ball of some x_i
    recall      share of x_i in the ball of some y_j
    coverage    share of x_i whose ball holds some y_j
    density     pairs of y_j and a ball of some x_i that holds it, over k n

All but the kernel distance and density depend on n, whatever the model: the Fréchet distance is
biased upwards by about a constant over n, and coverage is 1 - [(n-1)...(n-k)]/[(2n-1)...(2n-k)] on
average between two sets of one distribution. `sample_quality` therefore divides the real images
into two halves, compares as many generated images as one half has with the first, and reports the
second half on the same terms: what a perfect model has. Images that the model was trained on
flatter it; give others. Precision and density alone praise what is near the middle: a collapsed
model's one image, the mean, lies in the balls of many. Its recall is 0.

Samples and reconstructions are means of p(y|z), without decoder noise (`linvae.metrics.samples`).
The words FID and KID are for the published Inception features alone, at the n of a publication.

| symbol | here                                    | shape           | unit                 |
|--------|-----------------------------------------|-----------------|----------------------|
| W_2^2  | SampleQuality.frechet_distance          | (seeds, points) | features squared     |
| U      | SampleQuality.kernel_distance           | (seeds, points) | -                    |
|        | SampleQuality.precision, ..., .coverage | (seeds, points) | shares; density: -   |
| n, k   | SampleQuality.n_images, .neighbours     | scalars         | -                    |

No library: torchmetrics has neither recall nor coverage, torch-fidelity and piq need a torchvision
that is of the same build as torch, prdc counts open balls, so that equal sets with ties get 0.

Sources: Heusel et al. 2017 (Fréchet); Gretton et al. 2012, lemma 6, and Bińkowski et al. 2018
(kernel); Hoeffding 1948 (its variance); Kynkäänniemi et al. 2019 (precision, recall); Naeem et al.
2020 (density, coverage). Equalities that tests check: Gaussians shifted and stretched; brute force
over four indices; sets on a line by hand; expected coverage of two sets of one distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.linalg import qr, svdvals
from scipy.spatial.distance import cdist

from linvae.metrics.features import FeatureSpace
from linvae.metrics.samples import Images, Pictures, prior_samples, reconstructions

__all__ = ["FeatureDistances", "SampleQuality", "compare_features", "sample_quality"]

Array = npt.NDArray[np.float64]
CHUNK = 512  # rows of a matrix of distances held at a time


@dataclass(frozen=True)
class FeatureDistances:
    """Of one generated set from one real set; the module's docstring has the definitions."""

    frechet_distance: float
    kernel_distance: float
    kernel_error: float
    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True, eq=False)
class SampleQuality:
    """Arrays (n_seeds, n_points); `real`: the other half of the real images in their place.

    Every field of `real` is what a perfect model would have on average at this number of images.
    A member that diverged has NaN.
    """

    feature_space: str
    of: Literal["samples", "reconstructions"]
    n_images: int
    neighbours: int
    real: FeatureDistances
    frechet_distance: Array
    kernel_distance: Array
    kernel_error: Array
    precision: Array
    recall: Array
    density: Array
    coverage: Array


def sample_quality(
    pictures: Pictures,
    space: FeatureSpace,
    *,
    of: Literal["samples", "reconstructions"] = "samples",
    neighbours: int = 5,
    seed: int = 0,
) -> SampleQuality:
    """Quality of every member: half as many images as `pictures` has, against one half of them.

    "samples": from the prior, with the conditions of the other half where there are any;
    "reconstructions": of the other half. ValueError where a half has no more than `neighbours`.
    """
    n = len(pictures.data) // 2
    order = np.random.default_rng(seed).permutation(2 * n)
    first, second = np.sort(order[:n]), np.sort(order[n:])
    real, other = (space.features(pictures.originals(half)) for half in (first, second))
    floor = compare_features(real, other, neighbours=neighbours)
    made: Iterable[Images] = (
        prior_samples(pictures, second, seed=seed)
        if of == "samples"
        else reconstructions(pictures, second)
    )
    features = np.concatenate([_features(space, images) for images in made], axis=2)
    members = [
        [compare_features(real, member, neighbours=neighbours) for member in row]
        for row in features
    ]
    found = {
        field.name: np.array([[getattr(member, field.name) for member in row] for row in members])
        for field in fields(FeatureDistances)
    }
    return SampleQuality(space.name, of, n, neighbours, floor, **found)


def compare_features(real: Array, generated: Array, *, neighbours: int = 5) -> FeatureDistances:
    """All distances of generated features (n, units) from real ones (n, units).

    NaN in all where a feature is not finite. Raises ValueError where the numbers of features are
    not equal, or no more than `neighbours`.
    """
    n = len(real)
    if real.shape != generated.shape:
        raise ValueError(
            f"real has shape {real.shape} and generated {generated.shape} in compare_features: "
            "they must be equal, every distance depends on the number; leave some out"
        )
    if not 1 <= neighbours < n or n < 4:
        raise ValueError(
            f"neighbours={neighbours} must be between 1 and n - 1 for n={n} images of each set, "
            "and n at least 4, in compare_features: take more images"
        )
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        return FeatureDistances(*[math.nan] * len(fields(FeatureDistances)))
    kernel, error = _kernel_distance(real, generated)
    shares = _neighbourhoods(real, generated, neighbours)
    return FeatureDistances(_frechet_distance(real, generated), kernel, error, *shares)


def _frechet_distance(real: Array, generated: Array) -> float:
    (m_x, X), (m_y, Y) = (_centred(features) for features in (real, generated))
    R_x, R_y = (qr(features, mode="economic")[1] for features in (X, Y))  # X'X = R_x'R_x
    spread = np.square(X).sum() + np.square(Y).sum() - 2 * svdvals(R_x @ R_y.T).sum()
    return float(np.square(m_x - m_y).sum() + max(spread, 0))  # rounding


def _centred(features: Array) -> tuple[Array, Array]:
    """Mean, and what is left over sqrt(n - 1)."""
    mean: Array = features.mean(axis=0)
    return mean, (features - mean) / math.sqrt(len(features) - 1)


def _kernel_distance(real: Array, generated: Array) -> tuple[float, float]:
    """U and its standard error."""
    n, units = real.shape

    def k(x: Array, y: Array) -> Array:
        return np.asarray((x @ y.T / units + 1) ** 3)

    across = k(real, generated)
    h = k(real, real) + k(generated, generated) - across - across.T
    np.fill_diagonal(h, 0)
    pairs, rows = n * (n - 1), h.sum(axis=1)
    total, from_rows, squares = h.sum(), np.square(rows).sum(), np.square(h).sum()
    square = (total**2 - 4 * from_rows + 2 * squares) / (pairs * (n - 2) * (n - 3))
    zeta_1 = (from_rows - squares) / (pairs * (n - 2)) - square
    zeta_2 = squares / pairs - square
    variance = (4 * (n - 2) * max(zeta_1, 0) + 2 * max(zeta_2, 0)) / pairs
    return float(total / pairs), math.sqrt(variance)


def _neighbourhoods(real: Array, generated: Array, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage."""
    around_real, around_generated = _radii(real, k), _radii(generated, k)
    n = len(real)
    holds, inside, known = 0, np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    covered = np.zeros(n, dtype=bool)
    for start in range(0, n, CHUNK):
        some = slice(start, start + CHUNK)
        distances = cdist(real[some], generated)
        balls = distances <= around_real[some, None]
        holds += int(balls.sum())
        inside |= balls.any(axis=0)
        covered[some] = balls.any(axis=1)
        known[some] = (distances <= around_generated).any(axis=1)
    return float(inside.mean()), float(known.mean()), holds / (k * n), float(covered.mean())


def _radii(features: Array, k: int) -> Array:
    """Distance of every row to its k-th neighbour among the others, (n,)."""
    parts = [
        np.partition(cdist(features[i : i + CHUNK], features), k, axis=1)[:, k]  # 0: itself
        for i in range(0, len(features), CHUNK)
    ]
    return np.concatenate(parts)


def _features(space: FeatureSpace, images: Images) -> Array:
    """(n_seeds, n_points, rows, H, W, C) -> (n_seeds, n_points, rows, units)."""
    members, rows = images.shape[:2], images.shape[2]
    return space.features(images.reshape(-1, *images.shape[3:])).reshape(*members, rows, -1)
