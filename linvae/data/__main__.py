"""`python -m linvae.data list|download NAME|verify [NAME]`: what data are here, are they intact."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import SOURCES, TEXT_SOURCES, dataset_names, load_dataset, load_text, text_names
from .download import download
from .faces import read_partition
from .files import (
    CorruptFileError,
    MissingDataError,
    data_roots,
    decode_image,
    file_digest,
    read_idx,
    read_members,
    sha256_of,
    zip_members,
)
from .published import published_checksum
from .sources import Source, find_splits, missing_message, resolve
from .text_loading import SYNTHETIC_SENTENCES
from .text_sources import TextSource

__all__ = ["main"]

_OK, _UNUSABLE, _MISSING = 0, 2, 3  # exit codes
_IMAGE_SUFFIXES = (".png", ".jpg")
_BUILT_IN_TERMS = {
    "digits": ("UCI digits, CC BY 4.0", "comes with scikit-learn"),
    "gaussian": ("-", "generated"),
    "synthetic": ("-", "generated"),
}
_NAMES = (*dataset_names(), *text_names())
_SOURCES: dict[str, Source] = {**SOURCES, **TEXT_SOURCES}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 = done, 2 = usage, or a file is unusable or failed verification, 3 = data missing.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "list":
            return _list(arguments.data_dir)
        name = None if arguments.name is None else resolve(arguments.name, _NAMES)
        command = _download if arguments.command == "download" else _verify
        return command(name, arguments.data_dir)
    except MissingDataError as error:
        print(error, file=sys.stderr)
        return _MISSING
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return _UNUSABLE


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data-dir",
        metavar="DIR",
        help="data root searched first (default: LINVAE_DATA, then the user's cache folder)",
    )
    parser = argparse.ArgumentParser(
        prog="python -m linvae.data",
        description="The datasets: what is here, how to get the rest, whether files are intact.",
        epilog="Exit codes: 0 done, 2 usage or a file failed verification, 3 data missing.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[shared], help="every dataset, where it is, its terms")
    names = f"one of {', '.join(_NAMES)}"
    fetch = commands.add_parser("download", parents=[shared], help="fetch the published files")
    fetch.add_argument("name", metavar="NAME", help=names)
    verify = commands.add_parser("verify", parents=[shared], help="check checksums and decode")
    verify.add_argument("name", metavar="NAME", nargs="?", help=f"{names} (default: all)")
    return parser


# --- list ---------------------------------------------------------------------------------------


def _list(data_dir: str | None) -> int:
    from rich.console import Console
    from rich.table import Column, Table

    headers = ("dataset", "found in", "samples per split", "terms", "how to get it")
    table = Table(*(Column(header, overflow="fold") for header in headers))
    for name in _NAMES:
        source = _SOURCES.get(name)
        table.add_row(
            name, *(_describe_built_in(name) if source is None else _describe(source, data_dir))
        )
    # Without a terminal there is nothing to fit; 80 columns would break every path.
    width = None if sys.stdout.isatty() else 160
    Console(width=width, markup=False, highlight=False).print(table)
    return _OK


def _describe_built_in(name: str) -> tuple[str, str, str, str]:
    terms, how = _BUILT_IN_TERMS[name]
    if name == "synthetic":
        counts = [f"{split} {n}" for split, n in SYNTHETIC_SENTENCES.items()]
        return "always there", "\n".join(counts), terms, how
    return "always there", f"all {load_dataset(name).n_samples}", terms, how


def _describe(source: Source, data_dir: str | None) -> tuple[str, str, str, str]:
    try:
        found = find_splits(source, data_dir)
        counts = [f"{split} {source.count(split, files)}" for split, files in found.items()]
    except CorruptFileError as error:
        return str(error.path.parent), f"corrupt: {error.path.name}", source.terms, source.how
    folders = dict.fromkeys(str(_data_folder(source, files[0])) for files in found.values())
    where = "\n".join(folders) or "missing"
    return where, "\n".join(counts) or "-", source.terms, source.how


def _data_folder(source: Source, file: Path) -> Path:
    """Folder of the dataset that `file` lies in, perhaps in a subfolder."""
    return next(parent for parent in file.parents if parent.match(source.folder))


# --- download -----------------------------------------------------------------------------------


def _download(name: str | None, data_dir: str | None) -> int:
    if name not in _SOURCES:
        print(f"{name} needs no files: it {_BUILT_IN_TERMS[str(name)][1]}")
        return _OK
    download(_SOURCES[name], data_dir)
    return _OK


# --- verify -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Check:
    """Verdict on a file, or on a folder of single images."""

    path: Path
    verdict: str
    good: bool


def _verify(name: str | None, data_dir: str | None) -> int:
    """Check every file of one dataset, or of all; print one line each."""
    if name is not None and name not in _SOURCES:
        built_in = load_text(name) if name in text_names() else load_dataset(name)
        print(f"{name}: {built_in.describe()}; needs no files")
        return _OK
    sources = tuple(_SOURCES.values()) if name is None else (_SOURCES[name],)
    checks: list[_Check] = []
    for source in sources:
        for root in data_roots(data_dir):
            for check in _check_source(source, root / source.folder):
                print(f"{check.path}: {check.verdict}")
                checks.append(check)
    if not checks:
        source = sources[0]
        raise MissingDataError(missing_message(source, source.splits[0], {}, data_dir))
    failed = sum(not check.good for check in checks)
    print(f"{len(checks)} checked, {failed} failed")
    return _UNUSABLE if failed else _OK


def _check_source(source: Source, folder: Path) -> Iterator[_Check]:
    return _check_text(source, folder) if isinstance(source, TextSource) else _check_folder(folder)


def _check_folder(folder: Path) -> Iterator[_Check]:
    """Archives and tables one by one; single images together, one verdict per folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix in _IMAGE_SUFFIXES:
            images.setdefault(path.parent, []).append(path)
        elif path.suffix in (".gz", ".zip", ".txt"):
            yield _check_file(path)
    for parent, paths in images.items():
        yield _check_images(parent, paths)


