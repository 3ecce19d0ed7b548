"""The exact objective of any linear model, for any weights: no optimum, no theorem.

Chain: v = (x, y) the data, z_0 = y.

    q(z_1|v) = N(W v, Sigma_1)             p(y|z_1,v) = N(U_1 z_1 + B v, s I)
    q(z_l|z_{l-1}) = N(W_l z_{l-1}, Sigma_l)   p(z_{l-1}|z_l) = N(U_l z_l, eta_{l-1}^2 I)
    p(z_L) = N(0, eta_L^2 I)

With M_1 = W C W^T + Sigma_1 and M_l = W_l M_{l-1} W_l^T + Sigma_l the second moments of the levels,

    distortion = d/2 log(2 pi s) + E|y - U_1 z_1 - B v|^2 / (2 s)
    rate_l = 1/2 [ E|z_l - U_{l+1} z_{l+1}|^2 / eta_l^2 - k_l - log det Sigma_l + k_l log eta_l^2 ]
    penalty = gamma/2 E|W v(z) - z|^2 + kappa/2 (|W|^2 + |U|^2),   z ~ N(0, eta^2 I),
              v(z) = (x, the decoder's mean of y given z and x)     (one level only)
    objective = distortion + sum_l beta_l rate_l + penalty          (nats per sample, minimised)

B acts on x in conditional models, on earlier coordinates of y in autoregressive ones, else 0.

| symbol      | argument or field                    | shape        | unit                |
|-------------|--------------------------------------|--------------|---------------------|
| C           | moments.covariance                   | (dx + d)^2   | data units^2        |
| W_l, U_l, B | weights, by the names below          | as below     | latent/data and so on |
| Sigma_l     | weights                              | (k_l, k_l)   | latent units^2      |
| s, eta_l^2  | spec.decoder_variance, .prior_variances | scalar    | data, latent units^2 |
| beta_l      | spec.betas                           | (levels,)    | -                   |
| gamma       | spec.latent_reconstruction           | scalar       | nats/latent units^2 |
| kappa       | spec.weight_decay                    | scalar       | nats                |
| rate_l      | rates                                | (levels,)    | nats per sample     |

Names of the weights, float64 matrices:

| model                     | encoder          | decoder       | encoder covariance |
|---------------------------|------------------|---------------|--------------------|
| VAESpec                   | W (k, d or dx)   | U (d, k)      | Sigma (k, k)       |
| CVAESpec                  | W1 (x), W2 (y)   | U1 (z), U2 (x)| Sigma              |
| ARVAESpec                 | W (k, d)         | U, B (d, d)   | Sigma              |
| HVAESpec                  | W1 ... WL        | U1 ... UL     | Sigma1 ... SigmaL  |
| HVAESpec with a condition | and A (k_1, dx)  | and B (d, dx) |                    |

and `s` (0-d) where the decoder variance is learned. With all betas 1 the objective is the negative
ELBO; a test draws samples from the model and finds it within 6 standard errors.

Sources of the models: Lucas et al. 2019 (VAE), Wang & Ziyin 2022 (encoder sees the condition only),
Dang et al. 2024, sections 4.1 and 4.2 (conditional, hierarchical), Song et al. 2025 (latent
reconstruction); the autoregressive one and the expectations for any weights are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments, doubles
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, LinearSpec, VAESpec
from linvae.theory.arguments import check_result, in_doubles
from linvae.theory.modes import sees_condition_only

__all__ = [
    "Chain",
    "ObjectiveTerms",
    "chain_terms",
    "objective",
    "penalty_terms",
    "reencoding_maps",
    "refuse_blind_loss",
    "refuse_other_likelihoods",
]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ObjectiveTerms:
    """objective = distortion + sum beta_l rates[l] + penalty, all in nats per sample.

    `rates` (levels,), the others scalars. Equality that a test checks: that sum.
    """

    objective: float
    distortion: float
    rates: Array
    penalty: float = 0.0

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per term."""
        rates = [{"term": f"rate_{i + 1}", "nats": float(r)} for i, r in enumerate(self.rates)]
        return [
            {"term": "objective", "nats": self.objective},
            {"term": "distortion", "nats": self.distortion},
            *rates,
            {"term": "penalty", "nats": self.penalty},
        ]


