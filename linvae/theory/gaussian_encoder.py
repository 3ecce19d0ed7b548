"""The threshold of VAEs whose encoder is Gaussian: how far above the linear one they stay alive.

One latent unit, prior N(0, 1), encoder N(mu(y), v(y)) and decoder output f(z) with mu, v and f any
functions at all, decoder variance s. Against full collapse it saves distortion V/(2 s) for R nats:

    V = E|y - mean|^2 - E|y - f(z)|^2,   R = E[mu^2 + v - 1 - log v]/2

and has the better objective at every beta below its **exchange ratio** V/(2 s R). The best decoder
is the posterior mean f(z) = E[y|z], which gives V = E|f(z) - mean|^2. So the threshold is

    beta_c = sup over mu, v of V/(2 s R)

It is reached from below: whatever mu and v, the ratio is that of a model that exists. As mu -> 0
and v -> 1 the best ratio tends to lambda_max/s, the linear threshold; the universal threshold
(`linvae.theory.universal`) is at least beta_c. For Gaussian data all three are equal.
`linvae.theory.skewness_shift` has the law of beta_c near the linear threshold.

Given f, the best encoder of a sample depends on y only through the function f(z).y of z: no sample
has a code of its own unless f passes through it. `held_out_shift` is the check.

At the constraint R = K the best V gives a branch of optima: the threshold is the largest ratio on
it, and each is a stationary point of the objective at beta = (1/(2 s)) dV/dR. The largest such beta
is where the alive branch ends: between it and the threshold alive networks lose to collapse and
survive all the same. With one Gaussian variance dV/dR = 2 lambda exp(-2 K).

| symbol   | argument or field   | shape  | unit         |
|----------|---------------------|--------|--------------|
| y        | target              | (n, d) | data units   |
| -        | weights             | (n,)   | -, sum 1     |
| s        | decoder_variance    | scalar | data units^2 |
| mu       | encoder_means       | (n,)   | -            |
| v        | encoder_variances   | (n,)   | -            |
| z        | latents             | (G,)   | -            |
| f(z)     | outputs             | (G, d) | data units   |
| R        | information         | scalar | nats         |
| beta_c   | critical_beta       | scalar | -            |

The integral over z is a sum on an even grid of step `STEP`: for a Gaussian of variance v its error
is of order exp(-2 pi^2 v/STEP^2), 1e-11 at the smallest v allowed. What lies beyond the grid is
left out of V, which makes it smaller. The supremum is not concave: many starts, and **the value
found is a lower estimate**. More units with a diagonal covariance can only add to it.

Source: ours. Equality that a test checks: on Gaussian data the ratio at R = K is
lambda (1 - exp(-2 K))/(2 s K).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from linvae.moments import doubles
from linvae.theory.arguments import checked_numbers, in_doubles

__all__ = [
    "AliveBranch",
    "GaussianEncoderThreshold",
    "alive_branch",
    "gaussian_encoder_threshold",
    "held_out_shift",
]

Array = npt.NDArray[np.float64]
Value = Callable[[Array], tuple[float, Array]]  # of an encoder x, with its slope

STEP = 0.25
LATENTS: Array = STEP * np.arange(-36.0, 37.0)  # to 9 standard deviations of the prior
LOG_VARIANCES = (-2.5, 1.1)  # of the encoder
LARGEST_MEAN = 5.0
DIRECTIONS = 2  # principal directions to start from
SCREENING, POLISH, KEPT = 15, 500, 2  # steps of every start, of the best, and how many those are
STIFFNESS = 10.0  # of the spring that holds the information
NO_GAP = 1e-7  # relative; below it the optimum is collapse itself, to rounding


@dataclass(frozen=True, eq=False)
class GaussianEncoderThreshold:
    """Largest exchange ratio found, and the model that has it.

    | field                | meaning                                                   | unit |
    |----------------------|-----------------------------------------------------------|------|
    | critical_beta        | below it this model beats full collapse                   | -    |
    | linear_critical_beta | lambda_max/s                                              | -    |
    | information          | KL of the model: the nats that an observer has to resolve | nats |
    | encoder_means        | mu of every sample, (n,)                                  | -    |
    | encoder_variances    | v of every sample, (n,)                                   | -    |
    | latents, outputs     | its decoder: f at the points z, (G,) and (G, d)           | data |

    Where the supremum is the limit of no information at all: 0 nats, mu = 0, v = 1, the mean.
    Equality that a test checks: V/(2 s R) of these fields, by another quadrature.
    """

    decoder_variance: float
    critical_beta: float
    linear_critical_beta: float
    information: float
    encoder_means: Array
    encoder_variances: Array
    latents: Array
    outputs: Array

    @property
    def shift(self) -> float:
        """critical_beta/linear_critical_beta - 1."""
        return self.critical_beta / self.linear_critical_beta - 1


@dataclass(frozen=True, eq=False)
class AliveBranch:
    """The best models with a given information; arrays (points,), ascending.

    | field           | meaning                                                      | unit |
    |-----------------|--------------------------------------------------------------|------|
    | information     | R                                                            | nats |
    | betas           | dV/dR/(2 s): the beta at which the model is stationary, what | -    |
    |                 | fixed-information control settles at                         |      |
    | exchange_ratios | V/(2 s R): the beta below which it beats full collapse       | -    |

    Equality that a test checks: betas are the slope of information * exchange_ratios.
    """

    information: Array
    betas: Array
    exchange_ratios: Array

    @property
    def end_beta(self) -> float:
        """The largest beta of these points: above it no alive optimum was found."""
        return float(self.betas.max())


@in_doubles
def gaussian_encoder_threshold(
    target: npt.ArrayLike, *, decoder_variance: float = 1.0, weights: npt.ArrayLike | None = None
) -> GaussianEncoderThreshold:
    """The largest beta at which a VAE with a Gaussian encoder and one unit beats full collapse.

    `target` (n, d), or (n,) for scores along one direction. `weights` (n,) > 0: samples or
    quadrature nodes of a law that do not count alike. With many dimensions the scores of the
    leading components are much faster, and the value for them is below that for all.

    Raises ValueError for a target that is not finite, has another shape or no variance, and for
    weights or a variance that are not positive. Equality that a test checks: no encoder found by
    another optimiser, from random starts, has a larger ratio.
    """
    problem = _Problem.of(target, weights)
    s = float(checked_numbers("decoder_variance", decoder_variance, "gaussian_encoder_threshold"))
    best = _best(problem, problem.log_ratio, problem.starts())
    ratio = problem.ratio(best)
    if ratio <= problem.linear * (1 + NO_GAP):
        best, ratio = np.zeros_like(best), problem.linear
    mean, log_variance = problem.encoder(best)
    terms = problem.terms(best)
    return GaussianEncoderThreshold(
        decoder_variance=s,
        critical_beta=ratio / s,
        linear_critical_beta=problem.linear / s,
        information=terms.rate,
        encoder_means=mean,
        encoder_variances=np.exp(log_variance),
        latents=LATENTS,
        outputs=problem.mean + terms.decoder,
    )


@in_doubles
def alive_branch(
    target: npt.ArrayLike,
    information: Sequence[float],
    *,
    decoder_variance: float = 1.0,
    weights: npt.ArrayLike | None = None,
) -> AliveBranch:
    """The best models that hold about the given nats; arguments as `gaussian_encoder_threshold`.

    A spring on log R holds it within a tenth of the nats asked for. Raises ValueError as
    there, and for nats that are not positive. Equality that a test checks: Gaussian data have
    betas = lambda exp(-2 R)/s.
    """
    problem = _Problem.of(target, weights)
    s = float(checked_numbers("decoder_variance", decoder_variance, "alive_branch"))
    nats = np.sort(np.atleast_1d(checked_numbers("information", information, "alive_branch")))
    top = _best(problem, problem.log_ratio, problem.starts())
    last, points = _best(problem, problem.held_at(nats[-1]), [top, *problem.starts()]), []
    for held in nats[::-1]:
        last = _best(problem, problem.held_at(held), [last, top])
        rate, ratio = problem.terms(last).rate, problem.ratio(last)
        points.append((rate, ratio * _pull(rate, held) / s, ratio / s))
    return AliveBranch(*np.array(points[::-1]).T)


@in_doubles
def held_out_shift(target: npt.ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """Shift of samples that the decoder was not made from, and its standard error.

    The decoder of `gaussian_encoder_threshold` on one half of `target` (n, d), the best encoder for
    it on the other half; exchange ratio over the linear threshold of that half, less 1, mean of
    both ways. `seed` draws the halves. Far below `shift` of all samples, that one has memorised.
    NaN where a half has no gap, and so no decoder. Errors as there. Equality that a test checks:
    two points, the same samples in both halves.
    """
    y = _checked_target(target)
    order = np.random.default_rng(seed).permutation(len(y))
    one, other = y[order[::2]], y[order[1::2]]
    values, errors = np.array([_held_out(one, other), _held_out(other, one)]).T
    return float(values.mean()) - 1, float(np.hypot(*errors)) / 2


def _held_out(y: Array, rest: Array) -> tuple[float, float]:
    """Ratio of `rest` under the decoder of `y`, over its lambda_max, and the standard error."""
    found = gaussian_encoder_threshold(y)
    if found.information == 0:
        return math.nan, math.nan
    problem = replace(_Problem.of(rest, None), decoder=found.outputs - y.mean(axis=0))
    collapsed = np.zeros(2 * len(rest))
    start = _ascent(problem, problem.gain_at(found.critical_beta), collapsed, POLISH)[1]
    best = _best(problem, problem.log_ratio, [start])
    ratio, rates = problem.ratio(best) / problem.linear, _rates(*problem.encoder(best))
    # influence of each sample on the saved distortion, on the rate and on lambda_max
    saved = problem.gains(best)[0].sum(axis=1) * len(rest)
    square = (problem.y @ problem.axes[:, 0]) ** 2
    influence = ratio * (saved / saved.mean() - rates / rates.mean() - square / problem.linear)
    return ratio, float(np.std(influence)) / math.sqrt(len(rest))


# --- saved distortion and rate -------------------------------------------------------------------


class _Terms(NamedTuple):
    saved: float  # V
    rate: float  # R
    saved_slope: Array  # of V and R along x, (2 n,)
    rate_slope: Array
    decoder: Array  # f(z) - mean, (G, d)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Centred samples; an encoder is x = (mu, log v), each times sqrt(n weights), (2 n,)."""

    y: Array
    weights: Array
    mean: Array
    axes: Array  # leading principal directions, (d, k)
    linear: float  # lambda_max
    decoder: Array | None = None  # None: the posterior mean of whatever encoder is tried

    @classmethod
    def of(cls, target: npt.ArrayLike, weights: npt.ArrayLike | None) -> _Problem:
        y = _checked_target(target)
        w = _checked_weights(weights, len(y))
        mean = w @ y
        values, vectors = np.linalg.eigh(((y - mean) * w[:, None]).T @ (y - mean))
        if not values[-1] > (1e-12 * np.abs(y).max()) ** 2:
            raise ValueError("target has zero variance: there is nothing to explain")
        return cls(y - mean, w, mean, vectors[:, ::-1][:, :DIRECTIONS], float(values[-1]))

    @property
    def root(self) -> Array:
        return np.sqrt(len(self.y) * self.weights)

    def encoder(self, x: Array) -> tuple[Array, Array]:
        """mu and log v, (n,) each."""
        mean, log_variance = np.split(x, 2)
        return mean / self.root, log_variance / self.root

    def gains(self, x: Array) -> tuple[Array, Array]:
        """What every sample saves at every z, (n, G), and the decoder, (G, d).

        w q(z|y) (2 f(z).y - |f(z)|^2); its sum is V for any f, the posterior mean or another.
        """
        mean, log_variance = self.encoder(x)
        exponent = (LATENTS - mean[:, None]) ** 2 * np.exp(-log_variance)[:, None]
        height = self.weights * STEP * np.exp(-log_variance / 2) / math.sqrt(2 * math.pi)
        share = np.exp(-exponent / 2) * height[:, None]
        f = self.decoder
        if f is None:
            f = (share.T @ self.y) / np.maximum(share.sum(axis=0), 1e-300)[:, None]
        return share * (2 * self.y @ f.T - np.sum(f**2, axis=1)), f

    def terms(self, x: Array) -> _Terms:
        """V and R with their slopes. The best f is stationary: V's slope is that for a held f."""
        gain, decoder = self.gains(x)
        mean, log_variance = self.encoder(x)
        saved = gain.sum(axis=1)
        first, second = gain @ LATENTS, gain @ LATENTS**2
        v = np.exp(log_variance)
        along_mean = (first - mean * saved) / v
        along_log = ((second - 2 * mean * first + mean**2 * saved) / v - saved) / 2
        rate_mean, rate_log = self.weights * mean, self.weights * np.expm1(log_variance) / 2
        return _Terms(
            saved=float(saved.sum()),
            rate=float(self.weights @ _rates(mean, log_variance)),
            saved_slope=np.concatenate([along_mean / self.root, along_log / self.root]),
            rate_slope=np.concatenate([rate_mean / self.root, rate_log / self.root]),
            decoder=decoder,
        )

    def ratio(self, x: Array) -> float:
        """V/(2 R); 0 without any information."""
        terms = self.terms(x)
        return terms.saved / (2 * terms.rate) if terms.rate > 0 else 0.0

    def log_ratio(self, x: Array) -> tuple[float, Array]:
        """log V - log R with its slope."""
        t = self.terms(x)
        if not (t.saved > 0 and t.rate > 0):
            return -math.inf, np.zeros_like(x)
        slope = t.saved_slope / t.saved - t.rate_slope / t.rate
        return math.log(t.saved / t.rate), slope

    def gain_at(self, variance: float) -> Value:
        """V - 2 variance R, variance = s beta: twice s the gain over collapse."""

        def value(x: Array) -> tuple[float, Array]:
            t = self.terms(x)
            scale = 1 / self.linear
            gain = t.saved - 2 * variance * t.rate
            return scale * gain, scale * (t.saved_slope - 2 * variance * t.rate_slope)

        return value

    def held_at(self, nats: float) -> Value:
        """log V with a spring on log R: where it is stationary, dV/dR = V/R * `_pull`."""

        def value(x: Array) -> tuple[float, Array]:
            t = self.terms(x)
            if not (t.saved > 0 and t.rate > 0):
                return -math.inf, np.zeros_like(x)
            pull = _pull(t.rate, nats)
            slope = t.saved_slope / t.saved - pull * t.rate_slope / t.rate
            return math.log(t.saved) - pull**2 / (2 * STIFFNESS), slope

        return value

    def bounds(self) -> list[tuple[float, float]]:
        """Of every entry of x."""
        kinds = (-LARGEST_MEAN, LARGEST_MEAN), LOG_VARIANCES
        return [(low * root, high * root) for low, high in kinds for root in self.root]

    def starts(self) -> list[Array]:
        """Encoders that follow leading components, in their mean, their variance, or their tail.

        The variance grows towards the tail: the cubic term of the objective gains by it
        (`linvae.theory.skewness_shift`).
        """
        found = []
        for axis in self.axes.T:
            t = self.y @ axis
            t /= math.sqrt(max(float(self.weights @ t**2), 1e-300))
            t *= 1.0 if self.weights @ t**3 >= 0 else -1.0
            tail = expit(4 * (t - 1.5))
            pairs = [(a * t, b * t) for a, b in ((0.3, 0.3), (0.05, 0.6), (1.0, 0.5))]
            pairs.append((2 * tail, -2 * tail))
            found += [np.concatenate(pair) * np.tile(self.root, 2) for pair in pairs]
        return found  # where out of bounds, the ascent begins at the bound


