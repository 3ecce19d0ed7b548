"""Distances of feature sets against closed forms, brute force and sets by hand; then of models."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from linvae.data import Dataset, load_dataset
from linvae.metrics import (
    FeatureDistances,
    FeatureSpace,
    Pictures,
    compare_features,
    inception_space,
    pixel_space,
    prior_samples,
    reconstructions,
    sample_quality,
    trained_space,
)
from linvae.metrics.sample_quality import _kernel_distance
from linvae.models import build_model
from linvae.spec import VAESpec
from linvae.train import TrainingData

ROUNDING = 1e-9  # of sums of some hundred products of order 1 in float64
SIGMAS = (
    4.0  # standard errors of a mean: one test in 16,000 fails by chance, and the seeds are fixed
)


def white(n: int, units: int, seed: int) -> np.ndarray:
    """Features whose sample mean is 0 and whose sample covariance is the identity, exactly."""
    drawn = np.random.default_rng(seed).normal(size=(n, units))
    left, _, right = np.linalg.svd(drawn - drawn.mean(axis=0), full_matrices=False)
    return left @ right * math.sqrt(n - 1)


def positive(units: int, seed: int) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(units, units))
    return a @ a.T + 0.1 * np.eye(units)


# --- Fréchet distance ---------------------------------------------------------------------------


def test_frechet_distance_of_stretched_and_shifted_gaussians():
    """Commuting covariances a_i^2 and b_i^2: sum (a_i - b_i)^2 plus the squared shift."""
    a, b, shift = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 0.0]), np.array([1.0, -2.0, 0.5])
    found = compare_features(white(60, 3, 1) * a, white(60, 3, 2) * b + shift).frechet_distance
    assert found == pytest.approx(np.square(a - b).sum() + np.square(shift).sum(), abs=ROUNDING)


def test_frechet_distance_of_covariances_that_do_not_commute():
    x, y = white(60, 4, 1) @ positive(4, 3), white(60, 4, 2) @ positive(4, 4)
    C_x, C_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    exact = np.trace(C_x + C_y - 2 * sqrtm(C_x @ C_y).real)
    assert compare_features(x, y).frechet_distance == pytest.approx(exact, rel=1e-7)


def test_frechet_distance_of_fewer_images_than_units():
    """Three directions turned into forty: singular covariances, the same distance."""
    x, y = white(20, 3, 1) * [1, 2, 3], white(20, 3, 2) + 1
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 3)))[0].T
    flat = compare_features(x, y).frechet_distance
    assert compare_features(x @ turned, y @ turned).frechet_distance == pytest.approx(flat)


# --- kernel distance ----------------------------------------------------------------------------


def kernel_terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """h_ij, one pair at a time."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    pairs = itertools.product(range(len(x)), repeat=2)
    h = [k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs]
    return np.reshape(h, (len(x), len(x)))


def test_kernel_distance_and_its_error_by_brute_force():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)) + 2
    h, n = kernel_terms(x, y), 6
    over = {m: list(itertools.permutations(range(n), m)) for m in (2, 3, 4)}
    square = np.mean([h[i, j] * h[k, m] for i, j, k, m in over[4]])
    zeta_1 = np.mean([h[i, j] * h[i, k] for i, j, k in over[3]]) - square
    zeta_2 = np.mean([h[i, j] ** 2 for i, j in over[2]]) - square
    assert min(zeta_1, zeta_2) > 0  # none of them cut off
    found = compare_features(x, y, neighbours=2)
    assert found.kernel_distance == pytest.approx(np.mean([h[i, j] for i, j in over[2]]))
    variance = (4 * (n - 2) * zeta_1 + 2 * zeta_2) / (n * (n - 1))
    assert found.kernel_error == pytest.approx(math.sqrt(variance))


