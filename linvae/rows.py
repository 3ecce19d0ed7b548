"""The tidy rows of a comparison, from what theory predicts and what the networks showed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from linvae.comparison import Boundary, CurvePoint, Row
from linvae.metrics import SET_POINTS, Observation, ThresholdEstimate, fit_threshold
from linvae.moments import Moments
from linvae.remedy_rows import ACTIVE, Predict, with_predictions
from linvae.spec import LinearSpec
from linvae.theory import Solution, UnboundedObjectiveError, solve
from linvae.theory.control import factor_at_information
from linvae.theory.observables import (
    active_unit_counts,
    collapsed_unit_counts,
    rate_distribution,
    units_above,
)

__all__ = [
    "ACTIVE",
    "CUTOFF",
    "DELTA",
    "EPSILON",
    "LOCAL",
    "SWEEP",
    "curve_points",
    "estimate_records",
    "phase_boundaries",
    "sweep_rows",
    "theory_rows",
    "threshold_rows",
]

SWEEP = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.15)  # x the predicted threshold of level 1
BETAS = 120  # of the curves of theory
SPECTRUM_ROWS = 50
EPSILON, DELTA = 0.01, 0.01
# x the decoder variance: in logarithms the boundaries are straight lines
VARIANCES = (0.25, 4.0, 5)
RATIOS = (1 / 8, 8.0, 49)  # x the ratio of upper betas to that of level 1
LOCAL = 0.1  # nats, of samples that count as collapsed: the published cut-off
CUTOFF = 0.05  # nats, of units that count as alive by their KL


def theory_rows(spec: LinearSpec, moments: Moments, solution: Solution) -> Iterator[Row]:
    """Mode variances, and curves over beta."""
    for i, variance in enumerate(solution.mode_variances[:SPECTRUM_ROWS]):
        yield Row("mode_variance", "theory", 0, i + 1, math.nan, math.nan, -1, variance, math.nan)
    low, high = 0.5 * min(SWEEP), 1.15 * max(SWEEP)
    for factor in solution.critical_beta[0] / spec.betas[0] * np.geomspace(low, high, BETAS):
        scaled = spec.scale_betas(float(factor))
        at_beta = solve(scaled, moments)
        for quantity, values in _predictions(scaled, at_beta).items():
            for level, value in enumerate(values, start=1):
                yield Row(
                    quantity, "theory", level, 0, scaled.betas[0], math.nan, -1, value, math.nan
                )


def phase_boundaries(spec: LinearSpec, moments: Moments) -> Iterator[Boundary]:
    """Where every unit dies, over the decoder variance or, of a hierarchy, the upper betas.

    Nothing at ratios of betas at which there is no optimum.
    """
    known, (first, *upper) = cast(Any, spec), spec.betas
    low, high, count = RATIOS if upper else VARIANCES
    for factor in np.geomspace(low, high, count).tolist():
        if upper:
            changed = replace(known, betas=(first, *(factor * beta for beta in upper)))
            at = factor * upper[0] / first
        else:
            at = factor * float(spec.decoder_variance)
            changed = replace(known, decoder_variance=at)
        try:
            critical = solve(changed, moments).level_critical_betas
        except UnboundedObjectiveError:  # levels that run away
            continue
        for level, (units, values) in enumerate(zip(spec.latent_dims, critical, strict=True), 1):
            for unit, value in enumerate(values[:units].tolist(), start=1):
                if not math.isnan(value):
                    yield Boundary(level, unit, at, value)


def curve_points(
    observation: Observation,
    spec: LinearSpec,
    factors: Sequence[float],
    seeds: Sequence[int],
    architecture: str,
) -> Iterator[CurvePoint]:
    """How the members of a sweep trained, as far as their curves go."""
    if observation.curves is None:
        return
    for s, seed in enumerate(seeds):
        for point, factor in enumerate(factors):
            beta = spec.scale_betas(factor).betas[0]
            for step, *values in observation.curves[s, point].tolist():
                if not math.isnan(step):
                    yield CurvePoint(architecture, beta, seed, int(step), *values)


def _predictions(spec: LinearSpec, solution: Solution) -> dict[str, npt.NDArray[np.float64]]:
    """Predicted value of every quantity with one number per level."""
    return {
        "rate_nats": solution.rates,
        "information_nats": solution.information.sum(axis=1),
        "active_units": active_unit_counts(solution, ACTIVE).astype(float),
        "collapsed_units": collapsed_unit_counts(spec, solution, EPSILON, DELTA).astype(float),
        "collapsed_share": _collapsed_share(spec, solution),
    }


def _collapsed_share(spec: LinearSpec, solution: Solution) -> npt.NDArray[np.float64]:
    """Of Gaussian samples; NaN of hierarchies, whose KL has no known law."""
    if len(spec.latent_dims) > 1:
        return np.full(len(spec.latent_dims), math.nan)
    return np.array([rate_distribution(spec, solution).share_below(LOCAL)])


def estimate_records(
    estimate: ThresholdEstimate | int, spec: LinearSpec, architecture: str
) -> list[dict[str, object]]:
    """Every method's estimate, in beta of level 1."""
    if isinstance(estimate, int):
        return []
    where = {"architecture": architecture, "level": estimate.level}
    found = [e.scaled(spec.betas[0]) for e in estimate.estimates()]
    return [where | e.to_record() for e in found]


