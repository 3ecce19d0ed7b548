"""Training dynamics of a linear VAE: escape from collapse, and the flow of its modes.

The system is that of `linvae.theory.mode_system`, with its symbols: gradient flow in (u, w, log v)
of one mode and one unit, d(u, w, log v)/dt = -grad F.

| symbol    | argument or field              | shape          | unit                     |
|-----------|--------------------------------|----------------|--------------------------|
| theta_i^2 | mode_variances                 | (modes,)       | data units^2             |
| s         | decoder_variance               | scalar         | data units^2             |
| eta^2     | prior_variance                 | scalar         | latent units^2           |
| beta(t)   | beta                           | (times,)       | -                        |
| u, w      | decoder_weights, encoder_weights | (times, modes) | data/latent, latent/data |
| v         | encoder_variances              | (times, modes) | latent units^2           |
| K         | rate_nats                      | (times, modes) | nats                     |
| t         | times                          | (times,)       | steps * learning rate    |

The collapsed point is stationary whatever beta, so no schedule beta(t) removes it. Where it is
unstable, u and w grow as exp(rate t) and K as exp(2 rate t) until the mode saturates at the closed
form of `linvae.solve`; a schedule adds up, int rate(beta(t)) dt.

Source: ours; "aggressive" is the training of He et al. 2019. Equality that a test checks: the flow
ends in `solve`'s closed form, and grows at `escape_rates`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.theory.arguments import checked_numbers, in_doubles
from linvae.theory.mode_system import (
    EncoderWeights,
    ModeSystem,
    StartWeights,
    Update,
    integrate,
    mode_system,
    start_state,
    tolerance,
    weight_pair,
)

__all__ = ["ModeFlow", "escape_rates", "mode_flow"]

Array = npt.NDArray[np.float64]
Schedule = float | Callable[[float], float] | Sequence[tuple[float, float]]
Piece = tuple[float, float, Callable[[float], float]]


@in_doubles
def escape_rates(
    mode_variances: npt.ArrayLike,
    *,
    beta: npt.ArrayLike = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    update: Update = "joint",
    encoder_weights: EncoderWeights = "raw",
) -> Array:
    """Growth rate of small weights, per unit of flow time, (modes,); arrays of beta broadcast.

    Weights grow as exp(rate t) and the KL divergence as exp(2 rate t). Negative: collapse attracts,
    and the slower of the two directions decays as exp(-|rate| t). Zero: theta^2 = beta s, or a raw
    encoder row that no data move (theta = 0). beta = 0 is the flow below a free-bits floor;
    aggressive updates leave at once there (infinite).
    Raises ValueError for negative or non-finite numbers and unknown modes of update. Equality that
    a test checks: the eigenvalues of minus the Hessian of the exact objective at collapse.
    """
    system = mode_system(mode_variances, decoder_variance, prior_variance, update, encoder_weights)
    b = checked_numbers("beta", beta, "escape_rates", zero=True)
    return system.growth(b)


@dataclass(frozen=True, eq=False)
class ModeFlow:
    """A trajectory of decoupled modes; arrays (times, modes), `time` and `beta` (times,).

    Symbols and units are in the module's table. `encoder_weights` are w (raw) or theta w
    (whitened). `objective`: the mode's share of the objective with the beta of its time, nats,
    without the constant d/2 log(2 pi s); it falls wherever beta is constant (a test checks it).
    """

    time: Array
    beta: Array
    decoder_weights: Array
    encoder_weights: Array
    encoder_variances: Array
    rate_nats: Array
    objective: Array

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per time and mode."""
        names = ("decoder_weights", "encoder_weights", "encoder_variances", "rate_nats")
        columns = {n.removesuffix("s") if n != "rate_nats" else n: getattr(self, n) for n in names}
        columns["objective"] = self.objective
        return [
            {"time": float(t), "beta": float(self.beta[i]), "mode": mode + 1}
            | {name: float(values[i, mode]) for name, values in columns.items()}
            for i, t in enumerate(self.time)
            for mode in range(self.rate_nats.shape[1])
        ]


