"""The latent reconstruction loss in every routing of its gradient: thresholds, and where it leads.

One unit on one mode: decoder weight u, encoder weight w on the data, q = u w, encoder variance v,
noise fraction r = v/M of M = w^2 theta^2 + v. The loss adds gamma/2 E|w u z - t|^2 to the objective
(`linvae.spec.LatentReconstruction`), but what trains is a flow, not always the descent of anything:

    P = theta^2/s, b = beta, g = gamma eta^2, f = encoder_share
    T = 1 where t is a draw or mean of q that the gradient reaches, I = 1 where it reaches that z

**The collapsed point.** To first order in (u, w), K = E t z (eta^2 for "prior", v for "posterior",
0 for the others, whose t = w x vanishes) and v the collapsed encoder variance,

    du/dt = -(v/s) u + (theta^2/s + gamma K) w
    dw/dt = (theta^2/s + f gamma K) u - (beta/eta^2 + f gamma T) theta^2 w

per unit of learning rate times steps. The point rests, for every force is odd in (u, w), except
that on v, which is even: so log v does not move with (u, w), decays by itself, and these two rows
are all. They hold for every mode of C and every unit apart, whatever latent_dim is. The
off-diagonal product is positive, the trace negative: one direction grows, iff the determinant is
negative, iff beta is below

| source, detach                          | v                 | critical beta          |
|-----------------------------------------|-------------------|------------------------|
| prior, any; posterior, target or both   | eta^2             | (P + g)(P + f g)/P     |
| posterior, none or input                | eta^2 b/(b + f g) | root of (1)            |
| mean, posterior-to-mean: none or input  | eta^2             | P - f g, 0 if negative |
| mean, posterior-to-mean: target or both | eta^2             | P                      |

    (1)  (P + g m)(P + f g m) = P b,   m = b/(b + f g)

times (b + f g)^2 a cubic in b with the signs + ? - -: one positive root. A decoder that detaches
its input changes no threshold. Without data (theta = 0) the value is infinite where the loss drives
u and w both, else 0.

**Where it leads**, sources "prior" and "posterior". With x = 1 - q what is lost of a copy, the
force along (u, -w, -2 v) vanishes where M = eta^2 m, that on u gives r, that on w is left:

    m = 1 - (1 - f)(g/b) x q                                                "prior"
    m = b/(b + (1 - f) g x q + f g x (T - I q))                             "posterior"
    r/(1 - r) = (P + G) x/(P q),  G = g or g m
    (P + f G) x (P q + (P + G) x) = P b m + P f g m x (T - I q) ["posterior" only]

a scalar equation in x, alive iff beta is below the threshold. Nothing detached, share 1, it is the
optimum, and no transition is of first order: "prior" is `linvae.theory.penalised`; "posterior" has
the objective P x^2 + P q^2 r/(1 - r) - b log r + b log(1 + g x^2/b), twice and up to constants,
whose stationary points all have g x^2/b <= 1/3, where its slope rises: there is one at most. With
"posterior" and both detached at share 1 the rest is that of "prior" exactly. For any other routing
it minimises nothing. Refused: "posterior" with the target alone detached, where a larger z lowers
the loss for nothing (at share 1 m is unbounded from g = 4 b on), and shares above 1 (many rests).

| symbol  | argument or field  | shape           | unit          |
|---------|--------------------|-----------------|---------------|
| theta^2 | mode_variances     | any             | data^2        |
| beta    | beta               | scalar          | -             |
| s       | decoder_variance   | scalar          | data^2        |
| eta^2   | prior_variance     | scalar          | latent^2      |
| gamma, f| loss.weight, .encoder_share | scalar | nats/latent^2, - |
| u, w    | decoder, encoder   | as the modes    | data/latent, latent/data |

All raise ValueError for numbers that are negative or not finite (s, eta^2, beta: or 0). Source:
ours; Song, Kim, Lee 2025 propose the loss and its routings. Equality that a test checks: signs and
sizes of the eigenvalues of the numerical Jacobian of the matrices' flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.spec import LatentReconstruction
from linvae.theory.arguments import checked_numbers, in_doubles
from linvae.theory.roots import bisect
from linvae.theory.solution import ROUNDING

__all__ = [
    "ReconstructionRest",
    "collapsed_encoder_variance",
    "reconstruction_critical_beta",
    "reconstruction_growth_rates",
    "reconstruction_rest",
]

Array = npt.NDArray[np.float64]
WHERE = "linvae.theory.latent_reconstruction"


@in_doubles
def reconstruction_critical_beta(
    mode_variances: npt.ArrayLike,
    loss: LatentReconstruction,
    *,
    decoder_variance: float,
    prior_variance: float,
) -> Array:
    """Beta below which the collapsed point is unstable against each mode, any routing.

    Infinite where it always is, 0 where it never is. Equality that a test checks: weight 0 gives
    theta^2/s, and "prior" with share 1 `linvae.theory.penalised.local_critical_beta`.
    """
    P, g = _ratios(mode_variances, loss, decoder_variance, prior_variance)
    h = loss.encoder_share * g
    if not _sampled(loss):
        return np.maximum(P - h * _reaches_target(loss), 0.0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        critical = np.where(P > 0, (P + g) * (P + h) / P, np.inf if g * h > 0 else 0.0)
    if not (_reaches_target(loss) and h > 0):
        return critical

    def stable(beta: Array) -> npt.NDArray[np.bool_]:
        m = beta / (beta + h)
        return np.asarray((P + g * m) * (P + h * m) <= P * beta)

    finite = np.isfinite(critical)
    return np.where(finite, bisect(stable, 0 * P, np.where(finite, critical, 1.0)), critical)


@in_doubles
def collapsed_encoder_variance(
    loss: LatentReconstruction, *, beta: npt.ArrayLike, prior_variance: float
) -> Array:
    """Encoder variance v of a unit that carries nothing and copies nothing, latent units^2.

    Equality that a test checks: it stays where the numerical flow starts there.
    """
    b = checked_numbers("beta", beta, WHERE)
    eta2 = checked_numbers("prior_variance", prior_variance, WHERE)
    drawn = loss.source == "posterior" and _reaches_target(loss)
    pull = loss.encoder_share * loss.weight * eta2 if drawn else 0.0
    return np.asarray(eta2 * b / (b + pull))


@in_doubles
def reconstruction_growth_rates(
    mode_variances: npt.ArrayLike,
    loss: LatentReconstruction,
    *,
    beta: float,
    decoder_variance: float,
    prior_variance: float,
) -> Array:
    """Growth rate of each mode from the collapsed point, negative where it decays; 1/time.

    Time is learning rate times steps, on raw weights. Equality that a test checks: the largest
    eigenvalue of the numerical Jacobian.
    """
    P, _ = _ratios(mode_variances, loss, decoder_variance, prior_variance)
    v = collapsed_encoder_variance(loss, beta=beta, prior_variance=prior_variance)
    f, gamma, s, eta2 = loss.encoder_share, loss.weight, decoder_variance, prior_variance
    K = v if _sampled(loss) else 0.0
    price = (beta / eta2 + f * gamma * _reaches_target(loss)) * P * s
    drive = (P + gamma * K) * (P + f * gamma * K)
    spread = (v / s + price + np.sqrt((v / s - price) ** 2 + 4 * drive)) / 2
    return np.asarray((drive - v / s * price) / spread)


@dataclass(frozen=True, eq=False)
class ReconstructionRest:
    """Where one unit per mode comes to rest; all fields have the modes' shape.

    | field            | meaning                                     | unit        |
    |------------------|---------------------------------------------|-------------|
    | decoder          | u, 0 where collapsed or without data        | data/latent |
    | encoder          | w, infinite where a copy needs no data      | latent/data |
    | noise_fractions  | r, exactly 1 where the unit carries nothing | -           |
    | second_moments   | M                                           | latent^2    |
    | lost             | x = 1 - u w of the copy, 1 where collapsed  | -           |
    | squared_errors   | what is left of theta^2, and decoded noise  | data^2      |
    | rates_nats       | KL of the unit                              | nats        |

    Equality that a test checks: the numerical flow stays there.
    """

    decoder: Array
    encoder: Array
    noise_fractions: Array
    second_moments: Array
    lost: Array
    squared_errors: Array
    rates_nats: Array

    @property
    def encoder_variances(self) -> Array:
        """Encoder variance v, latent units^2."""
        return self.noise_fractions * self.second_moments

    @property
    def mean_variances(self) -> Array:
        """Variance of the posterior's mean, which active units are counted by; latent units^2."""
        return (1 - self.noise_fractions) * self.second_moments

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per mode."""
        columns = {name: np.ravel(values).tolist() for name, values in vars(self).items()}
        rows = zip(*columns.values(), strict=True)
        return [{"mode": i} | dict(zip(columns, row, strict=True)) for i, row in enumerate(rows, 1)]


@in_doubles
def reconstruction_rest(
    mode_variances: npt.ArrayLike,
    loss: LatentReconstruction,
    *,
    beta: float,
    decoder_variance: float,
    prior_variance: float,
) -> ReconstructionRest:
    """Where each mode with a unit of its own comes to rest, away from collapse if it can leave.

    The optimum where nothing is detached and the share is 1. Raises ValueError for the sources
    "mean" and "posterior-to-mean", a detached "target" alone of "posterior", shares above 1.
    Equality that a test checks: brute force over all weights, or the end of the numerical flow.
    """
    _refuse_unknown_rest(loss)
    P, g = _ratios(mode_variances, loss, decoder_variance, prior_variance)
    b = float(checked_numbers("beta", beta, WHERE))
    force = _Force(P, b, g, loss)
    x = bisect(lambda x: force(x) > 0, 0 * P, 0 * P + 1)
    x = np.where((P > 0) & (1 - x > ROUNDING), x, np.where(P > 0, 1.0, 0.0))
    if g * loss.encoder_share == 0:
        x = np.where(P > 0, x, 1.0)
    q, m = 1 - x, force.moment(x)
    signal, noise = P * q, (P + force.pull(m)) * x
    total = np.where(signal + noise > 0, signal + noise, 1.0)
    r = np.where(signal > 0, noise / total, 1.0)
    theta2 = P * decoder_variance
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.where(q > 0, np.sqrt((1 - r) * m * prior_variance / theta2), 0.0)
        w = np.where((q > 0) & (P == 0), np.inf, w)
        u = np.where(q > 0, q / w, 0.0)
    return ReconstructionRest(
        decoder=u,
        encoder=w,
        noise_fractions=r,
        second_moments=prior_variance * m,
        lost=x,
        squared_errors=decoder_variance * (P * x**2 + noise * q),
        rates_nats=(m - 1 - np.log(r * m)) / 2,
    )


@dataclass(frozen=True, eq=False)
class _Force:
    """What drives w at a loss x of the copy, times positive factors: above 0 a unit gains."""

    P: Array
    b: float
    g: float
    loss: LatentReconstruction

    def moment(self, x: Array) -> Array:
        """M/eta^2."""
        f, q = self.loss.encoder_share, 1 - x
        shared = (1 - f) * self.g * x * q
        if self.loss.source == "prior":
            return 1 - shared / self.b
        return self.b / (self.b + shared + f * self.g * x * self._through_z(q))

    def pull(self, m: Array) -> Array:
        """G: the loss's price of x^2."""
        return self.g * (m if self.loss.source == "posterior" else np.ones_like(m))

    def _through_z(self, q: Array) -> Array:
        """T - I q."""
        target = float(_reaches_target(self.loss))
        return target - q * (self.loss.source == "posterior" and self.loss.detach == "none")

    def __call__(self, x: Array) -> Array:
        P, f, q, m = self.P, self.loss.encoder_share, 1 - x, self.moment(x)
        G = self.pull(m)
        price = self.b * m + f * G * x * self._through_z(q) * (self.loss.source == "posterior")
        return (P + f * G) * x * (P * q + (P + G) * x) - P * price


