"""Counts of active and collapsed units that theory predicts, against samples of Gaussian data."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import pytest
from scipy.integrate import quad
from scipy.special import chdtr
from scipy.stats import norm

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import objective, solve
from linvae.theory.observables import (
    RateDistribution,
    active_unit_counts,
    collapsed_unit_counts,
    rate_distribution,
    sample_rates,
    units_above,
)

from .problems import problems

PROBLEMS = problems(vae_learned=6, vae_fixed=4, cvae_learned=4, hvae2=6, hvae3=4)


@pytest.mark.parametrize("threshold", [0.01, 0.3])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda q: q.id)
def test_active_units_are_those_whose_posterior_mean_varies(problem, threshold):
    solution = solve(problem.spec, problem.moments)
    p = oracles.setting_of(problem.spec, problem.moments)
    w = oracles.from_names(solution.weights, problem.spec, problem.moments)
    before, counts = p.C, []
    for matrix, L in zip([w.E, *w.W], w.L, strict=True):
        of_mean = matrix @ before @ matrix.T
        counts.append(int(np.sum(np.diag(of_mean) > threshold)))
        before = of_mean + L @ L.T
    assert active_unit_counts(solution, threshold).tolist() == counts


def test_threshold_of_the_active_units_statistic():
    """theta^2 > beta s/(1 - tau/eta^2): just below and just above."""
    tau, eta2, beta, s = 0.01, 0.5, 2.0, 0.3
    edge = beta * s / (1 - tau / eta2)
    spec = VAESpec(2, beta=beta, decoder_variance=s, prior_variance=eta2)
    solution = solve(spec, Moments.from_covariance(np.diag([1.001 * edge, 0.999 * edge])))
    assert active_unit_counts(solution, tau).tolist() == [1]
    assert solution.active_units.tolist() == [2]


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("variance", [0.55, 0.7, 1.0])
@pytest.mark.parametrize("margin", [0.025, -0.025], ids=["collapsed", "active"])
def test_collapsed_units_by_sampling(variance, epsilon, margin):
    """Share of Gaussian samples whose KL to the prior is below epsilon, beta s = 0.5.

    20,000 samples give the share with a standard error of at most 0.0035: seven of them decide.
    """
    spec = VAESpec(2, beta=2.0, decoder_variance=0.25, prior_variance=1.5)
    moments = Moments.from_covariance([[variance]])  # the second unit has no mode: it counts
    solution = solve(spec, moments)
    W, Sigma = solution.weights["W"][0, 0], solution.weights["Sigma"][0, 0]
    y = np.random.default_rng(3).normal(size=20_000) * np.sqrt(variance)
    ratio = Sigma / spec.prior_variance
    kl = ((W * y) ** 2 / spec.prior_variance + ratio - 1 - np.log(ratio)) / 2
    share = np.mean(kl < epsilon)
    if not abs(margin) < share < 1 - abs(margin):
        expected = 2 if share > 0.5 else 1
        delta = 0.5
    else:
        expected = 2 if margin > 0 else 1
        delta = 1 - (share - margin)
    assert collapsed_unit_counts(spec, solution, epsilon, delta).tolist() == [expected]


@pytest.mark.parametrize("off", [-1e-6, 1e-6])
def test_share_of_collapsed_samples_where_codes_are_narrower_than_the_prior(off):
    """With weight decay; KL < epsilon is |y| < limit, whose share is that of a normal law."""
    spec = VAESpec(1, beta=2.0, decoder_variance=0.25, prior_variance=1.5, weight_decay=0.3)
    solution = solve(spec, Moments.from_covariance([[1.0]]))
    assert solution.encoder_variances < 0.96 * 1.5 * solution.noise_fractions
    W, ratio = solution.weights["W"][0, 0], solution.encoder_variances[0, 0] / 1.5
    limit = np.sqrt((2 * 0.1 + 1 + np.log(ratio) - ratio) * 1.5) / W
    delta = 1 - (2 * norm.cdf(limit) - 1) + off
    assert collapsed_unit_counts(spec, solution, 0.1, delta).tolist() == [int(off > 0)]


# --- KL of single samples ---------------------------------------------------------------------


def test_rate_distribution_of_gaussian_samples():
    """Mean exact; variance and shares against 200,000 samples, 6 standard errors."""
    moments = Moments.from_covariance(np.diag([3.0, 1.5, 0.9, 0.2]))
    spec = VAESpec(4, beta=0.6, prior_variance=1.3)
    solution = solve(spec, moments)
    law = rate_distribution(spec, solution)
    assert law.mean_nats == pytest.approx(solution.rates[0], rel=1e-12)
    n = 200_000
    y = np.random.default_rng(0).normal(size=(n, 4)) * np.sqrt([3.0, 1.5, 0.9, 0.2])
    rates = sample_rates(spec, moments, solution.weights, y)
    fourth = np.mean((rates - rates.mean()) ** 4)
    error = np.sqrt((fourth - rates.var() ** 2) / n)
    assert law.variance_nats2 == pytest.approx(rates.var(), abs=6 * error)
    assert law.share_below(law.floor_nats) == 0.0
    for nats in law.floor_nats + np.array([0.01, 0.1, 0.5, 2.0]):
        share = law.share_below(nats)
        assert share == pytest.approx(np.mean(rates < nats), abs=6 * np.sqrt(0.25 / n))


@pytest.mark.parametrize("x", [0.01, 0.3, 1.0, 4.0])
def test_share_below_is_the_chi_squared_law_for_equal_units(x):
    """Two equal scales are an exponential law, one is chi-squared with one degree of freedom."""
    two = RateDistribution(0.2, np.array([0.5, 0.5]))
    assert two.share_below(0.2 + x) == pytest.approx(1 - np.exp(-x), abs=1e-9)
    one = RateDistribution(0.0, np.array([1.0]))
    assert one.share_below(x) == pytest.approx(chdtr(1, x), abs=1e-9)


@pytest.mark.parametrize("k", [5, 50, 300, 1000])
def test_share_below_with_many_units(k):
    law = RateDistribution(0.0, np.full(k, 0.5))
    x = 0.5 * k * np.array([0.6, 0.9, 1.0, 1.2])
    found = [law.share_below(float(v)) for v in x]
    assert found == pytest.approx(chdtr(k, 2 * x), abs=1e-9)


def test_share_below_with_one_large_and_many_small_units():
    """Against sampling, 6 standard errors."""
    rng, n = np.random.default_rng(3), 100_000
    sampled = 5 * rng.chisquare(1, n) + 0.01 * rng.chisquare(700, n)
    found = RateDistribution(0.0, np.array([5.0] + [0.01] * 700)).share_below(8.0)
    assert found == pytest.approx(np.mean(sampled < 8), abs=6 * np.sqrt(0.25 / n))


def test_collapsed_model_has_no_rate_anywhere():
    moments = Moments.from_covariance(np.eye(2))
    spec = VAESpec(2, beta=3.0)
    law = rate_distribution(spec, solve(spec, moments))
    assert law.share_below(1e-9) == 1.0
    assert law.mean_nats == 0.0


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("conditional", [False, True])
def test_sample_rates_average_to_the_rate(conditional, centered):
    rng = np.random.default_rng(1)
    y, x = rng.normal(size=(50, 3)) + 2, rng.normal(size=(50, 2)) - 1
    moments = Moments.from_data(y, x if conditional else None, centered=centered)
    spec = CVAESpec(2, decoder_variance=0.3) if conditional else VAESpec(2, decoder_variance=0.3)
    weights = solve(spec, moments).weights
    rates = sample_rates(spec, moments, weights, y, x if conditional else None)
    expected = objective(spec, moments, weights).rates[0]
    assert rates.mean() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"have 1 columns but moments have"):
        sample_rates(spec, moments, weights, y[:, :1])


def test_sample_rates_need_one_level():
    moments = Moments.from_covariance(np.eye(2))
    spec = HVAESpec((2, 1))
    with pytest.raises(ValueError, match="spec has 2 levels but rate_distribution needs one"):
        rate_distribution(spec, solve(spec, moments))


@pytest.mark.parametrize("cutoff", [0.01, 0.05, 0.3])
@pytest.mark.parametrize(
    "problem", [q for q in PROBLEMS if q.spec.encoder_variances == (None,)], ids=lambda q: q.id
)
def test_units_above_a_cut_off_are_modes_above_a_higher_water_level(problem, cutoff):
    """#{theta^2 > beta s exp(2 cutoff)}, of the units that there are."""
    solution = solve(problem.spec, problem.moments)
    (beta,), s = problem.spec.betas, problem.spec.decoder_variance
    expected = int(np.sum(solution.mode_variances > beta * s * np.exp(2 * cutoff)))
    assert units_above(solution, cutoff)[0] == min(expected, *problem.spec.latent_dims)