@in_doubles
def mode_flow(
    mode_variances: npt.ArrayLike,
    *,
    times: npt.ArrayLike,
    beta: Schedule = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    update: Update = "joint",
    encoder_weights: EncoderWeights = "raw",
    start_weights: StartWeights = 1e-3,
    start_variance: float | None = None,
) -> ModeFlow:
    """Gradient flow of each mode from `start_weights` at time 0, at the `times` asked for.

    `beta`: a number, pairs (time, beta) joined by straight lines and constant outside (a time given
    twice is a jump), or a function of time, which should be smooth. `start_weights`: one number
    for all weights, or (decoder, encoder), each a number or one per mode; `start_variance`: None =
    the prior variance. Aggressive updates use neither start of the encoder.
    Raises ValueError for times that decrease or are negative, for a beta below 0 (or 0 with
    aggressive updates: the encoder has no best response), for a `start_variance` not above 0, for
    start weights of another shape, and as `escape_rates`. Equality that a test checks: the end is
    `solve`'s optimum.
    """
    where = "mode_flow"
    system = mode_system(mode_variances, decoder_variance, prior_variance, update, encoder_weights)
    t = checked_numbers("times", times, where, zero=True)
    if t.ndim != 1 or t.size == 0 or np.any(np.diff(t) < 0):
        raise ValueError(
            f"times has shape {t.shape} but must be 1-D, not empty and ascending in {where}"
        )
    start = start_state(system, start_weights, encoder_weights)
    if start_variance is not None:
        start[:, 2] = np.log(checked_numbers("start_variance", start_variance, where) / system.eta2)
    states, betas = _trajectory(system, start, t, _pieces(beta, float(t[-1]), system.joint))
    u, lam, delta = system.weights(states, betas[:, None])
    rate = system.rate(states, betas[:, None])
    v = system.eta2 * np.exp(delta)
    squares = (system.theta - u * lam) ** 2 + u**2 * v
    if encoder_weights == "raw":  # a mode without variance never moves its row
        still = np.broadcast_to(weight_pair(start_weights, len(system.theta2))[1], lam.shape)
        lam = np.divide(lam, system.theta, out=still.copy(), where=system.theta > 0)
    return ModeFlow(t, betas, u, lam, v, rate, squares / (2 * system.s) + betas[:, None] * rate)


def _trajectory(
    system: ModeSystem, start: Array, times: Array, pieces: list[Piece]
) -> tuple[Array, Array]:
    """States (times, modes, variables) and betas (times,), piece by piece of the schedule."""
    state = start if system.joint else start[:, :1]
    scale = tolerance(start, system)
    states, betas = [], []
    for i, (left, right, beta) in enumerate(pieces):
        inside = (times <= right) & ((times > left) | (i == 0))
        wanted = np.append(times[inside], right)

        def velocity(y: Array, at: float, beta: Callable[[float], float] = beta) -> Array:
            return system.velocity(y, _checked_beta(beta(at), at, system.joint))

        path = integrate(velocity, state, left, wanted, scale)
        states.append(path[:-1])
        betas += [_checked_beta(beta(float(at)), at, system.joint) for at in times[inside]]
        state = path[-1]
    return np.concatenate(states), np.array(betas)


def _pieces(beta: Schedule, end: float, joint: bool) -> list[Piece]:
    """The schedule as smooth pieces (left, right, function of time) that cover [0, end]."""
    if callable(beta):
        return [(0.0, end, beta)]
    constant = isinstance(beta, (int, float, np.number))
    knots = np.array([(0.0, beta)] if constant else beta, dtype=np.float64)
    if knots.ndim != 2 or knots.shape[1] != 2 or np.any(np.diff(knots[:, 0]) < 0):
        raise ValueError(
            f"beta={beta!r} must be a number, a function of time, or pairs (time, beta) in "
            "ascending order in mode_flow"
        )
    for at, value in knots:
        _checked_beta(value, at, joint)
    first, last = knots[0], knots[-1]
    knots = np.array([(min(0.0, first[0]), first[1]), *knots, (max(end, last[0]) + 1, last[1])])
    now = int(np.flatnonzero(knots[:, 0] <= 0)[-1])
    return [
        (max(left[0], 0.0), min(right[0], end), _line(left, right))
        for left, right in itertools.pairwise(knots)
        if right[0] > left[0] and right[0] > 0 and left[0] < end
    ] or [(0.0, end, _line(*knots[now : now + 2]))]  # all is over at time 0


def _line(left: Array, right: Array) -> Callable[[float], float]:
    width = float(right[0] - left[0]) or 1.0
    start, slope = float(left[1]), float(right[1] - left[1]) / width
    return lambda t: start + slope * (t - float(left[0]))


def _checked_beta(value: float, at: float, joint: bool) -> float:
    if not np.isfinite(value) or value < 0 or (value == 0 and not joint):
        bound = ">= 0" if joint else "> 0 (without a price the encoder has no best response)"
        raise ValueError(
            f"beta={float(value)} at time {at} must be finite and {bound} in mode_flow"
        )
    return float(value)
