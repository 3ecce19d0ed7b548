"""Every kind of model at its optimum: brute force, consistency, thresholds.

372 random problems and the degenerate ones of each kind; what is special to a model is tested in
the file of that model.
"""

from __future__ import annotations

import numpy as np
import pytest

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve

from . import acceptance
from .problems import Problem, problems, random_covariance

RANDOM = problems(
    vae_learned=12, vae_fixed=12, vae_diagonal=12,
    general_learned=12, general_fixed=12, general_diagonal=12,
    cvae_learned=14, cvae_fixed=10, cvae_diagonal=10,
    target_learned=70, target_fixed=15, target_diagonal=15,
    hvae1=8, hvae2=24, hvae3=20, hvae4=10, hvae2_all_fixed=12, hvae3_all_learned=8, hvae3_narrow=12,
    chvae1=8, chvae2=14, chvae3=12,
)  # fmt: skip
THRESHOLDS = acceptance.thresholds(RANDOM, each=2)
FIRST_LEVEL = [at for at in THRESHOLDS if at.level == 0]
UPPER = [at for at in acceptance.thresholds(problems(hvae2_all_fixed=8), each=1) if at.level == 1]
BY_BRUTE_FORCE = UPPER[:3] + acceptance.thresholds(
    problems(
        vae_learned=2, vae_diagonal=2, general_fixed=2, cvae_learned=2, cvae_diagonal=1, hvae2=3
    ),
    each=1,
)  # fmt: skip


def _diagonal(*variances: float) -> Moments:
    return Moments.from_covariance(np.diag(variances))


def _rank_deficient() -> Moments:
    factor = np.random.default_rng(3).normal(size=(4, 2))
    return Moments.from_covariance(factor @ factor.T)


def _vae(name: str, spec: VAESpec, moments: Moments) -> Problem:
    return Problem(name, spec, moments, seed=5)


DEGENERATE_VAES = [
    _vae("repeated", VAESpec(2, decoder_variance=0.5), _diagonal(2.0, 2.0, 2.0)),
    _vae("repeated-fixed", VAESpec(2, encoder_variance=0.3), _diagonal(2.0, 2.0, 0.5)),
    _vae("exact-zeros", VAESpec(3, decoder_variance=0.1), _diagonal(1.0, 0.0, 0.0)),
    _vae("exact-zeros-fixed", VAESpec(3, encoder_variance=0.2), _diagonal(1.0, 0.0, 0.0)),
    _vae("rank-deficient", VAESpec(3, decoder_variance=0.1), _rank_deficient()),
    _vae("at-threshold", VAESpec(2, beta=2.0, decoder_variance=0.5), _diagonal(1.0, 0.25)),
    _vae(
        "at-threshold-fixed",
        VAESpec(2, decoder_variance=0.5, encoder_variance=2.0),
        _diagonal(1.0, 0.25),
    ),
    _vae("wider-than-data", VAESpec(5, decoder_variance=0.3), _diagonal(2.0, 1.0)),
    _vae(
        "wider-than-data-diagonal",
        VAESpec(4, encoder_variance=(2.0, 0.1, 0.4, 0.2), decoder_variance=0.3),
        _diagonal(2.0, 1.0),
    ),
    _vae("one-dimension", VAESpec(1, decoder_variance=0.3), _diagonal(2.0)),
]


def _rank_deficient_condition() -> Moments:
    """Three condition coordinates, the third the sum of the first two."""
    C = random_covariance(np.random.default_rng(2), 4)
    joint = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    return Moments.from_covariance(joint @ C @ joint.T, condition_dim=3)


def _constant_condition() -> Moments:
    C = np.zeros((4, 4))
    C[1:, 1:] = random_covariance(np.random.default_rng(4), 3)
    return Moments.from_covariance(C, condition_dim=1)


def _one_target_coordinate_known() -> Moments:
    """The condition repeats the first coordinate of the target."""
    C = random_covariance(np.random.default_rng(6), 3)
    joint = np.vstack([np.eye(3)[0], np.eye(3)])
    return Moments.from_covariance(joint @ C @ joint.T, condition_dim=1)


