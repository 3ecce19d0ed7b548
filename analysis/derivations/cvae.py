"""Conditional VAE, scalar target and condition: what the correlation does.

    (x, y) with variances X, Y and correlation rho
    q(z|x,y) = N(w1 x + w y, v),  p(y|x,z) = N(u z + b x, s),  p(z) = N(0, eta^2)

1. Encoder sees both: minimising over b and w1 leaves the VAE objective with theta^2 = Var(y|x), so
   the threshold is Y (1 - rho^2) = beta s and |rho| >= sqrt(1 - beta s/Y) collapses.
2. Encoder sees the target only (w1 = 0): the collapsed point is stable iff
   beta >= Y (1 - rho^2)^2/s, which is lower. F can be followed further: for rho^2 > 1/2 the
   transition is first-order in the linear model already, an active minimum exists up to
   beta = Y (1 - rho^2)/(4 rho^2 s), above the stability threshold.
Sources: Dang et al. 2024, Theorem 2 (1.); ours (2.).
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from analysis.derivations import vae
from analysis.derivations.steps import (
    Derivation,
    beta,
    e,
    eta,
    expectation,
    gap,
    gradient_at,
    hessian_at,
    log_normal,
    s,
    theta,
    tidy,
    u,
    v,
    w,
    y,
)

__all__ = ["derive", "objective"]

X, Y = sp.symbols("X Y", positive=True)
rho, x, w1, b = sp.symbols("rho x w1 b", real=True)
tau2 = Y * (1 - rho**2)  # Var(y|x)
Objective = Callable[[], sp.Expr]


def objective() -> sp.Expr:
    """F from the densities: z = w1 x + w y + sqrt(v) e."""
    mean = w1 * x + w * y
    z = mean + sp.sqrt(v) * e
    distortion = -log_normal(y, u * z + b * x, s)
    rate = log_normal(z, mean, v) - log_normal(z, sp.Integer(0), eta**2)
    moments = {x: X, y: Y, (x, y): rho * sp.sqrt(X * Y), e: 1}
    return expectation(distortion + beta * rate, moments)


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective`."""
    d = Derivation("Conditional VAE", "Dang et al. 2024, Theorem 2; encoder of the target: ours")
    F = d.show("objective, nats per sample: F =", objective())
    _encoder_sees_both(d, F)
    _encoder_sees_target(d, F.subs(w1, 0))
    return d


def _encoder_sees_both(d: Derivation, F: sp.Expr) -> None:
    """Eliminate the decoder's map b of the condition and the encoder's w1."""
    H = d.show("F is a quadratic function of (b, w1); its Hessian", sp.hessian(F, (b, w1)))
    d.positive("positive definite: first minor", H[0, 0])
    d.positive("and determinant", sp.simplify(H.det()))
    solution = d.solution("dF/db = dF/dw1 = 0", [sp.diff(F, b), sp.diff(F, w1)], [b, w1])
    R = rho * sp.sqrt(Y / X)
    d.equal("the encoder subtracts the prediction R x", solution[w1], -w * R)
    d.equal("and the decoder adds it: b = R", solution[b], R)
    reduced = tidy(F.subs(solution))
    plain = vae.objective().subs(theta, sp.sqrt(tau2))
    d.equal("what is left: the VAE with theta^2 = Var(y|x) = Y (1 - rho^2)", reduced, tidy(plain))
    d.results["mode_variance"] = tau2
    point = {u: 0, w: 0, v: eta**2}
    determinant = sp.factor(hessian_at(reduced, (u, w), point).det())
    d.show("determinant of its Hessian at the collapsed point", determinant)
    critical = d.root("which vanishes at", determinant, beta)
    d.equal("critical beta", critical, tau2 / s, "critical_beta")
    rho2 = sp.Symbol("rho2", positive=True)
    squared = d.root("at this rho^2", (critical - beta).subs(rho, sp.sqrt(rho2)), rho2)
    d.equal("the same as a critical correlation: rho^2", squared, 1 - beta * s / Y,
            "critical_correlation_squared")  # fmt: skip


