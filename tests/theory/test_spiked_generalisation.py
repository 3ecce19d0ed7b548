"""The model of Ichikawa & Hukushima: against simulated samples and the exact objective."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import objective
from linvae.theory.penalised import penalised_optimum
from linvae.theory.spiked_covariance import overlap
from linvae.theory.spiked_generalisation import spiked_generalisation

from .samples import STANDARD_ERRORS, descending


@pytest.mark.parametrize("alpha", [0.4, 1.6, 4.0])
@pytest.mark.parametrize(("beta", "decay"), [(1.0, 1.0), (0.5, 0.1), (1.5, 0.5)])
def test_generalisation_error_of_simulated_samples(alpha, beta, decay):
    N, draws, rng = 200, 12, np.random.default_rng(int(10 * alpha + beta))
    n, direction = round(alpha * N), np.full(N, 1 / np.sqrt(N))
    found = []
    for _ in range(draws):
        x = rng.normal(size=(n, 1)) * direction + rng.normal(size=(n, N))
        values, vectors = descending(x.T @ x / n)
        u = penalised_optimum(values[0], beta=beta, weight_decay=decay / alpha).decoder
        found.append(1 - 2 * u * abs(vectors[:, 0] @ direction) + u**2)
    limit = spiked_generalisation(alpha, beta=beta, weight_decay=decay)
    error = np.std(found) / np.sqrt(draws)
    # next to the transition, alpha = 1, the overlap of a drowned spike is of order N^(-1/3) = 0.17
    bias = 0.3 if alpha < 1 else 0.03
    assert abs(np.mean(found) - limit.generalisation_error) < STANDARD_ERRORS * error + bias


def test_collapse_whatever_the_number_of_samples():
    """rho = eta = 1: with lambda = 1 the threshold rises to rho + eta; with none it falls to it."""
    alpha = np.exp(np.linspace(-3, 12, 400))
    decayed = spiked_generalisation(alpha, beta=2.0, weight_decay=1.0)
    assert np.all(decayed.critical_beta < 2.0)
    np.testing.assert_array_equal(decayed.generalisation_error, 1.0)
    above = alpha[alpha > 1]
    # theta^2/(1 + kappa) - kappa/theta^2 = 2 - 1/(2 (alpha + 1)): the transition is continuous
    expected = 2 - 1 / (2 * (above + 1))
    np.testing.assert_allclose(decayed.critical_beta[alpha > 1], expected, rtol=1e-9)
    free = spiked_generalisation(alpha, beta=2.0, weight_decay=0.0)
    assert np.all(free.critical_beta > 2.0)  # small samples look larger than they are
    assert np.all(free.generalisation_error[(alpha > 1) & (alpha < 3)] > 0.5)


def test_generalisation_terms_are_the_exact_objective():
    """Gain and rate on the population, from the weights, on the limit's own covariance."""
    alpha, decay, beta = 2.5, 0.6, 0.8
    found = spiked_generalisation(alpha, beta=beta, weight_decay=decay)
    a = float(overlap(2.0, 1.0, 1 / alpha))
    optimum = penalised_optimum(found.mode_variance, beta=beta, weight_decay=decay / alpha)
    population = Moments.from_covariance(np.eye(2) + np.diag([1.0, 0.0]))
    q = np.array([[np.sqrt(a)], [np.sqrt(1 - a)]])
    weights = {"U": q * optimum.decoder, "W": q.T * optimum.encoder,
               "Sigma": np.reshape(optimum.encoder_variance, (1, 1))}  # fmt: skip
    terms = objective(VAESpec(1, beta=beta), population, weights)
    dead = {"U": 0 * q, "W": 0 * q.T, "Sigma": np.eye(1)}
    collapsed = objective(VAESpec(1, beta=beta), population, dead)
    assert found.held_out_rate == pytest.approx(terms.rates[0], abs=1e-12)
    assert found.held_out_gain == pytest.approx(collapsed.objective - terms.objective, abs=1e-12)
    error_saved = 2 * (collapsed.distortion - terms.distortion)
    assert found.held_out_error == pytest.approx(1 - error_saved, abs=1e-12)
    assert found.to_rows()[0]["samples_per_dim"] == alpha


ERRORS = [
    (
        lambda: spiked_generalisation(0.0, beta=1.0, weight_decay=1.0),
        "samples_per_dim=0.0 must be finite and > 0",
    ),
    (
        lambda: spiked_generalisation(1.0, beta=1.0, weight_decay=1.0, noise_variance=0.0),
        "noise_variance=0.0 must be finite and > 0",
    ),
    (
        lambda: spiked_generalisation(1.0, beta=1.0, weight_decay=1.0, signal_variance=-0.5),
        "population_eigenvalue=0.5 must be at least",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
