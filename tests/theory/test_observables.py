"""Counts of active and collapsed units that theory predicts, against samples of Gaussian data."""

from __future__ import annotations

import numpy as np
import oracles
import pytest

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import solve
from linvae.theory.observables import active_unit_counts, collapsed_unit_counts

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
