"""Torch models built from the same specs as the theory."""

from linvae.models.architecture import ARCHITECTURES, Architecture
from linvae.models.chain import StackedVAE, build_model
from linvae.models.presets import PRESETS, Preset
from linvae.models.recurrent import StackedLanguageModel, StackedTextVAE

__all__ = [
    "ARCHITECTURES",
    "PRESETS",
    "Architecture",
    "Preset",
    "StackedLanguageModel",
    "StackedTextVAE",
    "StackedVAE",
    "build_model",
]
