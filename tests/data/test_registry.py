"""Names, default splits, data roots, and the message when there is nothing."""

import json
import subprocess
import sys

import numpy as np
import pytest

from linvae.data import (
    SOURCES,
    MissingDataError,
    dataset_names,
    load_dataset,
    resolve_name,
)


def test_names():
    assert dataset_names() == (
        "digits",
        "gaussian",
        "mnist",
        "fashion-mnist",
        "omniglot",
        "celeba",
        "ffhq",
    )


@pytest.mark.parametrize("spelling", ["fashion-mnist", "fashion_mnist", "Fashion_MNIST"])
def test_spellings(spelling):
    assert resolve_name(spelling) == "fashion-mnist"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("minst", "did you mean 'mnist'"), ("omniglott", "did you mean 'omniglot'"), ("??", "ffhq$")],
)
def test_unknown_name_lists_the_known_and_the_nearest(name, hint):
    with pytest.raises(ValueError, match=rf"must be one of digits, gaussian, mnist.*{hint}"):
        load_dataset(name)


def test_digits():
    dataset = load_dataset("digits")
    assert (dataset.n_samples, dataset.target_dim, dataset.image_shape) == (1797, 64, (8, 8))
    assert dataset.target.min() == 0.0
    assert dataset.target.max() == 1.0
    assert np.bincount(dataset.labels).sum() == 1797
    assert (dataset.quarter_task().condition_dim, dataset.quarter_task().target_dim) == (16, 48)


def test_default_gaussian():
    dataset = load_dataset("gaussian")
    covariance = np.cov(dataset.target.T.astype(np.float64), bias=True)
    # float32 rounding of the samples, 6e-8 relative to the largest eigenvalue 1, with a margin
    np.testing.assert_allclose(
        np.linalg.eigvalsh(covariance)[::-1], 0.85 ** np.arange(32), atol=1e-6
    )


@pytest.mark.parametrize("name", ["digits", "gaussian"])
def test_built_in_options(name):
    assert load_dataset(name, split="all", max_samples=10).n_samples == 10
    assert load_dataset(name, max_samples=10).preprocessing[0] == {"step": "first", "n": 10}
    with pytest.raises(ValueError, match=r"split='train' of dataset .* must be 'all' or None"):
        load_dataset(name, split="train")
    with pytest.raises(ValueError, match="has one size only"):
        load_dataset(name, image_size=4)


@pytest.mark.parametrize("max_samples", [-1, 0, 1])
def test_max_samples_out_of_range(max_samples):
    with pytest.raises(ValueError, match=f"max_samples={max_samples} must be at least 2"):
        load_dataset("digits", max_samples=max_samples)


def test_preprocessing_is_json(root, write_pair):
    write_pair(root / "mnist", "train")
    dataset = load_dataset("mnist", data_dir=root, image_size=2).quarter_task().subset(3, seed=0)
    steps = [step["step"] for step in json.loads(json.dumps(dataset.preprocessing))]
    assert steps == ["scale", "resize", "quarter_task", "subset"]


# --- which split, from which root ---------------------------------------------------------------


def test_training_split_is_the_default(root, write_pair):
    write_pair(root / "mnist", "t10k")
    write_pair(root / "mnist", "train")
    dataset = load_dataset("mnist", data_dir=root)
    assert dataset.split == "train"
    assert dataset.note.startswith("published training split 'train'; not as published")


def test_first_split_found_otherwise_and_said(root, write_pair):
    write_pair(root / "mnist", "a-sample")
    write_pair(root / "mnist", "t10k")
    dataset = load_dataset("mnist", data_dir=root)
    assert dataset.split == "test"
    assert dataset.note.startswith("the training split 'train' was not found; took 'test'")


def test_argument_then_variable_then_cache(root, write_pair, monkeypatch):
    folders = [root / "argument", root / "variable", root.parent / "cache" / "linvae"]
    for n, folder in enumerate(folders, start=5):
        write_pair(folder / "mnist", "train", n=n)
    monkeypatch.setenv("LINVAE_DATA", str(folders[1]))
    assert load_dataset("mnist", data_dir=folders[0]).n_samples == 5
    assert load_dataset("mnist").n_samples == 6
    monkeypatch.delenv("LINVAE_DATA")
    assert load_dataset("mnist").n_samples == 7


def test_training_split_of_a_later_root_before_a_sample_of_the_first(root, write_pair):
    write_pair(root / "mnist", "sample", n=5)
    write_pair(root.parent / "cache" / "linvae" / "mnist", "train", n=6)
    assert load_dataset("mnist", data_dir=root).n_samples == 6
    assert load_dataset("mnist", data_dir=root, split="sample").n_samples == 5


def test_unknown_split(root, write_pair):
    write_pair(root / "mnist", "sample")
    with pytest.raises(ValueError, match=r"split='valid' .* train, test; found here: sample"):
        load_dataset("mnist", split="valid", data_dir=root)


def test_published_split_that_is_missing(root, write_pair):
    write_pair(root / "mnist", "t10k")
    with pytest.raises(MissingDataError, match=r"split 'train', are missing\. Splits found: test"):
        load_dataset("mnist", split="train", data_dir=root)


@pytest.mark.parametrize("name", list(SOURCES))
def test_missing_data_says_everything(root, monkeypatch, name):
    monkeypatch.setenv("LINVAE_DATA", str(root / "elsewhere"))
    (root / SOURCES[name].folder).mkdir()
    with pytest.raises(MissingDataError) as caught:
        load_dataset(name, data_dir=root)
    message = str(caught.value)
    for part in (
        f"dataset {name!r}",
        SOURCES[name].needs,
        f"{root / SOURCES[name].folder} (empty)",
        f"{root / 'elsewhere' / SOURCES[name].folder} (no such folder)",
        str(root.parent / "cache"),
        "LINVAE_DATA",
        SOURCES[name].terms,
        "digits",
    ):
        assert part in message
    command = f"python -m linvae.data download {name}"
    assert (command in message) == SOURCES[name].can_download
    assert ("accept the terms at https://" in message) != SOURCES[name].can_download


@pytest.mark.parametrize("name", ["celeba", "ffhq"])
def test_download_of_restricted_data_is_refused(root, name):
    with pytest.raises(MissingDataError, match="accept the terms at"):
        load_dataset(name, data_dir=root, download=True)


def test_import_is_light():
    """No heavy module comes with the registry."""
    code = (
        "import sys, linvae.data; "
        "print([m for m in ('PIL', 'sklearn', 'pooch', 'rich', 'torch', 'matplotlib') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
