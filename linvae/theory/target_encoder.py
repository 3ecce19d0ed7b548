"""A conditional VAE whose encoder sees the target only: one unit, solved for any target.

    q(z|y) = N(w.y, sigma^2),   p(y|z,x) = N(u z + B x, s I),   p(z) = N(0, eta^2)

What z tells the decoder is counted in R = Cov(y|x), for B x takes the rest; what it costs is
counted in C = Cov(y) >= R, for the encoder cannot subtract what x explains. Minimised over B, w and
sigma^2 the objective depends on the decoder weight alone. Write u = v sqrt(beta s T)/eta, |v| = 1:

    gain of the unit = 1/2 [ v.M(T) v / s - beta log(1 + T) ]             sigma^2 learned
    gain of the unit = 1/2 [ v.M(T) v / s - beta T sigma^2/eta^2 ]        sigma^2 fixed
    M(T) = R (R + C/T)^-1 R,   w = eta^2/(beta s) (T R + C)^-1 R u,   sigma^2 = eta^2/(1 + T)

so v is the leading eigenvector of M(T), and one number T is left to find; 0 is collapse. The
directions of several units may be taken orthogonal (encoder variances learned, or equal; different
ones cost no less than the smallest for all) and their gains then add up, so for any number of them
total collapse is the optimum iff beta exceeds

    beta_c = 1/s sup_T lambda_max(M(T)) / log(1 + T)

At T -> 0 this is lambda_max(R C^-1 R)/s, the threshold of stability. Where a larger T has more the
transition is of first order. M(T)/T falls with T, so with sigma^2 fixed it never is.

| symbol   | argument                          | shape  | unit         |
|----------|-----------------------------------|--------|--------------|
| R, C     | Moments.residual_covariance, .target_covariance | (d, d) | data units^2 |
| s, eta^2 | decoder_variance, prior_variance  | scalar | data units^2, latent units^2 |
| beta     | beta                              | scalar | -            |
| u, v; w  | weights "U1", "W2"                | (d,)   | data/latent, latent/data |
| sigma^2  | encoder_variance, weight "Sigma"  | scalar | latent units^2 |
| T        | squared weight of the decoder, eta^2 |u|^2/(beta s) | scalar | - |

A scalar target: (T R + C)^2 beta s = R^2 C (1 + T) where T is stationary, so for rho^2 > 1/2 there
are alive optima up to beta s = C (1 - rho^2)/(4 rho^2). Source: ours; Dang et al. 2024 treat an
encoder that sees both. Equality that a test checks: brute force over all weights.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from linvae.moments import Moments
from linvae.spec import CVAESpec
from linvae.theory.arguments import check_pair, in_doubles
from linvae.theory.eigenvalues import largest_eigenvalues
from linvae.theory.elbo import Chain, chain_terms
from linvae.theory.modes import mode_decomposition, require_condition
from linvae.theory.solution import ROUNDING, Solution, rounding_of

__all__ = ["solve_target_encoder", "target_encoder_critical_beta"]

Array = npt.NDArray[np.float64]
GRID = np.geomspace(1e-6, 1, 97)  # values of log(1 + T) tried first, as shares of the largest
RESTARTS = 20  # of the iteration, about as long as finding all eigenvalues
DENSE = 250  # dimensions up to which all eigenvalues cost less than an iteration for the first


@in_doubles
def target_encoder_critical_beta(spec: CVAESpec, moments: Moments) -> float:
    """Beta above which total collapse is the optimum, for any number of units; 0 if always.

    At least the first value of `linvae.stability`, equal where the transition is continuous. Of
    encoder variances fixed to a diagonal the smallest counts. Raises ValueError for another
    encoder, penalties, a learned decoder variance, or moments without a condition. Equality that a
    test checks: `solve` at 0.999 and 1.001 times it.
    """
    check_pair(spec, moments)
    if not isinstance(spec, CVAESpec) or spec.encoder_sees != "target":
        raise ValueError(f"spec={spec!r} must be a CVAESpec with encoder_sees='target'")
    if spec.penalised or spec.decoder_variance == "learned":
        raise ValueError(
            f"weight_decay={spec.weight_decay}, "
            f"latent_reconstruction={spec.latent_reconstruction}, "
            f"decoder_variance={spec.decoder_variance!r} are not covered by "
            "target_encoder_critical_beta: use stability(spec, moments), which takes penalties"
        )
    require_condition(moments)
    return _Unit.of(spec, moments).critical_level / float(spec.decoder_variance)


@in_doubles
def solve_target_encoder(spec: CVAESpec, moments: Moments) -> Solution:
    """The global optimum, for one unit or a scalar target.

    Mode 1 of the solution is what that unit carries: a mix of the modes of Cov(y|x), whose
    variances are `mode_variances`. Equality that a test checks: `objective` of its weights is the
    minimum found by brute force over all matrices. Raises ValueError for several units on several
    dimensions: the best directions depend on the weights and are not known.
    """
    d, k, s = moments.target_dim, spec.latent_dim, float(spec.decoder_variance)
    if min(k, d) > 1:
        raise ValueError(
            f"encoder_sees='target' has no known global optimum with latent_dim={k} and "
            f"{d} target dimensions: use latent_dim=1, whose threshold is that of any number of "
            "units, or stability(spec, moments) for the collapsed point"
        )
    unit = _Unit.of(spec, moments)
    T, v = unit.optimum(spec.beta * s)
    u = np.sqrt(spec.beta * s * T / spec.prior_variance) * v
    w = unit.encoder(T, u * spec.prior_variance / (spec.beta * s))
    chain = _chain(spec, moments, u, w, T)
    return _solution(spec, moments, chain, unit.critical_level / (spec.beta * s))


@dataclass(frozen=True, eq=False)
class _Unit:
    """R = G diag(D) G^T and C = G G^T on the range of C.

    `noise`: sigma^2/eta^2, None where it is learned.
    """

    G: Array
    D: Array
    noise: float | None

    @classmethod
    def of(cls, spec: CVAESpec, moments: Moments) -> _Unit:
        C, R = moments.target_covariance, moments.residual_covariance
        values, vectors = np.linalg.eigh(C)
        kept = values > rounding_of(len(C)) * max(float(values[-1]), 0.0)
        root, inverse = np.sqrt(values[kept]), vectors[:, kept] / np.sqrt(values[kept])
        shares, turn = np.linalg.eigh(inverse.T @ R @ inverse)
        shares = np.where(shares > rounding_of(len(moments.covariance)), shares, 0.0)
        fixed = spec.encoder_variance
        noise = None if fixed is None else float(np.min(fixed)) / spec.prior_variance
        return cls(vectors[:, kept] * root @ turn, np.minimum(shares, 1.0), noise)

    def top(self, T: float) -> tuple[float, Array]:
        """Largest eigenvalue of M(T)/T, and its eigenvector; exact at T = 0 too."""
        d, weights = len(self.G), self.D**2 / (1 + T * self.D)
        if d > DENSE and weights.any():
            size = float(np.sum(self.G**2 @ weights))  # ARPACK's tolerance is absolute below 1e-11
            start = np.random.default_rng(0).normal(size=d)  # the same answer at every call
            operator = LinearOperator((d, d), lambda x: self.G @ (weights * (self.G.T @ x)) / size)
            with suppress(ArpackNoConvergence):
                value, vector = eigsh(operator, k=1, which="LA", v0=start, maxiter=RESTARTS)
                return size * max(float(value[0]), 0.0), vector[:, 0]
        value, vector = largest_eigenvalues((self.G * weights) @ self.G.T, 1)
        return max(float(value[0]), 0.0), vector[:, 0]

    def gain(self, x: float, level: float) -> float:
        """Twice s times the gain at log(1 + T) = x and `level` = beta s."""
        T = float(np.expm1(x))
        price = x if self.noise is None else T * self.noise
        return T * self.top(T)[0] - level * price

    def slope(self, x: float, level: float) -> float:
        """Derivative of `gain` by T."""
        T = float(np.expm1(x))
        along = self.G.T @ self.top(T)[1]
        told = float(np.sum((along * self.D / (1 + T * self.D)) ** 2))
        return told - level * (1 / (1 + T) if self.noise is None else self.noise)

    @cached_property
    def critical_level(self) -> float:
        """The beta s at which the best T stops to gain."""
        local = self.top(0.0)[0]
        if self.noise is not None or local == 0:
            return local / (self.noise or 1.0)

        def ratio(x: float) -> float:
            T = float(np.expm1(x))
            return T * self.top(T)[0] / x

        # M(T) stays below R, so a ratio above the local one needs x below the first of these; and
        # from T = 1/min(D) on M(T) is above R/2, so that twice that log(1 + T) can only be worse
        x = GRID * min(
            float(np.linalg.norm(self.G * np.sqrt(self.D), 2)) ** 2 / local,
            2 * float(np.log1p(1 / self.D[self.D > 0].min())),
        )
        best = int(np.argmax([ratio(float(at)) for at in x]))
        found = minimize_scalar(
            lambda at: -ratio(float(at)),
            bounds=(x[max(best - 1, 0)], x[min(best + 1, len(x) - 1)]),
            method="bounded",
            options={"xatol": 1e-9 * x[best]},
        )
        return max(local, -float(found.fun))

    def optimum(self, level: float) -> tuple[float, Array]:
        """T and direction of the largest gain at `level` = beta s; T = 0 where none gains."""
        if level >= self.critical_level * (1 - ROUNDING):
            return 0.0, self.top(0.0)[1]
        # beyond this T the slope is negative: it is below lambda_max(C)/T^2 - level * price'(T)
        ratio = float(np.linalg.norm(self.G, 2)) ** 2 / level
        most = (ratio + np.sqrt(ratio**2 + 4 * ratio)) / 2
        if self.noise is not None:
            most = np.sqrt(ratio / self.noise)
        x = float(np.log1p(most)) * np.append(1e-6 * GRID[:1], GRID)
        rises = np.array([self.slope(float(at), level) for at in x]) > 0
        summits = [
            brentq(self.slope, x[i], x[i + 1], args=(level,), xtol=1e-300, rtol=1e-15)
            for i in np.flatnonzero(rises[:-1] & ~rises[1:])
        ]
        T = float(np.expm1(max(summits, key=lambda at: self.gain(at, level), default=0.0)))
        return T, self.top(T)[1]

    def encoder(self, T: float, u: Array) -> Array:
        """(T R + C)^-1 R u."""
        along = self.G.T @ u * self.D / (1 + T * self.D)
        return np.asarray(np.linalg.lstsq(self.G.T, along, rcond=None)[0], dtype=np.float64)


def _chain(spec: CVAESpec, moments: Moments, u: Array, w: Array, T: float) -> Chain:
    """All units but the one of least noise idle."""
    d, dx, k = moments.target_dim, moments.condition_dim, spec.latent_dim
    sigma2 = np.full(k, spec.prior_variance)
    if spec.encoder_variance is not None:
        sigma2 = np.broadcast_to(spec.encoder_variance, k).astype(float)
    else:
        sigma2[0] = spec.prior_variance / (1 + T)
    used = int(np.argmin(sigma2))
    W, U = np.zeros((k, dx + d)), np.zeros((d, k))
    W[used, dx:], U[:, used] = w, u
    skip = np.concatenate([moments.regression, np.zeros((d, d))], axis=1)
    skip[:, :dx] -= U @ W[:, dx:] @ moments.regression
    return Chain(W, skip, (), (U,), (np.diag(sigma2),), float(spec.decoder_variance))


def _solution(spec: CVAESpec, moments: Moments, chain: Chain, critical: float) -> Solution:
    terms, modes = chain_terms(spec, moments, chain), mode_decomposition(spec, moments)
    k, size = spec.latent_dim, max(spec.latent_dim, moments.target_dim)
    noise: Array = np.sort(np.diag(chain.Sigma[0]))
    signal = float(np.sum((chain.encoder @ moments.covariance) * chain.encoder))
    r, sigma2, theta2, rates = np.ones(size), np.full(size, np.nan), np.zeros(size), np.zeros(size)
    sigma2[:k], theta2[: len(modes.variances)] = noise, modes.variances
    r[0] = noise[0] / (noise[0] + signal)
    m = np.where(np.arange(k) == 0, noise + signal, noise)
    rates[:k] = (m / spec.prior_variance - 1 - np.log(noise / spec.prior_variance)) / 2
    scale = np.full(size, np.nan)
    scale[:k] = 0.0
    scale[0] = critical
    return Solution(
        objective=terms.objective,
        distortion=terms.distortion,
        rates=terms.rates,
        mode_variances=theta2,
        decoder_variance=chain.s,
        noise_fractions=r[None],
        encoder_variances=sigma2[None],
        mode_rates=rates[None],
        critical_beta=scale * spec.beta,
        level_critical_betas=scale[None] * spec.beta,
        critical_decoder_variance=scale * chain.s,
        weights=chain.to_weights(spec, moments),
        status="unique",
    )
