"""`Source`: what the registry knows of a dataset in files, and how its files are found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from linvae.nearest import nearest

from .dataset import Dataset
from .files import MissingDataError, data_roots
from .published import downloadable

__all__ = [
    "FoundSplit",
    "ImageSource",
    "Source",
    "Splits",
    "find_splits",
    "locate",
    "missing_message",
    "resolve",
]

Splits = dict[str, tuple[Path, ...]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One dataset that lives in files.

    Parameters
    ----------
    name, folder : str
        Name in the registry, and of the subfolder of a data root that holds the files.
    splits : tuple of str
        Published splits, the training split first.
    needs : str
        The files of the training split, for a reader.
    terms, origin : str
        Under what terms the data are offered, and where.
    find : callable
        Folder -> {split: files}, only splits that are there.
    count : callable
        (split, files) -> number of samples, without decoding them.
    aliases : mapping
        Other names of splits.
    works_now : str
        A dataset of the same kind that needs no files.
    """

    name: str
    folder: str
    splits: tuple[str, ...]
    needs: str
    terms: str
    origin: str
    find: Callable[[Path], Splits]
    count: Callable[[str, tuple[Path, ...]], int]
    aliases: Mapping[str, str] = field(default_factory=dict)
    works_now: str = "digits"

    @property
    def can_download(self) -> bool:
        """Whether the files have a public address."""
        return bool(downloadable(self.folder))

    @property
    def how(self) -> str:
        """How to get the files: the command, or what to place where."""
        if self.can_download:
            return f"python -m linvae.data download {self.name}"
        return f"accept the terms at {self.origin} and place {self.needs} in {self.folder}/"


@dataclass(frozen=True, kw_only=True)
class ImageSource(Source):
    """A `Source` of images; `load` is (split, files, max_samples, image_size) -> Dataset."""

    load: Callable[[str, tuple[Path, ...], int | None, int | None], Dataset]


@dataclass(frozen=True)
class FoundSplit:
    """A split that is there: its name, its files and why it was taken."""

    split: str
    files: tuple[Path, ...]
    note: str


def resolve(name: str, known: Sequence[str], what: str = "dataset name") -> str:
    """Return the registry's spelling of `name`; underscores and capitals are accepted.

    Raises
    ------
    ValueError
        If it is not among the `known`; the message lists all and suggests the nearest.
    """
    canonical = name.strip().lower().replace("_", "-")
    if canonical in known:
        return canonical
    hint = nearest(canonical, known)
    raise ValueError(f"{what}={name!r} must be one of {', '.join(known)}{hint}")


def locate(
    source: Source, split: str | None, data_dir: str | os.PathLike[str] | None
) -> FoundSplit:
    """Find the files of a split in the data roots; the first root that has it wins.

    With split=None the training split is taken where it is found, otherwise the first split
    found, published ones before others.

    Raises
    ------
    MissingDataError
        If the split, or any split, is in none of the folders tried.
    ValueError
        If `split` is neither published nor found.
    """
    found = find_splits(source, data_dir)
    if split is None:
        return _default_split(source, found, data_dir)
    wanted = source.aliases.get(split, split)
    if wanted in found:
        return FoundSplit(wanted, found[wanted], f"split {wanted!r} as asked")
    if wanted in source.splits:
        raise MissingDataError(missing_message(source, wanted, found, data_dir))
    raise ValueError(
        f"split={split!r} of dataset {source.name!r} must be one of the published splits "
        f"{', '.join(source.splits)}; found here: {', '.join(found) or 'none'}"
    )


def find_splits(source: Source, data_dir: str | os.PathLike[str] | None) -> Splits:
    """{split: files} over all data roots, published splits first, the first root winning."""
    found: Splits = {}
    for root in data_roots(data_dir):
        for split, files in source.find(root / source.folder).items():
            found.setdefault(split, files)
    published = [split for split in source.splits if split in found]
    others = sorted(set(found) - set(published))
    return {split: found[split] for split in (*published, *others)}


def _default_split(
    source: Source, found: Splits, data_dir: str | os.PathLike[str] | None
) -> FoundSplit:
    training = source.splits[0]
    if training in found:
        return FoundSplit(training, found[training], f"published training split {training!r}")
    if not found:
        raise MissingDataError(missing_message(source, training, found, data_dir))
    split, files = next(iter(found.items()))
    note = f"the training split {training!r} was not found; took {split!r}, the first one found"
    return FoundSplit(split, files, note)


def missing_message(
    source: Source, split: str, found: Splits, data_dir: str | os.PathLike[str] | None
) -> str:
    """The whole story: files needed, folders tried, terms, where to get them, what works now."""
    tried = [
        f"  {root / source.folder} ({_content(root / source.folder)})"
        for root in data_roots(data_dir)
    ]
    others = f"Splits found: {', '.join(found)}." if found else "No split of it was found."
    return "\n".join(
        [
            f"Files of dataset {source.name!r}, split {split!r}, are missing. {others}",
            f"Needed for {source.splits[0]!r}: {source.needs}.",
            "Folders tried:",
            *tried,
            "Name another place with --data-dir (data_dir=) or the variable LINVAE_DATA: the "
            f"folder that holds {source.folder}/.",
            f"Terms: {source.terms}.",
            f"To get them: {source.how}",
            f"Works now, without any file: {source.works_now}.",
        ]
    )


def _content(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "empty"
    return "holds " + ", ".join(names[:4]) + (f", ... {len(names)} in all" if names[4:] else "")
