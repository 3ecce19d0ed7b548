"""Pictures of models whose matrices are known, and what each row and column of a sheet is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from linvae.data import Dataset, load_dataset
from linvae.metrics import (
    Pictures,
    observe,
    prior_samples,
    reconstruction_sheet,
    reconstructions,
    sample_sheet,
    traversal_sheet,
    traversals,
    unit_rates,
)
from linvae.models import Architecture, build_model
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.train import TrainingData

FLOAT32 = 1e-5  # of sums of some ten products of order 1
SIGMAS = 5.0  # standard errors of a covariance; some hundred entries are looked at
SHAPES = {"grey": (5, 7), "colour": (6, 4, 3)}


def dataset(shape: tuple[int, ...], n: int = 60, seed: int = 0) -> Dataset:
    """Smooth random images in [0, 1] with a mean of their own."""
    rng, size = np.random.default_rng(seed), math.prod(shape)
    values = rng.normal(size=(n, 3)) @ rng.normal(size=(3, size)) + 2 * rng.normal(size=size)
    return Dataset("smooth", 1 / (1 + np.exp(-values)), image_shape=shape)


def pictures_of(spec, data: Dataset, *, gain: float = 1.0, **options) -> Pictures:
    """An untrained stack, its decoders `gain` times as large as it is drawn."""
    bernoulli = getattr(spec, "likelihood", "") == "bernoulli"
    layout = data.image_layout()
    rows = TrainingData.from_arrays(
        data.target, data.condition, centered=not bernoulli, image=layout
    )
    model = build_model(spec, rows.target, rows.condition, image=layout, **options)
    with torch.no_grad():
        for parameter in model.decoders.parameters():
            parameter *= gain
    return Pictures.of(model, data)


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(*images.shape[:-3], -1)


def together(parts) -> np.ndarray:
    return np.concatenate(list(parts), axis=2)


def covariance_agrees(samples: np.ndarray, exact: np.ndarray) -> None:
    """Of normal samples (n, d): an entry's variance is (C_ii C_jj + C_ij^2)/n."""
    found = np.cov(samples, rowvar=False)
    diagonal = np.diag(exact)
    error = np.sqrt((np.outer(diagonal, diagonal) + exact**2) / len(samples))
    assert (np.abs(found - exact) < SIGMAS * error + FLOAT32).all()


# --- what the numbers are -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_samples_of_a_linear_model_have_its_mean_and_covariance(shape):
    """N(mean of the data, eta^2 U U'), without decoder noise; all members see the same noise."""
    data = dataset(shape)
    spec = VAESpec(3, prior_variance=2.0)
    pictures = pictures_of(spec, data, gain=20, seeds=(0, 1), n_points=2)
    made = together(prior_samples(pictures, np.arange(4000) % 60))
    assert made.shape == (2, 2, 4000, *shape[:2], (*shape, 1)[2])
    assert np.array_equal(made[1, 0], made[1, 1])  # points of a seed start alike
    samples, U = flat(made[1, 1]).astype(float), pictures.model.weights(1, 1)["U"]
    covariance_agrees(samples, 2 * U @ U.T)
    away = samples.mean(axis=0) - data.target.mean(axis=0)
    error = np.sqrt(2 * np.diag(U @ U.T) / 4000)
    assert (np.abs(away) < SIGMAS * error + FLOAT32).all()


def test_samples_of_a_hierarchy_come_down_from_its_top():
    """z_1 has variance eta_2^2 U_2 U_2' + eta_1^2."""
    spec = HVAESpec((3, 2), prior_variances=(0.5, 2.0))
    pictures = pictures_of(spec, dataset((5, 7)), gain=10)
    samples = flat(together(prior_samples(pictures, np.arange(4000) % 60))[0, 0])
    w = pictures.model.weights(0, 0)
    inner = 2 * w["U2"] @ w["U2"].T + 0.5 * np.eye(3)
    covariance_agrees(samples, w["U1"] @ inner @ w["U1"].T)


def test_reconstructions_are_the_products_of_the_matrices():
    data = dataset((5, 7))
    pictures = pictures_of(VAESpec(3), data, gain=10, n_points=2)
    w, rows = pictures.model.weights(0, 1), [4, 0, 59]
    mean = data.target.mean(axis=0, dtype=float)
    exact = mean + (data.target[rows] - mean) @ (w["U"] @ w["W"]).T
    assert flat(together(reconstructions(pictures, rows))[0, 1]) == pytest.approx(
        exact, abs=FLOAT32
    )
    assert np.array_equal(flat(pictures.originals(rows)), data.target[rows])


