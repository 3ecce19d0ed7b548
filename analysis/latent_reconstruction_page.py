"""docs/latent_reconstruction.md from the rows."""

from typing import Any


def page(document: dict[str, Any]) -> str:
    """Later."""
    return ""
