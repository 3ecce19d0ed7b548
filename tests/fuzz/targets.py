"""One target per format: bytes become a file, and a reader of linvae reads it.

A target fails where its reader raises what it does not document, works more than its input
justifies, or holds more memory than four times what the file declares.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from linvae.compare import parser
from linvae.comparison import Comparison, CurvePoint, Row, json_text
from linvae.data.faces import _attributes, _find_celeba, _Photo, read_partition
from linvae.data.files import (
    CorruptFileError,
    decode_image,
    idx_shape,
    open_bytes,
    read_idx,
    read_members,
    zip_members,
)
from linvae.data.own import open_own_data
from linvae.data.text_files import LABELS, read_text_file
from linvae.data.vocabulary import Vocabulary
from linvae.encoders import load_network
from linvae.explore import _given_covariance
from linvae.models.saved import load_text_model
from linvae.train.cells import CellStore
from linvae.train.checkpoint import content_digest, content_key, read_file, read_header

Reader = Callable[[bytes, Path], None]


@dataclass(frozen=True)
class Target:
    """`read(content, folder)` may raise `errors`; `declared` bytes are what a file asks for."""

    read: Reader
    seeds: Sequence[bytes]
    errors: tuple[type[BaseException], ...] = (CorruptFileError,)
    declared: Callable[[bytes], int] = len


TARGETS: dict[str, Target] = {}


def target(name: str, *seeds: bytes, **options: object) -> Callable[[Reader], Reader]:
    """Register a reader under a name."""

    def register(read: Reader) -> Reader:
        TARGETS[name] = Target(read, seeds, **options)  # type: ignore[arg-type]
        return read

    return register


def written(folder: Path, name: str, content: bytes) -> Path:
    """A file of this content."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


# --- contents to start from -------------------------------------------------------------------


def idx(*shape: int, held: int | None = None) -> bytes:
    """An IDX file of zeros, unpacked; `held`: how many there are, if not as declared."""
    header = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
    return header + bytes(math.prod(shape) if held is None else held)


def npy(values: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, version=version, allow_pickle=True)
    return stream.getvalue()


def shaped(shape: str, body: bytes = b"", by_column: bool = False) -> bytes:
    """A .npy file of doubles that declares this shape."""
    return npy_header(f"{{'descr': '<f8', 'fortran_order': {by_column}, 'shape': {shape}}}", body)