@pytest.mark.parametrize(("shift", "largest"), [(0.0, 2.0), (1.0, 1.0)])
def test_kernel_distance_is_unbiased_and_its_error_is_the_spread(shift, largest):
    """Against E U from closed moments; the mean squared error estimate is the variance, or more.

    For x ~ N(m, I) in one unit, E k(x, y) = E (xy + 1)^3 has the raw moments of both. At shift 0
    the cut-off may double the estimate. Tolerances: 4 standard errors over the 400 resamples.
    """
    rng, n, times = np.random.default_rng(5), 60, 400
    drawn = [
        _kernel_distance(rng.normal(size=(n, 1)), rng.normal(size=(n, 1)) + shift)
        for _ in range(times)
    ]
    values, errors = np.array(drawn).T
    moments = [[1, m, 1 + m**2, m**3 + 3 * m] for m in (0.0, shift)]
    gap = [p - q for p, q in zip(*moments, strict=True)]
    exact = sum(math.comb(3, i) * gap[i] ** 2 for i in range(4))
    assert abs(values.mean() - exact) < SIGMAS * values.std() / math.sqrt(times)
    ratio = np.square(errors).mean() / values.var()
    scatter = np.square(values - values.mean()).std() / values.var() / math.sqrt(times)
    assert 1 - SIGMAS * scatter < ratio < largest + SIGMAS * scatter


# --- neighbourhoods -----------------------------------------------------------------------------


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_neighbourhoods_on_a_line_by_hand():
    """Balls of the real: [-1, 1], [0, 2], [1, 3], [2, 18]; of the generated: 0.5 +- 0.25,
    0.75 +- 0.25, 1.25 +- 0.5, 30 +- 28.75.
    """
    real, generated = column(0, 1, 2, 10), column(0.5, 0.75, 1.25, 30)
    found = compare_features(real, generated, neighbours=1)
    assert found.precision == 3 / 4  # all but 30
    assert found.density == (2 + 2 + 2) / 4  # 0.5 and 0.75 in two each, 1.25 in the 2nd and 3rd
    assert found.coverage == 3 / 4  # nothing in [2, 18]
    assert found.recall == 3 / 4  # 1, 2 and 10


def test_a_ball_is_closed():
    """3 and 18 lie on borders of balls of 2 and 10, whatever the rounding of a product."""
    found = compare_features(column(0, 1, 2, 10), column(3, 18, 40, 70), neighbours=1)
    assert (found.precision, found.density, found.coverage) == (2 / 4, 3 / 4, 2 / 4)


def test_two_neighbours_reach_farther():
    found = compare_features(column(0, 1, 2, 10), column(18, 19, 40, 70), neighbours=2)
    assert found.precision == 2 / 4  # 10 +- 9 holds 18 and 19, 10 +- 8 only the first
    assert found.density == 2 / (2 * 4)


def test_equal_sets_are_at_no_distance():
    """Every image lies in its own ball and in those of k others: density 1 + 1/k."""
    x = np.random.default_rng(0).normal(size=(700, 5))
    found = compare_features(x, x[::-1], neighbours=4)
    assert found.frechet_distance == pytest.approx(0, abs=ROUNDING)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(1 + 1 / 4)
    assert compare_features(x, x).kernel_distance == 0


def test_coverage_and_density_of_two_sets_of_one_distribution():
    """Free of the distribution: the k nearest to x_i are all real with probability 1 - coverage."""
    rng, n, k, times = np.random.default_rng(1), 30, 3, 300
    pairs = [(rng.exponential(size=(n, 2)), rng.exponential(size=(n, 2))) for _ in range(times)]
    found = [compare_features(x, y, neighbours=k) for x, y in pairs]
    exact = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    for name, expected in (("coverage", exact), ("density", 1.0)):
        values = np.array([getattr(f, name) for f in found])
        assert abs(values.mean() - expected) < SIGMAS * values.std() / math.sqrt(times)


def test_a_dropped_mode_lowers_recall_and_coverage_but_not_precision():
    rng, n = np.random.default_rng(2), 400

    def mixture(shares: float) -> np.ndarray:
        return rng.normal(size=(n, 2)) + 100 * (np.arange(n) < shares * n)[:, None]

    real, both, one = mixture(0.5), mixture(0.5), mixture(0.0)
    whole, half = compare_features(real, both), compare_features(real, one)
    assert half.precision > whole.precision - 0.05  # 4 standard errors of a share of 0.98 in 400
    assert half.coverage <= 0.5 < 0.9 < whole.coverage
    assert half.recall <= 0.5 < 0.9 < whole.recall
    assert half.frechet_distance > 1000 * whole.frechet_distance


def test_features_that_are_not_finite_are_nan_in_all():
    x = np.random.default_rng(0).normal(size=(10, 2))
    found = compare_features(x, np.where(x > 1, np.nan, x))
    assert all(math.isnan(value) for value in dataclasses.astuple(found))


