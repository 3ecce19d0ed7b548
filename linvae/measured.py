"""Data that were opened -> their moments, as predict and explore read them: a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from linvae.cli import progress_bars

if TYPE_CHECKING:
    from linvae.data import Dataset
    from linvae.data.own import Batch, OwnData
    from linvae.moments import Moments

__all__ = ["moments_of"]


def moments_of(data: Dataset | OwnData, silent: bool = False) -> Moments:
    """Moments of data that were opened; a file is read with a bar on a terminal, unless `silent`.

    Raises ValueError, naming the data, where they are too wide for the memory here or no moments.
    """
    from linvae.data import Dataset
    from linvae.moments import Moments

    _refuse_too_wide(data)
    if isinstance(data, Dataset):
        return Moments.from_data(data.target, data.condition)
    with progress_bars(silent) as progress:
        try:
            return Moments.from_batches(_told(data, progress))
        except ValueError as error:  # of the moments, which know no file
            if data.name in str(error):
                raise
            raise ValueError(f"{data.name}: {error}") from error


def _told(data: OwnData, progress: Callable[[str, int, int], None] | None) -> Iterator[Batch]:
    """The batches; `progress` hears of every one."""
    done = 0
    for batch in data.batches():
        yield batch
        done += len(batch[0] if isinstance(batch, tuple) else batch)
        if progress:
            progress("reading samples", done, data.n_samples)


def _refuse_too_wide(data: Dataset | OwnData) -> None:
    """Moments and their decomposition hold about four matrices of doubles."""
    needed = 4 * 8 * (data.target_dim + data.condition_dim) ** 2
    there = _memory()
    if needed > there:
        raise ValueError(
            f"{data.name} has {data.target_dim + data.condition_dim} dimensions, whose covariance "
            f"takes {needed / 2**30:.0f} GiB to decompose, and there are "
            f"{there / 2**30:.0f} here: shrink the images, or leave columns out"
        )


def _memory(root: Path = Path("/sys/fs/cgroup"), group: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of the machine, or of the container where it is allowed fewer."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    mine = [root]
    with suppress(OSError):
        for line in group.read_text(encoding="utf-8").splitlines():
            _, controller, path = line.split(":", 2)
            start = root / controller / path.lstrip("/") if controller else root / path.lstrip("/")
            mine += [start, *(up for up in start.parents if up.is_relative_to(root))]
    for folder in mine:
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is no limit
                limits.append(int((folder / name).read_text(encoding="utf-8")))
    return min(limits)
