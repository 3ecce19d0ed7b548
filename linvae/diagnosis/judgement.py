"""Observed against predicted: tolerances, missing modes, a verdict for every unit.

The rules are those of the table in `linvae.diagnosis`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.diagnosis.observed import Code, beyond_condition, quantile, unit_rates
from linvae.diagnosis.records import (
    ALIVE,
    ALIVE_AS_PREDICTED,
    BEYOND,
    COLLAPSED_AS_PREDICTED,
    OFF_OPTIMUM,
    OPTIMISATION,
    Evidence,
    ModeDiagnosis,
    UnitDiagnosis,
)
from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import Solution, solve
from linvae.theory.advice import search_beta
from linvae.theory.finite_training import escape_times
from linvae.theory.held_modes import HeldModes, assign_units, held_modes, turned_scores
from linvae.verdicts import RATE_TOLERANCE

__all__ = ["fitting_beta", "judge"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def judge(
    spec: VAESpec,
    moments: Moments,
    solution: Solution,
    code: Code,
    scores: Array,
    evidence: Evidence,
    x: Any,
) -> tuple[tuple[UnitDiagnosis, ...], tuple[ModeDiagnosis, ...]]:
    """Units by descending rate, and modes."""
    predicted, slope = _predicted(spec, solution), _slope(spec, moments, solution)
    surprise = slope * _relative_squares(scores[:, : spec.latent_dim], spec.latent_dim)
    mean = beyond_condition(code.mean, x)
    turned = turned_scores(scores, mean, code.variance, spec.latent_dim)
    held = held_modes(turned, mean, code.variance)
    modes = _modes(spec, moments, solution, held, surprise)
    order = np.argsort(-code.rates.mean(axis=0), kind="stable")
    rates = code.rates[:, order]
    carried = assign_units(held.unit_shares[:, order], rates.mean(axis=0))
    observed, error = rates.mean(axis=0), _error(rates)
    tolerance = _tolerance(
        predicted[carried], _error(rates - surprise[:, carried]), spec.latent_dim
    )
    beyond, full = _beyond(predicted, surprise, rates)
    found = _verdicts(predicted[carried], observed, tolerance, beyond, full, evidence)
    units = []
    for j, mode in enumerate(modes[i] for i in carried):
        units.append(
            UnitDiagnosis(
                unit=int(order[j]) + 1,
                mode=mode.mode,
                mode_missing=mode.missing,
                predicted_nats=float(predicted[carried[j]]),
                observed_nats=float(observed[j]),
                standard_error=float(error[j]),
                tolerance_nats=float(tolerance[j]),
                critical_beta=mode.critical_beta,
                critical_decoder_variance=mode.critical_decoder_variance,
                escape_time=mode.escape_time,
                aggressive_escape_time=mode.aggressive_escape_time,
                evidence=evidence,
                verdict=found[j],
            )
        )
    return tuple(units), modes


def fitting_beta(spec: VAESpec, moments: Moments, units: Sequence[UnitDiagnosis]) -> float:
    """The beta whose optimum has the rates of all units, where that of `spec` has not; else NaN.

    NaN too with fewer than two active units, which any beta would fit, and fixed variances.
    """
    observed = np.array([u.observed_nats for u in units])
    off = any(abs(u.observed_nats - u.predicted_nats) > u.tolerance_nats for u in units)
    if spec.encoder_variance is not None or not off:
        return math.nan
    try:
        found = search_beta(spec, moments, rate_nats=float(observed.sum()))
    except ValueError:  # no beta has it
        return math.nan
    predicted = _predicted(spec, solve(spec.scale_betas(found.beta / spec.beta), moments))
    error = np.array([u.standard_error for u in units])
    fits = np.abs(observed - predicted) <= _tolerance(predicted, error, len(units))
    return found.beta if fits.all() and found.active_units[0] > 1 else math.nan


def _modes(
    spec: VAESpec, moments: Moments, solution: Solution, held: HeldModes, surprise: Array
) -> tuple[ModeDiagnosis, ...]:
    """The first k; those beyond the target's dimensions have no variance and are held by nobody."""
    k, m = spec.latent_dim, len(held.shares)
    predicted, seen = solution.information[0, :k], np.zeros(k)
    seen[:m] = held.held_nats
    influence = -surprise
    influence[:, :m] += held.influence
    tolerance = _tolerance(predicted, _error(influence), k)
    missing = _missing(predicted, seen, tolerance)
    times = [_escape_times(spec, moments, solution, update) for update in ("joint", "aggressive")]
    return tuple(
        ModeDiagnosis(
            mode=i + 1,
            variance=float(solution.mode_variances[i]),
            predicted_nats=float(predicted[i]),
            held_nats=float(seen[i]),
            tolerance_nats=float(tolerance[i]),
            missing=bool(missing[i]),
            critical_beta=float(solution.critical_beta[i]),
            critical_decoder_variance=float(solution.critical_decoder_variance[i]),
            escape_time=float(times[0][i]),
            aggressive_escape_time=float(times[1][i]),
        )
        for i in range(k)
    )


