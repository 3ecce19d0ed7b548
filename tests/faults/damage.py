"""Ways in which a file can be cut short or have a wrong bit.

Of a small file every length, and one flipped bit in every byte; of a larger one as many as that, at
random. `make faults`: every length and every byte of all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

ALL = os.environ.get("LINVAE_FAULTS") == "full"
SMALL = 1000  # bytes


def _places(content: bytes, rng: np.random.Generator) -> list[int]:
    """Bytes that are tried."""
    places = np.arange(len(content))
    if not ALL and len(content) > SMALL:
        places = np.sort(rng.choice(places, SMALL, replace=False))
    return [int(place) for place in places]


def damages(content: bytes, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """The content that is left, and in words what happened to it."""
    rng = np.random.default_rng(seed)
    for length in _places(content, rng):
        yield f"{length} of {len(content)} bytes", content[:length]
    for at in _places(content, rng):
        bit = int(rng.integers(8))
        changed = bytearray(content)
        changed[at] ^= 1 << bit
        yield f"bit {bit} of byte {at} changed", bytes(changed)
