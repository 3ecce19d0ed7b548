"""Remedies in the training objective: what each does to the threshold of one mode.

To the VAE's F is added

    "prior"         (gamma/2) E|mu(u z) - z|^2, z ~ N(0, eta^2)   latent reconstruction
    "posterior"     the same with z ~ q(z|y)
    "weight decay"  (kappa/2) (u^2 + w^2), w the raw encoder weight

with mu(u z) = w u z the encoder's mean of the decoder's mean. The Hessian at the collapsed point
gives each threshold. With z from q the collapsed encoder variance is no longer the prior's and the
threshold is implicit, but there is exactly one, and it is above gamma eta^2.
Sources: Song, Kim & Lee 2025 (latent reconstruction); the thresholds are ours.
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
    s,
    theta,
    u,
    v,
    w,
    y,
)

__all__ = ["derive", "objective"]

gamma, kappa = sp.symbols("gamma kappa", positive=True)
Objective = Callable[[str], sp.Expr]


def objective(remedy: str) -> sp.Expr:
    """F of the VAE plus the term of "prior", "posterior" or "weight decay"."""
    z = sp.Symbol("z", real=True)
    latent_error = (w * u * z - z) ** 2
    if remedy == "prior":
        extra = gamma / 2 * expectation(latent_error, {z: eta**2})
    elif remedy == "posterior":
        from_q = latent_error.subs(z, w * y + sp.sqrt(v) * e)
        extra = gamma / 2 * expectation(from_q, {y: theta**2, e: 1})
    else:
        extra = kappa / 2 * (u**2 + w**2)
    return vae.objective() + extra


def derive(objective: Objective = objective) -> Derivation:
    """All steps, from `objective`."""
    d = Derivation("Remedies", "ours; latent reconstruction after Song, Kim & Lee 2025")
    _latent_reconstruction_prior(d, objective("prior"))
    _latent_reconstruction_posterior(d, objective("posterior"))
    _weight_decay(d, objective("weight decay"))
    return d


def _determinant(d: Derivation, F: sp.Expr, v0: sp.Expr) -> sp.Expr:
    """Checks the collapsed point u = w = 0, v = v0; determinant of its Hessian in (u, w)."""
    point = {u: 0, w: 0, v: v0}
    d.equal("u = w = 0 is stationary in (u, w, v)", gradient_at(F, (u, w, v), point),
            sp.zeros(3, 1))  # fmt: skip
    H = d.show("Hessian in (u, w, v)", hessian_at(F, (u, w, v), point))
    d.equal("the variance is separate", H[:2, 2], sp.zeros(2, 1))
    d.positive("and stable", H[2, 2])
    d.positive("at most one direction of (u, w) is unstable: trace", H[:2, :2].trace())
    return d.show("determinant of the (u, w) block", sp.factor(H[:2, :2].det()))


def _latent_reconstruction_prior(d: Derivation, F: sp.Expr) -> None:
    d.show(
        "latent reconstruction, z from the prior: the added term", sp.factor(F - F.subs(gamma, 0))
    )
    determinant = _determinant(d, F, eta**2)
    critical = d.root("which vanishes at", determinant, beta)
    plain = theta**2 / s
    claimed = plain * (1 + gamma * eta**2 * s / theta**2) ** 2
    d.equal("critical beta", critical, claimed, "critical_beta_prior")
    d.positive("stable above it", determinant.subs(beta, critical * (1 + gap)))
    d.positive("above the plain threshold", sp.simplify(critical - plain))
    largest_gain = d.root("lowest over theta at theta^2 =", sp.diff(claimed, theta), theta) ** 2
    d.equal("so modes below gamma eta^2 s gain the more the less they carry", largest_gain,
            gamma * eta**2 * s)  # fmt: skip


def _latent_reconstruction_posterior(d: Derivation, F: sp.Expr) -> None:
    d.show("latent reconstruction, z from q: the added term", sp.factor(F - F.subs(gamma, 0)))
    at_zero = F.subs({u: 0, w: 0})
    v0 = d.root("collapsed encoder variance: dF/dv = 0", sp.diff(at_zero, v), v)
    d.equal("below the prior's", v0, beta * eta**2 / (beta + gamma * eta**2),
            "collapsed_variance_posterior")  # fmt: skip
    determinant = _determinant(d, F, v0)
    a, h = sp.symbols("a h", positive=True)  # theta^2/s, gamma eta^2
    pull = a + beta * h / (beta + h)  # theta^2/s + gamma v0
    determinant = sp.simplify(determinant.subs(gamma, h / eta**2).subs(theta, sp.sqrt(a * s)))
    d.equal("with a = theta^2/s, h = gamma eta^2: determinant", determinant, a * beta - pull**2)
    d.results["determinant_posterior"] = (a * beta - pull**2).subs(
        {a: theta**2 / s, h: gamma * eta**2}
    )
    root_a = sp.Symbol("root_a", positive=True)
    margin = (pull - sp.sqrt(a * beta)).subs(a, root_a**2)
    d.show("unstable where this is positive", margin)
    d.positive("beta <= h: beta h/(beta + h) >= beta/2, as", sp.simplify(
        (beta * h / (beta + h) - beta / 2).subs(h, beta * (1 + gap))))  # fmt: skip
    lowest = margin - beta * h / (beta + h) + beta / 2
    square = (root_a - sp.sqrt(beta) / 2) ** 2
    d.positive("and then a - sqrt(a beta) + beta/2 exceeds a square: unstable",
               sp.simplify(lowest - square))  # fmt: skip
    falls = -sp.diff(sp.log(pull / sp.sqrt(beta)), beta).subs(beta, h * (1 + gap))
    d.positive("beta = h (1 + gap): (a + gamma v0)/sqrt(beta) falls, so there is one threshold",
               sp.simplify(falls))  # fmt: skip


def _weight_decay(d: Derivation, F: sp.Expr) -> None:
    d.show("weight decay: the added term", sp.factor(F - F.subs(kappa, 0)))
    determinant = _determinant(d, F, eta**2)
    critical = d.root("which vanishes at", determinant, beta)
    claimed = eta**2 / theta**2 * (theta**4 / (s**2 * (eta**2 / s + kappa)) - kappa)
    d.equal("critical beta", critical, claimed, "critical_beta_weight_decay")
    d.equal("without decay: the plain threshold", claimed.subs(kappa, 0), theta**2 / s)
    d.positive("decay lowers it: minus its slope in kappa", -sp.diff(claimed, kappa))
    largest = (sp.sqrt(eta**4 + 4 * theta**4) - eta**2) / (2 * s)
    d.results["largest_weight_decay"] = d.show("collapsed at any beta from this kappa on", largest)
    d.equal("where the threshold is 0", claimed.subs(kappa, largest), sp.Integer(0))
