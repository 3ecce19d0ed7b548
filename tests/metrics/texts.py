"""Small text VAEs of known size, for the tests of what is measured on them."""

from __future__ import annotations

import torch

from linvae.models import StackedTextVAE
from linvae.models.recurrent import SequenceSizes, pad
from linvae.spec import VAESpec
from linvae.train import TrainingData

VOCABULARY, LENGTH = 6, 5
TINY = SequenceSizes(embedding=3, hidden=4, dropout=0.5)


def texts(n: int = 40) -> TrainingData:
    """Random tokens after a start token, of 2 to `LENGTH` tokens in all."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(1, VOCABULARY, (n, LENGTH), generator=generator)
    tokens[:, 0] = 0
    return TrainingData(pad(tokens, torch.randint(2, LENGTH + 1, (n,), generator=generator)), None)


def text_vae(latent_dim: int = 1, *, size: float = 0.7, **spec) -> StackedTextVAE:
    """Float64, two seeds of two points, every member with weights of its own of that size."""
    model = StackedTextVAE(
        VAESpec(latent_dim, likelihood="multinomial", **spec),
        vocabulary=VOCABULARY,
        sizes=TINY,
        seeds=(3, 8),
        n_points=2,
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model
