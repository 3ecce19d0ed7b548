"""MNIST, Fashion-MNIST and Omniglot: on tiny files of their formats, then on real samples."""

import numpy as np
import pytest

from linvae.data import CorruptFileError, load_dataset
from linvae.data.images import area_matrix

ROUNDING = 1e-12  # float64 sums of at most 105 terms of size one: 105 * 1.1e-16, with a margin
FLOAT32 = 1e-6  # values near 1 stored as float32, sums over 784 of them excepted where said


@pytest.mark.parametrize("sizes", [(28, 105), (7, 28), (3, 4), (1, 5), (6, 6)], ids=str)
def test_area_matrix_averages(sizes):
    size, original = sizes
    weights = area_matrix(size, original)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=ROUNDING)  # constant stays constant
    np.testing.assert_allclose(weights.sum(axis=0), size / original, atol=ROUNDING)  # ink stays
    assert weights.min() >= 0


def test_area_matrix_equals_blocks_of_a_finer_grid():
    """Repeat every pixel 4 times: 420 = 28 * 15, so plain block means of 15 are exact."""
    image = np.random.default_rng(0).random((105, 105))
    fine = np.kron(image, np.ones((4, 4)))
    blocks = fine.reshape(28, 15, 28, 15).mean(axis=(1, 3))
    weights = area_matrix(28, 105)
    np.testing.assert_allclose(weights @ image @ weights.T, blocks, atol=ROUNDING)


def test_area_matrix_of_the_same_size_does_nothing():
    np.testing.assert_array_equal(area_matrix(5, 5), np.eye(5))


@pytest.mark.parametrize("size", [0, 6])
def test_area_matrix_only_shrinks(size):
    with pytest.raises(ValueError, match=f"image_size={size} must be between 1 and 5"):
        area_matrix(size, 5)


# --- MNIST and Fashion-MNIST --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "folder"), [("mnist",) * 2, ("fashion-mnist", "fashion_mnist")])
def test_idx_set(root, write_pair, name, folder):
    pixels = write_pair(root / folder, "train")
    dataset = load_dataset(name, data_dir=root)
    assert (dataset.name, dataset.split, dataset.image_shape) == (name, "train", (4, 4))
    np.testing.assert_allclose(dataset.target, pixels.reshape(6, 16) / 255, atol=FLOAT32)
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.files == ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    assert dataset.preprocessing == ({"step": "scale", "factor": "1/255"},)


def test_idx_image_size_is_an_area_average(root, write_pair):
    pixels = write_pair(root / "mnist", "train")
    dataset = load_dataset("mnist", data_dir=root, image_size=2)
    blocks = pixels.reshape(6, 2, 2, 2, 2).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(dataset.target, blocks.reshape(6, 4), atol=FLOAT32)
    assert dataset.image_shape == (2, 2)
    assert dataset.preprocessing[-1]["method"] == "area"


def test_idx_is_never_enlarged(root, write_pair):
    write_pair(root / "mnist", "train")
    with pytest.raises(ValueError, match="image_size=5 must be between 1 and 4"):
        load_dataset("mnist", data_dir=root, image_size=5)


def test_idx_splits(root, write_pair):
    for seed, prefix in enumerate(("zebra", "t10k", "apple", "train")):
        write_pair(root / "mnist", prefix, n=5 + seed, seed=seed)
    sizes = {
        split: load_dataset("mnist", split=split, data_dir=root).n_samples
        for split in ("train", "test", "apple", "zebra")
    }
    assert sizes == {"train": 8, "test": 6, "apple": 7, "zebra": 5}


