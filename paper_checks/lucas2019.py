"""Lucas, Tucker, Grosse, Norouzi 2019, "Don't blame the ELBO!" (NeurIPS 2019).

Abstract and introduction were read; formulas are from memory and derived again. Model: p(x|z) =
N(W z, s I), q(z|x) = N(V x, D) with D diagonal; loss of `dang2024.vae_loss` at beta = 1.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy.optimize import root as find_root

from linvae.spec import VAESpec
from linvae.theory import objective, solve
from paper_checks.checks import (
    DIFFERENCES,
    MINIMISED,
    ROUNDING,
    Array,
    Finding,
    Loss,
    Paper,
    Setting,
    critical_beta,
    curvature,
    eigenvalues,
    gradient,
    hessian,
    largest,
    minimise,
    not_checkable,
    settings,
    unpack,
)
from paper_checks.dang2024 import vae_loss
from paper_checks.tipping1999 import likelihood_loss, minus_log_likelihood

PAPER = Paper("lucas2019", "Lucas et al. 2019")
SAME = 1e-5  # relative to the loss: values of two stationary points that are one


def stationary_points(loss: Loss, size: int, seed: int, starts: int = 14) -> list[Array]:
    """Zeros of the gradient, saddles included, from random starts and from near the origin."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(starts):
        start = rng.normal(size=size) * (0.1 if number % 4 == 0 else 1.0)
        result = find_root(
            lambda x: gradient(loss, x)[1], start, jac=lambda x: hessian(loss, x), tol=1e-10
        )
        flat = np.abs(gradient(loss, result.x)[1]).max() < 1e-6
        if flat and np.abs(result.x).max() < 100:  # not a slope that fades out at infinity
            found.append(result.x)
    return found


def _spurious(loss: Loss, points: list[Array], best: float) -> tuple[int, int]:
    """Local minima that are not global, and how many different values the points have."""
    values = np.array([float(loss(x[None])[0]) for x in points])
    worse = values > best + SAME * max(1, abs(best))
    minima = [bool(w) and curvature(loss, x) > -1e-6 for x, w in zip(points, worse, strict=True)]
    return sum(minima), len(np.unique(np.round(values, 4)))


