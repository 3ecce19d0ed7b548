"""What every solution must satisfy, whatever the model: used by one test file per model."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import oracles
import pytest

from linvae.theory import Solution, objective, solve

from .problems import Problem

ALIVE, DEAD = 0.98, 1.02


@cache
def solved(problem: Problem) -> Solution:
    """The solution that all checks of a problem are about."""
    return solve(problem.spec, problem.moments)


def check_global_minimum(problem: Problem) -> None:
    """No weights do better, and some random start arrives."""
    found = oracles.brute_force(problem.spec, problem.moments, n_starts=6, seed=problem.seed)
    oracles.assert_is_minimum(solved(problem).objective, found)


def check_consistency(problem: Problem) -> None:
    """The weights attain the objective, are stationary, and the record agrees with itself."""
    spec, moments = problem.spec, problem.moments
    solution = solved(problem)
    oracles.assert_same_terms(solution, objective(spec, moments, solution.weights))
    p, w = oracles.setting_of(spec, moments), oracles.from_names(solution.weights, spec, moments)
    oracles.assert_stationary(p, w)
    # sums of the same few numbers: rounding only
    np.testing.assert_allclose(solution.mode_rates.sum(axis=1), solution.rates, atol=1e-13)
    weighted = solution.distortion + np.dot(spec.betas, solution.rates)
    assert solution.objective == pytest.approx(weighted, rel=1e-14)
    np.testing.assert_array_equal(solution.active_units, (~solution.collapsed).sum(axis=1))
    np.testing.assert_array_equal(solution.collapsed, solution.noise_fractions == 1)
    assert np.all(np.diff(solution.mode_variances) <= 0)
    units = [np.sum(np.isfinite(row)) for row in solution.encoder_variances]
    assert tuple(units) == spec.latent_dims
    # what the weights carry, mode by mode: eigenvalues of M^-1 (M - Sigma), padded with 0
    found = oracles.signal_fractions(p, w)
    for row, fractions in zip(solution.noise_fractions, found, strict=True):
        carried = np.sort(1 - row)[::-1][: len(fractions)]
        # eigenvalues of a small non-symmetric matrix: 1e-8 covers a repeated one
        np.testing.assert_allclose(fractions, carried, atol=1e-8)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A finite critical value of one mode on one level, found when the tests are collected."""

    problem: Problem
    level: int
    mode: int

    @property
    def id(self) -> str:
        return f"{self.problem.id}-level{self.level + 1}-mode{self.mode + 1}"


def thresholds(problems: list[Problem], each: int = 3) -> list[Threshold]:
    """At most `each` positive, finite critical betas per level of every problem."""
    found = []
    for problem in problems:
        critical = solved(problem).level_critical_betas
        for level, row in enumerate(critical):
            modes = np.flatnonzero(np.isfinite(row) & (row > 0))
            found += [Threshold(problem, level, int(mode)) for mode in modes[:each]]
    return found


def scaled_betas(at: Threshold, factor: float):
    """The specification at `factor` times the critical betas of the mode."""
    critical = solved(at.problem).level_critical_betas[at.level, at.mode]
    return at.problem.spec.scale_betas(factor * critical / at.problem.spec.betas[0])


def collapsed_at(spec, at: Threshold) -> bool:
    return bool(solve(spec, at.problem.moments).collapsed[at.level, at.mode])


def check_critical_beta(at: Threshold) -> None:
    """Alive just below, collapsed just above, by solving again."""
    assert not collapsed_at(scaled_betas(at, ALIVE), at)
    assert collapsed_at(scaled_betas(at, DEAD), at)


def check_collapsed_at_critical_beta(at: Threshold) -> None:
    """The threshold itself belongs to the collapsed side, whatever the rounding of the numbers."""
    assert collapsed_at(scaled_betas(at, 1.0), at)
    assert not collapsed_at(scaled_betas(at, 1 - 1e-9), at)


def check_critical_decoder_variance(at: Threshold) -> None:
    """The same with the decoder variance instead (level 1)."""
    spec = at.problem.spec
    critical = solved(at.problem).critical_decoder_variance[at.mode]
    assert not collapsed_at(oracles.with_decoder_variance(spec, ALIVE * critical), at)
    assert collapsed_at(oracles.with_decoder_variance(spec, DEAD * critical), at)


def check_critical_beta_by_brute_force(at: Threshold) -> None:
    """The minimiser's own weights carry one mode more below the threshold than above it.

    Two per cent below the threshold the mode has 1 - r of at least 0.02/(levels + 1); two per cent
    above, L-BFGS leaves less than 1e-4. The count is of values above 1e-3.
    """
    alive, dead = (_carried(scaled_betas(at, factor), at) for factor in (ALIVE, DEAD))
    below = solve(scaled_betas(at, ALIVE), at.problem.moments)
    above = solve(scaled_betas(at, DEAD), at.problem.moments)
    assert alive == below.active_units[at.level]
    assert dead == above.active_units[at.level]
    assert alive > dead


def _carried(spec, at: Threshold) -> int:
    found = oracles.brute_force(spec, at.problem.moments, n_starts=3, seed=at.problem.seed)
    p = oracles.setting_of(spec, at.problem.moments)
    return int(np.sum(oracles.signal_fractions(p, found.weights)[at.level] > 1e-3))
