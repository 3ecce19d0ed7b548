"""Where data files are looked for, how their formats are read, and what is said when that fails.

Nothing here knows a particular dataset. Readers decode one item at a time, so that the largest
set needs no more memory than the array that it ends up in, and what a header declares is held
against the bytes of its file before anything is allocated.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .published import downloadable, published_checksum

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CorruptFileError",
    "MissingDataError",
    "check_pixels",
    "check_texts",
    "data_roots",
    "decode_image",
    "file_digest",
    "idx_shape",
    "is_published",
    "open_bytes",
    "read_idx",
    "read_members",
    "sha256_of",
    "unpacked_limit",
    "zip_members",
]

_CHUNK = 1 << 20
_UBYTE = 0x08  # the IDX type code of unsigned bytes, the only one that image sets use
# Deflate never packs 1032 bytes in less than one. Data pack 200 in one only where nearly all are
# equal, so above 256 MiB a file that claims more is taken for a bomb.
_MOST, _RATIO, _SPARE = 1032, 200, 2**28
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_AXES = 32  # of an array, in every version of NumPy
# Of one image: 8192 x 8192, and above 1024 x 1024 what a PNG of one bit a pixel can pack.
_PIXELS, _FEW_PIXELS = 2**26, 2**20
_TEXTS = 8  # of a PNG: 4 MiB each, where 4 bytes are a character


class MissingDataError(FileNotFoundError):
    """Files of a dataset are not there; the message says which, where, and what to do."""


class CorruptFileError(ValueError):
    """A file is there but cannot be what its name says.

    Parameters
    ----------
    path : Path
        The file on disk.
    reason : str
        What is wrong, naming the member of an archive where that helps.
    remedy : str, optional
        The way out, where it is another than fetching or replacing the file.
    """

    def __init__(self, path: Path, reason: str, remedy: str = "") -> None:
        """Add the checksums, found and published, and the way out to `reason`."""
        self.path = path
        expected = published_checksum(path)
        algorithm = expected.partition(":")[0] if expected else "sha256"
        published = f", published {expected.partition(':')[2]}" if expected else ""
        super().__init__(
            f"{path}: {reason}; {algorithm} {_digest_if_readable(path, algorithm)}{published}. "
            f"{remedy or _remedy(path)}"
        )


def _digest_if_readable(path: Path, algorithm: str) -> str:
    try:
        return file_digest(path, algorithm)
    except OSError as error:
        return f"unknown ({error.strerror})"


def _remedy(path: Path) -> str:
    folder = path.parent.name
    if any(file.name == path.name for file in downloadable(folder)):
        name = folder.replace("_", "-")
        return f"Fetch it again with: python -m linvae.data download {name}"
    return "Replace it by an intact copy."


def data_roots(data_dir: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """Folders that are searched for data, in order.

    The argument `data_dir` first, then the environment variable LINVAE_DATA, then the user's
    cache folder. Each dataset lives in its own subfolder of one of them.
    """
    import pooch

    given = [data_dir, os.environ.get("LINVAE_DATA"), pooch.os_cache("linvae")]
    roots = [Path(folder).expanduser() for folder in given if folder]
    return tuple(dict.fromkeys(roots))


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    _update(digest, path)
    return digest.hexdigest()


def is_published(path: Path, checksum: str) -> bool:
    """Whether a file has the published "algorithm:hexdigest"."""
    algorithm, _, digest = checksum.partition(":")
    return file_digest(path, algorithm) == digest


def sha256_of(paths: Sequence[Path]) -> str:
    """Hex SHA-256 of the bytes of several files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        _update(digest, path)
    return digest.hexdigest()


def _update(digest: Any, path: Path) -> None:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)


