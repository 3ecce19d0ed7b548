"""What is certain about an observed threshold, and what a collapsed network itself says.

Both are in factors on the betas of the spec, like every observed threshold, for one latent level.

**Exchange ratio**, the certificate. A model with distortion D and rate R beats the collapsed one,
D_0 and R_0, at every factor below

    f_x = (D_0 - D) / (beta (R - R_0))

whatever trained it: the largest f_x of all models is a lower bound of the threshold of total
collapse, up to the Monte-Carlo error of D. Without a condition D_0 is exact, that of the best
constant; with one it is that of a collapsed network of the same training, which is fair but no
proof. In a linear model with one unit at its optimum f_x is the logarithmic mean of factor and
threshold, (f_c - f)/log(f_c/f), with a fixed variance their geometric mean: low by half the
distance.

**Local threshold**, from the last hidden layers. Near collapse a network is linear in phi(v), the
last hidden layer of its encoder, and in psi(z), that of its decoder, so that only the heads decide:

    f_loc = rho^2 lambda_max(C_phi) eta^2/(beta s sigma^2)

C_phi the covariance of the target (of its residual, with a condition) explained linearly by phi,
rho^2 the share of the variance of z that is linear in psi(z), sigma^2 the encoder variance at
collapse, eta^2 where it is learned. Read off a collapsed network it is the threshold below which
that very point is unstable.

| symbol  | here                         | shape            | unit         |
|---------|------------------------------|------------------|--------------|
| f_x     | ExchangeRatios.factors       | (seeds, points)  | -            |
| -       | ExchangeRatios.errors        | (seeds, points)  | -            |
| f_loc   | `local_thresholds`           | (seeds,)         | -            |
| D, D_0  | Observation.distortion       | (seeds, points)  | nats         |

Source: ours. Equalities that tests check: both means, and lambda_max/s for linear models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from linvae.metrics.observe import CHUNK
from linvae.models import StackedVAE
from linvae.spec import HVAESpec, LinearSpec
from linvae.train.data import Noise, TrainingData

__all__ = [
    "ExchangeRatios",
    "exchange_ratios",
    "has_evidence",
    "local_thresholds",
    "mean_distortions",
]

Array = npt.NDArray[np.float64]
DRAWS = 8  # antithetic pairs per sample; their spread is the Monte-Carlo error
NOISY = 0.03
LATENT_POINTS = 512  # of N(0, eta^2), at which the decoder's last hidden layer is read
RIDGE = 1e-6  # of the largest variance of a hidden unit: dead units have none


@dataclass(frozen=True, eq=False)
class ExchangeRatios:
    """f_x of every member and its Monte-Carlo standard error, (n_seeds, n_points).

    NaN for members whose rate is not above that of collapse, or that diverged.
    """

    factors: Array
    errors: Array

    def best(self) -> tuple[Array, Array]:
        """Largest factor of every seed less two of its errors, and that error; (n_seeds,).

        Among members whose error is below `NOISY` of their factor: next to collapse the ratio is
        that of two small numbers, and the best of many such is luck.
        """
        clear = np.isfinite(self.factors) & (self.errors < NOISY * self.factors)
        lower = np.where(clear, self.factors - 2 * self.errors, -np.inf)
        at = lower.argmax(axis=1)[:, None]
        found, error = (np.take_along_axis(v, at, 1)[:, 0] for v in (lower, self.errors))
        known = np.isfinite(found)
        return np.where(known, found, np.nan), np.where(known, error, np.nan)


def has_evidence(spec: LinearSpec) -> bool:
    """True where both are defined: one level, a fixed decoder variance."""
    return not isinstance(spec, HVAESpec) and spec.decoder_variance != "learned"


def mean_distortions(model: StackedVAE, data: TrainingData) -> Array:
    """Distortion of every member, mean over samples and draws, nats, (n_seeds, n_points)."""
    mean: Array = _distortions(model, data).mean(axis=0)
    return mean


def exchange_ratios(
    model: StackedVAE, data: TrainingData, collapsed_distortion: npt.ArrayLike | None = None
) -> ExchangeRatios:
    """The certificate of every member of a stack of one level.

    `collapsed_distortion` D_0 in nats, a number or one per seed: needed with a condition; None is
    the best constant. Raises ValueError for hierarchies, a learned decoder variance, and a
    condition without it.
    """
    _check_one_level(model, "exchange_ratios")
    if collapsed_distortion is None:
        if data.condition is not None:
            raise ValueError(
                "collapsed_distortion is None but the data have a condition: give the distortion "
                "of a collapsed network of the same training"
            )
        collapsed_distortion = _best_constant(model, data)
    saved = np.reshape(collapsed_distortion, (-1, 1)) - _distortions(model, data)
    paid = float(model.spec.betas[0]) * (_rates(model, data) - _rate_at_collapse(model))
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(paid > 0, saved / paid, np.nan)
    return ExchangeRatios(factors.mean(axis=0), factors.std(axis=0, ddof=1) / math.sqrt(DRAWS))


def local_thresholds(model: StackedVAE, data: TrainingData, point: int) -> Array:
    """f_loc of the member `point` of every seed, which should be collapsed, (n_seeds,).

    Raises ValueError as `exchange_ratios`, and for more than one latent unit.
    """
    _check_one_level(model, "local_thresholds")
    if model.spec.latent_dims != (1,):
        raise ValueError(
            f"latent_dims={model.spec.latent_dims} must be (1,) in local_thresholds: with more "
            "units the directions of z share the decoder's hidden layer"
        )
    found = [_local_threshold(model, data, s, point) for s in range(len(model.seeds))]
    return np.array(found)


@torch.no_grad()
def _local_threshold(model: StackedVAE, data: TrainingData, seed: int, point: int) -> float:
    eta2, fixed = model.spec.prior_variances[0], model.spec.encoder_variances[0]
    sigma2 = eta2 if fixed is None else float(np.min(fixed))
    phi, psi, z, residual = model.last_layers(
        data.target, data.condition, seed, point, LATENT_POINTS
    )
    explained = _explained(residual, phi)
    variance = float(np.linalg.eigvalsh(explained.T @ explained / len(explained))[-1])
    share = float(np.mean(_explained(z, psi) ** 2) / np.mean(z**2))
    scale = float(model.spec.betas[0]) * float(model.spec.decoder_variance) * sigma2 / eta2
    return share * variance / scale


def _explained(values: Array, features: Array) -> Array:
    """The part of `values` that is linear in `features`, both centred; a ridge for dead units."""
    values, features = values - values.mean(axis=0), features - features.mean(axis=0)
    gram = features.T @ features
    ridge = RIDGE * float(np.diag(gram).max()) * np.eye(len(gram))
    fitted: Array = features @ np.linalg.solve(gram + ridge, features.T @ values)
    return fitted


def _check_one_level(model: StackedVAE, where: str) -> None:
    if not has_evidence(model.spec):
        raise ValueError(
            f"spec={model.spec!r} must have one level and a fixed decoder variance in {where}"
        )


def _best_constant(model: StackedVAE, data: TrainingData) -> float:
    d, s = data.target.shape[1], float(model.spec.decoder_variance)
    square = float(data.target.double().square().sum(1).mean())
    return d / 2 * math.log(2 * math.pi * s) + square / (2 * s)


def _rate_at_collapse(model: StackedVAE) -> float:
    """Of a mean that is 0 and a variance that is fixed, nats; 0 where it is learned."""
    fixed = model.spec.encoder_variances[0]
    if fixed is None:
        return 0.0
    ratio = np.broadcast_to(fixed, model.spec.latent_dims[0]) / model.spec.prior_variances[0]
    return float(np.sum(ratio - 1 - np.log(ratio)) / 2)


@torch.no_grad()
def _distortions(model: StackedVAE, data: TrainingData) -> Array:
    """Means over all samples for every draw, (DRAWS, n_seeds, n_points)."""
    found = []
    for draw in range(DRAWS):
        noise = Noise(model.spec.latent_dims, [draw], data.target.device)
        total: torch.Tensor | float = 0.0
        for index in _parts(data):
            target, condition = data.take(index[None])
            terms = model(target, condition, noise.next(len(index)))
            total = total + terms.distortion.double() * (len(index) / len(data))
        found.append(torch.as_tensor(total))
    return np.asarray(torch.stack(found).cpu(), dtype=np.float64)


@torch.no_grad()
def _rates(model: StackedVAE, data: TrainingData) -> Array:
    """Exact mean rates, (n_seeds, n_points): of one level they need no draw."""
    noise = Noise(model.spec.latent_dims, [0], data.target.device)
    total: torch.Tensor | float = 0.0
    for index in _parts(data):
        target, condition = data.take(index[None])
        terms = model(target, condition, noise.next(len(index)))
        total = total + terms.rates[..., 0].double() * (len(index) / len(data))
    return np.asarray(torch.as_tensor(total).cpu(), dtype=np.float64)


def _parts(data: TrainingData) -> tuple[torch.Tensor, ...]:
    every = torch.arange(len(data), device=data.target.device)
    return every.tensor_split(-(-len(data) // CHUNK))
