"""Spread in cells of the condition, from samples: known truth, and what each estimate is biased."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.data import Heteroscedastic
from linvae.theory.local_spectrum import local_residual_spectrum


def test_without_structure_all_are_the_top_variance():
    """One leading direction, a condition that says nothing of it; 20 samples, 6 standard errors."""
    variances = np.array([2.0, 0.5, 0.3])
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=(4000, 3)) * np.sqrt(variances)
        x = rng.normal(size=(4000, 2))
        y[:, 1] += 3 * x[:, 0]  # linear regression takes it out
        found.append(local_residual_spectrum(y, x, n_cells=4, seed=seed))
    first = np.array([f.first for f in found])
    error = first.std(ddof=1) / np.sqrt(20)
    assert abs(first.mean() - 2) < 6 * error
    # the stated error is the one seen, to the 1/sqrt(2 * 19) = 16 % of 20 repetitions, three times
    assert np.mean([f.first_error for f in found]) == pytest.approx(first.std(ddof=1), rel=0.5)
    for name in ("average", "linear"):
        values = np.array([getattr(f, name) for f in found])
        assert abs(values.mean() - 2) < 6 * values.std(ddof=1) / np.sqrt(20)


def test_truth_lies_between_the_two_estimates_of_every_cell():
    """Ten dimensions, 50 samples a cell: both biases are seen, on both sides."""
    variances = np.array([2.0, *[1.0] * 9])
    held_out, in_sample, first, naive = [], [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=(800, 10)) * np.sqrt(variances)
        found = local_residual_spectrum(y, rng.normal(size=(800, 1)), n_cells=16, seed=seed)
        held_out.append(found.held_out.mean())
        in_sample.append(found.in_sample.mean())
        first.append(found.first)
        naive.append(found.held_out.max())
    error = 4 * np.std([held_out, in_sample, first, naive], axis=1, ddof=1) / np.sqrt(40)
    assert np.mean(held_out) + error[0] < 2 < np.mean(in_sample) - error[1]
    assert np.mean(first) + error[2] < 2 < np.mean(naive) - error[3]


@pytest.mark.parametrize("bend", [0.0, 1.5], ids=["straight", "bent"])
def test_a_turning_direction(bend):
    """Truth of a cell: top eigenvalue of its mean covariance; of all, 1 and 0.35."""
    model = Heteroscedastic(0.2, 1.0, noise=0.1, bend=bend)
    gaps, first, sums = [], [], []
    for seed in range(10):
        data = model.dataset(8000, seed=seed)
        found = local_residual_spectrum(data.target, data.condition, n_cells=16, seed=seed)
        x = data.condition.astype(np.float64)
        C = model.covariances(np.arctan2(x[:, 1], x[:, 0]))
        exact = [np.linalg.eigvalsh(C[found.labels == c].mean(axis=0))[-1] for c in range(16)]
        gaps.append((found.held_out - exact) / found.errors)
        first.append(found.first)
        sums.append((found.average, found.linear))
    # with the mean of a bent cell: at most (b sin(2 phi) 2 width)^2/12, width 2 pi/16
    bent = (2 * bend * 2 * np.pi / 16) ** 2 / 12
    assert np.abs(np.mean(gaps)) < 6 / np.sqrt(160) + (1.5 if bend else 0)
    assert np.std(gaps) < (1.3 if bend == 0 else 3)
    error = np.std(first, ddof=1) / np.sqrt(10)
    assert 1 - 0.03 - 6 * error < np.mean(first) < 1 + 6 * error
    average, linear = np.mean(sums, axis=0)
    spread = 6 * np.std(sums, axis=0, ddof=1) / np.sqrt(10)
    assert 0.35 - spread[0] < average < 0.35 + spread[0] + bent
    assert linear == pytest.approx(max(0.35, 0.1 + bend**2 / 2), abs=spread[1] + 0.01)


def test_one_dimension_has_no_bias_in_cells_of_few_samples():
    """Halves of four, each about its own mean: 1/n would give 3/4 of the variance."""
    rng = np.random.default_rng(2)
    found = local_residual_spectrum(rng.normal(size=(8000, 1)), np.repeat(np.arange(1000), 8))
    for values in (found.held_out, found.in_sample):
        assert abs(values.mean() - 1) < 6 * values.std() / np.sqrt(1000)
    assert found.average == pytest.approx(1, abs=6 * np.sqrt(2 / 7000))


def test_labels_are_cells():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=3000) * 5
    y = rng.normal(size=(3000, 2)) * np.sqrt(1 + labels)[:, None] + labels[:, None]
    found = local_residual_spectrum(y, labels)
    assert found.sizes.tolist() == [np.sum(labels == v) for v in (0, 5, 10)]
    assert np.all(np.abs(found.held_out - (1, 6, 11)) < 6 * found.errors)
    assert found.first == pytest.approx(11, abs=6 * found.first_error)
    assert found.share_above(8.0) == np.mean(labels == 10)
    whole = np.linalg.eigvalsh(np.cov(y.T, bias=True))[-1]  # nothing is regressed out
    assert found.linear == pytest.approx(whole, rel=1e-12)
    rows = found.to_rows()
    assert [row["size"] for row in rows] == found.sizes.tolist()
    assert rows[0]["first"] == found.first


def test_cells_are_halved_across_their_longest_axis():
    """A long and a short side: four cells are quarters of the long one."""
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(800, 2)) * [9.0, 1.0]
    found = local_residual_spectrum(rng.normal(size=(800, 1)), x, n_cells=4)
    assert found.sizes.tolist() == [200] * 4
    rank = np.argsort(np.argsort(x[:, 0])) // 200
    for quarter in range(4):  # the axis is known to the scatter of 800 samples only
        own = found.labels[rank == quarter]
        assert np.mean(own == np.bincount(own).argmax()) > 0.9


REFUSED = {
    "lengths": (np.zeros((5, 2)), np.zeros((4, 1)), 2, "and condition \\(4, 1\\)"),
    "floats": (np.ones((9, 2)), np.ones(9), 2, "labels, integers"),
    "three": (np.ones((99, 2)), np.ones((99, 1)), 3, "n_cells=3 must be a power of two"),
    "rare": (np.eye(20), np.arange(20) // 3, 2, "condition has a cell of 2 samples"),
    "one rare": (np.eye(20), np.r_[np.zeros(18, int), 1, 1], 2, "has a cell of 2 samples"),
    "flat": (np.ones(20), np.arange(20) // 10, 2, r"target has shape \(20,\)"),
    "few": (np.eye(20), np.eye(20), 4, "condition has 20 samples, too few for cells of 8"),
}


@pytest.mark.parametrize(("y", "x", "cells", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(y, x, cells, message):
    y = y + np.random.default_rng(0).normal(size=y.shape)
    with pytest.raises(ValueError, match=message):
        local_residual_spectrum(y, x, n_cells=cells)


def test_one_cell_is_the_whole():
    rng = np.random.default_rng(6)
    y, x = rng.normal(size=(40, 2)), rng.normal(size=(40, 1))
    found = local_residual_spectrum(y, x, n_cells=1)
    assert found.sizes.tolist() == [40]
    assert found.average == pytest.approx(found.in_sample[0], rel=1e-12)


def test_share_above_a_variance_leaves_out_what_equals_it():
    rng = np.random.default_rng(7)
    y, x = rng.normal(size=(60, 2)), rng.normal(size=(60, 1))
    found = local_residual_spectrum(y, x, n_cells=4)
    least = int(np.argmin(found.held_out))
    expected = 1 - found.sizes[least] / found.sizes.sum()
    assert found.share_above(float(found.held_out[least])) == pytest.approx(expected)


def test_sixteen_samples_are_halved_and_no_fewer():
    rng = np.random.default_rng(8)
    y, x = rng.normal(size=(16, 2)), rng.normal(size=(16, 1))
    assert local_residual_spectrum(y, x, n_cells=2).sizes.tolist() == [8, 8]
    with pytest.raises(ValueError, match="condition has 15 samples, too few for cells of 8"):
        local_residual_spectrum(y[:15], x[:15], n_cells=2)


def test_cells_are_counted_in_powers_of_two_by_default_too():
    rng = np.random.default_rng(9)
    found = local_residual_spectrum(rng.normal(size=(320, 1)), rng.normal(size=(320, 1)))
    assert found.sizes.tolist() == [20] * 16


def test_held_out_value_and_error_by_hand():
    """One cell: two halves, each about its own mean, 1/(n - 1), standard error of its squares."""
    y = np.random.default_rng(10).normal(size=(21, 3)) * [2.0, 1.0, 0.5]
    found = local_residual_spectrum(y, np.zeros(21, int), seed=4)
    halves = np.array_split(y[np.random.default_rng(4).permutation(21)], 2)
    values, variances = [], []
    for a, b in (halves, halves[::-1]):
        direction = np.linalg.eigh(np.cov(a.T))[1][:, -1]
        n, along = len(b), (b - b.mean(axis=0)) @ direction
        values.append(np.var(along, ddof=1))
        variances.append(np.var(along**2 * n / (n - 1), ddof=1) / n)
    assert found.held_out == pytest.approx([np.mean(values)], rel=1e-12)
    assert found.errors == pytest.approx([np.sqrt(sum(variances)) / 2], rel=1e-12)
    assert (found.first, found.first_error) == (found.held_out[0], found.errors[0])