def threshold_rows(
    estimate: ThresholdEstimate | int,
    predicted: float,
    spec: LinearSpec,
    moments: Moments,
    architecture: str,
) -> Iterator[Row]:
    """Threshold, line and points of every seed, beside the same line through theory's points."""
    nan = math.nan
    if isinstance(estimate, int):
        yield Row("critical_beta", architecture, estimate, 1, nan, nan, -1, predicted, nan)
        return
    level, beta, one = estimate.level, spec.betas[0], spec.with_one_unit()
    points = [factor_at_information(one, moments, level, nats) for nats in SET_POINTS]
    every = np.ones(len(points), dtype=bool)
    line, slope = fit_threshold(np.asarray(SET_POINTS), np.asarray(points), every)
    end = beta * line
    yield Row("fitted_critical_beta", architecture, level, 1, nan, nan, -1, end, nan)
    for s, seed in enumerate(estimate.seeds):
        known = {
            "critical_beta": (predicted, beta * estimate.critical_factors[s]),
            "fit_slope": (slope, estimate.slopes[s]),
        }
        for quantity, (theory, seen) in known.items():
            yield Row(quantity, architecture, level, 1, nan, nan, seed, theory, float(seen))
        for quantity, factors in _evidence(estimate).items():
            if not math.isnan(factors[s]):
                seen = beta * float(factors[s])
                yield Row(quantity, architecture, level, 1, nan, nan, seed, nan, seen)
        yield from _control_rows(estimate, s, one, moments, architecture)
        yield from _branch_rows(estimate, s, beta, architecture)


def _evidence(estimate: ThresholdEstimate) -> dict[str, npt.NDArray[np.float64]]:
    """What stands beside the line, (seeds,), in factors on beta."""
    found = {
        "certified_beta": estimate.certified_factors,
        "certified_error": estimate.certified_errors,
        "local_beta": estimate.local_factors,
        "residual_beta": estimate.residual_factors,
        "doubled_steps_beta": estimate.doubled_factors,
    }
    if estimate.bracket is None:
        return found
    return found | {"bracket_low": estimate.bracket.lows, "bracket_high": estimate.bracket.highs}


