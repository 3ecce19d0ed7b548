"""What the latents still have to explain: the modes of the target, one scalar problem each.

Every linear model here minimises its objective mode by mode once the signal e = P v is known, the
part of the target y that the latents can and must carry (v = the joint vector (x, y)):

| model                         | signal e                    | Cov(e)                          |
|-------------------------------|-----------------------------|---------------------------------|
| VAE, encoder sees y           | y                           | Cov(y)                          |
| VAE, encoder sees x only      | R x = E_linear[y | x]       | Cov(y,x) Cov(x)^+ Cov(x,y)      |
| conditional (VAE, hierarchy)  | y - R x                     | Cov(y|x)                        |

| symbol    | field        | shape      | unit         |
|-----------|--------------|------------|--------------|
| theta_i^2 | variances    | (d,)       | data units^2 |
| Q         | basis        | (d, d)     | -            |
| Q^T P     | readout      | (d, dx + d)| -            |
| B         | condition_map| (d, dx)    | -            |
| -         | unexplained  | scalar     | data units^2 |

Cov(e) = Q diag(theta^2) Q^T; `unexplained` is the part of tr Cov(y) (or of tr Cov(y|x)) that no
latent can reach; B is what the decoder of a conditional model adds, B x. The scores Q^T P v of the
modes are uncorrelated with variances theta^2. Sources: Wang & Ziyin 2022, Prop. 1; Dang et al.
2024, Theorem 2 (E there).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, LinearSpec

__all__ = ["Modes", "mode_decomposition", "sees_condition_only"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Modes:
    """Eigen-decomposition of the signal that the latents explain; fields in the module's table."""

    variances: Array
    basis: Array
    readout: Array
    condition_map: Array
    unexplained: float


def sees_condition_only(spec: LinearSpec, moments: Moments) -> bool:
    """True for the general latent model: a VAESpec on moments with a condition."""
    conditional = isinstance(spec, (CVAESpec, HVAESpec))
    return moments.condition_dim > 0 and not conditional


def mode_decomposition(spec: LinearSpec, moments: Moments) -> Modes:
    """Modes of `spec` on `moments`, variances descending.

    Raises ValueError for a CVAESpec on moments without a condition.
    """
    if isinstance(spec, CVAESpec) and moments.condition_dim == 0:
        raise ValueError(
            "moments have condition_dim=0 but CVAESpec needs a condition: use "
            "Moments.from_data(target, condition), or VAESpec"
        )
    return _decompose(moments, sees_condition_only(spec, moments))


@lru_cache(maxsize=4)  # a sweep over beta decomposes once
def _decompose(moments: Moments, general: bool) -> Modes:
    d, dx = moments.target_dim, moments.condition_dim
    R = moments.regression
    covariance, unexplained, condition_map = moments.residual_covariance, 0.0, R
    # variances below the rounding of Cov(y) are exactly zero: they can never be called active
    # (10: three times the largest rounding seen in Cov(y|x), ill-conditioned conditions included)
    rounding = 10 * (dx + d) * np.finfo(np.float64).eps
    largest = float(np.diag(moments.target_covariance).max())
    if general:
        rest = float(np.trace(covariance))
        unexplained = rest if rest > d * rounding * largest else 0.0
        covariance, condition_map = moments.explained_covariance, np.zeros((d, dx))
    values, vectors = np.linalg.eigh(covariance)
    floor = rounding * max(float(values[-1]), largest)
    variances = np.where(values > floor, values, 0.0)[::-1].copy()
    Q = _fix_signs(vectors[:, ::-1])
    on_x, on_y = (Q.T @ R, np.zeros((d, d))) if general else (-Q.T @ R, Q.T)
    readout = np.concatenate([on_x, on_y], axis=1)
    return Modes(variances, Q, readout, condition_map, unexplained)


def _fix_signs(basis: Array) -> Array:
    """Make the largest entry of each column positive: the same answer on every machine."""
    largest = basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])]
    signed: Array = basis * np.where(largest < 0, -1.0, 1.0)
    return signed