@contextmanager
def _reading(path: Path, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the low-level `errors` of a decoder into a CorruptFileError about `path`."""
    try:
        yield
    except CorruptFileError:  # a ValueError, which says what is wrong already
        raise
    except errors as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the disk's, not a decoder's: the file is missing, or may not be read
        raise CorruptFileError(path, f"{what} ({error or type(error).__name__})") from error


_GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)


def unpacked_limit(path: Path) -> int:
    """Bytes that a file of this size may declare to unpack to."""
    size = path.stat().st_size
    return min(_MOST * size, _RATIO * size + _SPARE)


def _refuse_bomb(path: Path, declared: int, what: str) -> None:
    limit = unpacked_limit(path)
    if declared > limit:
        raise CorruptFileError(
            path,
            f"{what} {declared} bytes, and at most {limit} are unpacked from a file of "
            f"{path.stat().st_size}",
        )


def idx_shape(path: Path) -> tuple[int, ...]:
    """Sizes that the header of a gzip-compressed IDX file of bytes announces.

    Raises
    ------
    CorruptFileError
        If the file is not gzip, ends in its header, is not IDX of unsigned bytes, or announces
        more than its bytes can hold.
    """
    with _reading(path, "not a complete gzip file", *_GZIP_ERRORS), gzip.open(path) as stream:
        return _read_idx_header(stream, path)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzip-compressed IDX file of unsigned bytes into an array of its announced shape.

    Raises
    ------
    CorruptFileError
        As `idx_shape`, and if there are more or fewer bytes than the header announces.
    """
    with _reading(path, "not a complete gzip file", *_GZIP_ERRORS), gzip.open(path) as stream:
        shape = _read_idx_header(stream, path)
        payload = stream.read(math.prod(shape) + 1)
    if len(payload) != math.prod(shape):
        follow = len(payload) if len(payload) < math.prod(shape) else "more"
        raise CorruptFileError(
            path,
            f"its header announces {math.prod(shape)} bytes, shape {shape}, and {follow} follow",
        )
    with _reading(path, f"no array has its shape, {shape}", ValueError):
        return np.frombuffer(payload, dtype=np.uint8).reshape(shape)


def _read_idx_header(stream: gzip.GzipFile, path: Path) -> tuple[int, ...]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != bytes((0, 0, _UBYTE)) or magic[3] == 0:
        raise CorruptFileError(
            path,
            f"its first bytes are {magic.hex()!r}; an IDX file of unsigned bytes starts with "
            "000008 and the number of its dimensions",
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise CorruptFileError(path, "it ends inside its IDX header")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    if magic[3] > _AXES:
        raise CorruptFileError(path, f"it has {magic[3]} dimensions, and at most {_AXES} are read")
    _refuse_bomb(path, math.prod(shape), "its header announces")
    return shape


def zip_members(path: Path, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Sorted names of the files in a zip archive that end in one of `suffixes`.

    Raises
    ------
    CorruptFileError
        If the file is no zip archive or was cut short.
    """
    with _zip(path) as file:
        names = [name for name in file.namelist() if name.lower().endswith(suffixes)]
    # Some archivers add a shadow entry per file; it has the suffix but holds no image.
    return tuple(sorted(name for name in names if not name.startswith("__MACOSX/")))


_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    *(OSError, ValueError),  # offsets outside the file, names that are no UTF-8
)


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with _reading(path, "not a complete zip archive", *_ZIP_ERRORS):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def _check_members(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Refuse members that are packed in an unusual way, and those that declare too much."""
    found = [archive.getinfo(name) for name in names]
    for member in found:
        if member.compress_type not in _METHODS:
            raise CorruptFileError(
                path,
                f"member {member.filename} is packed by method {member.compress_type}, and only "
                "0 (stored) and 8 (deflated) are read",
                "Pack it again with: zip -r",
            )
        if member.compress_size > path.stat().st_size:
            raise CorruptFileError(
                path,
                f"member {member.filename} declares {member.compress_size} packed bytes, and the "
                f"file has {path.stat().st_size}",
            )
    _refuse_bomb(path, sum(member.file_size for member in found), "its members declare")


def read_members(path: Path, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the bytes of the named members of a zip archive, one at a time, in that order.

    Raises
    ------
    CorruptFileError
        If the archive or a member cannot be read, or the members declare more than an archive of
        its size can justify; the message names the member.
    """
    with _zip(path) as archive:
        _check_members(path, archive, names)
        for name in names:
            with _reading(path, f"member {name} cannot be read", *_ZIP_ERRORS):
                content = archive.read(name)
            yield content


@contextmanager
def open_bytes(path: Path, member: str = "") -> Iterator[IO[bytes]]:
    """Open a file, or a member of a zip archive, to be read piece by piece.

    Raises
    ------
    CorruptFileError
        If the archive or its member cannot be read, also while it is being read, or the member
        declares more than an archive of its size can justify.
    """
    if not member:
        with path.open("rb") as stream:
            yield stream
        return
    with _zip(path) as archive:
        _check_members(path, archive, [member])
        with (
            _reading(path, f"member {member} cannot be read", *_ZIP_ERRORS),
            archive.open(member) as content,
        ):
            yield content


def check_pixels(image: Image, size: int) -> None:
    """ValueError, before any is decoded, for more pixels than `size` bytes justify, or 2^26."""
    limit = min(_PIXELS, _FEW_PIXELS + 8 * _MOST * size)
    if image.width * image.height > limit:
        raise ValueError(
            f"it declares {image.width}x{image.height} pixels, and of a file of {size} bytes at "
            f"most {limit} are decoded"
        )


def check_texts(stream: IO[bytes]) -> None:
    """ValueError for a PNG of many packed texts: Pillow unpacks 1 MiB of each, 64 in all."""
    texts, is_png = 0, stream.read(8) == b"\x89PNG\r\n\x1a\n"
    while is_png and len(start := stream.read(8)) == 8 and start[4:] != b"IEND":
        texts += start[4:] in (b"zTXt", b"iTXt")
        stream.seek(int.from_bytes(start[:4], "big") + 4, os.SEEK_CUR)
    stream.seek(0)
    if texts > _TEXTS:
        raise ValueError(f"it has {texts} packed texts, and of a PNG at most {_TEXTS} are read")


def decode_image(content: bytes, path: Path, member: str = "") -> Image:
    """Decode a PNG or JPEG completely.

    Raises
    ------
    CorruptFileError
        If `content` is damaged, or declares more pixels than `check_pixels` allows; it names
        `path`, the file on disk, and `member` inside it.
    """
    from PIL import Image

    what = f"{f'member {member}' if member else 'it'} is not a complete image"
    with _reading(path, what, Exception):  # of any kind: so is what Pillow makes of damage
        stream = io.BytesIO(content)
        check_texts(stream)
        image = Image.open(stream, formats=("PNG", "JPEG"))
        check_pixels(image, len(content))
        image.load()
    return image
