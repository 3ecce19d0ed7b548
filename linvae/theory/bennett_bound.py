"""A rigorous upper bound of the sub-Gaussian variance proxy of a sample.

    V = sup_t 2 K(t)/|t|^2,   K(t) = log mean_i exp(t.x_i),   x centred

With lambda the top eigenvalue of the covariance of x, R the largest norm and r = |t|, Bennett's
inequality bounds K by that of a two-point law with variance lambda and largest value R,

    K(t) <= log( (1 - p) exp(-r lambda/R) + p exp(r R) ),   p = lambda/(lambda + R^2)
    V <= (R^2 - lambda^2/R^2) / (2 log(R^2/lambda)),

exact for two points. The norms R_i of all samples sharpen it: z_i = t.x_i + r alpha with
alpha = lambda/R is at most r (R_i + alpha), and exp(z) <= 1 + z + phi(r (R_i + alpha)) z^2 below
that, phi(z) = (e^z - 1 - z)/z^2 being increasing, so

    K(t) <= log(1 + r alpha + mean_i phi_i z_i^2) - r alpha,

a quadratic form in t, at most its top eigenvalue. With equal norms this is Bennett's bound.

| symbol | argument | shape  | unit, with x in data units |
|--------|----------|--------|----------------------------|
| x      | x        | (n, k) | data units                 |
| lambda | largest  | scalar | data units^2               |
| R_i    | norms    | (n,)   | data units                 |
| r      | r        | scalar | 1/data units               |
| V      | result   | scalar | data units^2               |

Sources: Bennett 1962; the bound by all norms is ours. Equality that a test checks: for two points
the bound is V = (1 - 2p)/(2 log((1 - p)/p)) itself.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from linvae.theory.eigenvalues import largest_eigenvalues

__all__ = ["variance_proxy_bound"]

Array = npt.NDArray[np.float64]


def variance_proxy_bound(x: Array, largest: float) -> float:
    """A bound of V for the rows of x, centred, whose covariance has top eigenvalue `largest` > 0.

    Upper bounds B_k of K on the spheres |t| = r_k give one in between, as K is convex on rays: the
    chord. Bennett's bound serves first, and is replaced by that of all norms where the supremum
    sits, until there is nothing left to replace. Below r_0 the inequality
    e^z <= 1 + z + phi(r R) z^2 is close, above r_max 2 K/|t|^2 <= 2 R/r_max = lambda. Nothing is
    checked here. Equality that a test checks: two points have their own proxy.
    """
    norms = np.linalg.norm(x, axis=1)
    R = float(norms.max())
    q = R**2 / largest
    closed = largest * ((q - 1 / q) / (2 * math.log(q)) if q > 1 + 1e-9 else 1.0)
    low, high = 0.03 / math.sqrt(largest), 2 * R / largest
    r = np.geomspace(low, high, 2 + int(math.log(high / low) / 0.2))
    p = 1 / (1 + q)  # the two-point law with variance lambda and largest value R
    B = np.logaddexp(np.log1p(-p) - r * largest / R, math.log(p) + r * R)
    fresh = np.ones(len(r), dtype=bool)
    start = 2 * float(_phi(np.array(low * R))) * largest  # phi >= 1/2: not below the largest
    while True:
        bounds = _chord_bounds(r, B)
        worst = int(bounds.argmax())
        ends = [k for k in (worst, worst + 1) if fresh[k]]
        if not ends or bounds[worst] <= start:
            return min(closed, max(float(bounds[worst]), start))
        for k in ends:
            B[k] = min(B[k], _norms_bound(x, norms, float(r[k]), largest / R))
            fresh[k] = False


def _chord_bounds(r: Array, B: Array) -> Array:
    """Largest 2 (a + b r)/r^2 on each interval of the grid, with the chord a + b r through B."""
    # K/r rises with r, so B/r may be made to: then a <= 0 < b, and the summit is at -2a/b
    B = r * np.minimum.accumulate((B / r)[::-1])[::-1]
    b = np.diff(B) / np.diff(r)
    a = B[:-1] - b * r[:-1]
    summit = np.clip(-2 * a / b, r[:-1], r[1:])
    bounds: Array = 2 * (a + b * summit) / summit**2
    return bounds


def _norms_bound(x: Array, norms: Array, r: float, alpha: float) -> float:
    """Bound of K on |t| = r by the norms of all samples."""
    f = _phi(r * (norms + alpha))
    weighted = x * np.sqrt(f / len(x))[:, None]
    side = weighted.T @ weighted if x.shape[1] <= len(x) else weighted @ weighted.T
    top = float(largest_eigenvalues(side, 1)[0][0])
    v = float(np.linalg.norm(f @ x)) / len(x)
    quadratic = top + 2 * alpha * v + alpha**2 * float(f.mean())
    return math.log1p(r * alpha + r**2 * quadratic) - r * alpha


def _phi(z: Array) -> Array:
    """(e^z - 1 - z)/z^2, increasing; 1/2 at 0."""
    z = np.maximum(z, 1e-4)  # phi is 1/2 + z/6 there: rounded up
    values: Array = (np.expm1(z) - z) / z**2
    return values
