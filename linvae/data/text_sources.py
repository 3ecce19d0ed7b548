"""Text datasets in files: Yahoo, Yelp, short Yelp and the Penn Treebank.

Each lies in its own folder below a data root, directly or one folder deeper:

| name       | folder           | set                                                          |
|------------|------------------|--------------------------------------------------------------|
| yahoo      | text/yahoo       | Yahoo Answers of Yang et al. (2017), used by He et al. (2019)  |
| yelp       | text/yelp        | Yelp 2015 of Yang et al., used by He et al.                    |
| yelp13     | text/yelp13_vmf  | Yelp 2013 of Xu & Durrett (2018); the first word is the rating |
| short-yelp | text/short_yelp  | Yelp sentences of Shen et al. (2017) as used by Li et al. (2019) |
| ptb        | text/ptb         | Penn Treebank as tokenised by Mikolov                          |

With PREFIX yahoo, yelp, short_yelp or ptb, the first of these names that is there is read, or the
member of that name in a zip archive in the same place:

| split      | files                                                                  |
|------------|------------------------------------------------------------------------|
| train      | train.txt, PREFIX.train.txt, or a part of it: PREFIX.train.NUMBER.txt   |
| validation | valid.txt, val.txt, PREFIX.valid.txt, PREFIX.val.txt                    |
| test       | test.txt, PREFIX.test.txt                                              |

Lines are `sentence` or `label TAB sentence`, as the first line of the file is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .files import zip_members
from .sources import Source, Splits
from .text import TextDataset
from .text_files import count_sentences, read_text_file

__all__ = ["SPLITS", "SPLIT_ALIASES", "TEXT_SOURCES", "TextSource", "text_names"]

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {"valid": "validation", "val": "validation"}
_STEMS = {"train": ("train",), "validation": ("valid", "val"), "test": ("test",)}


@dataclass(frozen=True, kw_only=True)
class TextSource(Source):
    """A `Source` of sentences.

    `prefix` of its files as in this module's text, `labels` as in `read_text_file`.
    """

    prefix: str
    labels: str = "auto"

    def read(self, split: str, files: tuple[Path, ...], **options: Any) -> TextDataset:
        """Read a split that `find` found; options of `read_text_file`."""
        file = files[0]
        read = read_text_file(
            file,
            member=_member(file, split, self.prefix),
            name=self.name,
            split=split,
            labels=self.labels,
            **options,
        )
        if file.suffix == ".zip" or file.name in _names(split, self.prefix):
            return read
        return replace(read, note=f"{file.name} is a part of the training file")


# --- finding ------------------------------------------------------------------------------------


def _names(split: str, prefix: str) -> tuple[str, ...]:
    """File names of a split, in order of preference."""
    stems = _STEMS[split]
    return (*(f"{stem}.txt" for stem in stems), *(f"{prefix}.{stem}.txt" for stem in stems))


def _find(prefix: str, folder: Path) -> Splits:
    """Text files first, then archives, then a part of the training file."""
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    found: Splits = {}
    for look in (_text_files, _archives, _training_parts):
        # an archive beside a complete set of text files is not opened
        if len(found) < len(SPLITS):
            for split, file in look(prefix, places):
                found.setdefault(split, (file,))
    return found


def _text_files(prefix: str, places: list[Path]) -> Iterator[tuple[str, Path]]:
    for place in places:
        for split in SPLITS:
            files = [place / name for name in _names(split, prefix)]
            yield from ((split, file) for file in files if file.is_file())


def _archives(prefix: str, places: list[Path]) -> Iterator[tuple[str, Path]]:
    for place in places:
        for archive in sorted(place.glob("*.zip")):
            yield from ((split, archive) for split in SPLITS if _member(archive, split, prefix))


def _training_parts(prefix: str, places: list[Path]) -> Iterator[tuple[str, Path]]:
    for place in places:
        yield from (("train", part) for part in sorted(place.glob(f"{prefix}.train.*.txt")))


def _member(path: Path, split: str, prefix: str) -> str:
    """Name of the text file of a split inside an archive; empty for a text file, or without it."""
    if path.suffix != ".zip":
        return ""
    members = {name.rpartition("/")[2]: name for name in zip_members(path, (".txt",))}
    return next((members[name] for name in _names(split, prefix) if name in members), "")


def _count(prefix: str, split: str, files: tuple[Path, ...]) -> int:
    return count_sentences(files[0], _member(files[0], split, prefix))


# --- the sources --------------------------------------------------------------------------------


def _source(
    name: str, prefix: str, origin: str, *, folder: str = "", labels: str = "auto"
) -> TextSource:
    return TextSource(
        name=name,
        folder=f"text/{folder or prefix}",
        splits=SPLITS,
        needs=f"train.txt or {prefix}.train.txt, one sentence per line (likewise valid and test)",
        terms="research use, unclear for redistribution",
        origin=origin,
        find=partial(_find, prefix),
        count=partial(_count, prefix),
        aliases=SPLIT_ALIASES,
        works_now="synthetic",
        prefix=prefix,
        labels=labels,
    )


_HE = "https://github.com/jxhe/vae-lagging-encoder"
TEXT_SOURCES: dict[str, TextSource] = {
    source.name: source
    for source in (
        _source("yahoo", "yahoo", _HE),
        _source("yelp", "yelp", _HE),
        _source(
            "yelp13",
            "yelp",
            "https://github.com/jiacheng-xu/vmf_vae_nlp",
            folder="yelp13_vmf",
            labels="first",
        ),
        _source("short-yelp", "short_yelp", "https://github.com/bohanli/vae-pretraining-encoder"),
        _source("ptb", "ptb", "https://catalog.ldc.upenn.edu/LDC99T42"),
    )
}


def text_names() -> tuple[str, ...]:
    """Names that `load_text` knows; the one that needs no files comes first."""
    return ("synthetic", *TEXT_SOURCES)
