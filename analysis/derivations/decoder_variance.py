"""Decoder variance learned with the rest: its optimum with k_a active modes.

Every mode is first minimised over its own weights (the VAE's F); what is left depends on s only:

    J(s) = sum over active modes of [log(2 pi s)/2 + (beta/2)(1 + log(theta_i^2/(beta s)))]
         + sum over the others of [log(2 pi s)/2 + theta_i^2/(2 s)]

a convex function of log s whatever modes are active, with s = (variance of the rest)/(d - beta k_a)
where it is flat. Sources: probabilistic PCA (Tipping & Bishop 1999, eq. 8) at beta = 1; ours.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from analysis.derivations import vae
from analysis.derivations.steps import Derivation, beta, eta, gap, s, theta, tidy

__all__ = ["derive", "objective"]

t = sp.Symbol("t", real=True)  # log s
dim, active = sp.symbols("d k_a", positive=True)
rest = sp.Symbol("rest", positive=True)  # sum of theta_i^2 over the modes that are not active
log_variances = sp.Symbol("L_a", real=True)  # sum of log theta_i^2 over the active ones
objective = vae.objective
Objective = Callable[[], sp.Expr]


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective` of one mode."""
    d = Derivation("Decoder variance learned", "Tipping & Bishop 1999, eq. 8, at beta = 1")
    F = d.show("objective of one mode, nats per sample: F =", objective())
    collapsed, alive = vae.mode_values(F)
    d.show("minimised over u, w, v: collapsed", collapsed)
    d.show("active", alive)
    _convexity(d, collapsed, alive)
    J = _optimum(d, collapsed, alive)
    _probabilistic_pca(d, J)
    _small_s(d, J, collapsed, alive)
    return d


def _convexity(d: Derivation, collapsed: sp.Expr, alive: sp.Expr) -> None:
    """One mode as a function of t = log s: two pieces, equal slopes where they meet."""
    slopes = [
        sp.diff(piece.subs(s, sp.exp(t)), t).subs(t, sp.log(s)) for piece in (collapsed, alive)
    ]
    meet = theta**2 / beta
    half = sp.Rational(1, 2)
    d.equal("slope in log s where collapsed", slopes[0], half - theta**2 / (2 * s))
    d.equal("and where active", slopes[1], half - beta / 2)
    d.equal("that is (1 - min(theta^2/s, beta))/2: values agree at s = theta^2/beta",
            (collapsed - alive).subs(s, meet), sp.Integer(0))  # fmt: skip
    d.equal("slopes too", (slopes[0] - slopes[1]).subs(s, meet), sp.Integer(0))
    d.positive(
        "the collapsed piece is convex in log s", sp.diff(collapsed.subs(s, sp.exp(t)), t, 2)
    )
    d.equal("the active piece is linear in log s", sp.diff(alive.subs(s, sp.exp(t)), t, 2),
            sp.Integer(0))  # fmt: skip


def _optimum(d: Derivation, collapsed: sp.Expr, alive: sp.Expr) -> sp.Expr:
    """Sum over modes: collapsed is linear in theta^2, active is linear in log theta^2."""
    log_theta2, theta2 = sp.symbols("log_theta2 theta2", real=True)
    alive = alive.subs(theta, sp.exp(log_theta2 / 2))
    collapsed = collapsed.subs(theta, sp.sqrt(theta2))
    J = _sum(alive, log_theta2, active, log_variances)
    J += _sum(collapsed, theta2, dim - active, rest)
    d.show("sum over k_a active and d - k_a other modes (sums L_a and rest): J =", J)
    best = d.root("dJ/ds = 0", sp.diff(J, s), s)
    d.equal("optimal decoder variance", best, rest / (dim - beta * active), "decoder_variance")
    margin = sp.Symbol("margin", positive=True)  # d - beta k_a
    curvature = sp.diff(J.subs(s, sp.exp(t)), t, 2).subs(t, sp.log(s))
    d.positive("a minimum in log s", curvature.subs(s, rest / margin))
    error = active * beta * s + rest  # reverse water-filling: beta s per active mode
    d.equal("s is the mean squared error per dimension", (error / dim).subs(s, best), best)
    return J


def _sum(f: sp.Expr, x: sp.Symbol, count: sp.Expr, total: sp.Expr) -> sp.Expr:
    """Sum of a linear function f of x over `count` values of x whose sum is `total`."""
    slope, constant = sp.Poly(sp.expand(sp.expand_log(f, force=True)), x).all_coeffs()
    return sp.expand(constant * count + slope * total)


def _probabilistic_pca(d: Derivation, J: sp.Expr) -> None:
    """The marginal likelihood of y ~ N(0, s I + eta^2 U U^T), maximised over the same modes."""
    variance = sp.Symbol("variance", positive=True)  # s + eta^2 u^2 of an active mode
    alive = sp.log(2 * sp.pi * variance) / 2 + theta**2 / (2 * variance)
    best = d.root("probabilistic PCA: -log likelihood of an active mode stationary at",
                  sp.diff(alive, variance), variance)  # fmt: skip
    u2 = sp.solve(sp.Eq(eta**2 * sp.Symbol("u2") + s, best), sp.Symbol("u2"))[0]
    d.equal("its decoder weight u^2 is the VAE's at beta = 1", u2, (theta**2 - s) / eta**2)
    others = (dim - active) * sp.log(2 * sp.pi * s) / 2 + rest / (2 * s)
    actives = active * (sp.log(2 * sp.pi) + 1) / 2 + log_variances / 2
    d.equal("J at beta = 1 is -log likelihood of probabilistic PCA", J.subs(beta, 1),
            sp.expand_log(actives + others))  # fmt: skip
    ppca = d.root("its s", sp.diff(others, s), s)
    d.equal("the mean of the discarded eigenvalues", ppca,
            d.results["decoder_variance"].subs(beta, 1))  # fmt: skip


def _small_s(d: Derivation, J: sp.Expr, collapsed: sp.Expr, alive: sp.Expr) -> None:
    """As s -> 0 every mode with a unit is active; bounded below unless nothing is left."""
    units = active
    slope = sp.diff((units * alive).subs(s, sp.exp(t)), t)
    slope += (dim - units) * sp.diff(collapsed.subs(s, sp.exp(t)).subs(theta, 0), t)
    d.equal("nothing left (rest = 0), k_a modes active: dJ/dlog s", tidy(slope),
            (dim - beta * units) / 2)  # fmt: skip
    d.positive("d = beta k_a + gap: positive, so J falls without bound as s -> 0",
               slope.subs(dim, beta * active + gap))  # fmt: skip
    d.positive("anything left (rest > 0): J grows like rest/(2 s); s J -> as s -> 0",
               sp.limit(s * J, s, 0, "+"))  # fmt: skip
