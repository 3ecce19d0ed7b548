"""Training dynamics of a linear VAE: escape from collapse, and what a finite run sees.

One mode a of variance theta^2 and one unit z,

    q(z|a) = N(w a, v),   p(a|z) = N(u z, s),   p(z) = N(0, eta^2)

    F(u, w, log v) = [theta^2 (1 - u w)^2 + u^2 v]/(2 s) + beta K
    K = [(theta^2 w^2 + v)/eta^2 - 1 - log(v/eta^2)]/2

| symbol    | argument or field  | shape          | unit              |
|-----------|--------------------|----------------|-------------------|
| theta_i^2 | mode_variances     | (modes,)       | data units^2      |
| u, w      | decoder, encoder weight | (times, modes) | data/latent, latent/data |
| v         | encoder_variances  | (times, modes) | latent units^2    |
| K         | rate_nats          | (times, modes) | nats              |
| t         | times, flow time   | (times,)       | steps * learning rate |

Flow: d(u, w, log v)/dt = -grad F, what gradient descent follows at t = steps * learning rate.
Momentum and Adam have another clock. "raw": the encoder row w is trained, as in a network;
"whitened": lambda = theta w is. "aggressive": the encoder is at its best response
lambda = u theta eta^2/(q + c), v = c eta^2/(q + c), q = eta^2 u^2, c = beta s, at all times, and
only u flows (the limit of many encoder steps per decoder step, He et al. 2019).

**Collapse** u = w = 0, v = eta^2 is stationary whatever beta, so no schedule beta(t) removes it.
Around it (u, lambda) follow [[-eta^2/s, theta/s], [rho theta/s, -rho beta/eta^2]] with
rho = theta^2 (raw) or 1 (whitened), and log v relaxes at the rate beta/2 by itself. Aggressive
updates leave d log u/dt = (eta^2/s)(theta^2/(beta s) - 1), minus the determinant over the encoder's
own rate. All rates are positive exactly when theta^2 > beta s. All units and modes decouple here,
in any basis of the weights; far from collapse they do once each unit carries one mode.

**Aggressive flow in closed form** (ours). dq/dt = 2 beta eta^2 q (q* - q)/(q + c)^2 with
q* = theta^2 - c, and 2 K = log(1 + q/c) + q (q* - q)/(q + c)^2.

**Finite runs**. A unit counts as alive when K > epsilon. Infinite training sees the threshold
(theta^2/s) exp(-2 epsilon), since K = log(theta^2/(beta s))/2 at the optimum; a run of flow time T
sees less, since the escape takes log(1/start)/(rate of escape), which grows without bound at the
threshold.

Equality that a test checks: the flow ends in `solve`'s closed form, and grows at `escape_rates`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from linvae.theory.arguments import checked_numbers, checked_variances
from linvae.theory.roots import bisect

__all__ = [
    "FiniteTrainingThreshold",
    "ModeFlow",
    "escape_rates",
    "escape_times",
    "finite_training_threshold",
    "mode_flow",
]

Array = npt.NDArray[np.float64]
Update = Literal["joint", "aggressive"]
EncoderWeights = Literal["raw", "whitened"]
Schedule = float | Callable[[float], float] | Sequence[tuple[float, float]]
Piece = tuple[float, float, Callable[[float], float]]

WHERE = "linvae.theory.dynamics"
RTOL = 1e-10  # relative tolerance of the integrator per step
SEARCH_RTOL = 1e-8  # the same in searches: KL to 1e-7, relatively
PRECISION = 1e-7  # of log beta, where it is found by root finding
OUTPUTS = 2001  # points on which the passage of epsilon is interpolated


# --- the collapsed point ----------------------------------------------------------------------


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
    Raises ValueError for negative or non-finite numbers and unknown modes of update.
    """
    system = _system(mode_variances, decoder_variance, prior_variance, update, encoder_weights)
    b = checked_numbers("beta", beta, "escape_rates", zero=True)
    return system.growth(b)


@dataclass(frozen=True, eq=False)
class _System:
    """The flow of decoupled modes in (u, lambda, delta = log(v/eta^2)), or in u if aggressive."""

    theta2: Array
    s: float
    eta2: float
    rho: Array  # speed of lambda against that of the weight that is trained
    joint: bool

    @property
    def theta(self) -> Array:
        """Standard deviation of the modes."""
        return np.sqrt(self.theta2)

    def growth(self, beta: Array) -> Array:
        """Rate of escape; written without the cancellation of the eigenvalue formula."""
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


