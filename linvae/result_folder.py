"""The folder that a command writes its results into: one run at a time, all files or none.

What a run writes is staged in a folder within, and replaces the files of an earlier run when all of
it is there; where that fails, they are put back. A process that is killed while it replaces leaves
files that are old or new, each of them whole. The next run removes what it left behind.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["all_or_nothing", "alone_in", "check_writable"]

LOCK, STAGED = ".running", ".unfinished-"
# suffixes of what commands write
WRITTEN = (".csv", ".gif", ".html", ".json", ".pdf", ".png", ".safetensors", ".toml", ".txt")


def check_writable(folder: Path) -> None:
    """Refuse a result folder that cannot be written, before any work, without creating it."""
    with _writing(folder):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if there.is_dir():  # tried, since /proc and read-only disks have folders with permission
            os.rmdir(tempfile.mkdtemp(dir=there, prefix=STAGED))
            return
    raise ValueError(f"out={str(folder)!r}: {there} is not a folder; choose another result folder")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the system says into a ValueError about `folder`."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"out={str(folder)!r} is no folder that can be made or written ({error.strerror}); "
            "choose another result folder"
        ) from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it; remove what killed ones left there.

    The system frees the lock of a process that ends, however it ends. A folder in which nothing is
    left at the end goes.
    """
    from filelock import FileLock, Timeout  # here: --help needs no lock

    lock = FileLock(folder / LOCK, blocking=False)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:  # an OSError too
            raise ValueError(
                f"out={str(folder)!r}: another run of linvae{_holder(folder)} writes there; wait "
                "until it has ended, or choose another result folder"
            ) from error
    try:
        with suppress(OSError):  # a full disk: the lock holds without the number
            (folder / LOCK).write_text(str(os.getpid()))
        for left in folder.glob(f"{STAGED}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        with suppress(OSError):  # gone, or no folder any more: that error is said already
            (folder / LOCK).unlink()
        lock.release()
        with suppress(OSError):
            folder.rmdir()


def _holder(folder: Path) -> str:
    """The process that holds the lock, in words; "" where it could not be written."""
    with suppress(OSError):
        number = (folder / LOCK).read_text()
        return f" (process {number})" if number.isdigit() else ""
    return ""


@contextmanager
def all_or_nothing(folder: Path, outputs: Sequence[str]) -> Iterator[Path]:
    """A temporary folder whose files replace those of an earlier run at the end, or never.

    `outputs`: stems of all files that a run may write; older ones are removed with the rest, those
    of other suffixes than a command writes (run.py, model.pt) are not.
    Within `alone_in`. Raises OSError where the disk is full; the earlier files are as they were.
    """
    try:
        with tempfile.TemporaryDirectory(
            dir=folder, prefix=STAGED, ignore_cleanup_errors=True
        ) as both:
            staged, kept = Path(both, "new"), Path(both, "old")
            staged.mkdir()
            kept.mkdir()
            yield staged
            _exchange(folder, staged, kept, outputs)
    except OSError as error:
        raise OSError(
            f"out={str(folder)!r}: the results could not be written ({error.strerror or error}): "
            "free space on that disk or choose another result folder, then give the command again; "
            "those of an earlier run are as they were"
        ) from error


def _exchange(folder: Path, staged: Path, kept: Path, outputs: Sequence[str]) -> None:
    """Move the files of `staged` into `folder`, where they replace all `outputs`, or none."""
    new = sorted(path.name for path in staged.iterdir())
    old = [
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.stem in outputs and path.suffix in WRITTEN
    ]
    for name in old:
        shutil.copy2(folder / name, kept / name)
    try:
        for name in new:
            os.replace(staged / name, folder / name)
        for name in set(old) - set(new):
            (folder / name).unlink()
    except BaseException:
        for name in old:
            os.replace(kept / name, folder / name)
        for name in set(new) - set(old):
            (folder / name).unlink(missing_ok=True)
        raise
