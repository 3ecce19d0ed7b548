"""One level with a latent reconstruction loss (gamma) or weight decay (kappa), in closed form.

Per mode, with decoder weight u, encoder weight w on the data, p = u w, v the encoder variance,
twice the objective is, up to constants,

    A (1 - p)^2 + u^2 (v/s + kappa) + w^2 b + beta (v/eta^2 - log v),
    A = theta^2/s + gamma eta^2,   b = beta theta^2/eta^2 + kappa

(the loss adds gamma eta^2 (1 - p)^2 because E|w u z - z|^2 = eta^2 (1 - p)^2 under the prior).
The best split of p gives 2 p G with G = sqrt((v/s + kappa) b), and the best p is 1 - q with
q = min(1, G/A):

    F(v) = A (2 q - q^2) + beta (v/eta^2 - log v)
    v F'(v) = h(v) = (v/s) sqrt(b/(v/s + kappa)) - v (b/(s A) - beta/eta^2) - beta    where q < 1

h is concave with h(0) = -beta, so an alive optimum is its first zero; the collapsed point is
v = eta^2, p = 0. With gamma alone F is convex in q and there is one optimum. **Weight decay can
make the transition first-order**: at the local threshold (x = eta^2/s)

    beta_local = (eta^2/theta^2) (A^2/(x + kappa) - kappa)

an alive optimum exists already iff beta_local < eta^2 A x/(2 s (x + kappa)^2), for gamma = 0 iff
theta^4/s^2 < 2 kappa (x + kappa)^2/(x + 2 kappa). The mode then stays alive above beta_local, up to
the beta at which both optima are equally good, and can be alive although the collapsed point is
stable at every beta.

| symbol  | argument              | unit         |
|---------|-----------------------|--------------|
| gamma   | latent_reconstruction | nats/latent^2|
| kappa   | weight_decay          | nats         |
| v       | encoder variance      | latent^2     |
| theta^2 | mode_variances        | data^2       |

With a fixed encoder variance v is given and q = min(1, G/A). Source: ours; Song et al. 2025 propose
the loss, Ichikawa & Hukushima 2023 analyse the decay. Equality that a test checks: at gamma =
kappa = 0 the solution is that of `linvae.theory.vae`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linvae.spec import VAESpec
from linvae.theory.modes import Modes
from linvae.theory.solution import ROUNDING, ModeStates

__all__ = ["is_first_order", "local_critical_beta", "solve_penalised"]

Array = npt.NDArray[np.float64]
HALVINGS = 100  # of a bracket: down to the last bit of a double, from any bracket


@dataclass(frozen=True, eq=False)
class _Scalar:
    """The scalar problem of every mode at one beta per mode."""

    theta2: Array
    beta: Array
    s: float
    eta2: float
    gamma: float
    kappa: float

    @property
    def A(self) -> Array:
        return self.theta2 / self.s + self.gamma * self.eta2

    @property
    def b(self) -> Array:
        return self.beta * self.theta2 / self.eta2 + self.kappa

    def q(self, v: Array) -> Array:
        """1 - p at the best p for this encoder variance."""
        G = np.sqrt((v / self.s + self.kappa) * self.b)
        return np.minimum(1.0, np.divide(G, self.A, out=np.ones_like(G), where=self.A > 0))

    def F(self, v: Array) -> Array:
        q = self.q(v)
        value: Array = self.A * (2 * q - q**2) + self.beta * (v / self.eta2 - np.log(v))
        return value

    def h(self, v: Array) -> Array:
        linear = self.b / (self.s * self.A) - self.beta / self.eta2
        rise: Array = v / self.s * np.sqrt(self.b / (v / self.s + self.kappa))
        return rise - v * linear - self.beta

    def h_slope(self, v: Array) -> Array:
        linear = self.b / (self.s * self.A) - self.beta / self.eta2
        x = v / self.s
        slope: Array = np.sqrt(self.b / (x + self.kappa)) * (x / 2 + self.kappa) / (x + self.kappa)
        return slope / self.s - linear


def solve_penalised(spec: VAESpec, modes: Modes) -> ModeStates:
    """Optimum of every mode of a VAESpec, CVAESpec or ARVAESpec with a penalty.

    Raises ValueError where the latent reconstruction loss has no optimum: a unit on a mode without
    any variance copies the latent through the decoder for nothing as w grows without bound.
    Units beyond the target's dimensions have no decoder direction and stay at the prior.
    """
    k, s, eta2 = spec.latent_dim, float(spec.decoder_variance), spec.prior_variance
    theta2 = np.append(modes.variances, np.zeros(max(0, k - len(modes.variances))))
    has_unit = np.arange(len(theta2)) < k
    has_direction = np.arange(len(theta2)) < len(modes.variances)
    _refuse_idle_modes(spec, modes.variances[:k])
    problem = _scalar(spec, theta2, np.full_like(theta2, spec.beta))
    order = np.arange(k)
    if spec.encoder_variance is None:
        v = np.where(has_direction, _best_variance(problem), eta2)
        critical = _global_critical_beta(spec, theta2)
    else:
        fixed = np.broadcast_to(spec.encoder_variance, k)
        order = np.argsort(fixed, kind="stable")
        v = np.append(fixed[order], np.full(len(theta2) - k, eta2))
        critical = local_critical_beta(spec, theta2, v)
    p = np.where(has_unit & has_direction, 1 - problem.q(v), 0.0)
    p[p < ROUNDING] = 0.0
    noise = v / s + spec.weight_decay
    u = np.sqrt(p * np.sqrt(problem.b / noise))
    w2 = np.divide(p**2, u**2, out=np.zeros_like(p), where=p > 0)
    m = w2 * theta2 + v
    return ModeStates(
        noise_fractions=np.where(p > 0, v / m, 1.0)[None],
        second_moments=np.where(has_unit, m, np.nan)[None],
        critical_scale=np.where(has_unit, critical / spec.beta, np.nan)[None],
        units=(order,),
        decoder_variance=s,
        status="unique",
        decoder_gains=u,
    )


def local_critical_beta(
    spec: VAESpec, mode_variances: Array, encoder_variances: Array | None = None
) -> Array:
    """Beta above which the collapsed point of each mode is stable; 0 where it always is.

    (eta^2/theta^2) (A^2/(v/s + kappa) - kappa) with v the encoder variance there: eta^2 where it is
    learned. Equality that a test checks: gamma = kappa = 0 gives theta^2/s.
    """
    s, eta2 = float(spec.decoder_variance), spec.prior_variance
    v = np.full_like(mode_variances, eta2) if encoder_variances is None else encoder_variances
    problem = _scalar(spec, mode_variances, mode_variances)
    gain = problem.A**2 / (v / s + spec.weight_decay) - spec.weight_decay
    zeros = np.zeros_like(gain)
    return np.maximum(
        np.divide(eta2 * gain, mode_variances, out=zeros, where=mode_variances > 0), 0.0
    )


def is_first_order(spec: VAESpec, mode_variances: Array) -> npt.NDArray[np.bool_]:
    """True where a mode with a learned encoder variance jumps at its threshold."""
    s, eta2 = float(spec.decoder_variance), spec.prior_variance
    local, x = local_critical_beta(spec, mode_variances), eta2 / s
    A = _scalar(spec, mode_variances, mode_variances).A
    bound = eta2 * A * x / (2 * s * (x + spec.weight_decay) ** 2)
    return np.asarray((local < bound) & (spec.weight_decay > 0))


def _scalar(spec: VAESpec, theta2: Array, beta: Array) -> _Scalar:
    gamma, kappa = spec.latent_reconstruction, spec.weight_decay
    return _Scalar(theta2, beta, float(spec.decoder_variance), spec.prior_variance, gamma, kappa)


def _best_variance(problem: _Scalar) -> Array:
    """The encoder variance of the global optimum: the first zero of h, or eta^2."""
    collapsed = np.full_like(problem.theta2, problem.eta2)
    with np.errstate(divide="ignore", invalid="ignore"):
        # q reaches 1 at v_1; alive optima lie below, before h falls again
        v_1 = problem.s * (problem.A**2 / problem.b - problem.kappa)
        usable = v_1 > 0
        v_1 = np.where(usable, v_1, problem.eta2)
        peak = _bisect(lambda v: problem.h_slope(v) > 0, np.zeros_like(v_1), v_1)
        usable &= problem.h(peak) > 0
        alive = _bisect(lambda v: problem.h(v) <= 0, np.zeros_like(v_1), peak)
        better = problem.F(alive) < problem.F(collapsed)
    return np.where(usable & better, alive, collapsed)


def _bisect(below: Callable[[Array], npt.NDArray[np.bool_]], low: Array, high: Array) -> Array:
    """The largest value of every bracket for which `below` still holds, vectorised."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        left = below(middle)
        low, high = np.where(left, middle, low), np.where(left, high, middle)
    return high


