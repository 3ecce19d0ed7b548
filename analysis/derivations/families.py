"""Exponential-family decoders: local stability of the collapsed point.

    p(y|z) = exp(y . eta(z) - A(eta(z))) (times a function of y),  eta(z) = b + U z
    q(z|y) = N(W (y - mean), v),  p(z) = N(0, prior variance)

Two coordinates (multinomial: two of three categories free), one unit. Data: any law with mean m
and covariance C; only these enter F to second order in the weights. At the collapsed point
grad A(b) = m, and the Hessian is singular where det(C - beta Fisher) = 0, Fisher = Hessian of A.
Bernoulli: Fisher = diag p(1-p), so for binary data the eigenvalues of the correlation matrix;
Poisson: diag(mean); multinomial of n counts: n (diag p - p p^T); Gaussian, natural parameter
mean/s: s I. Source: ours; log-partition functions are textbook.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from analysis.derivations.steps import (
    Derivation,
    beta,
    e,
    eta,
    expectation,
    log_normal,
    s,
    v,
)

__all__ = ["derive", "objective", "partition"]

u1, u2, w1, w2, b1, b2, y1, y2, c12 = sp.symbols("u1 u2 w1 w2 b1 b2 y1 y2 c12", real=True)
c11, c22, m1, m2, n = sp.symbols("c11 c22 m1 m2 n", positive=True)
A11, A12, A22 = sp.symbols("A11 A12 A22", real=True)  # Hessian of A, replaced at the end
MOMENTS = {y1: c11, y2: c22, (y1, y2): c12}  # of y - mean
C = sp.Matrix([[c11, c12], [c12, c22]])
WEIGHTS = (u1, u2, w1, w2)
Objective = Callable[[str], sp.Expr]


def partition(family: str, x1: sp.Expr, x2: sp.Expr) -> sp.Expr:
    """Log-partition function A of two natural parameters."""
    if family == "bernoulli":
        return sp.log(1 + sp.exp(x1)) + sp.log(1 + sp.exp(x2))
    if family == "poisson":
        return sp.exp(x1) + sp.exp(x2)
    if family == "multinomial":  # third category: natural parameter 0
        return n * sp.log(1 + sp.exp(x1) + sp.exp(x2))
    return s * (x1**2 + x2**2) / 2  # gaussian, natural parameter mean/s


def natural_mean(family: str) -> dict[sp.Symbol, sp.Expr]:
    """b that gives the mean (m1, m2): the inverse of grad A, checked in `derive`."""
    if family == "bernoulli":
        return {b1: sp.log(m1 / (1 - m1)), b2: sp.log(m2 / (1 - m2))}
    if family == "poisson":
        return {b1: sp.log(m1), b2: sp.log(m2)}
    if family == "multinomial":
        return {b: sp.log(m / (n - m1 - m2)) for b, m in ((b1, m1), (b2, m2))}
    return {b1: m1 / s, b2: m2 / s}


def objective(family: str) -> sp.Expr:
    """F to second order in the weights, from the densities (base measure of y left out).

    A(b + U z) is its Taylor polynomial in U z before the expectation over z = W (y - mean) +
    noise: to second order in the weights only E z^2 and E y z are needed, and those are exact.
    """
    mean = w1 * y1 + w2 * y2  # y stands for y - mean here
    z = mean + sp.sqrt(v) * e
    shift = sp.Matrix([u1 * z, u2 * z])
    first, second = sp.Matrix(sp.symbols("A1 A2")), sp.Matrix([[A11, A12], [A12, A22]])
    A = partition(family, b1, b2) + first.dot(shift) + (shift.T * second * shift)[0] / 2
    distortion = A - (y1 + m1) * (b1 + u1 * z) - (y2 + m2) * (b2 + u2 * z)
    rate = log_normal(z, mean, v) - log_normal(z, sp.Integer(0), eta**2)
    F = expectation(distortion + beta * rate, MOMENTS | {e: 1})
    return F.subs(_derivatives(family))


def _derivatives(family: str) -> dict[sp.Symbol, sp.Expr]:
    """Second derivatives of A at b; the first ones drop out, as E z = 0."""
    H = sp.hessian(partition(family, b1, b2), (b1, b2)).applyfunc(sp.factor)
    return {A11: H[0, 0], A12: H[0, 1], A22: H[1, 1]}


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective` of every family."""
    d = Derivation("Exponential-family decoders", "ours")
    for family in ("gaussian", "bernoulli", "poisson", "multinomial"):
        F = d.show(f"{family}: objective to second order, F =", objective(family))
        _stability(d, family, F)
    _binary_data(d)
    _multinomial_data(d)
    return d