def test_a_hierarchy_of_one_level_is_a_plain_model():
    moments = Moments.from_covariance(np.diag([3.0, 1.0]))
    plain, level = VAESpec(2, decoder_variance=0.5), HVAESpec((2,), decoder_variance=0.5)
    laws = [rate_distribution(spec, solve(spec, moments)) for spec in (plain, level)]
    np.testing.assert_allclose(laws[1].scales_nats, laws[0].scales_nats, rtol=1e-12)
    assert laws[1].floor_nats == pytest.approx(laws[0].floor_nats, rel=1e-12)


def test_the_usual_threshold_of_active_units_is_the_default():
    """0.01, Burda et al. 2016: means of variance 0.02 and 0.005 about a prior of 1."""
    edge = np.array([1 / 0.98, 1 / 0.995])  # theta^2 over beta s
    solution = solve(VAESpec(2), Moments.from_covariance(np.diag(edge)))
    assert active_unit_counts(solution).tolist() == [1]


def test_units_above_no_variance_are_those_alive():
    """A collapsed unit's mean varies by 0, not by more."""
    spec = VAESpec(4, beta=1.5, decoder_variance=0.4)
    solution = solve(spec, Moments.from_covariance(np.diag([3.0, 1.0, 0.5, 0.1])))
    assert active_unit_counts(solution, 0.0).tolist() == solution.active_units.tolist() == [2]


