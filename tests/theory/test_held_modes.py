"""What codes hold of modes: closed forms, rotations, Hadamard's inequality."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, ortho_group

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.testing import spectrum_data
from linvae.theory import solve
from linvae.theory.any_decoder import best_decoder_errors
from linvae.theory.held_modes import assign_units, held_modes, turned_scores
from linvae.theory.modes import mode_decomposition

DATA = spectrum_data((5.0, 2.0, 0.9, 0.3), n_samples=500, seed=1)
MOMENTS = Moments.from_data(DATA)


def scores(spec):
    return (DATA - MOMENTS.mean) @ mode_decomposition(spec, MOMENTS).readout.T


@pytest.mark.parametrize("fixed", [None, 0.3])
def test_the_optimum_holds_its_information(fixed):
    """-log(r)/2 of every mode, to the rounding of float32 data."""
    spec = VAESpec(4, beta=0.8, decoder_variance=0.5, encoder_variance=fixed)
    solution = solve(spec, MOMENTS)
    variance = np.tile(np.diag(solution.weights["Sigma"]), (len(DATA), 1))
    found = held_modes(scores(spec), DATA @ solution.weights["W"].T, variance)
    np.testing.assert_allclose(found.held_nats, solution.information[0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.unit_shares.sum(axis=1), found.shares, atol=1e-9)
    # its mean is known: the regression fits these samples
    np.testing.assert_allclose(found.influence.mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_rotations_change_nothing_and_the_sum_rule_holds(seed):
    """Any linear code of one variance, turned; the information of the joint Gaussian above all."""
    rng = np.random.default_rng(seed)
    e, W = scores(VAESpec(4)), rng.standard_normal((3, 4))
    variance = np.full((len(DATA), 3), rng.uniform(0.1, 2.0))
    found = held_modes(e, DATA @ W.T, variance)
    turned = held_modes(e, DATA @ W.T @ ortho_group.rvs(3, random_state=seed), variance)
    np.testing.assert_allclose(turned.held_nats, found.held_nats, rtol=1e-9)
    code = W @ MOMENTS.covariance @ W.T
    information = np.linalg.slogdet(np.eye(3) + code / variance[0, 0])[1] / 2
    assert 0 < found.held_nats.sum() < information


def test_where_a_code_is_centred_changes_nothing():
    e = scores_of([2.0, 1.9, 0.5])
    code, noise = e @ np.array([[1.0, 0.2], [-0.7, 0.1], [0.3, 1.0]]), np.full((400, 2), 0.3)
    moved = code + np.array([5.0, -3.0])
    turned = turned_scores(e, code, noise, 3)
    np.testing.assert_allclose(turned_scores(e, moved, noise, 3), turned, atol=1e-9)
    found, expected = (held_modes(turned, mean, noise) for mean in (moved, code))
    np.testing.assert_allclose(found.held_nats, expected.held_nats, rtol=1e-9)
    np.testing.assert_allclose(found.influence, expected.influence, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_no_code_holds_more_than_its_rate(seed):
    """Curved means, variances that differ by sample, skewed data; the rate by the KL of Gaussians.

    Exact on the samples, whose second moments alone enter.
    """
    rng = np.random.default_rng(seed)
    n, m, k = 200, *rng.integers(1, 6, 2)
    e = rng.standard_exponential((n, m)) ** 2
    e = np.linalg.qr(e - e.mean(axis=0))[0] * rng.uniform(0.1, 30, m)
    curved = np.tanh(e @ rng.standard_normal((m, k))) + rng.choice([0, 0.3]) * e[:, :1] ** 2
    variance = np.exp(rng.uniform(-6, 1) + np.sin(e @ rng.standard_normal((m, k))))
    held = held_modes(e, curved, variance).held_nats
    eta2 = rng.uniform(0.1, 10)
    rate = np.sum((curved**2 + variance) / eta2 - 1 - np.log(variance / eta2), axis=1).mean() / 2
    assert held.sum() <= rate


@pytest.mark.parametrize("lost", range(10))
def test_a_lost_mode_among_many_is_named_after_what_it_is(lost):
    """Ten modes 2 % apart, all alike, one in no unit: axes of the others may mix."""
    e = scores_of(1.02 ** -np.arange(10.0))
    code = np.delete(e, lost, axis=1) @ ortho_group.rvs(9, random_state=0)
    turned = turned_scores(e, code, np.full(code.shape, 0.1), 10)
    np.testing.assert_allclose(np.mean(turned**2, axis=0), np.mean(e**2, axis=0))
    held = held_modes(turned, code, np.full(code.shape, 0.1)).held_nats
    assert np.flatnonzero(held < 0.01).tolist() == [lost]


@pytest.mark.parametrize("pair", [(0, 1), (1, 2)], ids=["leading", "last"])
def test_the_lost_direction_of_two_equal_modes_is_one_mode(pair):
    """The code holds their difference: one mode in full, the other not at all."""
    variances = np.array([2.0, 2.0, 0.5] if pair == (0, 1) else [2.0, 0.5, 0.5])
    e = scores_of(variances)
    code, noise = (e[:, [pair[0]]] - e[:, [pair[1]]]) / math.sqrt(2), np.full((400, 1), 0.1)
    held = np.sort(held_modes(turned_scores(e, code, noise, 3), code, noise).held_nats)
    expected = math.log1p(variances[pair[0]] / 0.1) / 2
    np.testing.assert_allclose(held, [0, 0, expected], atol=1e-12)


def scores_of(variances):
    """Uncorrelated to rounding, 400 samples."""
    e = np.random.default_rng(0).standard_normal((400, len(variances)))
    return np.linalg.qr(e - e.mean(axis=0))[0] * np.sqrt(400 * np.asarray(variances))


def test_modes_apart_are_not_turned():
    e = scores_of([2.0, 1.6, 0.0])
    code = e[:, :1] + e[:, 1:2]
    assert np.array_equal(turned_scores(e, code, np.ones((400, 1)), 3), e)


def test_only_modes_within_one_factor_are_turned():
    """Two next to each other and two far below and apart, no part of their run."""
    e = scores_of([2.0, 1.9, 0.1, 0.02])
    code = (e[:, :1] + e[:, 1:2]) + 3 * e[:, 2:3]
    turned = turned_scores(e, code, np.ones((400, 1)), 4)
    assert np.array_equal(turned[:, 2:], e[:, 2:])
    assert not np.allclose(turned[:, :2], e[:, :2])


def test_influence_is_the_standard_error():
    """Of 400 fresh sets of samples, the spread of held nats, known to 4 %: three times that."""
    rng, held, said = np.random.default_rng(0), [], []
    for _ in range(400):
        e = rng.standard_normal((300, 2)) * [2.0, 1.0]
        mean = e @ [[0.4, 0.1], [0.2, 0.5]]
        found = held_modes(e, mean, np.full((300, 2), 0.5))
        held.append(found.held_nats)
        said.append(found.influence.std(axis=0) / math.sqrt(300))
    np.testing.assert_allclose(np.std(held, axis=0), np.mean(said, axis=0), rtol=0.12)


def test_permuted_units_get_their_modes_and_idle_ones_the_rest():
    shares = np.array([[0.0, 0.9, 0.0, 0.0], [0.01, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.7]])
    modes = assign_units(shares, np.array([0.2, 1.0, 0.1, 0.8]))
    assert modes.tolist() == [1, 0, 3, 2]  # the fourth mode has no variance, three are in the data


def test_idle_units_take_modes_by_their_rates():
    modes = assign_units(np.zeros((2, 3)), np.array([0.1, 0.5, 1.0]))
    assert modes.tolist() == [2, 1, 0]


def test_a_mode_known_for_certain_is_held_to_rounding():
    e = scores_of([2.0, 1.0])
    found = held_modes(e, e[:, :1], np.zeros((400, 1)))
    np.testing.assert_allclose(found.held_nats, [math.log(1e12) / 2, 0], atol=1e-12)


def test_a_mode_without_variance_is_held_by_nobody():
    e = np.column_stack([np.arange(4.0) - 1.5, np.zeros(4)])
    found = held_modes(e, e[:, :1], np.full((4, 1), 0.1))
    assert found.held_nats[0] == pytest.approx(math.log(1.35 / 0.1) / 2)  # 1.25 + 0.1 over 0.1
    assert found.held_nats[1] == found.unit_shares[1, 0] == 0


def test_best_decoder_of_a_collapsed_code():
    """The mean of all, 1, or of the other n - 1, n^2/(n - 1)^2 as far off."""
    y = np.array([[-1.0], [0.0], [1.0], [4.0]])
    flat = np.zeros((4, 2)), np.ones((4, 2)), np.ones((4, 2))
    own, other = best_decoder_errors(y, *flat, np.arange(4))
    np.testing.assert_allclose(own, [4.0, 1.0, 0.0, 9.0])
    np.testing.assert_allclose(other, own * 16 / 9, atol=1e-15)


def test_best_decoder_of_two_far_clusters():
    """Each cluster has a mean of its own: of two samples, or of the other one alone."""
    y = np.array([[0.0], [2.0], [10.0], [16.0]])
    mean = np.array([[-9.0], [-9.0], [9.0], [9.0]])
    noise = np.full((4, 1), 0.3)
    own, other = best_decoder_errors(y, mean, np.ones((4, 1)), noise, np.arange(4))
    np.testing.assert_allclose(own, [1.0, 1.0, 9.0, 9.0])
    np.testing.assert_allclose(other, [4.0, 4.0, 36.0, 36.0])


def test_copies_of_a_sample_are_left_out_with_it():
    """Two pairs of copies, told apart by heart: left out, the other pair is all that is known."""
    y, far = np.array([[0.0], [0.0], [3.0], [3.0]]), np.array([[-9.0], [-9.0], [9.0], [9.0]])
    code = far, np.ones((4, 1)), np.zeros((4, 1))
    own, other = best_decoder_errors(y, *code, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(own, 0, atol=1e-15)
    np.testing.assert_allclose(other, 9.0)
    assert np.all(np.isnan(best_decoder_errors(y, *code, np.zeros(4, int))[1]))
    own, other = best_decoder_errors(y[:1], *(part[:1] for part in code), np.zeros(1, int))
    assert own == 0 and np.isnan(other)  # one sample is all there is


def test_best_decoder_weighs_densities():
    """At the mean of both, posteriors of deviation 1 and 3 have densities 1 and 1/3."""
    y, variance = np.array([[0.0], [1.0]]), np.array([[1.0], [9.0]])
    own, _ = best_decoder_errors(y, np.zeros((2, 1)), variance, np.zeros((2, 1)), np.arange(2))
    np.testing.assert_allclose(own, [1 / 16, 9 / 16])


def test_no_decoder_undercuts_the_bound():
    """The optimum's own, on the same draws; both to the error of the draws, 5 of them."""
    spec = VAESpec(2, beta=0.8, decoder_variance=0.5)
    weights = solve(spec, MOMENTS).weights
    mean, sigma2 = DATA @ weights["W"].T, np.diag(weights["Sigma"])
    noise = np.random.default_rng(0).standard_normal(mean.shape)
    variance, each = np.tile(sigma2, (len(DATA), 1)), np.arange(len(DATA))
    own, other = best_decoder_errors(DATA, mean, variance, noise, each)
    linear = np.sum((DATA - (mean + np.sqrt(sigma2) * noise) @ weights["U"].T) ** 2, axis=1)
    doubt = 5 * np.std(own - linear) / math.sqrt(len(DATA))
    assert own.mean() < linear.mean() + doubt
    assert own.mean() < other.mean()
    # Gaussian data: the linear decoder is the best there is, the others' mean is no better
    assert other.mean() > linear.mean() - doubt


