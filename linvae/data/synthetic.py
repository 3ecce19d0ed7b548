"""Gaussian data whose moments, and so the answer of every linear theory, are known in advance.

The model, for i = 1 ... d modes and independent standard normal s_i, e_j:

    y   = U Lambda^(1/2) s            target, Cov(y) = U Lambda U^T
    x_j = rho_j s_j + sqrt(1 - rho_j^2) e_j,   rho_j = 0 for j > d      condition, Cov(x) = I

so Cov(y, x) = U Lambda^(1/2) diag(rho) and
Cov(y | x) = U diag(lambda_i (1 - rho_i^2)) U^T.

| symbol   | argument      | meaning                                     | shape | unit         |
|----------|---------------|---------------------------------------------|-------|--------------|
| lambda_i | spectrum      | eigenvalues of Cov(y), any order            | (d,)  | data units^2 |
| rho_i    | correlation   | correlation of mode i with component i of x | (d,)  | -            |
| dx       | condition_dim | number of components of x                   | -     | -            |
| n        | n_samples     | number of samples                           | -     | -            |
| U        | from `seed`   | uniformly random orthogonal basis           | (d, d)| -            |

All means are zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dataset import Dataset

__all__ = ["gaussian"]

FloatArray = NDArray[np.float64]


def gaussian(
    spectrum: ArrayLike,
    n_samples: int,
    *,
    correlation: ArrayLike = 0.0,
    condition_dim: int | None = None,
    seed: int,
    exact: bool = True,
) -> Dataset:
    """Draw Gaussian data with a chosen spectrum (model: see the module's text).

    Parameters
    ----------
    spectrum : array-like, shape (d,)
        Eigenvalues of the target's covariance, not negative, at least one positive; in data
        units squared.
    n_samples : int
        Number of samples n.
    correlation : float or array-like, shape (d,), default=0.0
        Correlation rho_i in [-1, 1] of mode i of the target with component i of the condition,
        modes in the order of `spectrum`. A scalar holds for every mode that has a component.
    condition_dim : int, optional
        Number of condition components. None means d if any correlation differs from 0, and no
        condition otherwise. Components beyond d are noise; modes beyond it have rho_i = 0.
    seed : int
        Seed of the basis and of the draw.
    exact : bool, default=True
        Whiten the draw, so that the *sample* mean is zero and the 1/n sample covariance equals
        the one of the model, up to the rounding of float32. Samples are then not independent.
        False gives independent samples.

    Returns
    -------
    Dataset
        Named "gaussian"; target shape (n, d), condition shape (n, condition_dim) or None.

    Raises
    ------
    ValueError
        For a spectrum or correlations out of range, or, with exact=True, too few samples.
    """
    eigenvalues = _check_spectrum(spectrum)
    dim = len(eigenvalues)
    rho, condition_dim = _check_correlation(correlation, dim, condition_dim)
    rng = np.random.default_rng(seed)
    basis = _random_orthogonal(dim, rng)
    draw = _standard_normal(n_samples, dim + condition_dim, rng, exact=exact)
    modes, noise = draw[:, :dim], draw[:, dim:]
    target = (modes * np.sqrt(eigenvalues)) @ basis.T
    shared = np.zeros_like(noise)  # (n, dx), the part of x that is seen in y
    shared[:, : len(rho)] = modes[:, : len(rho)]
    weights = np.zeros(condition_dim)
    weights[: len(rho)] = rho
    condition = weights * shared + np.sqrt(1.0 - weights**2) * noise
    step = {
        "step": "gaussian",
        "spectrum": eigenvalues.tolist(),
        "correlation": rho.tolist(),
        "condition_dim": condition_dim,
        "seed": seed,
        "exact": exact,
    }
    return Dataset(
        name="gaussian",
        target=target.astype(np.float32),
        condition=condition.astype(np.float32) if condition_dim else None,
        preprocessing=(step,),
        note="synthetic, sample moments exact" if exact else "synthetic, independent samples",
    )


def _check_spectrum(spectrum: ArrayLike) -> FloatArray:
    eigenvalues = np.asarray(spectrum, dtype=np.float64)
    if eigenvalues.ndim != 1 or eigenvalues.size == 0:
        raise ValueError(
            f"spectrum has shape {eigenvalues.shape} and must be (d,) with d >= 1; give the "
            "eigenvalues as a flat list"
        )
    bad = eigenvalues[~(np.isfinite(eigenvalues) & (eigenvalues >= 0))]
    if bad.size or not eigenvalues.any():
        raise ValueError(
            f"spectrum holds {bad[0] if bad.size else 'only zeros'}; eigenvalues of a covariance "
            "must be finite and >= 0, and at least one > 0"
        )
    return eigenvalues


def _check_correlation(
    correlation: ArrayLike, dim: int, condition_dim: int | None
) -> tuple[FloatArray, int]:
    """Return rho of the modes that have a condition component, and the number of components."""
    rho = np.asarray(correlation, dtype=np.float64)
    if rho.shape not in ((), (dim,)):
        raise ValueError(
            f"correlation has shape {rho.shape} and must be a number or have shape ({dim},), one "
            "entry per eigenvalue of spectrum"
        )
    if not np.all(np.abs(rho) <= 1):  # also catches NaN
        raise ValueError(f"correlation={correlation!r} must lie between -1 and 1")
    if condition_dim is None:
        condition_dim = dim if rho.any() else 0
    if condition_dim < 0:
        raise ValueError(f"condition_dim={condition_dim} must be >= 0, or None")
    paired = min(dim, condition_dim)
    per_mode = np.broadcast_to(rho, (dim,))
    # A scalar is cut off at the last component; explicit entries must not be dropped silently.
    dropped = per_mode[paired:] if rho.ndim or not paired else per_mode[:0]
    if dropped.any():
        raise ValueError(
            f"condition_dim={condition_dim} leaves modes with a correlation without a condition "
            f"component, and must be at least 1 + the last correlated mode, at most {dim}; set "
            "their correlation to 0 or leave condition_dim out"
        )
    return per_mode[:paired].copy(), condition_dim


def _random_orthogonal(dim: int, rng: np.random.Generator) -> FloatArray:
    """Uniformly distributed orthogonal matrix, shape (dim, dim)."""
    q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
    # QR alone favours some signs; making the diagonal of R positive removes that.
    orthogonal: FloatArray = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return orthogonal


def _standard_normal(
    n_samples: int, dim: int, rng: np.random.Generator, *, exact: bool
) -> FloatArray:
    """Draw (n, dim) standard normal; exact: zero mean and unit 1/n covariance of the sample."""
    minimum = dim + 1 if exact else 2
    if n_samples < minimum:
        raise ValueError(
            f"n_samples={n_samples} must be at least {minimum} for {dim} dimensions of target and "
            f"condition together with exact={exact}; draw more samples"
            + (" or pass exact=False" if exact else "")
        )
    draw = rng.standard_normal((n_samples, dim))
    if not exact:
        return draw
    # Columns of Q are orthonormal and orthogonal to the constant vector, as the centred draw is.
    q, _ = np.linalg.qr(draw - draw.mean(axis=0))
    return np.asarray(q * np.sqrt(n_samples))
