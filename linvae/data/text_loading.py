"""`load_text` and `load_text_splits`: sentences by name, or from a file of one's own."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache, partial
from typing import Any

from .sources import find_splits, locate, resolve
from .text import TextDataset
from .text_files import check_limits, read_text_file
from .text_generator import TextGenerator
from .text_sources import SPLIT_ALIASES, SPLITS, TEXT_SOURCES, text_names
from .vocabulary import Vocabulary

__all__ = ["SYNTHETIC_SENTENCES", "load_text", "load_text_splits", "synthetic_generator"]

LEAST = 10  # sentences of one file: 8, 1 and 1
SYNTHETIC_SENTENCES = dict(zip(SPLITS, (4_000, 1_000, 1_000), strict=True))


def load_text(
    name: str | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    split: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    vocabulary: Vocabulary | None = None,
    max_words: int | None = 20_000,
    min_count: int = 1,
    max_sentences: int | None = None,
    max_length: int | None = None,
) -> TextDataset:
    """Load sentences by name, or from a file of one's own.

    Parameters
    ----------
    name : str
        One of `text_names()`; "short_yelp" and "short-yelp" are the same.
    path : path
        A text file instead of a name, one sentence or `label TAB sentence` per line;
        `read_text_file` has more options.
    split : str, optional
        "train", "validation" or "test". None takes the training split, or the first one found
        without it; `TextDataset.note` says which and why.
    data_dir : path, optional
        Data root to search before LINVAE_DATA and the user's cache folder.
    vocabulary : Vocabulary, optional
        Of a training set. None builds it from the sentences read, as published for the training
        file: the `max_words` most frequent words that occur `min_count` times.
    max_words, min_count, max_sentences, max_length
        As in `read_text_file`.

    Returns
    -------
    TextDataset

    Raises
    ------
    ValueError
        For an unknown name or split, name and path both or neither, or an option out of range.
    MissingDataError
        If files are missing; the message says where to place them.
    CorruptFileError
        If a file is damaged or no text; see `read_text_file`.
    """
    options: dict[str, Any] = {
        "vocabulary": vocabulary,
        "max_words": max_words,
        "min_count": min_count,
        "max_sentences": max_sentences,
        "max_length": max_length,
    }
    if (name is None) == (path is None):
        raise ValueError(
            f"name={name!r} and path={path!r}: load_text needs one of them, a name among "
            f"{', '.join(text_names())} or the path of a text file"
        )
    if name is None:
        return _read_path(path, split, options)
    name = resolve(name, text_names(), "text dataset name")
    if name == "synthetic":
        return _read_synthetic(split, **options)
    source = TEXT_SOURCES[name]
    found = locate(source, split, data_dir)
    read = source.read(found.split, found.files, **options)
    return replace(read, note="; ".join(part for part in (found.note, read.note) if part))


def _read_path(
    path: str | os.PathLike[str] | None, split: str | None, options: dict[str, Any]
) -> TextDataset:
    if split not in (None, "all"):
        raise ValueError(
            f"split={split!r} of the file {path} must be 'all' or None; divide it with "
            "load_text_splits"
        )
    return read_text_file(str(path), **options)


@cache
def synthetic_generator() -> TextGenerator:
    """The generator of the dataset "synthetic", with the sizes of the published toy."""
    return TextGenerator.random(latent_scale=3.0, prior="mixture", seed=0)


def _read_synthetic(
    split: str | None,
    *,
    vocabulary: Vocabulary | None,
    max_words: int | None,
    min_count: int,
    max_sentences: int | None,
    max_length: int | None,
) -> TextDataset:
    """Sentences of `synthetic_generator`, another seed for each split."""
    split = SPLIT_ALIASES.get(split or "train", split or "train")
    if split not in SPLITS:
        raise ValueError(
            f"split={split!r} of dataset 'synthetic' must be one of {', '.join(SPLITS)}"
        )
    check_limits(max_sentences, max_length, "dataset 'synthetic'")
    n = SYNTHETIC_SENTENCES[split]
    if max_sentences is not None:
        n = min(n, max_sentences)
    drawn = replace(synthetic_generator().draw(n, seed=SPLITS.index(split))[0], split=split)
    if max_length is not None:
        drawn = drawn.longest(max_length)
    return drawn.reindexed(
        vocabulary or Vocabulary.from_counts(drawn.counts(), max_words, min_count)
    )


# --- three splits -------------------------------------------------------------------------------


def load_text_splits(
    name: str | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    max_words: int | None = 20_000,
    min_count: int = 1,
    max_sentences: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
) -> tuple[TextDataset, TextDataset, TextDataset]:
    """Load training, validation and test sentences, all with the vocabulary of the training set.

    Where not all three files are there, the training file, or else the largest one, is the
    training set, and another one is divided at random into two halves for validation and test. A
    single file, as one's own `path`, is divided into 80, 10 and 10 %. `TextDataset.note` says so.

    Parameters
    ----------
    name, path, data_dir, max_words, min_count, max_length
        As in `load_text`.
    max_sentences : int, optional
        Read only the first sentences of each file.
    seed : int, default=0
        Seed of a division.

    Returns
    -------
    (TextDataset, TextDataset, TextDataset)
        Training, validation, test; no line of a file is in two of them. `split` names the file
        that it comes from. Where lines repeat, a file's own parts can have the same sentence:
        `note` says how often.

    Raises
    ------
    ValueError, MissingDataError, CorruptFileError
        As `load_text`, and ValueError if a file has too few sentences to be divided.
    """
    load = partial(
        load_text,
        name,
        path=path,
        data_dir=data_dir,
        max_sentences=max_sentences,
        max_length=max_length,
    )
    built: dict[str, Any] = {"max_words": max_words, "min_count": min_count}
    here = _splits_here(name, data_dir)
    if len(here) < 2:
        return _three_parts(load(max_words=None), built, seed)
    train = load(split=here[0], **built)
    rest = [load(split=split, vocabulary=train.vocabulary) for split in here[1:]]
    if here[0] != SPLITS[0]:
        train = _noted(train, f"no training file: {here[0]!r}, the largest, stands for it")
    if len(rest) == 1:
        missing = f"one file for validation and test: half of {here[1]!r}"
        rest = [_noted(half, missing) for half in rest[0].divided(0.5, seed=seed)]
    return train, rest[0], rest[1]


def _splits_here(name: str | None, data_dir: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """Splits in files of their own, the one to train on first."""
    if name is None:
        return ()
    name = resolve(name, text_names(), "text dataset name")
    if name == "synthetic":
        return SPLITS
    found = find_splits(TEXT_SOURCES[name], data_dir)
    if SPLITS[0] in found:
        return tuple(found)
    return tuple(sorted(found, key=lambda split: -found[split][0].stat().st_size))


def _three_parts(
    whole: TextDataset, built: dict[str, Any], seed: int
) -> tuple[TextDataset, TextDataset, TextDataset]:
    """80, 10 and 10 % of one file, in the vocabulary of the first part."""
    if whole.n_samples < LEAST:
        raise ValueError(
            f"dataset {whole.name!r} has {whole.n_samples} sentences; at least {LEAST} are needed "
            "to divide one file into training, validation and test"
        )
    train, validation, test = whole.divided(0.8, 0.1, seed=seed)
    vocabulary = Vocabulary.from_counts(train.counts(), **built)
    note = f"one file only: divided into 80 % training, 10 % validation, 10 % test, seed {seed}"
    seen = {train.sentence(i).tobytes() for i in range(train.n_samples)}
    again = sum(test.sentence(i).tobytes() in seen for i in range(test.n_samples))
    if again:
        note += f", {again} of the {test.n_samples} test sentences are training sentences too"
    return (
        _noted(train.reindexed(vocabulary), note),
        _noted(validation.reindexed(vocabulary), note),
        _noted(test.reindexed(vocabulary), note),
    )


def _noted(dataset: TextDataset, note: str) -> TextDataset:
    return replace(dataset, note="; ".join(part for part in (note, dataset.note) if part))
