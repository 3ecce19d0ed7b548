"""Settings of VAEs of sentences by name: networks, training, remedies.

| name      | source                                                                        |
|-----------|-------------------------------------------------------------------------------|
| published | Yahoo and Yelp of He et al. 2019 (ICLR), code of the authors: for a GPU        |
| small     | networks, batches and rate of their toy, for a CPU; two latents, fewer epochs |

`python -m linvae.text train --preset` and `analysis/lagging.py` train with them. Plain gradient
descent with a rate of 1 is theirs; the one comparison with Adam (`analysis/lagging.py`) ended
collapsed with inner loops and without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from linvae.models.recurrent import PUBLISHED, PUBLISHED_LATENT_DIM, SMALL, SequenceSizes
from linvae.train.config import TrainConfig
from linvae.train.remedies import Aggressive
from linvae.train.validation import Plateau

__all__ = ["TEXT_PRESETS", "TextPreset"]


@dataclass(frozen=True)
class TextPreset:
    """One setting; `words`: of the vocabulary, `epochs`: passes over the sentences.

    `config.steps` is what `epochs` come to: `for_sentences` says how many.
    """

    sizes: SequenceSizes
    latent_dim: int
    words: int
    epochs: int
    config: TrainConfig
    aggressive: Aggressive

    def for_sentences(self, n: int) -> TrainConfig:
        """`config` with the steps of all epochs over `n` sentences."""
        return replace(self.config, steps=self.epochs * -(-n // self.config.batch_size))


_SGD = TrainConfig(
    batch_size=32, learning_rate=1.0, optimizer="sgd", momentum=0.0, clip_norm=5.0, draws=1,
    schedule="constant", plateau=Plateau(patience=2, first=16, most=5),
)  # fmt: skip
TEXT_PRESETS = {
    "published": TextPreset(
        PUBLISHED, PUBLISHED_LATENT_DIM, words=20_000, epochs=100, config=_SGD,
        aggressive=Aggressive(window=15, falls=1),
    ),
    "small": TextPreset(
        SMALL, 2, words=1000, epochs=25,
        config=replace(_SGD, batch_size=16, plateau=Plateau(patience=2, first=8, most=2)),
        aggressive=Aggressive(window=15, falls=1),
    ),
}  # fmt: skip
