"""VAE with a learned encoder variance: one mode of the target.

    y ~ (0, theta^2),  q(z|y) = N(w y, v),  p(y|z) = N(u z, s),  p(z) = N(0, eta^2)

F = E[-log p(y|z)] + beta E[log q(z|y) - log p(z)], minimised over u, w and v. Modes decouple by the
choice of basis (Wang & Ziyin 2022, Prop. 1); here one of them is followed from F to the optimum,
its threshold theta^2 = beta s, the second-order conditions and the rate-distortion function.
Sources: Wang & Ziyin 2022, Theorem 2 and Corollary 2; Dang et al. 2024, Theorem 1.
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

__all__ = ["derive", "mode_values", "objective"]

q = sp.Symbol("q", positive=True)  # eta^2 u^2 + beta s: never below beta s
COLLAPSED = {u: sp.Integer(0), w: sp.Integer(0), v: eta**2}
Objective = Callable[[], sp.Expr]


def objective() -> sp.Expr:
    """F from the densities: z = w y + sqrt(v) e with y and e independent."""
    z = w * y + sp.sqrt(v) * e
    distortion = -log_normal(y, u * z, s)
    rate = log_normal(z, w * y, v) - log_normal(z, sp.Integer(0), eta**2)
    return expectation(distortion + beta * rate, {y: theta**2, e: 1})


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective`."""
    d = Derivation("VAE, encoder variance learned", "Wang & Ziyin 2022, Theorem 2")
    F = d.show("objective of one mode, nats per sample: F =", objective())
    _rate(d, F)
    encoder, G = _eliminate_encoder(d, F)
    _optimum(d, F, encoder, G)
    _collapsed_point(d, F)
    _active_point(d, F)
    _threshold(d, F)
    _water_filling(d, F)
    return d


