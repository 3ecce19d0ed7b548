"""What one input may cost, and which errors may end it."""

from __future__ import annotations

import contextlib
import resource
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from .targets import Target

FACTOR = 4  # of what a file declares
SPARE_BYTES = 48 * 2**20  # batches of 4 MiB and their copies, and tables of the decoders
CALLS, CALLS_PER_BYTE = 400_000, 400  # a header of numpy may be 4096 bytes, each a node to visit


class TooMuch(BaseException):
    """An input costs more than its size justifies; no reader catches it."""


def resident_peak() -> int:
    """The most bytes this process ever held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attempt(target: Target, content: bytes, folder: Path, errors: list[str] | None = None) -> None:
    """Read `content`; raises what the target does not document, and `TooMuch`."""
    allowed = FACTOR * target.declared(content) + SPARE_BYTES
    before = resident_peak()
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    try:
        target.read(content, folder)
    except target.errors as error:
        if errors is not None:
            errors.append(str(error))
    held = max(tracemalloc.get_traced_memory()[1] - start, resident_peak() - before)
    if held > allowed:
        raise TooMuch(f"{held} bytes held, {allowed} allowed, for {len(content)} bytes")


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Memory of Python and NumPy is counted."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def limited_work(size: int) -> Iterator[None]:
    """`TooMuch` after more calls than `size` bytes justify: what hangs ends, on any machine."""
    left = CALLS + CALLS_PER_BYTE * size

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            sys.setprofile(None)
            raise TooMuch(f"more calls than {size} bytes justify")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