def _stability(d: Derivation, family: str, F: sp.Expr) -> None:
    point = dict.fromkeys(WEIGHTS, 0)
    slopes = [sp.diff(F.subs(point), b) for b in (b1, b2)]
    values = natural_mean(family)
    d.equal("no weights: dF/db = grad A(b) - mean is 0 at the fitted b",
            sp.Matrix([sp.cancel(x.subs(values)) for x in slopes]), sp.zeros(2, 1))  # fmt: skip
    fisher = sp.hessian(F.subs(point), (b1, b2)).subs(values).applyfunc(sp.cancel)
    claimed = _claimed_fisher(family)
    d.equal("Fisher information of b", fisher, claimed)
    H = sp.hessian(F, WEIGHTS).subs(point | {v: eta**2}).subs(values).applyfunc(sp.cancel)
    d.equal("Hessian, decoder weights: eta^2 Fisher", H[:2, :2], eta**2 * claimed)
    d.equal("decoder with encoder: -C", H[:2, 2:], -C)
    d.equal("encoder weights: beta C/eta^2", H[2:, 2:], beta * C / eta**2)
    d.equal("the gradient in the weights is 0 whatever b: b is separate",
            sp.Matrix([sp.diff(F, x).subs(point) for x in WEIGHTS]), sp.zeros(4, 1))  # fmt: skip
    U, W, coupling = H[:2, :2], H[2:, 2:], H[:2, 2:]
    schur = W - coupling.T * U.inv() * coupling
    expected = C * (beta * sp.eye(2) - claimed.inv() * C) / eta**2
    d.equal("Schur complement of the encoder weights minus C (beta - Fisher^-1 C)/eta^2",
            (schur - expected).applyfunc(sp.cancel), sp.zeros(2, 2))  # fmt: skip
    d.results[f"fisher_{family}"] = claimed
    pencil = d.show("singular at the generalised eigenvalues beta of (C, Fisher), roots of",
                    sp.factor((beta * claimed - C).det()))  # fmt: skip
    d.results[f"characteristic_{family}"] = pencil


def _claimed_fisher(family: str) -> sp.Matrix:
    p = sp.Matrix([m1, m2]) / n
    return {
        "gaussian": sp.eye(2) * s,
        "bernoulli": sp.diag(m1 * (1 - m1), m2 * (1 - m2)),
        "poisson": sp.diag(m1, m2),
        "multinomial": n * (sp.diag(*p) - p * p.T),
    }[family]


def _binary_data(d: Derivation) -> None:
    """Binary y: C has the variances p (1 - p) of the decoder itself."""
    r = sp.Symbol("r", real=True)  # correlation
    V1, V2 = m1 * (1 - m1), m2 * (1 - m2)
    binary = sp.Matrix([[V1, r * sp.sqrt(V1 * V2)], [r * sp.sqrt(V1 * V2), V2]])
    pencil = sp.cancel((beta * _claimed_fisher("bernoulli") - binary).det() / (V1 * V2))
    d.equal("binary data with correlation r: characteristic polynomial of the correlation matrix",
            pencil, (beta - 1 - r) * (beta - 1 + r))  # fmt: skip


def _multinomial_data(d: Derivation) -> None:
    """Counts drawn from one fixed p have C = Fisher: nothing to explain, every threshold is 1."""
    fisher = _claimed_fisher("multinomial")
    d.equal("counts that are multinomial themselves: det(beta Fisher - Fisher)",
            sp.cancel((beta * fisher - fisher).det() / fisher.det()), (beta - 1) ** 2)  # fmt: skip
