"""Neighbouring papers, as far as a linear model can check them.

Alemi et al. 2018, "Fixing a broken ELBO": rate R, distortion D, H - D <= I <= R. Dai, Wang, Wipf
2020, "The usual suspects?": kinds of collapse. Sicks, Korn, Schwaar 2021: exponential families.
Statements are from memory; what is computed here stands on its own.
"""

from __future__ import annotations

import math

import numpy as np

from linvae.spec import VAESpec
from linvae.theory import objective, solve
from linvae.theory.free_bits import free_bits_optimum
from paper_checks.checks import (
    ROUNDING,
    Finding,
    Paper,
    Setting,
    eigenvalues,
    largest,
    not_checkable,
    settings,
)

PAPER = Paper("neighbours", "Neighbours")


@PAPER.claim("Alemi et al. 2018, H - D <= I <= R")
def information_between() -> Finding:
    """The mutual information lies between H - D and R for any encoder and decoder."""
    worst = -math.inf
    for seed, q in enumerate(settings(100)):
        rng = np.random.default_rng(seed)
        d = len(q.C)
        U, W = rng.normal(size=(d, q.k)) / 2, rng.normal(size=(q.k, d)) / 2
        v = np.exp(rng.normal(size=q.k) / 2)
        spec = VAESpec(q.k, decoder_variance=q.s, prior_variance=q.eta2)
        terms = objective(spec, q.moments, {"U": U, "W": W, "Sigma": np.diag(v)})
        entropy = (d * math.log(2 * math.pi * math.e) + np.linalg.slogdet(q.C)[1]) / 2
        information = (np.linalg.slogdet(W @ q.C @ W.T + np.diag(v))[1] - np.log(v).sum()) / 2
        worst = max(worst, entropy - terms.distortion - information, information - terms.rates[0])
    return Finding(float(worst), 0, "nats beyond", "random linear models, 100 settings")


@PAPER.claim("Alemi et al. 2018, frontier")
def slope_of_the_frontier() -> Finding:
    """On the optimal frontier dD/dR = -beta."""

    def gap(q: Setting) -> float:
        beta = 0.5 * float(eigenvalues(q.C)[0]) / q.s
        step = 1e-5
        low, high = (
            solve(VAESpec(q.k, beta=beta * factor, decoder_variance=q.s), q.moments)
            for factor in (1 - step, 1 + step)
        )
        slope = (high.distortion - low.distortion) / float(high.rates[0] - low.rates[0])
        return abs(slope / -beta - 1)

    return Finding(largest(gap(q) for q in settings(50)), 1e-5, "relative", "50 settings")


@PAPER.claim("linear model, rate-distortion frontier")
def reverse_water_filling() -> Finding:
    """Sweeping beta gives R = -1/2 sum log t_i and an error of min(zeta_i^2, beta s) per mode."""

    def gap(q: Setting) -> float:
        found = solve(VAESpec(4, beta=q.beta, decoder_variance=q.s), q.moments)
        level, values = q.beta * q.s, eigenvalues(q.C)
        rate = -np.log(np.minimum(1, level / values)).sum() / 2
        error = 2 * q.s * (found.distortion - 2 * math.log(2 * math.pi * q.s))
        wanted = np.minimum(values, level).sum()
        return float(max(abs(found.rates[0] - rate), abs(error - wanted)))

    return Finding(largest(gap(q) for q in settings(100)), ROUNDING, "", "water level beta s")


@PAPER.claim("linear model, bias and noise of an active mode")
def bias_and_noise() -> Finding:
    """Bias zeta^2 t^2 and noise zeta^2 t (1 - t) add up to beta eta_dec^2."""
    gaps = []
    for q in settings(50):
        found = solve(VAESpec(1, beta=q.beta, decoder_variance=q.s), q.moments)
        zeta2 = float(q.theta[0] ** 2)
        t = q.beta * q.s / zeta2
        if t >= 1:
            continue
        U, W, v = (found.weights[name] for name in ("U", "W", "Sigma"))
        direction = np.linalg.eigh(q.C)[1][:, -1]
        bias = zeta2 * (1 - float(direction @ U[:, 0]) * float(W[0] @ direction)) ** 2
        noise = float(np.sum(U**2)) * float(v[0, 0])
        gaps += [abs(bias - zeta2 * t**2), abs(noise - zeta2 * t * (1 - t))]
        gaps.append(abs(bias + noise - q.beta * q.s))
    return Finding(largest(gaps), ROUNDING, "data units^2", f"{len(gaps) // 3} settings")


@PAPER.claim("Dai et al. 2020, kinds (i) and (ii)")
def benign_collapse() -> Finding:
    """Units beyond the signal are pruned at the global optimum, all of them if s is too large."""
    wrong = 0
    for q in settings(50):
        values = eigenvalues(q.C)
        for s in (values[0] * 1.01, values[1] * 1.01, values[3] * 0.99):
            active = solve(VAESpec(6, decoder_variance=float(s)), q.moments).active_units[0]
            wrong += active != np.sum(values > s)
    return Finding(wrong, 0, "of 150 settings", "six units on four dimensions")


@PAPER.claim("Dai et al. 2020, kind (v), and Sicks et al. 2021")
def deep_and_discrete() -> Finding:
    """Bad local minima of deep autoencoders; optimum of the ELBO in exponential families."""
    return not_checkable(
        "the claim is about depth, which a linear model has none of (its only other stationary "
        "points are saddles, see Lucas et al.), and the conditions of Sicks et al. could not be "
        "read; Bernoulli and Poisson thresholds of linvae rest on its own derivation"
    )


@PAPER.claim("pre-training with free bits (code), target KL of 8")
def free_bits() -> Finding:
    """Free bits with a target of 8 nats keep a rate of 8 where the model alone would collapse."""
    gaps, betas = [], []
    for q in settings(30):
        s = float(q.theta[0] ** 2) * 1.5  # beyond the threshold at beta = 1
        found = free_bits_optimum(
            q.theta**2, latent_dim=4, floor_nats=8.0, decoder_variance=s, per="total"
        )
        gaps.append(abs(float(found.unit_rates_nats.sum()) - 8))
        level = float(found.squared_errors.max())
        plain = solve(VAESpec(4, beta=level / s, decoder_variance=s), q.moments)
        gaps.append(abs(float(plain.rates[0]) - 8))
        betas.append(level / s)
    note = (
        f"linear VAE, total floor, 30 settings: the optimum is that of beta = {min(betas):.2g} to "
        f"{max(betas):.2g}: a smaller beta, no more"
    )
    return Finding(largest(gaps), 1e-6, "nats", note)


@PAPER.claim("SA-VAE and pre-training (code), other settings")
def baselines() -> Finding:
    """Sizes, 20 refinement steps, warm-up and 30 epochs of SA-VAE; reset of the decoder."""
    return not_checkable(
        "settings; their repositories contain no result tables (nor do bn-vae, Implicit-LVM and "
        "pythae), so there is nothing to compare a run with"
    )


@PAPER.claim("all papers, where they appeared")
def bibliography() -> Finding:
    """Dates, versions, arXiv numbers and review scores (6, 6, 6, 6, 8 for Dang et al.)."""
    return not_checkable("facts about publications, on which no formula depends")
