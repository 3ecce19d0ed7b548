"""Decoder variance learned: probabilistic PCA at beta = 1, and where there is no minimum."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from sklearn.decomposition import PCA

from linvae.moments import Moments
from linvae.spec import CVAESpec, VAESpec
from linvae.theory import UnboundedObjectiveError, solve
from linvae.theory.modes import mode_decomposition
from linvae.theory.vae import learned_critical_betas

from . import acceptance
from .problems import Problem, problems, random_covariance

PROBLEMS = problems(vae_s=34, general_s=33, cvae_s=33)


def _diagonal(*variances: float) -> Moments:
    return Moments.from_covariance(np.diag(variances))


def _learned(latent_dim: int, beta: float = 1.0) -> VAESpec:
    return VAESpec(latent_dim, beta=beta, decoder_variance="learned")


DEGENERATE = [
    Problem(name, spec, moments, seed=3)
    for name, spec, moments in [
        ("repeated", _learned(1), _diagonal(2.0, 2.0, 2.0)),
        ("isotropic-all-units", _learned(3, beta=1.3), _diagonal(1.0, 1.0, 1.0)),
        ("rank-below-latents-large-beta", _learned(3, beta=2.5), _diagonal(2.0, 1.0, 0.0, 0.0)),
        ("all-explained-large-beta", _learned(2, beta=1.7), _diagonal(3.0, 2.0)),
        ("wider-than-data-large-beta", _learned(4, beta=1.4), _diagonal(3.0, 2.0, 1.0)),
        ("one-dimension-large-beta", _learned(1, beta=2.0), _diagonal(3.0)),
        ("general-all-units", _learned(4), problems(general_s=1)[0].moments),
    ]
]


@pytest.mark.parametrize("problem", PROBLEMS + DEGENERATE, ids=lambda q: q.id)
def test_global_minimum_by_brute_force(problem):
    acceptance.check_global_minimum(problem)


@pytest.mark.parametrize("problem", PROBLEMS + DEGENERATE, ids=lambda q: q.id)
def test_solution_is_consistent(problem):
    acceptance.check_consistency(problem)


@pytest.mark.parametrize("problem", PROBLEMS + DEGENERATE, ids=lambda q: q.id)
def test_variance_is_the_mean_squared_error_per_dimension(problem):
    spec, moments = problem.spec, problem.moments
    solution = solve(spec, moments)
    p = oracles.setting_of(spec, moments)
    error = oracles.mean_squared_error(p, oracles.from_names(solution.weights, spec, moments))
    assert solution.decoder_variance == pytest.approx(error / moments.target_dim, rel=1e-11)
    assert float(solution.weights["s"]) == solution.decoder_variance


def _objective_at(spec, moments: Moments, s: np.ndarray) -> np.ndarray:
    return np.array([solve(oracles.with_decoder_variance(spec, v), moments).objective for v in s])


@pytest.mark.parametrize("problem", PROBLEMS + DEGENERATE, ids=lambda q: q.id)
def test_objective_is_convex_in_log_s_and_lowest_at_the_solution(problem):
    solution = solve(problem.spec, problem.moments)
    s = solution.decoder_variance * np.exp(np.linspace(-6, 6, 121))  # the middle one is s itself
    values = _objective_at(problem.spec, problem.moments, s)
    # second differences of numbers of size up to 1e3 round to 1e-12
    assert np.diff(values, 2).min() >= -1e-11 * np.abs(values).max()
    assert values.argmin() == 60
    # at the solution itself both routes give the same number
    assert values[60] == pytest.approx(solution.objective, rel=1e-12)


@pytest.mark.parametrize("s", [0.02, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("problem", problems(vae_s=2, cvae_s=1), ids=lambda q: q.id)
def test_profile_over_s_by_brute_force(problem, s):
    """The curve that the test above calls convex is the true minimum over the weights."""
    spec = oracles.with_decoder_variance(problem.spec, s)
    found = oracles.brute_force(spec, problem.moments, n_starts=4, seed=problem.seed)
    oracles.assert_is_minimum(solve(spec, problem.moments).objective, found)


# --- probabilistic PCA ------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dim", [1, 2, 4])
@pytest.mark.parametrize("shape", [(300, 6), (40, 5)], ids=str)
def test_beta_one_is_probabilistic_pca(latent_dim, shape):
    """scikit-learn divides by n - 1: its data are rescaled so that both see the same covariance."""
    n, d = shape
    rng = np.random.default_rng(n + latent_dim)
    data = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3.0
    solution = solve(_learned(latent_dim), Moments.from_data(data))
    rescaled = (data - data.mean(axis=0)) * np.sqrt((n - 1) / n)
    pca = PCA(latent_dim, svd_solver="full").fit(rescaled)
    assert solution.decoder_variance == pytest.approx(pca.noise_variance_, rel=1e-8)
    assert solution.active_units[0] == latent_dim
    # the likelihood of the original data under that model, with the covariance of scikit-learn
    covariance = pca.get_covariance()
    centred = data - data.mean(axis=0)
    quadratic = np.mean(np.sum(centred @ np.linalg.inv(covariance) * centred, axis=1))
    log_det = np.linalg.slogdet(covariance)[1]
    assert solution.objective == pytest.approx(
        (d * np.log(2 * np.pi) + log_det + quadratic) / 2, abs=1e-8
    )


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_score_of_scikit_learn_up_to_its_divisor(latent_dim):
    """With noise and components from n - 1, its score is at the covariance n/(n-1) times ours."""
    rng = np.random.default_rng(latent_dim)
    n, d = 200, 5
    data = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    solution = solve(_learned(latent_dim), Moments.from_data(data))
    pca = PCA(latent_dim, svd_solver="full").fit(data)
    assert pca.noise_variance_ == pytest.approx(solution.decoder_variance * n / (n - 1), rel=1e-8)
    # its trace term is d (n-1)/n instead of d, its log determinant is larger by d log(n/(n-1))
    correction = d / 2 * (np.log(n / (n - 1)) + (n - 1) / n - 1)
    assert -pca.score(data) == pytest.approx(solution.objective + correction, abs=1e-8)


# --- no minimum, or many ----------------------------------------------------------------------

UNBOUNDED = {
    "rank-equals-latents": (_learned(2), _diagonal(2.0, 1.0, 0.0)),
    "latents-above-rank": (_learned(3), _diagonal(2.0, 1.0, 0.0, 0.0)),
    "small-beta-full-rank": (_learned(2, beta=0.9), _diagonal(2.0, 1.0)),
    "rank-one": (_learned(1), _diagonal(2.0, 0.0)),
    "large-beta-low-rank": (_learned(1, beta=2.9), _diagonal(2.0, 0.0, 0.0)),
    "general-target-determined": (
        _learned(2, beta=0.5),
        Moments.from_covariance(np.kron(np.ones((2, 2)), np.diag([2.0, 1.0])), condition_dim=2),
    ),
}


@pytest.mark.parametrize("case", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_unbounded_is_reported_and_true(case):
    spec, moments = case
    with pytest.raises(UnboundedObjectiveError, match=r"decoder_variance='learned' has no optimum"):
        solve(spec, moments)
    solution = solve(spec, moments, allow_unbounded=True)
    assert solution.status == "unbounded"
    assert solution.objective == -np.inf
    assert solution.weights == {}
    assert np.isnan(solution.noise_fractions).all()
    values = _objective_at(spec, moments, 10.0 ** -np.arange(2, 13))
    # the slope in log s tends to (d - beta k_a)/2 > 0: equal steps downwards without end
    steps = np.diff(values)
    rank = np.linalg.matrix_rank(moments.target_covariance)
    slope = (moments.target_dim - spec.beta * rank) / 2
    np.testing.assert_allclose(steps[-3:], -slope * np.log(10), rtol=1e-6)


BOUNDED = {
    # d <= beta k_a or d < beta k, yet the minimum exists: something is left over, or the
    # objective rises as s goes to 0
    "d-below-beta-k": (_learned(2, beta=2.0), _diagonal(3.0, 2.0, 0.5)),
    "d-equals-beta-k": (_learned(2, beta=1.5), _diagonal(3.0, 2.0, 0.5)),
    "full-rank-all-units": (_learned(2, beta=1.5), _diagonal(3.0, 2.0)),
    "one-dimension": (_learned(1, beta=1.5), _diagonal(3.0)),
}


@pytest.mark.parametrize("case", BOUNDED.values(), ids=BOUNDED.keys())
def test_large_beta_alone_does_not_make_it_unbounded(case):
    spec, moments = case
    solution = solve(spec, moments)
    assert solution.status == "unique"
    values = _objective_at(spec, moments, np.exp(np.linspace(-25, 8, 200)))
    assert values.min() >= solution.objective - 1e-12
    assert values[0] > solution.objective + 1.0  # rises without bound towards s = 0


CONTINUUM = {
    "full-rank-beta-one": (_learned(2), _diagonal(3.0, 2.0), 2.0),
    "more-units-than-dimensions": (_learned(4), _diagonal(3.0, 2.0), 2.0),
    "half-rank-beta-two": (_learned(2, beta=2.0), _diagonal(3.0, 2.0, 0.0, 0.0), 1.0),
}


@pytest.mark.parametrize("case", CONTINUUM.values(), ids=CONTINUUM.keys())
def test_flat_below_the_smallest_mode_is_called_a_continuum(case):
    spec, moments, largest = case
    solution = solve(spec, moments)
    assert solution.status == "continuum"
    assert solution.decoder_variance == pytest.approx(largest, rel=1e-15)
    below = _objective_at(spec, moments, largest * np.array([1.0, 0.5, 1e-2, 1e-4]))
    np.testing.assert_allclose(below, solution.objective, rtol=1e-12)
    above = _objective_at(spec, moments, largest * np.array([1.1, 2.0]))
    assert np.all(above > solution.objective + 1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_target_determined_by_the_condition_of_the_general_model(seed):
    """Rounding of Cov(y) - Cov(y,x) Cov(x)^-1 Cov(x,y) must not pass for unexplained variance."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(500, 3))
    moments = Moments.from_data(x @ rng.normal(size=(3, 3)), x)
    way_out = r"latent_dim=3 explains all .* 0; use latent_dim < 3 or a fixed decoder_variance$"
    with pytest.raises(UnboundedObjectiveError, match=way_out):
        solve(VAESpec(3, beta=0.5, decoder_variance="learned"), moments)


