"""Shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before NumPy is imported, and for the processes that tests start: the matrices here are small, and
# threads of BLAS that wait for each other cost three to five times the time where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The stacks here are small, and results then do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return the root of the real samples, or skip, saying what is missing and where."""
    root = Path(os.environ.get("LINVAE_DATA", "LINVAE_DATA-is-not-set"))
    monkeypatch.delenv("LINVAE_DATA", raising=False)

    def require(relative: str) -> Path:
        if not (root / relative).exists():
            pytest.skip(f"no real sample {relative} in {root}; set LINVAE_DATA")
        return root

    return require