@pytest.mark.parametrize("seed", range(3))
def test_best_decoder_by_densities(seed):
    """Two latents, two dimensions: the outputs of the other samples, weighed by their densities."""
    rng = np.random.default_rng(seed)
    y, mean, noise = rng.normal(size=(3, 6, 2))
    variance = rng.uniform(0.2, 2.0, size=(6, 2))
    z = mean + np.sqrt(variance) * noise
    weights = norm.pdf(z[:, None], mean, np.sqrt(variance)).prod(axis=2)
    own, other = best_decoder_errors(y + 7, mean, variance, noise, np.arange(6))
    for found, w in ((own, weights), (other, weights * (1 - np.eye(6)))):
        outputs = w @ y / w.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found, np.sum((y - outputs) ** 2, axis=1), rtol=1e-9)


def test_more_equal_modes_than_units():
    """The two directions that are held most are named, and nothing else."""
    e = scores_of([2.0, 2.0, 2.0, 0.5])
    code = e[:, :3] @ ortho_group.rvs(3, random_state=1)[:, :2]
    noise = np.full((400, 2), 0.1)
    turned = turned_scores(e, code, noise, 2)
    assert turned.shape == (400, 2)
    held = held_modes(turned, code, noise).held_nats
    np.testing.assert_allclose(held, math.log1p(2.0 / 0.1) / 2, rtol=1e-9)
