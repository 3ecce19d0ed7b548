"""What a text model says as lines, against the tokens that were decoded."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from linvae.models.decoding import beam, greedy, interpolate, prior_latents, reconstruct, sample
from linvae.models.recurrent import SequenceSizes, StackedLanguageModel, StackedTextVAE
from linvae.spec import VAESpec
from linvae.text_samples import Settings, interpolation, prior_samples, reconstruction

WORDS = ("<s>", "</s>", "<unk>", "a", "[b]", "dog", "runs", "far")
SPEC = VAESpec(2, likelihood="multinomial")
SETTINGS = Settings(max_length=6, width=3, temperature=0.8, top_p=0.9, seed=4)
SENTENCES = ["a dog runs far", "[b] cat"]


class Words:
    """Words by their place in `WORDS`; strict, as a real vocabulary is."""

    def encode(self, words):
        inner = [WORDS.index(w) if w in WORDS else 2 for w in words]
        return np.array([0, *inner, 1], dtype=np.int32)

    def decode(self, tokens):
        assert all(0 <= t < len(WORDS) for t in tokens)
        return [WORDS[t] for t in tokens if t > 1]


def text_model(made=StackedTextVAE):
    model = made(SPEC, vocabulary=len(WORDS), sizes=SequenceSizes(4, 6), seeds=(0, 1), n_points=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def said(row) -> str:
    """The sentence of a row of tokens, with dots where no end was reached."""
    row = [t for t in row.tolist() if t >= 0]
    return " ".join([WORDS[t] for t in row if t > 1] + ([] if 1 in row else ["..."]))


def cells(lines: list[str]) -> list[tuple[str, str]]:
    """First column and sentence of every row; neither header nor rules."""
    rows = [line for line in lines[1:] if line and set(line.strip()) - {"─"}]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in rows]


def test_reconstruction_shows_what_is_decoded():
    """Of the member asked for; the original as the vocabulary knows it; words are no markup."""
    model = text_model()
    lines = reconstruction(model, Words(), SENTENCES, member=(1, 0), settings=SETTINGS).lines
    assert "reconstruction" in lines[0]
    own, options = model.member(1, 0), {"max_length": 6, "forbid": (0, 2)}
    tokens = torch.tensor([[[0, 3, 5, 6, 7, 1], [0, 4, 2, 1, -1, -1]]])
    decoded = [
        reconstruct(own, tokens, decode).tokens[0, 0]
        for decode in (
            partial(greedy, **options),
            partial(beam, width=3, **options),
            partial(sample, temperature=0.8, top_p=0.9, seed=4, **options),
        )
    ]
    expected = []
    for i, original in enumerate(["a dog runs far", "[b] <unk>"]):
        expected += [("original", original), ("greedy", said(decoded[0][i]))]
        expected += [("beam", said(decoded[1][i])), ("sampled", said(decoded[2][i]))]
    assert cells(lines) == expected
    assert any("..." in sentence for _, sentence in expected)
    assert not all("..." in sentence for name, sentence in expected if name != "original")


def test_interpolation_shows_every_step():
    """On a line and on an arc, which differ."""
    model, pair = text_model(), ("dog", "runs [b]")
    a, b = torch.tensor([[[0, 5, 1]]]), torch.tensor([[[0, 6, 4, 1]]])
    decode = partial(greedy, max_length=6, forbid=(0, 2))
    shown = []
    for spherical in (False, True):
        options = {"steps": 5, "spherical": spherical}
        lines = interpolation(
            model, Words(), *pair, **options, member=(1, 0), settings=SETTINGS
        ).lines
        found = interpolate(model.member(1, 0), a, b, decode=decode, **options).tokens[0, 0]
        shares = ["0.00", "0.25", "0.50", "0.75", "1.00"]
        assert cells(lines) == list(zip(shares, map(said, found), strict=True))
        shown.append(lines)
    assert shown[0] != shown[1]


@pytest.mark.parametrize("made", [StackedTextVAE, StackedLanguageModel])
def test_samples_from_the_prior(made):
    model = text_model(made)
    lines = prior_samples(model, Words(), 4, member=(1, 1), settings=SETTINGS).lines
    own, vae = model.member(1, 1), made is StackedTextVAE
    found = sample(
        own,
        prior_latents(own, 4, seed=4) if vae else None,
        6,
        temperature=0.8,
        top_p=0.9,
        seed=4,
        forbid=(0, 2),
        rows=None if vae else 4,
    )
    assert cells(lines) == list(zip("1234", map(said, found.tokens[0, 0]), strict=True))
    assert len({sentence for _, sentence in cells(lines)}) > 1


def test_long_sentences_are_folded_not_cut():
    lines = reconstruction(
        text_model(), Words(), ["far " * 30], settings=Settings(max_length=2, columns=40)
    ).lines
    assert max(map(len, lines)) <= 40
    assert sum(line.count("far") for line in lines[: lines.index(_line(lines, "greedy"))]) == 30


def _line(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.split()[:1] == [name])


def test_no_sentences():
    with pytest.raises(ValueError, match="sentences is empty: give at least one"):
        reconstruction(text_model(), Words(), [])