def _rates(mean: Array, log_variance: Array) -> Array:
    rates: Array = (mean**2 + np.expm1(log_variance) - log_variance) / 2
    return rates


def _pull(rate: float, nats: float) -> float:
    """Force of the spring, d log V/d log R at the optimum; at rest where that is 1."""
    return 1 + STIFFNESS * math.log(rate / nats)


# --- ascent --------------------------------------------------------------------------------------


def _best(problem: _Problem, value: Value, starts: list[Array]) -> Array:
    """The best of ascents from all starts; only the most promising are followed to the end."""
    screened = sorted((_ascent(problem, value, x, SCREENING) for x in starts), key=_height)
    return max((_ascent(problem, value, x, POLISH) for _, x in screened[-KEPT:]), key=_height)[1]


def _height(point: tuple[float, Array]) -> float:
    return point[0]


def _ascent(problem: _Problem, value: Value, start: Array, steps: int) -> tuple[float, Array]:
    """Quasi-Newton ascent inside the allowed means and variances: value and place."""

    def fall(x: Array) -> tuple[float, Array]:
        height, slope = value(x)
        return -height, -slope

    options = {"maxiter": steps, "ftol": 1e-11, "gtol": 1e-9}
    bounds = problem.bounds()
    found = minimize(fall, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return -float(found.fun), found.x


# --- arguments -----------------------------------------------------------------------------------


def _checked_target(target: npt.ArrayLike) -> Array:
    y = doubles("target", target)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or len(y) < 2 or y.shape[1] == 0:
        raise ValueError(
            f"target has shape {y.shape} but must be (samples, dimensions) or (samples,), with at "
            "least 2 samples"
        )
    if not np.isfinite(y).all():
        raise ValueError("target contains NaN or infinite entries: remove those samples")
    return y


def _checked_weights(weights: npt.ArrayLike | None, n: int) -> Array:
    if weights is None:
        return np.full(n, 1 / n)
    w = checked_numbers("weights", weights, "gaussian_encoder_threshold")
    if w.shape != (n,):
        raise ValueError(f"weights has shape {w.shape} but target has {n} samples: one for each")
    normalised: Array = w / w.sum()
    return normalised