@dataclass(frozen=True, eq=False)
class Chain:
    """The weights of any spec in one form; `encoder` W and `skip` B act on v = (x, y).

    Shapes: encoder (k_1, dx + d), skip (d, dx + d), W[i] = W_{i+2}, U[i] = U_{i+1},
    Sigma[i] = Sigma_{i+1}. Equality that a test checks: `to_weights` gives back what
    `from_weights` read.
    """

    encoder: Array
    skip: Array
    W: tuple[Array, ...]
    U: tuple[Array, ...]
    Sigma: tuple[Array, ...]
    s: float

    def to_weights(self, spec: LinearSpec, moments: Moments) -> dict[str, Array]:
        """The named matrices of the module's table."""
        dx = moments.condition_dim
        on_x, on_y = self.encoder[:, :dx], self.encoder[:, dx:]
        named: dict[str, Array] = {}
        if isinstance(spec, HVAESpec):
            for level, (U, Sigma) in enumerate(zip(self.U, self.Sigma, strict=True), start=1):
                named[f"W{level}"] = on_y if level == 1 else self.W[level - 2]
                named |= {f"U{level}": U, f"Sigma{level}": Sigma}
            named |= {"A": on_x, "B": self.skip[:, :dx]} if dx else {}
        elif isinstance(spec, CVAESpec):
            named = {"W1": on_x, "W2": on_y, "U1": self.U[0], "U2": self.skip[:, :dx]}
            named["Sigma"] = self.Sigma[0]
        else:
            on_input = on_x if sees_condition_only(spec, moments) else on_y
            named = {"W": on_input, "U": self.U[0], "Sigma": self.Sigma[0]}
            named |= {"B": self.skip} if isinstance(spec, ARVAESpec) else {}
        if spec.decoder_variance == "learned":
            named["s"] = np.array(self.s)
        return named

    @classmethod
    def from_weights(
        cls, spec: LinearSpec, moments: Moments, weights: Mapping[str, npt.ArrayLike]
    ) -> Chain:
        """Read the named matrices; ValueError as in `objective`, naming the matrix."""
        reader = _Reader(spec, weights)
        d, dx, dims = moments.target_dim, moments.condition_dim, spec.latent_dims
        levels = range(2, len(dims) + 1)
        zero_x, zero_y = np.zeros((dims[0], dx)), np.zeros((dims[0], d))
        B, A = np.zeros((d, dx)), np.zeros((d, d))  # the parts of the skip on x and on y
        if isinstance(spec, HVAESpec):
            on_x = reader.matrix("A", (dims[0], dx)) if dx else zero_x
            B = reader.matrix("B", (d, dx)) if dx else B
            on_y, U1 = reader.matrix("W1", (dims[0], d)), reader.matrix("U1", (d, dims[0]))
        elif isinstance(spec, CVAESpec):
            on_x = reader.matrix("W1", (dims[0], dx)) if spec.encoder_sees == "both" else zero_x
            on_y = reader.matrix("W2", (dims[0], d))
            U1, B = reader.matrix("U1", (d, dims[0])), reader.matrix("U2", (d, dx))
        else:
            general = sees_condition_only(spec, moments)
            W = reader.matrix("W", (dims[0], dx if general else d))
            on_x, on_y = (W, zero_y) if general else (zero_x, W)
            U1 = reader.matrix("U", (d, dims[0]))
            A = reader.autoregression(spec, d) if isinstance(spec, ARVAESpec) else A
        W_upper = [reader.matrix(f"W{i}", (dims[i - 1], dims[i - 2])) for i in levels]
        U_upper = [reader.matrix(f"U{i}", (dims[i - 2], dims[i - 1])) for i in levels]
        Sigma = [reader.covariance(i) for i in range(len(dims))]
        encoder = np.concatenate([on_x, on_y], axis=1)
        skip = np.concatenate([B, A], axis=1)
        return cls(encoder, skip, tuple(W_upper), (U1, *U_upper), tuple(Sigma), reader.scalar_s())


