"""`Dataset`: what it accepts, and the conditional task made of it."""

import dataclasses
import json

import numpy as np
import pytest

from linvae.data import Dataset


def images(height: int = 4, width: int = 4, channels: int | None = None, n: int = 5) -> Dataset:
    """Images whose value is their own position, plus 1000 times the sample number."""
    shape = (height, width) if channels is None else (height, width, channels)
    dim = int(np.prod(shape))
    target = np.arange(dim)[None, :] + 1000.0 * np.arange(n)[:, None]
    return Dataset(name="toy", target=target, image_shape=shape, labels=np.arange(n))


def test_target_is_contiguous_float32():
    dataset = Dataset(name="toy", target=np.arange(12.0).reshape(4, 3).T)
    assert dataset.target.dtype == np.float32
    assert dataset.target.flags.c_contiguous
    assert (dataset.n_samples, dataset.target_dim, dataset.condition_dim) == (3, 4, 0)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        images().name = "other"


def test_describe_names_everything():
    line = images().describe()
    assert line.startswith("toy [all]: n 5, dim 16, sha256 ")
    assert line.endswith(images().sha256[:12])
    assert "condition dim 4" in images().quarter_task().describe()


def test_sha256_of_arrays_depends_on_the_condition():
    target, condition = np.eye(3), np.ones((3, 1))
    plain = Dataset(name="toy", target=target)
    assert len(plain.sha256) == 64
    assert Dataset(name="other", target=target).sha256 == plain.sha256
    assert Dataset(name="toy", target=target, condition=condition).sha256 != plain.sha256


NAN = np.array([[0.0, 1.0], [2.0, np.nan]])
REFUSED = {
    "one dimension": ({"target": np.arange(3.0)}, r"target of dataset 'toy' has 1 dim.*reshape"),
    "three dimensions": ({"target": np.zeros((3, 2, 2))}, "has 3 dimensions, shape"),
    "one sample": ({"target": np.ones((1, 3))}, r"shape \(1, 3\) and must have at least 2"),
    "no feature": ({"target": np.ones((3, 0))}, "at least 2 samples and 1 feature"),
    "nan": ({"target": NAN}, r"target\[1, 1\]=nan of dataset 'toy' must be finite"),
    "overflow": ({"target": [[0, 1e39], [1, 1]]}, r"target\[0, 1\]=inf .* finite in float32"),
    "constant": ({"target": np.ones((3, 2))}, "zero variance in all 2 features.*3 samples"),
    "condition nan": ({"target": np.eye(2), "condition": NAN}, r"condition\[1, 1\]=nan"),
    "condition length": (
        {"target": np.eye(3), "condition": np.eye(2)},
        "condition of dataset 'toy' has 2 entries and target has 3 samples",
    ),
    "condition dimensions": (
        {"target": np.eye(3), "condition": np.arange(3.0)},
        "condition of dataset 'toy' has 1 dimensions",
    ),
    "labels length": (
        {"target": np.eye(3), "labels": np.arange(4)},
        "labels of dataset 'toy' has 4 entries",
    ),
    "image shape": (
        {"target": np.eye(3), "image_shape": (2, 2)},
        r"image_shape=\(2, 2\) .* equal to the 3 target features",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dataset(name="toy", **arguments)


@pytest.mark.parametrize("row", [0, 4999, 5000])
def test_a_nan_is_found_in_every_block(row):
    target = np.zeros((5001, 1))
    target[row] = np.nan
    with pytest.raises(ValueError, match=rf"target\[{row}, 0\]=nan"):
        Dataset(name="toy", target=target)


def test_one_different_sample_far_down_is_variance_enough():
    target = np.zeros((5001, 1))
    target[-1] = 1
    assert Dataset(name="toy", target=target).n_samples == 5001


# --- the quarter task ---------------------------------------------------------------------------


def test_quarter_is_bottom_left():
    task = images(4, 4).quarter_task()
    assert task.condition[0].tolist() == [8, 9, 12, 13]
    assert task.target[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 14, 15]
    assert task.image_shape is None


def test_quarter_of_28x28_is_the_published_196_of_784():
    task = images(28, 28).quarter_task()
    pixels = np.arange(784).reshape(28, 28)
    assert (task.condition_dim, task.target_dim) == (196, 588)
    np.testing.assert_array_equal(task.condition[0], pixels[14:, :14].reshape(-1))


def test_quarter_keeps_channels_together():
    task = images(2, 2, channels=3).quarter_task()
    assert task.condition[0].tolist() == [6, 7, 8]
    assert task.target_dim == 9


def test_quarter_of_odd_sizes_is_floored():
    task = images(5, 3).quarter_task()
    assert task.condition[0].tolist() == [9, 12]  # rows 3 and 4, column 0


def test_quarter_task_is_recorded_as_json():
    task = images(4, 4).quarter_task()
    assert task.labels.tolist() == [0, 1, 2, 3, 4]
    assert json.loads(json.dumps(task.preprocessing))[-1] == {
        "step": "quarter_task",
        "condition": "bottom-left quarter",
        "image_shape": [4, 4],
    }


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset(name="text", target=np.eye(3)), "dataset 'text' has image_shape=None"),
        (images().quarter_task(), "condition_dim=4, and needs images without a condition"),
        (images(1, 8), "dataset 'toy' are 1x8 and must be at least 2x2"),
    ],
    ids=["no image", "twice", "one row"],
)
def test_no_quarter_task(dataset, message):
    with pytest.raises(ValueError, match=message):
        dataset.quarter_task()


# --- subsets ------------------------------------------------------------------------------------


def test_subset_draws_without_replacement_and_keeps_rows_together():
    task = images(n=50).quarter_task()
    part = task.subset(20, seed=3)
    assert len(set(part.labels.tolist())) == 20
    np.testing.assert_array_equal(part.target, task.target[part.labels])
    np.testing.assert_array_equal(part.condition, task.condition[part.labels])
    assert part.preprocessing[-1] == {"step": "subset", "n": 20, "seed": 3}


def test_subset_depends_on_the_seed_only():
    dataset = images(n=50)
    first = dataset.subset(20, seed=0)
    np.testing.assert_array_equal(first.labels, dataset.subset(20, seed=0).labels)
    assert first.labels.tolist() != dataset.subset(20, seed=1).labels.tolist()


@pytest.mark.parametrize("n", [-1, 1, 6])
def test_subset_size_out_of_range(n):
    with pytest.raises(ValueError, match=f"n={n} must be between 2 and n_samples=5"):
        images().subset(n, seed=0)
