"""Hierarchies: the optimum, thresholds of every level, and what is unbounded or a continuum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest
from scipy.optimize import isotonic_regression as scipy_isotonic_regression
from scipy.optimize import minimize

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import UnboundedObjectiveError, objective, solve
from linvae.theory.hvae import isotonic_regression
from linvae.theory.stability import stability

from . import acceptance
from .problems import Problem, draw, problems, random_covariance

PROBLEMS = problems(
    hvae2=24, hvae3=20, hvae2_all_fixed=12, hvae3_all_learned=8, hvae3_narrow=12,
    chvae2=14, chvae3=12,
)  # fmt: skip
DIMENSION_TWO = Moments.from_covariance([[1.6, 0.4], [0.4, 0.7]])


def _diagonal(*variances: float) -> Moments:
    return Moments.from_covariance(np.diag(variances))


def _never_or_always(kind: str) -> list[acceptance.Threshold]:
    value = {"always": np.inf, "never": 0.0}[kind]
    found = []
    for problem in PROBLEMS:
        critical = solve(problem.spec, problem.moments).level_critical_betas
        variances = solve(problem.spec, problem.moments).mode_variances
        for level, row in enumerate(critical):
            at = np.flatnonzero((row == value) & (variances[: len(row)] > 0))
            found += [acceptance.Threshold(problem, level, int(mode)) for mode in at[:1]]
    assert len(found) >= 5, kind  # else the tests below would check nothing
    return found


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("at", _never_or_always("always"), ids=lambda t: t.id)
def test_infinite_threshold_means_active_at_every_beta(at, factor):
    assert not acceptance.collapsed_at(at.problem.spec.scale_betas(factor), at)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("at", _never_or_always("never"), ids=lambda t: t.id)
def test_zero_threshold_means_collapsed_at_every_beta(at, factor):
    assert acceptance.collapsed_at(at.problem.spec.scale_betas(factor), at)


def test_level_active_on_noise_alone_is_so_for_modes_of_variance_zero_too():
    spec = HVAESpec([3, 3], encoder_variances=[2.0, None])
    critical = solve(spec, _diagonal(3.0, 0.5, 0.0)).level_critical_betas
    np.testing.assert_array_equal(critical[1], [np.inf] * 3)
    np.testing.assert_allclose(critical[0], [3.0, 0.5, 0.0], rtol=1e-14)


# --- the scalar program and its isotonic solution ---------------------------------------------


def _scalar_minimum(spec: HVAESpec, theta2: float) -> tuple[float, np.ndarray]:
    """Minimise the convex function of (rho, mu) of one mode; twice the objective, and r."""
    levels = len(spec.latent_dims)
    beta, eta2 = np.array(spec.betas), np.array(spec.prior_variances)
    fixed = spec.encoder_variances
    free = [i for i in range(levels) if fixed[i] is None]

    def fun(vector):
        rho, mu = vector[:levels], np.zeros(levels)
        mu[free] = vector[levels:]
        for i in range(levels):
            mu[i] = mu[i] if fixed[i] is None else np.log(fixed[i]) + rho[i]
        above = np.append(rho[1:], 0.0)
        signal = theta2 / spec.decoder_variance * np.exp(-rho[0])
        prior = beta / eta2 * np.exp(mu - above)
        value = signal + np.sum(prior - beta * (mu - rho) + beta * np.log(eta2) - beta)
        d_mu, d_rho = prior - beta, beta.copy()
        d_rho[0] -= signal
        d_rho[1:] -= prior[:-1]
        for i in range(levels):
            d_rho[i] += 0.0 if fixed[i] is None else d_mu[i]
        return value, np.concatenate([d_rho, d_mu[free]])

    start = np.concatenate([np.full(levels, 0.5), np.zeros(len(free))])
    bounds = [(0, 60)] * levels + [(-60, 60)] * len(free)
    options = {"ftol": 1e-16, "gtol": 1e-11, "maxiter": 5000, "maxfun": 20_000}
    result = minimize(fun, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return float(result.fun), np.exp(-result.x[:levels])


def _chain(number: int, levels: int) -> tuple[HVAESpec, float]:
    """A chain of one mode with every mix of learned and fixed variances."""
    rng = np.random.default_rng([levels, number])
    learned = rng.random(levels) < 0.35
    betas = np.exp(rng.uniform(-0.8, 0.8, size=levels))
    betas[learned] = np.sort(betas[learned])
    spec = HVAESpec(
        [1] * levels,
        betas=betas.tolist(),
        decoder_variance=float(np.exp(rng.uniform(-2, 0))),
        prior_variances=np.exp(rng.uniform(-1, 1, size=levels)).tolist(),
        encoder_variances=[None if v else float(np.exp(rng.uniform(-1.5, 0.7))) for v in learned],
    )
    return spec, float(np.exp(rng.uniform(-1.5, 3)))


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("number", range(12))
def test_convex_program_of_one_mode(levels, number):
    spec, theta2 = _chain(number, levels)
    twice, r = _scalar_minimum(spec, theta2)
    solution = solve(spec, _diagonal(theta2))
    constant = np.log(2 * np.pi * spec.decoder_variance)
    # the minimiser stops within 1e-10 of the optimum of a convex function; r there is its root
    assert 2 * solution.objective == pytest.approx(twice + constant, abs=1e-8)
    assert 2 * solution.objective <= twice + constant + 1e-10
    np.testing.assert_allclose(solution.noise_fractions[:, 0], r, atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_isotonic_regression_equals_scipy(length, ties):
    rng = np.random.default_rng(length)
    values = rng.normal(size=(length, 40)) * 3
    values = np.round(values) if ties else values
    expected = np.stack([scipy_isotonic_regression(column).x for column in values.T], axis=1)
    # means of at most 9 numbers of size 10
    np.testing.assert_allclose(isotonic_regression(values), expected, atol=1e-13)


def test_isotonic_regression_keeps_an_infinitely_low_start():
    values = np.array([[-np.inf], [2.0], [1.0], [3.0]])
    np.testing.assert_array_equal(isotonic_regression(values)[:, 0], [-np.inf, 1.5, 1.5, 3.0])


# --- relations between models -----------------------------------------------------------------


def _one_level(problem: Problem) -> HVAESpec:
    spec = problem.spec
    return HVAESpec(
        [spec.latent_dim],
        betas=spec.beta,
        decoder_variance=spec.decoder_variance,
        prior_variances=spec.prior_variance,
        encoder_variances=[spec.encoder_variance],
    )


@pytest.mark.parametrize(
    "problem",
    problems(vae_learned=4, vae_fixed=4, cvae_learned=4, cvae_fixed=4),
    ids=lambda q: q.id,
)
def test_one_level_is_the_vae_and_the_conditional_vae(problem):
    assert isinstance(problem.spec, VAESpec)
    assert isinstance(problem.spec, CVAESpec) == (problem.moments.condition_dim > 0)
    expected, found = (solve(s, problem.moments) for s in (problem.spec, _one_level(problem)))
    oracles.assert_same_terms(found, expected)
    # rho and r are one logarithm apart
    np.testing.assert_allclose(found.noise_fractions, expected.noise_fractions, rtol=1e-12)
    np.testing.assert_allclose(found.critical_beta, expected.critical_beta, rtol=1e-12)
    np.testing.assert_allclose(
        found.critical_decoder_variance, expected.critical_decoder_variance, rtol=1e-12
    )


@pytest.mark.parametrize("dims", [[2, 2], [3, 1], [2, 3, 2]], ids=str)
def test_equal_learned_betas_add_nothing(dims):
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(5), 3))
    one = solve(VAESpec(dims[0], beta=0.7, decoder_variance=0.2), moments)
    many = solve(HVAESpec(dims, betas=0.7, decoder_variance=0.2), moments)
    assert many.status == "continuum"
    assert many.objective == pytest.approx(one.objective, abs=1e-12)
    assert many.collapsed[1:].all()


@pytest.mark.parametrize("upper", [0.71, 1.5, 40.0])
def test_learned_betas_that_increase_collapse_every_upper_level(upper):
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(5), 3))
    solution = solve(HVAESpec([3, 2], betas=[0.7, upper], decoder_variance=0.02), moments)
    assert solution.status == "unique"
    assert solution.active_units.tolist() == [3, 0]
    assert np.all(solution.level_critical_betas[1, :2] == 0)


def test_useless_condition_is_the_plain_hierarchy():
    C = random_covariance(np.random.default_rng(6), 3)
    joint = np.eye(4)
    joint[1:, 1:] = C
    spec = HVAESpec([3, 2], encoder_variances=[0.4, None], decoder_variance=0.2)
    conditional = solve(spec, Moments.from_covariance(joint, condition_dim=1))
    plain = solve(spec, Moments.from_covariance(C))
    oracles.assert_same_terms(conditional, plain)
    assert not conditional.weights["A"].any()
    assert not conditional.weights["B"].any()


@pytest.mark.parametrize("problem", problems(hvae2=3, hvae3=3), ids=lambda q: q.id)
def test_rotating_the_data_changes_nothing(problem):
    rng, moments = np.random.default_rng(problem.seed), problem.moments
    rotation = np.linalg.qr(rng.normal(size=(moments.target_dim,) * 2))[0]
    rotated = Moments.from_covariance(rotation @ moments.covariance @ rotation.T)
    oracles.assert_same_terms(solve(problem.spec, rotated), solve(problem.spec, moments))


@pytest.mark.parametrize("factor", [1e-4, 30.0])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("problem", problems(hvae2=3), ids=lambda q: q.id)
def test_unit_of_a_latent_level_is_arbitrary(problem, level, factor):
    """Prior and encoder variance of a level scaled together: the same model in other units."""
    spec = problem.spec
    priors, fixed = list(spec.prior_variances), list(spec.encoder_variances)
    priors[level] *= factor
    fixed[level] = None if fixed[level] is None else fixed[level] * factor
    other = replace(spec, prior_variances=tuple(priors), encoder_variances=tuple(fixed))
    before, after = solve(spec, problem.moments), solve(other, problem.moments)
    oracles.assert_same_terms(after, before)
    np.testing.assert_allclose(after.noise_fractions, before.noise_fractions, atol=1e-11)


# --- no minimum, or many ----------------------------------------------------------------------

UNBOUNDED = {
    "two-levels": (HVAESpec([2, 2], betas=[1.0, 0.5]), 1, 2),
    "hair": (HVAESpec([2, 2], betas=[1.0, 1.0 - 1e-9]), 1, 2),
    "above-a-fixed-level": (
        HVAESpec([1, 2, 2], betas=[2.0, 1.0, 0.8], encoder_variances=[0.3, None, None]), 2, 3,
    ),
    "across-a-fixed-level": (
        HVAESpec([2, 2, 1], betas=[1.0, 3.0, 0.5], encoder_variances=[None, 0.4, None]), 1, 3,
    ),
    "above-a-narrow-level": (HVAESpec([1, 3, 3], betas=[1.0, 2.0, 1.5]), 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("case", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_decreasing_learned_betas_are_refused_by_name(case):
    spec, lower, upper = case
    message = rf"no minimum: betas\[{lower - 1}\]=.* > betas\[{upper - 1}\]=.*level {lower} grows"
    with pytest.raises(UnboundedObjectiveError, match=message):
        solve(spec, DIMENSION_TWO)
    with pytest.raises(UnboundedObjectiveError, match=message):
        stability(spec, DIMENSION_TWO)
    solution = solve(spec, DIMENSION_TWO, allow_unbounded=True)
    assert solution.status == "unbounded"
    assert solution.objective == -np.inf
    assert solution.weights == {}
    assert solution.noise_fractions.shape == (len(spec.latent_dims), max(2, *spec.latent_dims))
    assert np.isnan(solution.noise_fractions).all()
    assert np.isnan(solution.rates).all()


def test_without_a_minimum_one_mode_has_no_numbers_either():
    spec, one = HVAESpec([1, 1], betas=[2.0, 1.0]), Moments.from_covariance([[1.0]])
    solution = solve(spec, one, allow_unbounded=True)
    assert solution.rates.shape == (2,)
    assert solution.level_critical_betas.shape == solution.mode_rates.shape == (2, 1)
    for field in ("rates", "mode_rates", "critical_beta", "encoder_variances", "distortion"):
        assert np.isnan(getattr(solution, field)).all()


def _ray(spec: HVAESpec, lower: int, upper: int, rho: float) -> dict[str, np.ndarray]:
    """Levels lower+1..upper carry rho nats*2 of one unit, everything else stays collapsed.

    m = eta^2 exp(rho) on the levels in between: second moments grow upwards from level `lower`.
    """
    dims, eta2 = spec.latent_dims, spec.prior_variances
    fixed = spec.encoder_variances
    named: dict[str, np.ndarray] = {}
    widths = (2, *dims)
    for level in range(1, len(dims) + 1):
        k, below = dims[level - 1], widths[level - 1]
        named[f"W{level}"], named[f"U{level}"] = np.zeros((k, below)), np.zeros((below, k))
        variance = eta2[level - 1] if fixed[level - 1] is None else fixed[level - 1]
        named[f"Sigma{level}"] = variance * np.eye(k)
    unit = min(dims[lower - 1 : upper]) - 1  # a unit that all levels in between have
    m_below = eta2[lower - 1] * np.exp(rho)
    named[f"Sigma{lower}"][unit, unit] = m_below
    for level in range(lower + 1, upper + 1):
        last = level == upper
        own = fixed[level - 1]
        noise = own if own is not None else eta2[level - 1] * np.exp(0.0 if last else rho)
        noise = noise * np.exp(-rho) if own is None else noise
        m = noise * np.exp(rho)
        w = np.sqrt((m - noise) / m_below)
        named[f"W{level}"][unit, unit] = w
        named[f"U{level}"][unit, unit] = w * m_below / m
        named[f"Sigma{level}"][unit, unit] = noise
        m_below = m
    return named


@pytest.mark.parametrize(
    "name", ["two-levels", "above-a-fixed-level", "across-a-fixed-level", "above-a-narrow-level"]
)
def test_objective_really_falls_without_bound(name):
    """Along the ray: slope (beta_lower - beta_upper)/2 per unit of rho, in the limit."""
    spec, lower, upper = UNBOUNDED[name]
    values = [
        objective(spec, DIMENSION_TWO, _ray(spec, lower, upper, rho)).objective
        for rho in (10.0, 20.0, 30.0)
    ]
    slope = (spec.betas[lower - 1] - spec.betas[upper - 1]) / 2
    # the terms exp(-rho) that are left at 10 and above, and cancellation of exp(30) * 1e-16
    np.testing.assert_allclose(np.diff(values), -10 * slope, atol=0.02)
    assert slope > 0


@pytest.mark.parametrize("rho", [0.1, 1.0, 6.0])
def test_continuum_has_other_optima_with_the_same_objective(rho):
    spec = HVAESpec([2, 1], betas=0.8, decoder_variance=0.3, prior_variances=[1.5, 0.6])
    solution = solve(spec, DIMENSION_TWO)
    assert solution.status == "continuum"
    assert solution.active_units[1] == 0  # the most collapsed of them is given
    weights = {name: value.copy() for name, value in solution.weights.items()}
    # level 2 now carries rho; level 1 grows by the same factor in its first unit
    grow, eta2 = np.exp(rho), 0.6
    weights["W1"][0] *= np.sqrt(grow)
    weights["U1"][:, 0] /= np.sqrt(grow)
    weights["Sigma1"][0, 0] *= grow
    weights["Sigma2"][0, 0] = eta2 / grow
    weights["W2"][0, 0] = np.sqrt((eta2 - eta2 / grow) / (1.5 * grow))
    weights["U2"][0, 0] = weights["W2"][0, 0] * 1.5 * grow / eta2
    other = objective(spec, DIMENSION_TWO, weights)
    assert other.objective == pytest.approx(solution.objective, abs=1e-10)
    assert other.rates[1] == pytest.approx(rho / 2, rel=1e-12)


# --- records ----------------------------------------------------------------------------------


def test_shapes_of_a_hierarchy_with_narrow_and_wide_levels():
    spec = HVAESpec([1, 4], encoder_variances=[0.3, 0.4])
    solution = solve(spec, DIMENSION_TWO)
    assert solution.noise_fractions.shape == (2, 4)
    np.testing.assert_array_equal(solution.mode_variances[2:], 0)
    assert np.isnan(solution.level_critical_betas[0, 1:]).all()
    assert np.isfinite(solution.encoder_variances[1]).all()
    assert len(solution.to_rows()) == 8


def test_level_critical_betas_start_with_critical_beta():
    problem = draw("hvae2-all-fixed", 1)
    solution = solve(problem.spec, problem.moments)
    np.testing.assert_array_equal(solution.critical_beta, solution.level_critical_betas[0])
