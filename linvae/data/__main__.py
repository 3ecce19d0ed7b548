"""`python -m linvae.data list|download NAME|verify [NAME]`: what data are here, are they intact."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from linvae.cli import UNUSABLE, Parser, add_output_arguments, exit_codes, print_json
from linvae.printable import printable

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

EXAMPLES = """\
examples:
  linvae data list
  linvae data download omniglot
  linvae data verify mnist --json
"""
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
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        args = parser().parse_args(arguments)
        if args.command == "list":
            _list(args)
        elif args.command == "download":
            _download(resolve(args.name, _NAMES), args.data_dir, args.quiet)
        else:
            name = None if args.name is None else resolve(args.name, _NAMES)
            status.code = _verify(name, args)
    return status.code


def parser() -> Parser:
    """All subcommands."""
    p = Parser(
        prog="linvae data",
        description="The datasets: what is here, how to get the rest, whether files are intact.",
        examples=EXAMPLES,
    )
    commands = p.add_subparsers(dest="command", required=True)
    names = f"one of {', '.join(_NAMES)}"
    listing = commands.add_parser("list", help="every dataset, where it is, its terms")
    add_output_arguments(listing, json="print a JSON list", quiet="print the names of what is here")
    fetch = commands.add_parser("download", help="fetch the published files")
    fetch.add_argument("name", metavar="NAME", help=names)
    fetch.add_argument("--quiet", action="store_true", help="no progress bars")
    verify = commands.add_parser("verify", help="check checksums and decode")
    verify.add_argument("name", metavar="NAME", nargs="?", help=f"{names} (default: all)")
    add_output_arguments(verify, json="print a JSON list", quiet="print failed files only")
    for command in (listing, fetch, verify):
        command.add_argument(
            "--data-dir",
            type=Path,
            metavar="DIR",
            help="data root searched first (default: LINVAE_DATA, then the user's cache folder)",
        )
    return p


# --- list ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    """Where a dataset is, samples per split, `corrupt`: the damaged file."""

    dataset: str
    folders: tuple[str, ...]
    samples: dict[str, int]
    terms: str
    how: str
    corrupt: str = ""

    @property
    def here(self) -> bool:
        """Whether it can be loaded."""
        return bool(self.samples)

    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        missing = "missing" if self.dataset in _SOURCES else "always there"
        counts = [f"{split} {n}" for split, n in self.samples.items()]
        if self.corrupt:
            counts = [f"corrupt: {self.corrupt}"]
        where = "\n".join(self.folders) or missing
        return self.dataset, where, "\n".join(counts) or "-", self.terms, self.how


def _list(args: argparse.Namespace) -> None:
    listed = [_listed(name, args.data_dir) for name in _NAMES]
    if args.json:
        print_json([asdict(row) for row in listed])
    elif args.quiet:
        print(*(row.dataset for row in listed if row.here), sep="\n")
    else:
        _show(listed)


def _show(listed: Sequence[_Listed]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    headers = ("dataset", "found in", "samples per split", "terms", "how to get it")
    table = Table(*(Column(header, overflow="fold") for header in headers))
    for row in listed:
        table.add_row(*map(printable, row.cells()))
    # Without a terminal there is nothing to fit; 80 columns would break every path.
    width = None if sys.stdout.isatty() else 160
    Console(width=width, markup=False, highlight=False).print(table)


def _listed(name: str, data_dir: Path | None) -> _Listed:
    source = _SOURCES.get(name)
    if source is None:
        terms, how = _BUILT_IN_TERMS[name]
        text = name == "synthetic"
        samples = dict(SYNTHETIC_SENTENCES) if text else {"all": load_dataset(name).n_samples}
        return _Listed(name, (), samples, terms, how)
    try:
        found = find_splits(source, data_dir)
        samples = {split: source.count(split, files) for split, files in found.items()}
    except CorruptFileError as error:
        where = (str(error.path.parent),)
        return _Listed(name, where, {}, source.terms, source.how, error.path.name)
    folders = dict.fromkeys(str(_data_folder(source, files[0])) for files in found.values())
    return _Listed(name, tuple(folders), samples, source.terms, source.how)


def _data_folder(source: Source, file: Path) -> Path:
    """Folder of the dataset that `file` lies in, perhaps in a subfolder."""
    return next(parent for parent in file.parents if parent.match(source.folder))


# --- download -----------------------------------------------------------------------------------


def _download(name: str, data_dir: Path | None, quiet: bool) -> None:
    if name in _SOURCES:
        download(_SOURCES[name], data_dir, progress=not quiet and sys.stderr.isatty())
    else:
        print(f"{name} needs no files: it {_BUILT_IN_TERMS[name][1]}")


# --- verify -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Check:
    """Verdict on a file, or on a folder of single images."""

    path: Path
    verdict: str
    good: bool


def _verify(name: str | None, args: argparse.Namespace) -> int:
    """Check every file of one dataset, or of all; print one line each. 2 where one failed."""
    if name is not None and name not in _SOURCES:
        return _verify_built_in(name, args)
    sources = tuple(_SOURCES.values()) if name is None else (_SOURCES[name],)
    checks: list[_Check] = []
    for source in sources:
        for root in data_roots(args.data_dir):
            for check in _check_source(source, root / source.folder):
                checks.append(check)
                if not (args.json or (args.quiet and check.good)):
                    print(printable(f"{check.path}: {check.verdict}"), flush=True)
    if not checks:
        source = sources[0]
        raise MissingDataError(missing_message(source, source.splits[0], {}, args.data_dir))
    failed = sum(not check.good for check in checks)
    if args.json:
        print_json([{**asdict(check), "path": str(check.path)} for check in checks])
    elif not args.quiet:
        print(f"{len(checks)} checked, {failed} failed")
    return UNUSABLE if failed else 0


def _verify_built_in(name: str, args: argparse.Namespace) -> int:
    found = load_text(name) if name in text_names() else load_dataset(name)
    if args.json:
        print_json([{"path": None, "verdict": found.describe(), "good": True}])
    elif not args.quiet:
        print(f"{name}: {found.describe()}; needs no files")
    return 0


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
