"""One level with a latent reconstruction loss (gamma) or weight decay (kappa), in closed form.

Per mode, with decoder weight u, encoder weight w on the data, p = u w, v the encoder variance,
twice the objective is, up to constants,

    A (1 - p)^2 + u^2 (v/s + kappa) + w^2 b + beta (v/eta^2 - log v),
    A = theta^2/s + gamma eta^2,   b = beta theta^2/eta^2 + kappa

(the loss adds gamma eta^2 (1 - p)^2 because E|w u z - z|^2 = eta^2 (1 - p)^2 under the prior).
The best split of p gives 2 p G with G^2 = (v/s + kappa) b, and the best p is 1 - G/A, or 0. What
remains is stationary in v = eta^2/t where

    (1 + k t)(t + y)^2 = B t
    k = kappa s/eta^2,   y = eta^2 b/(s A beta) - 1,   B = eta^2 b/(s beta^2)

The larger root t is the alive optimum, t = 1 and p = 0 the collapsed one, and being alive gains
A p^2/2 - beta/2 (1/t - 1 + log t) nats. With gamma alone there is one optimum. **Weight decay can
make the transition first-order**: at the local threshold (x = eta^2/s)

    beta_local = (eta^2/theta^2) (A^2/(x + kappa) - kappa)

an alive optimum exists already iff beta_local < eta^2 A x/(2 s (x + kappa)^2), for gamma = 0 iff
theta^4/s^2 < 2 kappa (x + kappa)^2/(x + 2 kappa). The mode then stays alive above beta_local, up to
the beta at which both optima are equally good, and can be alive although the collapsed point is
stable at every beta. It is dead at every beta iff A <= kappa.

| symbol  | argument or field     | shape                   | unit         |
|---------|-----------------------|-------------------------|--------------|
| theta^2 | mode_variances        | any, broadcast          | data^2       |
| beta    | beta                  | any, broadcast          | -            |
| s       | decoder_variance      | scalar                  | data^2       |
| eta^2   | prior_variance        | scalar                  | latent^2     |
| gamma   | latent_reconstruction | any, broadcast          | nats/latent^2|
| kappa   | weight_decay          | any, broadcast          | nats         |
| v       | encoder_variance      | as the modes            | latent^2     |
| u, w    | decoder, encoder      | as the modes            | data/latent, latent/data |

All functions raise ValueError for numbers that are negative or not finite (s, eta^2, beta: or 0).

With a fixed encoder variance v is given and p = max(0, 1 - G/A). Source: ours; Song et al. 2025
propose the loss, Ichikawa & Hukushima 2023 analyse the decay. Equality that a test checks: at
gamma = kappa = 0 the solution is that of `linvae.theory.vae`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.spec import VAESpec
from linvae.theory.arguments import checked_numbers
from linvae.theory.modes import Modes
from linvae.theory.roots import bisect
from linvae.theory.solution import ROUNDING, ModeStates

__all__ = [
    "PenalisedOptimum",
    "is_first_order",
    "local_critical_beta",
    "penalised_critical_beta",
    "penalised_optimum",
    "solve_penalised",
]

Array = npt.NDArray[np.float64]
NEWTON_STEPS = 100  # quadratic near the root; far from it every step takes off a third or more


@dataclass(frozen=True, eq=False)
class PenalisedOptimum:
    """Global optimum of single modes; all fields have the modes' shape.

    z = encoder * (score of the mode) + noise of `encoder_variance`, output = decoder * z.
    `gain_nats`: what the mode saves below its collapsed point, 0 where collapsed.
    """

    decoder: Array
    encoder: Array
    encoder_variance: Array
    gain_nats: Array

    @property
    def collapsed(self) -> npt.NDArray[np.bool_]:
        """True where the mode is not used."""
        return np.asarray(~(self.decoder > 0))

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per mode."""
        columns = {name: np.ravel(values).tolist() for name, values in vars(self).items()}
        rows = zip(*columns.values(), strict=True)
        return [{"mode": i} | dict(zip(columns, row, strict=True)) for i, row in enumerate(rows, 1)]


def penalised_optimum(
    mode_variances: npt.ArrayLike, *, beta: npt.ArrayLike, **penalties: Any
) -> PenalisedOptimum:
    """Global optimum of every mode with a learned encoder variance, arguments broadcast.

    `penalties`: decoder_variance, prior_variance, latent_reconstruction, weight_decay. A
    stationary point t > 1 is the better one where its gain is positive. Equality that a test
    checks: the objective of these weights is the minimum found by brute force.
    """
    where = "penalised_optimum"
    theta2 = checked_numbers("mode_variances", mode_variances, where, zero=True)
    beta = checked_numbers("beta", beta, where)
    s, eta2, gamma, kappa = _numbers(**penalties)
    theta2, beta, gamma, kappa = np.broadcast_arrays(theta2, beta, gamma, kappa)
    A, b = theta2 / s + gamma * eta2, beta * theta2 / eta2 + kappa
    possible = kappa < A
    A, b = np.where(possible, A, 1.0), np.where(possible, b, 1.0)
    t = _larger_root(kappa * s / eta2, eta2 * b / (s * A * beta) - 1, eta2 * b / (s * beta**2))
    return _optimum_at(eta2 / t, A, b, beta, s, eta2, kappa, possible)