def test_means_of_a_bernoulli_decoder_are_probabilities():
    """A decoder of zeros gives the offsets, which start at the log odds of the means."""
    data = dataset((5, 7))
    spec = VAESpec(2, likelihood="bernoulli")
    made = together(prior_samples(pictures_of(spec, data, gain=0), range(3)))
    start = (60 * data.target.mean(axis=0) + 0.5) / 61
    assert flat(made[0, 0]) == pytest.approx(np.tile(start, (3, 1)), abs=FLOAT32)
    made = together(prior_samples(pictures_of(spec, data, gain=100), range(9)))
    assert 0 <= made.min() < 0.1 and 0.9 < made.max() <= 1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("architecture", ["linear", "conv"])
def test_a_condition_is_pasted_in_where_it_was_cut_out(shape, architecture):
    whole = dataset(shape)
    pictures = pictures_of(CVAESpec(2), whole.quarter_task(), gain=5, architecture=architecture)
    rows = [7, 3]
    original = whole.target[rows].reshape(2, *shape[:2], -1)
    assert np.array_equal(pictures.originals(rows), original)
    height, width = shape[:2]
    corner = np.s_[..., height - height // 2 :, : width // 2, :]
    for made in (prior_samples(pictures, rows), reconstructions(pictures, rows)):
        images = together(made)[0, 0]
        assert np.array_equal(images[corner], original[corner])
        assert (np.abs(images - original).reshape(2, -1) > 0).sum(1).min() > original[0].size / 2


def test_a_conditional_decoder_is_given_the_condition_less_its_mean():
    data = dataset((6, 4)).quarter_task()
    pictures = pictures_of(CVAESpec(2), data, gain=5)
    w, rows = pictures.model.weights(0, 0), [7, 3]
    x, y = (v - v.mean(axis=0, dtype=float) for v in (data.condition, data.target))
    z = y[rows] @ w["W2"].T + x[rows] @ w["W1"].T
    exact = data.target.mean(axis=0, dtype=float) + z @ w["U1"].T + x[rows] @ w["U2"].T
    made = flat(together(reconstructions(pictures, rows))[0, 0])
    found = made[:, list(data.image_layout().target)]
    assert found == pytest.approx(exact, abs=FLOAT32)


def test_a_linear_traversal_is_a_straight_line_through_the_posterior_mean():
    """Unit u at t: y = mean + U (m - e_u m_u) + t eta U_u, and so it is in every unit."""
    data = dataset((5, 7))
    pictures = pictures_of(VAESpec(3, prior_variance=2.0), data, gain=10, n_points=2)
    w, row, steps = pictures.model.weights(0, 1), 11, np.array([-3.0, 0.0, 1.5])
    mean = data.target.mean(axis=0, dtype=float)
    m = w["W"] @ (data.target[row] - mean)
    made = flat(traversals(pictures, row, [2, 0], steps))
    for i, u in enumerate((2, 0)):
        others = np.where(np.arange(3) == u, 0, m)
        line = mean + w["U"] @ others + math.sqrt(2) * np.outer(steps, w["U"][:, u])
        assert made[0, 1, i] == pytest.approx(line, abs=5 * FLOAT32)


def test_a_traversal_of_a_hierarchy_starts_at_its_top():
    """The mean of q(z_2|v) is W_2 W_1 y, and levels below follow their prior's mean."""
    data = dataset((5, 7))
    pictures = pictures_of(HVAESpec((3, 2), prior_variances=(0.5, 2.0)), data, gain=10)
    w, mean = pictures.model.weights(0, 0), data.target.mean(axis=0, dtype=float)
    top = w["W2"] @ w["W1"] @ (data.target[4] - mean)
    made = flat(traversals(pictures, 4, [1], [top[1] / math.sqrt(2)]))[0, 0, 0, 0]
    assert made == pytest.approx(mean + w["U1"] @ w["U2"] @ top, abs=5 * FLOAT32)


def test_rates_of_units_are_the_observed_ones_in_their_own_order():
    pictures = pictures_of(VAESpec(4), dataset((5, 7)), n_points=2)
    with torch.no_grad():
        pictures.model.encoders[0].weight *= torch.tensor([1.0, 30, 3, 10])[:, None]
    rates = unit_rates(pictures)
    assert np.argsort(-rates[0, 0]).tolist() == [1, 3, 2, 0]
    seen = observe(pictures.model, pictures.data).unit_rates[0]
    assert np.sort(rates)[..., ::-1] == pytest.approx(seen, rel=1e-5)  # float32 sums


def test_other_images_are_centred_by_the_training_set():
    """Of a model that decodes 0: the mean of what it was trained on, whatever it is shown."""
    trained, other = dataset((5, 7)), dataset((5, 7), seed=9)
    model = pictures_of(VAESpec(2), trained, gain=0).model
    pictures = Pictures.of(model, other, trained_on=trained)
    made = flat(together(reconstructions(pictures, [0]))[0, 0, 0])
    assert made == pytest.approx(trained.target.mean(axis=0), abs=FLOAT32)
    assert np.array_equal(flat(pictures.originals([5])), other.target[[5]])


# --- sheets -------------------------------------------------------------------------------------


def test_a_sheet_of_samples_has_a_row_per_member_and_says_how_much_it_varies():
    data = dataset((6, 4, 3))
    pictures = pictures_of(VAESpec(3), data, gain=10, seeds=(0, 5), n_points=2)
    with torch.no_grad():
        pictures.model.decoders[0].weight[1, 1] = 0
    sheet = sample_sheet(pictures, columns=6)
    assert sheet.images.shape == (4, 6, 6, 4, 3) and sheet.images.dtype == np.uint8
    made = together(prior_samples(pictures, range(6)))
    share = flat(made[0, 1]).var(axis=0, ddof=1).sum() / data.target.var(axis=0).sum()
    assert sheet.row_labels[1] == f"seed 0, point 1, {100 * share:.0f} % of the data's variance"
    assert sheet.row_labels[3] == "seed 5, point 1, 0 % of the data's variance"
    assert np.array_equal(sheet.images[1], np.rint(255 * made[0, 1].clip(0, 1)).astype(np.uint8))
    assert len(np.unique(sheet.images[3].reshape(6, -1), axis=0)) == 1
    one = sample_sheet(pictures, columns=6, members={"the second": (0, 1)})
    assert np.array_equal(one.images[0], sheet.images[1])
    assert one.alt == (
        "Prior samples: means of the decoder, one z per column. 6 pictures of 6x4 a row: "
        f"the second, {100 * share:.0f} % of the data's variance."
    )
    other = sample_sheet(pictures, columns=6, seed=1)
    assert not np.array_equal(other.images[0], sheet.images[0])


def test_samples_given_one_condition_vary_by_z_alone():
    data = dataset((6, 4)).quarter_task()
    pictures = pictures_of(CVAESpec(2), data, gain=5, n_points=2)
    with torch.no_grad():
        pictures.model.decoders[0].weight[0, 1, :, :2] = 0  # reads the condition, not z
    sheet = sample_sheet(pictures, 7, columns=4)
    assert sheet.title.startswith("Prior samples given the condition of image 7: means")
    assert sheet.row_labels[1] == "seed 0, point 1, 0 % of the data's variance"
    assert not sheet.row_labels[0].endswith(", 0 % of the data's variance")
    corner = np.rint(255 * pictures.originals([7])[0, 3:, :2])
    assert (sheet.images[:, :, 3:, :2] == corner).all()


def test_reconstructions_stand_below_their_originals_with_their_error():
    data = dataset((5, 7))
    pictures = pictures_of(VAESpec(3), data, gain=0)
    sheet = reconstruction_sheet(pictures, [3, 8], members={"blind": (0, 0)})
    error = np.square(data.target[[3, 8]] - data.target.mean(axis=0)).sum(axis=1).mean()
    assert sheet.row_labels == ("original", f"blind, error {error:.3g}")
    original = np.rint(255 * data.target[[3, 8]]).astype(np.uint8)
    assert np.array_equal(flat(sheet.images[0]), original)


def test_a_traversal_sheet_orders_units_by_their_rate():
    pictures = pictures_of(VAESpec(4), dataset((5, 7)), gain=10)
    with torch.no_grad():
        pictures.model.encoders[0].weight *= torch.tensor([1.0, 30, 3, 10])[:, None]
    rates = unit_rates(pictures)[0, 0]
    sheet = traversal_sheet(pictures, 2, units=2, columns=5)
    assert sheet.row_labels == tuple(f"unit {u}, KL {rates[u]:.2f} nats" for u in (1, 3))
    assert sheet.column_labels == ("-3", "-1.5", "0", "1.5", "3")
    made = traversals(pictures, 2, [1, 3], np.linspace(-3, 3, 5))[0, 0]
    assert np.array_equal(sheet.images, np.rint(255 * made.clip(0, 1)).astype(np.uint8))


def test_data_beyond_0_and_1_are_black_at_their_least_and_white_at_their_most():
    data = dataset((5, 7))
    wide = Dataset("wide", 4 * data.target - 1, image_shape=(5, 7))
    pictures = pictures_of(VAESpec(2), wide)
    assert pictures.range == (wide.target.min(), wide.target.max())
    assert pictures_of(VAESpec(2), data).range == (0, 1)


def test_what_has_no_pictures_is_refused_by_name():
    digits = load_dataset("digits").subset(40, seed=0).rotated_to_span()
    model = build_model(VAESpec(2), torch.from_numpy(digits.target))
    with pytest.raises(
        ValueError, match=r"'digits' has no image layout .*rotated_to_span loses it"
    ):
        Pictures.of(model, digits)
    architecture = Architecture("pixelcnn", channels=(4,), hidden=8, pixel_channels=4)
    data = dataset((6, 6))
    layout = data.image_layout()
    rows = TrainingData.from_arrays(data.target, image=layout).target
    model = build_model(VAESpec(2), rows, architecture=architecture, image=layout)
    with pytest.raises(ValueError, match=r"decoder='pixelcnn' has no mean of the target given z"):
        sample_sheet(Pictures.of(model, data))