def _predicted(spec: VAESpec, solution: Solution) -> Array:
    """Rates of the modes with a unit, less that of an idle unit."""
    rates: Array = solution.mode_rates[0, : spec.latent_dim]
    if spec.encoder_variance is None:
        return rates
    idle = np.log(np.full((1, 1), spec.encoder_variance))
    return np.asarray(rates - unit_rates(0 * idle, idle, spec.prior_variance)[0])


def _slope(spec: VAESpec, moments: Moments, solution: Solution) -> Array:
    """d predicted / d log theta^2, over a standard deviation of a sample eigenvalue, sqrt(2/n)."""
    assert moments.n_samples is not None
    step = math.sqrt(2 / moments.n_samples)
    wider = Moments.from_covariance(
        moments.covariance * (1 + step), condition_dim=moments.condition_dim
    )
    rise = _predicted(spec, solve(spec, wider)) - _predicted(spec, solution)
    return np.asarray(rise / math.log1p(step))


def _relative_squares(scores: Array, k: int) -> Array:
    """e^2/theta^2 - 1 of every sample, (n, k): its share in the error of a sample eigenvalue."""
    squares = np.zeros((len(scores), k))
    theta2 = np.mean(scores**2, axis=0)
    squares[:, : len(theta2)] = scores**2 / np.where(theta2 > 0, theta2, 1.0) - (theta2 > 0)
    return squares


def _error(values: Array) -> Array:
    """Standard error of the mean over samples."""
    error: Array = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return error


def _tolerance(predicted: Array, error: Array, k: int) -> Array:
    """t_j of the module; `predicted` and the error of the difference: of units, sums or modes."""
    least, share = RATE_TOLERANCE
    tolerance: Array = np.maximum(least, share * predicted) + quantile(k) * error
    return tolerance


def _missing(predicted: Array, seen: Array, tolerance: Array) -> Bools:
    """Where next to nothing is there of what should be."""
    return np.asarray((seen < predicted - tolerance) & (seen < tolerance))


def _beyond(predicted: Array, surprise: Array, rates: Array) -> tuple[Bools, Bools]:
    """Of every rank: beyond the theory; whether such units hold all nats up to there."""
    k, observed = len(predicted), rates.mean(axis=0)
    tolerance = _tolerance(predicted, _error(rates - surprise), k)
    sums = _error(np.cumsum(rates - surprise, axis=1))
    slack = _tolerance(np.cumsum(predicted), sums, k)
    return _beyond_ranks(predicted, observed, tolerance, slack)


def _beyond_ranks(
    predicted: Array, observed: Array, tolerance: Array, slack: Array
) -> tuple[Bools, Bools]:
    excess = observed - predicted
    total = np.cumsum(excess)
    beyond = (excess > tolerance) & (total > slack)
    return beyond, (total >= 0) & np.logical_or.accumulate(beyond)


def _verdicts(
    predicted: Array,
    observed: Array,
    tolerance: Array,
    beyond: Bools,
    full: Bools,
    evidence: Evidence,
) -> list[str]:
    """Of every unit, with the rate of its mode; the module's table."""
    missing = _missing(predicted, observed, tolerance)
    excused = missing & (full | (evidence == "pays"))
    found = np.where(
        np.minimum(predicted, observed) > ALIVE, ALIVE_AS_PREDICTED, COLLAPSED_AS_PREDICTED
    )
    found = np.where(np.abs(observed - predicted) > tolerance, OFF_OPTIMUM, found)
    found = np.where(missing, OPTIMISATION, found)
    if evidence != "costs":
        found = np.where(beyond | excused, BEYOND, found)
    return [str(verdict) for verdict in found]


def _escape_times(spec: VAESpec, moments: Moments, solution: Solution, update: Any) -> Array:
    """Until the modes hold `ALIVE` nats; known for a plain VAE that learns its variances."""
    k = spec.latent_dim
    if moments.condition_dim or spec.encoder_variance is not None:
        return np.full(k, np.nan)
    times: Array = escape_times(
        solution.mode_variances[:k],
        beta=spec.beta,
        decoder_variance=solution.decoder_variance,
        prior_variance=spec.prior_variance,
        epsilon_nats=ALIVE,
        update=update,
    )
    return times
