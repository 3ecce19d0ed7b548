"""Useful and spurious units: the limit against samples, the split against the solution."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import solve
from linvae.theory.active_units import active_unit_split, expected_active_units
from linvae.theory.held_out import held_out_gains
from linvae.theory.noise_estimation import estimate_noise
from linvae.theory.spiked_covariance import bulk_edges, sample_eigenvalue

from .samples import along, descending, spiked_sample


def test_spikes_beyond_the_rank_are_not_negative_noise():
    numbers = {"beta": 0.5, "decoder_variance": 1.0, "latent_dim": 3}
    spikes = [100.0, 90.0, 80.0]
    assert expected_active_units(spikes, 1.0, dim=3, n_samples=1, **numbers) == (1.0, 0.0)
    assert expected_active_units([*spikes, 70.0], 1.0, dim=3, n_samples=50, **numbers) == (3.0, 0.0)
    numbers["latent_dim"] = 2
    assert expected_active_units(spikes, 1.0, dim=3, n_samples=50, **numbers) == (2.0, 0.0)


@pytest.mark.parametrize("gamma", [0.2, 0.5, 2.0])
@pytest.mark.parametrize("level", [0.5, 1.0, 1.8, 3.0])
def test_expected_active_units(gamma, level):
    d, v, draws = 200, 1.0, 10
    n, rng = round(d / gamma), np.random.default_rng(int(100 * gamma + 10 * level))
    population = np.full(d, v)
    population[:3] = v * (1 + np.sqrt(gamma) * np.array([8.0, 4.0, 0.5]))
    numbers = {"beta": level, "decoder_variance": 1.0, "latent_dim": 60}
    useful, spurious = expected_active_units(population[:3], v, dim=d, n_samples=n, **numbers)
    counts = []
    for _ in range(draws):
        values = descending(spiked_sample(rng, n, population))[0]
        counts.append(np.sum(values[:60] > level))
    edge = float(bulk_edges(v, gamma)[1])
    assert useful == np.sum(sample_eigenvalue(population[:2], v, gamma) > max(level, edge))
    # eigenvalues are rigid: counts move by less than 1, and the drowned spike adds less than 1
    assert abs(np.mean(counts) - useful - spurious) < 1.0
    assert 0 <= spurious <= 60 - useful


def _split_of_a_sample(beta: float, latent_dim: int = 10):
    rng, d, n = np.random.default_rng(5), 150, 300
    population = np.full(d, 1.0)
    population[:3] = [9.0, 5.0, 3.5]
    x = rng.normal(size=(n, d)) * np.sqrt(population)
    moments = Moments.from_data(x + 2.0)
    split = active_unit_split(moments, beta=beta, decoder_variance=0.5, latent_dim=latent_dim)
    return moments, population, split


@pytest.mark.parametrize("beta", [1.0, 4.5, 8.0, 14.0, 40.0])
def test_split_of_active_units(beta):
    moments, population, split = _split_of_a_sample(beta)
    solution = solve(VAESpec(10, beta=beta, decoder_variance=0.5), moments)
    np.testing.assert_allclose(split.mode_variances, solution.mode_variances, rtol=1e-12)
    assert split.useful_units + split.spurious_units == solution.active_units[0]
    spike = np.arange(150) < 3
    np.testing.assert_array_equal(split.useful, spike & ~solution.collapsed[0])
    # the noise is 1 and its bulk ends at 2.9: beta s = 2.25 leaves some of it active
    assert (split.spurious_units > 0) == (beta < 5)
    # a spike's sample eigenvalue has a relative standard error sqrt(2/n) = 8 %
    np.testing.assert_allclose(split.debiased_critical_beta[:3], population[:3] / 0.5, rtol=0.25)
    np.testing.assert_allclose(split.debiased_critical_beta[3:], 1 / 0.5, rtol=0.05)
    assert np.all(split.debiased_critical_beta[:3] < split.critical_beta[:3])
    # |q_i e_i|^2 of the spikes' own axes; it scatters by about sqrt((1 - a)/n), 4 % at most
    seen = np.diag(descending(moments.covariance)[1][:3]) ** 2
    np.testing.assert_allclose(split.overlaps[:3], seen, atol=0.12)
    assert not np.any(split.overlaps[3:])
    assert not np.any(split.held_out_gains[~(split.useful | split.spurious)])


def test_costs_of_the_units_of_a_sample():
    """Units next to their threshold cost: the estimated gains against the exact ones."""
    moments, population, split = _split_of_a_sample(4.5)
    truth = Moments.from_covariance(np.diag(population))
    exact = held_out_gains(*along(moments, truth), beta=4.5, decoder_variance=0.5)[:10]
    p = split.population_variances[:10]
    # a spike's sample variance has a relative standard error sqrt(2/n); the bulk's directions
    # hold a share 1/d of what the spikes lost, 14.5/150 at most; both over 2 s = 1
    allowed = np.where(np.arange(10) < 3, 3 * np.sqrt(2 / 300) * p, 0.1)
    assert np.all(np.abs(split.held_out_gains[:10] - exact) < allowed)
    assert np.all(exact[split.spurious[:10]] < 0)
    assert np.all(split.held_out_gains[split.spurious] < 0)
    assert split.costly_units == np.sum(split.held_out_gains < 0) >= split.spurious_units


def test_split_from_eigenvalues_is_that_from_moments():
    moments, _, split = _split_of_a_sample(4.5)
    values = np.linalg.eigvalsh(moments.covariance)
    again = active_unit_split(values, 300, beta=4.5, decoder_variance=0.5, latent_dim=10)
    np.testing.assert_allclose(again.held_out_gains, split.held_out_gains, rtol=1e-12)
    assert [row["mode"] for row in split.to_rows()] == list(range(1, 151))
    assert split.to_rows()[0]["useful"] is True
    assert split.noise.to_rows()[0]["n_spikes"] == 3


def test_whether_the_mean_was_taken_off_is_passed_on():
    """Without it one degree of freedom more: the noise of the same eigenvalues is 300/299 less."""
    values = np.append([9.0, 5.0], np.linspace(1.5, 0.5, 40))
    numbers = {"beta": 1.0, "decoder_variance": 1.0, "latent_dim": 5}
    taken, kept = (active_unit_split(values, 300, centered=c, **numbers) for c in (True, False))
    assert taken.noise.aspect_ratio == 42 / 299
    assert kept.noise.aspect_ratio == 42 / 300
    np.testing.assert_allclose(kept.mode_variances, values, rtol=1e-12)
    np.testing.assert_allclose(taken.mode_variances, values, rtol=1e-12)


@pytest.mark.parametrize(("share", "spikes"), [(1e-6, 0), (0.5, 1)])
def test_the_false_alarms_allowed_are_passed_on(share, spikes):
    """An eigenvalue at the edge of the bulk: a spike only to who allows one alarm in two."""
    values = np.append(2.0, np.linspace(1.5, 0.5, 40))
    numbers = {"beta": 1.0, "decoder_variance": 1.0, "latent_dim": 5}
    split = active_unit_split(values, 300, false_alarm=share, **numbers)
    assert split.useful_units == spikes
    assert split.noise.n_spikes == estimate_noise(values, 300, false_alarm=share).n_spikes
