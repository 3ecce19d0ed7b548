"""Sentences from files, one per line, with bounded memory and an error that names the line.

A line is `sentence`, `label TAB sentence` or `label sentence`; words are what white space
divides. Lines without a word are skipped. Text is UTF-8.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import IO

import numpy as np

from .dataset import Step
from .files import CorruptFileError, MissingDataError, open_bytes, sha256_of
from .text import TextDataset
from .vocabulary import END, SPECIAL, START, Vocabulary

__all__ = ["LABELS", "check_limits", "count_sentences", "read_text_file"]

LABELS = ("auto", "none", "tab", "first")
_BOM = b"\xef\xbb\xbf"
# Published sentences have at most 200 words; a line this long is no sentence, and reading stops
# before it fills the memory.
_LINE_BYTES, _LINE_WORDS = 1 << 20, 10_000
_MOST_WORDS = 1 << 21  # different ones: each costs 300 bytes on the way to a vocabulary
_LABEL_BYTES = 1 << 28  # of all labels, each as long as the longest, 4 bytes a character
_OTHER_SPELLINGS = len(Vocabulary(SPECIAL).index) - len(SPECIAL)  # of <unk>


def read_text_file(
    path: str | os.PathLike[str],
    *,
    member: str = "",
    name: str = "",
    split: str = "all",
    labels: str = "auto",
    vocabulary: Vocabulary | None = None,
    max_words: int | None = 20_000,
    min_count: int = 1,
    max_sentences: int | None = None,
    max_length: int | None = None,
) -> TextDataset:
    """Read a text file, one sentence per line.

    Parameters
    ----------
    path : path
        The file, or a zip archive with the text file `member`.
    member : str, optional
        File inside the archive `path`.
    name, split : str, optional
        What the dataset is called; the file's name and "all" if not given.
    labels : str, default="auto"
        "tab": every line is `label TAB sentence`. "first": the first word is the label. "none":
        no labels. "auto": as the first line, "tab" if it has a TAB, otherwise "none"; then no
        other line may differ.
    vocabulary : Vocabulary, optional
        Of a training set. None builds it from the sentences that are kept:
        `Vocabulary.from_counts` with max_words and min_count.
    max_words : int or None, default=20_000
        Words of a vocabulary built here, special ones not counted; None keeps all.
    min_count : int, default=1
        Occurrences that a word of a vocabulary built here needs.
    max_sentences : int, optional
        Stop after so many sentences.
    max_length : int, optional
        Drop sentences of more words.

    Returns
    -------
    TextDataset
        `preprocessing` says how many lines were blank and how many sentences too long.

    Raises
    ------
    MissingDataError
        If there is no such file.
    CorruptFileError
        If the file is empty, blank, binary, no UTF-8, has a line beyond 2^20 bytes or 10,000
        words, more than 2^21 different words, labels that are sentences, or labels on some lines
        only; the message names the line.
    ValueError
        For an option out of range, or if max_length drops everything.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(
            f"{path}: no such file; give the path of a text file with one sentence per line"
        )
    if labels not in LABELS:
        raise ValueError(f"labels={labels!r} must be one of {', '.join(LABELS)} for {path}")
    check_limits(max_sentences, max_length, str(path))
    file = _File(path, member)
    sentences = _Sentences(file, labels, max_length)
    with open_bytes(path, member) as stream:
        for number, text in file.lines(stream):
            sentences.add(number, text)
            if len(sentences.ends) - 1 == max_sentences:
                break
    read = sentences.dataset(name or path.name, split)
    if max_sentences == read.n_samples:
        first: Step = {"step": "first", "n": max_sentences}
        read = replace(read, preprocessing=(*read.preprocessing, first))
    return read.reindexed(vocabulary or Vocabulary.from_counts(read.counts(), max_words, min_count))


def check_limits(max_sentences: int | None, max_length: int | None, what: str) -> None:
    """ValueError for a limit below 1."""
    for option, value in (("max_sentences", max_sentences), ("max_length", max_length)):
        if value is not None and value < 1:
            raise ValueError(f"{option}={value} must be at least 1, or None for all, for {what}")


def count_sentences(path: Path, member: str = "") -> int:
    """Lines with a word."""
    with open_bytes(path, member) as stream:
        return sum(1 for _, text in _File(path, member).lines(stream) if text.strip())


@dataclass(frozen=True)
class _File:
    """A text file, perhaps a member of an archive, that can say what is wrong with it."""

    path: Path
    member: str

    def error(self, reason: str, remedy: str) -> CorruptFileError:
        where = f"member {self.member}, " if self.member else ""
        return CorruptFileError(self.path, where + reason, remedy)

    def lines(self, stream: IO[bytes]) -> Iterator[tuple[int, str]]:
        """Yield (line number from 1, text); never holds more than _LINE_BYTES of the file."""
        start = 0  # of the line in the file, bytes
        for number in count(1):
            line = stream.readline(_LINE_BYTES + 1)
            if not line:
                return
            self._check_bytes(line, number)
            skipped = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            try:
                text = line[skipped:].decode()
            except UnicodeDecodeError as error:
                byte = line[skipped + error.start]
                raise self.error(
                    f"line {number} is no UTF-8: byte {start + skipped + error.start} of the file "
                    f"is 0x{byte:02x}",
                    "Convert it, if it is Latin-1 with: iconv -f latin1 -t utf-8 OLD > NEW",
                ) from error
            yield number, text
            start += len(line)

    def _check_bytes(self, line: bytes, number: int) -> None:
        if b"\0" in line:
            raise self.error(
                f"line {number} holds a NUL byte, so this is no UTF-8 text",
                "Give a text file; convert UTF-16 with: iconv -f utf-16 -t utf-8 OLD > NEW",
            )
        if len(line) > _LINE_BYTES:
            raise self.error(
                f"line {number} is longer than {_LINE_BYTES} bytes", "Put one sentence on a line."
            )


