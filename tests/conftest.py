"""Shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
