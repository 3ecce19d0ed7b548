"""The latent reconstruction loss with any number of units: one that copies mixes two modes.

Twice the objective of one unit, decoder u and encoder w vectors, C = Cov(y), M = w.C w + v the
second moment of z, x = 1 - u.w what is lost of a copy, is up to constants

    tr C/s - 2 u.C w/s + |u|^2 M/s + beta (M/eta^2 - log v) + G x^2,   G = gamma eta^2 or gamma M

for z from the prior or from q. Stationary in u, w and v it has, with lambda = s G x,

    M u = (C + lambda) w,  (C + lambda) u = (s beta/v) C w,  so (C + lambda)^2 w = (s beta/r) C w

with r = v/M: (theta^2 + lambda)^2/theta^2 is s beta/r for every mode that w holds. It takes a value
at two theta^2 at most, whose product is lambda^2. So **a unit has one mode, and is what
`linvae.theory.latent_reconstruction` says, or two**. With P1 > P2 theirs, c = sqrt(P1 P2),
g = gamma eta^2 it then has

    r = beta/(sqrt P1 + sqrt P2)^2      as a unit of one mode of variance (theta_1 + theta_2)^2
    alpha_1 + alpha_2 = 1 - r,   alpha_1/sqrt P1 + alpha_2/sqrt P2 = (1 - x)/(sqrt P1 + sqrt P2)
    cost = beta - P1 - P2 - beta log r - 2 c x + L(x)        (twice the objective; 0 = mean and v of
                                                              the prior, no loss, both unexplained)
| source    | x                                  | M/eta^2             | L(x)                    |
|-----------|------------------------------------|---------------------|-------------------------|
| prior     | c/g                                | 1                   | g x^2                   |
| posterior | 2 c/(g + sqrt(g^2 - 4 c^2 g/beta)) | beta/(beta + g x^2) | beta log(1 + g x^2/beta)|

where the shares alpha M of the two modes are positive. Mode 1 carries the data and mode 2 the rest
of the copy. As beta rises alpha_1 falls; at 0 the data have left and mode 2 alone is in use, at

    beta_c = (sqrt P1 + sqrt P2)(sqrt P1 + x sqrt P2),   "prior": (P1 + sqrt(P1 P2))(1 + P2/g)

against P1 without the loss. As P2 -> 0 the loss costs 2 beta sqrt(P2/P1) and moves no threshold:
**with k directions that are constant it does nothing**. Its infimum is then the plain optimum, at
any weight, for both sources: decoding z faintly into them makes W U = I for no distortion and, as
the data never go there, no rate; and the loss is >= 0, so nothing is better.

Several units at the optimum have no mode in common, and unit j has mode j, mode j + d - k, both or
none: the strongest signal goes with the highest of the k lowest modes. A mode that two units could
have (d < 2k) goes to one of them, by dynamic programming along j, j + d - k, ... With k >= d each
mode has a unit. What one unit does is derived. That several share no mode follows where Sigma and
W U are diagonal together; that they are, and the order of the pairs, was found by brute force.

| symbol   | argument or field   | shape            | unit           |
|----------|---------------------|------------------|----------------|
| theta^2  | mode_variances      | (d,)             | data^2         |
| P        | theta^2/s           | (d,)             | -              |
| k        | latent_dim          | int              | -              |
| s, eta^2 | decoder_variance, prior_variance | scalar | data^2, latent^2 |
| gamma    | loss.weight         | scalar           | nats/latent^2  |
| alpha M  | mean_variances      | (k, 2)           | latent^2       |
| u, w     | decoder, encoder    | (k, 2)           | data/latent, latent/data |

Source: ours. Equality that a test checks: brute force over all matrices, both sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from linvae.spec import LatentReconstruction
from linvae.theory.arguments import checked_numbers, checked_variances, in_doubles
from linvae.theory.latent_reconstruction import reconstruction_rest

__all__ = ["ReconstructionOptimum", "copying_critical_beta", "reconstruction_optimum"]

Array = npt.NDArray[np.float64]
WHERE = "linvae.theory.mixed_units"


@dataclass(frozen=True, eq=False)
class ReconstructionOptimum:
    """Optimum of k units on d modes; modes count from 0 by descending variance.

    | field             | meaning                                              | shape | unit     |
    |-------------------|------------------------------------------------------|-------|----------|
    | modes             | those of the unit, -1 where it has fewer than two    | (k, 2)| -        |
    | decoder           | weights on them, 0 without data              | (k, 2)| data/latent      |
    | encoder           | weights on them, infinite without data       | (k, 2)| latent/data      |
    | mean_variances    | of the posterior's mean, by mode                     | (k, 2)| latent^2 |
    | encoder_variances | v                                                    | (k,)  | latent^2 |
    | lost              | 1 - u.w of the copy                                  | (k,)  | -        |
    | rates_nats        | KL                                                   | (k,)  | nats     |
    | squared_error     | of all modes                                         | scalar| data^2   |
    | distortion, penalty, objective | those of `linvae.theory.elbo`           | scalar| nats     |

    Equality that a test checks: objective = distortion + beta sum of rates + penalty, and both are
    those of these weights.
    """

    modes: npt.NDArray[np.intp]
    decoder: Array
    encoder: Array
    mean_variances: Array
    encoder_variances: Array
    lost: Array
    rates_nats: Array
    squared_error: float
    distortion: float
    penalty: float
    objective: float

    def active_units(self, threshold: float) -> int:
        """Units whose posterior mean varies over the data by more than `threshold`, latent^2."""
        return int(np.sum(self.mean_variances.sum(axis=1) > threshold))

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per unit; its modes count from 1."""
        return [
            {
                "unit": unit + 1,
                "modes": [int(mode) + 1 for mode in self.modes[unit] if mode >= 0],
                "mean_variance": float(self.mean_variances[unit].sum()),
                "encoder_variance": float(self.encoder_variances[unit]),
                "lost": float(self.lost[unit]),
                "rate_nats": float(self.rates_nats[unit]),
            }
            for unit in range(len(self.modes))
        ]