# --- the flow ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ModeFlow:
    """A trajectory of decoupled modes; arrays (times, modes), `time` and `beta` (times,).

    `encoder_weights` are w (raw) or theta w (whitened). `objective`: the mode's share of the
    objective with the beta of its time, nats, without the constant d/2 log(2 pi s); it falls
    wherever beta is constant.
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


def mode_flow(
    mode_variances: npt.ArrayLike,
    *,
    times: npt.ArrayLike,
    beta: Schedule = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    update: Update = "joint",
    encoder_weights: EncoderWeights = "raw",
    start_weights: npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike] = 1e-3,
    start_variance: float | None = None,
) -> ModeFlow:
    """Gradient flow of each mode from `start_weights` at time 0, at the `times` asked for.

    `beta`: a number, pairs (time, beta) joined by straight lines and constant outside (a time given
    twice is a jump), or a function of time, which should be smooth. `start_weights`: one number
    for all weights, or (decoder, encoder), each a number or one per mode; `start_variance`: None =
    the prior variance. Aggressive updates use neither start of the encoder.
    Raises ValueError for times that decrease or are negative, for a beta below 0 (or 0 with
    aggressive updates: the encoder has no best response), and as `escape_rates`.
    """
    where = "mode_flow"
    system = _system(mode_variances, decoder_variance, prior_variance, update, encoder_weights)
    t = checked_numbers("times", times, where, zero=True)
    if t.ndim != 1 or np.any(np.diff(t) < 0):
        raise ValueError(f"times has shape {t.shape} but must be 1-D and ascending in {where}")
    start = _start(system, start_weights, encoder_weights)
    if start_variance is not None:
        start[:, 2] = np.log(checked_numbers("start_variance", start_variance, where) / system.eta2)
    states, betas = _trajectory(system, start, t, _pieces(beta, float(t[-1]), system.joint))
    u, lam, delta = system.weights(states, betas[:, None])
    rate = system.rate(states, betas[:, None])
    v = system.eta2 * np.exp(delta)
    squares = (system.theta - u * lam) ** 2 + u**2 * v
    if encoder_weights == "raw":  # a mode without variance never moves its row
        still = np.broadcast_to(_pair(start_weights, len(system.theta2))[1], lam.shape)
        lam = np.divide(lam, system.theta, out=still.copy(), where=system.theta > 0)
    return ModeFlow(t, betas, u, lam, v, rate, squares / (2 * system.s) + betas[:, None] * rate)


def _trajectory(
    system: _System, start: Array, times: Array, pieces: list[Piece]
) -> tuple[Array, Array]:
    """States (times, modes, variables) and betas (times,), piece by piece of the schedule."""
    state = start if system.joint else start[:, :1]
    scale = _tolerance(start, system)
    states, betas = [], []
    for i, (left, right, beta) in enumerate(pieces):
        inside = (times <= right) & ((times > left) | (i == 0))
        wanted = np.append(times[inside], right)

        def velocity(y: Array, at: float, beta: Callable[[float], float] = beta) -> Array:
            return system.velocity(y, _checked_beta(beta(at), at, system.joint))

        path = _integrate(velocity, state, left, wanted, scale)
        states.append(path[:-1])
        betas += [_checked_beta(beta(float(at)), at, system.joint) for at in times[inside]]
        state = path[-1]
    return np.concatenate(states), np.array(betas)


def _integrate(
    velocity: Callable[[Array, float], Array],
    state: Array,
    left: float,
    times: Array,
    atol: Array,
    rtol: float = RTOL,
) -> Array:
    """States at ascending `times` >= left; the Jacobian is banded, one block per mode."""
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


def _tolerance(start: Array, system: _System) -> Array:
    """Absolute tolerances (modes, 3): far below the start, which may be tiny itself."""
    size = np.hypot(start[:, 0], start[:, 1]) + 1e-30
    return RTOL * 1e-3 * np.stack([size, size, np.full_like(size, 1e-3)], axis=1)


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
    knots = np.array([(min(0.0, first[0]), first[1]), *knots, (max(end, last[0]), last[1])])
    return [
        (max(left[0], 0.0), min(right[0], end), _line(left, right))
        for left, right in itertools.pairwise(knots)
        if right[0] > left[0] and right[0] > 0 and left[0] < end
    ] or [(0.0, end, _line(knots[0], knots[0]))]


def _line(left: Array, right: Array) -> Callable[[float], float]:
    width = float(right[0] - left[0]) or 1.0
    start, slope = float(left[1]), float(right[1] - left[1]) / width
    return lambda t: start + slope * (t - float(left[0]))


# --- what a run of finite length sees ---------------------------------------------------------


def escape_times(
    mode_variances: npt.ArrayLike,
    *,
    beta: npt.ArrayLike = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    update: Update = "joint",
    encoder_weights: EncoderWeights = "raw",
    start_weights: npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike] = 1e-3,
    epsilon_nats: float = 0.01,
    linearised: bool = False,
) -> Array:
    """Flow time until the KL divergence of each mode reaches `epsilon_nats`, (modes,).

    `beta`: one number or one per mode; one mode variance is repeated over many betas. Infinite
    where the optimum holds no more than `epsilon_nats`; 0 where the start does. `linearised`: the
    growth at collapse with logistic saturation at the optimum, K = G K*/(G + K*), G(t) the
    exponential; what it neglects is of order epsilon (1 % and less for epsilon = 0.01). Otherwise
    the full flow: closed form for aggressive updates, integration for joint ones.
    """
    where = "escape_times"
    theta2, b = np.broadcast_arrays(
        checked_variances(mode_variances, WHERE), checked_numbers("beta", beta, where).reshape(-1)
    )
    eps = float(checked_numbers("epsilon_nats", epsilon_nats, where))
    system = _system(theta2, decoder_variance, prior_variance, update, encoder_weights)
    start = _start(system, start_weights, encoder_weights)
    with np.errstate(divide="ignore"):
        final = np.log(theta2 / (b * system.s)) / 2
    times = np.full(len(b), np.inf)
    alive = final > eps
    if np.any(alive):
        part, cut = _subset(system, alive), (start[alive], b[alive], eps, final[alive])
        method = _logistic_times if linearised else _joint_times
        if not system.joint and not linearised:
            method = _aggressive_times
        times[alive] = method(part, *cut)
    now = system.rate(start if system.joint else start[:, :1], b)
    return np.where(now >= eps, 0.0, times)


def _logistic_times(system: _System, start: Array, beta: Array, eps: float, final: Array) -> Array:
    """t with G(t) = eps K*/(K* - eps), G(t) = G(0) exp(2 growth t)."""
    needed = eps * final / (final - eps)
    with np.errstate(divide="ignore"):
        times = np.log(needed / system.growing_rate(start, beta)) / (2 * system.growth(beta))
    return np.maximum(times, 0.0)


def _aggressive_times(
    system: _System, start: Array, beta: Array, eps: float, final: Array
) -> Array:
    """2 beta eta^2 t = q0 - q + c^2/q* log(q/q0) + theta^4/q* log((q* - q0)/(q* - q))."""
    c, q0 = beta * system.s, system.eta2 * start[:, 0] ** 2
    top = system.theta2 - c

    def short_of(q: Array) -> Array:
        return np.log1p(q / c) / 2 + q * (top - q) / (q + c) ** 2 / 2 - eps

    # 2 K <= q theta^2/c^2 bounds the passage below; K may rise to a maximum before it settles
    bend = top**2 - 4 * c * system.theta2
    crest = (top - np.sqrt(np.maximum(bend, 0.0))) / 2
    high = np.where((bend > 0) & (short_of(crest) >= 0), crest, top)
    low = 2 * eps * c**2 / system.theta2
    q = np.exp(bisect(lambda x: short_of(np.exp(x)) > 0, np.log(low), np.log(high)))
    with np.errstate(divide="ignore"):
        wait = c**2 * np.log(q / q0) - system.theta2**2 * np.log1p(-(q - q0) / (top - q0))
    times: Array = (q0 - q + wait / top) / (2 * beta * system.eta2)
    return times


def _joint_times(system: _System, start: Array, beta: Array, eps: float, final: Array) -> Array:
    """Integrate each mode on its own clock, growth * t, until every one has passed eps."""
    clock = system.growth(beta)
    horizon = 2.0 + 1.5 * np.max(
        clock * np.nan_to_num(_logistic_times(system, start, beta, eps, final), posinf=50.0)
    )
    for _ in range(8):
        path = _integrate(
            lambda y, _t: system.velocity(y, beta) / clock[:, None],
            start,
            0.0,
            np.linspace(0.0, horizon, OUTPUTS),
            _tolerance(start, system),
            SEARCH_RTOL,
        )
        rates = system.rate(path, beta)
        passed = rates >= eps
        if np.all(passed.any(axis=0)):
            break
        horizon *= 2.0
    later, modes = passed.argmax(axis=0), np.arange(len(beta))
    with np.errstate(divide="ignore"):
        log_rates = np.log(rates / eps)
    before, after = log_rates[later - 1, modes], log_rates[later, modes]
    crossing = (later - after / (after - before)) * horizon / (OUTPUTS - 1)
    times: Array = np.where(passed.any(axis=0), crossing, np.inf) / clock
    return times


@dataclass(frozen=True, eq=False)
class FiniteTrainingThreshold:
    """The beta at which a run of finite length stops to see each mode alive, (modes,).

    | field                  | meaning                                                       |
    |------------------------|---------------------------------------------------------------|
    | critical_beta          | theta^2/s, the truth                                          |
    | infinite_training_beta | theta^2/s exp(-2 epsilon), what infinite training counts      |
    | linearised_beta        | the run, from the growth at collapse with logistic saturation |
    | observed_beta          | the run, from the full flow; 0 = alive at no beta             |
    | flow_time              | n_steps * learning_rate                                       |
    """

    mode_variances: Array
    epsilon_nats: float
    flow_time: float
    critical_beta: Array
    infinite_training_beta: Array
    linearised_beta: Array
    observed_beta: Array

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per mode."""
        names = ("critical_beta", "infinite_training_beta", "linearised_beta", "observed_beta")
        return [
            {
                "mode": mode + 1,
                "mode_variance": float(theta2),
                "epsilon_nats": self.epsilon_nats,
                "flow_time": self.flow_time,
            }
            | {name: float(getattr(self, name)[mode]) for name in names}
            for mode, theta2 in enumerate(self.mode_variances)
        ]


