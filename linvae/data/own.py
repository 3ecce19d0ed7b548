"""A user's own file as a stream of batches, so that data larger than memory can be read.

| file             | samples                                              | held at a time        |
|------------------|------------------------------------------------------|-----------------------|
| .npy             | first axis                                           | a batch (memory map)  |
| .npz             | its one array, or `target` and optional `condition`  | a batch, unpacked     |
| .csv             | rows; , ; or tab between fields, header or none      | a batch               |
| .parquet         | rows, all columns numbers (needs pyarrow)            | a row group           |
| .h5, .hdf5       | as .npz (needs h5py)                                 | a batch               |
| folder of images | files in natural order, one size and kind of pixels  | a batch               |

Further axes are flattened, row-major, and `OwnData.note` says so. **Nothing is scaled** unless
`scale` is given: pixels of 0 to 255 stay that, and every variance is in their units squared. The
first `condition_dim` columns are the condition. Nothing is ever unpickled, and what a header
declares is held against the bytes of its file before anything is allocated.

Equality that a test checks: the batches of every format, one after the other, are the array that
was written.
"""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linvae.printable import printable

from .dataset import Dataset
from .files import MissingDataError, check_pixels, check_texts, file_digest, unpacked_limit

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["OwnData", "map_array", "open_own_data"]

Values = NDArray[Any]
Batch = Values | tuple[Values, Values]
BATCH_BYTES = 2**22  # of doubles: 512 rows at 784 columns, which stay in cache
DIGEST_BYTES = 2**28  # larger files get no checksum: it would take as long as the answer
INDEX_LINES = 100  # of a .csv file, by which a column that counts the rows is known
INDEX_NOTE = "the first column counts the rows 0, 1, 2 ...: leave it out if it is an index"
HEADER_BYTES = 4096  # of an array: those of numbers have 128, and each is parsed as Python
LINE_CHARS = 2**22  # of a .csv file: 200,000 numbers of 20 digits
BATCH_LINES = 2**16  # of a .csv file: a line costs 150 bytes beside its numbers
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Pillow goes by content: without this list a .png could be PostScript, which starts Ghostscript
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")


