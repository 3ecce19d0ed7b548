"""What decoders of limited reach leave to a latent: predicted critical beta against reach.

    python -m analysis.decoder_reach [--data-dir DIR] [--out FILE]      writes decoder_reach.json

Text: n-grams, interpolated, fitted to one part of the data and met by the other; directions pull
END, the 98 most frequent words and all others at once. On short_yelp also frequencies without
smoothing, of the very sentences they are asked about, which that decoder learns by heart.
Pixels: logistic regression on a causal neighbourhood, pixels rounded, two halves. Both are lower
estimates over all directions. Linear: sentences as indicators of 20 classes at 10 places, Gaussian
decoder with a learned covariance per token, directions that depend on the place; in sample.
`critical_beta` is exact for training on the samples asked about, the `held_out` value generalises.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import linvae
from linvae import ARVAESpec, Moments, stability
from linvae.comparison import write_text
from linvae.data import TextDataset, load_dataset, load_text
from linvae.theory.modes import autoregression
from linvae.theory.reach import (
    block_mask,
    causal_neighbours,
    frequent_classes,
    logistic_predictions,
    ngram_predictions,
    token_blocks,
)
from linvae.theory.sequences import ResidualThreshold, residual_threshold, token_threshold

Array = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.intp]
Row = dict[str, Any]

TEXTS = {"ptb": "train", "short_yelp": "train", "yahoo": "validation"}  # to count in
IMAGES = ("mnist", "omniglot")
ORDERS, REACHES, LINEAR_ORDERS = (0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 4, None)
N_CLASSES, VOCABULARY, MAX_NEW = 100, 20_000, 4_000
LINEAR_CLASSES, LINEAR_LENGTH = 20, 10
BY_HEART = "short_yelp"


def read_text(name: str, data_dir: Path | None) -> tuple[TextDataset, TextDataset]:
    """Training and new sentences, both in the vocabulary of the first."""
    load = partial(load_text, name, data_dir=data_dir)
    training = load(split=TEXTS[name], max_words=VOCABULARY)
    return training, load(split="test", vocabulary=training.vocabulary, max_sentences=MAX_NEW)


def row_of(data: str, decoder: str, reach: int | None, nats: float, x: ResidualThreshold) -> Row:
    return {
        "data": data, "decoder": decoder, "reach": reach, "nats": round(nats, 3),
        "critical_betas": x.critical_beta[:3].round(4).tolist(),
        "held_out_critical_beta": round(x.held_out_critical_beta, 4),
        "held_out_standard_error": round(x.held_out_standard_error, 4),
        "noise_edge": round(x.noise_edge, 4), "offset": round(x.offset, 4),
        "n_samples": x.n_samples, "directions": len(x.critical_beta),
    }  # fmt: skip


def text_rows(name: str, data_dir: Path | None) -> Iterator[Row]:
    """n-grams of every order, then the linear decoder."""
    training, new = read_text(name, data_dir)
    words = training.vocabulary.words
    given, asked = training.padded(), new.padded()
    classes = frequent_classes(given, len(words), N_CLASSES)
    cases = [("n-gram", asked, True)]
    if name == BY_HEART:
        cases.append(("by heart", given, False))
    for decoder, tokens, smoothed in cases:
        orders = ORDERS if smoothed else (*ORDERS, given.shape[1])
        for order in orders:
            p = ngram_predictions(given, tokens, order=order, classes=classes, smoothed=smoothed)
            x = token_threshold(p)
            share = np.abs(x.directions[0]) * np.sqrt(p.predicted.mean(axis=0))
            names = [_name(i, classes, words) for i in np.argsort(-share)[:5]]
            row = row_of(name, decoder, order, p.nats, x) | {"words": names}
            if not smoothed:  # fitted to these very sentences: no half of them is new
                del row["held_out_critical_beta"], row["held_out_standard_error"]
            yield row
    yield from linear_rows(name, given, len(words))


def _name(index: int, classes: Tokens, words: Sequence[str]) -> str:
    of_class = np.flatnonzero(classes == index)
    return words[of_class[0]] if len(of_class) == 1 else "rest"


def linear_rows(name: str, tokens: Tokens, vocabulary: int) -> Iterator[Row]:
    """Gaussian theory on indicators of classes; in units of the errors of each token."""
    classes = frequent_classes(tokens, vocabulary, LINEAR_CLASSES)
    indicators = np.eye(LINEAR_CLASSES)[classes][:, :-1]  # of the rest: what the others leave
    long = tokens[(tokens >= 0).sum(axis=1) > LINEAR_LENGTH]  # no words beyond an end
    y = token_blocks(long, indicators, LINEAR_LENGTH)
    moments = Moments.from_data(y[:, y.std(axis=0) > 0])
    kept = (y.std(axis=0) > 0).nonzero()[0]
    for order in LINEAR_ORDERS:
        mask = block_mask(LINEAR_LENGTH, LINEAR_CLASSES - 1, order)[np.ix_(kept, kept)]
        spec = ARVAESpec(1, order=mask)
        _, errors = autoregression(spec, moments)
        white = _whitener(errors, kept // (LINEAR_CLASSES - 1))
        whitened = Moments.from_covariance(white @ moments.covariance @ white.T)
        found = stability(spec, whitened).critical_beta
        yield {
            "data": name, "decoder": "linear", "reach": order, "n_samples": len(long),
            "critical_betas": found[:3].round(4).tolist(), "directions": len(found),
        }  # fmt: skip


def _whitener(errors: Array, blocks: Tokens) -> Array:
    """Block diagonal: the errors of each token become uncorrelated with variance 1."""
    white = np.zeros_like(errors)
    for block in np.unique(blocks):
        at = np.ix_(blocks == block, blocks == block)
        values, vectors = np.linalg.eigh(errors[at])
        white[at] = (vectors / np.sqrt(values)) @ vectors.T
    return white


def pixel_rows(name: str, data_dir: Path | None) -> Iterator[Row]:
    """Logistic regression in one random half, residuals in the other."""
    images = np.asarray(load_dataset(name, data_dir=data_dir).target)
    side = round(images.shape[1] ** 0.5)
    y = (np.random.default_rng(0).permutation(images) > 0.5).astype(np.float64)
    given, asked = np.array_split(y, 2)
    for reach in REACHES:
        p = logistic_predictions(given, asked, causal_neighbours(side, side, reach))
        nats = -float(np.sum(asked * np.log(p) + (1 - asked) * np.log1p(-p)) / len(asked))
        x = residual_threshold(asked - p, p * (1 - p))
        yield row_of(name, "logistic", reach, nats, x)


def line_of(row: Row) -> str:
    held_out = row.get("held_out_critical_beta")
    shown = f"{held_out:8.3f} +- {row['held_out_standard_error']:.3f}" if held_out else ""
    return (
        f"{row['data']:11} {row['decoder']:9} {row['reach']!s:>5} {row.get('nats', ''):>8} "
        f"{row['critical_betas'][0]:9.3f} {row.get('noise_edge', ''):>7} {shown:18} "
        f"{row.get('offset', ''):>7} {row['n_samples']:>6}  {' '.join(row.get('words', []))}"
    )


def main() -> None:
    """One line per row; the JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    start, rows = time.perf_counter(), []
    print(
        "data        decoder   reach     nats  crit.beta    edge held out            offset      n"
    )
    sources = [text_rows(name, args.data_dir) for name in TEXTS]
    sources += [pixel_rows(name, args.data_dir) for name in IMAGES]
    for source in sources:
        for row in source:
            rows.append(row)
            print(line_of(row), flush=True)
    document = {"version": linvae.__version__, "rows": rows}
    write_text(args.out, json.dumps(document, indent=1) + "\n")
    print(f"{len(rows)} rows, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