@in_doubles
def reconstruction_optimum(
    mode_variances: npt.ArrayLike,
    loss: LatentReconstruction,
    *,
    latent_dim: int,
    beta: float,
    decoder_variance: float,
    prior_variance: float,
) -> ReconstructionOptimum:
    """The global optimum with a learned encoder variance, for any latent_dim.

    An infimum, and the limit of what reaches it, where a mode has no variance. Raises ValueError
    for a loss that is not minimised (a share other than 1, "posterior" with anything detached), the
    sources "mean" and "posterior-to-mean", and numbers out of range. Equality that a test checks:
    no matrices found by brute force do better, and some do as well.
    """
    _refuse_no_minimum(loss)
    theta2 = np.sort(checked_variances(mode_variances, WHERE))[::-1]
    if latent_dim < 1:
        raise ValueError(f"latent_dim={latent_dim} must be >= 1 in reconstruction_optimum")
    price = _Price(
        loss,
        beta=float(checked_numbers("beta", beta, WHERE)),
        decoder_variance=float(checked_numbers("decoder_variance", decoder_variance, WHERE)),
        prior_variance=float(checked_numbers("prior_variance", prior_variance, WHERE)),
    )
    signal, shift = np.arange(min(latent_dim, len(theta2))), max(len(theta2) - latent_dim, 0)
    idle, alone = _idle(price), _alone(theta2, price)
    pairs = _pairs(np.stack([signal, signal + shift], axis=1), theta2, price)
    floor = price.cost(idle)
    gains = floor - price.cost(alone)
    gains = np.where(
        alone.lost < 1, gains, np.minimum(gains, 0.0)
    )  # else it is idle, but for rounding
    picks = _assign(gains, floor - price.cost(pairs), shift)
    units = _take(_stack(idle, alone, pairs), np.pad(picks, (0, latent_dim - len(picks))))
    return _optimum(theta2, units, price)


