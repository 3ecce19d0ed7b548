"""Autoregressive decoder of two binary tokens: critical beta from its residuals.

    p(y1|z) = sigmoid(a1 + b1 z),  p(y2|y1, z) = sigmoid(a_y1 + b_y1 z),  q(z|y) = N(m_y, v)

Data: P(y1 = 1) = p, P(y2 = 1|y1) = g0 or g1. Collapsed, the decoder predicts q1 and q20, q21, of
any model. F is the objective to second order in (b, m), one encoder mean for each of the four
sequences. The Schur complement of the m in its Hessian is eta^2 (E F - E S S^T/beta), S = b.r the
scores, F their information. True conditionals: both are equal, beta = 1 is critical along every
b. Without reach: 1 + |correlation|; an urn: 1 + rho. A decoder that is wrong has expected scores,
and the ratio is that of second moments. Source: ours; the equality of the two informations is
White's (1982).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import sympy as sp

from analysis.derivations.steps import (
    Derivation,
    beta,
    e,
    eta,
    expectation,
    gap,
    gradient_at,
    log_normal,
    v,
)

__all__ = ["derive", "objective"]

p, g0, g1, q1, q20, q21 = sp.symbols("p g0 g1 q1 q20 q21", positive=True)
b1, b20, b21, b = sp.symbols("b1 b20 b21 b", real=True)
alpha, others = sp.symbols("alpha others", positive=True)
PULLS = (b1, b20, b21)
PAIRS = tuple(product((0, 1), repeat=2))
MEANS = {y: sp.Symbol(f"m{y[0]}{y[1]}", real=True) for y in PAIRS}
TRUE = {q1: p, q20: g0, q21: g1}
NOTHING = dict.fromkeys((*PULLS, *MEANS.values()), 0) | {v: eta**2}
Objective = Callable[[], sp.Expr]


def probability(y: tuple[int, int]) -> sp.Expr:
    """Of a sequence in the data."""
    g = g1 if y[0] else g0
    return (p if y[0] else 1 - p) * (g if y[1] else 1 - g)


def predictions(y: tuple[int, int]) -> tuple[tuple[int, sp.Symbol, sp.Symbol], ...]:
    """Token, prediction and pull at both places."""
    return (y[0], q1, b1), (y[1], q21, b21) if y[0] else (y[1], q20, b20)


def objective() -> sp.Expr:
    """F from the densities; the log-partition function by its Taylor polynomial in b z.

    Second order in (b, m) needs no more, and log(1 + exp(a)) has the derivatives q and q (1 - q).
    """
    F = sp.Integer(0)
    for y, mean in MEANS.items():
        z = mean + sp.sqrt(v) * e
        distortion = sum(
            -sp.log(1 - q) + q * pull * z + q * (1 - q) * (pull * z) ** 2 / 2
            - token * (sp.log(q / (1 - q)) + pull * z)
            for token, q, pull in predictions(y)
        )  # fmt: skip
        rate = log_normal(z, mean, v) - log_normal(z, sp.Integer(0), eta**2)
        F += probability(y) * expectation(distortion + beta * rate, {e: 1})
    return F


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective`."""
    d = Derivation("Autoregressive decoder of tokens", "ours")
    F = d.show("objective, to second order in pulls and encoder means", objective())
    _partition(d)
    H = _hessian(d, F)
    scores, information = _statistics(d)
    schur = (H[:3, :3] - H[:3, 3:] * H[3:, 3:].inv() * H[3:, :3]).applyfunc(sp.factor)
    d.equal("pulls with the best encoder means: eta^2 (E F - E S S^T / beta)", schur,
            eta**2 * (information - scores / beta))  # fmt: skip
    _true_conditionals(d, schur, scores, information)
    _without_reach(d, scores, information)
    _bursts(d, scores, information)
    _expected_scores(d, scores, information)
    return d


def _partition(d: Derivation) -> None:
    x = sp.Symbol("x", real=True)
    log_partition = sp.log(1 + sp.exp(x))
    at = {x: sp.log(q1 / (1 - q1))}
    d.equal("log(1 + exp(a)) there: -log(1 - q)", sp.exp(log_partition.subs(at)), 1 / (1 - q1))
    d.equal("its derivative: q", sp.simplify(sp.diff(log_partition, x).subs(at)), q1)
    d.equal("its second derivative: q (1 - q)", sp.simplify(sp.diff(log_partition, x, 2).subs(at)),
            q1 * (1 - q1))  # fmt: skip


def _hessian(d: Derivation, F: sp.Expr) -> sp.Matrix:
    means = tuple(MEANS.values())
    d.equal("the collapsed point is stationary in pulls and means, whatever is predicted",
            gradient_at(F, (*PULLS, *means), NOTHING), sp.zeros(7, 1))  # fmt: skip
    d.equal("and in the encoder variance: v = eta^2", sp.simplify(sp.diff(F, v).subs(NOTHING)),
            sp.Integer(0))  # fmt: skip
    mixed = sp.Matrix([sp.diff(F, v, x).subs(NOTHING) for x in (*PULLS, *means)])
    d.equal("the variance has no cross term there", mixed, sp.zeros(7, 1))
    return sp.hessian(F, (*PULLS, *means)).subs(NOTHING).applyfunc(sp.factor)


