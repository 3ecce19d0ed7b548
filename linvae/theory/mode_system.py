"""The dynamical system of one mode of a linear VAE in training: velocity, collapsed point, path.

One mode a of variance theta^2 and one unit z,

    q(z|a) = N(w a, v),   p(a|z) = N(u z, s),   p(z) = N(0, eta^2)

    F(u, w, log v) = [theta^2 (1 - u w)^2 + u^2 v]/(2 s) + beta K
    K = [(theta^2 w^2 + v)/eta^2 - 1 - log(v/eta^2)]/2

    d(u, w, log v)/dt = -grad F,   t = steps * learning rate: what gradient descent follows

In lambda = theta w, delta = log(v/eta^2) and with rho = theta^2 where the encoder row w is trained,
as in a network ("raw"), or rho = 1 where lambda is ("whitened"),

    du/dt      = [lambda (theta - u lambda) - u v]/s
    dlambda/dt = rho [u (theta - u lambda)/s - beta lambda/eta^2]
    ddelta/dt  = -[u^2 v/s + beta (v/eta^2 - 1)]/2

"aggressive": the encoder is at its best response lambda = u theta eta^2/(q + c),
v = c eta^2/(q + c), q = eta^2 u^2, c = beta s, at all times, and only u flows (the limit of many
encoder steps per decoder step, He et al. 2019): dq/dt = 2 beta eta^2 q (theta^2 - c - q)/(q + c)^2.

**Collapse** u = w = 0, v = eta^2 is stationary whatever beta. Around it (u, lambda) follow
[[-eta^2/s, theta/s], [rho theta/s, -rho beta/eta^2]], whose larger eigenvalue is

    growth = 2 rho (theta^2 - beta s)/s^2 / (a + b + sqrt((a - b)^2 + 4 rho theta^2/s^2)),
    a = eta^2/s,  b = rho beta/eta^2;          aggressive: (eta^2/s)(theta^2/(beta s) - 1),

and log v relaxes at the rate beta/2 by itself. Growth is positive exactly when theta^2 > beta s.

| symbol    | argument or field      | shape           | unit                      |
|-----------|------------------------|-----------------|---------------------------|
| theta^2   | mode_variances, theta2 | (modes,)        | data units^2              |
| s         | decoder_variance, s    | scalar          | data units^2              |
| eta^2     | prior_variance, eta2   | scalar          | latent units^2            |
| u         | state[..., 0]          | (..., modes, 3) | data/latent               |
| lambda    | state[..., 1]          |                 | latent units              |
| delta     | state[..., 2]          |                 | -                         |
| beta      | beta                   | (modes,)        | -                         |
| K         | rate()                 | (modes,)        | nats                      |
| growth    | growth()               | (modes,)        | 1/(steps * learning rate) |

All units and modes decouple here, in any basis of the weights; far from collapse they do once each
unit carries one mode. Momentum and Adam have another clock.

Source: the objective is that of Lucas et al. 2019, one mode; the system and its rates are ours,
derived in analysis/derivations/dynamics.py. Equality that a test checks: `growth` is the largest
eigenvalue of minus the Hessian of the exact objective over all matrices at collapse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from linvae.moments import doubles
from linvae.theory.arguments import checked_numbers, checked_variances

__all__ = [
    "EncoderWeights",
    "ModeSystem",
    "StartWeights",
    "Update",
    "integrate",
    "mode_system",
    "start_state",
    "tolerance",
    "weight_pair",
]

Array = npt.NDArray[np.float64]
Update = Literal["joint", "aggressive"]
EncoderWeights = Literal["raw", "whitened"]
StartWeights = npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike]

WHERE = "linvae.theory.mode_system"
RTOL = 1e-10  # relative tolerance of the integrator per step


@dataclass(frozen=True, eq=False)
class ModeSystem:
    """The flow of decoupled modes in (u, lambda, delta), or in u if aggressive; see the module."""

    theta2: Array
    s: float
    eta2: float
    rho: Array  # speed of lambda against that of the weight that is trained
    joint: bool

    def subset(self, modes: Any) -> ModeSystem:
        """The same system of some of the modes, an index array or a mask."""
        return ModeSystem(self.theta2[modes], self.s, self.eta2, self.rho[modes], self.joint)

    @property
    def theta(self) -> Array:
        """Standard deviation of the modes."""
        return np.sqrt(self.theta2)

    def growth(self, beta: Array) -> Array:
        """Rate of escape from collapse; written without the cancellation of the eigenvalue."""
        excess = self.theta2 - beta * self.s
        if not self.joint:
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = self.eta2 / self.s * excess / (beta * self.s)
            empty = (beta == 0) & (self.theta2 == 0)
            return np.where(empty, -self.eta2 / self.s, rate)
        growth: Array = 2 * self.rho * excess / self.s**2 / self._spread(beta)
        return growth

    def _spread(self, beta: Array) -> Array:
        """|trace| + root of the discriminant: twice the fastest rate of decay at collapse."""
        a, b = self.eta2 / self.s, self.rho * beta / self.eta2
        spread: Array = a + b + np.sqrt((a - b) ** 2 + 4 * self.rho * self.theta2 / self.s**2)
        return spread

    def fastest_decay(self, beta: Array) -> Array:
        """Largest curvature of the objective at the collapsed point, in the trained weights."""
        return self._spread(beta) / 2 if self.joint else np.full_like(beta, self.eta2 / self.s)

    def velocity(self, state: Array, beta: Array | float) -> Array:
        """Time derivative of a state (modes, variables)."""
        if not self.joint:
            u = state[:, 0]
            q, c = self.eta2 * u**2, beta * self.s
            pull = self.eta2 * beta * (self.theta2 - c - q) / (q + c) ** 2
            return (u * pull)[:, None]
        u, lam, delta = state.T
        missed = self.theta - u * lam
        v = self.eta2 * np.exp(delta)
        du = (lam * missed - u * v) / self.s
        dlam = self.rho * (u * missed / self.s - beta * lam / self.eta2)
        ddelta = -(u**2 * v / self.s + beta * np.expm1(delta)) / 2
        return np.stack([du, dlam, ddelta], axis=1)

    def weights(self, state: Array, beta: Array | float) -> tuple[Array, Array, Array]:
        """u, lambda and delta of states (..., modes, variables)."""
        if self.joint:
            return state[..., 0], state[..., 1], state[..., 2]
        u = state[..., 0]
        q, c = self.eta2 * u**2, beta * self.s
        return u, u * self.theta * self.eta2 / (q + c), -np.log1p(q / c)

    def rate(self, state: Array, beta: Array | float) -> Array:
        """K = (lambda^2/eta^2 + v/eta^2 - 1 - log(v/eta^2))/2, nats."""
        _, lam, delta = self.weights(state, beta)
        rate: Array = (lam**2 / self.eta2 + np.expm1(delta) - delta) / 2
        return rate

    def growing_rate(self, start: Array, beta: Array) -> Array:
        """K at time 0 of the part of the start that grows: K(t) = this * exp(2 growth t) later."""
        u, lam = start[:, 0], start[:, 1]
        if not self.joint:
            growing: Array = u * self.theta * self.eta2 / (beta * self.s)
        else:
            fast, slow = -self._spread(beta) / 2, self.growth(beta)
            own = -self.rho * beta / self.eta2
            push = self.rho * self.theta / self.s * u + (own - fast) * lam
            growing = push / (slow - fast)
        return growing**2 / (2 * self.eta2)


def mode_system(
    mode_variances: npt.ArrayLike,
    decoder_variance: float,
    prior_variance: float,
    update: Update,
    encoder_weights: EncoderWeights,
) -> ModeSystem:
    """The checked system of these modes; arguments as in the module's table.

    Raises ValueError for variances out of range, a shape other than (modes,), and unknown modes of
    update or of the encoder's weights. Equality that a test checks: `velocity` is minus the
    gradient of F, by differences.
    """
    if update not in ("joint", "aggressive"):
        raise ValueError(f"update={update!r} must be 'joint' or 'aggressive' in {WHERE}")
    if encoder_weights not in ("raw", "whitened"):
        raise ValueError(f"encoder_weights={encoder_weights!r} must be 'raw' or 'whitened'")
    theta2 = checked_variances(mode_variances, WHERE)
    return ModeSystem(
        theta2=theta2,
        s=float(checked_numbers("decoder_variance", decoder_variance, WHERE)),
        eta2=float(checked_numbers("prior_variance", prior_variance, WHERE)),
        rho=theta2 if encoder_weights == "raw" else np.ones_like(theta2),
        joint=update == "joint",
    )


def start_state(
    system: ModeSystem, weights: StartWeights, encoder_weights: EncoderWeights
) -> Array:
    """(modes, 3): u, lambda and delta = 0 at time 0; `weights` and errors as in `weight_pair`.

    Equality that a test checks: `rate` there is w^2 theta^2/(2 eta^2).
    """
    u, w = weight_pair(weights, len(system.theta2))
    lam = w * system.theta if encoder_weights == "raw" else w
    return np.stack([u, lam, np.zeros_like(u)], axis=1)


def weight_pair(weights: StartWeights, n_modes: int) -> tuple[Array, Array]:
    """Decoder and encoder weights, (modes,) each, from one number for all, or from a pair.

    Raises ValueError for a shape other than () or (modes,), or an entry that is not finite.
    """
    decoder, encoder = weights if isinstance(weights, tuple) else (weights, weights)
    pair = []
    for value in (decoder, encoder):
        array = doubles("start_weights", value)
        if array.shape not in ((), (n_modes,)) or not np.all(np.isfinite(array)):
            raise ValueError(
                f"start_weights has shape {array.shape} but must be finite, one number or one per "
                f"mode ({n_modes},); give (decoder, encoder) as a tuple"
            )
        pair.append(np.broadcast_to(array, n_modes).copy())
    return pair[0], pair[1]


def integrate(
    velocity: Callable[[Array, float], Array],
    state: Array,
    left: float,
    times: Array,
    atol: Array,
    rtol: float = RTOL,
) -> Array:
    """States at ascending `times` >= left of the path that is at `state` at time `left`.

    `velocity(state, time)` of states (modes, variables), decoupled: the Jacobian is banded, one
    block per mode; `atol` (modes, variables) and `rtol` per step. Raises ValueError where the
    integrator gives up. Equality that a test checks: a linear system's exponential.
    """
    shape, band = state.shape, state.shape[1] - 1
    if times[-1] == left:
        return np.broadcast_to(state, (len(times), *shape)).copy()
    unique, back = np.unique(times, return_inverse=True)
    result = solve_ivp(
        lambda t, y: velocity(y.reshape(shape), t).ravel(),
        (left, unique[-1]),
        state.ravel(),
        method="LSODA",
        t_eval=unique,
        rtol=rtol,
        atol=atol[:, : shape[1]].ravel(),
        lband=band,
        uband=band,
    )
    if not result.success:
        raise ValueError(f"the flow could not be followed to time {unique[-1]}: {result.message}")
    path: Array = result.y.T.reshape(len(unique), *shape)[back]
    return path


def tolerance(start: Array, system: ModeSystem) -> Array:
    """Absolute tolerances (modes, 3): far below the start, which may be tiny itself."""
    size = np.hypot(start[:, 0], start[:, 1]) + 1e-30
    return RTOL * 1e-3 * np.stack([size, size, np.full_like(size, 1e-3)], axis=1)
