"""Independent oracles: brute force, sampling, and the checks that tests apply to a solution.

Everything here is written from the definitions of the models and shares no formula with
`linvae.theory`: the objective is assembled from the second moments E z_l z_l^T and
E z_l z_{l-1}^T of the encoder's chain, with a hand-derived gradient, and minimised over all
matrices from random starts; or its log densities are averaged over samples of the model.

A model is `Weights`: the encoder of level 1 acts on the joint vector v = (x, y) of condition and
target, the decoder of level 0 adds B x. What a specification cannot see or may not change is held
fixed by `Packing`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from linvae import spec as specs
from linvae.moments import Moments

# Tolerances. The minimiser stops at a gradient of 1e-9, where the objective is within about
# gradient^2/curvature of its minimum; the worst conditioned problems of the suite (a mode within a
# few per cent of its threshold) leave 1e-10. Rounding of sums of about 100 terms of size 1 to 10
# is below 1e-13.
RELATIVE_GAP = 1e-8  # solve and brute force, relative to the size of the objective (at least 1)
ABOVE = 1e-9  # solve may lie above brute force by rounding only
SAME = 1e-10  # solve and the objective of its own weights: the same number by two formulas
STANDARD_ERRORS = 6  # one false alarm in 5e8


# --- the objective from the definitions -------------------------------------------------------


@dataclass
class Weights:
    """One linear model: E (k_1, dx+d), B (d, dx), W[l] and U[l], Cholesky factors, log s."""

    E: np.ndarray
    B: np.ndarray
    W: list[np.ndarray]
    U: list[np.ndarray]
    L: list[np.ndarray]
    log_s: float


@dataclass(frozen=True)
class Setting:
    """The numbers of a problem: second moments of v = (x, y), betas, variances."""

    C: np.ndarray
    dx: int
    dims: tuple[int, ...]
    betas: tuple[float, ...]
    priors: tuple[float, ...]
    fixed: tuple[float | tuple[float, ...] | None, ...]
    s: float | None  # None: learned
    sees: str  # coordinates of v that the encoder sees: "x", "y" or "xy"
    conditional_decoder: bool
    gamma: float = 0.0  # latent reconstruction, plain VAE only
    kappa: float = 0.0  # weight decay
    source: str = "prior"  # of z in the latent reconstruction loss, or "posterior"

    @property
    def d(self) -> int:
        return len(self.C) - self.dx


def setting_of(spec, moments: Moments) -> Setting:
    """What a specification means on these moments, restated here on purpose."""
    has_condition = moments.condition_dim > 0
    conditional = isinstance(spec, (specs.CVAESpec, specs.HVAESpec)) and has_condition
    sees = "xy" if conditional else "x" if has_condition else "y"
    if getattr(spec, "encoder_sees", "both") == "target":
        sees = "y"
    learned = spec.decoder_variance == "learned"
    return Setting(
        C=np.asarray(moments.covariance),
        dx=moments.condition_dim,
        dims=tuple(spec.latent_dims),
        betas=tuple(spec.betas),
        priors=tuple(spec.prior_variances),
        fixed=tuple(spec.encoder_variances),
        s=None if learned else float(spec.decoder_variance),
        sees=sees,
        conditional_decoder=conditional,
        gamma=getattr(spec, "latent_reconstruction", 0.0),
        kappa=getattr(spec, "weight_decay", 0.0),
    )


def terms(p: Setting, w: Weights) -> tuple[float, np.ndarray]:
    """Distortion and rates from the second moments of the chain y, z_1 ... z_L."""
    levels = len(p.dims)
    S = [L @ L.T for L in w.L]
    target = np.eye(len(p.C))[p.dx :]
    F = target.copy()
    F[:, : p.dx] -= w.B
    below = [F @ p.C @ F.T]  # second moment of what level l has to predict
    cross = [w.E @ p.C @ F.T]  # E z_{l+1} (what it predicts)^T
    moments = [w.E @ p.C @ w.E.T + S[0]]
    for level in range(1, levels):
        below.append(moments[-1])
        cross.append(w.W[level - 1] @ moments[-1])
        moments.append(w.W[level - 1] @ moments[-1] @ w.W[level - 1].T + S[level])
    errors = [
        np.trace(A) - 2 * np.trace(U @ K) + np.trace(U @ M @ U.T)
        for A, K, M, U in zip(below, cross, moments, w.U, strict=True)
    ]
    errors.append(np.trace(moments[-1]))  # the top level predicts nothing: p(z_L) has mean 0
    s = np.exp(w.log_s)
    distortion = p.d / 2 * np.log(2 * np.pi * s) + errors[0] / (2 * s)
    rates = []
    for level in range(levels):
        k, eta2 = p.dims[level], p.priors[level]
        entropy = k / 2 * np.log(2 * np.pi * np.e) + np.sum(np.log(np.abs(np.diag(w.L[level]))))
        cross_entropy = k / 2 * np.log(2 * np.pi * eta2) + errors[level + 1] / (2 * eta2)
        rates.append(cross_entropy - entropy)
    return float(distortion), np.array(rates)


def value_and_gradient(p: Setting, w: Weights) -> tuple[float, Weights]:
    """Objective and its derivative with respect to every matrix (of L: lower triangle)."""
    levels = len(p.dims)
    s = np.exp(w.log_s)
    price = [1 / (2 * s), *(b / (2 * e) for b, e in zip(p.betas, p.priors, strict=True))]
    S = [L @ L.T for L in w.L]
    F = np.zeros((p.d, len(p.C)))
    F[:, p.dx :] = np.eye(p.d)
    F[:, : p.dx] = -w.B
    FC = F @ p.C
    EC = w.E @ p.C
    M = [EC @ w.E.T + S[0]]
    for level in range(1, levels):
        M.append(w.W[level - 1] @ M[-1] @ w.W[level - 1].T + S[level])
    K = [EC @ F.T, *(w.W[i] @ M[i] for i in range(levels - 1))]
    below = [np.vdot(FC, F), *(m.trace() for m in M)]
    diagonals = [L.diagonal() for L in w.L]
    value = p.d / 2 * np.log(2 * np.pi * s)
    error_0 = 0.0
    for level in range(levels + 1):
        error = below[level]
        if level < levels:
            error -= 2 * np.vdot(w.U[level].T, K[level])
            error += np.vdot(w.U[level] @ M[level], w.U[level])
        value += price[level] * error
        if level == 0:
            error_0 = error
        else:
            k, eta2 = p.dims[level - 1], p.priors[level - 1]
            log_det = 2 * np.log(np.abs(diagonals[level - 1])).sum()
            value += p.betas[level - 1] / 2 * (k * np.log(eta2) - k - log_det)

    dU = [2 * price[i] * (w.U[i] @ M[i] - K[i].T) for i in range(levels)]
    dW: list[np.ndarray] = [np.empty(0)] * (levels - 1)
    dL: list[np.ndarray] = [np.empty(0)] * levels
    circle = w.E[:, p.dx :] @ w.U[0] - np.eye(p.dims[0])
    of_draws = p.gamma / 2 * circle.T @ circle if p.source == "posterior" else 0.0
    G = np.empty(0)
    for level in range(levels - 1, -1, -1):  # G: derivative with respect to M[level]
        own = price[level] * w.U[level].T @ w.U[level] + price[level + 1] * np.eye(p.dims[level])
        if level < levels - 1:
            W = w.W[level]
            UW = w.U[level + 1] @ W
            dW[level] = 2 * G @ K[level + 1] - 2 * price[level + 1] * w.U[level + 1].T @ M[level]
            own += W.T @ G @ W - price[level + 1] * (UW + UW.T)
        G = own + (of_draws if level == 0 else 0.0)
        gradient = np.tril(2 * G @ w.L[level])
        gradient.flat[:: p.dims[level] + 1] -= p.betas[level] / diagonals[level]
        dL[level] = gradient
    dE = 2 * G @ EC - 2 * price[0] * w.U[0].T @ FC
    dB = -2 * price[0] * (FC - w.U[0] @ EC)[:, : p.dx]
    dlog_s = p.d / 2 - price[0] * error_0
    # E|W dec(z) - z|^2 = tr (W U - I) Z (W U - I)^T, Z the second moment of z
    Z = M[0] if p.source == "posterior" else p.priors[0] * np.eye(p.dims[0])
    slope = p.gamma * circle @ Z
    size = np.vdot(w.E, w.E) + np.vdot(w.U[0], w.U[0])
    value += np.vdot(slope, circle) / 2 + p.kappa / 2 * size
    dE[:, p.dx :] += slope @ w.U[0].T
    dE += p.kappa * w.E
    dU[0] = dU[0] + w.E[:, p.dx :].T @ slope + p.kappa * w.U[0]
    return float(value), Weights(dE, dB, dW, dU, dL, float(dlog_s))


class Packing:
    """Free numbers of a problem as one vector, and back."""

    def __init__(self, p: Setting) -> None:
        self.p = p
        lower, upper = {"x": (0, p.dx), "y": (p.dx, len(p.C)), "xy": (0, len(p.C))}[p.sees]
        self.seen = slice(lower, upper)
        self.tril = [np.tril_indices(k) for k in p.dims]
        self.diagonal = [np.flatnonzero(i == j) for i, j in self.tril]
        self.widths = (p.d, *p.dims)
        self.fixed = [  # Cholesky factors of the encoders that are not learned
            None if fixed is None else np.diag(np.sqrt(np.broadcast_to(fixed, k)))
            for k, fixed in zip(p.dims, p.fixed, strict=True)
        ]

    def unpack(self, vector: np.ndarray) -> Weights:
        p, at = self.p, 0

        def take(*shape: int) -> np.ndarray:
            nonlocal at
            size = math.prod(shape)
            at += size
            return vector[at - size : at].reshape(shape)

        E = np.zeros((p.dims[0], len(p.C)))
        E[:, self.seen] = take(p.dims[0], self.seen.stop - self.seen.start)
        B = take(p.d, p.dx) if p.conditional_decoder else np.zeros((p.d, p.dx))
        U = [take(a, b) for a, b in zip(self.widths, self.widths[1:], strict=False)]
        W = [take(b, a) for a, b in zip(p.dims, p.dims[1:], strict=False)]
        L = []
        for level, (k, fixed) in enumerate(zip(p.dims, self.fixed, strict=True)):
            if fixed is not None:
                L.append(fixed)
                continue
            entries = take(len(self.tril[level][0])).copy()
            entries[self.diagonal[level]] = np.exp(entries[self.diagonal[level]])
            factor = np.zeros((k, k))
            factor[self.tril[level]] = entries
            L.append(factor)
        log_s = float(take(1)[0]) if p.s is None else float(np.log(p.s))
        return Weights(E, B, W, U, L, log_s)

    def gradient(self, w: Weights, g: Weights) -> np.ndarray:
        p = self.p
        parts = [g.E[:, self.seen].ravel()]
        if p.conditional_decoder:
            parts.append(g.B.ravel())
        parts += [u.ravel() for u in g.U] + [m.ravel() for m in g.W]
        for level, fixed in enumerate(p.fixed):
            if fixed is None:
                entries = g.L[level][self.tril[level]]
                entries[self.diagonal[level]] *= w.L[level].diagonal()
                parts.append(entries)
        if p.s is None:
            parts.append(np.array([g.log_s]))
        return np.concatenate(parts)

    def pack(self, w: Weights) -> np.ndarray:
        """The vector of given weights: inverse of `unpack`."""
        logs = [L + np.diag(np.log(np.diag(L)) / np.diag(L) - np.diag(L)) for L in w.L]
        return self.gradient(w, dataclasses.replace(w, L=logs))

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Random weights of the size that the data and the variances suggest."""
        p = self.p
        scale = np.sqrt(np.trace(p.C[p.dx :, p.dx :]) / p.d)
        size = rng.uniform(0.2, 1.0)
        parts = [rng.normal(size=(p.dims[0], self.seen.stop - self.seen.start)) * size / scale]
        if p.conditional_decoder:
            parts.append(rng.normal(size=(p.d, p.dx)) * 0.3)
        parts += [
            rng.normal(size=a * b) * size
            for a, b in zip(self.widths, self.widths[1:], strict=False)
        ]
        parts += [rng.normal(size=a * b) * size for a, b in zip(p.dims, p.dims[1:], strict=False)]
        for k, fixed in zip(p.dims, p.fixed, strict=True):
            if fixed is None:
                parts.append(rng.normal(size=k * (k + 1) // 2) * 0.3)
        if p.s is None:
            parts.append(np.array([2 * np.log(scale) + rng.normal() * 0.5]))
        return np.concatenate([np.ravel(part) for part in parts])


# --- minimisation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The best point of several minimisations, and the values of all of them."""

    objective: float
    distortion: float
    rates: np.ndarray
    weights: Weights
    values: np.ndarray


def brute_force(
    spec, moments: Moments, n_starts: int = 4, seed: int = 0, source: str = "prior"
) -> Found:
    """Minimise the exact objective over all weights with L-BFGS from random starts.

    Stops early once two starts agree to 1e-10, and never before two have run. `source`: of z in the
    latent reconstruction loss.
    """
    p = dataclasses.replace(setting_of(spec, moments), source=source)
    packing = Packing(p)
    rng = np.random.default_rng(seed)

    def fun(vector: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            w = packing.unpack(vector)
            value, gradient = value_and_gradient(p, w)
            flat = packing.gradient(w, gradient)
        if not (np.isfinite(value) and np.all(np.isfinite(flat))):
            return 1e300, np.zeros_like(vector)  # the line search steps back
        return value, flat

    values: list[float] = []
    best = (np.inf, np.empty(0))
    for _ in range(n_starts):
        value, vector = _descend(fun, packing.start(rng))
        values.append(value)
        if value < best[0]:
            best = (value, vector)
        ordered = sorted(values)
        if len(values) > 1 and ordered[1] - ordered[0] < 1e-10 * max(1, abs(ordered[0])):
            break
    w = packing.unpack(best[1])
    distortion, rates = terms(p, w)
    return Found(best[0], distortion, rates, w, np.array(values))


def _descend(fun, vector: np.ndarray) -> tuple[float, np.ndarray]:
    """L-BFGS, then Newton steps in a trust region: L-BFGS alone crawls next to a threshold."""
    options = {"maxiter": 1500, "maxfun": 3000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 20}
    result = minimize(fun, vector, jac=True, method="L-BFGS-B", options=options)
    if np.abs(result.jac).max() < 1e-6:
        return float(result.fun), result.x

    def hessian(at: np.ndarray) -> np.ndarray:
        step = 1e-5 * np.eye(len(at))  # central differences of the analytic gradient
        columns = [(fun(at + h)[1] - fun(at - h)[1]) / 2e-5 for h in step]
        return (np.array(columns) + np.array(columns).T) / 2

    polished = minimize(
        fun, result.x, jac=True, hess=hessian, method="trust-exact",
        options={"gtol": 1e-8, "maxiter": 60},
    )  # fmt: skip
    better = polished if polished.fun < result.fun else result
    return float(better.fun), better.x


# --- sampling ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampled:
    """Monte-Carlo means and standard errors of (objective, distortion, rate_1 ... rate_L)."""

    mean: np.ndarray
    standard_error: np.ndarray


def sample_terms(p: Setting, w: Weights, data: np.ndarray, n: int, seed: int) -> Sampled:
    """Draw rows of `data` = (condition, target), latents, and average the log densities."""
    rng = np.random.default_rng(seed)
    v = data[rng.integers(len(data), size=n)]
    z, log_q = [], []
    mean = v @ w.E.T
    for level, L in enumerate(w.L):
        if level > 0:
            mean = z[-1] @ w.W[level - 1].T
        noise = rng.normal(size=mean.shape)
        z.append(mean + noise @ L.T)
        log_q.append(_log_normal(noise, 1.0) - np.log(np.abs(np.diag(L))).sum())
    reconstruction = z[0] @ w.U[0].T + v[:, : p.dx] @ w.B.T
    distortion = -_log_normal(v[:, p.dx :] - reconstruction, np.exp(w.log_s))
    rates = []
    for level, eta2 in enumerate(p.priors):
        top = level + 1 == len(p.priors)
        predicted = 0.0 if top else z[level + 1] @ w.U[level + 1].T
        rates.append(log_q[level] - _log_normal(z[level] - predicted, eta2))
    objective = distortion + sum(b * r for b, r in zip(p.betas, rates, strict=True))
    draws = np.stack([objective, distortion, *rates])
    return Sampled(draws.mean(axis=1), draws.std(axis=1) / np.sqrt(n))


def _log_normal(residual: np.ndarray, variance: float) -> np.ndarray:
    """log density of N(0, variance I) of every row."""
    k = residual.shape[1]
    return -k / 2 * np.log(2 * np.pi * variance) - np.sum(residual**2, axis=1) / (2 * variance)


# --- weights by name, and back ----------------------------------------------------------------


def random_weights(spec, moments: Moments, seed: int) -> Weights:
    """A point far from the optimum."""
    packing = Packing(setting_of(spec, moments))
    return packing.unpack(packing.start(np.random.default_rng(seed)))


def to_names(w: Weights, spec, moments: Moments) -> dict[str, np.ndarray]:
    """The same weights under the names that `linvae.theory.objective` documents."""
    p = setting_of(spec, moments)
    on_x, on_y = w.E[:, : p.dx], w.E[:, p.dx :]
    S = [L @ L.T for L in w.L]
    if isinstance(spec, specs.HVAESpec):
        named = {f"U{i}": U for i, U in enumerate(w.U, start=1)}
        named |= {f"W{i}": W for i, W in enumerate([on_y, *w.W], start=1)}
        named |= {f"Sigma{i}": value for i, value in enumerate(S, start=1)}
        if p.dx:
            named |= {"A": on_x, "B": w.B}
    elif isinstance(spec, specs.CVAESpec):
        named = {"W1": on_x, "W2": on_y, "U1": w.U[0], "U2": w.B, "Sigma": S[0]}
    else:
        named = {"W": on_x if p.sees == "x" else on_y, "U": w.U[0], "Sigma": S[0]}
    if p.s is None:
        named["s"] = np.array(np.exp(w.log_s))
    return named


def from_names(named, spec, moments: Moments) -> Weights:
    """Weights of a solution in the form of this file."""
    p = setting_of(spec, moments)
    levels = range(1, len(p.dims) + 1)
    E, B = np.zeros((p.dims[0], len(p.C))), np.zeros((p.d, p.dx))
    on_x, on_y = E[:, : p.dx], E[:, p.dx :]
    if isinstance(spec, specs.HVAESpec):
        on_y[:] = named["W1"]
        if p.dx:
            on_x[:], B[:] = named["A"], named["B"]
        W = [named[f"W{i}"] for i in levels][1:]
        U = [named[f"U{i}"] for i in levels]
        S = [named[f"Sigma{i}"] for i in levels]
    else:
        W, S = [], [named["Sigma"]]
        if isinstance(spec, specs.CVAESpec):
            on_x[:], on_y[:], B[:], U = named["W1"], named["W2"], named["U2"], [named["U1"]]
        else:
            (on_x if p.sees == "x" else on_y)[:] = named["W"]
            U = [named["U"]]
    s = named["s"] if p.s is None else p.s
    return Weights(E, B, list(W), list(U), [np.linalg.cholesky(m) for m in S], float(np.log(s)))


def signal_fractions(p: Setting, w: Weights) -> list[np.ndarray]:
    """1 - r of every unit of every level: eigenvalues of M^-1 (M - Sigma), descending."""
    fractions = []
    before, weights = p.C, [w.E, *w.W]
    for matrix, L in zip(weights, w.L, strict=True):
        signal, noise = matrix @ before @ matrix.T, L @ L.T
        before = signal + noise
        values = np.linalg.eigvals(np.linalg.solve(before, signal)).real
        fractions.append(np.sort(values)[::-1])
    return fractions


def mean_squared_error(p: Setting, w: Weights) -> float:
    """E|y - yhat|^2, read off the distortion."""
    s = np.exp(w.log_s)
    return 2 * s * (terms(p, w)[0] - p.d / 2 * np.log(2 * np.pi * s))


# --- the checks that the tests and their negative controls share ------------------------------


def assert_is_minimum(claimed: float, found: Found) -> None:
    """The claimed optimum is the value that brute force reaches, and no start went below it."""
    size = max(1.0, abs(found.objective))
    lowest = found.values.min()
    assert claimed - lowest <= ABOVE * size, f"brute force is lower by {claimed - lowest:.3g}"
    assert lowest - claimed <= RELATIVE_GAP * size, f"no start reached it: {lowest - claimed:.3g}"


def assert_same_terms(claimed, expected, tolerance: float = SAME) -> None:
    """Objective, distortion and rates of two records agree."""
    np.testing.assert_allclose(claimed.objective, expected.objective, rtol=0, atol=tolerance)
    np.testing.assert_allclose(claimed.distortion, expected.distortion, rtol=0, atol=tolerance)
    np.testing.assert_allclose(claimed.rates, expected.rates, rtol=0, atol=tolerance)


def assert_matches_samples(claimed, sampled: Sampled) -> None:
    """Every term within six standard errors of its sampled value."""
    values = np.array([claimed.objective, claimed.distortion, *claimed.rates])
    # where every draw is the same number (a collapsed level: KL 0) only rounding is left
    distance = np.abs(values - sampled.mean) / (sampled.standard_error + 1e-12)
    assert np.all(distance < STANDARD_ERRORS), f"standard errors away: {distance}"


def assert_stationary(p: Setting, w: Weights) -> None:
    """The gradient with respect to every free number vanishes, relative to the data's size."""
    packing = Packing(p)
    gradient = packing.gradient(w, value_and_gradient(p, w)[1])
    # entries are sums of about 20 products of size up to 1/s: rounding stays below 1e-12/s
    assert np.abs(gradient).max() <= 1e-10 / min(1.0, np.exp(w.log_s))


def with_decoder_variance(spec, value: float):
    """The same specification with another decoder variance."""
    return dataclasses.replace(spec, decoder_variance=value)