def _control_rows(
    estimate: ThresholdEstimate, s: int, spec: LinearSpec, moments: Moments, architecture: str
) -> Iterator[Row]:
    """Factor and drift of every control run of seed number `s`."""
    level, seed = estimate.level, estimate.seeds[s]
    for i, nats in enumerate(estimate.information[s]):
        factor, held = float(estimate.factors[s, i]), bool(estimate.converged[s, i])
        at = (architecture, level, 1, spec.betas[0] * factor, float(nats), seed)
        lost = not math.isfinite(nats)  # diverged
        theory = math.nan if lost else factor_at_information(spec, moments, level, float(nats))
        yield Row("factor_at_information", *at, theory, factor if held else math.nan)
        yield Row("control_drift", *at, math.nan, float(estimate.drifts[s, i]))


def _branch_rows(
    estimate: ThresholdEstimate, s: int, beta: float, architecture: str
) -> Iterator[Row]:
    """Both branches of seed number `s`: information by checkpoint; free energy and its error."""
    if estimate.bracket is None:
        return
    branches = {"alive": estimate.bracket.alive, "collapsed": estimate.bracket.collapsed}
    for name, branch in branches.items():
        for i, factor in enumerate(branch.factors):
            nats = branch.information[:, s, i]
            seen = [(f"{name}_branch_nats", k, v) for k, v in enumerate(nats, start=1)]
            if math.isfinite(branch.free_energies[s, i]):
                free, error = branch.free_energies[s, i], branch.errors[s, i]
                seen += [(f"{name}_branch_free_energy", 0, free)]
                seen += [(f"{name}_branch_free_energy_error", 0, error)]
            for quantity, index, value in seen:
                yield Row(
                    quantity, architecture, estimate.level, index, float(beta * factor),
                    float(nats[-1]), estimate.seeds[s], math.nan, float(value),
                )  # fmt: skip


def _member_rows(
    spec: LinearSpec,
    solution: Solution,
    observation: Observation,
    member: tuple[int, int],
    architecture: str,
    seed: int,
) -> Iterator[Row]:
    lost = not math.isfinite(observation.distortion[member])  # diverged: its counts mean nothing

    def row(quantity: str, level: int, index: int, predicted: float, observed: float) -> Row:
        return Row(
            quantity, architecture, level, index, spec.betas[0], math.nan, seed,
            float(predicted), math.nan if lost else float(observed),
        )  # fmt: skip

    observed = {
        "rate_nats": observation.rates,
        "information_nats": observation.information,
        "active_units": observation.active_units,
        "collapsed_units": observation.collapsed_units,
        "collapsed_share": observation.collapsed_share,
    }
    for quantity, predicted in _predictions(spec, solution).items():
        for i, value in enumerate(predicted):
            yield row(quantity, i + 1, 0, value, observed[quantity][member][i])
    theory, seen = units_above(solution, CUTOFF), observation.units_above(CUTOFF)[member]
    for i, units in enumerate(observation.unit_rates):
        if isinstance(spec.encoder_variances[i], float):
            continue  # its axes are free: a unit is no mode
        yield row("units_above_cutoff", i + 1, 0, theory[i], seen[i])
        best = np.sort(solution.mode_rates[i])[::-1]
        for unit, value in enumerate(units[member]):
            yield row("unit_rate_nats", i + 1, unit + 1, best[unit], value)
    if observation.blown_up is not None:
        yield row("blown_up", 0, 0, 0.0, observation.blown_up[member])
    yield row("distortion_nats", 0, 0, solution.distortion, observation.distortion[member])


def sweep_rows(
    spec: LinearSpec,
    moments: Moments,
    observation: Observation,
    factors: Sequence[float],
    seeds: Sequence[int],
    architecture: str,
    predict: Predict | None = None,
) -> Iterator[Row]:
    """Every observation of a sweep beside its prediction, `predict`'s where there is a remedy."""
    for point, factor in enumerate(factors):
        scaled = spec.scale_betas(factor)
        at_beta = solve(scaled, moments)
        for s, seed in enumerate(seeds):
            rows = _member_rows(scaled, at_beta, observation, (s, point), architecture, seed)
            yield from with_predictions(rows, predict(scaled, at_beta)) if predict else rows