@dataclass(frozen=True, eq=False)
class OwnData:
    """Samples of a file, read again every time that `batches` is called.

    `note`: what was flattened, taken for a header, scaled, left as it is, or looks like an index.
    `sha256` is empty for folders and for files above 256 MiB. `image_shape`: (H, W) or (H, W, C) of
    samples with two axes, or three of which the last has 1 or 3 entries.
    """

    name: str
    n_samples: int
    target_dim: int
    condition_dim: int
    note: str
    sha256: str
    read: Callable[[int], Iterator[Batch]]
    image_shape: tuple[int, ...] | None = None

    def batches(self) -> Iterator[Batch]:
        """Targets (rows, d), or pairs (condition, target), as float32 or float64.

        Raises ValueError, naming the sample, where an entry is NaN or infinite, and where the file
        turns out to be damaged.
        """
        rows = max(1, BATCH_BYTES // (8 * (self.target_dim + self.condition_dim)))
        return self.read(rows)

    def arrays(self) -> tuple[Values, Values | None]:
        """All targets (n, d), and conditions (n, dx) or None. Raises ValueError as `batches`."""
        parts = list(self.batches())
        if not self.condition_dim:
            return np.concatenate([np.asarray(part) for part in parts]), None
        condition, target = (np.concatenate(part) for part in zip(*parts, strict=True))
        return target, condition

    def dataset(self) -> Dataset:
        """All samples in memory. Raises ValueError as `batches` and `Dataset`."""
        target, condition = self.arrays()
        return Dataset(
            self.name, target, split="own", condition=condition, image_shape=self.image_shape,
            sha256=self.sha256, note=self.note,
        )  # fmt: skip

    def describe(self) -> str:
        """One line: name, n, dimensions and, where known, the first 12 digits of the sha256."""
        condition = f", condition dim {self.condition_dim}" if self.condition_dim else ""
        digest = f", sha256 {self.sha256[:12]}" if self.sha256 else ""
        return f"{self.name}: n {self.n_samples}, dim {self.target_dim}{condition}{digest}"


@dataclass(frozen=True, eq=False)
class _Table:
    """One array of a file: shape and dtype now, `rows` samples at a time later."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], Iterator[Values]]
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers per sample."""
        return math.prod(self.shape[1:])


def open_own_data(
    path: str | os.PathLike[str],
    *,
    array: str | None = None,
    condition_dim: int = 0,
    scale: float = 1.0,
) -> OwnData:
    """Open a file, or a folder of images, without reading its samples.

    Parameters
    ----------
    path : path
        One of the formats in the module's table; its suffix says which.
    array : str, optional
        Which array of an .npz, which dataset of an .h5: the target.
    condition_dim : int, default=0
        The first so many columns are the condition, the rest the target.
    scale : float, default=1.0
        Factor on all values, condition included, e.g. 1/255.

    Raises
    ------
    MissingDataError
        If nothing is there.
    ValueError
        For an unknown suffix, a file that cannot be read, other types than numbers, fewer than two
        samples, samples without an axis, a condition that leaves no target.
    """
    try:
        file = Path(path).expanduser()
        there = file.exists()
    except (OSError, RuntimeError) as error:  # too long a name; the home of nobody
        raise ValueError(
            f"data={str(path)[:60]!r} is no path ({getattr(error, 'strerror', error)}): give that "
            "of a file or of a folder of images"
        ) from error
    if not there:
        raise MissingDataError(
            f"data={str(file)!r} does not exist: give the path of a file or of a folder of images"
        )
    if not (file.is_file() or file.is_dir()):  # a pipe would be waited for
        raise ValueError(f"data={str(file)!r} is neither a file nor a folder: write it to a file")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale={scale} must be a finite number > 0 in open_own_data")
    tables = _tables(file, array)
    for name, table in tables.items():
        _check(file, name, table)
    return _joined(file, tables, condition_dim, scale)


def _tables(file: Path, array: str | None) -> dict[str, _Table]:
    """`target`, and `condition` where the file has one."""
    if file.is_dir():
        return {"target": _images(file)}
    suffix = file.suffix.lower()
    if suffix in _CONTAINERS:
        return _CONTAINERS[suffix](file, array)
    if suffix not in _SINGLE:
        known = ", ".join((*_SINGLE, *_CONTAINERS))
        raise ValueError(
            f"{file}: suffix {suffix!r} is none of {known}, nor is it a folder of "
            "images; convert it, to .npy best"
        )
    if array is not None:
        raise ValueError(
            f"array={array!r} has no effect on a {suffix} file, which has one only: leave it out"
        )
    return {"target": _SINGLE[suffix](file)}


def _check(file: Path, name: str, table: _Table) -> None:
    shape, where = table.shape, f"{file}: {name} has shape {table.shape}"
    if table.dtype.kind not in "fiub":
        raise ValueError(f"{file}: {name} has dtype {table.dtype} and must be numbers: convert it")
    if len(shape) < 2:
        raise ValueError(f"{where} and must have at least 2 axes, (samples, features): reshape it")
    if shape[0] < 2 or table.width < 1:
        raise ValueError(
            f"{where} and must have at least 2 samples and 1 feature: a covariance needs more data"
        )


def _joined(file: Path, tables: dict[str, _Table], condition_dim: int, scale: float) -> OwnData:
    target, condition = tables["target"], tables.get("condition")
    if condition is not None and condition_dim:
        raise ValueError(
            f"condition_dim={condition_dim}: {file} has a condition of its own, of "
            f"{condition.width} columns; leave condition_dim out"
        )
    if condition is not None and condition.shape[0] != target.shape[0]:
        raise ValueError(
            f"{file}: condition has {condition.shape[0]} samples and target "
            f"{target.shape[0]}: sample i of both must belong together"
        )
    if not 0 <= condition_dim < target.width:
        raise ValueError(
            f"condition_dim={condition_dim} must be between 0 and {target.width - 1}: "
            f"{file} has {target.width} columns and one must be left as target"
        )
    small = file.is_file() and file.stat().st_size <= DIGEST_BYTES
    return OwnData(
        name=printable(file.name),
        n_samples=target.shape[0],
        target_dim=target.width - condition_dim,
        condition_dim=condition.width if condition is not None else condition_dim,
        note=_note(tables, scale),
        sha256=file_digest(file) if small else "",
        read=lambda rows: _batches(file, tables, condition_dim, scale, rows),
        image_shape=None if condition_dim else _image_shape(target.shape[1:]),
    )


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of one sample where it is an image, channels last."""
    return shape if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)) else None


def _note(tables: dict[str, _Table], scale: float) -> str:
    notes = [
        f"{name}: samples of shape {table.shape[1:]}, flattened"
        for name, table in tables.items()
        if len(table.shape) > 2
    ]
    notes += [f"{name}: {note}" for name, table in tables.items() for note in table.notes]
    if scale != 1:
        notes.append(f"values multiplied by {scale:.6g}")
    elif tables["target"].dtype.kind in "iu":
        notes.append(
            f"{tables['target'].dtype} values as they are: variances are in their units "
            "squared (scale changes that)"
        )
    return "; ".join(notes)


def _batches(
    file: Path, tables: dict[str, _Table], condition_dim: int, scale: float, rows: int
) -> Iterator[Batch]:
    parts = [
        _clean(file, name, tables[name], scale, rows)
        for name in ("condition", "target")
        if name in tables
    ]
    for batch in zip(*parts, strict=True):
        if len(batch) == 2:
            yield batch
        else:
            (v,) = batch
            yield (v[:, :condition_dim], v[:, condition_dim:]) if condition_dim else v


def _clean(file: Path, name: str, table: _Table, scale: float, rows: int) -> Iterator[Values]:
    """Flat, finite, scaled samples as float32 where they are, else as float64."""
    start = 0
    for block in table.read(rows):
        dtype = np.float32 if block.dtype == np.float32 else np.float64
        values = block.reshape(len(block), -1).astype(dtype, copy=False)
        if values.shape[1] != table.width:
            raise ValueError(
                f"{file}: {name} has rows of {values.shape[1]} numbers and {table.width} were "
                "expected: every row must have as many; write it again"
            )
        if not np.all(np.isfinite(values)):
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f"{file}: {name}[{start + row}, {column}] = {values[row, column]} must "
                "be finite; remove or impute such samples first"
            )
        start += len(values)
        yield np.multiply(values, scale, dtype=dtype) if scale != 1 else values
    if start != table.shape[0]:
        raise ValueError(
            f"{file}: {name} has {start} samples and {table.shape[0]} were announced: "
            "the file is damaged, or it changed while it was read"
        )


@contextmanager
def _reading(file: Path, what: str, way_out: str = "write it again") -> Iterator[None]:
    """Turn what the decoders raise into a ValueError about `file`."""
    try:
        yield
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        SyntaxError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        OverflowError,
    ) as error:
        raise ValueError(f"{file}: not a readable {what} ({error}); {way_out}") from error


def _slices(values: Any, rows: int) -> Iterator[Values]:
    for start in range(0, len(values), rows):
        yield np.asarray(values[start : start + rows])


# --- one reader per format ----------------------------------------------------------------------


def map_array(file: Path) -> Values:
    """The array of a .npy file, mapped: read where it is looked at.

    Raises ValueError where it is no such file, is cut short, or holds Python objects.
    """
    with _reading(file, ".npy file"), file.open("rb") as stream:
        shape, by_column, dtype = _header(stream)
        _check_held(file.stat().st_size - stream.tell(), shape, dtype)
        if not math.prod(shape) or not dtype.itemsize:  # of which there is no map
            return np.empty(shape, dtype)
        order: Any = "F" if by_column else "C"
        return np.memmap(stream, dtype, "r", stream.tell(), shape, order)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether stored by column, and dtype, of the array that follows."""
    major, minor = np.lib.format.read_magic(stream)
    if (major, minor) not in _HEADERS:
        raise ValueError(f"its version {major}.{minor} is none of arrays of numbers")
    start = stream.read(2 if major == 1 else 4)
    length = int.from_bytes(start, "little")
    if length > HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes, and at most {HEADER_BYTES} are read")
    text = io.BytesIO(start + stream.read(length))
    try:
        shape, by_column, dtype = _HEADERS[major, minor](text)
    except (tokenize.TokenError, MemoryError, TypeError) as error:  # of the parser of Python
        raise ValueError(f"its header describes no array: {error!r}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which would be unpickled")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    return shape, by_column, dtype


_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _check_held(held: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    declared = math.prod(shape) * dtype.itemsize
    if declared > held:
        raise ValueError(f"its header declares {declared} bytes, shape {shape}, and {held} follow")


def _npy(file: Path) -> _Table:
    values = map_array(file)
    return _Table(values.shape, values.dtype, lambda rows: _slices(values, rows))


def _npz(file: Path, array: str | None) -> dict[str, _Table]:
    with _reading(file, ".npz file"), zipfile.ZipFile(file) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    chosen = _choose(file, names, array)
    return {role: _npz_member(file, name) for role, name in chosen.items()}


def _choose(file: Path, names: Sequence[str], array: str | None) -> dict[str, str]:
    """Role -> name: the array asked for, the only one, or those named target and condition."""
    shown = ", ".join(names[:10]) or "nothing"
    if array is not None:
        if array not in names:
            raise ValueError(f"array={array!r} is not in {file}, which holds {shown}")
        return {"target": array}
    if len(names) == 1:
        return {"target": names[0]}
    if "target" not in names:
        raise ValueError(
            f"{file} holds {shown}: name one with array=, or call the samples "
            "'target' (and what is given 'condition')"
        )
    return {role: role for role in ("target", "condition") if role in names}


def _npz_member(file: Path, name: str) -> _Table:
    with _reading(file, ".npz file"), _member(file, name) as (shape, by_column, dtype, _):
        pass
    if by_column and len(shape) > 1:
        return _npz_whole(file, name, shape, dtype)
    return _Table(shape, dtype, lambda rows: _npz_blocks(file, name, rows))


@contextmanager
def _member(file: Path, name: str) -> Iterator[tuple[Any, ...]]:
    """Shape, whether stored by column, dtype and the stream behind the header."""
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo(f"{name}.npy")
        _check_member(file, member)
        with archive.open(member) as stream:
            shape, by_column, dtype = _header(stream)
            _check_held(member.file_size - stream.tell(), shape, dtype)
            yield shape, by_column, dtype, stream


def _check_member(file: Path, member: zipfile.ZipInfo) -> None:
    """Refuse what numpy.savez does not write, and bombs."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is packed by method {member.compress_type}")
    limit = unpacked_limit(file)
    if member.file_size > limit or member.compress_size > file.stat().st_size:
        raise ValueError(
            f"{member.filename} declares {member.file_size} bytes, and at most {limit} are "
            f"unpacked from a file of {file.stat().st_size}: unpack it, if you trust it, and give "
            "the .npy file"
        )


def _npz_blocks(file: Path, name: str, rows: int) -> Iterator[Values]:
    with _reading(file, ".npz file"), _member(file, name) as (shape, _, dtype, stream):
        for start in range(0, shape[0], rows):
            n = min(rows, shape[0] - start)
            content = stream.read(n * math.prod(shape[1:]) * dtype.itemsize)
            yield np.frombuffer(content, dtype=dtype).reshape(n, *shape[1:])


def _npz_whole(file: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Table:
    """Stored column by column: rows are known when all is read."""

    def read(rows: int) -> Iterator[Values]:
        with _reading(file, ".npz file"), np.load(file, allow_pickle=False) as archive:
            values = archive[name]
        return _slices(values, rows)

    return _Table(shape, dtype, read)


def _csv(file: Path) -> _Table:
    with _reading(file, ".csv file", "save it as UTF-8 text"):
        lines = (line for _, line in _csv_lines(file))
        first = next(lines, "").strip(" \r\n")
        delimiter = _delimiter(first)
        fields = _cells(first, delimiter)
        top = list(itertools.islice(lines, INDEX_LINES))
        n_below = len(top) + sum(1 for _ in lines)
    header = _is_header(file, fields)
    notes = [f"the first line, {_shown(fields)!r}, is its header"] if header else []
    if len(fields) > 1 and _counts_rows(top if header else [first, *top], delimiter):
        notes.append(INDEX_NOTE)
    return _Table(
        (n_below + (not header) * bool(first), len(fields)),
        np.dtype(float),
        lambda rows: _csv_blocks(file, delimiter, fields, header, rows),
        tuple(notes),
    )


def _csv_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number, as in an editor, and text of the lines that are not blank."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        for number in itertools.count(1):
            line = stream.readline(LINE_CHARS + 1)
            if len(line) > LINE_CHARS:
                raise ValueError(
                    f"{file}: line {number} has more than {LINE_CHARS} characters, which no row of "
                    "a .csv file should have: convert it to .npy"
                )
            if not line:
                return
            if line.strip():
                yield number, line


def _cells(line: str, delimiter: str) -> list[str]:
    """The fields of one line."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a field of more than 128 KiB
        return line.split(delimiter)


def _delimiter(line: str) -> str:
    """The most frequent of , ; and tab, or what leaves numbers, if with a decimal comma."""
    for delimiter in ";\t":
        cells = _cells(line, delimiter)
        if len(cells) > 1 and all(_is_number(cell.replace(",", ".", 1)) for cell in cells):
            return delimiter
    return max(",;\t", key=line.count)


def _counts_rows(lines: Sequence[str], delimiter: str) -> bool:
    """True where the first cells of three lines or more are 0, 1, 2 ..."""
    first = [_cells(line, delimiter)[0].strip() for line in lines]
    return len(first) > 2 and first == [str(i) for i in range(len(first))]


def _shown(fields: list[str]) -> str:
    """A first line in a message, cut between its fields."""
    text = ",".join(fields)
    if len(text) <= 60:
        return text
    return f"{text[:60].rpartition(',')[0] or text[:60]},..."


def _is_header(file: Path, fields: list[str]) -> bool:
    """True for a first line of words, or of 0 to d - 1 as pandas writes; refuses mixtures, gaps."""
    if len(fields) > 1 and fields == [str(i) for i in range(len(fields))]:
        return True
    numbers = sum(_is_number(field.replace(",", ".", 1)) for field in fields)
    if numbers < len(fields) and (numbers or not all(field.strip() for field in fields)):
        raise ValueError(
            f"{file}: the first line, {_shown(fields)!r}, has gaps or both words and numbers: is "
            "it a header or a sample? fill it, and leave an index column out"
        )
    return numbers == 0


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


def _csv_blocks(
    file: Path, delimiter: str, fields: list[str], header: bool, rows: int
) -> Iterator[Values]:
    lines = _csv_lines(file)
    next(itertools.islice(lines, int(header), int(header)), None)
    while chunk := list(itertools.islice(lines, min(rows, BATCH_LINES))):
        try:
            values = np.loadtxt(
                [line for _, line in chunk],
                delimiter=delimiter, ndmin=2, comments=None, quotechar='"',
            )  # fmt: skip
        except ValueError as error:
            _refuse_cells(file, chunk, delimiter, fields, header)
            raise ValueError(
                f"{file}: lines {chunk[0][0]} to {chunk[-1][0]} are not all numbers ({error}); "
                "remove or fill such lines"
            ) from error
        if values.shape[1] != len(fields) or not np.all(np.isfinite(values)):
            _refuse_cells(file, chunk, delimiter, fields, header)
        yield values


def _refuse_cells(
    file: Path, chunk: list[tuple[int, str]], delimiter: str, fields: list[str], header: bool
) -> None:
    """ValueError on the first line, numbered as in an editor, that is not all finite numbers."""
    for number, line in chunk:
        cells = _cells(line.strip(" \r\n"), delimiter)
        if len(cells) != len(fields):
            raise ValueError(
                f"{file}: line {number} has {len(cells)} cells and the first line {len(fields)}: "
                "every line must have as many; fill or remove such lines"
            )
        for column, cell in enumerate(cells):
            if wrong := _wrong_cell(cell.strip()):
                name = repr(fields[column]) if header else column + 1
                raise ValueError(f"{file}: line {number}, column {name} {wrong}")


def _wrong_cell(cell: str) -> str:
    """What is wrong with a cell and what to do; nothing for a finite number."""
    shown = f"{cell!r:.60}"
    if not cell:
        return "is empty: fill it, or remove such lines"
    if _is_number(cell.replace(",", ".", 1)) and "," in cell:
        return f"is {shown}: write numbers with a decimal point"
    if not _is_number(cell):
        return f"is {shown} and must be a number: correct it, or remove such lines or columns"
    if not math.isfinite(float(cell)):
        return f"is {shown} and must be finite: remove or impute such samples first"
    return ""


def _parquet(file: Path) -> _Table:
    parquet = _optional(file, "pyarrow.parquet")
    with _reading(file, ".parquet file"):
        opened = parquet.ParquetFile(file)
    types = {field.name: str(field.type) for field in opened.schema_arrow}
    for name, kind in types.items():
        if not kind.startswith(("int", "uint", "float", "double", "halffloat", "bool")):
            raise ValueError(
                f"{file}: column {name!r} has type {kind} and must be numbers: leave it out"
            )

    def read(rows: int) -> Iterator[Values]:
        for batch in opened.iter_batches(batch_size=rows):
            columns = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
            yield np.column_stack([np.asarray(c, dtype=np.float64) for c in columns])

    return _Table((opened.metadata.num_rows, len(types)), np.dtype(float), read)


def _hdf5(file: Path, array: str | None) -> dict[str, _Table]:
    h5py = _optional(file, "h5py")
    names: list[str] = []
    with _reading(file, "HDF5 file"), h5py.File(file) as opened:
        opened.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
        chosen = _choose(file, names, array)
        for name in chosen.values():
            if opened[name].external or opened[name].is_virtual:
                raise ValueError(f"{name} lies in other files: copy its values into this one")
        found = {role: (opened[name].shape, opened[name].dtype) for role, name in chosen.items()}

    def reader(name: str) -> Callable[[int], Iterator[Values]]:
        def read(rows: int) -> Iterator[Values]:
            with h5py.File(file) as opened:
                yield from _slices(opened[name], rows)

        return read

    return {role: _Table(*found[role], reader(name)) for role, name in chosen.items()}


def _optional(file: Path, module: str) -> Any:
    """A library that only this format needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.split(".")[0]
        raise ValueError(
            f"{file}: reading it needs {package}, which is not installed: "
            f"pip install {package}, or convert the file to .npy"
        ) from None


def _images(folder: Path) -> _Table:
    found = (f for f in folder.iterdir() if f.suffix.lower() in IMAGES and f.is_file())
    files = sorted(found, key=_natural)
    if not files:
        raise ValueError(
            f"{folder} holds no images ({', '.join(IMAGES)}): give another folder, or a file"
        )
    first = _pixels(files[0])

    def read(rows: int) -> Iterator[Values]:
        for start in range(0, len(files), rows):
            yield np.stack([_like(first, files[0], f) for f in files[start : start + rows]])

    return _Table((len(files), *first.shape), first.dtype, read)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorts 2.png before 10.png."""
    parts = re.findall(r"\d+|\D+", file.name.lower())
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def _like(first: Values, first_file: Path, file: Path) -> Values:
    pixels = _pixels(file)
    if (pixels.shape, pixels.dtype) != (first.shape, first.dtype):
        raise ValueError(
            f"{file} is an image of shape {pixels.shape}, {pixels.dtype}, and "
            f"{first_file.name} one of {first.shape}, {first.dtype}: all must have "
            "one size and one kind of pixels; convert them first"
        )
    return pixels


def _pixels(file: Path) -> Values:
    """Grey (H, W) or colour (H, W, 3), without transparency; 16 and 32 bits as they are."""
    from PIL import Image

    try:
        with file.open("rb") as stream:
            check_texts(stream)
            with Image.open(stream, formats=IMAGE_FORMATS) as image:
                check_pixels(image, file.stat().st_size)
                return np.asarray(_plain(image))
    except Exception as error:  # of any kind: so is what Pillow makes of damage
        raise ValueError(
            f"{file}: not a readable image ({error}); write it again, as PNG, and smaller if it is "
            "large"
        ) from error


def _plain(image: Image) -> Image:
    if image.mode in ("L", "I", "F") or image.mode.startswith("I;16"):
        return image
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


_SINGLE: dict[str, Callable[[Path], _Table]] = {".npy": _npy, ".csv": _csv, ".parquet": _parquet}
_CONTAINERS: dict[str, Callable[[Path, str | None], dict[str, _Table]]] = {
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}
