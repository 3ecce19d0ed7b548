"""Autoregressive decoder, two coordinates: the innovation variances are the mode variances.

    q(z|y) = N(W y, v),  p(y1|z) = N(u1 z, s),  p(y2|z, y1) = N(u2 z + a y1, s),  p(z) = N(0, eta^2)

Cov(y) is written with its innovations: d1 = Var(y1), d2 = Var(y2|y1), slope l of y2 on y1. The
Hessian at the collapsed point of the full-order decoder is singular at beta s = d1 and d2; order 0
(a = 0) gives the eigenvalues of Cov(y), the plain VAE. With latent_dim 2 the optimum can be
followed further: a = l is globally optimal, because any other a spreads the two eigenvalues of the
residual's covariance and keeps their product. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from analysis.derivations import vae
from analysis.derivations.steps import (
    Derivation,
    beta,
    eta,
    expectation,
    gap,
    gradient_at,
    hessian_at,
    log_normal,
    s,
    theta,
)

__all__ = ["UNITS", "derive", "objective"]

d1, d2 = sp.symbols("d1 d2", positive=True)
slope, a, y1, y2 = sp.symbols("l a y1 y2", real=True)
# of each unit: decoder weights, encoder weights, noise, encoder variance
UNITS = [
    (*sp.symbols(f"u1{n} u2{n} w1{n} w2{n} e{n}", real=True), sp.Symbol(f"v{n}", positive=True))
    for n in "ab"
]
MOMENTS = {y1: d1, y2: slope**2 * d1 + d2, (y1, y2): slope * d1}
Objective = Callable[[int, int], sp.Expr]


def objective(order: int, latent_dim: int) -> sp.Expr:
    """F from the densities; order 1 lets the mean of y2 see y1, order 0 does not."""
    rate, mean1, mean2 = sp.Integer(0), sp.Integer(0), a * y1 if order else sp.Integer(0)
    for u1, u2, w1, w2, noise, variance in UNITS[:latent_dim]:
        mean = w1 * y1 + w2 * y2
        z = mean + sp.sqrt(variance) * noise
        mean1, mean2 = mean1 + u1 * z, mean2 + u2 * z
        rate += log_normal(z, mean, variance) - log_normal(z, sp.Integer(0), eta**2)
    distortion = -log_normal(y1, mean1, s) - log_normal(y2, mean2, s)
    noises = {unit[4]: 1 for unit in UNITS}
    return expectation(distortion + beta * rate, MOMENTS | noises)


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective`."""
    d = Derivation("Autoregressive decoder", "ours")
    d.show("Cov(y) in terms of its innovations", _covariance())
    full = d.show("objective of the full order, one unit: F =", objective(1, 1))
    _full_order(d, full)
    _order_zero(d, objective(0, 1))
    _two_units(d, objective(1, 2))
    _global_optimum(d, objective)
    return d


def _covariance() -> sp.Matrix:
    return sp.Matrix([[MOMENTS[y1], MOMENTS[y1, y2]], [MOMENTS[y1, y2], MOMENTS[y2]]])


def _collapsed(units: int) -> dict[sp.Symbol, sp.Expr]:
    weights = {x: sp.Integer(0) for unit in UNITS[:units] for x in unit[:4]}
    return weights | {unit[5]: eta**2 for unit in UNITS[:units]}


def _full_order(d: Derivation, F: sp.Expr) -> None:
    point = _collapsed(1)
    best = d.root("collapsed point: dF/da = 0", sp.diff(F.subs(point), a), a)
    d.equal("a is the regression of y2 on y1", best, slope)
    point |= {a: best}
    u1, u2, w1, w2, _, variance = UNITS[0]
    everything = (u1, u2, w1, w2, a, variance)
    d.equal("stationary in all variables", gradient_at(F, everything, point), sp.zeros(6, 1))
    H = hessian_at(F, everything, point)
    d.equal("a and v are separate from the weights", H[:4, 4:], sp.zeros(4, 2))
    d.positive("a is stable", H[4, 4])
    d.show("Hessian in (u1, u2, w1, w2)", H[:4, :4])
    determinant = sp.factor(H[:4, :4].det())
    claimed = d1 * d2 * (beta * s - d1) * (beta * s - d2) / s**4
    d.equal("its determinant: the innovation variances are the thresholds of beta s",
            determinant, claimed)  # fmt: skip
    d.results["critical_beta_1"], d.results["critical_beta_2"] = d1 / s, d2 / s
    schur = sp.simplify(H[2:4, 2:4] - H[2:4, :2] * H[:2, :2].inv() * H[:2, 2:4])
    delta = sp.Symbol("delta", positive=True)
    for large, small in ((d1, d2), (d2, d1)):
        above = schur.subs(beta, large * (1 + delta) / s).subs(large, small * (1 + gap))
        text = f"{large} = {small} (1 + gap), beta s = {large} (1 + delta)"
        d.positive(f"{text}: Schur complement of W, trace", above.trace())
        d.positive("and determinant: stable above the largest innovation", sp.factor(above.det()))
    residual = sp.Matrix([[1, 0], [-best, 1]]) * _covariance() * sp.Matrix([[1, -best], [0, 1]])
    d.equal("the innovations: covariance of the residual (I - A) y", residual.applyfunc(sp.expand),
            sp.diag(d1, d2))  # fmt: skip


