"""What a training run of finite length sees: escape times, and the threshold that it reports.

A unit counts as alive when K > epsilon. Infinite training sees the threshold
(theta^2/s) exp(-2 epsilon), since K* = log(theta^2/(beta s))/2 at the optimum; a run of flow time T
sees less, since the escape takes log(1/start)/growth, which grows without bound at the threshold.
K(t) follows the system of `linvae.theory.mode_system`, with its symbols; epsilon is passed

- joint updates: by integration of the flow,
- aggressive updates: in closed form. With q = eta^2 u^2, q0 at the start, c = beta s and
  q* = theta^2 - c, 2 K = log(1 + q/c) + q (q* - q)/(q + c)^2 gives the q of the passage, and

      2 beta eta^2 t = q0 - q + (c^2/q*) log(q/q0) + (theta^4/q*) log((q* - q0)/(q* - q)),

- linearised: from the growth at collapse with logistic saturation, K = G K*/(G + K*) with
  G(t) = G(0) exp(2 growth t), G(0) the rate of the growing part of the start.

| symbol    | argument or field             | shape    | unit                  |
|-----------|-------------------------------|----------|-----------------------|
| theta_i^2 | mode_variances                | (modes,) | data units^2          |
| s, eta^2  | decoder_variance, prior_variance | scalar | data, latent units^2 |
| u, w at 0 | start_weights                 | scalar or (modes,) | data/latent, latent/data |
| epsilon   | epsilon_nats                  | scalar   | nats                  |
| T         | n_steps * learning_rate       | scalar   | steps * learning rate |
| t         | escape_times                  | (modes,) | steps * learning rate |
| beta_obs  | observed_beta                 | (modes,) | -                     |

Source: ours. Equalities that tests check: `mode_flow` holds epsilon at `escape_times`; descent step
by step is alive below `observed_beta` and dead above it; T without end gives theta^2/s
exp(-2 epsilon).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.theory.arguments import checked_numbers, checked_variances, in_doubles
from linvae.theory.mode_system import (
    EncoderWeights,
    ModeSystem,
    StartWeights,
    Update,
    integrate,
    mode_system,
    start_state,
    tolerance,
)
from linvae.theory.roots import bisect, false_position

__all__ = ["FiniteTrainingThreshold", "escape_times", "finite_training_threshold"]

Array = npt.NDArray[np.float64]

SEARCH_RTOL = 1e-8  # relative tolerance of the integrator in searches: KL to 1e-7, relatively
PRECISION = 1e-7  # of log beta, where it is found by root finding
OUTPUTS = 2001  # points on which the passage of epsilon is interpolated


# --- escape times -------------------------------------------------------------------------------


@in_doubles
def escape_times(
    mode_variances: npt.ArrayLike,
    *,
    beta: npt.ArrayLike = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    update: Update = "joint",
    encoder_weights: EncoderWeights = "raw",
    start_weights: StartWeights = 1e-3,
    epsilon_nats: float = 0.01,
    linearised: bool = False,
) -> Array:
    """Flow time until the KL divergence of each mode reaches `epsilon_nats`, (modes,).

    `beta`: one number or one per mode; one mode variance is repeated over many betas. Infinite
    where the optimum holds no more than `epsilon_nats`; 0 where the start does. What `linearised`
    neglects is of order epsilon (1 to 2 % for epsilon = 0.01). Raises ValueError for numbers
    out of range (beta > 0, epsilon > 0) and as `linvae.theory.dynamics.escape_rates`. Equality that
    a test checks: K of `mode_flow` at that time is epsilon.
    """
    where = "escape_times"
    theta2, b = np.broadcast_arrays(
        checked_variances(mode_variances, where), checked_numbers("beta", beta, where).reshape(-1)
    )
    eps = float(checked_numbers("epsilon_nats", epsilon_nats, where))
    system = mode_system(theta2, decoder_variance, prior_variance, update, encoder_weights)
    start = start_state(system, start_weights, encoder_weights)
    with np.errstate(divide="ignore"):
        final = np.log(theta2 / (b * system.s)) / 2
    times = np.full(len(b), np.inf)
    alive = final > eps
    if np.any(alive):
        part, cut = system.subset(alive), (start[alive], b[alive], eps, final[alive])
        method = _logistic_times if linearised else _joint_times
        if not system.joint and not linearised:
            method = _aggressive_times
        times[alive] = method(part, *cut)
    now = system.rate(start, b)
    return np.where(now >= eps, 0.0, times)


def _logistic_times(
    system: ModeSystem, start: Array, beta: Array, eps: float, final: Array
) -> Array:
    """t with G(t) = eps K*/(K* - eps), G(t) = G(0) exp(2 growth t)."""
    needed = eps * final / (final - eps)
    with np.errstate(divide="ignore"):
        times = np.log(needed / system.growing_rate(start, beta)) / (2 * system.growth(beta))
    return np.maximum(times, 0.0)


def _aggressive_times(
    system: ModeSystem, start: Array, beta: Array, eps: float, final: Array
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


def _joint_times(system: ModeSystem, start: Array, beta: Array, eps: float, final: Array) -> Array:
    """Integrate each mode on its own clock, growth * t, until every one has passed eps."""
    clock = system.growth(beta)
    horizon = 2.0 + 1.5 * np.max(
        clock * np.nan_to_num(_logistic_times(system, start, beta, eps, final), posinf=50.0)
    )
    for _ in range(8):
        path = integrate(
            lambda y, _t: system.velocity(y, beta) / clock[:, None],
            start,
            0.0,
            np.linspace(0.0, horizon, OUTPUTS),
            tolerance(start, system),
            SEARCH_RTOL,
        )
        rates = system.rate(path, beta)
        passed = rates >= eps
        if np.all(passed.any(axis=0)):
            break
        horizon *= 2.0
    later, modes = passed.argmax(axis=0), np.arange(len(beta))
    with np.errstate(divide="ignore", invalid="ignore"):  # a start at 0 stays there
        log_rates = np.log(rates / eps)
        before, after = log_rates[later - 1, modes], log_rates[later, modes]
        crossing = (later - after / (after - before)) * horizon / (OUTPUTS - 1)
    times: Array = np.where(passed.any(axis=0), crossing, np.inf) / clock
    return times


# --- the threshold of a run ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FiniteTrainingThreshold:
    """The beta at which a run of finite length stops to see each mode alive, (modes,); no unit.

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


