"""Fetch published files: announced, checked against their checksum, whole or not there at all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from linvae.printable import printable

from .files import MissingDataError, data_roots, file_digest, is_published
from .published import PublishedFile, downloadable
from .sources import Source

__all__ = ["DownloadError", "download", "fetch"]

_PATIENCE = 1.0  # seconds after which it is said that another process is waited for
_TIMEOUT = 30.0  # seconds without an answer until the next mirror is tried
_LONGEST = 3600.0  # seconds that one mirror may take
_MOST_BYTES = 2**27  # that one mirror may send: five times the largest published file


class DownloadError(MissingDataError):
    """No mirror gave the file; the message says what each of them did."""


def download(
    source: Source, data_dir: str | os.PathLike[str] | None = None, *, progress: bool = True
) -> tuple[Path, ...]:
    """Download all published files of a dataset into the first data root.

    Files that are there and match their checksum are left alone, so a second run continues an
    interrupted one. A file of the same name with another checksum is replaced.

    Parameters
    ----------
    source : Source
        Entry of the registry.
    data_dir : path, optional
        Data root to use instead of LINVAE_DATA or the user's cache folder.
    progress : bool, default=True
        Show a progress bar on stderr.

    Returns
    -------
    tuple of Path
        The files, all verified.

    Raises
    ------
    MissingDataError
        If the dataset may not be downloaded by a program; the message says how to get it.
    DownloadError
        If a file could not be had from any mirror.
    """
    files = downloadable(source.folder)
    if not files:
        raise MissingDataError(
            f"Dataset {source.name!r} cannot be downloaded by a program. Terms: {source.terms}. "
            f"To get it: {source.how}, under one of: "
            f"{', '.join(str(root) for root in data_roots(data_dir))}."
        )
    folder = data_roots(data_dir)[0] / source.folder
    _say(f"{source.name}: {len(files)} files to {folder} (terms: {source.terms})")
    return tuple(fetch(file, folder, progress=progress) for file in files)


def fetch(file: PublishedFile, folder: Path, *, progress: bool = True) -> Path:
    """Return `folder / file.name`, downloading it unless it is there and verified.

    One process at a time downloads into `folder`; another one waits for it.

    Raises
    ------
    DownloadError
        If every address failed or gave something with another checksum.
    ValueError
        If `folder` cannot be written.
    """
    path = folder / file.name
    if _is_there(path, file):
        _say(f"{file.name}: already there, checksum ok")
        return path
    with _writing(folder), _alone_in(folder):
        if not _is_there(path, file):  # nobody fetched it while this process waited
            _fetch_anew(file, folder, progress)
    return path


def _is_there(path: Path, file: PublishedFile) -> bool:
    return path.is_file() and is_published(path, file.checksum)


def _fetch_anew(file: PublishedFile, folder: Path, progress: bool) -> None:
    """From the first mirror that gives it; each is asked once."""
    from requests import RequestException

    failures = []
    for url in file.urls:
        _say(f"{file.name}: downloading {url}")
        try:
            _retrieve(url, file, folder, progress)
        except (RequestException, ValueError) as error:  # network; what came
            failures.append(f"{url}: {error}")
            _say(f"{file.name}: failed ({error})")
        else:
            _say(f"{file.name}: ok, {file.checksum}")
            return
    raise DownloadError(_all_failed(file, folder, failures))


def _retrieve(url: str, file: PublishedFile, folder: Path, progress: bool) -> None:
    """Write a hidden file, check it and only then give it its name."""
    import pooch

    ask = pooch.HTTPDownloader(
        progressbar=progress, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"}
    )
    partial = folder / f".{file.name}.part"
    partial.unlink(missing_ok=True)  # of a process that was killed
    try:
        with partial.open("xb") as stream:
            ask(url, cast(IO[bytes], _Limited(stream)), None)
        if not _is_there(partial, file):
            raise ValueError(_another_file(partial, file))
        os.replace(partial, folder / file.name)
    finally:
        partial.unlink(missing_ok=True)


class _Limited:
    """A file that takes so many bytes at most, and not for ever."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._end = stream, time.monotonic() + _LONGEST

    def write(self, chunk: bytes) -> None:
        """ValueError where the mirror sends too much or takes too long."""
        if self._stream.tell() + len(chunk) > _MOST_BYTES:
            raise ValueError(f"it sends more than {_MOST_BYTES} bytes")
        if time.monotonic() > self._end:
            raise ValueError(f"it takes more than {_LONGEST:g} seconds")
        self._stream.write(chunk)

    def flush(self) -> None:
        """Asked for after every kilobyte: closing is enough."""


def _another_file(path: Path, file: PublishedFile) -> str:
    algorithm = file.checksum.partition(":")[0]
    found = f"{path.stat().st_size} bytes with {algorithm} {file_digest(path, algorithm)}"
    return f"it gave {found}, expected {file.checksum}"


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the system says into a ValueError about `folder`."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror or error}): make room in it, or name "
            "another folder with --data-dir (data_dir=) or the variable LINVAE_DATA; nothing "
            "unfinished is left there"
        ) from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads into `folder`; the lock of a killed one is gone."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        _say(f"another process downloads to {folder}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _all_failed(file: PublishedFile, folder: Path, failures: Iterable[str]) -> str:
    return "\n".join(
        [
            f"{file.name} could not be downloaded:",
            *(f"  {failure}" for failure in failures),
            f"Fetch it in another way (expected {file.checksum}) and place it in {folder}, or run "
            "the command again later: finished files are kept.",
            "Works now, without any file: digits.",
        ]
    )


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