def _order_zero(d: Derivation, F: sp.Expr) -> None:
    point = _collapsed(1)
    order = UNITS[0][:4]
    d.equal("order 0: collapsed point is stationary", gradient_at(F, order, point), sp.zeros(4, 1))
    determinant = hessian_at(F, order, point).det()
    characteristic = (beta * s * sp.eye(2) - _covariance()).det() * _covariance().det() / s**4
    d.equal("determinant of its Hessian: characteristic polynomial of Cov(y), the plain VAE",
            sp.expand(determinant), sp.expand(characteristic))  # fmt: skip
    plain = sp.sqrt((d1 + d2 + slope**2 * d1) ** 2 - 4 * d1 * d2)
    largest = (d1 + d2 + slope**2 * d1 + plain) / 2
    d.equal("critical beta of order 0: the largest eigenvalue over s",
            sp.simplify(characteristic.subs(beta, largest / s)), sp.Integer(0))  # fmt: skip
    d.results["critical_beta_order_0"] = largest / s


def _two_units(d: Derivation, F: sp.Expr) -> None:
    point = _collapsed(2) | {a: slope}
    first, second = UNITS[0][:4], UNITS[1][:4]
    H = hessian_at(F, (*first, *second), point)
    d.equal("latent_dim 2: units do not interact at the collapsed point", H[:4, 4:], sp.zeros(4, 4))
    d.equal("each has the same Hessian", H[:4, :4], H[4:, 4:])


def _is_vae_of_residual(d: Derivation, objective: Objective, t: sp.Symbol) -> None:
    """y -> (y1, y2 - a y1) is invertible: an encoder of y is an encoder of the residual."""
    of_residual = {a: slope + t}
    for _, _, w1, w2, _, _ in UNITS:
        of_residual[w1] = w1 - (slope + t) * w2
    full = objective(1, 2).subs(of_residual, simultaneous=True)
    plain = objective(0, 2).subs(slope, -t)  # Cov of the residual: slope -t, innovations d1, d2
    d.equal("a = l + t: the VAE (order 0) of the residual y - A y", sp.expand(full),
            sp.expand(plain))  # fmt: skip


def _global_optimum(d: Derivation, objective: Objective) -> None:
    """Two units, decoder map a = l + t: a VAE of the residual, with eigenvalues g1 >= g2."""
    t = sp.Symbol("t", real=True)
    _is_vae_of_residual(d, objective, t)
    A = sp.Matrix([[1, 0], [-(slope + t), 1]])
    M = (A * _covariance() * A.T).applyfunc(sp.expand)
    d.equal("determinant of the residual's covariance does not depend on t",
            sp.expand(M.det()), d1 * d2)  # fmt: skip
    d.equal("its trace grows with t^2: the eigenvalues g1, g2 spread", sp.expand(M.trace()),
            d1 + d2 + t**2 * d1)  # fmt: skip
    g, product = sp.symbols(
        "g g1g2", positive=True
    )  # the smaller eigenvalue g, the other product/g
    collapsed, alive = vae.mode_values(vae.objective())
    small, large = {theta: sp.sqrt(g)}, {theta: sp.sqrt(product / g)}
    both_active = sp.diff(alive.subs(small) + alive.subs(large), g)
    d.equal("both active: F is a function of the product, a does not matter",
            sp.simplify(both_active), sp.Integer(0))  # fmt: skip
    one_active = sp.simplify(sp.diff(collapsed.subs(small) + alive.subs(large), g))
    d.positive("one active (g = beta s/(1 + gap)): F falls as the spread shrinks, minus dF/dg",
               -one_active.subs(g, beta * s / (1 + gap)))  # fmt: skip
    none = sp.diff(collapsed.subs(small) + collapsed.subs(large), g)
    d.positive("none active (product = g^2 (1 + gap)): the same",
               -sp.simplify(none.subs(product, g**2 * (1 + gap))))  # fmt: skip
    d.equal("so a = l (t = 0) is optimal, with theta^2 = d1, d2", M.subs(t, 0), sp.diag(d1, d2))
