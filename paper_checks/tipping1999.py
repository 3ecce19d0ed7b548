"""Tipping & Bishop 1999, "Probabilistic principal component analysis" (JRSS B 61).

x ~ N(mu, C) with C = W W^T + sigma^2 I; S the sample covariance (1/n) with eigenvalues lambda_j.
Read from memory and derived again; a linear VAE with beta = 1 and a learned decoder variance has
the same optimum.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import solve
from paper_checks.checks import (
    MINIMISED,
    ROUNDING,
    Array,
    Finding,
    Paper,
    Setting,
    curvature,
    eigenvalues,
    largest,
    minimise,
    settings,
    unpack,
)

PAPER = Paper("tipping1999", "Tipping & Bishop 1999")
RANDOM = 100


def minus_log_likelihood(C: Array, S: Array) -> float:
    """-1/n log-likelihood, nats per sample."""
    fit = np.trace(np.linalg.solve(C, S))
    return float(len(S) * math.log(2 * math.pi) + np.linalg.slogdet(C)[1] + fit) / 2


def maximum(S: Array, q: int) -> tuple[Array, float]:
    """W and sigma^2 of the global maximum, rotation R = I."""
    values, vectors = np.linalg.eigh(S)
    sigma2 = float(values[: len(S) - q].mean())
    scale = np.sqrt(values[len(S) - q :] - sigma2)
    return vectors[:, len(S) - q :] * scale, sigma2


def likelihood_loss(points: Array, S: Array, q: int, sigma2: float | None = None) -> Array:
    """minus_log_likelihood for many points; numbers: W and, unless fixed, log sigma^2."""
    d = len(S)
    W, *learned = unpack(points, (d, q), *([] if sigma2 is not None else [()]))
    noise = np.exp(learned[0]) if learned else np.full(len(points), sigma2)
    C = W @ np.swapaxes(W, 1, 2) + noise[:, None, None] * np.eye(d)
    fit = np.trace(np.linalg.solve(C, np.broadcast_to(S, C.shape)), axis1=1, axis2=2)
    return np.asarray(d * math.log(2 * math.pi) + np.linalg.slogdet(C)[1] + fit) / 2


@PAPER.claim("equations 7 and 8")
def maximum_likelihood() -> Finding:
    """W = U_q (Lambda_q - sigma^2 I)^(1/2), sigma^2 = mean of the discarded eigenvalues."""

    def gap(q: Setting, seed: int) -> float:
        W, sigma2 = maximum(q.C, q.k)
        claimed = minus_log_likelihood(W @ W.T + sigma2 * np.eye(len(q.C)), q.C)
        loss = partial(likelihood_loss, S=q.C, q=q.k)
        best = float(loss(minimise(loss, len(q.C) * q.k + 1, seed)[None])[0])
        return abs(claimed - best)

    gaps = [gap(q, seed) for seed, q in enumerate(settings(8, seed=3))]
    return Finding(largest(gaps), MINIMISED**2, "nats", "against direct minimisation, 8 settings")


@PAPER.claim("likelihood at the maximum")
def likelihood_at_the_maximum() -> Finding:
    """The maximum is -1/2 (sum log lambda_j + (d - q) log sigma^2 + d + d log 2 pi)."""

    def gap(q: Setting) -> float:
        values, d = eigenvalues(q.C), len(q.C)
        W, sigma2 = maximum(q.C, q.k)
        logs = np.log(values[: q.k]).sum() + (d - q.k) * math.log(sigma2)
        claimed = (logs + d + d * math.log(2 * math.pi)) / 2
        return abs(float(claimed) - minus_log_likelihood(W @ W.T + sigma2 * np.eye(d), q.C))

    return Finding(
        largest(gap(q) for q in settings(RANDOM)), ROUNDING, "nats", f"{RANDOM} settings"
    )


@PAPER.claim("equations 7 and 8, as a linear VAE")
def linear_vae_is_ppca() -> Finding:
    """beta = 1 and a learned decoder variance give the same covariance, sigma^2 and likelihood."""

    def gap(q: Setting) -> float:
        W, sigma2 = maximum(q.C, q.k)
        found = solve(VAESpec(q.k, decoder_variance="learned"), q.moments)
        U, s = found.weights["U"], found.decoder_variance
        C = W @ W.T + sigma2 * np.eye(len(q.C))
        gaps = [
            abs(s - sigma2),
            float(np.abs(U @ U.T + s * np.eye(len(C)) - C).max()),
            abs(found.objective - minus_log_likelihood(C, q.C)),
        ]
        return largest(gaps)

    return Finding(largest(gap(q) for q in settings(RANDOM)), ROUNDING, "", f"{RANDOM} settings")


@PAPER.claim("equations 7 and 8, scikit-learn on real digits")
def scikit_learn() -> Finding:
    """Noise variance and covariance of PCA on 1,797 digits are those of the linear VAE."""
    pixels = load_digits().data / 16
    n, gaps = len(pixels), []
    for q in (2, 10, 30):
        pca = PCA(q, svd_solver="full").fit(pixels)
        ratio = (n - 1) / n  # scikit-learn divides by n - 1
        found = solve(VAESpec(q, decoder_variance="learned"), Moments.from_data(pixels))
        U, s = found.weights["U"], found.decoder_variance
        gaps.append(abs(s - float(pca.noise_variance_) * ratio))
        C = U @ U.T + s * np.eye(64)
        gaps.append(float(np.abs(C - pca.get_covariance() * ratio).max()))
    return Finding(
        largest(gaps), ROUNDING, "pixels^2", "2, 10 and 30 components, (n - 1)/n applied"
    )


@PAPER.claim("posterior of the latents")
def posterior() -> Finding:
    """q(z|x) = N(M^-1 W^T x, sigma^2 M^-1) with M = W^T W + sigma^2 I is the optimal encoder."""

    def gap(q: Setting) -> float:
        found = solve(VAESpec(q.k, decoder_variance="learned"), q.moments)
        U, s = found.weights["U"], found.decoder_variance
        inverse = np.linalg.inv(U.T @ U + s * np.eye(q.k))
        mean = np.abs(found.weights["W"] - inverse @ U.T).max()
        return float(max(mean, np.abs(found.weights["Sigma"] - s * inverse).max()))

    return Finding(largest(gap(q) for q in settings(RANDOM)), ROUNDING, "", f"{RANDOM} settings")


@PAPER.claim("appendix A, other stationary points")
def other_stationary_points() -> Finding:
    """Keeping other than the q largest eigenvectors gives a saddle."""
    wrong = total = 0
    for q in settings(20):
        values, vectors = np.linalg.eigh(q.C)
        for chosen in ([0], [1], [2], [3]):  # one unit; 3 is the largest
            sigma2 = float(np.delete(values, chosen).mean())
            if values[chosen[0]] <= sigma2:
                continue  # below the noise: no such point
            W = vectors[:, chosen[0]] * math.sqrt(values[chosen[0]] - sigma2)
            point = np.append(W, math.log(sigma2))
            lowest = curvature(partial(likelihood_loss, S=q.C, q=1), point)
            total += 1
            wrong += (lowest < -1e-6) == (chosen == [3])
    return Finding(wrong, 0, f"of {total} points", "the largest one is the only minimum")


@PAPER.claim("appendix A, discarded columns")
def zero_columns() -> Finding:
    """A zero column is stable iff sigma^2 is at least the eigenvalue that it could take."""
    wrong = 0
    cases = settings(30)
    for number, q in enumerate(cases):
        values, vectors = np.linalg.eigh(q.C)
        factor = 0.9 if number % 2 else 1.1
        sigma2 = float(values[2] * factor)  # the first column takes the largest eigenvalue
        first = vectors[:, 3] * math.sqrt(max(values[3] - sigma2, 0))
        point = np.column_stack([first, np.zeros(4)]).ravel()
        stable = curvature(partial(likelihood_loss, S=q.C, q=2, sigma2=sigma2), point) > -1e-6
        wrong += stable != (sigma2 >= values[2])
    return Finding(wrong, 0, f"of {len(cases)} settings", "sigma^2 10 % above or below")
