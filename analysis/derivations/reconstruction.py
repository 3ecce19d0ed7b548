"""Latent reconstruction: every routing of its gradient, its optimum, and units that mix two modes.

1. The loss (gamma/2) E|w u z - t|^2 with a w and a v of its own for the outer encoder, for z and
   for t, all the same number: the force on the encoder is f times the sum of those derivatives that
   are not detached. Jacobian of the flow at the collapsed point for 4 sources and 4 detachings.
2. Nothing detached, z and t a draw from q: the objective with w, u, v written by the second moment
   M, the noise fraction r = v/M and the loss x = 1 - u w of the copy.
3. One unit, two modes: all derivatives vanish where, G = gamma eta^2 or gamma M,

    M u_i = (theta_i^2 + lambda) w_i,  lambda = theta1 theta2 = s G x
    r = beta s/(theta1 + theta2)^2

Sources: Song, Kim & Lee 2025 (the loss and its routings); what follows from them is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import sympy as sp

from analysis.derivations import vae
from analysis.derivations.steps import (
    Derivation,
    beta,
    e,
    eta,
    expectation,
    gradient_at,
    s,
    theta,
    u,
    v,
    w,
    y,
)

__all__ = ["derive", "objective"]

gamma = sp.Symbol("gamma", positive=True)
f = sp.Symbol("f", nonnegative=True)  # share of the encoder
P, g, h = sp.symbols("P g h", positive=True)  # theta^2/s, gamma eta^2, f gamma eta^2
OUTER, OF_Z, OF_T = (
    (sp.Symbol(f"w_{name}", real=True), sp.Symbol(f"v_{name}", positive=True))
    for name in ("outer", "z", "t")
)
SOURCES = ("prior", "posterior", "mean", "posterior-to-mean")
DETACHED = ("none", "input", "target", "both")
Objective = Callable[[str], sp.Expr]


def objective(source: str) -> sp.Expr:
    """F of the VAE plus the loss, the encoder's three parts in it with parameters of their own."""
    noise = sp.Symbol("noise", real=True)
    mean_z, draw_z = OF_Z[0] * y, OF_Z[0] * y + sp.sqrt(OF_Z[1]) * e
    mean_t, draw_t = OF_T[0] * y, OF_T[0] * y + sp.sqrt(OF_T[1]) * e
    z, t = {
        "prior": (noise, noise),
        "posterior": (draw_z, draw_t),
        "mean": (mean_z, mean_t),
        "posterior-to-mean": (draw_z, mean_t),
    }[source]
    moments = {y: theta**2, e: 1, noise: eta**2}
    return vae.objective() + gamma / 2 * expectation((OUTER[0] * u * z - t) ** 2, moments)


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective`."""
    d = Derivation("Latent reconstruction", "ours; the loss after Song, Kim & Lee 2025")
    drawn = objective("posterior")
    d.show("the loss, for z and t drawn from q", drawn - drawn.subs(gamma, 0))
    for source, detach in product(SOURCES, DETACHED):
        _threshold(d, objective(source), source, detach)
    _one_root(d)
    _optimum(d, _same(drawn))
    _mixture(d, drawn=False)
    _mixture(d, drawn=True)
    return d


def _same(expression: sp.Expr) -> sp.Expr:
    """Every part of the encoder is the encoder."""
    return expression.subs({part[i]: (w, v)[i] for part in (OUTER, OF_Z, OF_T) for i in (0, 1)})


def _flow(F: sp.Expr, detach: str) -> sp.Matrix:
    """Forces on (u, w, v)."""
    parts = [OUTER]
    parts += [OF_Z] if detach in ("none", "target") else []
    parts += [OF_T] if detach in ("none", "input") else []
    forces = [-sp.diff(F, u)]
    for i, x in enumerate((w, v)):
        reached = sum((sp.diff(F, part[i]) for part in parts), sp.Integer(0))
        forces.append(-sp.diff(F, x) - f * reached)
    return sp.Matrix(forces).applyfunc(_same)


def _threshold(d: Derivation, F: sp.Expr, source: str, detach: str) -> None:
    name = f"{source}, detach {detach}"
    flow = _flow(F, detach)
    attached = source != "prior" and detach in ("none", "input")
    shrinks = attached and source == "posterior"
    v0 = beta * eta**2 / (beta + f * gamma * eta**2) if shrinks else eta**2
    point = {u: 0, w: 0, v: v0}
    d.equal(f"{name}: u = w = 0 rests at v = {v0}", flow.subs(point).applyfunc(sp.cancel),
            sp.zeros(3, 1))  # fmt: skip
    J = flow.jacobian([u, w, v]).subs(point).applyfunc(sp.cancel)
    d.equal(f"{name}: the variance is separate", sp.Matrix([J[2, 0], J[2, 1], J[0, 2], J[1, 2]]),
            sp.zeros(4, 1))  # fmt: skip
    d.positive(f"{name}: and stable", -J[2, 2])
    d.positive(f"{name}: at most one direction of (u, w) grows: minus the trace",
               -sp.expand(J[:2, :2].trace()))  # fmt: skip
    m = v0 / eta**2 if source in ("prior", "posterior") else sp.Integer(0)
    a, b = theta**2 / s, gamma * eta**2
    price = beta if not attached or shrinks else beta + f * b
    claimed = a * price - (a + b * m) * (a + f * b * m)
    label = {"prior": "prior", "posterior": "posterior"}.get(source, "mean")
    d.equal(f"{name}: determinant", sp.cancel(J[:2, :2].det()), sp.factor(claimed),
            f"determinant_{label}" if detach == "none" else "")  # fmt: skip


def _one_root(d: Derivation) -> None:
    m = beta / (beta + h)
    cubic = sp.Poly(sp.expand(sp.cancel((beta + h) ** 2 * (P * beta - (P + g * m) * (P + h * m)))),
                    beta)  # fmt: skip
    d.show("posterior: the threshold is a positive root of", cubic.as_expr())
    leading, _, linear, constant = cubic.all_coeffs()
    d.positive("one change of sign, so one positive root: leading coefficient", leading)
    d.positive("minus the linear one", -linear)
    d.positive("minus the constant", -constant)
    d.positive("it is below the threshold with z from the prior",
               sp.expand(cubic.as_expr().subs(beta, (P + g) * (P + h) / P)))  # fmt: skip


def _optimum(d: Derivation, F: sp.Expr) -> None:
    M, x = sp.symbols("M x", positive=True)
    odds = sp.Symbol("odds", positive=True)  # (1 - r)/r
    r, a, b = 1 / (1 + odds), theta**2 / s, gamma * eta**2
    twice = 2 * F.subs({v: r * M, u: (1 - x) / w}).subs(w, sp.sqrt((1 - r) * M) / theta)
    M0 = d.root("optimal second moment", sp.diff(twice, M), M)
    d.equal("which the loss shrinks", M0, eta**2 * beta / (beta + b * x**2), "second_moment")
    loss = beta * sp.log(1 + b / beta * x**2)
    reduced = a * x**2 + a * (1 - x) ** 2 / odds + beta * sp.log(1 + odds) + loss
    left = sp.expand_log(twice.subs(M, M0) - reduced, force=True)
    for unknown in (x, odds):
        d.equal(f"twice the objective is, up to constants, as claimed: slope in {unknown}",
                sp.simplify(sp.diff(left, unknown)), sp.Integer(0))  # fmt: skip
    _one_optimum(d, reduced.subs({theta: sp.sqrt(P * s), gamma: g / eta**2}), x, odds)


def _one_optimum(d: Derivation, reduced: sp.Expr, x: sp.Symbol, odds: sp.Symbol) -> None:
    """By rho, r = rho^2, and o = sqrt(beta/P): all rational."""
    rho, o, G = sp.symbols("rho o G", positive=True)  # G = g/P
    lost = 1 - o * (1 / rho - rho)
    on_path = {odds: 1 / rho**2 - 1, beta: o**2 * P, g: G * P, x: lost}
    d.equal("the best noise fraction has 1 - x = o (1/rho - rho)",
            sp.cancel(sp.diff(reduced, odds).subs(on_path)), sp.Integer(0))  # fmt: skip
    force = o * rho - lost * (1 + G / (1 + G * lost**2 / o**2))
    d.equal("on it the slope in u w is 2 P times",
            sp.cancel(-sp.diff(reduced, x).subs(on_path) / (2 * P)), force)  # fmt: skip
    y = G * lost**2 / o**2
    slope = 1 / (1 + rho**2) + G * (1 - y) / (1 + y) ** 2
    d.equal("which rises at the rate", sp.cancel(-sp.diff(force, rho) / sp.diff(lost, rho)), slope)
    t, Y, less = sp.symbols("t Y less", positive=True)
    y = G * x**2 / o**2
    d.equal("where it vanishes rho^2 is, with y = g x^2/beta and t = G/(1 + y)",
            (x * (1 + G / (1 + y)) / o) ** 2, y * (1 + G / (1 + y)) ** 2 / G)  # fmt: skip
    bound = d.root("rho <= 1, so that y is at most", Y * (1 + t) ** 2 - t * (1 + Y), Y)
    third = sp.Rational(1, 3)
    d.equal("a third less a square", third - bound, (1 - t) ** 2 / (3 * (1 + t + t**2)))
    rate = (1 / (1 + rho**2) + G * (1 - Y) / (1 + Y) ** 2).subs(Y, third / (1 + less))
    d.positive("and it rises wherever it vanishes, which it does once at most", sp.factor(rate))


def _mixture(d: Derivation, drawn: bool) -> None:
    """Weights free, and beta, gamma, eta^2 those at which they are stationary: all is rational."""
    name = "posterior" if drawn else "prior"
    t1, t2, w1, w2, noise = sp.symbols("theta1 theta2 w1 w2 noise", positive=True)
    u1, u2 = sp.symbols("u1 u2", positive=True)
    second = w1**2 * t1**2 + w2**2 * t2**2 + noise
    x = 1 - u1 * w1 - u2 * w2
    error = t1**2 + t2**2 - 2 * (u1 * w1 * t1**2 + u2 * w2 * t2**2) + (u1**2 + u2**2) * second
    pull = gamma * (second if drawn else eta**2)
    twice = error / s + beta * (second / eta**2 - sp.log(noise)) + pull * x**2
    twice = d.show(f"{name}, one unit on two modes: twice the objective", twice)
    weights = {u1: t1 * (t1 + t2) * w1 / second, u2: t2 * (t1 + t2) * w2 / second}
    lost = sp.factor(x.subs(weights))
    level = (t1 + t2) ** 2 * noise / (s * second)  # beta, from r
    if drawn:
        weight = t1 * t2 / (s * lost * second)
        eta2 = level / (level / second - weight * lost**2)
    else:
        eta2 = second
        weight = t1 * t2 / (s * lost * eta2)
    values = {beta: level, gamma: weight, eta: sp.sqrt(eta2)}
    gradient = gradient_at(twice, (u1, u2, w1, w2, noise), {})
    at = gradient.subs(weights).subs(values).applyfunc(sp.simplify)
    d.equal(f"{name}: stationary in both decoders, both encoders and the variance", at,
            sp.zeros(5, 1))  # fmt: skip
    L = sp.log(1 + weight * eta2 * lost**2 / level) * level if drawn else pull * lost**2
    r = noise / second
    claimed = level - (t1**2 + t2**2) / s - level * sp.log(r) - 2 * t1 * t2 / s * lost + L
    found = (twice - (t1**2 + t2**2) / s - beta + beta * sp.log(eta**2)).subs(weights)
    gap = sp.expand_log((found - claimed).subs(values).subs(values), force=True)
    d.equal(f"{name}: what it costs", sp.simplify(gap), sp.Integer(0))
    X = sp.Symbol("x", positive=True)
    critical = (t1 + t2) * (t1 + t2 * X) / s
    d.equal(f"{name}: the first mode's share falls to 0 at beta = (t1 + t2)(t1 + x t2)/s",
            level.subs(w1, 0), critical.subs(X, lost.subs(w1, 0)))  # fmt: skip
    if not drawn:
        d.equal("with x = sqrt(P1 P2)/g", critical.subs(X, t1 * t2 / (s * gamma * eta**2)),
                (t1**2 + t1 * t2) / s * (1 + t2**2 / (s * gamma * eta**2)),
                "critical_beta_copy")  # fmt: skip
