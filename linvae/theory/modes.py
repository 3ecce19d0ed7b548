"""What the latents still have to explain: the modes of the target, one scalar problem each.

Every linear model here minimises its objective mode by mode once the signal e = P v is known, the
part of the target y that the latents can and must carry (v = the joint vector (x, y)):

| model                         | signal e                    | Cov(e)                          |
|-------------------------------|-----------------------------|---------------------------------|
| VAE, encoder sees y           | y                           | Cov(y)                          |
| VAE, encoder sees x only      | R x = E_linear[y|x]         | Cov(y,x) Cov(x)^+ Cov(x,y)      |
| conditional (VAE, hierarchy)  | y - R x                     | Cov(y|x)                        |
| autoregressive decoder        | (I - A) y, A regresses y_t  | Cov of the prediction errors;   |
|                               | on the coordinates it sees  | at full order diag(innovations) |

| symbol    | field        | shape      | unit         |
|-----------|--------------|------------|--------------|
| theta_i^2 | variances    | (d,)       | data units^2 |
| Q         | basis        | (d, d)     | -            |
| Q^T P     | readout      | (d, dx + d)| -            |
| B         | skip         | (d, dx + d)| -            |
| -         | unexplained  | scalar     | data units^2 |

Cov(e) = Q diag(theta^2) Q^T; `unexplained` is the part of tr Cov(y) (or of tr Cov(y|x)) that no
latent can reach; B v is what the decoder adds by itself, R x or A y. The scores Q^T P v of the
modes are uncorrelated with variances theta^2 (a test checks it). Sources: Wang & Ziyin 2022,
Prop. 1; Dang et al. 2024, Theorem 2 (E there); the autoregressive decoder is ours.

At full order the innovation variances are the modes because no unit lower triangular I - A can
push the spectrum of the prediction errors below them (log-majorisation); with latent_dim below the
number of active ones, or at a lower order, the best A is not the regression and is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, LinearSpec
from linvae.theory.arguments import in_doubles
from linvae.theory.solution import rounding_of

__all__ = [
    "Modes",
    "autoregression",
    "mode_decomposition",
    "require_condition",
    "sees_condition_only",
]

Array = npt.NDArray[np.float64]
WELL_CONDITIONED = 1e-8  # smallest innovation over the largest variance: no ridge is needed
RIDGE = 1e-12  # of the largest variance: coefficients below 1e4, innovations off by less than 1e-5


@dataclass(frozen=True, eq=False)
class Modes:
    """Eigen-decomposition of the signal that the latents explain; fields in the module's table."""

    variances: Array
    basis: Array
    readout: Array
    skip: Array
    unexplained: float


def sees_condition_only(spec: LinearSpec, moments: Moments) -> bool:
    """True for the general latent model: a VAESpec on moments with a condition."""
    conditional = isinstance(spec, (CVAESpec, HVAESpec))
    return moments.condition_dim > 0 and not conditional


def require_condition(moments: Moments) -> None:
    """ValueError for a CVAESpec on moments without a condition."""
    if moments.condition_dim == 0:
        raise ValueError(
            "moments have condition_dim=0 but CVAESpec needs a condition: use "
            "Moments.from_data(target, condition), or VAESpec"
        )


@in_doubles
def mode_decomposition(spec: LinearSpec, moments: Moments) -> Modes:
    """Modes of `spec` on `moments`, variances descending.

    Raises ValueError for a CVAESpec on moments without a condition, an ARVAESpec on moments with.
    Equality that a test checks: readout C readout^T = diag(variances).
    """
    if isinstance(spec, ARVAESpec):
        return _autoregressive_modes(spec, moments)
    if isinstance(spec, CVAESpec):
        require_condition(moments)
    return _decompose(moments, sees_condition_only(spec, moments))


