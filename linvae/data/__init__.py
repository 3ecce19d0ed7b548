"""The datasets of the suite by name: a `Dataset` or `TextDataset` with its provenance.

>>> from linvae.data import load_dataset
>>> load_dataset("digits").describe()[:32]
'digits [all]: n 1797, dim 64, sh'
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .dataset import Dataset
from .faces import CELEBA, FFHQ
from .files import CorruptFileError, MissingDataError, data_roots, is_published
from .heteroscedastic import Heteroscedastic
from .images import FASHION_MNIST, MNIST, OMNIGLOT
from .layout import ImageLayout
from .mixture import gaussian_mixture
from .published import published_checksum
from .sources import ImageSource, locate, resolve
from .synthetic import gaussian
from .text import PADDING, TextDataset
from .text_files import read_text_file
from .text_generator import TextGenerator
from .text_loading import load_text, load_text_splits, synthetic_generator
from .text_sources import TEXT_SOURCES, text_names
from .text_synthetic import SyntheticCorpus, synthetic_corpus
from .vocabulary import Vocabulary

__all__ = [
    "PADDING",
    "SOURCES",
    "TEXT_SOURCES",
    "CorruptFileError",
    "Dataset",
    "Heteroscedastic",
    "ImageLayout",
    "MissingDataError",
    "SyntheticCorpus",
    "TextDataset",
    "TextGenerator",
    "Vocabulary",
    "data_roots",
    "dataset_names",
    "gaussian",
    "gaussian_mixture",
    "load_dataset",
    "load_text",
    "load_text_splits",
    "read_text_file",
    "resolve_name",
    "synthetic_corpus",
    "synthetic_generator",
    "text_names",
]

SOURCES: dict[str, ImageSource] = {
    source.name: source for source in (MNIST, FASHION_MNIST, OMNIGLOT, CELEBA, FFHQ)
}


def _digits() -> Dataset:
    """Digits that come with scikit-learn: 1797 images of 8x8, values 0 to 16 divided by 16."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return Dataset(
        name="digits",
        target=pixels / 16,
        labels=labels,
        image_shape=(8, 8),
        preprocessing=({"step": "scale", "factor": "1/16"},),
        note="comes with scikit-learn; it has no published split",
    )


def _default_gaussian(correlation: float = 0.0) -> Dataset:
    """32 eigenvalues 0.85^i from 1.0 down, 4096 samples, seed 0, exact sample moments."""
    return gaussian(0.85 ** np.arange(32), 4096, correlation=correlation, seed=0)


# Datasets that are always there: no files, no split but "all".
_BUILT_IN: dict[str, Callable[[], Dataset]] = {"digits": _digits, "gaussian": _default_gaussian}


def dataset_names() -> tuple[str, ...]:
    """Names that `load_dataset` knows; the ones that need no files come first."""
    return (*_BUILT_IN, *SOURCES)


def resolve_name(name: str) -> str:
    """Return the registry's spelling of `name`; ValueError if there is no such dataset."""
    return resolve(name, dataset_names())


def load_dataset(
    name: str,
    *,
    split: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    max_samples: int | None = None,
    image_size: int | None = None,
    conditional: bool = False,
) -> Dataset:
    """Load a dataset by name.

    Parameters
    ----------
    name : str
        One of `dataset_names()`; "fashion_mnist" and "fashion-mnist" are the same.
    split : str, optional
        A published split, or another one that is there. None takes the published training
        split, or the first split found without it; `Dataset.note` says which and why.
    data_dir : path, optional
        Data root to search before LINVAE_DATA and the user's cache folder.
    download : bool, default=False
        Download the published files if the split (None: the training split) is missing.
    max_samples : int, optional
        Decode only the first samples of the split, at least 2. Files are sorted, so the first
        ones can be of one kind; `Dataset.subset` draws at random instead.
    image_size : int, optional
        Pixels a side. None: 28 for MNIST, Fashion-MNIST and Omniglot, 64 for CelebA and FFHQ.
    conditional : bool, default=False
        Give the target a condition: the bottom-left quarter of an image for the rest of it
        (`Dataset.quarter_task`), for "gaussian" as many components with correlation 0.6.

    Returns
    -------
    Dataset
        Images in [0, 1], shape (n, d), float32.

    Raises
    ------
    ValueError
        For an unknown name or split, or an option that the dataset does not have.
    MissingDataError
        If files are missing and were not, or cannot be, downloaded.
    CorruptFileError
        If a file is damaged.
    """
    name = resolve_name(name)
    if max_samples is not None and max_samples < 2:
        raise ValueError(
            f"max_samples={max_samples} must be at least 2, or None for all of {name!r}"
        )
    if name in _BUILT_IN:
        return _load_built_in(name, split, max_samples, image_size, conditional)
    source = SOURCES[name]
    if download:
        _download_if_missing(source, split, data_dir)
    found = locate(source, split, data_dir)
    dataset = source.load(found.split, found.files, max_samples, image_size)
    dataset = _annotate(dataset, found.note + _differences(found.files), max_samples)
    return dataset.quarter_task() if conditional else dataset


def _load_built_in(
    name: str,
    split: str | None,
    max_samples: int | None,
    image_size: int | None,
    conditional: bool,
) -> Dataset:
    if split not in (None, "all"):
        raise ValueError(f"split={split!r} of dataset {name!r} must be 'all' or None")
    if image_size is not None:
        raise ValueError(
            f"image_size={image_size}: dataset {name!r} has one size only; leave image_size out"
        )
    dataset = _BUILT_IN[name]()
    if conditional:
        dataset = _default_gaussian(0.6) if name == "gaussian" else dataset.quarter_task()
    if max_samples is None or max_samples >= dataset.n_samples:
        return dataset
    return _annotate(_first(dataset, max_samples), dataset.note, max_samples)


def _differences(files: tuple[Path, ...]) -> str:
    """What to know of files that have a published name and other bytes; "" where none has."""
    checksums = [(file, published_checksum(file)) for file in files]
    others = [file.name for file, sum_ in checksums if sum_ and not is_published(file, sum_)]
    return f"; not as published (linvae data verify): {', '.join(others)}" if others else ""


def _first(dataset: Dataset, n: int) -> Dataset:
    labels = None if dataset.labels is None else dataset.labels[:n]
    condition = None if dataset.condition is None else dataset.condition[:n]
    return replace(dataset, target=dataset.target[:n], condition=condition, labels=labels, note="")


def _annotate(dataset: Dataset, note: str, max_samples: int | None) -> Dataset:
    """Add why this split was taken, and that it was cut short, where that is so."""
    steps = dataset.preprocessing
    if max_samples is not None and max_samples == dataset.n_samples:
        steps = ({"step": "first", "n": max_samples}, *steps)
    notes = "; ".join(part for part in (note, dataset.note) if part)
    return replace(dataset, note=notes, preprocessing=steps)


def _download_if_missing(
    source: ImageSource, split: str | None, data_dir: str | os.PathLike[str] | None
) -> None:
    from .download import download

    try:
        locate(source, split or source.splits[0], data_dir)
    except MissingDataError:
        if source.can_download:
            download(source, data_dir)
