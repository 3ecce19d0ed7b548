"""`Vocabulary`: the words that a text model knows, in the order of its output units."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .files import CorruptFileError

__all__ = ["END", "SPECIAL", "START", "UNKNOWN", "Vocabulary"]

START, END, UNKNOWN = 0, 1, 2
SPECIAL = ("<s>", "</s>", "<unk>")
# How published files write a word that was left out of the vocabulary, other than <unk>.
_ALSO_UNKNOWN = ("_UNK",)
_MOST_BYTES, _MOST_WORDS = 1 << 26, 1 << 21  # of a file; each word costs 130 bytes


@dataclass(frozen=True)
class Vocabulary:
    """Words by token: token k stands for `words[k]`.

    Parameters
    ----------
    words : tuple of str
        "<s>", "</s>" and "<unk>", the tokens START = 0, END = 1 and UNKNOWN = 2, then the words:
        different, not empty, without white space. A word that is not in it is UNKNOWN, and so is
        "_UNK", which stands for "<unk>" in some files.

    Raises
    ------
    ValueError
        If the three special words do not come first, or a word is empty, holds white space or
        comes twice.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what could not be written one word per line and read again."""
        object.__setattr__(self, "words", tuple(self.words))
        if self.words[: len(SPECIAL)] != SPECIAL:
            raise ValueError(
                f"words begin with {self.words[:3]} and must begin with {SPECIAL} in Vocabulary; "
                "Vocabulary.from_counts adds them"
            )
        seen: set[str] = set()
        for k, word in enumerate(self.words):
            if word.split() != [word] or word in seen or word in _ALSO_UNKNOWN:
                raise ValueError(
                    f"words[{k}]={word!r} must be one word without white space, given once, and "
                    f"not {_ALSO_UNKNOWN[0]!r}, in Vocabulary"
                )
            seen.add(word)

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], max_words: int | None = None, min_count: int = 1
    ) -> Vocabulary:
        """Take the `max_words` most frequent words (None: all) that occur `min_count` times.

        Order: frequency, ties by spelling (code points). Special words are not counted.

        Raises
        ------
        ValueError
            If max_words or min_count is below 1, or no word is left.
        """
        for name, value in (("max_words", max_words), ("min_count", min_count)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1 in Vocabulary.from_counts")
        reserved = {*SPECIAL, *_ALSO_UNKNOWN}
        kept = [word for word, n in counts.items() if n >= min_count and word not in reserved]
        kept.sort(key=lambda word: (-counts[word], word))
        if not kept:
            raise ValueError(
                f"no word of {len(counts)} occurs min_count={min_count} times or more; lower "
                "min_count, or give more text"
            )
        return cls((*SPECIAL, *kept[:max_words]))

    @classmethod
    def from_sentences(
        cls,
        sentences: Iterable[Iterable[str]],
        max_words: int | None = None,
        min_count: int = 1,
    ) -> Vocabulary:
        """`from_counts` of the words of `sentences`, each a sequence of words."""
        counts: Counter[str] = Counter()
        for sentence in sentences:
            counts.update(sentence)
        return cls.from_counts(counts, max_words, min_count)

    def __len__(self) -> int:
        """Number of tokens, special ones included: the outputs of a model."""
        return len(self.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """{word: token}, with the other spellings of UNKNOWN."""
        return {word: k for k, word in enumerate(self.words)} | dict.fromkeys(
            _ALSO_UNKNOWN, UNKNOWN
        )

    def encode(self, words: Iterable[str]) -> NDArray[np.int32]:
        """Tokens of a sentence, START first and END last; "<s>" and "</s>" in `words` are dropped.

        Raises ValueError for a string: split it into words first.
        """
        if isinstance(words, str):
            raise ValueError(
                f"words={words[:40]!r} is one string and must be a sequence of words in "
                "Vocabulary.encode; pass words.split()"
            )
        inner = [self.index.get(word, UNKNOWN) for word in words if word not in SPECIAL[:2]]
        return np.array([START, *inner, END], dtype=np.int32)

    def decode(self, tokens: ArrayLike) -> list[str]:
        """Words of a sentence, up to END and without START.

        Raises ValueError for what is no token.
        """
        words = []
        for token in np.asarray(tokens).tolist():
            if not 0 <= token < len(self):
                raise ValueError(
                    f"token {token} must be between 0 and {len(self) - 1} in Vocabulary.decode"
                )
            if token == END:
                break
            if token != START:
                words.append(self.words[token])
        return words

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the file that `save` writes."""
        return hashlib.sha256(self._content()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one word per line, UTF-8; line k + 1 is token k."""
        Path(path).write_bytes(self._content())

    def _content(self) -> bytes:
        return "".join(word + "\n" for word in self.words).encode()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read what `save` wrote.

        Raises
        ------
        CorruptFileError
            If the file is no UTF-8, has more than 2^21 lines, or these are no vocabulary.
        """
        path = Path(path)
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError(f"it has more than {_MOST_BYTES} bytes")
            content = path.read_bytes()
            if content.count(b"\n") > _MOST_WORDS:
                raise ValueError(f"it has more than {_MOST_WORDS} lines")
            lines = content.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
            return cls(tuple(lines))
        except ValueError as error:  # UnicodeDecodeError is one
            raise CorruptFileError(
                path,
                f"no vocabulary, which has one word per line ({error})",
                "Write it again with Vocabulary.save.",
            ) from error