def _sampled(loss: LatentReconstruction) -> bool:
    """Whether z and t share their noise, so that a copy of it is worth something."""
    return loss.source in ("prior", "posterior")


def _reaches_target(loss: LatentReconstruction) -> bool:
    """Whether the loss reaches the encoder through t."""
    return loss.source != "prior" and loss.detach in ("none", "input")


def _refuse_unknown_rest(loss: LatentReconstruction) -> None:
    runs_away = loss.source == "posterior" and loss.detach == "target"
    if not _sampled(loss) or runs_away or loss.encoder_share > 1:
        raise ValueError(
            f"source={loss.source!r}, detach={loss.detach!r}, encoder_share={loss.encoder_share} "
            "have no known rest: use source 'prior', or 'posterior' with detach 'none', 'input' or "
            "'both', and encoder_share <= 1; reconstruction_critical_beta takes every loss"
        )


def _ratios(
    mode_variances: npt.ArrayLike,
    loss: LatentReconstruction,
    decoder_variance: float,
    prior_variance: float,
) -> tuple[Array, float]:
    """P and g."""
    theta2 = checked_numbers("mode_variances", mode_variances, WHERE, zero=True)
    s = checked_numbers("decoder_variance", decoder_variance, WHERE)
    eta2 = checked_numbers("prior_variance", prior_variance, WHERE)
    return theta2 / s, float(loss.weight * eta2)
