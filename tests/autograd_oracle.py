"""A second oracle for models of one level: the definitions in torch, derivatives by autograd.

Shares nothing with `linvae.theory`, nor with `oracles.py`: second moments of (x, y, z) are formed
by joining the encoder's matrices, and penalties are written as in their definitions. L-BFGS from
random starts gives the global minimum, the Hessian at the collapsed point its stability.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from linvae.moments import Moments

F64 = torch.float64


@dataclass(frozen=True)
class Model:
    """One level: what the encoder sees (columns of v), the decoder's free map on v, the numbers."""

    C: torch.Tensor
    dx: int
    k: int
    beta: float
    s: float
    eta2: float
    sees: list[int]
    skip: torch.Tensor  # (d, dx + d), 1 where the decoder may look
    fixed: tuple[float, ...] | None = None
    gamma: float = 0.0
    kappa: float = 0.0

    @property
    def d(self) -> int:
        return len(self.C) - self.dx

    @property
    def sizes(self) -> list[int]:
        free = self.k * (self.k + 1) // 2 if self.fixed is None else 0
        return [self.k * len(self.sees), self.d * self.k, int(self.skip.sum()), free]


def model_of(spec, moments: Moments) -> Model:
    """What a specification of one level means, restated."""
    d, dx = moments.target_dim, moments.condition_dim
    kind = type(spec).__name__
    skip = np.zeros((d, dx + d))
    sees = list(range(dx, dx + d)) if dx == 0 else list(range(dx))
    if kind == "CVAESpec":
        skip[:, :dx] = 1
        sees = list(range(0 if spec.encoder_sees == "both" else dx, dx + d))
    if kind == "ARVAESpec":
        for t in range(d):
            first = 0 if spec.order is None else max(0, t - spec.order)
            skip[t, first:t] = 1
    fixed = spec.encoder_variance
    if fixed is not None:
        fixed = tuple(np.broadcast_to(fixed, spec.latent_dim).tolist())
    return Model(
        C=torch.tensor(moments.covariance, dtype=F64),
        dx=dx,
        k=spec.latent_dim,
        beta=spec.beta,
        s=float(spec.decoder_variance),
        eta2=spec.prior_variance,
        sees=sees,
        skip=torch.tensor(skip, dtype=F64),
        fixed=fixed,
        gamma=spec.latent_reconstruction,
        kappa=spec.weight_decay,
    )


def matrices(p: Model, vector: torch.Tensor):
    """W on v, U, the decoder's map on v, and the encoder covariance."""
    w, u, b, log_diagonal_and_rest = torch.split(vector, p.sizes)
    W = torch.zeros(p.k, len(p.C), dtype=F64)
    W[:, p.sees] = w.reshape(p.k, -1)
    B = torch.zeros_like(p.skip)
    B[p.skip > 0] = b
    if p.fixed is not None:
        return W, u.reshape(p.d, p.k), B, torch.diag(torch.tensor(p.fixed, dtype=F64))
    L = torch.zeros(p.k, p.k, dtype=F64)
    rows, columns = torch.tril_indices(p.k, p.k)
    L[rows, columns] = log_diagonal_and_rest
    L = torch.tril(L, -1) + torch.diag(torch.exp(torch.diag(L)))
    return W, u.reshape(p.d, p.k), B, L @ L.T


def objective(p: Model, vector: torch.Tensor) -> torch.Tensor:
    """Nats per sample, all constants."""
    W, U, B, Sigma = matrices(p, vector)
    d, dx = p.d, p.dx
    # (v, z) has covariance J; the error is (0 I | 0) v - B v - U z
    cross = W @ p.C
    J = torch.cat([torch.cat([p.C, cross.T], 1), torch.cat([cross, cross @ W.T + Sigma], 1)], 0)
    select = torch.cat([torch.zeros(d, dx, dtype=F64), torch.eye(d, dtype=F64)], 1)
    E = torch.cat([select - B, -U], 1)
    distortion = d / 2 * np.log(2 * np.pi * p.s) + torch.trace(E @ J @ E.T) / (2 * p.s)
    second = torch.trace(J[dx + d :, dx + d :]) / p.eta2
    rate = (second - p.k - torch.logdet(Sigma) + p.k * np.log(p.eta2)) / 2
    value = distortion + p.beta * rate + p.kappa / 2 * (W.square().sum() + U.square().sum())
    if p.gamma:
        # generate y = U z + B (x, y) from z ~ prior and x ~ data, encode (x, y), compare with z
        solve_y = torch.linalg.inv(torch.eye(d, dtype=F64) - B[:, dx:])
        from_z, from_x = solve_y @ U, solve_y @ B[:, :dx]
        back_z = W[:, dx:] @ from_z - torch.eye(p.k, dtype=F64)
        back_x = W[:, :dx] + W[:, dx:] @ from_x
        loss = p.eta2 * back_z.square().sum() + torch.trace(back_x @ p.C[:dx, :dx] @ back_x.T)
        value = value + p.gamma / 2 * loss
    return value


def minimum(p: Model, *, n_starts: int = 6, seed: int = 0) -> float:
    """The best of several L-BFGS minimisations from random starts."""
    rng = np.random.default_rng(seed)

    def value_and_gradient(x):
        vector = torch.tensor(x, dtype=F64, requires_grad=True)
        value = objective(p, vector)
        (gradient,) = torch.autograd.grad(value, vector)
        return value.item(), gradient.numpy()

    best = np.inf
    for _ in range(n_starts):
        start = rng.normal(size=sum(p.sizes)) * rng.uniform(0.2, 1.0)
        options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-9}
        found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
        best = min(best, float(found.fun))
    return best


def collapsed_curvature(p: Model) -> float:
    """Lowest eigenvalue of the Hessian at the collapsed point, the decoder's map on v at its best.

    Over W, U and the decoder's map; the encoder variance stays (it has no cross term there).
    """
    vector = torch.zeros(sum(p.sizes), dtype=F64)
    skip = torch.split(vector, p.sizes)[2]
    if len(skip):
        skip.copy_(_regression(p))
    if p.fixed is None:
        start = sum(p.sizes[:3])
        rows, columns = torch.tril_indices(p.k, p.k)
        diagonal = torch.nonzero(rows == columns).ravel() + start
        vector[diagonal] = np.log(p.eta2) / 2
    hessian = torch.autograd.functional.hessian(lambda v: objective(p, v), vector)
    free = sum(p.sizes[:3])
    return float(torch.linalg.eigvalsh(hessian[:free, :free])[0])


def _regression(p: Model) -> torch.Tensor:
    """Every coordinate of y regressed on what the decoder may look at, row by row."""
    B = torch.zeros_like(p.skip)
    for t in range(p.d):
        index = torch.nonzero(p.skip[t]).ravel()
        if len(index):
            B[t, index] = torch.linalg.lstsq(
                p.C[index][:, index], p.C[index, p.dx + t][:, None], driver="gelsd"
            ).solution[:, 0]
    return B[p.skip > 0]


def at_beta(p: Model, beta: float) -> Model:
    return dataclasses.replace(p, beta=beta)