def _statistics(d: Derivation) -> tuple[sp.Matrix, sp.Matrix]:
    """E S S^T and E F over (b1, b20, b21), by summing over sequences."""
    total = sum(probability(y) for y in PAIRS)
    d.equal("the four sequences have probability 1", sp.expand(total), sp.Integer(1))
    scores, information = sp.zeros(3, 3), sp.zeros(3, 3)
    for y in PAIRS:
        r = sp.Matrix([sp.diff(sum((t - q) * u for t, q, u in predictions(y)), u) for u in PULLS])
        J = sum(q * (1 - q) * u**2 for _, q, u in predictions(y))
        scores += probability(y) * r * r.T
        information += probability(y) * sp.hessian(J, PULLS) / 2
    return scores.applyfunc(sp.factor), information.applyfunc(sp.factor)


def _true_conditionals(
    d: Derivation, schur: sp.Matrix, scores: sp.Matrix, information: sp.Matrix
) -> None:
    d.equal("true conditionals: E S S^T = E F", scores.subs(TRUE).applyfunc(sp.expand),
            information.subs(TRUE).applyfunc(sp.expand))  # fmt: skip
    at = schur.subs(TRUE).applyfunc(sp.simplify)
    d.equal("so beta = 1 is critical along every pull", at.subs(beta, 1).applyfunc(sp.simplify),
            sp.zeros(3, 3))  # fmt: skip
    inside = {x: 1 / (1 + sp.Symbol(f"o_{x}", positive=True)) for x in (p, g0, g1)}
    for i, pull in enumerate(PULLS):
        above = sp.simplify(at[i, i].subs(beta, 1 + gap).subs(inside))
        d.positive(f"above it the curvature along {pull} is positive", above)
        below = sp.simplify(at[i, i].subs(beta, 1 / (1 + gap)).subs(inside))
        d.positive(f"below it, minus the curvature along {pull}", -below)
    d.results["critical_beta_true"] = sp.Integer(1)


def _alike(matrix: sp.Matrix, columns: sp.Matrix) -> sp.Matrix:
    """Pulls tied as the columns say."""
    return columns.T * matrix * columns


def _without_reach(d: Derivation, scores: sp.Matrix, information: sp.Matrix) -> None:
    """The second prediction does not see the first token: q20 = q21 = P(y2 = 1)."""
    marginal = p * g1 + (1 - p) * g0
    blind = {q1: p, q20: marginal, q21: marginal}
    by_place = sp.Matrix([[1, 0], [0, 1], [0, 1]])
    S, J = (_alike(x, by_place).subs(blind).applyfunc(sp.factor) for x in (scores, information))
    covariance = p * (1 - p) * (g1 - g0)
    variances = p * (1 - p), marginal * (1 - marginal)
    d.equal("no reach, one pull for each place: E S S^T is the covariance matrix",
            S.applyfunc(sp.expand),
            sp.Matrix([[variances[0], covariance], [covariance, variances[1]]]))  # fmt: skip
    d.equal("and E F its diagonal", J.applyfunc(sp.expand), sp.diag(*variances))
    rho = covariance / sp.sqrt(variances[0] * variances[1])
    for sign in (1, -1):
        rest = sp.simplify(sp.expand(((1 + sign * rho) * J - S).det()))
        d.equal(f"critical beta 1 {'+' if sign > 0 else '-'} correlation", rest, sp.Integer(0))
    d.results["critical_beta_no_reach"] = 1 + sp.Abs(rho)


def _bursts(d: Derivation, scores: sp.Matrix, information: sp.Matrix) -> None:
    """An urn of alpha ones and `others` zeros that adds what it gave: bursts."""
    A = alpha + others
    urn = {p: alpha / A, g1: (alpha + 1) / (A + 1), g0: alpha / (A + 1)}
    alike = sp.Matrix([1, 1, 1])
    S, J = (_alike(x, alike)[0] for x in (scores, information))
    blind = {q1: alpha / A, q20: alpha / A, q21: alpha / A}
    ratio = sp.factor((S / J).subs(blind).subs(urn))
    d.equal("urn, no reach, pulls alike: 1 + rho, rho = 1/(1 + A)", ratio, 1 + 1 / (1 + A),
            "critical_beta_urn")  # fmt: skip
    seen = {q1: alpha / A, q20: alpha / (A + 1), q21: (alpha + 1) / (A + 1)}
    d.equal("reach 1: 1", sp.factor((S / J).subs(seen).subs(urn)), sp.Integer(1))


def _expected_scores(d: Derivation, scores: sp.Matrix, information: sp.Matrix) -> None:
    """The first prediction is off, the pull on it alone."""
    mean, ratio = p - q1, scores[0, 0] / information[0, 0]
    variance = p * (1 - p)
    d.equal("a prediction that is off: second moment = variance + square of the expected score",
            sp.expand(sp.factor(ratio) * q1 * (1 - q1)), sp.expand(variance + mean**2))  # fmt: skip
    d.results["critical_beta_off"] = ratio
