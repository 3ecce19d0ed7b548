"""`TextDataset`: sentences as tokens with where they came from, and batches of equal lengths."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dataset import Step
from .vocabulary import END, START, UNKNOWN, Vocabulary

__all__ = ["PADDING", "TextDataset"]

IntArray = NDArray[np.int64]

PADDING = -1  # in the place of tokens after the end of a sentence


@dataclass(frozen=True, eq=False)
class TextDataset:
    """Sentences one after the other; sentence i is `tokens[offsets[i] : offsets[i + 1]]`.

    Parameters
    ----------
    name : str
        Name in the registry, or the user's own.
    tokens : array, shape (total,)
        Tokens of all sentences, stored as int32; each sentence begins with START, which a model
        is given, and ends with END, which it predicts.
    offsets : array, shape (n + 1,)
        Where the sentences begin, and `total`; stored as int64.
    vocabulary : Vocabulary
        What the tokens stand for.
    split : str, default="all"
        Which published part of the data this is.
    labels : array of str, shape (n,), or None
        Annotations as published. No function of this package trains on them.
    preprocessing : tuple of dicts
        One JSON-able dict per step, in the order applied, each with a key "step".
    files : tuple of str
        Names of the files read, in order.
    sha256 : str
        Hex digest of the raw bytes of `files` in that order. When empty it is filled in with
        the digest of tokens, offsets and vocabulary.
    note : str
        What a reader should know: which split was taken and why, what is incomplete.

    Raises
    ------
    ValueError
        If there is no sentence, offsets do not cover the tokens, a token is none of the
        vocabulary, or START and END are missing at the ends of a sentence or stand inside it.
    """

    name: str
    tokens: NDArray[np.int32]
    offsets: IntArray
    vocabulary: Vocabulary
    split: str = "all"
    labels: NDArray[np.str_] | None = None
    preprocessing: tuple[Step, ...] = ()
    files: tuple[str, ...] = ()
    sha256: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        """Convert the arrays and refuse what is no list of sentences."""
        object.__setattr__(self, "tokens", np.ascontiguousarray(self.tokens, dtype=np.int32))
        object.__setattr__(self, "offsets", np.ascontiguousarray(self.offsets, dtype=np.int64))
        _check_offsets(self.offsets, self.tokens, self.name)
        _check_tokens(self.tokens, self.offsets, len(self.vocabulary), self.name)
        if self.labels is not None:
            object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.str_))
            if self.labels.shape != (self.n_samples,):
                raise ValueError(
                    f"labels of dataset {self.name!r} have shape {self.labels.shape} and must "
                    f"have shape ({self.n_samples},), entry i belonging to sentence i"
                )
        if not self.sha256:
            digest = hashlib.sha256(self.tokens.data)
            digest.update(self.offsets.data)
            digest.update(self.vocabulary.sha256.encode())
            object.__setattr__(self, "sha256", digest.hexdigest())

    @property
    def n_samples(self) -> int:
        """Number of sentences n."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sentence, START and END among them, (n,)."""
        lengths: IntArray = np.diff(self.offsets)
        return lengths

    @property
    def n_words(self) -> int:
        """Predicted tokens of all sentences: words and END, not START."""
        return len(self.tokens) - self.n_samples

    @property
    def unknown_share(self) -> float:
        """Share of UNKNOWN among the words, END not counted."""
        words = self.n_words - self.n_samples
        return float(np.count_nonzero(self.tokens == UNKNOWN)) / max(words, 1)

    def sentence(self, i: int) -> NDArray[np.int32]:
        """Tokens of sentence i, START first and END last; IndexError outside 0 ... n - 1."""
        if not 0 <= i < self.n_samples:
            raise IndexError(
                f"i={i} must be between 0 and {self.n_samples - 1}, sentences of dataset "
                f"{self.name!r}"
            )
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def text(self, i: int) -> str:
        """Words of sentence i, blanks between them."""
        return " ".join(self.vocabulary.decode(self.sentence(i)))

    def describe(self) -> str:
        """Return one line: name, split, sizes, unknown words, first 12 digits of the sha256."""
        return (
            f"{self.name} [{self.split}]: n {self.n_samples}, words {self.n_words}, vocabulary "
            f"{len(self.vocabulary)}, unknown {100 * self.unknown_share:.2f} %, longest "
            f"{self.lengths.max() - 2}, sha256 {self.sha256[:12]}"
        )

    def padded(self) -> IntArray:
        """Sentences as rows, (n, max length) int64, `PADDING` after END."""
        lengths = self.lengths
        rows = np.full((self.n_samples, lengths.max()), PADDING, dtype=np.int64)
        rows[np.arange(rows.shape[1]) < lengths[:, None]] = self.tokens
        return rows

    def taken(self, rows: ArrayLike, step: Step) -> TextDataset:
        """Sentences `rows` in that order; `step` says in `preprocessing` which these are."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # position in `tokens` of every token taken: start of its sentence + place inside it
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return replace(
            self,
            tokens=self.tokens[np.repeat(self.offsets[rows], lengths) + inside],
            offsets=offsets,
            labels=None if self.labels is None else self.labels[rows],
            preprocessing=(*self.preprocessing, step),
        )

    def subset(self, n: int, seed: int) -> TextDataset:
        """Return `n` sentences drawn without replacement, in their original order.

        Raises
        ------
        ValueError
            If n is not between 1 and `n_samples`.
        """
        if not 1 <= n <= self.n_samples:
            raise ValueError(
                f"n={n} must be between 1 and n_samples={self.n_samples} of dataset "
                f"{self.name!r}; sentences are drawn without replacement"
            )
        rows = np.random.default_rng(seed).choice(self.n_samples, size=n, replace=False)
        return self.taken(np.sort(rows), {"step": "subset", "n": n, "seed": seed})

    def divided(self, *shares: float, seed: int) -> tuple[TextDataset, ...]:
        """Random disjoint parts, round(share * n) sentences each and the rest as the last.

        `divided(0.8, 0.1, seed=0)` gives 80, 10 and 10 %. Order inside a part is the original.

        Raises
        ------
        ValueError
            If a share is not positive, they leave nothing, or a part would be empty.
        """
        n = self.n_samples
        ends = np.rint(np.cumsum(shares) * n).astype(int)
        sizes = np.diff([0, *ends.tolist(), n])
        if not shares or min(shares) <= 0 or sizes.min() < 1:
            raise ValueError(
                f"shares={shares} give parts of {sizes.tolist()} sentences of the {n} of dataset "
                f"{self.name!r}; they must be positive, add up to less than 1 and leave no part "
                "empty"
            )
        parts = np.split(np.random.default_rng(seed).permutation(n), ends)
        step = {"step": "divided", "shares": list(shares), "seed": seed}
        return tuple(self.taken(np.sort(part), {**step, "part": k}) for k, part in enumerate(parts))

    def longest(self, max_length: int) -> TextDataset:
        """Sentences of at most `max_length` words, START and END not counted; others are dropped.

        Raises
        ------
        ValueError
            If none is left.
        """
        rows = np.flatnonzero(self.lengths <= max_length + 2)
        if not len(rows):
            raise ValueError(
                f"max_length={max_length} leaves no sentence of dataset {self.name!r}; the "
                f"shortest has {self.lengths.min() - 2} words"
            )
        dropped = self.n_samples - len(rows)
        return self.taken(rows, {"step": "longest", "max_length": max_length, "dropped": dropped})

    def counts(self) -> dict[str, int]:
        """{word: how often it occurs}, special words and END among them."""
        counts = np.bincount(self.tokens, minlength=len(self.vocabulary))
        return dict(zip(self.vocabulary.words, counts.tolist(), strict=True))

    def reindexed(self, vocabulary: Vocabulary) -> TextDataset:
        """Return the same sentences in tokens of `vocabulary`; words it lacks become UNKNOWN."""
        index = vocabulary.index
        table = np.array([index.get(word, UNKNOWN) for word in self.vocabulary.words], np.int32)
        step = {"step": "vocabulary", "size": len(vocabulary), "sha256": vocabulary.sha256}
        return replace(
            self,
            tokens=table[self.tokens],
            vocabulary=vocabulary,
            preprocessing=(*self.preprocessing, step),
        )


def _check_offsets(offsets: IntArray, tokens: NDArray[np.int32], name: str) -> None:
    if tokens.ndim != 1 or offsets.ndim != 1 or len(offsets) < 2:
        raise ValueError(
            f"tokens and offsets of dataset {name!r} have shapes {tokens.shape} and "
            f"{offsets.shape}, and must be (total,) and (n + 1,) with n >= 1 sentences"
        )
    if offsets[0] != 0 or offsets[-1] != len(tokens) or np.diff(offsets).min() < 2:
        raise ValueError(
            f"offsets of dataset {name!r} run from {offsets[0]} to {offsets[-1]}, smallest step "
            f"{np.diff(offsets).min()}; they must run from 0 to {len(tokens)}, the number of "
            "tokens, in steps of at least 2, START and END"
        )


def _check_tokens(tokens: NDArray[np.int32], offsets: IntArray, size: int, name: str) -> None:
    wrong = np.flatnonzero((tokens < 0) | (tokens >= size))
    if len(wrong):
        raise ValueError(
            f"tokens[{wrong[0]}]={tokens[wrong[0]]} of dataset {name!r} must be between 0 and "
            f"{size - 1}, the last of its vocabulary"
        )
    starts, ends = np.flatnonzero(tokens == START), np.flatnonzero(tokens == END)
    if not np.array_equal(starts, offsets[:-1]) or not np.array_equal(ends, offsets[1:] - 1):
        raise ValueError(
            f"sentences of dataset {name!r} must begin with START={START} and end with END={END}, "
            "and hold neither inside; Vocabulary.encode makes them so"
        )


# --- batches ------------------------------------------------------------------------------------
