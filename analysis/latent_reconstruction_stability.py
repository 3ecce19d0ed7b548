"""Thresholds of the latent reconstruction loss against the numerical flow of the matrices.

    python -m analysis.latent_reconstruction_stability

Random problems, d = 2 to 5, full covariances, 1 or 2 units, numbers log-uniform. Nothing of
`linvae.theory` is in what is measured: the objective is written from second moments in W, U and
log variances, the loss with a W and a log variance of its own for each of the encoder's three
parts, the outer encoder, z and t, so that a part is detached by leaving its gradient out. Automatic
differentiation gives the flow, which must vanish at the collapsed point, and its Jacobian, which on
the parameters of one mode must have an unstable direction at 0.98 times the predicted critical beta
and none at 1.02 times it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.spec import LatentReconstruction
from linvae.theory.latent_reconstruction import (
    collapsed_encoder_variance,
    reconstruction_critical_beta,
    reconstruction_growth_rates,
)

Array = npt.NDArray[np.float64]
F64 = torch.float64
BESIDE = 0.02
PROBLEMS = 50
OTHERS = [
    ("posterior", "target", 1.0),
    ("posterior", "both", 1e-4),
    ("posterior", "input", 0.3),
    ("posterior", "none", 1e-4),
    ("prior", "none", 1e-4),
    ("prior", "both", 0.0),
    ("mean", "none", 1.0),
    ("mean", "both", 1.0),
    ("posterior-to-mean", "none", 0.3),
    ("posterior-to-mean", "input", 1.0),
    ("posterior-to-mean", "target", 1.0),
]


@dataclass(frozen=True)
class Problem:
    """Covariance of the data, number of units, s, eta^2, gamma."""

    covariance: Array
    units: int
    decoder_variance: float
    prior_variance: float
    weight: float

    @property
    def variances(self) -> dict[str, float]:
        """The two of them by name."""
        return {
            "decoder_variance": self.decoder_variance,
            "prior_variance": self.prior_variance,
        }


def draw(number: int) -> Problem:
    """Problem `number`; the weight is log-uniform in 0.01 to 10, variances within a factor 30."""
    rng = np.random.default_rng(number)
    d = int(rng.integers(2, 6))
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    s, eta2 = np.exp(rng.uniform(-1.6, 0.6, size=2))
    weight = float(np.exp(rng.uniform(math.log(0.01), math.log(10))))
    covariance = (basis * np.exp(rng.uniform(-2.0, 1.4, size=d))) @ basis.T
    return Problem(covariance, int(rng.integers(1, 3)), float(s), float(eta2), weight)


def _unpack(p: Problem, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d, k = len(p.covariance), p.units
    W, U, log_v = torch.split(x, [k * d, d * k, k])
    return W.reshape(k, d), U.reshape(d, k), log_v


def _plain(p: Problem, x: Tensor, beta: float) -> Tensor:
    """Distortion + beta rate, nats, up to constants."""
    W, U, log_v = _unpack(p, x)
    C, v = torch.tensor(p.covariance), torch.exp(log_v)
    error = torch.eye(len(C), dtype=F64) - U @ W
    distortion = torch.trace(error @ C @ error.T) + torch.sum(U**2 * v)
    second_moment = torch.trace(W @ C @ W.T) + v.sum()
    rate = second_moment / p.prior_variance - log_v.sum()
    return distortion / (2 * p.decoder_variance) + beta / 2 * rate


def _loss(p: Problem, source: str, outer: Tensor, of_z: Tensor, of_t: Tensor) -> Tensor:
    """gamma/2 E|W U z - t|^2, each part of the encoder from a vector of its own."""
    (W, U, _), (Wz, _, log_vz), (Wt, _, log_vt) = (_unpack(p, x) for x in (outer, of_z, of_t))
    C, circle = torch.tensor(p.covariance), W @ U
    if source == "prior":
        rest = circle - torch.eye(p.units, dtype=F64)
        return p.weight / 2 * p.prior_variance * torch.sum(rest**2)
    drawn_z, drawn_t = source != "mean", source == "posterior"
    zz, zt, tt = Wz @ C @ Wz.T, Wz @ C @ Wt.T, Wt @ C @ Wt.T
    if drawn_z:
        zz = zz + torch.eye(p.units, dtype=F64) * torch.exp(log_vz)
    if drawn_t:  # the same noise in z and t
        zt = zt + torch.eye(p.units, dtype=F64) * torch.exp((log_vz + log_vt) / 2)
        tt = tt + torch.eye(p.units, dtype=F64) * torch.exp(log_vt)
    error = torch.trace(circle @ zz @ circle.T) - 2 * torch.trace(circle @ zt) + torch.trace(tt)
    return p.weight / 2 * error


def flow(p: Problem, loss: LatentReconstruction, x: Tensor, beta: Tensor) -> Tensor:
    """-(gradient) of W, U, log v as the routing has it."""
    reached, of_z, of_t = torch.func.grad(_loss, argnums=(2, 3, 4))(p, loss.source, x, x, x)
    if loss.detach in ("none", "target"):
        reached = reached + of_z
    if loss.detach in ("none", "input"):
        reached = reached + of_t
    size = p.units * len(p.covariance)
    share = torch.full((len(x),), loss.encoder_share, dtype=F64)
    share[size : 2 * size] = 1.0
    return -torch.func.grad(lambda y: _plain(p, y, beta))(x) - share * reached


def growth(p: Problem, loss: LatentReconstruction, betas: Array) -> tuple[Array, float]:
    """Largest growth rate at every beta within each mode, by descending variance; what is off.

    The second number is the largest of: the flow at the point, relative to beta; what the Jacobian
    sends from one mode elsewhere, relative to its size.
    """
    v = collapsed_encoder_variance(loss, beta=betas, prior_variance=p.prior_variance)
    zeros = torch.zeros(len(betas), 2 * p.units * len(p.covariance), dtype=F64)
    x = torch.cat([zeros, torch.tensor(np.log(v))[:, None].repeat(1, p.units)], 1)
    at = torch.tensor(betas)

    def force(x: Tensor, beta: Tensor) -> Tensor:
        return flow(p, loss, x, beta)

    J = torch.func.vmap(torch.func.jacfwd(force))(x, at).numpy()
    off = float((torch.func.vmap(force)(x, at) / at[:, None]).abs().max())
    rates = []
    for direction in np.linalg.eigh(p.covariance)[1].T[::-1]:
        E = _mode(direction, p.units)
        block = E.T @ J @ E
        off = max(off, float(np.abs(J @ E - E @ block).max() / np.abs(J).max()))
        rates.append(np.linalg.eigvals(block).real.max(axis=1))
    return np.stack(rates, axis=1), off


def _mode(direction: Array, k: int) -> Array:
    """Columns: every row of W and column of U along a direction."""
    on_W, on_U = np.kron(np.eye(k), direction[:, None]), np.kron(direction[:, None], np.eye(k))
    nothing = np.zeros_like(on_W)
    on_both = np.block([[on_W, nothing], [nothing, on_U]])
    return np.concatenate([on_both, np.zeros((k, 2 * k))])


@dataclass(frozen=True)
class Measured:
    """The modes of a problem: predicted thresholds, growth rates below and above each, what is off.

    `gap`: measured from predicted growth rates of all modes, relative to the largest.
    """

    critical: Array
    below: Array
    above: Array
    gap: float
    off: float

    @property
    def holds(self) -> npt.NDArray[np.bool_]:
        """Unstable below (unless the threshold is 0), stable above."""
        return (self.above < 0) & ((self.critical == 0) | (self.below > 0))


def measure(p: Problem, loss: LatentReconstruction) -> Measured:
    """Every mode of a problem. Where the predicted threshold is 0, around 0.001 theta^2/s."""
    theta2 = np.linalg.eigvalsh(p.covariance)[::-1]
    critical = reconstruction_critical_beta(theta2, loss, **p.variances)
    base = np.where(critical > 0, critical, 1e-3 * theta2 / p.decoder_variance)
    betas = np.concatenate([base * (1 - BESIDE), base * (1 + BESIDE)])
    rates, off = growth(p, loss, betas)
    expected = [
        reconstruction_growth_rates(theta2, loss, beta=beta, **p.variances) for beta in betas
    ]
    gap = np.abs(rates - expected).max(axis=1) / np.abs(rates).max(axis=1)
    d, modes = len(theta2), np.arange(len(theta2))
    return Measured(critical, rates[modes, modes], rates[modes + d, modes], float(gap.max()), off)


def main() -> None:
    """Print how many modes hold."""
    print(f"{'loss':<42}{'problems':>9}{'modes':>7}{'hold':>6}{'gap of rates':>14}{'off':>9}")
    kinds = [("prior", "none", 1.0, PROBLEMS), ("posterior", "none", 1.0, PROBLEMS)]
    for source, detach, share, n in kinds + [(*other, 5) for other in OTHERS]:
        found = [
            measure(p, LatentReconstruction(p.weight, source, detach, share))
            for p in map(draw, range(n))
        ]
        held = np.concatenate([one.holds for one in found])
        gap, off = max(one.gap for one in found), max(one.off for one in found)
        name = f"{source}, detach {detach}, share {share:g}"
        print(f"{name:<42}{n:>9}{len(held):>7}{held.sum():>6}{gap:>14.0e}{off:>9.0e}")


if __name__ == "__main__":
    main()
