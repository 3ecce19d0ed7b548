"""Hierarchy of two levels: one mode, from all matrices to a convex problem, and its thresholds.

    q(z1|y) = N(w1 y, v1),  q(z2|z1) = N(w2 z1, v2)
    p(y|z1) = N(u1 z1, s),  p(z1|z2) = N(u2 z2, eta1^2),  p(z2) = N(0, eta2^2)

F = distortion + beta1 rate_1 + beta2 rate_2. With m_l the second moment of z_l and the noise
fraction r_l = v_l/m_l, minimising over u1 and u2 leaves

    2 F = theta^2 r1/s + beta1 (m1 r2/eta1^2 - log(r1 m1)) + beta2 (m2/eta2^2 - log(r2 m2)) + const

In x_l = -log r_l >= 0 that is convex; sign conditions of its slopes give every threshold:
1. v1 fixed, v2 learned (Dang et al. 2024, Theorem 3); 2. both fixed (Theorem 5, cube roots; the
second threshold has beta2^2/beta1, where the published code has beta2^2 beta1); 3. both learned:
collapse, continuum or no minimum (ours). The published hierarchy has eta1^2 = s.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from analysis.derivations.steps import (
    Derivation,
    e,
    expectation,
    gap,
    hessian_at,
    log_normal,
    s,
    theta,
    tidy,
    y,
)

__all__ = ["derive", "objective"]

beta1, beta2, eta1, eta2, v1, v2 = sp.symbols("beta1 beta2 eta1 eta2 v1 v2", positive=True)
sigma1, sigma2, m1, m2, r1, r2 = sp.symbols("sigma1 sigma2 m1 m2 r1 r2", positive=True)
u1, u2, w1, w2, e2 = sp.symbols("u1 u2 w1 w2 e2", real=True)
x1, x2 = sp.symbols("x1 x2", nonnegative=True)  # -log r: twice the information of the level
a0, a1, a2, p = sp.symbols("a0 a1 a2 p", positive=True)
NOTATION = {a0: theta**2 / s, a1: beta1 * sigma1**2 / eta1**2, a2: beta2 * sigma2**2 / eta2**2}
Objective = Callable[[], sp.Expr]


def objective() -> sp.Expr:
    """F from the densities: z1 = w1 y + sqrt(v1) e, z2 = w2 z1 + sqrt(v2) e2."""
    z1 = w1 * y + sp.sqrt(v1) * e
    z2 = w2 * z1 + sp.sqrt(v2) * e2
    distortion = -log_normal(y, u1 * z1, s)
    rate_1 = log_normal(z1, w1 * y, v1) - log_normal(z1, u2 * z2, eta1**2)
    rate_2 = log_normal(z2, w2 * z1, v2) - log_normal(z2, sp.Integer(0), eta2**2)
    return expectation(distortion + beta1 * rate_1 + beta2 * rate_2, {y: theta**2, e: 1, e2: 1})


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective`."""
    d = Derivation("Hierarchy of two levels", "Dang et al. 2024, Theorems 3 and 5; the rest ours")
    F = d.show("objective of one mode, nats per sample: F =", objective())
    reduced = _eliminate_matrices(d, F)
    _upper_learned(d, reduced)
    _both_fixed(d, reduced)
    _both_learned(d, reduced)
    _collapsed_hessian(d, F)
    return d


def _eliminate_matrices(d: Derivation, F: sp.Expr) -> sp.Expr:
    """u1 and u2 by their parabolas; then r and m instead of w and v."""
    second_1 = w1**2 * theta**2 + v1
    second_2 = w2**2 * second_1 + v2
    d.positive("F is a convex parabola in u1", sp.diff(F, u1, 2))
    d.positive("and in u2", sp.diff(F, u2, 2))
    best_u1 = d.root("dF/du1 = 0", sp.diff(F, u1), u1)
    best_u2 = d.root("dF/du2 = 0", sp.diff(F, u2), u2)
    d.equal("u1 = w1 theta^2/m1", best_u1, w1 * theta**2 / second_1)
    d.equal("u2 = w2 m1/m2", best_u2, w2 * second_1 / second_2)
    of_r = {v1: r1 * m1, v2: r2 * m2}
    weights = {
        w1: sp.sqrt(m1 * (1 - r1)) / theta,  # from m1 = w1^2 theta^2 + v1
        w2: sp.sqrt(m2 * (1 - r2) / m1),
    }
    twice = tidy(2 * F.subs({u1: best_u1, u2: best_u2}).subs(of_r).subs(weights))
    claimed = theta**2 * r1 / s + beta1 * (m1 * r2 / eta1**2 - sp.log(r1 * m1))
    claimed += beta2 * (m2 / eta2**2 - sp.log(r2 * m2))
    constant = sp.log(2 * sp.pi * s) + beta1 * (sp.log(eta1**2) - 1) + beta2 * (sp.log(eta2**2) - 1)
    d.equal("2 F minimised over u1, u2, in r = v/m and m", twice, claimed + constant)
    d.results["twice_objective"] = claimed + constant
    return claimed