@in_doubles
def objective(
    spec: LinearSpec, moments: Moments, weights: Mapping[str, npt.ArrayLike]
) -> ObjectiveTerms:
    """Exact objective of the linear model `spec` with these `weights` on `moments`.

    `weights`: the matrices of the module's table. Raises ValueError for a missing or misshapen
    matrix, an encoder covariance that is not positive definite, or one that differs from the
    variance fixed by the spec, and for a likelihood that is not Gaussian. Equality that a test
    checks: `objective(spec, moments, solve(spec, moments).weights) == solve(...).objective`.
    """
    refuse_other_likelihoods(spec, "objective")
    return chain_terms(spec, moments, Chain.from_weights(spec, moments, weights))


def refuse_blind_loss(spec: VAESpec, moments: Moments) -> None:
    """ValueError for a latent reconstruction loss whose encoder cannot see what is decoded."""
    if spec.latent_reconstruction > 0 and sees_condition_only(spec, moments):
        raise ValueError(
            f"latent_reconstruction={spec.latent_reconstruction} needs an encoder that sees the "
            "target, but a VAESpec on moments with a condition sees the condition only"
        )


def refuse_other_likelihoods(spec: LinearSpec, what: str) -> None:
    """ValueError unless the decoder is Gaussian."""
    likelihood = getattr(spec, "likelihood", "gaussian")
    if likelihood != "gaussian":
        raise ValueError(
            f"likelihood={likelihood!r} has no closed form for {what}: only its collapsed point is "
            "understood; use stability(spec, moments)"
        )


def chain_terms(spec: LinearSpec, moments: Moments, chain: Chain) -> ObjectiveTerms:
    """The objective of a chain: the formulas of the module's docstring.

    Equality that a test checks: the mean of sampled log densities, within 6 standard errors.
    """
    C, d, dx = moments.covariance, moments.target_dim, moments.condition_dim
    Sigma, U = chain.Sigma, chain.U
    error = -U[0] @ chain.encoder - chain.skip
    error[:, dx:] += np.eye(d)
    square = np.sum((error @ C) * error) + np.sum((U[0] @ Sigma[0]) * U[0])
    distortion = d / 2 * np.log(2 * np.pi * chain.s) + square / (2 * chain.s)
    M = chain.encoder @ C @ chain.encoder.T + Sigma[0]
    rates = []
    for level, eta2 in enumerate(spec.prior_variances):
        k = len(M)
        mismatch, spread, M_next = M, 0.0, M
        if level + 1 < len(spec.prior_variances):
            W_up, U_up, S_up = chain.W[level], U[level + 1], Sigma[level + 1]
            reduce = np.eye(k) - U_up @ W_up
            mismatch, spread = reduce @ M @ reduce.T, np.sum((U_up @ S_up) * U_up)
            M_next = W_up @ M @ W_up.T + S_up
        log_det = np.linalg.slogdet(Sigma[level])[1]
        rates.append(((np.trace(mismatch) + spread) / eta2 - k - log_det + k * np.log(eta2)) / 2)
        M = M_next
    penalty = penalty_terms(spec, moments, chain) if isinstance(spec, VAESpec) else 0.0
    total = distortion + float(np.dot(spec.betas, rates)) + penalty
    check_result("the objective", total)
    return ObjectiveTerms(float(total), float(distortion), np.array(rates), penalty)