def test_critical_values_are_undefined_when_s_is_learned():
    C = random_covariance(np.random.default_rng(2), 4)
    moments = Moments.from_covariance(C, condition_dim=1)
    solution = solve(CVAESpec(2, decoder_variance="learned"), moments)
    assert np.isnan(solution.critical_beta).all()
    assert np.isnan(solution.critical_decoder_variance).all()


@pytest.mark.parametrize("unit", [1e-6, 1.0])
def test_critical_betas_of_modes_without_variance_are_zero(unit):
    """d theta_1^2/theta_1^2 where nothing is beyond; then there is nothing to divide."""
    spec = VAESpec(3, decoder_variance="learned")
    modes = mode_decomposition(spec, Moments.from_covariance(np.diag([2.0 * unit, 0.0, 0.0])))
    assert learned_critical_betas(spec, modes).tolist() == [3.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("rank", "way_out"), [(1, "use a fixed"), (2, "use latent_dim < 2 or a fixed")]
)
def test_fewer_units_are_a_way_out_where_one_is_left(rank, way_out):
    moments = _diagonal(*[2.0, 1.0][:rank], 0.0, 0.0)
    with pytest.raises(UnboundedObjectiveError, match=f"runs to 0; {way_out} decoder_variance"):
        solve(_learned(2), moments)


def test_what_a_condition_leaves_unexplained_lowers_every_threshold():
    """Two coordinates of four are told by x: i - 1 units a thousandth above, i below."""
    C = np.eye(6) * [1.0, 1.0, 3.0, 2.0, 0.7, 0.4]
    C[0, 2] = C[2, 0] = 1.6
    C[1, 3] = C[3, 1] = 1.1
    moments = Moments.from_covariance(C, condition_dim=2)
    found = learned_critical_betas(_learned(2), mode_decomposition(_learned(2), moments))
    for i, beta in enumerate(found):
        counts = [
            int(solve(_learned(2, beta * f), moments).active_units[0]) for f in (0.999, 1.001)
        ]
        assert counts == [i + 1, i]