def _conditions(d: Derivation, f: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Convexity of f(x1, x2) and its slopes: both zero, or not negative where x_l = 0."""
    H = sp.hessian(f, (x1, x2)).applyfunc(sp.simplify)
    d.positive("convex in (x1, x2): first minor", H[0, 0])
    d.positive("and determinant: so the slope conditions are sufficient", sp.simplify(H.det()))
    return sp.diff(f, x1), sp.diff(f, x2)


def _same_sign(d: Derivation, statement: str, slope: sp.Expr, claimed: sp.Expr) -> None:
    """slope = (something positive) * claimed, so that the two change sign together."""
    d.positive(statement + f", sign of {sp.sstr(claimed)}", sp.simplify(slope / claimed))


def _upper_learned(d: Derivation, f: sp.Expr) -> None:
    """v1 = sigma1^2 fixed, v2 learned."""
    f = f.subs(m1, sigma1**2 / r1)
    best_m2 = d.root("v1 fixed, v2 learned: stationary in m2", sp.diff(f, m2), m2)
    d.positive("a minimum", sp.diff(f, m2, 2).subs(m2, best_m2))
    f = _in_information(f.subs(m2, best_m2))
    claimed = a0 * sp.exp(-x1) + a1 * sp.exp(x1 - x2) + beta2 * x2
    d.equal("up to a constant, a0 = theta^2/s, a1 = beta1 sigma1^2/eta1^2", f, claimed)
    slope1, slope2 = _conditions(d, claimed)
    d.show("slope in x1", slope1)
    d.show("slope in x2", slope2)
    at_zero = {x1: 0, x2: 0}
    d.equal("both collapsed iff a1 >= a0 ...", slope1.subs(at_zero), a1 - a0)
    d.equal("... and beta2 >= a1", slope2.subs(at_zero), beta2 - a1)
    noise = d.root("z1 collapsed, z2 active on noise: slope in x2 is 0", slope2.subs(x1, 0), x2)
    d.equal("x2 = log(a1/beta2), needs a1 > beta2 ...", noise, sp.log(a1 / beta2))
    d.equal("... and beta2 >= a0. Together: z1 collapsed iff a0 <= min(a1, beta2)",
            slope1.subs({x1: 0, x2: noise}), beta2 - a0)  # fmt: skip
    alone = sp.log(a0 / a1) / 2
    d.equal("z1 active alone: x1 = log(a0/a1)/2", slope1.subs({x1: alone, x2: 0}), sp.Integer(0))
    d.equal("needs beta2 >= sqrt(a0 a1)", slope2.subs({x1: alone, x2: 0}),
            beta2 - sp.sqrt(a0 * a1))  # fmt: skip
    both = {x1: sp.log(a0 / beta2), x2: sp.log(a0 * a1 / beta2**2)}
    d.equal("both active: x1 = log(a0/beta2), x2 = log(a0 a1/beta2^2): slope in x1",
            slope1.subs(both), sp.Integer(0))  # fmt: skip
    d.equal("slope in x2", slope2.subs(both), sp.Integer(0))
    _result(d, "z1 active iff theta^2 above s min of: lower route", a1 * s, "z1_threshold_lower")
    _result(d, "upper route", beta2 * s, "z1_threshold_upper")
    _result(d, "z2 active iff a1 > beta2, sigma1^2 above", beta2 * eta1**2 / beta1,
            "z2_noise_threshold")  # fmt: skip
    _result(d, "or a0 a1 > beta2^2, theta^2 above", beta2**2 * s / a1, "z2_data_threshold")
    published = sigma1**2 * (theta**2 - beta2 * s) / (beta2 * s)
    _singular_values(d, both, eta2**2, published,
                     sigma1**2 * theta**2 / (beta2 * s * eta2**2) - beta2 * s / (beta1 * eta2**2),
                     "Theorem 3")  # fmt: skip


def _both_fixed(d: Derivation, f: sp.Expr) -> None:
    """v1 = sigma1^2 and v2 = sigma2^2 fixed: cube roots."""
    f = _in_information(f.subs({m1: sigma1**2 / r1, m2: sigma2**2 / r2}))
    claimed = a0 * sp.exp(-x1) + a1 * sp.exp(x1 - x2) + a2 * sp.exp(x2)
    d.equal("both fixed, up to a constant, a2 = beta2 sigma2^2/eta2^2", f, claimed)
    slope1, slope2 = _conditions(d, claimed)
    both = {x1: sp.log(a0 / p), x2: sp.log(p / a2)}  # a0 exp(-x1) = p = a2 exp(x2)
    middle = (a1 * sp.exp(x1 - x2)).subs(both)
    price = d.root("both active: all three terms equal p", sp.simplify(middle - p), p)
    cube = (a0 * a1 * a2) ** sp.Rational(1, 3)
    d.equal("p is their geometric mean", price, cube)
    for name, slope in (("x1", slope1), ("x2", slope2)):
        d.equal(f"slope in {name}", slope.subs(both).subs(p, cube), sp.Integer(0))
    _same_sign(d, "x1 > 0, that is a0^3 > p^3", a0**3 - cube**3, a0**2 - a1 * a2)
    _same_sign(d, "x2 > 0, that is p^3 > a2^3", cube**3 - a2**3, a0 * a1 - a2**2)
    first = sp.sqrt(a1 * a2) * s
    second = a2**2 * s / a1
    _result(d, "both active iff theta^2 above", first, "both_threshold_1")
    _result(d, "and theta^2 above", second, "both_threshold_2")
    c2 = s / eta2**2
    square = beta2**2 * c2**2 * sigma2**4 / (beta1 * sigma1**2)
    derived = second.subs(NOTATION).subs(eta1, sp.sqrt(s))
    d.equal("with eta1^2 = s: beta2^2/beta1 in front", derived, square)
    code = beta2**2 * beta1 * c2**2 * sigma2**4 / sigma1**2
    d.equal("the published code's second threshold is too large by the factor", code / derived,
            beta1**2)  # fmt: skip
    third = sp.Rational(1, 3)
    g = sp.sqrt(beta1 * beta2 * c2) * sigma1 * sigma2
    omega = (sp.sqrt(beta2 * c2) * sigma1 / (beta1 * sigma2**2)) ** (2 * third)
    omega *= theta ** (2 * third) - square**third
    lambda_ = (sigma1**2 / (sp.sqrt(beta1 * beta2 * c2) * sigma2)) ** (2 * third)
    lambda_ *= theta ** (4 * third) - g ** (2 * third)
    cubes = {x: value.subs(p, cube) for x, value in both.items()}
    _singular_values(d, cubes, sigma2**2 * cube / a2, lambda_, omega, "Theorem 5")
    for name, point, other, sign in (
        ("z1 alone, x1 = log(a0/a1)/2", {x1: sp.log(a0 / a1) / 2, x2: 0}, slope2,
         a2 - sp.sqrt(a0 * a1)),
        ("z2 alone, x2 = log(a1/a2)/2", {x1: 0, x2: sp.log(a1 / a2) / 2}, slope1,
         sp.sqrt(a1 * a2) - a0),
    ):  # fmt: skip
        own = slope1 if other is slope2 else slope2
        d.equal(f"{name}: stationary", own.subs(point), sp.Integer(0))
        d.equal("optimal where the other slope is not negative", other.subs(point), sign)
    d.equal("both collapsed where a1 >= a0 ...", slope1.subs({x1: 0, x2: 0}), a1 - a0)
    d.equal("... and a2 >= a1", slope2.subs({x1: 0, x2: 0}), a2 - a1)


def _both_learned(d: Derivation, f: sp.Expr) -> None:
    """r and m are free on both levels."""
    best_m2 = d.root("both learned: stationary in m2", sp.diff(f, m2), m2)
    best_m1 = d.root("and in m1", sp.diff(f, m1), m1)
    d.positive("minimum in m2", sp.diff(f, m2, 2).subs(m2, best_m2))
    d.positive("and in m1", sp.diff(f, m1, 2).subs(m1, best_m1))
    f = tidy(_in_information(f.subs({m1: best_m1, m2: best_m2}), both_learned=True))
    claimed = a0 * sp.exp(-x1) + beta1 * x1 + (beta2 - beta1) * x2
    d.equal("up to a constant", f, claimed)
    slope = sp.diff(claimed, x2)
    d.positive("beta2 > beta1: the upper level collapses", slope.subs(beta2, beta1 + gap))
    d.equal(
        "beta2 = beta1: x2 changes nothing, a continuum", slope.subs(beta2, beta1), sp.Integer(0)
    )
    d.positive("beta2 < beta1: it falls linearly in x2, no minimum; minus its slope",
               -slope.subs(beta2, beta1 - gap))  # fmt: skip
    best = d.root("level 1 is the VAE's: slope in x1 is 0", sp.diff(claimed, x1), x1)
    r = sp.simplify(sp.exp(-best).subs(NOTATION))
    d.equal("r1 = min(1, this)", r, beta1 * s / theta**2, "r1_all_learned")


def _collapsed_hessian(d: Derivation, F: sp.Expr) -> None:
    """The same conditions from second derivatives in the raw weights, v1 fixed."""
    point = {u1: 0, w1: 0, u2: 0, w2: 0, v2: eta2**2}
    order = (u1, w1, u2, w2)
    H = d.show("Hessian in (u1, w1, u2, w2) where all weights are 0", hessian_at(F, order, point))
    d.equal("the two levels are separate", H[:2, 2:], sp.zeros(2, 2))
    lower = d.root("lower block singular at", sp.factor(H[:2, :2].det()), theta)
    d.equal("theta^2 = s a1", lower**2, s * beta1 * v1 / eta1**2)
    upper = d.root("upper block singular at", sp.factor(H[2:, 2:].det()), v1)
    d.equal("v1 = (beta2/beta1) eta1^2: active on encoder noise above", upper,
            d.results["z2_noise_threshold"])  # fmt: skip


def _in_information(f: sp.Expr, both_learned: bool = False) -> sp.Expr:
    """f in x = -log r without its constant, with the letters a0, a1, a2."""
    f = sp.expand_log(f.subs({r1: sp.exp(-x1), r2: sp.exp(-x2)}), force=True)
    f = sp.expand(f).subs(theta, sp.sqrt(a0 * s))
    if not both_learned:
        f = f.subs(eta1, sigma1 * sp.sqrt(beta1 / a1)).subs(eta2, sigma2 * sp.sqrt(beta2 / a2))
    f = sp.expand(sp.expand_log(f, force=True))
    return f - sp.Add(*(t for t in sp.Add.make_args(f) if not t.has(x1) and not t.has(x2)))


def _result(d: Derivation, statement: str, expression: sp.Expr, name: str) -> None:
    d.results[name] = d.show(statement, sp.simplify(expression.subs(NOTATION)))


def _singular_values(
    d: Derivation,
    x: dict[sp.Symbol, sp.Expr],
    second_moment_2: sp.Expr,
    lambda_squared: sp.Expr,
    omega_squared: sp.Expr,
    theorem: str,
) -> None:
    """Published singular values: lambda of the whitened W1, omega of U2, with eta1^2 = s."""
    inverse_r1, inverse_r2 = (sp.simplify(sp.exp(x[i])) for i in (x1, x2))
    first = sigma1**2 * (inverse_r1 - 1)  # w1^2 theta^2 = m1 - v1
    second = sigma1**2 * inverse_r1 * (1 - 1 / inverse_r2) / second_moment_2  # u2^2
    for name, derived, claimed in (
        ("lambda^2", first, lambda_squared),
        ("omega^2", second, omega_squared),
    ):
        value = sp.powdenest(sp.expand(derived.subs(NOTATION).subs(eta1, sp.sqrt(s))), force=True)
        d.equal(f"{theorem}, both active: {name}", value, claimed,
                f"{name[:-2]}_squared_{theorem.lower().replace(' ', '_')}")  # fmt: skip
