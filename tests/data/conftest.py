"""Tiny files in the published formats."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty data root, the only one that is searched."""
    import pooch

    monkeypatch.delenv("LINVAE_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def idx_bytes(array: np.ndarray) -> bytes:
    """Return the uncompressed IDX file of an array of bytes."""
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def image_bytes(pixels: np.ndarray, file_format: str = "PNG") -> bytes:
    """Encode an image; booleans become a 1-bit PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, file_format)
    return stream.getvalue()


@pytest.fixture
def write_idx() -> Callable[..., Path]:
    def write(path: Path, array: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx_bytes(array)))
        return path

    return write


@pytest.fixture
def write_pair(write_idx) -> Callable[..., np.ndarray]:
    """Write an image and a label file of one split; return the pixels."""

    def write(folder: Path, prefix: str, n: int = 6, size: int = 4, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, size=(n, size, size), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", pixels)
        labels = np.arange(n, dtype=np.uint8)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
        return pixels

    return write


@pytest.fixture
def write_zip() -> Callable[..., Path]:
    def write(path: Path, members: Mapping[str, bytes]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path

    return write


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return image_bytes
