"""VAE with a fixed encoder variance: one mode, then the pairing of two units with two modes.

The model of `vae` with v = sigma^2 given. The optimum, its threshold theta = r with
r = sqrt(beta s) sigma/eta, and the minimum of F, which tells which unit should carry which mode:
the smallest sigma goes with the largest theta. The exchange argument compares the two pairings;
that no mixture of the units does better is not derived here (the tests of `solve` minimise over
all matrices).
Sources: Wang & Ziyin 2022, Proposition 2 and Corollary 1; Dang et al. 2024, Theorem 1.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from analysis.derivations import vae
from analysis.derivations.steps import (
    Derivation,
    beta,
    eta,
    gap,
    gradient_at,
    hessian_at,
    s,
    sigma,
    theta,
    tidy,
    u,
    v,
    w,
)

__all__ = ["derive", "objective"]

COLLAPSED = {u: sp.Integer(0), w: sp.Integer(0)}
root_c = sp.sqrt(beta * s) / eta  # c = beta s/eta^2
Objective = Callable[[], sp.Expr]


def objective() -> sp.Expr:
    """F of the VAE with the encoder variance v = sigma^2 given."""
    return vae.objective().subs(v, sigma**2)


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective`."""
    d = Derivation("VAE, encoder variance fixed", "Wang & Ziyin 2022, Proposition 2")
    F = d.show("objective of one mode, nats per sample: F =", objective())
    _optimum(d, F)
    _second_order(d, F)
    _pairing(d)
    return d


def _optimum(d: Derivation, F: sp.Expr) -> None:
    """Eliminate w, minimise over q = eta^2 u^2 + beta s."""
    q = vae.q
    d.positive("F is a convex parabola in w: d2F/dw2 > 0", sp.diff(F, w, 2))
    best_w = d.root("dF/dw = 0", sp.diff(F, w), w)
    G = tidy(F.subs(w, best_w).subs(u, sp.sqrt(q - beta * s) / eta))
    d.show("minimised over w, with q = eta^2 u^2 + beta s >= beta s: G(q) =", G)
    d.positive("G is convex: d2G/dq2 > 0", sp.diff(G, q, 2))
    best_q = d.root("dG/dq = 0", sp.diff(G, q), q)
    u2 = sp.simplify((best_q - beta * s) / eta**2)
    r = root_c * sigma
    excess = (best_q - beta * s) * sigma / (eta * sp.sqrt(beta * s))
    d.equal("active iff q > beta s: excess of theta over its threshold r", excess, theta - r)
    d.equal("decoder: omega^2 = u^2", u2, root_c * (theta - r) / sigma, "decoder_weight_squared")
    lambda2 = (theta * best_w).subs(u, sp.sqrt(u2)) ** 2
    d.equal("whitened encoder: lambda^2 = (theta w)^2", lambda2, sigma * (theta - r) / root_c,
            "whitened_encoder_weight_squared")  # fmt: skip
    saved = tidy(F.subs(COLLAPSED)) - tidy(G.subs(q, best_q))
    d.equal("2 s (F collapsed - F active)", 2 * s * saved, (theta - r) ** 2, "saved_times_2s")
    d.results["objective_active"] = tidy(G.subs(q, best_q))
    d.results["objective_collapsed"] = tidy(F.subs(COLLAPSED))


def _second_order(d: Derivation, F: sp.Expr) -> None:
    """The Hessian at the collapsed point gives the threshold; at the active one it is positive."""
    d.equal("collapsed point u = w = 0 is stationary", gradient_at(F, (u, w), COLLAPSED),
            sp.zeros(2, 1))  # fmt: skip
    H = d.show("its Hessian in (u, w)", hessian_at(F, (u, w), COLLAPSED))
    d.positive("trace", H.trace())
    determinant = d.show("determinant", sp.factor(H.det()))
    critical = d.root("which vanishes at", determinant, beta)
    d.equal("critical beta", critical, theta**2 * eta**2 / (s * sigma**2), "critical_beta")
    d.positive("stable above it", determinant.subs(beta, critical * (1 + gap)))
    at = F.subs(theta, root_c * sigma * (1 + gap))
    u_star, w_star = root_c * sp.sqrt(gap), sp.sqrt(gap) / (root_c * (1 + gap))
    point = {u: u_star, w: w_star}
    d.equal("active point is stationary, theta = r (1 + gap)", gradient_at(at, (u, w), point),
            sp.zeros(2, 1))  # fmt: skip
    H = hessian_at(at, (u, w), point)
    d.positive("first leading minor of the Hessian there", H[0, 0])
    d.positive("its determinant", H.det())


def _pairing(d: Derivation) -> None:
    """Two units r1 < r2, two modes theta1 > theta2; a unit saves (theta - r)^2 where theta > r.

    Written with x = theta2 - r2, the smallest of the four differences, A = theta1 - theta2 and
    B = r2 - r1: straight pairing saves p(x + A + B) + p(x), crossed p(x + A) + p(x + B), where
    p(x) = x^2 for x > 0, else 0. Where crossed saves nothing, straight cannot save less.
    """
    A, B, x, m = sp.symbols("A B x m", positive=True)
    saved = d.results["saved_times_2s"]
    difference = sp.Symbol("difference", positive=True)
    d.equal("what a unit saves depends on theta - r only",
            saved.subs(theta, root_c * sigma + difference), difference**2)  # fmt: skip
    straight = (x + A + B) ** 2
    cases = {
        "theta2 > r2": straight + x**2 - (x + A) ** 2 - (x + B) ** 2,
        # below: x replaced by -m, m > 0
        "r2 > theta2 > r1, theta1 > r2 (A = m + x, B = m + difference)": (
            (A + B - m) ** 2 - (A - m) ** 2 - (B - m) ** 2
        ).subs({A: m + x, B: m + difference}),
        "theta1 > r2, theta2 < r1 (A = m + x, B < m)": ((A + B - m) ** 2 - (A - m) ** 2).subs(
            A, m + x
        ),
        "theta2 > r1, theta1 < r2 (B = m + x, A < m)": ((A + B - m) ** 2 - (B - m) ** 2).subs(
            B, m + x
        ),
    }
    for case, advantage in cases.items():
        d.positive(f"straight saves more, {case}", sp.expand(advantage))
