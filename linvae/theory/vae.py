"""One latent level: the closed forms of linear VAEs and conditional VAEs.

Per mode with variance theta^2 (see `linvae.theory.modes`), decoder variance s, prior variance
eta^2, encoder variance sigma^2, and noise fraction r = sigma^2/m with m = E z^2:

| encoder variance | active iff                     | noise fraction r             | m         |
|------------------|--------------------------------|------------------------------|-----------|
| learned          | theta^2 > beta s               | beta s / theta^2             | eta^2     |
| fixed sigma^2    | theta^2 > beta s sigma^2/eta^2 | (sigma/eta) sqrt(beta s)/theta | sigma^2/r |

and r = 1 when collapsed. Fixed diagonal: the smallest sigma goes with the largest theta.
Sources: learned: Wang & Ziyin 2022, Theorem 2 (VAE); Dang et al. 2024, Theorem 2 (conditional).
Fixed: Wang & Ziyin 2022, Prop. 2; Dang et al. 2024, Theorem 1. Decoder singular value
omega^2 = theta^2 (1 - r)/m and whitened encoder singular value lambda^2 = m (1 - r) are theirs.

| symbol      | argument                     | shape                     | unit           |
|-------------|------------------------------|---------------------------|----------------|
| theta_i^2   | Modes.variances              | (d,), descending          | data units^2   |
| beta, s     | VAESpec.beta, .decoder_variance | scalar                 | -, data units^2|
| eta^2       | VAESpec.prior_variance       | scalar                    | latent units^2 |
| sigma^2     | VAESpec.encoder_variance     | None, scalar or (k,)      | latent units^2 |
| r, m        | ModeStates.noise_fractions, .second_moments | (1, modes) | -, latent units^2 |

Equalities that tests check: mean squared error = sum_i min(theta_i^2, beta s) and
rate = -1/2 sum_i log r_i with sigma^2 learned.

Learned decoder variance. Minimised over everything else the objective is a convex function of
log s with derivative (d s - unexplained - sum_i min(theta_i^2, beta s))/(2 s), the sum over
modes with a unit counting min(), the others theta_i^2: **s equals the mean squared error per
dimension**. With k_a active modes, s = (variance of all the rest)/(d - beta k_a), and mode i is
active iff (d - beta i) theta_i^2 > beta (variance beyond mode i). For beta = 1 this is
probabilistic PCA (Tipping & Bishop 1999, eq. 8). The objective is unbounded only where
everything is explained, nothing is left (variance of all the rest = 0) and d > beta k_a. Where
nothing is left and d = beta k_a it does not depend on s below theta_{k_a}^2/beta: a continuum,
of which the largest s is given.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linvae.spec import VAESpec
from linvae.theory.modes import Modes
from linvae.theory.solution import ROUNDING, ModeStates, Status, UnboundedObjectiveError

__all__ = [
    "learned_critical_betas",
    "noise_fraction",
    "optimal_decoder_variance",
    "solve_one_level",
]

Array = npt.NDArray[np.float64]


def solve_one_level(spec: VAESpec, modes: Modes, allow_unbounded: bool = False) -> ModeStates:
    """Noise fraction, second moment and threshold of every mode of a VAESpec or CVAESpec.

    Raises UnboundedObjectiveError as `optimal_decoder_variance`. Equality that a test checks: no
    weights found by brute force do better.
    """
    k, eta2 = spec.latent_dim, spec.prior_variance
    theta2 = _padded(modes.variances, k)
    if spec.decoder_variance == "learned":
        s = optimal_decoder_variance(spec, modes, allow_unbounded)
    else:
        s = float(spec.decoder_variance)
    has_unit = np.arange(len(theta2)) < k
    order = np.arange(k)
    with np.errstate(divide="ignore", invalid="ignore"):
        if spec.encoder_variance is None:
            scale = theta2 / (spec.beta * s)
            r = noise_fraction(scale)
            m = np.full_like(theta2, eta2)
        else:
            sigma2 = np.broadcast_to(spec.encoder_variance, k)
            order = np.argsort(sigma2, kind="stable")
            paired = _padded(sigma2[order], len(theta2), fill=np.inf)
            scale = theta2 * eta2 / (spec.beta * s * paired)
            r = noise_fraction(np.sqrt(scale))
            m = paired / r
    learned_s = spec.decoder_variance == "learned"
    bounded: Status = "continuum" if learned_s and _flat(spec, modes) else "unique"
    return ModeStates(
        noise_fractions=np.where(has_unit, r, 1.0)[None],
        second_moments=np.where(has_unit, m, np.nan)[None],
        critical_scale=np.where(has_unit & (not learned_s), scale, np.nan)[None],
        units=(order,),
        decoder_variance=s,
        status="unbounded" if s == 0 else bounded,
    )


def optimal_decoder_variance(spec: VAESpec, modes: Modes, allow_unbounded: bool = False) -> float:
    """The s that minimises the objective, data units^2.

    Raises UnboundedObjectiveError where the latents explain everything (0.0 with
    `allow_unbounded`). Equality that a test checks: s = mean squared error / d.
    """
    theta2, d, beta = modes.variances, len(modes.basis), spec.beta
    beyond = np.append(np.cumsum(theta2[::-1])[::-1], 0.0) + modes.unexplained
    i = np.arange(1, min(spec.latent_dim, d) + 1)
    active = int(np.sum((d - beta * i) * theta2[i - 1] > beta * beyond[i]))
    rest = float(beyond[active])
    if rest > 0:
        return rest / (d - beta * active)
    if allow_unbounded:
        return 0.0
    explains = f"latent_dim={spec.latent_dim} explains" if active else "the condition explains"
    way_out = f"use latent_dim < {active} or" if active > 1 else "use"
    raise UnboundedObjectiveError(
        f"decoder_variance='learned' has no optimum: {explains} all of the target's variance "
        f"(rank {active} of {d} dimensions, beta={beta}), so the decoder variance runs to 0; "
        f"{way_out} a fixed decoder_variance"
    )


def learned_critical_betas(spec: VAESpec, modes: Modes) -> Array:
    """Beta at which every mode with a unit collapses where s is learned, (min(k, d),).

    d theta_i^2/(i theta_i^2 + variance beyond mode i), the module's condition at equality; 0 for
    modes without variance. Equality that a test checks: a thousandth above it `solve` has i - 1
    active units, a thousandth below it i.
    """
    theta2, d = modes.variances, len(modes.basis)
    i = np.arange(1, min(spec.latent_dim, d) + 1)
    used = theta2[: len(i)]
    beyond = (np.cumsum(theta2[::-1])[::-1] - theta2)[: len(i)] + modes.unexplained
    left = i * used + beyond
    return np.asarray(np.divide(d * used, left, out=np.zeros_like(used), where=left > 0))


def noise_fraction(inverse: Array) -> Array:
    """r = min(1, 1/inverse), any shape; exactly 1, collapsed, also where only rounding is above 1.

    `inverse`: theta^2/(beta s), learned, or its root times eta/sigma, fixed.
    """
    return np.where(inverse > 1 + ROUNDING, 1.0 / inverse, 1.0)


def _flat(spec: VAESpec, modes: Modes) -> bool:
    """True where the objective does not depend on a small s: nothing left and d = beta k_a."""
    rank = int(np.count_nonzero(modes.variances))
    explained = rank <= spec.latent_dim and modes.unexplained == 0
    return explained and spec.beta * rank == len(modes.basis)


def _padded(values: Array, length: int, fill: float = 0.0) -> Array:
    """`values` followed by `fill` up to at least `length`."""
    return np.append(values, np.full(max(0, length - len(values)), fill))
