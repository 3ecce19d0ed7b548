"""What is certain about an observed threshold: a certificate that a trained model is.

In factors on the betas of the spec, like every observed threshold. A model with distortion D and
level rates R_l beats every collapsed one, whatever trained it, at every factor below

    f_x = (D_0 - D) / (sum_l beta_l R_l - P_0)

Collapsed: level 1 carries nothing about the data, q(z_1|y) = q(z_1). D_0 is the distortion of the
best constant, P_0 the least sum_l beta_l R_l of any such model. The largest f_x of all models is a
lower bound of the threshold of total collapse, up to the Monte-Carlo error of D and R_l and the
rounding of float32, the larger one where f_x is the ratio of two small numbers. Some draws choose
the model; others certify it, many and stratified: each sample gets a draw out of every one of
up to `MOST_STRATA` equally likely parts of |noise|, which takes most of the error away; one part is
plain noise, enough for 15 000 samples and more.

*D_0.* A decoder of a z_1 independent of y is a mixture of constants, no better than the best:
E|y - E y|^2/2s + d/2 log 2 pi s, or with a Bernoulli likelihood the entropy of the mean of every
coordinate. With a condition or an autoregressive decoder D_0 is the least of a collapsed network of
the same training and of all members of its seed when their decoders see z_1 = 0 instead: fair, as
none of them predicts the target better without z_1 than the collapsed model may, but no proof.

*P_0.* One level: 0 where the variance is learned, the rate of a mean 0 where it is fixed. In a
hierarchy the levels above may still code the noise of a level 1 of fixed variance. Let
I_l = I(z_(l-1); z_l), I_1 = I_(L+1) = 0. Of all densities of given entropy and of all of given mean
square the Gaussian is extreme, so that for any networks

    R_l >= k_l/2 (rho_l exp(2 (I_l - I_(l+1))/k_l) - 1 - log rho_l)    sigma_l^2 fixed
    R_l >= I_l - I_(l+1)                                               sigma_l^2 learned

with rho_l = sigma_l^2/eta_l^2, and, as no I_l is negative, for all prices p_l that do not decrease
upwards, p_l = beta_l where the variance is learned (Lagrange duality), with a_l = beta_l rho_l,

    sum_l beta_l R_l >= P_0 = sum over fixed l of
                              k_l/2 (p_l (1 - log(p_l/a_l)) - beta_l (1 + log rho_l))

The best prices: log p is the isotonic regression of log a with weights k_l, clipped between learned
levels. Linear hierarchies of equal widths attain it. Learned betas that fall upwards have no such
prices: P_0 is -inf and nothing is certified. With `skip` every level reads the data, none codes the
noise of another, and every level pays for its own fixed variance alone, p = a.

In a linear model with one unit at its optimum f_x is the logarithmic mean of factor and threshold,
(f_c - f)/log(f_c/f), with a fixed variance their geometric mean: low by half the distance. It comes
to f_c as f does.

| symbol  | here                         | shape            | unit         |
|---------|------------------------------|------------------|--------------|
| f_x     | ExchangeRatios.factors       | (seeds, points)  | -            |
| -       | ExchangeRatios.errors        | (seeds, points)  | -            |
| D, D_0  | Observation.distortion       | (seeds, points)  | nats         |
| R_l     | Observation.rates            | (..., levels)    | nats         |
| P_0     | rates_at_collapse            | scalar           | nats         |

| certified, or NaN             | level 1 | levels above |
|-------------------------------|---------|--------------|
| VAE, CVAE, Gaussian, fixed s  | yes     |              |
| VAE, Bernoulli                | yes     |              |
| hierarchy, P_0 finite         | yes     | NaN          |
| learned s, other likelihoods  | NaN     | NaN          |

The local threshold of the collapsed network stands beside it (`linvae.metrics.local_threshold`).
Source: ours. Equalities that tests check: both means; P_0 against the optimum of linear
hierarchies; that no other model comes below it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import entr

from linvae.metrics.local_threshold import CollapsedPoint, collapsed_point, has_local
from linvae.metrics.observe import evaluating, parts, pieces
from linvae.models import Architecture, StackedVAE
from linvae.models.chain import mean_square
from linvae.objectives import gaussian_distortion
from linvae.prices import log_prices
from linvae.spec import HVAESpec, LinearSpec, VAESpec
from linvae.train import copies
from linvae.train.data import Noise, TrainingData, stream

__all__ = [
    "ExchangeRatios",
    "certificate",
    "enough_strata",
    "evidence",
    "exchange_ratios",
    "has_certificate",
    "needs_collapsed",
    "rates_at_collapse",
    "stratified_noise",
    "terms_of_draws",
]

Array = npt.NDArray[np.float64]
Batch = tuple[torch.Tensor, torch.Tensor | None]  # target, condition
# antithetic pairs per sample, that choose: enough for `PAIRS` in all; the spread of their means is
# the Monte-Carlo error, hence no fewer than the least
LEAST_DRAWS, MOST_DRAWS, PAIRS = 4, 16, 30_000
REPEATS = 8  # of the member that certifies, each of as many pairs per sample as strata:
MOST_STRATA, CERTIFYING = 8, 120_000  # enough for as many pairs in all
SURE = 3.0  # standard errors of 8 repeats, one-sided 99 %: so is the best of three seeds to 97 %
NOISY = 0.03  # share of a ratio above which its error disqualifies it
ROUNDING = 1e-6  # of a mean of float32 terms


@dataclass(frozen=True, eq=False)
class ExchangeRatios:
    """f_x of every member and its standard error, (n_seeds, n_points).

    Monte-Carlo error and rounding together. NaN for members whose rate is not above that of
    collapse, or that diverged. `choice`: of the member of each seed and stack that is certified, by
    other draws than chose it, what those said of it less their error; -inf for all others, and
    where every error is above `NOISY` of the ratio: next to collapse it is that of two small
    numbers. `prices`: what was paid, nats; `idle`: D_0 of every seed, (n_seeds,), nats.
    """

    factors: Array
    errors: Array
    choice: Array
    prices: Array
    idle: Array

    @classmethod
    def none(cls, shape: tuple[int, int]) -> ExchangeRatios:
        """Where it is not defined."""
        nothing = np.full(shape, np.nan)
        return cls(nothing, nothing, np.full(shape, -np.inf), nothing, nothing[:, 0])

    def best(self) -> tuple[Array, Array]:
        """Factor of the chosen member of every seed less `SURE` errors, and the error; (n_seeds,).

        The best of many ratios is luck in part: hence the other draws.
        """
        at = self.choice.argmax(axis=1)[:, None]
        factor, error, choice = (
            np.take_along_axis(v, at, 1)[:, 0] for v in (self.factors, self.errors, self.choice)
        )
        known = np.isfinite(choice) & np.isfinite(factor)
        return np.where(known, factor - SURE * error, np.nan), np.where(known, error, np.nan)

    def and_those_of(self, other: ExchangeRatios) -> ExchangeRatios:
        """The ratios of both stacks, of the same seeds, side by side, against the lower D_0."""
        idle = np.fmin(self.idle, other.idle)
        one, two = self._against(idle), other._against(idle)
        names = ("factors", "errors", "choice", "prices")
        joined = {n: np.concatenate([getattr(r, n) for r in (one, two)], axis=1) for n in names}
        return ExchangeRatios(**joined, idle=idle)

    def _against(self, idle: Array) -> ExchangeRatios:
        lost = (self.idle - idle)[:, None] / self.prices
        choice = np.where(np.isfinite(self.choice), self.choice - lost, -np.inf)
        return replace(self, factors=self.factors - lost, choice=choice, idle=idle)


def has_certificate(spec: LinearSpec, level: int | None = None, *, skip: bool = False) -> bool:
    """True where f_x is defined for collapse of `level`, None the only one: the module's table.

    `skip`: as in `rates_at_collapse`.
    """
    if spec.decoder_variance == "learned":
        return False
    if isinstance(spec, HVAESpec):
        return level == 1 and math.isfinite(rates_at_collapse(spec, skip=skip))
    return isinstance(spec, VAESpec) and spec.likelihood in ("gaussian", "bernoulli")


def needs_collapsed(
    spec: LinearSpec, architecture: Architecture, conditional: bool, level: int | None = None
) -> bool:
    """True where `evidence` reads a collapsed member: for f_loc, or for D_0."""
    given = conditional or architecture.decoder == "pixelcnn"
    return has_local(spec, architecture) or (
        given and has_certificate(spec, level, skip=architecture.skip)
    )


def evidence(
    model: StackedVAE, data: TrainingData, collapsed: int, level: int | None = None
) -> tuple[ExchangeRatios, CollapsedPoint]:
    """Certificate of all members and local thresholds of `collapsed`; NaN where not defined.

    The member `collapsed` gives D_0 too where no constant does, unless another does better.
    `level`: whose threshold is asked for, None the only one.
    """
    nothing = np.full(len(model.seeds), np.nan)
    point = CollapsedPoint(nothing, nothing)
    if has_local(model.spec, model.architecture):
        point = collapsed_point(model, data, collapsed)
    return certificate(model, data, collapsed, level), point


def certificate(
    model: StackedVAE,
    data: TrainingData,
    collapsed: int,
    level: int | None = None,
    draws: tuple[Array, Array] | None = None,
) -> ExchangeRatios:
    """`exchange_ratios` of all members; NaN where `has_certificate` is False.

    `collapsed` gives D_0 where no constant does; `draws` from `terms_of_draws`, None: made here.
    """
    if not has_certificate(model.spec, level, skip=model.architecture.skip):
        return ExchangeRatios.none((len(model.seeds), model.n_points))
    distortions, rates = draws or terms_of_draws(model, data)
    if _is_constant_at_collapse(model):
        return _ratios(model, data, distortions, rates, _best_constant(model, data))
    own = np.fmin.reduce(_distortions_without_latent(model, data), axis=1)
    idle = np.fmin(own, distortions[..., collapsed].mean(axis=0))
    return _ratios(model, data, distortions, rates, idle)


def exchange_ratios(
    model: StackedVAE, data: TrainingData, collapsed_distortion: npt.ArrayLike | None = None
) -> ExchangeRatios:
    """The certificate of every member of a stack, against collapse of level 1.

    `collapsed_distortion` D_0 in nats, a number or one per seed: needed with a condition and with
    an autoregressive decoder; None is the best constant. Raises ValueError where `has_certificate`
    is False, and where D_0 is needed and missing.
    """
    if not has_certificate(model.spec, level=1, skip=model.architecture.skip):
        raise ValueError(
            f"spec={model.spec!r} must have a Gaussian or Bernoulli likelihood, a fixed decoder "
            "variance, and learned levels whose betas do not fall upwards, in exchange_ratios: "
            "bracket_threshold needs none of the others but a fixed decoder variance"
        )
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
    idle = np.broadcast_to(np.asarray(collapsed_distortion, np.float64), len(model.seeds))
    factors, errors, prices = _ratio(model, data, distortions, rates, idle)
    clear = np.isfinite(factors) & (errors < NOISY * factors)
    choice = np.where(clear, factors - errors, -np.inf)
    at = choice.argmax(axis=1)[:, None]
    of_best, choice = np.take_along_axis(choice, at, 1), np.full_like(choice, -np.inf)
    np.put_along_axis(choice, at, of_best, axis=1)
    if clear.any():
        chosen = copies(model, at)
        again = _ratio(chosen, data, *_terms_of_strata(chosen, data), idle)
        for values, of_chosen in zip((factors, errors, prices), again, strict=True):
            np.put_along_axis(values, at, of_chosen, axis=1)
    return ExchangeRatios(factors, errors, choice, prices, idle)


def _ratio(
    model: StackedVAE, data: TrainingData, distortions: Array, rates: Array, idle: Array
) -> tuple[Array, Array, Array]:
    """f_x of means over draws, (draws, seeds, points, ...), its standard error, what is paid."""
    betas = np.asarray(model.spec.betas)
    saved = idle[:, None] - distortions
    paid = rates @ betas - rates_at_collapse(model.spec, skip=model.architecture.skip)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(paid.mean(axis=0) > 0, paid.mean(axis=0), np.nan)
        factors = saved.mean(axis=0) / price
        noise = (saved - factors * paid).std(axis=0, ddof=1) / math.sqrt(len(saved))
        sizes = np.abs(rates).mean(axis=0) @ betas
        rounding = ROUNDING * (_size_of_distortion(model, data) + np.abs(factors) * sizes)
        return factors, np.hypot(noise, rounding) / price, price


def rates_at_collapse(spec: LinearSpec, *, skip: bool = False) -> float:
    """P_0: the least sum_l beta_l R_l, nats, of models whose level 1 does not depend on the data.

    `skip`: every encoder reads the data, not the level below. -inf where there is no least one.
    Equality that a test checks: the optimum of linear hierarchies of equal widths.
    """
    betas = np.asarray(spec.betas)
    rho = [
        np.ones(k) if fixed is None else np.broadcast_to(np.asarray(fixed) / eta2, k)
        for fixed, eta2, k in zip(
            spec.encoder_variances, spec.prior_variances, spec.latent_dims, strict=True
        )
    ]
    if skip or len(betas) == 1:  # only here do the variances of one level differ
        return float(
            sum(b / 2 * np.sum(r - 1 - np.log(r)) for b, r in zip(betas, rho, strict=True))
        )
    log_rho, widths = np.log([r[0] for r in rho]), np.asarray(spec.latent_dims)
    log_a = np.log(betas) + log_rho
    learned = np.array([v is None for v in spec.encoder_variances])
    if np.any(np.diff(log_a[learned]) < 0):  # no prices that do not decrease
        return -math.inf
    log_p = log_prices(log_a[:, None], learned, widths)[:, 0]
    gains = np.exp(log_p) * (1 - log_p + log_a) - betas * (1 + log_rho)
    return float(widths @ gains / 2)


def _is_constant_at_collapse(model: StackedVAE) -> bool:
    """True where a decoder without z predicts the same for every sample."""
    return model.condition_dim == 0 and model.architecture.decoder != "pixelcnn"


def _best_constant(model: StackedVAE, data: TrainingData) -> float:
    """D of the mean, or of the entropies of the means."""
    if model.is_bernoulli:
        return float(np.sum(_entropies(data)))
    s = torch.tensor(float(model.spec.decoder_variance), dtype=torch.float64)
    square = torch.tensor(mean_square(data.target), dtype=torch.float64)
    return float(gaussian_distortion(square, data.target.shape[1], s))


def _size_of_distortion(model: StackedVAE, data: TrainingData) -> float:
    """Of the float32 terms that a distortion is the mean of, nats."""
    if model.is_bernoulli:
        return float(np.sum(_entropies(data)))
    return mean_square(data.target) / (2 * float(model.spec.decoder_variance))


def _entropies(data: TrainingData) -> Array:
    """-m log m - (1 - m) log(1 - m) of the mean m of every coordinate, nats, (d,)."""
    sums = [data.take(index)[0].double().sum(dim=0) for index in parts(data)]
    mean = np.asarray(torch.stack(sums).sum(dim=0).cpu()) / len(data)
    return np.asarray(entr(mean) + entr(1 - mean), dtype=np.float64)


def terms_of_draws(model: StackedVAE, data: TrainingData) -> tuple[Array, Array]:
    """Means over all samples of every draw, the same noise for all members.

    Distortions (draws, seeds, points) and rates (..., levels), nats.
    """
    found = []
    enough = math.ceil(PAIRS / len(data))
    for draw in range(min(max(enough, LEAST_DRAWS), MOST_DRAWS)):
        noise = Noise(model.spec.latent_dims, [draw], data.target.device)
        found.append(_means(model, data, functools.partial(_next, noise)))
    return _as_arrays(found)


def _terms_of_strata(model: StackedVAE, data: TrainingData) -> tuple[Array, Array]:
    """The same of every repeat of stratified noise: `REPEATS` of them.

    Scaled to unit second moment over a repeat: as `Noise`, in batches so large that the fourth is
    low by 2/(strata n) at most.
    """
    found, width, strata = [], sum(model.spec.latent_dims), enough_strata(len(data))
    for repeat in range(REPEATS):
        noise = _of_unit_moment(stratified_noise(strata, len(data), width, repeat))
        terms = [_means(model, data, functools.partial(_both_signs, model.spec, n)) for n in noise]
        found.append(torch.stack(terms).mean(dim=0))
    return _as_arrays(found)


def enough_strata(n: int) -> int:
    """For `n` samples: the mean over many needs fewer draws of each."""
    return min(MOST_STRATA, math.ceil(CERTIFYING / (REPEATS * n)))


def stratified_noise(strata: int, n: int, width: int, repeat: int) -> torch.Tensor:
    """`strata` draws (n, width) of standard normal noise, for use with both signs.

    |noise| of one sample and coordinate lies once in each of `strata` equally likely intervals, in
    an order of its own: every draw by itself is independent noise. Equality that a test checks.
    """
    generator, shape = stream("certificate", repeat), (strata, n, width)
    order = torch.randint(strata, shape[1:], generator=generator)
    stratum = (order + torch.arange(strata)[:, None, None]) % strata
    place = torch.rand(shape, generator=generator, dtype=torch.float64)
    sign = 2 * torch.randint(2, shape, generator=generator) - 1
    size: torch.Tensor = torch.special.ndtri((1 + (stratum + place) / strata) / 2)
    return sign * size


def _of_unit_moment(noise: torch.Tensor) -> torch.Tensor:
    return noise / noise.square().mean(dim=(0, 1)).sqrt()


def _next(noise: Noise, index: torch.Tensor) -> list[torch.Tensor]:
    return noise.next(len(index))


def _both_signs(spec: LinearSpec, noise: torch.Tensor, index: torch.Tensor) -> list[torch.Tensor]:
    some = noise[index.cpu()].float().to(index.device)
    return list(torch.split(torch.cat([some, -some])[None], list(spec.latent_dims), dim=-1))


def _means(
    model: StackedVAE,
    data: TrainingData,
    noise: Callable[[torch.Tensor], list[torch.Tensor]],
) -> torch.Tensor:
    """Mean distortion and rates over all samples, (seeds, points, 1 + levels)."""

    def of_batch(batch: Batch, draw: list[torch.Tensor]) -> torch.Tensor:
        terms = model(*batch, draw)
        return torch.cat([terms.distortion[..., None], terms.rates], dim=-1)

    return _mean(model, data, noise, of_batch)


def _distortions_without_latent(model: StackedVAE, data: TrainingData) -> Array:
    """D of every member whose decoder sees z_1 = 0, (seeds, points)."""
    found = _mean(
        model, data, lambda index: [], lambda batch, _: model.distortion_without_latent(*batch)
    )
    return np.asarray(found.cpu(), dtype=np.float64)


@torch.no_grad()
def _mean(
    model: StackedVAE,
    data: TrainingData,
    noise: Callable[[torch.Tensor], list[torch.Tensor]],
    of_batch: Callable[[Batch, list[torch.Tensor]], torch.Tensor],
) -> torch.Tensor:
    """Mean over all samples of what `of_batch` says of some and their noise, float64."""
    found: list[torch.Tensor] = []
    with evaluating(model):
        for batch, draw in pieces(model, data, noise):
            found.append(batch[0].shape[1] / len(data) * of_batch(batch, draw).double())
    return torch.stack(found).sum(dim=0)


def _as_arrays(found: list[torch.Tensor]) -> tuple[Array, Array]:
    values = np.asarray(torch.stack(found).cpu(), dtype=np.float64)
    return values[..., 0], values[..., 1:]
