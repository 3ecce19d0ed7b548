"""What a text model says, as `Said`: reconstructions, interpolations, samples of the prior.

All of one member of a stack, `member=(seed index, point)`. A sentence that `max_length` cut short
ends with "...".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from linvae.models.decoding import (
    START,
    UNKNOWN,
    Decode,
    Decoded,
    TextModel,
    beam,
    greedy,
    interpolate,
    prior_latents,
    reconstruct,
    sample,
)
from linvae.models.recurrent import PADDING, StackedTextVAE
from linvae.printable import printable

__all__ = ["Coder", "Said", "Settings", "interpolation", "prior_samples", "reconstruction"]


class Coder(Protocol):
    """What is needed of a vocabulary; `linvae.data`'s is one."""

    def encode(self, words: Iterable[str], /) -> ArrayLike:
        """Tokens of a sentence, start and end included."""

    def decode(self, tokens: ArrayLike, /) -> list[str]:
        """Its words, without start and end."""


@dataclass(frozen=True)
class Settings:
    """How sentences are decoded and shown.

    | field         | meaning                                                        |
    |---------------|----------------------------------------------------------------|
    | `max_length`  | tokens of a sentence at most                                   |
    | `width`       | of the beam                                                    |
    | `temperature` | of what is sampled                                             |
    | `top_p`       | share of the probability that is sampled from, None: all of it |
    | `seed`        | of what is sampled                                             |
    | `forbid`      | tokens never said: unknown words, and a second start           |
    | `columns`     | width of the lines                                             |
    """

    max_length: int = 40
    width: int = 5
    temperature: float = 1.0
    top_p: float | None = None
    seed: int = 0
    forbid: tuple[int, ...] = (START, UNKNOWN)
    columns: int = 100

    def decodings(self) -> dict[str, Decode]:
        """Ways to decode latents, by their names in the lines."""
        return {
            "greedy": partial(greedy, max_length=self.max_length, forbid=self.forbid),
            "beam": partial(beam, max_length=self.max_length, width=self.width, forbid=self.forbid),
            "sampled": self.sampled,
        }

    def sampled(self, model: TextModel, z: Tensor | None, rows: int | None = None) -> Decoded:
        """`sample` with these settings."""
        return sample(
            model, z, self.max_length, temperature=self.temperature, top_p=self.top_p,
            seed=self.seed, rows=rows, forbid=self.forbid,
        )  # fmt: skip


@dataclass(frozen=True)
class Said:
    """Sentences with their names, in groups: one per sentence that is reconstructed, else one."""

    header: str
    title: str
    groups: tuple[tuple[tuple[str, str], ...], ...]
    columns: int

    @property
    def lines(self) -> list[str]:
        """A table, with a line between the groups; words are no markup."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(self.header, self.title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for group in self.groups:
            for name, sentence in group:
                table.add_row(name, Text(printable(sentence)))
            table.add_section()
        console = Console(width=self.columns, color_system=None, highlight=False)
        with console.capture() as captured:
            console.print(table)
        return [line.rstrip() for line in captured.get().splitlines()]

    def to_rows(self) -> list[dict[str, str | int]]:
        """`group`, from 1 on, `name` and `sentence`."""
        return [
            {"group": number, "name": name, "sentence": sentence}
            for number, group in enumerate(self.groups, start=1)
            for name, sentence in group
        ]


DEFAULT = Settings()


def reconstruction(
    model: StackedTextVAE,
    vocabulary: Coder,
    sentences: Sequence[str],
    *,
    member: tuple[int, int] = (0, 0),
    settings: Settings = DEFAULT,
) -> Said:
    """Every sentence as the model knows it, then decoded from its posterior mean in three ways."""
    own, tokens = model.member(*member), _tokens(model, vocabulary, sentences)
    texts = {"original": [_sentence(row, vocabulary) for row in tokens[0]]} | {
        name: _sentences(reconstruct(own, tokens, decode), vocabulary)
        for name, decode in settings.decodings().items()
    }
    names, columns = tuple(texts), zip(*texts.values(), strict=True)
    groups = tuple(tuple(zip(names, column, strict=True)) for column in columns)
    return Said("", "reconstruction", groups, settings.columns)


def interpolation(
    model: StackedTextVAE,
    vocabulary: Coder,
    first: str,
    last: str,
    *,
    steps: int = 7,
    spherical: bool = False,
    member: tuple[int, int] = (0, 0),
    settings: Settings = DEFAULT,
) -> Said:
    """Greedy sentences from `steps` latents between the posterior means of two sentences."""
    own = model.member(*member)
    a, b = (_tokens(model, vocabulary, [sentence]) for sentence in (first, last))
    decoded = interpolate(own, a, b, steps, settings.decodings()["greedy"], spherical=spherical)
    shares = [f"{share:.2f}" for share in np.linspace(0, 1, steps)]
    group = tuple(zip(shares, _sentences(decoded, vocabulary), strict=True))
    return Said("share", "interpolation", (group,), settings.columns)


def prior_samples(
    model: TextModel,
    vocabulary: Coder,
    n: int,
    *,
    member: tuple[int, int] = (0, 0),
    settings: Settings = DEFAULT,
) -> Said:
    """`n` sentences sampled from the model: z from the prior if it has one, then word by word."""
    own = model.member(*member)
    if isinstance(own, StackedTextVAE):
        decoded = settings.sampled(own, prior_latents(own, n, seed=settings.seed))
    else:
        decoded = settings.sampled(own, None, rows=n)
    numbers = [str(i + 1) for i in range(n)]
    group = tuple(zip(numbers, _sentences(decoded, vocabulary), strict=True))
    return Said("", "samples from the prior", (group,), settings.columns)


def _tokens(model: TextModel, vocabulary: Coder, sentences: Sequence[str]) -> Tensor:
    """(1, sentences, T), padded, where the model is."""
    if not sentences:
        raise ValueError("sentences is empty: give at least one")
    rows = [np.asarray(vocabulary.encode(sentence.split())) for sentence in sentences]
    tokens = np.full((1, len(rows), max(map(len, rows))), PADDING, dtype=np.int64)
    for padded, row in zip(tokens[0], rows, strict=True):
        padded[: len(row)] = row
    return torch.from_numpy(tokens).to(next(model.parameters()).device)


def _sentences(decoded: Decoded, vocabulary: Coder) -> list[str]:
    """One sentence per row of the one member."""
    return [
        _sentence(row, vocabulary) + ("" if whole else " ...")
        for row, whole in zip(decoded.tokens[0, 0], decoded.finished[0, 0], strict=True)
    ]


def _sentence(row: Tensor, vocabulary: Coder) -> str:
    return " ".join(vocabulary.decode(row[row != PADDING].tolist()))
