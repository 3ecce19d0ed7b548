"""Li, Zhang, Zhang, Chen 2025, "Posterior collapse as a phase transition" (arXiv 2510.01621).

Prior N(0, I_n), decoder N(f(z), s^2 I_N), diagonal Gaussian encoder; free energy
F = E|x - f(z)|^2/(2 s^2) + 1/2 E sum_j (mu_j^2 + sigma_j^2 - ln sigma_j^2). Here `s` is their s^2.
The follow-up is "Residual spectral instabilities in representation learning".
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from linvae.spec import VAESpec
from linvae.theory import objective, solve
from paper_checks.checks import (
    DIFFERENCES,
    ROUNDING,
    Array,
    Finding,
    Paper,
    Setting,
    crossing,
    curvature,
    diagonal,
    eigenvalues,
    largest,
    not_checkable,
    settings,
    unpack,
)
from paper_checks.dang2024 import vae_loss

PAPER = Paper("li2025", "Li et al. 2025")


def free_energy(U: Array, W: Array, v: Array, C: Array, s: float) -> float:
    """F of a linear model."""
    error = U @ W - np.eye(len(C))
    square = np.sum(error @ C * error) + np.sum(U**2 * v)
    return float(square / (2 * s) + (np.sum(W @ C * W) + np.sum(v - np.log(v))) / 2)


def trivial_elbo(C: Array, s: float) -> float:
    """ELBO of the collapsed point f = E x, mu = 0, sigma = 1."""
    return -(len(C) / 2) * math.log(2 * math.pi * s) - float(np.trace(C)) / (2 * s)


def kl_below(t: float) -> tuple[float, float]:
    """Mean part and variance part of the KL of an active mode, t = s/lambda < 1."""
    return (1 - t) / 2, (t - 1 - math.log(t)) / 2


@PAPER.claim("model, free energy")
def free_energy_is_the_objective() -> Finding:
    """The free energy is the negative ELBO up to (N/2) ln(2 pi s^2) - n/2."""

    def gap(q: Setting, seed: int) -> float:
        x = np.random.default_rng(seed).normal(size=2 * len(q.C) * q.k + q.k)
        U, W, log_v = unpack(x[None], (len(q.C), q.k), (q.k, len(q.C)), (q.k,))
        weights = {"U": U[0], "W": W[0], "Sigma": np.diag(np.exp(log_v[0]))}
        found = objective(VAESpec(q.k, decoder_variance=q.s), q.moments, weights).objective
        constant = len(q.C) / 2 * math.log(2 * math.pi * q.s) - q.k / 2
        claimed = free_energy(U[0], W[0], np.exp(log_v[0]), q.C, q.s) + constant
        return abs(found - claimed) / abs(claimed)

    gaps = (gap(q, seed) for seed, q in enumerate(settings(100)))
    return Finding(largest(gaps), ROUNDING, "relative", "random weights, 100 settings")


@PAPER.claim("trivial solution")
def trivial_point() -> Finding:
    """The trivial point is stationary, its ELBO -(N/2) ln(2 pi s^2) - Tr(Sigma)/(2 s^2)."""

    def gap(q: Setting) -> float:
        found = solve(VAESpec(q.k, decoder_variance=50.0), q.moments)  # far above every eigenvalue
        return abs(found.objective + trivial_elbo(q.C, 50.0))

    def slope(q: Setting) -> float:
        x = np.zeros(2 * len(q.C) * q.k + q.k)
        loss = partial(vae_loss, A=q.C, k=q.k, beta=1.0, s=q.s, eta2=1.0)
        step = 1e-5 * np.eye(len(x))
        return float(np.abs(loss(x + step) - loss(x - step)).max()) / 2e-5

    gaps = [max(gap(q), slope(q)) for q in settings(20)]
    return Finding(largest(gaps), ROUNDING, "nats, and slope", "20 settings")


@PAPER.claim("abstract and stability analysis, criterion")
def criterion() -> Finding:
    """The trivial solution loses stability where s^2 falls below the largest eigenvalue."""

    def gap(q: Setting) -> float:
        top = float(q.theta[0] ** 2)
        point = np.zeros(2 * len(q.C) + 1)

        def lowest(s: float) -> float:
            return curvature(partial(vae_loss, A=q.C, k=1, beta=1.0, s=s, eta2=1.0), point)

        return abs(crossing(lowest, top) / top - 1)

    gaps = [gap(q) for q in settings(10)]
    return Finding(largest(gaps), DIFFERENCES, "relative", "curvature, 10 settings")


@PAPER.claim("stability analysis beside Wang & Ziyin 2022")
def same_criterion() -> Finding:
    """The criterion is that of the beta-VAE with beta eta_dec^2 = s^2."""
    gaps = []
    for q in settings(50):
        found = solve(VAESpec(1, beta=q.beta, decoder_variance=q.s), q.moments)
        gaps.append(abs(float(found.critical_beta[0]) * q.s / eigenvalues(q.C)[0] - 1))
    return Finding(largest(gaps), ROUNDING, "relative", "50 settings")


@PAPER.claim("abstract, discontinuity of the KL")
def discontinuity() -> Finding:
    """The KL jumps at the critical decoder variance."""
    offsets = [1e-2, 1e-4, 1e-6, 1e-8]
    rates = [
        float(solve(VAESpec(1, decoder_variance=1 - e), diagonal([1.0])).rates[0]) for e in offsets
    ]
    above = float(solve(VAESpec(1, decoder_variance=1 + 1e-8), diagonal([1.0])).rates[0])
    jump = rates[-1] - above
    slope = (rates[2] - rates[3]) / (offsets[3] - offsets[2])
    note = (
        "linear model: KL " + ", ".join(f"{rate:.2g}" for rate in rates) + " nats at 1e-2, 1e-4, "
        f"1e-6, 1e-8 below the threshold: it is continuous and its slope jumps, from {slope:.4f} "
        "to 0 nats per unit of s^2 at eigenvalue 1"
    )
    # a slope of 1/2 leaves 5e-9 at the last point
    missing = 0.0 if jump > 1e-7 else 1.0
    return Finding(missing, 1e-3, "jumps missing", note, corrected=abs(slope + 0.5))


@PAPER.claim("abstract v2, derivatives of the KL")
def non_analytic() -> Finding:
    """The derivative of the KL is non-analytic: it jumps by 1/(2 lambda)."""
    gaps = []
    for eigenvalue in (0.3, 1.0, 4.0):
        e = 1e-6 * eigenvalue
        below, above = (
            float(
                solve(VAESpec(1, decoder_variance=eigenvalue + d), diagonal([eigenvalue])).rates[0]
            )
            for d in (-e, e)
        )
        gaps.append(abs((below - above) / e * 2 * eigenvalue - 1))
    # the second derivative leaves e/lambda = 1e-6 of the slope, and rounding 1e-16/1e-6
    return Finding(largest(gaps), 1e-5, "relative, of the jump", "eigenvalues 0.3, 1, 4")


@PAPER.claim("linear model, parts of the KL")
def parts_of_the_kl() -> Finding:
    """Mean part (1 - t)/2 and variance part (t - 1 - log t)/2 add up to -log(t)/2."""
    gaps = []
    for t in (0.05, 0.5, 0.999):
        found = solve(VAESpec(1, decoder_variance=t), diagonal([1.0]))
        mean, variance = kl_below(t)
        gaps.append(abs(float(found.weights["W"][0, 0]) ** 2 / 2 - mean))
        gaps.append(abs(float(found.rates[0]) - mean - variance))
        gaps.append(abs(mean + variance + math.log(t) / 2))
    return Finding(largest(gaps), ROUNDING, "nats", "t = 0.05, 0.5, 0.999")


# --- follow-up: partial collapse ----------------------------------------------------------------


def quadratic_form(L: float, s: float) -> Array:
    """[[1/s, -sqrt(L)/s], [-sqrt(L)/s, 1]] in (decoder, encoder) of a collapsed unit."""
    return np.array([[1 / s, -math.sqrt(L) / s], [-math.sqrt(L) / s, 1]])


def _lowest(L: float, s: float) -> float:
    return float(np.linalg.eigvalsh(quadratic_form(L, s))[0])


@PAPER.claim("follow-up, quadratic form of a collapsed unit")
def residual_form() -> Finding:
    """[[1/s^2, -sqrt(L)/s^2], [-sqrt(L)/s^2, 1]] loses positivity at L = s^2."""
    gaps = []
    for s in (0.1, 1.0, 7.0):
        found = crossing(partial(_lowest, s=s), s)
        gaps.append(abs(found / s - 1))
    return Finding(largest(gaps), ROUNDING, "relative", "s^2 = 0.1, 1, 7")


def residual_edge(C: Array, k: int, s: float) -> float:
    """Lambda*(A) of a linear model: top eigenvalue of Cov(x|z_A), A the first k units."""
    found = solve(VAESpec(k, decoder_variance=s), diagonal(eigenvalues(C)))
    W, Sigma = found.weights["W"], found.weights["Sigma"]
    S = np.diag(eigenvalues(C))
    cross = S @ W.T
    residual = S - cross @ np.linalg.solve(W @ cross + Sigma, cross.T)
    return float(eigenvalues(residual)[0])


@PAPER.claim("follow-up, Lambda*(A) in linear models")
def residual_spectrum() -> Finding:
    """Lambda*(A) is the next principal variance; what z_A carries leaves s^2 of its own."""
    gaps = []
    for q in settings(30):
        values = eigenvalues(q.C)
        s = float(values[1]) * 0.8  # the first two are worth coding
        for k in (1, 2):
            gaps.append(abs(residual_edge(q.C, k, s) - max(float(values[k]), s)))
    note = "Cov(x|z_A) from the optimal weights: max(next eigenvalue, s^2), 60 cases"
    return Finding(largest(gaps), ROUNDING, "data units^2", note)


@PAPER.claim("follow-up, reactivation")
def reactivation() -> Finding:
    """A collapsed unit beside the active set A can reactivate iff s^2 < Lambda*(A)."""
    wrong = total = 0
    for number, q in enumerate(settings(30)):
        values = eigenvalues(q.C)
        s = float(values[1]) * (0.9, 1.1)[number % 2]
        if s >= values[0]:
            continue
        C = np.diag(values)
        found = solve(VAESpec(1, decoder_variance=s), diagonal(values))
        U = np.column_stack([found.weights["U"][:, 0], np.zeros(4)])
        W = np.vstack([found.weights["W"][0], np.zeros(4)])
        log_v = np.log([found.weights["Sigma"][0, 0], 1.0])
        point = np.concatenate([U.ravel(), W.ravel(), log_v])
        loss = partial(vae_loss, A=C, k=2, beta=1.0, s=s, eta2=1.0)
        unstable = curvature(loss, point) < -1e-5
        total += 1
        wrong += unstable != (s < residual_edge(C, 1, s) - 1e-9)
    return Finding(wrong, 0, f"of {total} settings", "curvature of the partially collapsed point")


@PAPER.claim("experiments")
def experiments() -> Finding:
    """Experiments on networks."""
    return not_checkable(
        "neither settings nor numbers could be read: there is nothing to compare a run with"
    )
