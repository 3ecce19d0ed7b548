"""Lagging inference: how fast gradient flow leaves the collapsed point, one mode.

    du/dt = -dF/du,  d(encoder)/dt = -dF/d(encoder)

linearised where u = w = 0, v = eta^2. Three flows: joint updates with a whitened encoder (its
weight lambda acts on y/theta), joint updates with the raw encoder weight w, and an encoder that is
always at its best response (aggressive training in the limit). The largest eigenvalue is the escape
rate: all three change sign at theta^2 = beta s, so aggressive training moves no threshold. Near
it both rates vanish linearly (critical slowing down).
Sources: He et al. 2019 (the phenomenon); the rates are ours.
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
    theta,
    tidy,
    u,
    v,
    w,
)

__all__ = ["derive", "objective"]

lam = sp.Symbol("lambda", real=True)  # whitened encoder weight theta w
objective = vae.objective
Objective = Callable[[], sp.Expr]


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective` of one mode."""
    d = Derivation("Escape from the collapsed point", "ours; He et al. 2019 for the setting")
    F = d.show("objective of one mode, nats per sample: F =", objective())
    whitened = F.subs(w, lam / theta)
    J = _joint(d, whitened, lam, "joint, whitened encoder")
    claimed = sp.Matrix([[-(eta**2) / s, theta / s], [theta / s, -beta / eta**2]])
    d.equal("flow matrix", J, claimed)
    _escape(d, J, "joint")
    raw = _joint(d, F, w, "joint, raw encoder")
    scale = sp.diag(1, theta)
    in_lambda = (scale * raw * scale.inv()).applyfunc(sp.simplify)
    d.equal("in lambda = theta w: the encoder's row times theta^2", in_lambda,
            sp.diag(1, theta**2) * claimed)  # fmt: skip
    _escape(d, raw, "raw")
    _aggressive(d, whitened)
    _compare(d)
    _example(d)
    return d


def _joint(d: Derivation, F: sp.Expr, encoder: sp.Symbol, name: str) -> sp.Matrix:
    """Minus the Hessian in (u, encoder); the variance decays on its own."""
    point = {u: 0, encoder: 0, v: eta**2}
    variables = (u, encoder, v)
    d.equal(f"{name}: the collapsed point is at rest", gradient_at(F, variables, point),
            sp.zeros(3, 1))  # fmt: skip
    J = -hessian_at(F, variables, point)
    d.equal("the variance is separate", J[:2, 2], sp.zeros(2, 1))
    d.positive("and decays at the rate", -J[2, 2])
    return J[:2, :2]


def _escape(d: Derivation, J: sp.Matrix, name: str) -> None:
    """Largest eigenvalue of a 2 x 2 flow with negative trace: its sign is that of -det."""
    trace, determinant = J.trace(), sp.factor(J.det())
    d.positive("trace is negative; minus it", -trace)
    critical = d.root("determinant is 0 at", determinant, beta)
    d.equal("sign changes at theta^2 = beta s", critical, theta**2 / s)
    rate = (trace + sp.sqrt(trace**2 - 4 * determinant)) / 2
    characteristic = sp.expand(rate**2 - trace * rate + determinant)
    d.equal("escape rate: a root of the characteristic polynomial", characteristic, sp.Integer(0))
    d.results[f"escape_rate_{name}"] = d.show("escape rate", rate)
    d.positive("below the threshold (theta^2 = beta s (1 + gap)) it escapes: minus determinant",
               -determinant.subs(theta, sp.sqrt(beta * s * (1 + gap))))  # fmt: skip


def _aggressive(d: Derivation, F: sp.Expr) -> None:
    """The decoder alone, on F minimised over the encoder."""
    best = {
        x: d.root(f"aggressive: best response, dF/d{x} = 0", sp.diff(F, x), x) for x in (lam, v)
    }
    G = tidy(F.subs(best))
    rate = -sp.diff(G, u, 2).subs(u, 0)
    d.equal("at rest in u = 0", sp.diff(G, u).subs(u, 0), sp.Integer(0))
    d.equal("escape rate", sp.simplify(rate), eta**2 / s * (theta**2 / (beta * s) - 1),
            "escape_rate_aggressive")  # fmt: skip


def _compare(d: Derivation) -> None:
    """First order in the distance to the threshold, theta^2 = beta s (1 + gap)."""
    at = {theta: sp.sqrt(beta * s * (1 + gap))}
    joint, aggressive = (
        sp.limit(sp.simplify(d.results[f"escape_rate_{name}"].subs(at)) / gap, gap, 0)
        for name in ("joint", "aggressive")
    )
    d.equal("near the threshold, rate/gap: joint", joint, beta / s / (eta**2 / s + beta / eta**2))
    d.equal("aggressive", aggressive, eta**2 / s)
    d.equal("speed-up there", aggressive / joint, 1 + eta**4 / (beta * s), "speed_up_at_threshold")


def _example(d: Derivation) -> None:
    """The numbers of an example: eta = 1, s = 1/4, beta = 1, theta = 1.2."""
    at = {eta: 1, s: sp.Rational(1, 4), beta: 1, theta: sp.Rational(6, 5)}
    for name in ("joint", "raw", "aggressive"):
        rate = d.results[f"escape_rate_{name}"].subs(at)
        d.show(f"eta = 1, s = 0.25, beta = 1, theta = 1.2: {name}", sp.N(rate, 5))
