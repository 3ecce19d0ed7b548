"""How many digits are left: ill-conditioned data, few samples, close eigenvalues, far means, scales.

References are mpmath at 60 digits, or constructions whose spectrum is exact. An error of a
covariance is relative to the largest entry, the size that rounding has; one of a threshold is
relative to the largest threshold, for the same reason, and to itself where that is said.
"""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch

from linvae import CVAESpec, HVAESpec, Moments, VAESpec, objective, solve, stability
from linvae.spec import ARVAESpec
from linvae.theory.marginal import log_likelihood

EPS = float(np.finfo(np.float64).eps)
DIGITS = 60


def exact_basis(dim: int) -> np.ndarray:
    """A symmetric orthogonal matrix with entries that are doubles: I - J/4, J of ones, in blocks.

    (I - 2 v v^T with v = (1, 1, ...)/sqrt(8), blocks of eight.)
    """
    block = np.eye(8) - np.full((8, 8), 0.25)
    return np.kron(np.eye(dim // 8), block)


def precise_eigenvalues(C: np.ndarray) -> np.ndarray:
    """Eigenvalues of these very doubles, descending."""
    with mpmath.workdps(DIGITS):
        values = mpmath.eigsy(mpmath.matrix(C.tolist()), eigvals_only=True)
        return np.array(sorted((float(v) for v in values), reverse=True))


def precise_conditional(C: np.ndarray, dx: int) -> np.ndarray:
    """Eigenvalues of Cov(y|x) of these very doubles, descending."""
    with mpmath.workdps(DIGITS):
        M = mpmath.matrix(C.tolist())
        n = len(C)
        A, B, D = M[:dx, :dx], M[:dx, dx:n], M[dx:n, dx:n]
        values = mpmath.eigsy(D - B.T * mpmath.lu_solve_mat(A, B), eigvals_only=True)
        return np.array(sorted((float(v) for v in values), reverse=True))