DEGENERATE_CONDITIONALS = [
    Problem(name, CVAESpec(2, decoder_variance=0.2, beta=1.2), moments, seed=9)
    for name, moments in {
        "rank-deficient-condition": _rank_deficient_condition(),
        "constant-condition": _constant_condition(),
        "one-target-coordinate-known": _one_target_coordinate_known(),
    }.items()
]


TWO_DIMENSIONS = Moments.from_covariance([[1.6, 0.4], [0.4, 0.7]])


def _hvae(name: str, moments: Moments, dims: list[int], **fields) -> Problem:
    return Problem(name, HVAESpec(dims, **fields), moments, seed=1)


DEGENERATE_HIERARCHIES = [
    _hvae("repeated", _diagonal(2.0, 2.0), [2, 2], encoder_variances=[0.5, None]),
    _hvae(
        "exact-zeros", _diagonal(2.0, 0.0, 0.0), [3, 2], betas=[1.0, 0.6],
        encoder_variances=[0.8, None], decoder_variance=0.2,
    ),
    _hvae(
        "rank-deficient-conditional",
        Moments.from_covariance(np.ones((3, 3)) + np.diag([0.0, 0.0, 1.0]), condition_dim=1),
        [2, 1], encoder_variances=[0.3, None], decoder_variance=0.2,
    ),
    _hvae(
        "at-threshold", _diagonal(1.0, 0.25), [2, 2], betas=[1.0, 2.0], decoder_variance=0.5,
        encoder_variances=[2.0, None],
    ),
    _hvae("wider-than-data", _diagonal(2.0), [3, 2], encoder_variances=[0.3, 0.2]),
    _hvae("widening", TWO_DIMENSIONS, [1, 3], encoder_variances=[0.3, 0.4]),
    _hvae("noise-feeds-upper-level", _diagonal(1e-3), [1, 1], encoder_variances=[2.0, None]),
    _hvae(
        "bottleneck-with-noise-above", TWO_DIMENSIONS, [2, 1, 2], encoder_variances=[0.2, 1.5, 0.1],
        decoder_variance=0.1,
    ),
    _hvae(
        "two-bottlenecks", TWO_DIMENSIONS, [2, 1, 2, 1], encoder_variances=[0.4, 1.5, 1.2, 0.3],
        decoder_variance=0.1,
    ),
]  # fmt: skip


ALL = RANDOM + DEGENERATE_VAES + DEGENERATE_CONDITIONALS + DEGENERATE_HIERARCHIES


@pytest.mark.parametrize("problem", ALL, ids=lambda q: q.id)
def test_global_minimum_by_brute_force(problem):
    acceptance.check_global_minimum(problem)


@pytest.mark.parametrize("problem", ALL, ids=lambda q: q.id)
def test_solution_is_consistent(problem):
    acceptance.check_consistency(problem)


@pytest.mark.parametrize("at", THRESHOLDS, ids=lambda t: t.id)
def test_critical_beta_of_every_level(at):
    acceptance.check_critical_beta(at)


@pytest.mark.parametrize("at", THRESHOLDS, ids=lambda t: t.id)
def test_exactly_at_critical_beta_the_mode_is_collapsed(at):
    acceptance.check_collapsed_at_critical_beta(at)


@pytest.mark.parametrize("at", FIRST_LEVEL, ids=lambda t: t.id)
def test_critical_decoder_variance(at):
    acceptance.check_critical_decoder_variance(at)


@pytest.mark.parametrize("at", BY_BRUTE_FORCE, ids=lambda t: t.id)
def test_critical_beta_by_brute_force(at):
    acceptance.check_critical_beta_by_brute_force(at)


@pytest.mark.parametrize("name", ["at-threshold", "at-threshold-fixed"])
def test_exactly_at_the_threshold_is_collapsed(name):
    problem = next(q for q in DEGENERATE_VAES if q.id == name)
    solution = solve(problem.spec, problem.moments)
    assert solution.critical_beta[0] == problem.spec.beta  # exact: powers of two
    assert solution.collapsed.all()
    assert solution.noise_fractions[0, 0] == 1.0


# --- what follows from the closed form --------------------------------------------------------