def _encoder_sees_target(d: Derivation, F: sp.Expr) -> None:
    """w1 = 0: eliminate b, then the Hessian at the collapsed point."""
    d.positive("encoder sees the target only: F is a parabola in b", sp.diff(F, b, 2))
    best_b = d.root("dF/db = 0", sp.diff(F, b), b)
    F = tidy(F.subs(b, best_b))
    d.show("F minimised over b", F)
    point = {u: sp.Integer(0), w: sp.Integer(0), v: eta**2}
    d.equal("collapsed point u = w = 0, v = eta^2 is stationary",
            gradient_at(F, (u, w, v), point), sp.zeros(3, 1))  # fmt: skip
    H = d.show("its Hessian in (u, w)", hessian_at(F, (u, w), point))
    d.positive("trace", H.trace())
    determinant = d.show("determinant", sp.factor(H.det()))
    critical = d.root("which vanishes at", determinant, beta)
    local = Y * (1 - rho**2) ** 2 / s
    d.equal("critical beta, stability of the collapsed point", critical, local,
            "critical_beta_target_only")  # fmt: skip
    d.equal("over that of an encoder that sees both", critical / d.results["critical_beta"],
            1 - rho**2)  # fmt: skip
    _beyond_stability(d, F)


def _beyond_stability(d: Derivation, F: sp.Expr) -> None:
    """Target only: eliminate w and v; when is the collapsed point also the global minimum?"""
    h = sp.Symbol("h", positive=True)  # eta^2 u^2
    best_w, best_v = (d.root(f"dF/d{a} = 0", sp.diff(F, a), a) for a in (w, v))
    G = tidy(F.subs({w: best_w, v: best_v}).subs(u, sp.sqrt(h) / eta))
    local = d.results["critical_beta_target_only"]
    slope = sp.together(sp.simplify(sp.diff(G, h)))
    N = (tau2 * h + beta * s * Y) ** 2 - tau2**2 * Y * (beta * s + h)
    scale = beta / (2 * (beta * s + h) * (tau2 * h + beta * s * Y) ** 2)
    d.equal(
        "minimised over w and v, h = eta^2 u^2: dG/dh, its sign is a parabola's", slope, scale * N
    )
    T = sp.Symbol("T", positive=True)
    gain = sp.simplify(sp.expand_log(G.subs(h, 0) - G.subs(h, beta * s * T), force=True))
    told = tau2**2 * T / (s * (tau2 * T + Y))
    d.equal("what a unit gains at h = beta s T", gain, (told - beta * sp.log(1 + T)) / 2)
    d.results["gain_target_only"] = (told - beta * sp.log(1 + T)) / 2
    ratio = told / sp.log(1 + T)
    d.show("so total collapse is the optimum above the supremum over T of", ratio)
    d.equal("at T -> 0: the threshold of stability", sp.limit(ratio, T, 0), local)
    at_zero = N.subs(h, 0) / (s * Y**2 * beta)
    d.equal("N(h = 0) has the sign of beta - critical beta", at_zero, s * (beta - local))
    at_threshold = sp.diff(N, h).subs(h, 0).subs(beta, local)
    d.equal("slope of N at h = 0 and the threshold: negative iff rho^2 > 1/2",
            at_threshold, tau2**2 * Y * (1 - 2 * rho**2))  # fmt: skip
    lowest = d.root("N is lowest at", sp.diff(N, h), h)
    end = d.root("where it touches 0 at", sp.factor(N.subs(h, lowest)), beta)
    d.equal("so for rho^2 > 1/2 an active minimum exists up to beta =", end,
            tau2 / (4 * rho**2 * s), "last_active_beta_target_only")  # fmt: skip
    ratio = end / local
    half = sp.Rational(1, 2)
    d.equal("over the stability threshold: 1 at rho^2 = 1/2", ratio.subs(rho, sp.sqrt(half)), 1)
    above = (1 / ratio - 1).subs(rho, sp.sqrt(half + gap))
    d.positive("and more for rho^2 = 1/2 + gap: 1 - 1/ratio", -above)