@in_doubles
def copying_critical_beta(
    signal_variance: npt.ArrayLike,
    copy_variance: npt.ArrayLike,
    loss: LatentReconstruction,
    *,
    decoder_variance: float,
    prior_variance: float,
) -> Array:
    """Beta at which the data leave a unit that copies through a mode of `copy_variance`.

    NaN where the unit never has both modes: the signal's variance is not the larger, or the loss is
    too weak (gamma eta^2 <= theta_1 theta_2/s, somewhat more for "posterior"). Raises ValueError as
    `reconstruction_optimum`. Equality that a test checks: the optimum just below and just above.
    """
    _refuse_no_minimum(loss)
    s = checked_numbers("decoder_variance", decoder_variance, WHERE)
    eta2 = checked_numbers("prior_variance", prior_variance, WHERE)
    high = np.sqrt(checked_numbers("signal_variance", signal_variance, WHERE, zero=True) / s)
    low = np.sqrt(checked_numbers("copy_variance", copy_variance, WHERE, zero=True) / s)
    g, c = loss.weight * eta2, high * low
    with np.errstate(divide="ignore", invalid="ignore"):
        if loss.source == "prior":
            x, weakest = c / g, c
        else:  # x M/eta^2 = c/g with beta = (high + low)(high + x low) in M
            slope = (g - low**2) * high * (high + low)
            x = 2 * c * high * (high + low)
            x = x / (slope + np.sqrt(slope**2 + 2 * x * g * low**2))
            weakest = c * (high + low) ** 2 / (high**2 + low**2 + c)
        mixes = (high > low) & (g > weakest)
        return np.where(mixes, (high + low) * (high + x * low), np.nan)


@dataclass(frozen=True)
class _Price:
    """The numbers of a problem, and what things cost: twice the objective."""

    loss: LatentReconstruction
    beta: float
    decoder_variance: float
    prior_variance: float

    @property
    def weight(self) -> float:
        """g."""
        return self.loss.weight * self.prior_variance

    @property
    def of_model(self) -> dict[str, float]:
        return {
            "beta": self.beta,
            "decoder_variance": self.decoder_variance,
            "prior_variance": self.prior_variance,
        }

    def moment(self, lost: Array) -> Array:
        """M/eta^2."""
        pull = self.weight * lost**2 if self.loss.source == "posterior" else 0 * lost
        return self.beta / (self.beta + pull)

    def of_loss(self, units: _Units) -> Array:
        """G x^2."""
        return self.weight * units.lost**2 * units.moments  # 1 where the loss draws from the prior

    def cost(self, units: _Units) -> Array:
        """Of single units, over that of their modes unexplained."""
        rates = units.rates_nats
        return 2 * self.beta * rates + self.of_loss(units) - units.saved / self.decoder_variance


class _Units(NamedTuple):
    """Single units, (units,) or (units, 2): r, M/eta^2, x, what they save of E|y|^2; data^2."""

    modes: npt.NDArray[np.intp]
    decoder: Array
    encoder: Array
    shares: Array
    noise_fractions: Array
    moments: Array
    lost: Array
    saved: Array

    @property
    def rates_nats(self) -> Array:
        m, r = self.moments, self.noise_fractions
        return np.asarray((m - 1 - np.log(r * m)) / 2)


def _stack(*groups: _Units) -> _Units:
    return _Units._make(np.concatenate(columns) for columns in zip(*groups, strict=True))


def _take(units: _Units, index: npt.NDArray[np.intp]) -> _Units:
    return _Units._make(column[index] for column in units)


def _idle(price: _Price) -> _Units:
    """One unit that has no mode."""
    one, nothing = np.ones(1), np.zeros((1, 2))
    modes = np.full((1, 2), -1)
    return _Units(modes, nothing, nothing, nothing, one, price.moment(one), one, 0 * one)


def _alone(theta2: Array, price: _Price) -> _Units:
    """Units that have one mode each."""
    rest = reconstruction_rest(theta2, price.loss, **price.of_model)

    def first(values: Array) -> Array:
        return np.stack([values, np.zeros_like(values)], axis=1)

    return _Units(
        modes=np.stack([np.arange(len(theta2)), np.full(len(theta2), -1)], axis=1),
        decoder=first(rest.decoder),
        encoder=first(rest.encoder),
        shares=first(1 - rest.noise_fractions),
        noise_fractions=rest.noise_fractions,
        moments=rest.second_moments / price.prior_variance,
        lost=rest.lost,
        saved=np.where(rest.lost < 1, theta2 - rest.squared_errors, 0.0),
    )