@pytest.mark.parametrize("off", [-1e-6, 1e-6])
def test_share_of_collapsed_samples_with_a_fixed_variance(off):
    """KL to N(0, m), m the variance of all codes; KL < epsilon is |y| < limit."""
    spec = VAESpec(1, beta=0.5, decoder_variance=0.25, encoder_variance=0.6, prior_variance=1.5)
    solution = solve(spec, Moments.from_covariance([[1.3]]))
    W = solution.weights["W"][0, 0]
    m = 0.6 + 1.3 * W**2
    limit = np.sqrt((2 * 0.6 + 1 + np.log(0.6 / m) - 0.6 / m) * m) / W
    delta = 1 - (2 * norm.cdf(limit / np.sqrt(1.3)) - 1) + off
    assert collapsed_unit_counts(spec, solution, 0.6, delta).tolist() == [int(off > 0)]


def test_no_share_of_collapsed_samples_is_asked_of_every_unit():
    """delta = 1: also of one whose codes are so narrow that no sample is below epsilon."""
    spec = VAESpec(2, decoder_variance=1e-3)
    solution = solve(spec, Moments.from_covariance(np.diag([2.0, 1.0])))
    assert collapsed_unit_counts(spec, solution, 0.01, 1.0).tolist() == [2]
    assert collapsed_unit_counts(spec, solution, 0.01, 0.999).tolist() == [0]


@pytest.mark.parametrize("nats", [4.0, 8.0, 40.0])
def test_share_below_with_one_large_and_many_small_units_by_an_integral(nats):
    """Over the normal variable of the large one; the sum of terms has two thousand here."""

    def below(t: float) -> float:
        return 2 * norm.pdf(t) * chdtr(700, (nats - 5 * t**2) / 0.01)

    edge = np.sqrt((nats - 7) / 5) if nats > 7 else 0.0
    cuts = sorted({0.0, max(0.0, edge - 0.3), edge, np.sqrt(nats / 5)})
    exact = sum(quad(below, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(cuts))
    found = RateDistribution(0.0, np.array([5.0] + [0.01] * 700)).share_below(nats)
    assert found == pytest.approx(exact, abs=1e-9)


def test_no_sample_has_less_than_no_rate():
    """epsilon = 0: KL < 0 never, nor of a unit that is collapsed."""
    spec = VAESpec(2, beta=3.0)
    solution = solve(spec, Moments.from_covariance(np.eye(2)))
    assert collapsed_unit_counts(spec, solution, 0.0, 0.5).tolist() == [0]
    assert collapsed_unit_counts(spec, solution, 1e-9, 0.5).tolist() == [2]
