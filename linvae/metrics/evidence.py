"""What is certain about an observed threshold, and what a collapsed network itself says.

Both are in factors on the betas of the spec, like every observed threshold, for one latent level.

**Exchange ratio**, the certificate. A model with distortion D and rate R beats the collapsed one,
D_0 and R_0, at every factor below

    f_x = (D_0 - D) / (beta (R - R_0))

whatever trained it: the largest f_x of all models is a lower bound of the threshold of total
collapse, up to the Monte-Carlo error of D. D_0 is exact, that of the best constant, except with a
condition or an autoregressive decoder: there it is that of a collapsed network of the same
training, which is fair but no proof. In a linear model with one unit at its optimum f_x is the
logarithmic mean of factor and threshold, (f_c - f)/log(f_c/f), with a fixed variance their
geometric mean: low by half the distance.

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

from linvae.metrics.observe import evaluating, parts
from linvae.models import StackedVAE
from linvae.models.chain import mean_square
from linvae.objectives import GaussianLevel, gaussian_distortion, gaussian_rate_per_unit
from linvae.spec import LinearSpec, VAESpec
from linvae.train.data import Noise, TrainingData

__all__ = [
    "ExchangeRatios",
    "evidence",
    "exchange_ratios",
    "has_evidence",
    "local_thresholds",
]

Array = npt.NDArray[np.float64]
DRAWS = 8  # antithetic pairs per sample; their spread is the Monte-Carlo error
NOISY = 0.03  # share of a ratio above which its error disqualifies it
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
    """True where both are defined: one level, Gaussian, a fixed decoder variance."""
    return (
        isinstance(spec, VAESpec)
        and spec.likelihood == "gaussian"
        and spec.decoder_variance != "learned"
    )


def evidence(model: StackedVAE, data: TrainingData, collapsed: int) -> tuple[Array, Array, Array]:
    """Certified factors, their errors and local factors, (seeds,); the member `collapsed` is D_0.

    D_0 is the best constant where the collapsed decoder is one. NaN where they are not defined.
    """
    if not has_evidence(model.spec):
        nothing = np.full(len(model.seeds), np.nan)
        return nothing, nothing, nothing
    distortions, rates = _terms(model, data)
    if _is_constant_at_collapse(model):
        ratios = _ratios(model, distortions, rates, _best_constant(model, data))
    else:
        ratios = _ratios(model, distortions, rates, distortions[..., collapsed].mean(axis=0))
    if _sharing(model):
        return *ratios.best(), np.full(len(model.seeds), np.nan)
    return *ratios.best(), local_thresholds(model, data, collapsed)


def exchange_ratios(
    model: StackedVAE, data: TrainingData, collapsed_distortion: npt.ArrayLike | None = None
) -> ExchangeRatios:
    """The certificate of every member of a stack of one level.

    `collapsed_distortion` D_0 in nats, a number or one per seed: needed with a condition and with
    an autoregressive decoder; None is the best constant. Raises ValueError for hierarchies, another
    likelihood, a learned decoder variance, and where it is needed and missing.
    """
    _check_one_level(model, "exchange_ratios")
    if collapsed_distortion is None:
        if not _is_constant_at_collapse(model):
            given = "data have a condition" if model.condition_dim else "decoder sees the target"
            raise ValueError(
                f"collapsed_distortion is None but the {given}: give the distortion of a "
                "collapsed network of the same training"
            )
        collapsed_distortion = _best_constant(model, data)
    return _ratios(model, *_terms(model, data), collapsed_distortion)


def _ratios(
    model: StackedVAE, distortions: Array, rates: Array, collapsed_distortion: npt.ArrayLike
) -> ExchangeRatios:
    saved = np.reshape(collapsed_distortion, (-1, 1)) - distortions
    paid = float(model.spec.betas[0]) * (rates - _rate_at_collapse(model))
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(paid > 0, saved / paid, np.nan)
    return ExchangeRatios(factors.mean(axis=0), factors.std(axis=0, ddof=1) / math.sqrt(DRAWS))


def local_thresholds(model: StackedVAE, data: TrainingData, point: int) -> Array:
    """f_loc of the member `point` of every seed, which should be collapsed, (n_seeds,).

    Raises ValueError as `exchange_ratios`, for more than one latent unit, and for decoders of
    images, whose last layer is shared by all positions.
    """
    _check_one_level(model, "local_thresholds")
    if _sharing(model):
        raise ValueError(
            f"decoder={model.architecture.decoder!r} has a last layer that all positions share, "
            "and local_thresholds needs one of its own for each coordinate: use decoder='mlp'"
        )
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
    whole = data.take(torch.arange(len(data)))
    with evaluating(model):
        phi, psi, z, residual = model.last_layers(*whole, seed, point, LATENT_POINTS)
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


def _is_constant_at_collapse(model: StackedVAE) -> bool:
    """True where a decoder without z predicts the same for every sample."""
    return model.condition_dim == 0 and model.architecture.decoder != "pixelcnn"


def _sharing(model: StackedVAE) -> bool:
    """True where the decoder's last layer has weights that positions share."""
    return model.architecture.decoder in ("conv", "pixelcnn")


def _check_one_level(model: StackedVAE, where: str) -> None:
    if not has_evidence(model.spec):
        raise ValueError(
            f"spec={model.spec!r} must have one level, a Gaussian likelihood and a fixed decoder "
            f"variance in {where}"
        )


def _best_constant(model: StackedVAE, data: TrainingData) -> float:
    s = torch.tensor(float(model.spec.decoder_variance), dtype=torch.float64)
    square = torch.tensor(mean_square(data.target), dtype=torch.float64)
    return float(gaussian_distortion(square, data.target.shape[1], s))


def _rate_at_collapse(model: StackedVAE) -> float:
    """Of a mean that is 0 and a variance that is fixed, nats; 0 where it is learned."""
    fixed = model.spec.encoder_variances[0]
    if fixed is None:
        return 0.0
    variance = torch.as_tensor(fixed, dtype=torch.float64).expand(model.spec.latent_dims[0])
    idle = GaussianLevel(torch.zeros_like(variance), torch.log(variance))
    return float(gaussian_rate_per_unit(idle, variance, model.spec.prior_variances[0]).sum())


@torch.no_grad()
def _terms(model: StackedVAE, data: TrainingData) -> tuple[Array, Array]:
    """Means over all samples: distortion of every draw, (DRAWS, seeds, points); rate, exact."""
    distortions, rates = [], []
    for draw in range(DRAWS):
        noise = Noise(model.spec.latent_dims, [draw], data.target.device)
        found = []
        for index in parts(data):
            with evaluating(model):
                terms = model(*data.take(index[None]), noise.next(len(index)))
            share = len(index) / len(data)
            found.append(share * torch.stack([terms.distortion, terms.rates[..., 0]]).double())
        distortion, rate = np.asarray(torch.stack(found).sum(0).cpu(), dtype=np.float64)
        distortions.append(distortion)
        rates.append(rate)
    return np.stack(distortions), rates[0]  # of one level the rate needs no draw