@lru_cache(maxsize=4)  # a sweep over beta decomposes once
def _decompose(moments: Moments, general: bool) -> Modes:
    d, dx = moments.target_dim, moments.condition_dim
    R = moments.regression
    covariance, unexplained = moments.residual_covariance, 0.0
    skip = np.concatenate([R, np.zeros((d, d))], axis=1)
    # variances below the rounding of Cov(y) are exactly zero: they can never be called active
    rounding = rounding_of(dx + d)
    largest = float(np.diag(moments.target_covariance).max())
    if general:
        rest = float(np.trace(covariance))
        unexplained = rest if rest > d * rounding * largest else 0.0
        covariance, skip = moments.explained_covariance, np.zeros((d, dx + d))
    values, vectors = np.linalg.eigh(covariance)
    floor = rounding * max(float(values[-1]), largest)
    variances = np.where(values > floor, values, 0.0)[::-1].copy()
    Q = _fix_signs(vectors[:, ::-1])
    on_x, on_y = (Q.T @ R, np.zeros((d, d))) if general else (-Q.T @ R, Q.T)
    readout = np.concatenate([on_x, on_y], axis=1)
    return Modes(variances, Q, readout, skip, unexplained)


def autoregression(spec: ARVAESpec, moments: Moments) -> tuple[Array, Array]:
    """A (d, d), the regression of every y_t on what it sees, and the covariance of the errors.

    At full order the errors are the innovations y_t - E[y_t | y_<t], with variances the squared
    diagonal of the Cholesky factor. Raises ValueError for moments with a condition. Equality that a
    test checks: the covariance of the errors is (I - A) C (I - A)^T.
    """
    if moments.condition_dim > 0:
        raise ValueError(
            f"moments have condition_dim={moments.condition_dim} but ARVAESpec takes no condition: "
            "use the moments of the target alone"
        )
    C, d = moments.covariance, moments.target_dim
    seen = spec.seen(d)
    if spec.is_full(d):
        innovations = _innovations(C)
        return _on_the_past(C, innovations), np.diag(innovations)
    A = np.zeros((d, d))
    rows: dict[tuple[int, ...], list[int]] = {}  # blocks of coordinates see the same
    for t, columns in enumerate(seen):
        rows.setdefault(tuple(columns), []).append(t)
    for index, block in rows.items():
        inverse = np.linalg.pinv(C[np.ix_(index, index)], hermitian=True)
        A[np.ix_(block, index)] = (inverse @ C[np.ix_(index, block)]).T
    errors = (np.eye(d) - A) @ C @ (np.eye(d) - A).T
    return A, (errors + errors.T) / 2


def _innovations(C: Array) -> Array:
    """Var(y_t | y_<t): squared diagonal of the triangular factor, from orthogonal transforms only.

    Elimination would divide by pivots that are rounding; smooth signals have many of those.
    """
    values, vectors = np.linalg.eigh(C)
    root = np.linalg.qr((vectors * np.sqrt(np.maximum(values, 0.0))).T, mode="r")
    variances = np.diag(root) ** 2
    floor = rounding_of(len(C)) * float(np.diag(C).max())
    return np.asarray(np.where(variances > floor, variances, 0.0))


def _on_the_past(C: Array, innovations: Array) -> Array:
    """Strictly lower triangular A: y_t regressed on all before; a ridge where C is singular."""
    largest = float(np.diag(C).max())
    ridge = 0.0 if innovations.min() > WELL_CONDITIONED * largest else RIDGE * largest
    lower = np.linalg.cholesky(C + ridge * np.eye(len(C)))
    unit = lower / np.diag(lower)
    inverse = solve_triangular(unit, np.eye(len(C)), lower=True)
    return np.asarray(np.eye(len(C)) - inverse)


def _autoregressive_modes(spec: ARVAESpec, moments: Moments) -> Modes:
    A, errors = autoregression(spec, moments)
    variances, Q = np.diag(errors), np.eye(len(errors))
    if not spec.is_full(len(errors)):
        values, Q = np.linalg.eigh(errors)
        floor = rounding_of(len(errors)) * float(variances.max())
        variances = np.where(values > floor, values, 0.0)
    order = np.argsort(-variances, kind="stable")
    Q = _fix_signs(Q[:, order])
    return Modes(variances[order], Q, Q.T @ (np.eye(len(A)) - A), A, 0.0)


def _fix_signs(basis: Array) -> Array:
    """Make the largest entry of each column positive: the same answer on every machine."""
    largest = basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])]
    signed: Array = basis * np.where(largest < 0, -1.0, 1.0)
    return signed