def mode_values(F: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Minimum of F over u, w, v, (collapsed, active), found by the elimination of `derive`."""
    d = Derivation("minimum of one mode", "as in the VAE")
    _, G = _eliminate_encoder(d, F)
    root = d.root("dG/dq = 0", sp.diff(G, q), q)
    return tidy(F.subs(COLLAPSED)), tidy(G.subs(q, root))


def _rate(d: Derivation, F: sp.Expr) -> None:
    """The KL divergence of two Gaussians by integration, averaged over y: the rate in F."""
    x, a = sp.symbols("x a", real=True)
    z = a + sp.sqrt(v) * x  # z ~ N(a, v) for a standard normal x
    log_ratio = log_normal(z, a, v) - log_normal(z, sp.Integer(0), eta**2)
    density = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)
    KL = sp.integrate(sp.expand(density * sp.expand(log_ratio)), (x, -sp.oo, sp.oo))
    claimed = (a**2 + v) / (2 * eta**2) - sp.Rational(1, 2) - sp.log(v / eta**2) / 2
    d.equal("KL(N(a, v) || N(0, eta^2)), by integration over z", KL, claimed)
    rate = expectation(claimed.subs(a, w * y), {y: theta**2})
    d.equal("its mean over y with a = w y is dF/dbeta, the rate", sp.diff(F, beta), rate)


def _eliminate_encoder(d: Derivation, F: sp.Expr) -> tuple[dict[sp.Symbol, sp.Expr], sp.Expr]:
    """Best w and v for a given decoder, and what is left of F as a function of q."""
    d.equal("given u, F is a sum of a function of w and one of v", sp.diff(F, w, v), sp.Integer(0))
    d.positive("F is a convex parabola in w: d2F/dw2 > 0", sp.diff(F, w, 2))
    best_w = d.root("dF/dw = 0", sp.diff(F, w), w)
    best_v = d.root("dF/dv = 0", sp.diff(F, v), v)
    d.positive("and it is a minimum: d2F/dv2 > 0 there", sp.diff(F, v, 2).subs(v, best_v))
    G = tidy(F.subs({w: best_w, v: best_v}).subs(u, sp.sqrt(q - beta * s) / eta))
    d.show("F minimised over w and v, with q = eta^2 u^2 + beta s >= beta s: G(q) =", G)
    return {w: best_w, v: best_v}, G


def _optimum(d: Derivation, F: sp.Expr, encoder: dict[sp.Symbol, sp.Expr], G: sp.Expr) -> None:
    """G falls up to q = theta^2 and rises after it: one global minimum, active or collapsed."""
    slope = sp.diff(G, q)
    d.equal("dG/dq has one sign change", slope, beta * (q - theta**2) / (2 * q**2))
    d.equal(
        "so the minimum is at q = max(theta^2, beta s)", d.root("dG/dq = 0", slope, q), theta**2
    )
    u2 = (theta**2 - beta * s) / eta**2  # q = eta^2 u^2 + beta s, solved for u^2
    d.equal(
        "active (theta^2 > beta s): decoder u^2", u2, (theta**2 - beta * s) / eta**2,
        "decoder_weight_squared",
    )  # fmt: skip
    at = {u: sp.sqrt(u2)}
    d.equal(
        "encoder w/u", (encoder[w] / u).subs(at), eta**2 / theta**2, "encoder_over_decoder_weight"
    )
    d.equal(
        "encoder variance", encoder[v].subs(at), beta * s * eta**2 / theta**2, "encoder_variance"
    )
    d.equal("collapsed (theta^2 <= beta s): u = 0 and w =", encoder[w].subs(u, 0), sp.Integer(0))
    d.equal("encoder variance: the prior's", encoder[v].subs(u, 0), eta**2)
    collapsed, active = sp.simplify(F.subs(COLLAPSED)), G.subs(q, theta**2)
    density = sp.log(2 * sp.pi * s) / 2
    d.equal("F collapsed", collapsed, density + theta**2 / (2 * s), "objective_collapsed")
    t = beta * s / theta**2
    gain = theta**2 * (1 + t * (sp.log(t) - 1)) / (2 * s)
    claimed = density + theta**2 / (2 * s) - gain
    d.equal("F active (Wang & Ziyin, Cor. 2)", active, claimed, "objective_active")


def _collapsed_point(d: Derivation, F: sp.Expr) -> None:
    """Second-order conditions where the decoder is constant."""
    zero = sp.zeros(3, 1)
    d.equal("collapsed point u = w = 0, v = eta^2 is stationary",
            gradient_at(F, (u, w, v), COLLAPSED), zero)  # fmt: skip
    H = d.show("its Hessian in (u, w, v)", hessian_at(F, (u, w, v), COLLAPSED))
    d.positive("the variance direction is stable", H[2, 2])
    d.equal("and separate from u and w", H[:2, 2], sp.zeros(2, 1))
    determinant = sp.factor(H[:2, :2].det())
    d.show("determinant of the (u, w) block", determinant)
    d.positive("its trace is positive: at most one direction is unstable", H[:2, :2].trace())
    critical = d.root("the determinant vanishes at", determinant, beta)
    d.equal("critical beta", critical, theta**2 / s, "critical_beta")
    d.positive("stable above it", determinant.subs(beta, critical * (1 + gap)))
    d.positive("unstable below it: minus the determinant",
               -determinant.subs(beta, critical / (1 + gap)))  # fmt: skip


def _active_point(d: Derivation, F: sp.Expr) -> None:
    """Second-order conditions at the active optimum, theta^2 = beta s (1 + gap)."""
    theta2 = beta * s * (1 + gap)
    u_star = sp.sqrt(theta2 - beta * s) / eta
    point = {u: u_star, w: eta**2 * u_star / theta2, v: beta * s * eta**2 / theta2}
    at = F.subs(theta, sp.sqrt(theta2))
    d.equal("active point is stationary", gradient_at(at, (u, w, v), point), sp.zeros(3, 1))
    H = hessian_at(at, (u, w, v), point)
    for n in (1, 2, 3):
        d.positive(f"leading minor {n} of the Hessian, theta^2 = beta s (1 + gap)", H[:n, :n].det())


def _threshold(d: Derivation, F: sp.Expr) -> None:
    """The rate as beta passes theta^2/s: continuous, with a jump of its slope."""
    u_star = sp.sqrt(d.results["decoder_weight_squared"])
    w_star = d.results["encoder_over_decoder_weight"] * u_star
    optimum = {u: u_star, w: w_star, v: d.results["encoder_variance"]}
    rate = sp.simplify(sp.diff(F, beta).subs(optimum))
    claimed = sp.log(theta**2 / (beta * s)) / 2
    d.equal("rate of the active mode", rate, claimed, "rate")
    critical = d.results["critical_beta"]
    d.equal("it is 0 at the threshold: continuous", claimed.subs(beta, critical), sp.Integer(0))
    slope = sp.diff(claimed, beta).subs(beta, critical)
    d.equal("its slope jumps from this to 0: second order", slope, -s / (2 * theta**2))
    energy = d.results["objective_active"]
    d.equal("dF/dbeta of the optimum is the rate (envelope)", sp.diff(energy, beta), claimed)


def _water_filling(d: Derivation, F: sp.Expr) -> None:
    """Mean squared error, aggregate posterior and the Gaussian rate-distortion function."""
    u_star, v_star = sp.sqrt(d.results["decoder_weight_squared"]), d.results["encoder_variance"]
    w_star = d.results["encoder_over_decoder_weight"] * u_star
    distortion = F.subs(beta, 0)  # without the rate; beta in the optimum comes in below
    error = 2 * s * (distortion - sp.log(2 * sp.pi * s) / 2)
    error = error.subs({u: u_star, w: w_star, v: v_star})
    d.equal("mean squared error of an active mode", error, beta * s, "mean_squared_error")
    m = w_star**2 * theta**2 + v_star
    d.equal("second moment of z: the aggregate posterior is the prior", m, eta**2)
    D1, D2, theta2 = sp.symbols("D1 D2 theta2", positive=True)
    shannon = d.results["rate"].subs(beta, D1 / s)
    d.equal("rate at error D1 = beta s: Shannon's function", shannon, sp.log(theta**2 / D1) / 2)
    both = (D1 + D2) / (2 * s) + beta * (shannon + shannon.subs({theta: theta2, D1: D2}))
    d.show("two modes with errors D1 <= theta^2, D2 <= theta2^2: minimise", both)
    levels = [d.root(f"stationary in {D}", sp.diff(both, D), D) for D in (D1, D2)]
    d.equal("one water level for all active modes, beta s", levels[0], levels[1])
    for D in (D1, D2):
        d.positive(f"a minimum in {D}", sp.diff(both, D, 2).subs(D, levels[0]))
    d.equal(
        "it is beta s; where theta^2 is below, the sum falls until D = theta^2, rate 0",
        levels[0],
        beta * s,
    )
    mean_variance = w_star**2 * theta**2
    claimed = eta**2 * (1 - beta * s / theta**2)
    d.equal("variance of the posterior mean (active-units statistic)", mean_variance, claimed,
            "mean_variance")  # fmt: skip