def test_idx_without_labels_is_not_a_split(root, write_pair):
    write_pair(root / "mnist", "train")
    write_pair(root / "mnist", "t10k")
    (root / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    assert load_dataset("mnist", data_dir=root).split == "test"


def test_labels_of_another_length(root, write_pair, write_idx):
    write_pair(root / "mnist", "train")
    write_idx(root / "mnist" / "train-labels-idx1-ubyte.gz", np.zeros(5, dtype=np.uint8))
    with pytest.raises(CorruptFileError, match=r"holds \(5,\) labels and train-images.* 6 images"):
        load_dataset("mnist", data_dir=root)


def test_images_of_two_dimensions(root, write_pair, write_idx):
    write_pair(root / "mnist", "train")
    write_idx(root / "mnist" / "train-images-idx3-ubyte.gz", np.zeros((6, 4), dtype=np.uint8))
    with pytest.raises(CorruptFileError, match="must have 3 dimensions, and it has 2"):
        load_dataset("mnist", data_dir=root)


# --- Omniglot -----------------------------------------------------------------------------------


def drawing(seed: int) -> np.ndarray:
    """A 105x105 drawing, True where there is paper."""
    return np.random.default_rng(seed).random((105, 105)) > 0.1


@pytest.fixture
def small_sets(root, write_zip, encode):
    """Two minimal sets that share one drawing, as the official ones share two alphabets."""
    shared = encode(drawing(0))
    members = {
        "small1": {"Greek/character01/0001_01.png": shared, "Latin/c/1.png": encode(drawing(1))},
        "small2": {"Greek/character01/0001_01.png": shared, "Tagalog/c/1.png": encode(drawing(2))},
    }
    for name, content in members.items():
        top = f"images_background_{name}"
        write_zip(root / "omniglot" / f"{top}.zip", {f"{top}/{k}": v for k, v in content.items()})
    return root


def test_omniglot_is_ink_on_28x28(small_sets):
    dataset = load_dataset("omniglot", data_dir=small_sets, split="background_small1")
    ink = (~drawing(0)).astype(float)
    weights = area_matrix(28, 105)
    assert dataset.image_shape == (28, 28)
    np.testing.assert_allclose(
        dataset.target[0].reshape(28, 28), weights @ ink @ weights.T, atol=FLOAT32
    )
    # 784 roundings to float32, each relative 6e-8 of the sum at most
    assert dataset.target[0].sum() == pytest.approx(ink.sum() * (28 / 105) ** 2, rel=1e-5)


def test_omniglot_union_counts_a_drawing_once(small_sets):
    dataset = load_dataset("omniglot", data_dir=small_sets)
    assert dataset.split == "background"
    assert dataset.labels.tolist() == ["Greek/character01", "Latin/c", "Tagalog/c"]
    assert "3 different drawings; 1 are in both and counted once" in dataset.note
    assert dataset.files == ("images_background_small1.zip", "images_background_small2.zip")
    for row, seed in enumerate((0, 1, 2)):  # rows did not get mixed up between archives
        assert dataset.target[row].sum() == pytest.approx(
            (~drawing(seed)).sum() * (28 / 105) ** 2, rel=1e-5
        )


def test_omniglot_prefers_the_full_set(small_sets, write_zip, encode):
    members = {f"images_background/A/c/{i}.png": encode(drawing(i)) for i in range(5)}
    write_zip(small_sets / "omniglot" / "images_background.zip", members)
    dataset = load_dataset("omniglot", split="train", data_dir=small_sets)
    assert (dataset.n_samples, dataset.split) == (5, "background")
    assert dataset.files == ("images_background.zip",)


def test_one_small_set_is_not_the_background_split(small_sets):
    (small_sets / "omniglot" / "images_background_small2.zip").unlink()
    dataset = load_dataset("omniglot", data_dir=small_sets)
    assert dataset.split == "background_small1"
    assert "'background' was not found" in dataset.note


def test_omniglot_max_samples_and_image_size(small_sets):
    dataset = load_dataset("omniglot", data_dir=small_sets, max_samples=2, image_size=7)
    assert dataset.target.shape == (2, 49)
    assert {"step": "first", "n": 2} in dataset.preprocessing


def test_omniglot_drawing_of_another_size(root, write_zip, encode):
    content = {f"top/A/c/{i}.png": encode(drawing(0)[:50]) for i in range(2)}
    write_zip(root / "omniglot" / "images_background.zip", content)
    with pytest.raises(CorruptFileError, match=r"0\.png has shape \(50, 105\); .*105x105"):
        load_dataset("omniglot", data_dir=root)


# --- real samples -------------------------------------------------------------------------------


def top_eigenvalue(dataset):
    """Largest eigenvalue of the 1/n covariance."""
    covariance = np.cov(dataset.target.T.astype(np.float64), bias=True)
    return np.linalg.eigvalsh(covariance)[-1]


def test_real_mnist_test_split(real_data):
    root = real_data("mnist/t10k-images-idx3-ubyte.gz")
    dataset = load_dataset("mnist", split="test", data_dir=root)
    assert dataset.target.shape == (10_000, 784)
    assert np.bincount(dataset.labels).tolist()[:3] == [980, 1135, 1032]  # as published
    assert dataset.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert top_eigenvalue(dataset) == pytest.approx(5.3100, abs=5e-5)  # to the digits given


def test_real_fashion_subset(real_data):
    root = real_data("fashion_mnist/subset2764-images-idx3-ubyte.gz")
    dataset = load_dataset("fashion-mnist", split="subset2764", data_dir=root)
    assert dataset.target.shape == (2764, 784)
    assert np.bincount(dataset.labels)[0] == 284
    assert top_eigenvalue(dataset) == pytest.approx(19.4123, abs=5e-5)


def test_real_omniglot_small_sets_share_two_alphabets(real_data):
    root = real_data("omniglot/images_background_small2.zip")
    dataset = load_dataset("omniglot", split="background", data_dir=root)
    if dataset.files == ("images_background.zip",):
        pytest.skip("the full background set is here; the small ones are not used")
    assert dataset.n_samples == 2720 + 3120 - 1000  # Greek 24 * 20 and Latin 26 * 20 are in both
    assert np.unique(dataset.labels).size == 242
    assert top_eigenvalue(dataset) == pytest.approx(1.4255, abs=5e-5)


def test_real_omniglot_repeats_are_byte_identical(real_data):
    from linvae.data.files import read_members, zip_members

    folder = real_data("omniglot/images_background_small2.zip") / "omniglot"
    drawings = []
    for name in ("images_background_small1.zip", "images_background_small2.zip"):
        members = zip_members(folder / name, (".png",))
        keys = [member.partition("/")[2] for member in members]
        drawings.append(dict(zip(keys, read_members(folder / name, members), strict=True)))
    shared = drawings[0].keys() & drawings[1].keys()
    assert len(shared) == 1000
    assert all(drawings[0][key] == drawings[1][key] for key in shared)
    assert len(set(drawings[0].values()) & set(drawings[1].values())) == 1000  # by content too
