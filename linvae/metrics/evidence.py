"""What is certain about an observed threshold, and what a collapsed network itself says.

Both are in factors on the betas of the spec, like every observed threshold, for one latent level.

**Exchange ratio**, the certificate. A model with distortion D and rate R beats the collapsed one,
D_0 and R_0, at every factor below

    f_x = (D_0 - D) / (beta (R - R_0))

whatever trained it: the largest f_x of all models is a lower bound of the threshold of total
collapse, up to the Monte-Carlo error of D and the rounding of float32, the larger one where R - R_0
is next to nothing. D_0 is exact, that of the best constant, except with a condition or an
autoregressive decoder: there it is that of a collapsed network of the same training, which is fair
but no proof. In a linear model with one unit at its optimum f_x is the logarithmic mean of factor
and threshold, (f_c - f)/log(f_c/f), with a fixed variance their geometric mean: low by half the
distance.

**Local threshold**, from the last hidden layers. Near collapse a network is linear in phi(v), the
last hidden layer of its encoder, and in psi(z), that of its decoder, so that only the heads decide:

    f_loc = rho^2 lambda_max(C_phi) eta^2/(beta s sigma^2)

C_phi the covariance of the target (of its residual, with a condition) explained linearly by phi,
rho^2 the share of the variance of z that is linear in psi(z), sigma^2 the encoder variance at
collapse, eta^2 where it is learned. Read off a collapsed network it is the threshold below which
that very point is unstable. It is a product of what can pull a threshold down, one factor each: the
residual threshold lambda_max(C)/(beta s), C the covariance of the target or of its residual; the
share lambda_max(C_phi)/lambda_max(C) that the encoder's features carry; and rho^2 of the decoder's.

| symbol  | here                         | shape            | unit         |
|---------|------------------------------|------------------|--------------|
| f_x     | ExchangeRatios.factors       | (seeds, points)  | -            |
| -       | ExchangeRatios.errors        | (seeds, points)  | -            |
| f_loc   | CollapsedPoint.thresholds    | (seeds,)         | -            |
| -       | CollapsedPoint.residuals     | (seeds,)         | -            |
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
    "DRAWS",
    "CollapsedPoint",
    "ExchangeRatios",
    "certificate",
    "collapsed_point",
    "evidence",
    "exchange_ratios",
    "has_evidence",
    "local_thresholds",
    "terms_of_draws",
]

Array = npt.NDArray[np.float64]
DRAWS = 8  # antithetic pairs per sample; their spread is the Monte-Carlo error
NOISY = 0.03  # share of a ratio above which its error disqualifies it
ROUNDING = 1e-6  # of the mean square of the target over 2 s, of a mean of float32 distortions
LATENT_POINTS = 512  # of N(0, eta^2), at which the decoder's last hidden layer is read
RIDGE = 1e-6  # of the largest variance of a hidden unit: dead units have none


@dataclass(frozen=True, eq=False)
class ExchangeRatios:
    """f_x of every member and its standard error, (n_seeds, n_points).

    Monte-Carlo error and rounding together. NaN for members whose rate is not above that of
    collapse, or that diverged.
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

    def and_those_of(self, other: ExchangeRatios) -> ExchangeRatios:
        """The ratios of both stacks, of the same seeds, side by side."""
        both = (self, other)
        return ExchangeRatios(
            np.concatenate([r.factors for r in both], axis=1),
            np.concatenate([r.errors for r in both], axis=1),
        )


@dataclass(frozen=True, eq=False)
class CollapsedPoint:
    """f_loc of a collapsed network, and the residual threshold that is its largest factor.

    Both (n_seeds,), in factors on beta.
    """

    thresholds: Array
    residuals: Array


def has_evidence(spec: LinearSpec) -> bool:
    """True where both are defined: one level, Gaussian, a fixed decoder variance."""
    return (
        isinstance(spec, VAESpec)
        and spec.likelihood == "gaussian"
        and spec.decoder_variance != "learned"
    )


def evidence(
    model: StackedVAE, data: TrainingData, collapsed: int
) -> tuple[ExchangeRatios, CollapsedPoint]:
    """Certificate of all members and local thresholds; the member `collapsed` gives D_0.

    D_0 is the best constant where the collapsed decoder is one. NaN where they are not defined.
    """
    if not has_evidence(model.spec):
        nothing = np.full(len(model.seeds), np.nan)
        return ExchangeRatios(nothing[:, None], nothing[:, None]), CollapsedPoint(nothing, nothing)
    distortions, rates = terms_of_draws(model, data)
    ratios = certificate(model, data, distortions, rates, collapsed)
    if _sharing(model):
        nothing = np.full(len(model.seeds), np.nan)
        return ratios, CollapsedPoint(nothing, nothing)
    return ratios, collapsed_point(model, data, collapsed)