@in_doubles
def finite_training_threshold(
    mode_variances: npt.ArrayLike,
    *,
    n_steps: int,
    learning_rate: float,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    update: Update = "joint",
    encoder_weights: EncoderWeights = "raw",
    start_weights: StartWeights = 1e-3,
    epsilon_nats: float = 0.01,
) -> FiniteTrainingThreshold:
    """Largest beta at which `n_steps` of plain gradient descent reach KL = `epsilon_nats`.

    The run starts at `start_weights` (as in `mode_flow`) with the prior variance and is followed as
    gradient flow of time n_steps * learning_rate, a good description of descent as long as
    learning_rate * rate of escape is small: descent is slower by about that share, which moves
    a threshold the more, the further it lies below the critical beta. Root finding in beta, all
    modes at once.
    Raises ValueError for a start that counts as alive already, for a learning rate at which descent
    diverges from the collapsed point at the threshold (2 over the largest curvature), and as
    `escape_times`. Equality that a test checks: descent by hand at 0.99 and 1.01 of the result.
    """
    where = "finite_training_threshold"
    steps = float(checked_numbers("n_steps", n_steps, where))
    lr = float(checked_numbers("learning_rate", learning_rate, where))
    eps = float(checked_numbers("epsilon_nats", epsilon_nats, where))
    system = mode_system(mode_variances, decoder_variance, prior_variance, update, encoder_weights)
    start = start_state(system, start_weights, encoder_weights)
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
    system: ModeSystem, start: Array, critical: Array, end: float, eps: float, linearised: bool
) -> Array:
    """Root in log beta of log(K(end)/eps), between 1e-6 and 1 times the critical beta."""
    found = np.zeros(len(critical))
    varied = np.flatnonzero(critical > 0)

    def excess(part: ModeSystem, first: Array) -> Callable[[Array], Array]:
        def log_ratio(log_beta: Array) -> Array:
            rate = _rate_after(part, first, np.exp(log_beta), end, linearised)
            return np.clip(np.log(np.maximum(rate, 1e-300) / eps), -20.0, 20.0)

        return log_ratio

    low = np.log(critical[varied]) - np.log(1e6)
    reached = excess(system.subset(varied), start[varied])(low) > 0
    varied, low = varied[reached], low[reached]
    if len(varied):
        function = excess(system.subset(varied), start[varied])
        found[varied] = np.exp(false_position(function, low, np.log(critical[varied]), PRECISION))
    return found


def _rate_after(
    system: ModeSystem, start: Array, beta: Array, end: float, linearised: bool
) -> Array:
    """K at time `end`, of the logistic approximation or of the flow, one beta per mode."""
    if not linearised:
        state = start if system.joint else start[:, :1]
        last = integrate(
            lambda y, _t: system.velocity(y, beta),
            state,
            0.0,
            np.array([end]),
            tolerance(start, system),
            SEARCH_RTOL,
        )
        return system.rate(last[0], beta)
    final = np.log(system.theta2 / (beta * system.s)) / 2
    exponent = np.minimum(2 * system.growth(beta) * end, 600.0)
    grown = system.growing_rate(start, beta) * np.exp(exponent)
    reached: Array = grown * final / (grown + np.maximum(final, 1e-300))
    return reached


def _check_run(system: ModeSystem, start: Array, critical: Array, lr: float, eps: float) -> None:
    where = "finite_training_threshold"
    varied = critical > 0
    now = system.subset(varied).rate(start[varied], critical[varied])
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
