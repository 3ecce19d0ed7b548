"""The law of a nonlinear VAE's threshold just above the linear one: skewness against kurtosis.

The model is that of `linvae.theory.gaussian_encoder`: any encoder N(mu(y), v(y)), any decoder. Let
t be the score of the leading component with unit variance, skew = E[t^3], kurt = E[t^4], e_j the
scores of the other components with unit variance, rho_j = lambda_j/lambda_1 < 1 their relative
eigenvalues and b_j = E[t^2 e_j].

At the linear threshold two perturbations of the collapsed encoder become critical together: one of
the mean, mu = a t, and one of the variance, v = 1 + g t. With everything else at its best response,
the gain over collapse at beta = (1 + h) lambda_1/s is, in units of lambda_1/s and to fourth order,

    -(h/2) (a^2 + g^2/2) + skew (a^2 g/2 + g^3/6) - Q(a, g)

    Q = a^4/4 + (5 - kurt) (a^2 g^2/2 + g^4/8)
        - sum_j b_j^2 [ rho_j (a^4/4 + 3 a^2 g^2/4 + 3 g^4/16) + a^2 g^2 rho_j/(2 (1 - rho_j))
                        + ((rho_j a^2 + g^2)^2/(1 - rho_j) - g^4)/4 ]

(terms of order skew^2 in Q are of higher order in the result and left out). The cubic term makes
the transition one of first order: alive optima win up to a shift h, largest over the directions
a^2 = 1 - u, g^2 = 2 u, 0 <= u <= 1:

    h = skew^2 max_u C(u)^2/(2 Q(u)),   C^2 = u (3 - u)^2/18,   R = skew^2 C^2/(8 Q^2) nats

With one component u = 1 is the maximum for kurt >= 3 (below it, within 1 %):

    **h = (2/9) skew^2/(5 - kurt)**,   R = skew^2/(9 (5 - kurt)^2)

so the competitor at the threshold codes in its variance, v = 1 + g t, and not in its mean. At
kurt = 5 and above, skewed or not, Q is no longer positive: the transition is of first order by the
kurtosis alone, the jump is not small, and no such law holds; the same where the b_j are large.
(The universal threshold of a law without skewness moves as soon as kurt > 3.)

| symbol      | argument or result | shape  | unit |
|-------------|--------------------|--------|------|
| skew        | skewness           | scalar | -    |
| kurt        | kurtosis           | scalar | -, 3 for a Gaussian |
| rho_j       | variance_ratios    | (m,)   | -    |
| b_j         | couplings          | (m,)   | -    |
| h           | shift              | scalar | -, threshold / linear threshold - 1 |
| R           | information        | scalar | nats |

Source: ours. Equality that a test checks: for weakly skewed laws the numerical threshold tends to
it, with an error of fourth order in the skewness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linvae.moments import doubles
from linvae.theory.arguments import in_doubles

__all__ = ["SkewnessShift", "skewness_shift", "skewness_shift_of"]

Array = npt.NDArray[np.float64]
SHARES: Array = np.linspace(0.0, 1.0, 2001)  # u; the maximum is flat
RANK = 1e-10  # relative variance below which a component is none


@dataclass(frozen=True, eq=False)
class SkewnessShift:
    """The law's prediction; fields in the module's table.

    `shift` and `information` are NaN where Q is not positive for every u: no law of small shifts.
    Equality that a test checks: one component, kurtosis 3: shift = skewness^2/9.
    """

    shift: float
    information: float
    skewness: float
    kurtosis: float
    variance_ratios: Array
    couplings: Array


@in_doubles
def skewness_shift_of(target: npt.ArrayLike) -> SkewnessShift:
    """The law for samples `target`, (n, d) or (n,), all components of them.

    Raises ValueError for a target of another shape, not finite, without variance, or with two equal
    leading eigenvalues (then a whole plane becomes critical). Equality that a test checks: the
    fields are the moments of the principal scores.
    """
    y = doubles("target", target)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or len(y) < 2 or not y.size or not np.isfinite(y).all():
        raise ValueError(
            f"target has shape {y.shape} but must be (samples, dimensions) or (samples,), finite, "
            "with at least 2 samples"
        )
    y = y - y.mean(axis=0)
    values, vectors = np.linalg.eigh(y.T @ y / len(y))
    values, vectors = values[::-1], vectors[:, ::-1]
    if not values[0] > 0:
        raise ValueError("target has zero variance: there is nothing to explain")
    kept = values > RANK * values[0]
    scores = y @ vectors[:, kept] / np.sqrt(values[kept])
    square = scores[:, 0] ** 2
    moments = scores.T @ square / len(y)
    kurtosis = float(np.mean(square**2))
    return skewness_shift(float(moments[0]), kurtosis, values[kept][1:] / values[0], moments[1:])


@in_doubles
def skewness_shift(
    skewness: float,
    kurtosis: float,
    variance_ratios: npt.ArrayLike = (),
    couplings: npt.ArrayLike = (),
) -> SkewnessShift:
    """The law for these moments; symbols, shapes and units in the module's table.

    Raises ValueError for a kurtosis below skewness^2 + 1, which no law has, and for variance ratios
    outside (0, 1) or not one per coupling. Equality that a test checks: two sample moments.
    """
    rho = np.atleast_1d(doubles("variance_ratios", variance_ratios))
    b = np.atleast_1d(doubles("couplings", couplings))
    _check(skewness, kurtosis, rho, b)
    cubic = SHARES * (3 - SHARES) ** 2 / 18
    quartic = _quartic(kurtosis, rho, b)
    shift = information = math.nan
    if np.all(quartic > 0):
        best = int(np.argmax(cubic / quartic))
        shift = skewness**2 * float(cubic[best] / quartic[best]) / 2
        information = skewness**2 * float(cubic[best] / quartic[best] ** 2) / 8
    return SkewnessShift(shift, information, skewness, kurtosis, rho, b)


def _quartic(kurtosis: float, rho: Array, b: Array) -> Array:
    """Q at a^2 = 1 - u, g^2 = 2 u for every u of `SHARES`."""
    g2, a2 = 2 * SHARES, 1 - SHARES
    single = a2**2 / 4 + a2 * g2 / 2 * (5 - kurtosis) + g2**2 / 8 * (5 - kurtosis)
    a2, g2, rho = a2[:, None], g2[:, None], rho[None]
    others = rho * (a2**2 / 4 + 3 * a2 * g2 / 4 + 3 * g2**2 / 16)
    others = others + a2 * g2 * rho / (2 * (1 - rho))
    others = others + ((rho * a2 + g2) ** 2 / (1 - rho) - g2**2) / 4
    total: Array = single - others @ b**2
    return total


def _check(skewness: float, kurtosis: float, rho: Array, b: Array) -> None:
    if not kurtosis >= (1 + skewness**2) * (1 - 1e-9):
        raise ValueError(
            f"kurtosis={kurtosis} with skewness={skewness}: no law has one below skewness^2 + 1; "
            "it is E[t^4]/E[t^2]^2, 3 for a Gaussian, not the excess over that"
        )
    if rho.shape != b.shape:
        raise ValueError(
            f"variance_ratios has shape {rho.shape} but couplings {b.shape}: one for each component"
        )
    if not np.all((rho > 0) & (rho < 1)):
        raise ValueError(
            "variance_ratios must be above 0 and below 1: with two equal leading eigenvalues a "
            "whole plane becomes critical, and gaussian_encoder_threshold(target) answers instead"
        )