def finite_training_threshold(
    mode_variances: npt.ArrayLike,
    *,
    n_steps: int,
    learning_rate: float,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    update: Update = "joint",
    encoder_weights: EncoderWeights = "raw",
    start_weights: npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike] = 1e-3,
    epsilon_nats: float = 0.01,
) -> FiniteTrainingThreshold:
    """Largest beta at which `n_steps` of plain gradient descent reach KL = `epsilon_nats`.

    The run starts at `start_weights` (as in `mode_flow`) with the prior variance and is followed as
    gradient flow of time n_steps * learning_rate, a good description of descent as long as
    learning_rate * rate of escape is small: descent is slower by about that share, which moves
    a threshold the more, the further it lies below the critical beta. Root finding in beta, all
    modes at once.
    Raises ValueError for a start that counts as alive already, and for a learning rate at which
    descent diverges from the collapsed point at the threshold (2 over the largest curvature).
    """
    where = "finite_training_threshold"
    steps = float(checked_numbers("n_steps", n_steps, where))
    lr = float(checked_numbers("learning_rate", learning_rate, where))
    eps = float(checked_numbers("epsilon_nats", epsilon_nats, where))
    system = _system(mode_variances, decoder_variance, prior_variance, update, encoder_weights)
    start = _start(system, start_weights, encoder_weights)
    critical = system.theta2 / system.s
    _check_run(system, start, critical, lr, eps)
    found = {
        linearised: _threshold(system, start, critical, steps * lr, eps, linearised)
        for linearised in (True, False)
    }
    return FiniteTrainingThreshold(
        mode_variances=system.theta2,
        epsilon_nats=eps,
        flow_time=steps * lr,
        critical_beta=critical,
        infinite_training_beta=critical * np.exp(-2 * eps),
        linearised_beta=found[True],
        observed_beta=found[False],
    )


