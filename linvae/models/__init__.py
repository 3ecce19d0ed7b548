"""Torch models built from the same specs as the theory."""

from linvae.models.architecture import ARCHITECTURES, Architecture
from linvae.models.chain import StackedVAE, build_model

__all__ = ["ARCHITECTURES", "Architecture", "StackedVAE", "build_model"]