def _check_file(path: Path) -> _Check:
    try:
        decoded = _decode(path)
    except CorruptFileError as error:
        return _Check(path, f"CORRUPT: {error}", good=False)
    expected = published_checksum(path)
    if expected is None:
        return _Check(path, f"{decoded}; nothing published, sha256 {file_digest(path)}", good=True)
    algorithm, _, digest = expected.partition(":")
    found = file_digest(path, algorithm)
    if found == digest:
        return _Check(path, f"ok, {decoded}; {algorithm} as published", good=True)
    return _Check(path, f"DIFFERS: {algorithm} {found}, published {digest}; {decoded}", good=False)


def _decode(path: Path) -> str:
    """Decode the whole file; say what it holds."""
    if path.name.endswith("ubyte.gz"):
        return f"decoded, shape {read_idx(path).shape}"
    if path.suffix == ".zip":
        members = zip_members(path, _IMAGE_SUFFIXES)
        for member, content in zip(members, read_members(path, members), strict=True):
            decode_image(content, path, member)
        return f"decoded, {len(members)} images"
    if path.name == "list_eval_partition.txt":
        return f"decoded, {sum(len(names) for names in read_partition(path).values())} images"
    return "not decoded"


def _check_images(folder: Path, paths: Sequence[Path]) -> _Check:
    for path in paths:
        try:
            decode_image(path.read_bytes(), path)
        except CorruptFileError as error:
            return _Check(folder, f"CORRUPT: {error}", good=False)
    verdict = f"decoded, {len(paths)} images; nothing published, sha256 {sha256_of(paths)}"
    return _Check(folder, verdict, good=True)


def _check_text(source: TextSource, folder: Path) -> Iterator[_Check]:
    """Every split read to its end; a damaged file or archive is one verdict."""
    try:
        for split, files in source.find(folder).items():
            read = source.read(split, files)
            found = f"read, {split}: {read.n_samples} sentences, {read.n_words} words"
            verdict = f"{found}; nothing published, sha256 {read.sha256}"
            yield _Check(files[0], verdict, good=True)
    except CorruptFileError as error:
        yield _Check(error.path, f"CORRUPT: {error}", good=False)


if __name__ == "__main__":
    sys.exit(main())
