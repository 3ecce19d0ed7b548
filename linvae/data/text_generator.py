"""`TextGenerator`: an LSTM with known weights that turns latents into sentences.

For u = s z, words y_1 ... y_L and the start token y_0:

    z ~ p(z)                               N(0, I), or five Gaussians in two dimensions
    L ~ uniform on the lengths, independent of z
    c_0 = A u,  h_0 = tanh(c_0)
    (i, f, g, o) = W e(y_{t-1}) + V u + R h_{t-1} + b
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),  h_t = sigmoid(o) tanh(c_t)
    p(y_t = k | y_<t, z) = softmax(O h_t + B u)_k

    log p(y|z) = -log(number of lengths) + sum_{t <= L} log p(y_t | y_<t, z)     nats

| symbol  | argument         | meaning                                      | shape      |
|---------|------------------|----------------------------------------------|------------|
| z       | latents          | what an encoder should find                  | (n, d)     |
| s       | latent_scale     | how strongly words depend on z; 0: not at all | -          |
| L       | length           | words of a sentence, END not counted         | -          |
| H       | hidden           | LSTM units and dimensions of e               | -          |
| K       | vocabulary_size  | words beside the special ones                | -          |
| e       | embedding        | row 0 of y_0, row 1 + k of word k            | (K + 1, H) |
| W, V, R | w_word, w_latent, w_hidden | into the gates i, f, g, o         | (4H, .)    |
| b       | bias             | of the gates                                 | (4H,)      |
| A       | w_initial        | into the first cell                          | (H, d)     |
| O, B    | w_output, w_direct | to the words                               | (K, .)     |

All weights are uniform in (-1, 1). Architecture and sizes are those of the toy of He et al. (ICLR
2019; hidden 100, 1000 words, length 10, two latents, mixture), which has more weight on B and no
start token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from .dataset import Step
from .text import PADDING, TextDataset
from .vocabulary import END, SPECIAL, START, Vocabulary

__all__ = ["CENTRES", "PRIORS", "TextGenerator"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PRIORS = ("normal", "mixture")
# Centres of the mixture, each with unit covariance and weight 1/5; an early version of the
# published script has the outer four.
CENTRES = 2.0 * np.array([(0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])
_DRAWN = 256  # sentences at once
_ROWS = 512  # (sentence, latent) pairs scored at once


@dataclass(frozen=True, eq=False)
class TextGenerator:
    """The model of this module's text with fixed weights; `random` draws them."""

    embedding: FloatArray
    w_word: FloatArray
    w_latent: FloatArray
    w_hidden: FloatArray
    bias: FloatArray
    w_initial: FloatArray
    w_output: FloatArray
    w_direct: FloatArray
    latent_scale: float
    length: tuple[int, int]
    prior: str = "normal"

    @classmethod
    def random(
        cls,
        *,
        latent_dim: int = 2,
        vocabulary_size: int = 1000,
        length: int | tuple[int, int] = 10,
        hidden: int = 100,
        latent_scale: float = 1.0,
        prior: str = "normal",
        seed: int,
    ) -> TextGenerator:
        """Draw weights; arguments as in `synthetic_corpus`.

        Raises
        ------
        ValueError
            For a size below 1 (2 words at least), lengths out of order, a negative scale, or a
            mixture of other than two latents.
        """
        lengths = (length, length) if isinstance(length, int) else length
        _check_arguments(latent_dim, vocabulary_size, lengths, hidden, latent_scale, prior)
        rng = np.random.default_rng([seed, 0])
        shapes = {
            "embedding": (vocabulary_size + 1, hidden),
            "w_word": (4 * hidden, hidden),
            "w_latent": (4 * hidden, latent_dim),
            "w_hidden": (4 * hidden, hidden),
            "bias": (4 * hidden,),
            "w_initial": (hidden, latent_dim),
            "w_output": (vocabulary_size, hidden),
            "w_direct": (vocabulary_size, latent_dim),
        }
        weights = {name: rng.uniform(-1, 1, shape) for name, shape in shapes.items()}
        return cls(**weights, latent_scale=latent_scale, length=lengths, prior=prior)

    @property
    def latent_dim(self) -> int:
        """Number of latents d."""
        return int(self.w_initial.shape[1])

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Words w0, w1, ...; word k is token 3 + k."""
        return Vocabulary((*SPECIAL, *(f"w{k}" for k in range(len(self.w_output)))))

    @cached_property
    def word_gates(self) -> FloatArray:
        """W e + b of every word, (K + 1, 4H)."""
        return self.embedding @ self.w_word.T + self.bias

    # --- sampling -------------------------------------------------------------------------------

    def draw(self, n: int, seed: int) -> tuple[TextDataset, FloatArray, FloatArray]:
        """Draw `n` sentences, with z (n, d) and log p(y|z) (n,); the first do not depend on n."""
        if n < 1:
            raise ValueError(f"n={n} must be at least 1, sentences of a synthetic corpus")
        blocks = [
            self._block(np.random.default_rng([seed, 1, start])) for start in range(0, n, _DRAWN)
        ]
        latents, words, scores = (np.concatenate(parts)[:n] for parts in zip(*blocks, strict=True))
        return _as_dataset(words, self.vocabulary, self._step(seed)), latents, scores

    def _step(self, seed: int) -> Step:
        return {
            "step": "synthetic",
            "latent_dim": self.latent_dim,
            "hidden": len(self.w_initial),
            "latent_scale": self.latent_scale,
            "length": list(self.length),
            "prior": self.prior,
            "seed": seed,
        }

    def _block(self, rng: np.random.Generator) -> tuple[FloatArray, IntArray, FloatArray]:
        """Latents (m, d), words (m, longest) with PADDING, and log p(y|z) (m,), m = _DRAWN."""
        latents = rng.standard_normal((_DRAWN, self.latent_dim))
        if self.prior == "mixture":
            latents += CENTRES[rng.integers(len(CENTRES), size=_DRAWN)]
        low, high = self.length
        lengths = rng.integers(low, high + 1, size=_DRAWN)
        words = np.full((_DRAWN, high), PADDING, dtype=np.int64)
        recurrence = _Recurrence(self, latents)
        scores = np.full(_DRAWN, -math.log(high - low + 1))
        previous = np.full(_DRAWN, -1)
        for t in range(high):
            log_p = recurrence.next_words(previous)
            previous = _categorical(log_p, rng)
            inside = t < lengths
            words[inside, t] = previous[inside]
            scores[inside] += log_p[inside, previous[inside]]
        return latents, words, scores

    # --- truth ----------------------------------------------------------------------------------

    def log_prior(self, latents: ArrayLike) -> FloatArray:
        """log p(z) in nats, (..., d) -> (...)."""
        z = np.asarray(latents, dtype=np.float64)
        constant = -0.5 * self.latent_dim * math.log(2 * math.pi)
        if self.prior == "normal":
            return np.asarray(constant - 0.5 * (z**2).sum(-1))
        squares = ((z[..., None, :] - CENTRES) ** 2).sum(-1)
        mixed = scipy.special.logsumexp(-0.5 * squares, axis=-1) - math.log(len(CENTRES))
        return np.asarray(constant + mixed)

    def log_conditional(self, dataset: TextDataset, latents: ArrayLike) -> FloatArray:
        """log p(y|z) of each sentence at its latents, (n, ..., d) -> (n, ...), nats.

        -inf for a sentence of impossible length or with UNKNOWN. ValueError if the dataset has
        another vocabulary or latents of another shape.
        """
        z = np.asarray(latents, dtype=np.float64)
        n, d = dataset.n_samples, self.latent_dim
        if z.ndim < 2 or z.shape[0] != n or z.shape[-1] != d:
            raise ValueError(
                f"latents have shape {z.shape} and must have shape ({n}, ..., {d}): the sentences "
                f"of dataset {dataset.name!r}, and the latents of its generator"
            )
        words, lengths = self._words(dataset)
        each = z[0, ..., 0].size
        pairs = z.reshape(n * each, d)
        scores = np.empty(len(pairs))
        for start in range(0, len(pairs), _ROWS):
            block = slice(start, start + _ROWS)
            rows = np.arange(len(pairs))[block] // each
            scores[block] = self._scores(words[rows], lengths[rows], pairs[block])
        return scores.reshape(z.shape[:-1])

    def _words(self, dataset: TextDataset) -> tuple[IntArray, IntArray]:
        """Words 0 ... K - 1 of each sentence, (n, longest), -1 for UNKNOWN, and lengths (n,)."""
        if dataset.vocabulary != self.vocabulary:
            raise ValueError(
                f"vocabulary of dataset {dataset.name!r} is not that of this generator; score the "
                "dataset of a synthetic corpus before `reindexed`"
            )
        return dataset.padded()[:, 1:-1] - len(SPECIAL), dataset.lengths - 2

    def _scores(self, words: IntArray, lengths: IntArray, latents: FloatArray) -> FloatArray:
        """log p(y|z) of pairs: words (m, T), lengths (m,), latents (m, d)."""
        low, high = self.length
        inside = np.arange(words.shape[1]) < lengths[:, None]
        possible = (lengths >= low) & (lengths <= high) & ~(inside & (words < 0)).any(1)
        scores = np.where(possible, -math.log(high - low + 1), -np.inf)
        recurrence = _Recurrence(self, latents)
        previous = np.full(len(words), -1)
        for t in range(words.shape[1]):
            log_p = recurrence.next_words(previous)
            previous = np.maximum(words[:, t], 0)
            scores += np.where(inside[:, t], log_p[np.arange(len(words)), previous], 0.0)
        return scores


class _Recurrence:
    """The LSTM at work on m sentences; `next_words` moves it one word on."""

    def __init__(self, generator: TextGenerator, latents: FloatArray) -> None:
        scaled = generator.latent_scale * latents
        self.word_gates = generator.word_gates
        self.w_hidden, self.w_output = generator.w_hidden.T, generator.w_output.T
        self.latent_gates = scaled @ generator.w_latent.T
        self.direct = scaled @ generator.w_direct.T
        self.cell = scaled @ generator.w_initial.T
        self.hidden = np.tanh(self.cell)

    def next_words(self, previous: IntArray) -> FloatArray:
        """log p(next word | z, words so far), (m, K), after the word `previous` (-1: the start)."""
        gates = self.word_gates[previous + 1] + self.latent_gates + self.hidden @ self.w_hidden
        i, f, g, o = np.split(gates, 4, axis=1)
        self.cell = scipy.special.expit(f) * self.cell + scipy.special.expit(i) * np.tanh(g)
        self.hidden = scipy.special.expit(o) * np.tanh(self.cell)
        logits = self.hidden @ self.w_output + self.direct
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return np.asarray(logits)


def _categorical(log_p: FloatArray, rng: np.random.Generator) -> IntArray:
    """One draw from each row: the first entry whose cumulative probability exceeds a uniform."""
    cumulative = np.cumsum(np.exp(log_p), axis=1)
    uniform = rng.random((len(log_p), 1)) * cumulative[:, -1:]
    return np.asarray((cumulative <= uniform).sum(1))


def _check_arguments(
    latent_dim: int,
    vocabulary_size: int,
    length: tuple[int, int],
    hidden: int,
    latent_scale: float,
    prior: str,
) -> None:
    where = "in a synthetic corpus"
    for name, value, least in (
        ("latent_dim", latent_dim, 1),
        ("vocabulary_size", vocabulary_size, 2),
        ("hidden", hidden, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least} {where}")
    if not 1 <= length[0] <= length[1]:
        raise ValueError(
            f"length={length} must be (smallest, largest) with 1 <= smallest <= largest {where}"
        )
    if not 0 <= latent_scale < math.inf:
        raise ValueError(f"latent_scale={latent_scale} must be finite and >= 0 {where}")
    if prior not in PRIORS or (prior == "mixture" and latent_dim != 2):
        raise ValueError(
            f"prior={prior!r} with latent_dim={latent_dim} must be one of {', '.join(PRIORS)} "
            f"{where}, and a mixture has latent_dim=2"
        )


def _as_dataset(words: IntArray, vocabulary: Vocabulary, step: Step) -> TextDataset:
    """Sentences of `words` (n, longest), -1 after their ends."""
    n, longest = words.shape
    rows = np.full((n, longest + 2), -1, dtype=np.int64)
    rows[:, 0] = START
    rows[:, 1:-1] = np.where(words < 0, -1, words + len(SPECIAL))
    lengths = (words >= 0).sum(1)
    rows[np.arange(n), lengths + 1] = END
    return TextDataset(
        name="synthetic",
        tokens=rows[rows >= 0].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths + 2)]),
        vocabulary=vocabulary,
        preprocessing=(step,),
        note="synthetic: latents, log p(y|z) and log p(y) are known",
    )