@PAPER.claim("abstract, no additional local maxima of the ELBO")
def no_spurious_maxima() -> Finding:
    """The ELBO of a linear VAE has no spurious local maximum."""
    spurious = total = kinds = 0
    for seed, (q, k) in enumerate((q, k) for q in settings(2, dim=2, seed=4) for k in (1, 2)):
        s = float(eigenvalues(q.C)[1]) * (0.7, 1.3)[seed // 2]
        loss = partial(vae_loss, A=q.C, k=k, beta=1.0, s=s, eta2=1.0)
        points = stationary_points(loss, 5 * k, seed)
        found = solve(VAESpec(k, decoder_variance=s), q.moments)
        best = 2 * found.objective - 2 * math.log(2 * math.pi * s)
        bad, values = _spurious(loss, points, best)
        spurious, total, kinds = spurious + bad, total + len(points), kinds + values
    note = f"d = 2, k = 1 and 2; {kinds} different values in 4 settings, all but the best saddles"
    return Finding(spurious, 0, f"of {total} stationary points", note)


@PAPER.claim("abstract, collapse from local maxima of the marginal likelihood")
def local_maxima_of_ppca() -> Finding:
    """The marginal likelihood of pPCA has local maxima that are not global (sigma^2 fixed)."""
    spurious = total = 0
    for seed, q in enumerate(settings(4, dim=2, seed=4)):
        k, values = 1 + seed % 2, eigenvalues(q.C)
        sigma2 = float(values[1]) * (0.7, 1.3)[seed // 2 % 2]
        loss = partial(likelihood_loss, S=q.C, q=k, sigma2=sigma2)
        points = stationary_points(loss, 2 * k, seed)
        kept = np.maximum(values[:k], sigma2)
        best = minus_log_likelihood(np.diag([*kept, *[sigma2] * (2 - k)]), np.diag(values))
        bad, _ = _spurious(loss, points, best)
        spurious, total = spurious + bad, total + len(points)
    learned = [
        curvature(partial(likelihood_loss, S=q.C, q=1), _collapsed_ppca(q.C))
        for q in settings(20, dim=2, seed=4)
    ]
    note = (
        f"{spurious} among {total} stationary points of 4 settings: a collapsed column is a "
        "maximum iff sigma^2 is above its eigenvalue, and then the global one; with sigma^2 "
        f"learned W = 0 is a maximum in {sum(value > -1e-6 for value in learned)} of 20 settings"
    )
    gap = max(0, 1 - spurious)  # the claim needs one
    return Finding(gap, 0, "such maxima missing", note, corrected=spurious)


def _collapsed_ppca(C: Array) -> Array:
    """W = 0 and log sigma^2 at its best."""
    return np.append(np.zeros(len(C)), math.log(float(np.trace(C)) / len(C)))


@PAPER.claim("abstract and theory, stability of a collapsed column")
def stability_of_collapse() -> Finding:
    """A collapsed unit is stable iff the decoder variance exceeds the eigenvalue it could take."""

    def gap(q: Setting) -> float:
        # scaling beta at fixed s is scaling s: both enter as beta s
        loss = lambda x, beta: vae_loss(x, q.C, 1, beta, q.s, 1.0)  # noqa: E731
        claimed = float(q.theta[0] ** 2 / q.s)
        return abs(critical_beta(loss, np.zeros(2 * len(q.C) + 1), claimed) / claimed - 1)

    gaps = [gap(q) for q in settings(10, seed=5)]
    return Finding(largest(gaps), DIFFERENCES, "relative", "curvature of the ELBO, 10 settings")


@PAPER.claim("abstract, identifiability")
def identifiable() -> Finding:
    """With exact inference the optimum has the principal directions as columns, R = I."""

    def gap(q: Setting, seed: int) -> float:
        d, k = len(q.C), 2
        s = float(eigenvalues(q.C)[2])
        x = minimise(partial(vae_loss, A=q.C, k=k, beta=1.0, s=s, eta2=1.0), 2 * d * k + k, seed)
        U = unpack(x[None, : d * k], (d, k))[0][0]
        rotated = np.linalg.eigh(q.C)[1].T @ U
        return float(np.sort(np.abs(rotated).ravel())[: d * k - k].max())  # one entry a column

    gaps = [gap(q, seed) for seed, q in enumerate(settings(5, dim=3, seed=6))]
    return Finding(largest(gaps), MINIMISED, "off the axes", "direct minimisation, 5 settings")


@PAPER.claim("theory (from memory), rotations")
def rotations_cost() -> Finding:
    """The marginal likelihood does not see a rotation of W, the ELBO with diagonal D does."""
    change, cost = [], []
    for q in settings(20, seed=7):
        s = float(eigenvalues(q.C)[2]) * 0.5
        spec = VAESpec(2, decoder_variance=s)
        found = solve(spec, q.moments)
        angle = 0.5
        R = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        U = found.weights["U"] @ R
        inverse = np.linalg.inv(U.T @ U + s * np.eye(2))
        D = np.diag(s / (np.sum(U**2, axis=0) + s))
        rotated = objective(spec, q.moments, {"U": U, "W": inverse @ U.T, "Sigma": D}).objective
        C = U @ U.T + s * np.eye(len(q.C))
        change.append(abs(minus_log_likelihood(C, q.C) - found.objective))
        cost.append(rotated - found.objective)
    note = f"ELBO lower by {min(cost):.2g} to {max(cost):.2g} nats at 0.5 rad, D at its best"
    gap = largest([*change, ROUNDING * 10 if min(cost) <= 0 else 0.0])
    return Finding(gap, ROUNDING, "nats of likelihood", note)


@PAPER.claim("theory (from memory), optimal encoder")
def optimal_encoder() -> Finding:
    """D = s (diag(W^T W) + s I)^-1 and V = (W^T W + s I)^-1 W^T at the optimum."""

    def gap(q: Setting) -> float:
        weights = solve(VAESpec(q.k, decoder_variance=q.s), q.moments).weights
        U = weights["U"]
        V = np.linalg.solve(U.T @ U + q.s * np.eye(q.k), U.T)
        D = np.diag(q.s / (np.sum(U**2, axis=0) + q.s))
        gaps = np.abs(weights["W"] - V).max(), np.abs(weights["Sigma"] - D).max()
        return float(max(gaps))

    return Finding(largest(gap(q) for q in settings(100)), ROUNDING, "", "100 settings")


@PAPER.claim("theory (from memory), the ELBO is tight at the optimum")
def tight() -> Finding:
    """At the optimum the ELBO equals the log-likelihood."""

    def gap(q: Setting) -> float:
        found = solve(VAESpec(q.k, decoder_variance=q.s), q.moments)
        U = found.weights["U"]
        return abs(found.objective - minus_log_likelihood(U @ U.T + q.s * np.eye(len(q.C)), q.C))

    return Finding(largest(gap(q) for q in settings(100)), ROUNDING, "nats", "100 settings")


@PAPER.claim("abstract, deep Gaussian VAEs")
def deep_networks() -> Finding:
    """Deep VAEs behave alike in the observation noise."""
    return not_checkable(
        "a statement about trained networks without a number at hand; thresholds of other "
        "networks are measured by `python -m linvae.compare`"
    )


@PAPER.claim("experiments, settings")
def noise_sweep() -> Finding:
    """Decoder variances from 30 down to 0.0001, 1000 points, 20,000 Adam steps, delta = 0.01."""
    return not_checkable(
        "settings, from memory or a third party's reimplementation; no official code was found, "
        "and no result goes with them"
    )
