"""Hierarchies of any depth, widths and mix of learned and fixed variances, in closed form.

After minimising all matrices W_l, U_l, twice the objective of one mode is, up to constants,

    F = theta^2 r_1 / s + sum_l beta_l ( m_l r_{l+1} / eta_l^2 - log sigma_l^2 ),  r_{L+1} = 1

with r_l = sigma_l^2/m_l the noise fraction and m_l the second moment of level l. Write
rho_l = -log r_l >= 0 (twice the information of level l about the one below), rho_0 = rho_{L+1} = 0
and t_l = rho_l - rho_{l+1}. A learned variance makes m_l = eta_l^2 / r_{l+1}; what remains is

    F = sum_{l=0}^L g_l(t_l),    g_l(t) = a_l exp(t)  where the variance is fixed
                                 g_l(t) = beta_l t    where it is learned
    a_0 = theta^2 / s,   a_l = beta_l sigma_l^2 / eta_l^2

convex, under the nested constraints sum_{j<l} t_j <= 0 (rho_l >= 0) and sum of all t_l = 0.
Its optimality condition: the prices p_l = g_l'(t_l) do not decrease with l, and neighbouring
prices are equal wherever the information rho between them is positive. Therefore

    **log p is the isotonic regression of log a over the levels**, the price of a learned level
    being pinned at beta_l: between two learned levels, the isotonic regression of log a clipped
    to [log beta_lower, log beta_upper].

Then t_l = log(p_l/a_l) on fixed levels, and rho follows by summation; it is 0 at every rise of the
price. No iteration, no loop over modes. What falls out:

- level 1 of a mode is active iff theta^2/s > min( min_j geometric mean of a_1..a_j, beta of the
  first learned level ), j below that level;
- level l that encoder noise alone does not keep active, and that has no learned level below it,
  is active iff log(theta^2/s) > l log p_l - sum_{0<c<l} log p_c, with the prices p of theta = 0;
  levels above the first learned one do not depend on the data at all;
- two learned levels with beta_lower > beta_upper: unbounded below (rate_1 alone is no KL
  divergence); equal: a continuum; beta_lower < beta_upper: some level between them collapses.

A level too narrow for a mode cuts its chain; the part above is a chain of its own with theta = 0.

| symbol           | argument or field                         | shape           | unit            |
|------------------|-------------------------------------------|-----------------|-----------------|
| theta^2          | modes.variances                           | (modes,)        | data units^2    |
| s                | spec.decoder_variance                     | scalar          | data units^2    |
| beta_l           | spec.betas                                | (levels,)       | -               |
| eta_l^2, sigma_l^2 | spec.prior_variances, .encoder_variances | (levels,)      | latent units^2  |
| r_l              | noise_fractions                           | (levels, modes) | -               |
| m_l              | second_moments                            | (levels, modes) | latent units^2  |
| rho_l            | -2 x information                          | (levels, modes) | nats            |
| -                | critical_scale                            | (levels, modes) | factor on betas |
Source: the scalar problem generalises Dang et al. 2024, Theorems 3 and 5 (two levels); its second
threshold with both variances fixed is beta_2^2/beta_1. The isotonic form is ours. Oracle: L-BFGS
on the exact objective over all matrices, and scipy's isotonic regression.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from linvae.prices import fixed_runs, isotonic_regression, log_prices
from linvae.spec import HVAESpec
from linvae.theory.modes import Modes
from linvae.theory.solution import ROUNDING, ModeStates, Status, UnboundedObjectiveError

__all__ = ["isotonic_regression", "solve_hierarchy"]

Array = npt.NDArray[np.float64]


def solve_hierarchy(spec: HVAESpec, modes: Modes, allow_unbounded: bool = False) -> ModeStates:
    """Noise fractions, second moments and thresholds of every level and mode of an HVAESpec.

    Raises UnboundedObjectiveError for learned levels whose beta falls upwards, unless
    `allow_unbounded`. Equality that a test checks: one level is `linvae.theory.vae`.
    """
    dims = spec.latent_dims
    theta2 = np.zeros(max(len(modes.variances), *dims))
    theta2[: len(modes.variances)] = modes.variances
    status = _status(spec, allow_unbounded)
    rho = np.zeros((len(dims), len(theta2)))
    critical = np.full_like(rho, np.nan)
    if status != "unbounded":
        for levels, group in _chains(dims, len(theta2)):
            a0 = theta2[group] / spec.decoder_variance if levels.start == 0 else theta2[group] * 0
            rho[levels, group] = _information(spec, levels, a0)
            critical[levels, group] = _critical_scale(spec, levels, a0)
    r = np.exp(-rho)
    return ModeStates(
        noise_fractions=r,
        second_moments=_second_moments(spec, r),
        critical_scale=critical,
        units=tuple(np.arange(k) for k in dims),
        decoder_variance=spec.decoder_variance,
        status=status,
    )


def _chains(dims: tuple[int, ...], n_modes: int) -> Iterator[tuple[slice, slice]]:
    """Runs of levels that are wide enough, for every group of modes with the same runs."""
    edges = sorted({0, *dims, n_modes})
    for low, high in itertools.pairwise(edges):
        wide = [k > low for k in dims]
        start = None
        for level, present in enumerate([*wide, False]):
            if present and start is None:
                start = level
            if not present and start is not None:
                yield slice(start, level), slice(low, high)
                start = None


def _log_coefficients(spec: HVAESpec, levels: slice) -> tuple[Array, npt.NDArray[np.bool_]]:
    """log a_l of fixed levels, log beta_l of learned ones; and which are learned."""
    fixed = spec.encoder_variances[levels]
    learned = np.array([v is None for v in fixed])
    ratio = [
        1.0 if v is None else v / eta2
        for v, eta2 in zip(fixed, spec.prior_variances[levels], strict=True)
    ]
    log_a: Array = np.log(spec.betas[levels]) + np.log(ratio)
    return log_a, learned


def _information(spec: HVAESpec, levels: slice, a0: Array) -> Array:
    """rho of the levels of one chain, (levels, modes)."""
    upper, learned = _log_coefficients(spec, levels)
    with np.errstate(divide="ignore"):
        log_a = np.concatenate([np.log(a0)[None], np.repeat(upper[:, None], len(a0), axis=1)])
    learned = np.append(False, learned)
    log_p = log_prices(log_a, learned)
    dead = np.isneginf(log_a)
    t = np.where(dead, 0.0, log_p - np.where(dead, 0.0, log_a))
    rho = np.zeros((len(log_a) + 1, len(a0)))  # rho_0 ... rho_{L+1}
    for segment in fixed_runs(learned):
        nodes = slice(segment.start, segment.stop + 1)
        rho[nodes][1:] = -np.cumsum(t[segment], axis=0)
        rho[nodes] -= rho[nodes].min(axis=0)  # the lowest of them touches 0
    rho[rho < ROUNDING] = 0.0
    return rho[1:-1]


def _critical_scale(spec: HVAESpec, levels: slice, a0: Array) -> Array:
    """Factor on all betas at which each level of the chain collapses, (levels, modes).

    Scaling all betas by a factor is scaling a_0 by its inverse, and rho grows with a_0.
    """
    log_a, learned = _log_coefficients(spec, levels)
    log_p = log_prices(log_a[:, None], learned)[:, 0]
    first_learned = int(np.argmax(learned)) if learned.any() else len(learned)
    below = np.append(0.0, np.cumsum(log_p)[:-1])
    threshold = np.exp(np.arange(1, len(log_p) + 1) * log_p - below)
    threshold[first_learned + 1 :] = np.inf
    on_noise = _information(spec, levels, np.zeros(1))[:, 0] > 0
    scale: Array = a0 / threshold[:, None]
    scale[on_noise] = np.inf
    return scale


def _second_moments(spec: HVAESpec, r: Array) -> Array:
    """m_l = eta_l^2/r_{l+1} (learned variance) or sigma_l^2/r_l (fixed); NaN without a unit."""
    m = np.full_like(r, np.nan)
    above = np.concatenate([r[1:], np.ones_like(r[:1])])
    for level, k in enumerate(spec.latent_dims):
        fixed = spec.encoder_variances[level]
        eta2 = spec.prior_variances[level]
        m[level, :k] = (eta2 / above[level] if fixed is None else fixed / r[level])[:k]
    return m


def _status(spec: HVAESpec, allow_unbounded: bool) -> Status:
    """Compare the betas of successive learned levels; the first mode connects all levels."""
    status: Status = "unique"
    learned = [level for level, fixed in enumerate(spec.encoder_variances) if fixed is None]
    for lower, upper in itertools.pairwise(learned):
        if spec.betas[lower] > spec.betas[upper]:
            if not allow_unbounded:
                raise _unbounded(spec, lower, upper)
            return "unbounded"
        if spec.betas[lower] == spec.betas[upper]:
            status = "continuum"
    return status


def _unbounded(spec: HVAESpec, lower: int, upper: int) -> UnboundedObjectiveError:
    return UnboundedObjectiveError(
        f"the objective has no minimum: betas[{lower}]={spec.betas[lower]} > "
        f"betas[{upper}]={spec.betas[upper]} while the encoder variances of both levels are "
        f"learned, so level {lower + 1} grows and level {upper + 1} follows without bound (the "
        f"rate of level {lower + 1} alone is no KL divergence); fix one of the two encoder "
        f"variances, or use betas that do not decrease upwards"
    )