def _threshold(
    system: _System, start: Array, critical: Array, end: float, eps: float, linearised: bool
) -> Array:
    """Root in log beta of log(K(end)/eps), between 1e-6 and 1 times the critical beta."""
    found = np.zeros(len(critical))
    varied = np.flatnonzero(critical > 0)

    def excess(part: _System, first: Array) -> Callable[[Array], Array]:
        def log_ratio(log_beta: Array) -> Array:
            rate = _rate_after(part, first, np.exp(log_beta), end, linearised)
            return np.clip(np.log(np.maximum(rate, 1e-300) / eps), -20.0, 20.0)

        return log_ratio

    low = np.log(critical[varied]) - np.log(1e6)
    reached = excess(_subset(system, varied), start[varied])(low) > 0
    varied, low = varied[reached], low[reached]
    if len(varied):
        function = excess(_subset(system, varied), start[varied])
        found[varied] = np.exp(_root(function, low, np.log(critical[varied])))
    return found


def _rate_after(system: _System, start: Array, beta: Array, end: float, linearised: bool) -> Array:
    """K at time `end`, of the logistic approximation or of the flow, one beta per mode."""
    if not linearised:
        state = start if system.joint else start[:, :1]
        last = _integrate(
            lambda y, _t: system.velocity(y, beta),
            state,
            0.0,
            np.array([end]),
            _tolerance(start, system),
            SEARCH_RTOL,
        )
        return system.rate(last[0], beta)
    final = np.log(system.theta2 / (beta * system.s)) / 2
    exponent = np.minimum(2 * system.growth(beta) * end, 600.0)
    grown = system.growing_rate(start, beta) * np.exp(exponent)
    reached: Array = grown * final / (grown + np.maximum(final, 1e-300))
    return reached