def certificate(
    model: StackedVAE, data: TrainingData, distortions: Array, rates: Array, collapsed: int
) -> ExchangeRatios:
    """`exchange_ratios` from `terms_of_draws`; `collapsed` gives D_0 where no constant does."""
    if _is_constant_at_collapse(model):
        return _ratios(model, data, distortions, rates, _best_constant(model, data))
    saved = distortions[..., collapsed].mean(axis=0)
    return _ratios(model, data, distortions, rates, saved)


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
    return _ratios(model, data, *terms_of_draws(model, data), collapsed_distortion)


def _ratios(
    model: StackedVAE,
    data: TrainingData,
    distortions: Array,
    rates: Array,
    collapsed_distortion: npt.ArrayLike,
) -> ExchangeRatios:
    saved = np.reshape(collapsed_distortion, (-1, 1)) - distortions
    # of one level the rate needs no draw
    paid = float(model.spec.betas[0]) * (rates[0, ..., 0] - _rate_at_collapse(model))
    rounding = ROUNDING * mean_square(data.target) / (2 * float(model.spec.decoder_variance))
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(paid > 0, saved / paid, np.nan)
        errors = np.hypot(factors.std(axis=0, ddof=1) / math.sqrt(DRAWS), rounding / paid)
    return ExchangeRatios(factors.mean(axis=0), np.where(paid > 0, errors, np.nan))


def local_thresholds(model: StackedVAE, data: TrainingData, point: int) -> Array:
    """`collapsed_point`'s thresholds, (n_seeds,)."""
    return collapsed_point(model, data, point).thresholds


def collapsed_point(model: StackedVAE, data: TrainingData, point: int) -> CollapsedPoint:
    """f_loc of the member `point` of every seed, which should be collapsed.

    Raises ValueError as `exchange_ratios`, for more than one latent unit, and for decoders of
    images, whose last layer is shared by all positions.
    """
    _check_one_level(model, "collapsed_point")
    if _sharing(model):
        raise ValueError(
            f"decoder={model.architecture.decoder!r} has a last layer that all positions share, "
            "and collapsed_point needs one of its own for each coordinate: use decoder='mlp'"
        )
    if model.spec.latent_dims != (1,):
        raise ValueError(
            f"latent_dims={model.spec.latent_dims} must be (1,) in collapsed_point: with more "
            "units the directions of z share the decoder's hidden layer"
        )
    found = [_collapsed_member(model, data, s, point) for s in range(len(model.seeds))]
    return CollapsedPoint(*np.array(found).T)


@torch.no_grad()
def _collapsed_member(
    model: StackedVAE, data: TrainingData, seed: int, point: int
) -> tuple[float, float]:
    """f_loc and the residual threshold of one member."""
    eta2, fixed = model.spec.prior_variances[0], model.spec.encoder_variances[0]
    sigma2 = eta2 if fixed is None else float(np.min(fixed))
    whole = data.take(torch.arange(len(data)))
    with evaluating(model):
        phi, psi, z, residual = model.last_layers(*whole, seed, point, LATENT_POINTS)
    share = float(np.mean(_explained(z, psi) ** 2) / np.mean(z**2))
    scale = float(model.spec.betas[0]) * float(model.spec.decoder_variance) * sigma2 / eta2
    features = _largest_variance(_explained(residual, phi))
    return share * features / scale, _largest_variance(residual) / scale


def _largest_variance(values: Array) -> float:
    centred = values - values.mean(axis=0)
    return float(np.linalg.eigvalsh(centred.T @ centred / len(centred))[-1])


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
def terms_of_draws(model: StackedVAE, data: TrainingData) -> tuple[Array, Array]:
    """Means over all samples of every draw, the same noise for all members of a seed.

    Distortions (DRAWS, seeds, points) and rates (..., levels), nats.
    """
    found = []
    for draw in range(DRAWS):
        noise = Noise(model.spec.latent_dims, [draw], data.target.device)
        total: torch.Tensor | float = 0.0
        for index in parts(data):
            with evaluating(model):
                terms = model(*data.take(index[None]), noise.next(len(index)))
            both = torch.cat([terms.distortion[..., None], terms.rates], dim=-1)
            total = total + len(index) / len(data) * both.double()
        found.append(torch.as_tensor(total))
    values = np.asarray(torch.stack(found).cpu(), dtype=np.float64)
    return values[..., 0], values[..., 1:]