def penalty_terms(spec: VAESpec, moments: Moments, chain: Chain) -> float:
    """gamma/2 E|W v(z) - z|^2 + kappa/2 (|W|^2 + |U|^2), z from the prior; nats.

    Raises ValueError as `refuse_blind_loss`.
    """
    if not spec.penalised:
        return 0.0
    refuse_blind_loss(spec, moments)
    W, U, penalty = chain.encoder, chain.U[0], 0.0
    if spec.latent_reconstruction > 0:
        dx = moments.condition_dim
        through_z, through_x = reencoding_maps(chain, dx)
        through_z = through_z - np.eye(len(W))
        from_x = np.sum((through_x @ moments.covariance[:dx, :dx]) * through_x)
        error = spec.prior_variance * np.sum(through_z**2) + from_x
        penalty += spec.latent_reconstruction / 2 * float(error)
    return penalty + spec.weight_decay / 2 * float(np.sum(W**2) + np.sum(U**2))


def reencoding_maps(chain: Chain, condition_dim: int) -> tuple[Array, Array]:
    """T (k, k) and N (k, dx): the encoder's mean at the decoder's mean of (z, x) is T z + N x."""
    dx, (d, _) = condition_dim, chain.skip.shape
    on_x, on_y = chain.encoder[:, :dx], chain.encoder[:, dx:]
    # an autoregressive decoder reads the means that it gave before
    through = np.linalg.solve((np.eye(d) - chain.skip[:, dx:]).T, on_y.T).T
    return through @ chain.U[0], on_x + through @ chain.skip[:, :dx]


class _Reader:
    """Takes named matrices out of `weights`, with errors that name them."""

    def __init__(self, spec: LinearSpec, weights: Mapping[str, npt.ArrayLike]) -> None:
        self.spec = spec
        self.weights = weights
        self.kind = type(spec).__name__

    def matrix(self, name: str, shape: tuple[int, ...]) -> Array:
        if name not in self.weights:
            raise ValueError(
                f"weights lack {name!r}, which {self.kind} needs with shape {shape}: got "
                f"{sorted(self.weights)}"
            )
        value = doubles(f"weights[{name!r}]", self.weights[name])
        if value.shape != shape or not np.all(np.isfinite(value)):
            raise ValueError(
                f"weights[{name!r}] has shape {value.shape} but must be finite with shape {shape} "
                f"in {self.kind}"
            )
        return value

    def covariance(self, level: int) -> Array:
        k, fixed = self.spec.latent_dims[level], self.spec.encoder_variances[level]
        name = f"Sigma{level + 1}" if isinstance(self.spec, HVAESpec) else "Sigma"
        Sigma = self.matrix(name, (k, k))
        if np.abs(Sigma - Sigma.T).max() > 1e-10 * np.abs(Sigma).max():
            raise ValueError(f"weights[{name!r}] is not symmetric in {self.kind}")
        if np.linalg.eigvalsh(Sigma)[0] <= 0:
            raise ValueError(f"weights[{name!r}] is not positive definite in {self.kind}")
        if fixed is None:
            return Sigma
        given = np.diag(np.broadcast_to(fixed, k).astype(float))
        if not np.allclose(Sigma, given, atol=1e-10 * np.abs(given).max()):
            raise ValueError(
                f"weights[{name!r}] differs from the encoder variance {fixed} fixed by {self.kind}"
            )
        return Sigma

    def autoregression(self, spec: ARVAESpec, d: int) -> Array:
        B = self.matrix("B", (d, d))
        allowed = np.zeros((d, d), dtype=bool)
        for t, columns in enumerate(spec.seen(d)):
            allowed[t, list(columns)] = True
        if np.any(B[~allowed]):
            row, column = np.argwhere((B != 0) & ~allowed)[0]
            raise ValueError(
                f"weights['B'][{row}, {column}] must be 0 in {self.kind}: the order of the decoder "
                f"does not let y_{row} see y_{column}"
            )
        return B

    def scalar_s(self) -> float:
        if self.spec.decoder_variance != "learned":
            return float(self.spec.decoder_variance)
        s = float(self.matrix("s", ()))
        if s <= 0:
            raise ValueError(f"weights['s']={s} must be > 0 in {self.kind}")
        return s