def _check_run(system: _System, start: Array, critical: Array, lr: float, eps: float) -> None:
    where = "finite_training_threshold"
    varied = critical > 0
    state = start[varied] if system.joint else start[varied, :1]
    now = _subset(system, varied).rate(state, critical[varied])
    if np.any(now >= eps):
        raise ValueError(
            f"start_weights hold {np.max(now):.3g} nats but must hold less than "
            f"epsilon_nats={eps} in {where}: start smaller"
        )
    limit = 2 / np.max(system.fastest_decay(critical))
    if lr >= limit:
        raise ValueError(
            f"learning_rate={lr} must be below {limit:.3g} in {where}: gradient descent diverges "
            "from the collapsed point above (2 over its largest curvature)"
        )


# --- helpers ----------------------------------------------------------------------------------


def _system(
    mode_variances: npt.ArrayLike, s: float, eta2: float, update: str, encoder_weights: str
) -> _System:
    if update not in ("joint", "aggressive"):
        raise ValueError(f"update={update!r} must be 'joint' or 'aggressive' in {WHERE}")
    if encoder_weights not in ("raw", "whitened"):
        raise ValueError(f"encoder_weights={encoder_weights!r} must be 'raw' or 'whitened'")
    theta2 = checked_variances(mode_variances, WHERE)
    return _System(
        theta2=theta2,
        s=float(checked_numbers("decoder_variance", s, WHERE)),
        eta2=float(checked_numbers("prior_variance", eta2, WHERE)),
        rho=theta2 if encoder_weights == "raw" else np.ones_like(theta2),
        joint=update == "joint",
    )


def _subset(system: _System, modes: Any) -> _System:
    return _System(system.theta2[modes], system.s, system.eta2, system.rho[modes], system.joint)


def _start(system: _System, weights: Any, encoder_weights: str) -> Array:
    """(modes, 3): u, lambda, delta at time 0."""
    u, w = _pair(weights, len(system.theta2))
    lam = w * system.theta if encoder_weights == "raw" else w
    return np.stack([u, lam, np.zeros_like(u)], axis=1)


def _pair(weights: Any, n_modes: int) -> tuple[Array, Array]:
    decoder, encoder = weights if isinstance(weights, tuple) else (weights, weights)
    pair = []
    for value in (decoder, encoder):
        array = np.asarray(value, dtype=np.float64)
        if array.shape not in ((), (n_modes,)) or not np.all(np.isfinite(array)):
            raise ValueError(
                f"start_weights has shape {array.shape} but must be finite, one number or one per "
                f"mode ({n_modes},); give (decoder, encoder) as a tuple"
            )
        pair.append(np.broadcast_to(array, n_modes).copy())
    return pair[0], pair[1]


def _checked_beta(value: float, at: float, joint: bool) -> float:
    if not np.isfinite(value) or value < 0 or (value == 0 and not joint):
        bound = ">= 0" if joint else "> 0 (without a price the encoder has no best response)"
        raise ValueError(
            f"beta={float(value)} at time {at} must be finite and {bound} in mode_flow"
        )
    return float(value)


def _root(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Zero of a falling function, elementwise: false position with the Illinois correction."""
    f_low, f_high = function(low), function(high)
    middle, last = low, np.zeros(len(low))
    for _ in range(100):
        previous = middle
        middle = low + (high - low) * f_low / (f_low - f_high)
        value = function(middle)
        up = value > 0
        low, high = np.where(up, middle, low), np.where(up, high, middle)
        f_high = np.where(up, np.where(last > 0, f_high / 2, f_high), value)
        f_low = np.where(up, value, np.where(last < 0, f_low / 2, f_low))
        last = np.where(up, 1.0, -1.0)
        if np.max(np.minimum(np.abs(middle - previous), high - low)) < PRECISION:
            break
    return middle
