"""Fetch published files: announced, checked against their checksum, whole or not there at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from .files import MissingDataError, data_roots, file_digest
from .published import PublishedFile, downloadable
from .sources import Source

__all__ = ["DownloadError", "download", "fetch"]

_TIMEOUT = 30.0  # seconds without an answer until the next mirror is tried


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

    Raises
    ------
    DownloadError
        If every address failed or gave something with another checksum.
    """
    path = folder / file.name
    algorithm, _, expected = file.checksum.partition(":")
    if path.is_file() and file_digest(path, algorithm) == expected:
        _say(f"{file.name}: already there, checksum ok")
        return path
    failures = []
    for url in file.urls:
        _say(f"{file.name}: downloading {url}")
        try:
            _retrieve(url, file, folder, progress)
        except (OSError, ValueError) as error:  # network and disk; checksum
            failures.append(f"{url}: {error}")
            _say(f"{file.name}: failed ({error})")
        else:
            _say(f"{file.name}: ok, {file.checksum}")
            return path
    raise DownloadError(_all_failed(file, folder, failures))


def _retrieve(url: str, file: PublishedFile, folder: Path, progress: bool) -> None:
    """Let pooch write a temporary file, check it and only then give it its name."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # what happens is announced here, once
    try:
        pooch.retrieve(
            url,
            known_hash=file.checksum,
            fname=file.name,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=progress, timeout=_TIMEOUT),
        )
    finally:
        logger.setLevel(level)


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
    print(text, file=sys.stderr, flush=True)
