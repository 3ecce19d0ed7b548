"""Torch models built from the same specs as the theory."""

from linvae.models.chain import ARCHITECTURES, StackedVAE, build_model

__all__ = ["ARCHITECTURES", "StackedVAE", "build_model"]