def local_critical_beta(
    mode_variances: npt.ArrayLike,
    *,
    encoder_variance: npt.ArrayLike | None = None,
    **penalties: Any,
) -> Array:
    """Beta above which the collapsed point of each mode is stable; 0 where it always is.

    (eta^2/theta^2) (A^2/(v/s + kappa) - kappa), v the `encoder_variance`, None = learned: eta^2.
    Infinite without data (theta = 0) where the loss alone keeps the unit moving. Equality that a
    test checks: gamma = kappa = 0 gives theta^2/s.
    """
    s, eta2, gamma, kappa = _numbers(**penalties)
    theta2, gamma, kappa = np.broadcast_arrays(np.asarray(mode_variances, float), gamma, kappa)
    v = eta2 if encoder_variance is None else np.asarray(encoder_variance, float)
    excess = np.maximum((theta2 / s + gamma * eta2) ** 2 / (v / s + kappa) - kappa, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        critical: Array = np.where(excess > 0, eta2 * excess / theta2, 0.0)
    return critical


def is_first_order(mode_variances: npt.ArrayLike, **penalties: Any) -> npt.NDArray[np.bool_]:
    """True where a mode jumps at its threshold: alive optima exist above `local_critical_beta`.

    Equality that a test checks: there and only there `penalised_critical_beta` is above the local
    one, and the information just below it stays away from 0.
    """
    s, eta2, gamma, kappa = _numbers(**penalties)
    theta2 = np.asarray(mode_variances, float)
    A, x = theta2 / s + gamma * eta2, eta2 / s
    bound = eta2 * A * x / (2 * s * (x + kappa) ** 2)
    jumps = (local_critical_beta(theta2, **penalties) < bound) & (kappa > 0) & (kappa < A)
    return np.asarray(jumps)


def penalised_critical_beta(mode_variances: npt.ArrayLike, **penalties: Any) -> Array:
    """Beta above which the global optimum of a mode is collapsed; 0 where it is at every beta.

    The local threshold where the transition is continuous, else by bisection. Equality that a test
    checks: `penalised_optimum` is alive at 0.999 and collapsed at 1.001 times it.
    """
    s, eta2, gamma, kappa = _numbers(**penalties)
    theta2, gamma, kappa = np.broadcast_arrays(np.asarray(mode_variances, float), gamma, kappa)
    local = local_critical_beta(theta2, **penalties)
    first = is_first_order(theta2, **penalties)
    if not first.any():
        return local
    A = theta2 / s + gamma * eta2
    # p > 0 needs v below s (A^2/b - kappa) <= s (A^2/kappa - kappa): the most it can gain is A
    share = np.where(first, s * (A**2 / np.where(first, kappa, 1.0) - kappa) / eta2, 0.5)
    share = np.minimum(share, 1 - 1e-9)
    high = np.where(theta2 > 0, A**2 * s / np.where(theta2 > 0, theta2, 1.0), np.inf)
    high = np.minimum(high, A / (share - 1 - np.log(share)))
    critical = bisect(
        lambda beta: penalised_optimum(theta2, beta=beta, **penalties).collapsed,
        np.where(first, local, 1.0),
        np.where(first, high, 1.0),
    )
    return np.asarray(np.where(first, critical, local))


def solve_penalised(spec: VAESpec, modes: Modes) -> ModeStates:
    """Optimum of every mode of a VAESpec with a penalty.

    Raises ValueError where the latent reconstruction loss has no optimum mode by mode: with fewer
    units than dimensions (`linvae.theory.mixed_units`), or with a mode without variance (the copy
    is free as w grows without bound).
    Units beyond the target's dimensions have no decoder direction and stay at the prior. Equality
    that a test checks: brute force over all matrices.
    """
    _refuse_loss(spec, modes.variances)
    k, n, eta2 = spec.latent_dim, len(modes.variances), spec.prior_variance
    order, has_unit = np.arange(k), np.arange(max(n, k)) < k
    penalties = _penalties(spec)
    theta2 = modes.variances[:k]
    if spec.encoder_variance is None:
        optimum = penalised_optimum(theta2, beta=spec.beta, **penalties)
        gains, encoder, variance = optimum.decoder, optimum.encoder, optimum.encoder_variance
        idle, critical = np.full(len(has_unit), eta2), penalised_critical_beta(theta2, **penalties)
    else:
        fixed = np.broadcast_to(spec.encoder_variance, k)
        order = np.argsort(fixed, kind="stable")
        idle = np.append(fixed[order], np.full(len(has_unit) - k, eta2))
        variance = idle[: len(theta2)]
        gains, encoder = _at_fixed_variance(spec, theta2, variance)
        critical = local_critical_beta(theta2, encoder_variance=variance, **penalties)
    used = slice(len(theta2))
    v, m, u, scale = idle.copy(), idle.copy(), np.zeros(len(has_unit)), np.zeros(len(has_unit))
    v[used], u[used], scale[used] = variance, gains, critical / spec.beta
    m[used] = encoder**2 * theta2 + variance
    return ModeStates(
        noise_fractions=(v / m)[None],
        second_moments=np.where(has_unit, m, np.nan)[None],
        critical_scale=np.where(has_unit, scale, np.nan)[None],
        units=(order,),
        decoder_variance=float(spec.decoder_variance),
        status="unique",
        decoder_gains=u,
    )


def _larger_root(k: Array, y: Array, B: Array) -> Array:
    """Larger root t of (1 + k t)(t + y)^2 - B t where it is above 1; else 1.

    The polynomial is convex for t >= 1 (y > -1) and no root exceeds the start, so Newton descends
    to the larger root without passing it.
    """
    k, y, B = np.broadcast_arrays(k, y, B)
    lag = np.maximum(-y, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        t = np.minimum((np.sqrt(B) + np.sqrt(B + 4 * lag)) ** 2 / 4, np.sqrt(B / k) + lag)
    t = np.maximum(t, 1.0)
    for _ in range(NEWTON_STEPS):
        value = (1 + k * t) * (t + y) ** 2 - B * t
        slope = k * (t + y) ** 2 + 2 * (1 + k * t) * (t + y) - B
        step = np.divide(value, slope, out=np.zeros_like(t), where=slope > 0)
        before, t = t, np.maximum(t - step, 1.0)
        if np.all(np.abs(before - t) <= ROUNDING * t):
            break
    return np.asarray(t)


def _optimum_at(
    v: Array,
    A: Array,
    b: Array,
    beta: Array,
    s: float,
    eta2: float,
    kappa: Array,
    possible: npt.NDArray[np.bool_],
) -> PenalisedOptimum:
    """Weights and gain at the encoder variance v; collapsed where they gain nothing."""
    noise = v / s + kappa
    p = 1 - np.sqrt(noise * b) / A
    gain = (A * p**2 - beta * (v / eta2 - 1 - np.log(v / eta2))) / 2
    alive = possible & (p > ROUNDING) & (gain > 0)
    u, w = _weights(np.where(alive, p, 0.0), b, noise)
    return PenalisedOptimum(
        decoder=u,
        encoder=w,
        encoder_variance=np.where(alive, v, eta2),
        gain_nats=np.where(alive, gain, 0.0),
    )


def _at_fixed_variance(spec: VAESpec, theta2: Array, v: Array) -> tuple[Array, Array]:
    """Decoder and encoder weight of every mode."""
    s, eta2, gamma, kappa = _numbers(**_penalties(spec))
    A, b = theta2 / s + gamma * eta2, spec.beta * theta2 / eta2 + kappa
    noise = v / s + kappa
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(A > 0, 1 - np.sqrt(noise * b) / A, 0.0)
    p = np.where(p > ROUNDING, p, 0.0)
    return _weights(p, b, noise)


def _weights(p: Array, b: Array, noise: Array) -> tuple[Array, Array]:
    """Decoder and encoder weight of the product p, split at the least cost."""
    u = np.sqrt(p * np.sqrt(b / noise))
    return u, np.divide(p, u, out=np.zeros_like(p), where=p > 0)


def _numbers(
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    latent_reconstruction: npt.ArrayLike = 0.0,
    weight_decay: npt.ArrayLike = 0.0,
) -> tuple[float, float, Array, Array]:
    """s, eta^2, gamma, kappa, checked; the last two may be arrays, one entry per mode."""
    where = "linvae.theory.penalised"
    gamma = checked_numbers("latent_reconstruction", latent_reconstruction, where, zero=True)
    kappa = checked_numbers("weight_decay", weight_decay, where, zero=True)
    s = checked_numbers("decoder_variance", decoder_variance, where)
    eta2 = checked_numbers("prior_variance", prior_variance, where)
    return float(s), float(eta2), gamma, kappa


def _penalties(spec: VAESpec) -> dict[str, Any]:
    names = ("decoder_variance", "prior_variance", "latent_reconstruction", "weight_decay")
    return {name: getattr(spec, name) for name in names}


def _refuse_loss(spec: VAESpec, theta2: Array) -> None:
    gamma, k, d = spec.latent_reconstruction, spec.latent_dim, len(theta2)
    if gamma > 0 and k < d:
        raise ValueError(
            f"latent_reconstruction={gamma} has no optimum mode by mode with latent_dim={k} below "
            f"the target's {d} dimensions: a unit then mixes modes; use "
            "linvae.theory.mixed_units.reconstruction_optimum, without weight decay, "
            f"latent_dim >= {d}, or stability(spec, moments) for the collapsed point"
        )
    if gamma > 0 and spec.weight_decay == 0 and np.any(theta2 == 0):
        rank = int(np.count_nonzero(theta2))
        raise ValueError(
            f"latent_reconstruction={gamma} has no optimum here: only {rank} of {d} modes have any "
            "variance, and a unit on a direction without data reconstructs itself for nothing as "
            "its encoder weight grows without bound; drop constant coordinates, or use "
            "weight_decay > 0"
        )
