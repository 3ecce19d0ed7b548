"""Data whose spread depends on the condition, in a known way: size, direction, and mean.

With phi uniform on the circle and independent standard normal a, e_j,

    x = (cos phi, sin phi)                                                    condition
    y = m(phi) + sqrt(lambda(phi) - v) a u(phi) + sqrt(v) e                   target

    lambda(phi) = lowest + (highest - lowest) (1 + cos phi)/2                 top variance
    u(phi)      = (cos t phi, sin t phi, 0 ... 0)                             its direction
    m(phi)      = (0 ... 0, b cos 2 phi)                                      mean

so that Cov(y|x) = v I + (lambda - v) u u^T, normal at every x, and no linear regression on x
explains anything of y.

| symbol | argument        | meaning                                | shape  | unit         |
|--------|-----------------|----------------------------------------|--------|--------------|
| lambda | lowest, highest | range of the top variance, at least v  | scalar | data units^2 |
| v      | noise           | variance of every other direction      | scalar | data units^2 |
| t      | turns           | of the direction, while phi turns once | scalar | -            |
| b      | bend            | amplitude of the mean                  | scalar | data units   |
| d      | target_dim      | coordinates of y, at least 2           | scalar | -            |
| phi    | angles          | what x stands for                      | (m,)   | radians      |

The mean of Cov(y|x) over x has the top eigenvalue v + (mean lambda - v)/2 with t >= 1, and mean
lambda with t = 0: a turning direction alone makes it half of lambda.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dataset import Dataset

__all__ = ["Heteroscedastic"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Heteroscedastic:
    """The model of the module's text; ValueError for numbers outside of its table."""

    lowest: float
    highest: float
    noise: float = 0.1
    turns: int = 1
    bend: float = 0.0
    target_dim: int = 3

    def __post_init__(self) -> None:
        """Refuse what is no such model."""
        where = type(self).__name__
        if not 0 <= self.noise <= self.lowest <= self.highest < math.inf or self.highest == 0:
            raise ValueError(
                f"noise={self.noise}, lowest={self.lowest}, highest={self.highest} must be in "
                f"ascending order, finite and >= 0, the last > 0, in {where}"
            )
        for name, least in (("turns", 0), ("target_dim", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} must be an integer >= {least} in {where}")
        if not math.isfinite(self.bend):
            raise ValueError(f"bend={self.bend} must be finite in {where}")

    def top_variances(self, angles: ArrayLike) -> FloatArray:
        """lambda(phi), (m,)."""
        share = (1 + np.cos(np.asarray(angles, dtype=np.float64))) / 2
        return np.asarray(self.lowest + (self.highest - self.lowest) * share)

    def directions(self, angles: ArrayLike) -> FloatArray:
        """u(phi), (m, d)."""
        turned = self.turns * np.asarray(angles, dtype=np.float64)
        u = np.zeros((len(turned), self.target_dim))
        u[:, 0], u[:, 1] = np.cos(turned), np.sin(turned)
        return u

    def covariances(self, angles: ArrayLike) -> FloatArray:
        """Cov(y|x), (m, d, d)."""
        u, rise = self.directions(angles), self.top_variances(angles) - self.noise
        noise = self.noise * np.eye(self.target_dim)
        return np.asarray(noise + rise[:, None, None] * u[:, :, None] * u[:, None, :])

    def dataset(self, n_samples: int, *, seed: int) -> Dataset:
        """`n_samples` independent samples; target (n, d), condition (n, 2)."""
        rng = np.random.default_rng(seed)
        phi = rng.uniform(-np.pi, np.pi, n_samples)
        amplitude = np.sqrt(self.top_variances(phi) - self.noise) * rng.standard_normal(n_samples)
        target = amplitude[:, None] * self.directions(phi)
        target += np.sqrt(self.noise) * rng.standard_normal(target.shape)
        target[:, -1] += self.bend * np.cos(2 * phi)
        step = {"step": "heteroscedastic", "seed": seed} | asdict(self)
        return Dataset(
            name="heteroscedastic",
            target=target.astype(np.float32),
            condition=np.column_stack([np.cos(phi), np.sin(phi)]).astype(np.float32),
            preprocessing=(step,),
            note="synthetic, independent samples",
        )