def test_what_cannot_be_compared_is_refused():
    x = np.zeros((10, 2))
    with pytest.raises(
        ValueError, match=r"real has shape \(10, 2\) and generated \(9, 2\) in comp"
    ):
        compare_features(x, x[1:])
    with pytest.raises(ValueError, match=r"neighbours=10 must be between 1 and n - 1 for n=10 ima"):
        compare_features(x, x, neighbours=10)


# --- models -------------------------------------------------------------------------------------


def stack(n: int = 400):
    """Three linear members on digits: as drawn, collapsed, diverged; and their pictures."""
    digits = load_dataset("digits").subset(n, seed=0)
    data = TrainingData.from_arrays(digits.target, image=digits.image_layout())
    model = build_model(VAESpec(3), data.target, seeds=(0,), n_points=3)
    with torch.no_grad():
        model.decoders[0].weight[0, 0] *= 10
        model.decoders[0].weight[0, 1] = 0
        model.decoders[0].weight[0, 2] = torch.nan
    return digits, Pictures.of(model, digits)


def halves(n: int, seed: int = 0) -> list[np.ndarray]:
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(order[: n // 2]), np.sort(order[n // 2 :])]


@pytest.mark.parametrize("of", ["samples", "reconstructions"])
def test_quality_of_a_stack_is_that_of_each_member_and_of_real_halves(of):
    _, pictures = stack()
    space = pixel_space(pictures.originals(range(400)))
    found = sample_quality(pictures, space, of=of, neighbours=3, seed=4)
    first, second = halves(400, seed=4)
    real = space.features(pictures.originals(first))
    other = space.features(pictures.originals(second))
    assert found.real == compare_features(real, other, neighbours=3)
    assert (found.n_images, found.neighbours, found.of) == (200, 3, of)
    make = prior_samples(pictures, second, seed=4) if of == "samples" else None
    made = np.concatenate(list(make or reconstructions(pictures, second)), axis=2)
    alone = compare_features(real, space.features(made[0, 0]), neighbours=3)
    for name, value in dataclasses.asdict(alone).items():
        array = getattr(found, name)
        assert array.shape == (1, 3)
        assert array[0, 0] == pytest.approx(value, rel=1e-6)  # float32 images, in other batches
        assert np.isnan(array[0, 2])


def test_a_collapsed_member_is_as_far_as_the_data_are_wide():
    """All its images are the mean: closed form from the data alone; no recall, little coverage.

    The mean lies in the balls of many images, so that precision alone would praise it.
    """
    digits, pictures = stack()
    flat = digits.target.astype(float)
    space = pixel_space(pictures.originals(range(400)), units=64)
    found = sample_quality(pictures, space)
    first, _ = halves(400)
    scale = flat.var(axis=0).mean()  # all 64 components kept: their mean variance is the pixels'
    shift = np.square(flat[first].mean(axis=0) - flat.mean(axis=0)).sum()
    exact = (shift + flat[first].var(axis=0, ddof=1).sum()) / scale
    assert found.frechet_distance[0, 1] == pytest.approx(exact, rel=1e-4)  # float32 images
    assert found.recall[0, 1] == 0
    assert found.coverage[0, 1] < 0.5 < 0.9 < found.real.coverage
    assert found.precision[0, 1] == 1


# --- feature spaces -----------------------------------------------------------------------------


def digit_images(n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    digits = load_dataset("digits").subset(n, seed=1)
    return digits.target.reshape(n, 8, 8, 1), digits.labels


def test_a_classifier_says_how_well_it_does_and_does_it_again():
    images, labels = digit_images()
    space, again = (trained_space(images, labels, dataset="digits", steps=60) for _ in range(2))
    assert 0.7 < space.held_out < 1  # ten classes, one in ten by chance
    assert space.name == (
        f"64 hidden units of a classifier of 10 classes (held-out accuracy {space.held_out:.2f}, "
        f"the commonest class {np.bincount(labels).max() / 600:.2f}) trained on digits"
    )
    features = space.features(images)
    assert features.shape == (600, 64) and features.dtype == np.float64
    assert features.mean(axis=0) == pytest.approx(np.zeros(64), abs=1e-5)  # float32 networks
    assert features.var(axis=0).mean() == pytest.approx(1)
    assert np.array_equal(features, again.features(images))
    other = trained_space(images, labels, dataset="digits", steps=60, seed=1)
    assert not np.array_equal(features, other.features(images))


def test_held_out_images_are_not_learned_from():
    """Labels that say nothing: chance on 60 of 300 images, whatever the network remembers."""
    images, labels = digit_images(300)
    nothing = np.random.default_rng(0).permutation(labels)
    space = trained_space(images, nothing, dataset="digits", steps=300)
    assert space.held_out < 0.1 + SIGMAS * math.sqrt(0.1 * 0.9 / 60)


def test_a_space_that_was_trained_to_tell_digits_sees_the_missing_ones():
    """Fives to nines left out: farther off than the same number of images of all digits."""
    images, labels = digit_images()
    space = trained_space(images, labels, dataset="digits", steps=60)
    features = space.features(images)
    few = np.flatnonzero(labels < 5)[:200]
    rng = np.random.default_rng(0)
    real, others = np.split(rng.permutation(600)[:400], 2)
    dropped = compare_features(features[real], features[few])
    fair = compare_features(features[real], features[others])
    assert dropped.frechet_distance > 5 * fair.frechet_distance
    assert dropped.coverage < fair.coverage - 0.2


def test_attributes_and_no_labels_have_their_own_networks():
    images, labels = digit_images(300)
    attributes = np.stack([labels > 4, labels % 2], axis=1).astype(np.int8)
    space = trained_space(images, attributes, dataset="digits", steps=60)
    assert "a classifier of 2 attributes (held-out accuracy 0." in space.name
    assert space.held_out > 0.7  # one in two by chance
    space = trained_space(images, None, dataset="digits", steps=200)
    assert "an autoencoder (0." in space.name and 0.4 < space.held_out < 1
    with pytest.raises(
        ValueError, match=r"labels of shape \(300, 2\) must be classes \(n,\) or attr"
    ):
        trained_space(images, attributes * 3, dataset="digits")


def test_principal_components_are_those_of_the_covariance():
    images, _ = digit_images(300)
    flat = images.reshape(300, -1).astype(float)
    values = np.linalg.eigvalsh(np.cov(flat, rowvar=False))[::-1]
    space = pixel_space(images, units=5)
    share = values[:5].sum() / values.sum()
    assert (
        space.name == f"first 5 principal components of the pixels, {share:.2f} of their variance"
    )
    variances = space.features(images).var(axis=0)
    assert variances == pytest.approx(values[:5] / values[:5].mean(), rel=1e-4)


class _Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean(dim=[2, 3])


class _Published(torch.nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.float().mean(dim=[2, 3]) if return_features else x.float()


@pytest.mark.parametrize("network", [_Plain(), _Published()])
def test_a_network_in_a_file_is_given_bytes_of_three_channels(network, tmp_path):
    path = tmp_path / "tiny.pt"
    torch.jit.script(network).save(path)
    space = inception_space(path, (0.0, 2.0))
    assert space.name.startswith("network of tiny.pt, sha256 ")
    grey = np.full((300, 4, 6, 1), 1.0, dtype=np.float32)
    assert np.array_equal(space.features(grey), np.full((300, 3), 128.0))  # 127.5 to even
    colour = np.broadcast_to(np.array([0, 1, 5], dtype=np.float32), (2, 4, 6, 3))
    assert np.array_equal(space.features(colour), [[0, 128, 255]] * 2)


def test_weights_without_their_network_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth is no TorchScript file, or a damaged"):
        inception_space(path, (0.0, 1.0))


def test_a_space_of_ones_own_needs_a_name_and_a_function():
    """Any function of images will do; here the mean grey value of each of 40 images."""
    dataset = Dataset("noise", np.random.default_rng(0).normal(size=(40, 6)), image_shape=(2, 3))
    model = build_model(VAESpec(1), torch.from_numpy(dataset.target))
    space = FeatureSpace("mean grey", lambda x: x.mean(axis=(1, 2, 3), dtype=float)[:, None])
    found = sample_quality(Pictures.of(model, dataset), space)
    assert found.feature_space == "mean grey" and isinstance(found.real, FeatureDistances)
    assert math.isfinite(found.real.frechet_distance)