def _pairs(modes: npt.NDArray[np.intp], theta2: Array, price: _Price) -> _Units:
    """Units that mix two modes each, saving minus infinity where none is stationary."""
    theta = np.sqrt(theta2[modes])
    high, low = theta.T / np.sqrt(price.decoder_variance)
    both, gap, c = high + low, high - low, high * low
    with np.errstate(divide="ignore", invalid="ignore"):
        r = price.beta / both**2
        x = _lost_of_pair(c, price)
        carried = (1 - x) * c / both
        shares = np.stack([high * (1 - r) - carried, carried - low * (1 - r)], axis=1)
        shares = shares / gap[:, None]
        exists = np.all(shares >= 0, axis=1)  # also r < 1, their sum is 1 - r, and gap > 0
    r, x = np.where(exists, r, 1.0), np.where(exists, x, 1.0)
    shares = np.where(exists[:, None], shares, 0.0)
    m = price.moment(x)
    M = (m * price.prior_variance)[:, None]
    empty = exists[:, None] & (theta == 0)
    w = np.divide(np.sqrt(shares * M), theta, out=np.zeros_like(theta), where=theta > 0)
    saved = 2 * both * (high * shares[:, 0] + low * shares[:, 1]) - both**2 * (1 - r)
    return _Units(
        modes=modes,
        decoder=theta * theta.sum(axis=1, keepdims=True) * w / M,
        encoder=np.where(empty, np.inf, w),
        shares=shares,
        noise_fractions=r,
        moments=m,
        lost=x,
        saved=np.where(exists, price.decoder_variance * saved, -np.inf),
    )


def _lost_of_pair(c: Array, price: _Price) -> Array:
    """x, NaN or infinite where there is none."""
    g = price.weight
    if price.loss.source == "prior":
        return c / g
    return 2 * c / (g + np.sqrt(g**2 - 4 * c**2 * g / price.beta))


def _assign(alone: Array, pairs: Array, shift: int) -> npt.NDArray[np.intp]:
    """What every unit takes, to the largest sum of gains: 0 idle, 1 + mode, 1 + modes + pair.

    Unit j may take mode j, mode j + shift, both or none; no mode is taken twice.
    """
    n, d = len(pairs), len(alone)
    if shift == 0:
        return np.where(alone[:n] > 0, 1 + np.arange(n), 0)
    picks = np.zeros(n, dtype=np.intp)
    for first in range(min(shift, n)):
        chain = range(first, n, shift)
        # (gain, picks) of the units so far, the last of which left its second mode free or took it
        free: tuple[float, tuple[int, ...]] = (0.0, ())
        taken: tuple[float, tuple[int, ...]] = (-np.inf, ())
        for j in chain:
            either, over = max(free, taken, key=lambda so_far: so_far[0]), j + shift
            free, taken = (
                _better(_add(either, 0.0, 0), _add(free, alone[j], 1 + j)),
                _better(_add(either, alone[over], 1 + over), _add(free, pairs[j], 1 + d + j)),
            )
        picks[first::shift] = _better(free, taken)[1]
    return picks


def _add(
    so_far: tuple[float, tuple[int, ...]], gain: float, pick: int
) -> tuple[float, tuple[int, ...]]:
    return so_far[0] + gain, (*so_far[1], pick)


def _better(
    one: tuple[float, tuple[int, ...]], other: tuple[float, tuple[int, ...]]
) -> tuple[float, tuple[int, ...]]:
    return other if other[0] > one[0] else one


def _optimum(theta2: Array, units: _Units, price: _Price) -> ReconstructionOptimum:
    s, eta2 = price.decoder_variance, price.prior_variance
    squared_error = float(np.sum(theta2) - np.sum(units.saved))
    distortion = len(theta2) / 2 * float(np.log(2 * np.pi * s)) + squared_error / (2 * s)
    penalty = float(np.sum(price.of_loss(units))) / 2
    return ReconstructionOptimum(
        modes=units.modes,
        decoder=units.decoder,
        encoder=units.encoder,
        mean_variances=units.shares * units.moments[:, None] * eta2,
        encoder_variances=units.noise_fractions * units.moments * eta2,
        lost=units.lost,
        rates_nats=units.rates_nats,
        squared_error=squared_error,
        distortion=distortion,
        penalty=penalty,
        objective=distortion + price.beta * float(np.sum(units.rates_nats)) + penalty,
    )


def _refuse_no_minimum(loss: LatentReconstruction) -> None:
    attached = loss.source == "prior" or (loss.source == "posterior" and loss.detach == "none")
    if not attached or loss.encoder_share != 1:
        raise ValueError(
            f"source={loss.source!r}, detach={loss.detach!r}, encoder_share={loss.encoder_share} "
            f"have no known optimum in {WHERE}: use source 'prior', or 'posterior' with "
            "detach='none', and encoder_share=1"
        )
