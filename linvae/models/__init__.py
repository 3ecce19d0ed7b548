"""Torch models built from the same specs as the theory."""

from linvae.models.architecture import ARCHITECTURES, Architecture
from linvae.models.chain import StackedVAE, build_model
from linvae.models.recurrent import StackedLanguageModel, StackedTextVAE

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "StackedLanguageModel",
    "StackedTextVAE",
    "StackedVAE",
    "build_model",
]