@dataclass
class _Sentences:
    """Sentences as they are read: 4 bytes a token, each different word once."""

    file: _File
    labels: str
    max_length: int | None
    # Tokens in order of appearance: a vocabulary needs all counts, and those come last.
    index: dict[str, int] = field(default_factory=lambda: dict(Vocabulary(SPECIAL).index))
    tokens: array[int] = field(default_factory=lambda: array("i"))
    ends: array[int] = field(default_factory=lambda: array("q", [0]))
    found_labels: list[str] = field(default_factory=list)
    guessed: bool = False  # whether `labels` was read off the first line
    lines: int = 0
    blank: int = 0
    too_long: int = 0

    def add(self, number: int, text: str) -> None:
        """Add the sentence of one line, if it holds one that is not too long."""
        self.lines = number
        label, words = self._parts(number, text)
        if len(words) > _LINE_WORDS:
            raise self.file.error(
                f"line {number} has {len(words)} words, and at most {_LINE_WORDS} are read",
                "Put one sentence on a line.",
            )
        words = [word for word in words if word not in SPECIAL[:2]]
        if not words:
            self.blank += 1
        elif self.max_length is not None and len(words) > self.max_length:
            self.too_long += 1
        else:
            self.tokens.append(START)
            self.tokens.extend([self._token(word) for word in words])
            self.tokens.append(END)
            self.ends.append(len(self.tokens))
            self.found_labels.append(sys.intern(label))
        if len(self.index) > _MOST_WORDS:
            raise self.file.error(
                f"up to line {number} it has more than {_MOST_WORDS} different words",
                "Divide it into words first, or give a part of it.",
            )

    def _token(self, word: str) -> int:
        """Token of a word, a new one for a new word."""
        return self.index.setdefault(word, len(self.index) - _OTHER_SPELLINGS)

    def _parts(self, number: int, text: str) -> tuple[str, list[str]]:
        """Label and words of a line."""
        if not text.strip():
            return "", []
        if self.labels == "auto":
            self.labels, self.guessed = "tab" if "\t" in text.strip() else "none", True
        if self.labels == "first":
            label, *words = text.split()
            return label, words
        label, tab, sentence = text.partition("\t")
        if self.labels == "tab":
            if not tab:
                raise self.file.error(
                    f"line {number} has no TAB: it lacks the label that other lines have",
                    "Make every line `label TAB sentence`, or take the labels away.",
                )
            return label.strip(), sentence.split()
        if self.guessed and "\t" in text.strip():
            raise self.file.error(
                f"line {number} has a TAB, as if it had a label, and the first line has none",
                "Make every line `label TAB sentence`, or read it with labels='none': a TAB is "
                "then a blank.",
            )
        return "", text.split()

    def dataset(self, name: str, split: str) -> TextDataset:
        """All sentences, in a vocabulary of all words."""
        if len(self.ends) == 1:
            raise self._nothing()
        labelled = self.labels in ("tab", "first")
        step: Step = {
            "step": "read",
            "labels": self.labels if labelled else "none",
            "blank_lines": self.blank,
        } | ({"member": self.file.member} if self.file.member else {})
        if labelled:
            self._check_labels()
        steps: tuple[Step, ...] = (step,)
        if self.max_length is not None:
            steps += ({"step": "longest", "max_length": self.max_length, "dropped": self.too_long},)
        return TextDataset(
            name=name,
            split=split,
            tokens=np.frombuffer(self.tokens, dtype=np.int32),
            offsets=np.frombuffer(self.ends, dtype=np.int64),
            vocabulary=Vocabulary(self._words()),
            labels=np.array(self.found_labels) if labelled else None,
            preprocessing=steps,
            files=(self.file.path.name,),
            sha256=sha256_of([self.file.path]),
        )

    def _check_labels(self) -> None:
        """Refuse a label that makes the array of all of them large."""
        longest = max(self.found_labels, key=len)
        if 4 * len(longest) * len(self.found_labels) > _LABEL_BYTES:
            raise self.file.error(
                f"its label {longest[:40]!r}... has {len(longest)} characters, too many for one of "
                f"{len(self.found_labels)} sentences",
                "Give short labels, or read it with labels='none': a TAB is then a blank.",
            )

    def _words(self) -> tuple[str, ...]:
        """Words in the order of their tokens."""
        return SPECIAL + tuple(word for word, k in self.index.items() if k >= len(SPECIAL))

    def _nothing(self) -> ValueError:
        """Say why there is no sentence."""
        if self.too_long:
            return ValueError(
                f"max_length={self.max_length} drops all {self.too_long} sentences of "
                f"{self.file.path}; allow longer ones"
            )
        what = f"all of its {self.lines} lines are blank" if self.lines else "it is empty"
        return self.file.error(what, "Give a text file with one sentence per line.")
