"""The largest eigenvalues of a symmetric matrix.

| symbol | what                              | shape  |
|--------|-----------------------------------|--------|
| A      | symmetric matrix                  | (d, d) |
| count  | how many, 1 to d                  | scalar |

Equality that a test checks: those of all eigenvalues, of random matrices with equal ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

__all__ = ["largest_eigenvalues"]

Array = npt.NDArray[np.float64]


def largest_eigenvalues(A: Array, count: int) -> tuple[Array, Array]:
    """Ascending, (count,), and their eigenvectors, (d, count).

    Asked for some only, LAPACK may return too few where many are equal, one such matrix in
    hundreds: then all are computed.
    """
    last = len(A) - 1
    values, vectors = eigh(A, subset_by_index=[last + 1 - count, last])
    if len(values) < count:
        values, vectors = (part[..., -count:] for part in np.linalg.eigh(A))
    return values, vectors