def _global_critical_beta(spec: VAESpec, theta2: Array) -> Array:
    """Beta at which alive and collapsed optimum are equally good; the local one if they merge."""
    local = local_critical_beta(spec, theta2)
    A = _scalar(spec, theta2, theta2).A
    # for beta -> 0 a mode lives iff kappa < A
    first = is_first_order(spec, theta2) & (theta2 > 0) & (spec.weight_decay < A)
    if not first.any():
        return local
    some, A = theta2[first], A[first]
    # without decay the mode would live up to A^2 s/theta^2
    highest = A**2 * float(spec.decoder_variance) / some

    def alive(beta: Array) -> npt.NDArray[np.bool_]:
        problem = _scalar(spec, some, beta)
        return problem.q(_best_variance(problem)) < 1

    critical = local.copy()
    critical[first] = _bisect(alive, local[first], highest)
    return critical


def _refuse_idle_modes(spec: VAESpec, theta2: Array) -> None:
    if spec.latent_reconstruction > 0 and spec.weight_decay == 0 and np.any(theta2 == 0):
        rank = int(np.count_nonzero(theta2))
        raise ValueError(
            f"latent_reconstruction={spec.latent_reconstruction} has no optimum with latent_dim="
            f"{spec.latent_dim}: only {rank} modes have any variance, and a unit on a direction "
            "without data reconstructs itself for nothing as its encoder weight grows without "
            f"bound; drop constant coordinates, use latent_dim <= {rank}, or weight_decay > 0"
        )