def npy_header(text: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with this header, whatever it says."""
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text.encode("latin1") + body


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (5, 4)) -> bytes:
    """An image file."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(stream, kind)
    return stream.getvalue()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, each with its right checksum."""
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def blank_png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A grey PNG that declares this size, over `rows`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def safetensors(header: str) -> bytes:
    """A file as `linvae.train.checkpoint` writes it, with this header."""
    tensors = {"weight": torch.ones(2, 3)}
    return save(tensors, {"linvae": header, "sha256": content_digest(tensors, header)})


def header(kind: str) -> str:
    """The header of a checkpoint or a cell."""
    identity = {"linvae": "0", "training": 1, "seed": 0, "spec": {"kind": "VAESpec"}}
    notes = {"found": {"beta": 1.0}, "history": [], "seconds": 1.0}
    return json.dumps({"format": 1, "kind": kind, "identity": identity, "notes": notes})


def key_of(header: str) -> str:
    """The key of the cell of this header, so that its notes are read."""
    try:
        return content_key(json.loads(header)["identity"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "key"


VALUES = np.arange(6.0).reshape(3, 2)
PHOTOS = [_Photo(Path("images.zip"), f"top/{i:06d}.jpg") for i in (1, 2)]


# --- archives and published sets --------------------------------------------------------------


def unpacked_size(content: bytes) -> int:
    """Bytes behind a gzip header."""
    with contextlib.suppress(zlib.error):
        return len(content) + len(zlib.decompressobj(31).decompress(content))
    return len(content)


@target("idx", gzip.compress(idx(2, 3, 4), mtime=0), idx(2, 3), declared=unpacked_size)
def read_gzip(content: bytes, folder: Path) -> None:
    """As it is on the disk."""
    file = written(folder, "x.gz", content)
    idx_shape(file)
    read_idx(file)


@target(
    "idx-inside",
    *(idx(2, 3, 4), idx(5), idx(0, 7), idx(4, held=5)),
    *(idx(*[2**32 - 1] * n, held=99) for n in (1, 2, 4, 255)),
)
def read_packed_idx(content: bytes, folder: Path) -> None:
    """What is unpacked."""
    read_gzip(gzip.compress(content, 1, mtime=0), folder)


def members_size(content: bytes) -> int:
    """Bytes that the members of an archive declare, 1 KiB for each, where it can be opened."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return len(content) + sum(m.file_size + 1024 for m in archive.infolist())
    except Exception:  # of whatever kind: the reader must refuse it
        return len(content)


NAMES = ("a.png", "../b.png", "/c.png", "d\\..\\e.png", "C:f.png", "g\0h.png", "__MACOSX/i.png")


@target(
    "zip",
    zipped({"a/b.png": b"1234", "c.txt": b"some words\n"}),
    zipped(dict.fromkeys(NAMES, b"x"), zipfile.ZIP_STORED),
    zipped({"a.png": b"1" * 99}, zipfile.ZIP_BZIP2),
    zipped({"a.png": b"1" * 99}, zipfile.ZIP_LZMA),
    declared=members_size,
)
def read_zip(content: bytes, folder: Path) -> None:
    """All members, at once and piece by piece."""
    file = written(folder, "x.zip", content)
    names = zip_members(file, ("",))
    for _ in read_members(file, names):
        pass
    for name in names:
        with open_bytes(file, name) as stream:
            while stream.read(4096):
                pass


PUBLISHED = ("PNG", "JPEG")


def pixels_size(content: bytes) -> int:
    """Bytes of the decoded pixels, of four channels, of which none is stored in less than one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return len(content) + 4 * math.prod(Image.open(io.BytesIO(content)).size)
    except Exception:  # of whatever kind: the reader must refuse it
        return len(content)


@target("image", *map(picture, PUBLISHED), blank_png(10**5, 10**5), declared=pixels_size)
def read_image(content: bytes, folder: Path) -> None:
    """A PNG or JPEG of a published set."""
    decode_image(content, written(folder, "x.png", content)).convert("L")


def with_checksums(content: bytes) -> bytes:
    """A PNG of the chunks that the bytes describe: two of length, four of kind, then the chunk."""
    chunks = []
    while len(content) > 6:
        length = int.from_bytes(content[:2], "big")
        chunks.append((content[2:6], content[6 : 6 + length]))
        content = content[6 + length :]
    return png(*chunks)


def described(content: bytes) -> bytes:
    """What `with_checksums` makes this PNG of."""
    found, place = b"", 8
    while place < len(content):
        length = struct.unpack(">I", content[place : place + 4])[0]
        found += struct.pack(">H", length) + content[place + 4 : place + 8 + length]
        place += 12 + length
    return found


@target(
    "png",
    *(described(picture("PNG", mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    described(blank_png(2**20, 2**20)),
    declared=lambda content: pixels_size(with_checksums(content)),
)
def read_png(content: bytes, folder: Path) -> None:
    """A PNG whose checksums are right, so that damage reaches what is behind them."""
    read_image(with_checksums(content), folder)


@target("partition", b"000001.jpg 0\n000002.jpg 1\n../../etc/passwd 2\n")
def read_split(content: bytes, folder: Path) -> None:
    """list_eval_partition.txt, alone and beside images."""
    file = written(folder, "list_eval_partition.txt", content)
    read_partition(file)
    _find_celeba(folder)


@target(
    "attributes", b"2\nBald Young\n000001.jpg -1 1\n000002.jpg 1 1\n", b"1\nBald\n000001.jpg 1 1"
)
def read_attributes(content: bytes, folder: Path) -> None:
    """list_attr_celeba.txt."""
    _attributes(PHOTOS, written(folder, "list_attr_celeba.txt", content))


# --- text --------------------------------------------------------------------------------------


def text_size(content: bytes) -> int:
    """Bytes of the file and of its arrays: 4 a token, START and END too, and 8 a sentence."""
    return len(content) + 4 * len(content.split()) + 16 * (1 + content.count(b"\n"))


@target(
    "text",
    b"\x00some words here\nand some more\n\n",
    b"\x01pos\tgood food\nneg\tbad food\n",
    b"\x02pos good food\n",
    b"\x03\xef\xbb\xbfsome _UNK <unk> <s> words </s>\r\n\xc3\xa9t\xc3\xa9",
    errors=(CorruptFileError,),
    declared=text_size,
)
def read_text(content: bytes, folder: Path) -> None:
    """Sentences; the first byte chooses the labels."""
    labels = LABELS[content[0] % len(LABELS)] if content else "auto"
    file = written(folder, "x.txt", content[1:])
    try:
        read_text_file(file, labels=labels)
    except ValueError as error:
        if "no word of" not in str(error):
            raise


@target("vocabulary", b"<s>\n</s>\n<unk>\na\nb\n", b"<s>\r\n</s>\r\n<unk>\r\n")
def read_vocabulary(content: bytes, folder: Path) -> None:
    """One word a line."""
    Vocabulary.load(written(folder, "vocabulary.txt", content))


# --- data of one's own -------------------------------------------------------------------------

own = {"errors": (ValueError,)}


def read_all(file: Path, array: str | None = None) -> None:
    """Every sample of a file or folder."""
    for _ in open_own_data(file, array=array).batches():
        pass


ARRAYS = (
    npy(VALUES),
    npy(np.asfortranarray(VALUES.astype(np.float32))),
    npy(VALUES, (2, 0)),
    npy(VALUES > 1, (3, 0)),
    npy(np.array([{}, 1], dtype=object)),
    npy(np.zeros(2, dtype=[("a", "<f8"), ("b", "O")])),
    shaped(f"({10**30}, 2)"),
    shaped(f"({10**12}, 2)", by_column=True),
    shaped("(-1, 2)", bytes(64)),
    npy_header("{'descr': '<f8', 'shape': (3, 2"),
    npy_header("-" * 9000 + "1"),
    npy_header("[" * 150 + "-" * 9000),
)


@target("npy", *ARRAYS, **own)
def read_npy(content: bytes, folder: Path) -> None:
    """One array."""
    read_all(written(folder, "x.npy", content))


@target(
    "npz",
    zipped({"target.npy": npy(VALUES), "condition.npy": npy(VALUES[:, :1])}),
    zipped({"x.npy": npy(VALUES)}, zipfile.ZIP_STORED),
    declared=members_size,
    **own,
)
def read_npz(content: bytes, folder: Path) -> None:
    """An archive of arrays as it is on the disk."""
    read_all(written(folder, "x.npz", content))


@target("npz-inside", *ARRAYS, **own)
def read_packed_npy(content: bytes, folder: Path) -> None:
    """An array in an archive whose checksums are right."""
    read_npz(zipped({"x.npy": content}, zipfile.ZIP_STORED), folder)


@target(
    "csv",
    b"a,b\n1,2\n3,4\n",
    b"1;2,5\n3;4,5\n",
    b'"a";"b"\r\n1;2\r\n\r\n3;4',
    b"0\t1\n1\t2\n2\t3\n3\t4\n",
    b"\xef\xbb\xbf1,nan\n1e999,-0\n1_0,0x1\n",
    declared=lambda content: 8 * len(content),  # of a digit and its comma a double
    **own,
)
def read_csv(content: bytes, folder: Path) -> None:
    """Rows of numbers."""
    read_all(written(folder, "x.csv", content))


KINDS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".bmp", ".gif", ".tif", ".webp")


@target(
    "images",
    *(bytes((i,)) + picture(kind) for i, kind in enumerate(KINDS)),
    *(bytes((4,)) + picture("TIFF", mode) for mode in ("1", "L", "P", "I;16", "I", "F", "CMYK")),
    *(bytes((3,)) + picture("GIF", mode) for mode in ("1", "L", "P")),
    *(bytes((2,)) + picture("BMP", mode) for mode in ("1", "L", "P")),
    bytes((0,)) + blank_png(10**5, 10**5),
    declared=lambda content: pixels_size(content[1:]),
    **own,
)
def read_folder(content: bytes, folder: Path) -> None:
    """A folder of two images; the first byte chooses their suffix."""
    suffix = SUFFIXES[content[0] % len(SUFFIXES)] if content else ".png"
    for name in ("1", "2"):
        written(folder / "images", name + suffix, content[1:])
    try:
        read_all(folder / "images")
    finally:
        for name in ("1", "2"):
            (folder / "images" / (name + suffix)).unlink()


@target("covariance", *ARRAYS, npy(np.eye(3)), **own)
def read_covariance(content: bytes, folder: Path) -> None:
    """--covariance of the explorer."""

    class Arguments:
        covariance = written(folder, "x.npy", content)
        condition_dim = None

    _given_covariance(Arguments())  # type: ignore[arg-type]


# --- options -----------------------------------------------------------------------------------

PARSER = parser()


class UsageError(Exception):
    """The command ended with exit code 2."""


@target(
    "config",
    b'latent-dim = 4\nbeta = [1.0, 2]\nquick = true\ndataset = "mnist"\n',
    b'decoder_variance = "learned"\nout = "../x"\ndata = "/etc/passwd\\u0000"\n',
    b"[table]\nseeds = 1\n",
    b"seeds = 1979-05-27\n",
    b"latent-dim = 0x" + b"f" * 5000,
    b"beta = " + b"[" * 5000,
    errors=(UsageError,),
)
def read_config(content: bytes, folder: Path) -> None:
    """--config of compare."""
    file = written(folder, "run.toml", content)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            PARSER.parse_args(["--config", str(file)])
    except SystemExit as stop:
        if stop.code != 2 or not said.getvalue().strip():
            raise AssertionError(f"exit {stop.code}, {said.getvalue()!r}") from stop
        raise UsageError from stop


# --- results -----------------------------------------------------------------------------------


@target("checkpoint", safetensors(header("checkpoint")), safetensors("[]"), b"{}", **own)
def read_checkpoint(content: bytes, folder: Path) -> None:
    """A checkpoint, its sha256 checked or not."""
    file = written(folder, "x.checkpoint.safetensors", content)
    with contextlib.suppress(ValueError):
        found = read_header(file, "checkpoint")
        found["identity"]["linvae"], found["notes"]
    read_file(file, "checkpoint")


@target(
    "cell",
    header("cell").encode(),
    b'{"format": 1, "kind": "cell"}',
    b'{"format": 1, "kind": "cell", "identity": [], "notes": 1}',
    b"[" * 5000,
    errors=(),
)
def read_cell(content: bytes, folder: Path) -> None:
    """A cell whose sha256 is right, whatever its header says: it loads, or is trained again."""
    text = content.decode("latin1")
    key = key_of(text)
    written(folder, f"{key}.cell.safetensors", safetensors(text))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CellStore(folder).load(key)


def table(record: type, values: str) -> bytes:
    """A .csv file of one record."""
    names = ",".join(field.name for field in dataclasses.fields(record))
    return f"{names}\r\n{values}\r\n".encode()


ROW = table(Row, "critical_beta,linear,1,1,nan,nan,0,0.5,0.49")
POINT = table(CurvePoint, ",".join("1" for _ in dataclasses.fields(CurvePoint)))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def with_own_sum(name: str, content: bytes, **more: object) -> bytes:
    """A JSON object with what it should say of its files and of itself; anything else as it is."""
    try:
        described = json.loads(content) | more
    except (ValueError, TypeError, RecursionError):
        return content
    dumped = json.dumps if name == "own_sha256" else json_text
    return json.dumps(described | {name: sha256(dumped(described).encode())}).encode()


def sealed_result(folder: Path, summary: bytes, **tables: bytes) -> None:
    """summary.json and the tables, whose sha256 are right."""
    files = {f"{name}.csv": content for name, content in tables.items()}
    for name, content in files.items():
        written(folder, name, content)
    sums = {name: sha256(content) for name, content in files.items()}
    written(folder, "summary.json", with_own_sum("sha256", summary, tables_sha256=sums))


@target(
    "comparison",
    b'{"settings": {"dataset": "digits"}}\0' + ROW + b"\0" + POINT,
    b"{}\0\0",
    b"[" * 5000,
    **own,
)
def read_comparison(content: bytes, folder: Path) -> None:
    """The three files of a result, divided by NUL, as if they had been written so."""
    summary, rows, points = [*content.split(b"\0", 2), b"", b""][:3]
    sealed_result(folder, summary, comparison=rows, curves=points)
    Comparison.read(folder)


def sealed_model(folder: Path, description: bytes, state: bytes) -> None:
    """A text model of these bytes, whose sha256 are right."""
    files = {"state.safetensors": state, "vocabulary.txt": b"a\n"}
    for name, content in files.items():
        written(folder, name, content)
    sums = {name: sha256(content) for name, content in files.items()}
    more = {} if b"sha256" in description else {"sha256": sums}
    written(folder, "model.json", with_own_sum("own_sha256", description, **more))


@target(
    "model",
    b'{"format": 2, "kind": "vae"}',
    b'{"format": 2, "sha256": ["state.safetensors", "vocabulary.txt"]}',
    b"[" * 5000,
    b'{"format": 2, "kind": "vae", "spec": {}, "sha256": {"state.safetensors": "", '
    b'"vocabulary.txt": ""}}',
    b'{"format": 2, "kind": ["vae"], "spec": {}}',
    **own,
)
def read_model(content: bytes, folder: Path) -> None:
    """model.json of a text model, as if it had been written so."""
    sealed_model(folder, content, save({"weight": torch.ones(2)}))
    load_text_model(folder)


def script() -> bytes:
    """A TorchScript file."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still read
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), stream)
    return stream.getvalue()


@target("script", script(), declared=lambda content: 2**30, **own)
def read_script(content: bytes, folder: Path) -> None:
    """A TorchScript file: its archive is read by the C++ of torch."""
    load_network(written(folder, "x.pt", content))
