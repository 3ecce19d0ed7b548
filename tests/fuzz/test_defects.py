"""What was found by fuzzing and by reading, one case each: bombs, false headers, paths."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin
from safetensors.torch import save

import linvae.data.files as files
import linvae.data.own as own
import linvae.data.text_files as text_files
import linvae.data.vocabulary as vocabulary
from linvae.compare import parser
from linvae.comparison import Comparison
from linvae.data import CorruptFileError
from linvae.data.faces import _attributes, _celeba_split, _find_celeba, read_partition
from linvae.encoders import load_network
from linvae.models.saved import load_text_model
from linvae.spec import VAESpec
from linvae.train.cells import CellStore
from linvae.train.checkpoint import read_header

from .targets import (
    NAMES,
    PHOTOS,
    VALUES,
    blank_png,
    header,
    idx,
    key_of,
    npy,
    npy_header,
    picture,
    png,
    safetensors,
    script,
    sealed_model,
    sealed_result,
    shaped,
    written,
    zipped,
)

FEW_BYTES = 2**22  # a reader that refuses holds less: chunks of its checksum


def refused(read, file, words, error=ValueError):
    """`read(file)` ends as documented, with these words and the file's name, and holds little."""
    with pytest.raises(error, match=words) as caught:
        read(file)
    assert file.name in str(caught.value)
    tracemalloc.start()
    try:
        with pytest.raises(error):
            read(file)
        assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
    finally:
        tracemalloc.stop()


# --- arrays ------------------------------------------------------------------------------------


ARRAYS = {
    "header-of-a-gigabyte": (
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**30),
        "its header has 1073741824 bytes, and at most 4096 are read",
    ),
    "header-of-names": (npy_header("", version=b"\x03\x00"), r"its version 3\.0 is none of arrays"),
    "terabytes": (
        shaped("(1000000000000, 2)", bytes(64)),
        r"declares 16000000000000 bytes, shape \(1000000000000, 2\), and 64 follow",
    ),
    "beyond-integers": (shaped(f"({10**30}, 2)"), r"declares 160{30} bytes"),
    "negative": (shaped("(-1, 2)", bytes(64)), r"its shape is \(-1, 2\)"),
    "open-bracket": (npy_header("{'shape': (3, 2"), "its header describes no array: TokenError"),
    "nested": (npy_header("-" * 4000 + "1"), "not a readable"),
    "deeper": (npy_header("-" * 9000 + "1"), "its header has 9001 bytes"),
    "object": (npy(np.array([{}, 1])), "it holds Python objects, which would be unpickled"),
    "object-field": (npy(np.zeros(2, dtype=[("a", "O")])), "it holds Python objects"),
}


@pytest.mark.parametrize(("content", "words"), ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
def test_headers_of_arrays_are_not_believed(content, words, packed, tmp_path):
    file = tmp_path / ("x.npz" if packed else "x.npy")
    file.write_bytes(zipped({"x.npy": content}) if packed else content)
    refused(own.open_own_data, file, words)


def test_covariance_of_terabytes_is_refused(tmp_path, capsys):
    from linvae.explore import _given_covariance

    class Arguments:
        covariance = written(tmp_path, "x.npy", shaped("(1000000, 1000000)"))
        condition_dim = None

    with pytest.raises(ValueError, match=r"x\.npy' is no \.npy file of numbers.*declares 8000000"):
        _given_covariance(Arguments())


@pytest.mark.parametrize("order", ["C", "F"])
def test_packed_zeros_are_refused(order, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_SPARE", 2**16)
    file = tmp_path / "x.npz"
    np.savez_compressed(file, target=np.zeros((1000, 300), order=order))
    words = (
        r"x\.npz: .*target\.npy declares 2400128 bytes, and at most \d+ are unpacked from a file "
        r"of \d+: unpack it, if you trust it, and give the \.npy file"
    )
    refused(own.open_own_data, file, words)


def test_zeros_that_justify_their_size_are_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", target=np.zeros((1000, 300)))
    assert own.open_own_data(tmp_path / "x.npz").arrays()[0].shape == (1000, 300)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packers_that_numpy_does_not_use_are_refused(method, tmp_path):
    file = written(tmp_path, "x.npz", zipped({"x.npy": npy(VALUES)}, method))
    refused(own.open_own_data, file, f"packed by method {method}")


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "LINE_CHARS", 1000)
    file = written(tmp_path, "x.csv", b"1,2\n" + b"1," * 10**6)
    refused(own.open_own_data, file, "line 2 has more than 1000 characters")


# --- archives ----------------------------------------------------------------------------------


def test_idx_that_announces_more_than_its_bytes_hold(tmp_path):
    file = written(tmp_path, "x.gz", gzip.compress(idx(2**20, 2**20, held=9)))
    words = "its header announces 1099511627776 bytes, and at most .* are unpacked from a file of"
    refused(files.read_idx, file, words, CorruptFileError)
    refused(files.idx_shape, file, words, CorruptFileError)


def test_idx_of_zeros_is_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_SPARE", 2**16)
    file = written(tmp_path, "x.gz", gzip.compress(idx(2**22)))
    refused(
        files.read_idx, file, "its header announces 4194304 bytes, and at most", CorruptFileError
    )


def test_what_follows_an_idx_is_not_unpacked(tmp_path):
    file = written(tmp_path, "x.gz", gzip.compress(idx(4, held=2**24)))
    refused(files.read_idx, file, "announces 4 bytes.* and more follow", CorruptFileError)


@pytest.mark.parametrize(
    ("shape", "words"), [((0, *[2**32 - 1] * 3), "no array has its shape"), ((1,) * 40, "40 dim")]
)
def test_idx_of_no_array(shape, words, tmp_path):
    file = written(tmp_path, "x.gz", gzip.compress(idx(*shape)))
    refused(files.read_idx, file, words, CorruptFileError)


def read_zip(file: Path) -> None:
    list(files.read_members(file, files.zip_members(file, (".png",))))


def stream_zip(file: Path) -> None:
    with files.open_bytes(file, "a.png") as stream:
        while stream.read(4096):
            pass


def patched(content: bytes, place: int, value: int) -> bytes:
    """An archive of one member with another number in its central directory."""
    start = content.index(b"PK\x01\x02") + place
    return content[:start] + struct.pack("<I", value) + content[start + 4 :]


PLAIN = zipped({"a.png": b"1" * 99}, zipfile.ZIP_STORED)
PACKED_SIZE, SIZE = 20, 24  # where a central directory has them
ARCHIVES = {
    "lzma": (zipped({"a.png": b"1" * 99}, zipfile.ZIP_LZMA), "packed by method 14, and only 0"),
    "bzip2": (zipped({"a.png": b"1" * 99}, zipfile.ZIP_BZIP2), "packed by method 12"),
    "packed-gigabyte": (patched(PLAIN, PACKED_SIZE, 2**30), "declares 1073741824 packed bytes"),
    "gigabyte": (patched(PLAIN, SIZE, 2**30), "its members declare 1073741824 bytes, and at most"),
    "header-elsewhere": (patched(PLAIN, 42, 2**31), "a.png cannot be read"),
}


@pytest.mark.parametrize("read", [read_zip, stream_zip])
@pytest.mark.parametrize(("content", "words"), ARCHIVES.values(), ids=ARCHIVES)
def test_archives_are_not_believed(content, words, read, tmp_path):
    refused(read, written(tmp_path, "x.zip", content), words, CorruptFileError)


@pytest.mark.parametrize("read", [read_zip, stream_zip])
def test_zip_of_zeros_is_a_bomb(read, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_SPARE", 2**16)
    file = written(tmp_path, "x.zip", zipped({"a.png": bytes(2**22)}))
    refused(read, file, "its members declare 4194304 bytes, and at most", CorruptFileError)


def test_members_that_share_their_bytes_are_counted_each(tmp_path, monkeypatch):
    """Archives whose directory names the same packed bytes again and again."""
    monkeypatch.setattr(files, "_SPARE", 2**16)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**16))
        archive.filelist.extend(archive.filelist * 99)
    refused(read_zip, written(tmp_path, "x.zip", stream.getvalue()), "declare 6553600 bytes")


def test_an_archive_in_an_archive_is_no_image(tmp_path):
    inner = zipped({"a.png": zipped({"a.png": bytes(2**20)})})
    file = written(tmp_path, "x.zip", inner)
    (content,) = files.read_members(file, ["a.png"])
    refused(lambda f: files.decode_image(content, f, "a.png"), file, "not a complete image")


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_names_of_members_lead_nowhere(tmp_path):
    """Members are read by their names in the archive; nothing is written anywhere."""
    folder = tmp_path / "deep" / "folder"
    names = (*NAMES, "../" * 60 + "etc/j.png", "k" * 60000 + ".png")
    file = written(folder, "x.zip", zipped({name: name[:9].encode() for name in names}))
    written(tmp_path, "b.png", b"outside")
    before = tree(tmp_path)
    found = files.zip_members(file, (".png",))
    assert len(found) == len(names) - 2  # NUL ends a name; __MACOSX is skipped
    assert list(files.read_members(file, found)) == [name[:9].encode() for name in found]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/passwd", "..\\outside.jpg", "C:outside"])
def test_names_of_a_partition_lead_nowhere(name, tmp_path):
    folder = tmp_path / "celeba"
    written(tmp_path, "outside.jpg", picture("JPEG"))
    written(folder, "img_align_celeba/000001.jpg", picture("JPEG"))
    partition = f"{name} 0\n000001.jpg 0\n".encode()
    file = written(folder, "list_eval_partition.txt", partition)
    assert list(_find_celeba(folder)) == ["train"]
    photos, published = _celeba_split("train", file)
    assert [photo.path.parent for photo in photos] == [folder / "img_align_celeba"]
    assert published == 2


# --- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "words"),
    [(10**5, "exceeds limit of|it declares 100000x100000 pixels"), (4096, "4096x4096 pixels")],
)
def test_images_that_declare_more_than_they_hold(width, words, tmp_path):
    content = blank_png(width, width)
    file = written(tmp_path / "images", "a.png", content)
    refused(own.open_own_data, file.parent, words)
    refused(lambda f: files.decode_image(content, f), file, words, CorruptFileError)


def test_a_blank_image_is_read(tmp_path):
    content = blank_png(4096, 4096, bytes(4097 * 4096))
    assert files.decode_image(content, tmp_path / "a.png").size == (4096, 4096)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_packed_texts_of_an_image_are_not_unpacked(kind, tmp_path):
    """64 of 1 KiB that unpack to 1 MiB, or to 4 where 4 bytes are a character."""
    start = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    head = b"k\0\0" if kind == b"zTXt" else b"k\0\1\0\0\0"
    text = head + zlib.compress("\U0001f600".encode() + b"a" * (2**20 - 8))
    pixels = (b"IDAT", zlib.compress(bytes(72)))
    content = png((b"IHDR", start), *[(kind, text)] * 60, pixels, (b"IEND", b""))
    file = written(tmp_path / "images", "a.png", content)
    refused(own.open_own_data, file.parent, "60 packed texts")
    refused(lambda f: files.decode_image(content, f), file, "60 packed texts", CorruptFileError)


def test_texts_of_a_usual_image_are_read(tmp_path):
    start = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    texts = [(b"zTXt", b"k\0\0" + zlib.compress(b"a"))] * 8
    content = png((b"IHDR", start), *texts, (b"IDAT", zlib.compress(bytes(72))), (b"IEND", b""))
    assert files.decode_image(content, tmp_path / "a.png").size == (8, 8)


def test_postscript_is_never_run(tmp_path, monkeypatch):
    """Pillow goes by content, and hands PostScript to Ghostscript whatever the suffix says."""
    ran: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: ran.append(args))
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
    file = written(tmp_path / "images", "a.png", content)
    refused(own.open_own_data, file.parent, "a.png: not a readable image")
    assert not ran
    refused(lambda f: files.decode_image(content, f), file, "not a complete image")


def test_a_tiff_that_pillow_stumbles_over(tmp_path):
    """TypeError of Pillow 13: a tag of the wrong type."""
    content = bytearray(picture("TIFF"))
    for place in range(len(content)):
        damaged = content.copy()
        damaged[place] ^= 8
        file = written(tmp_path / "images", "a.tif", bytes(damaged))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                own.open_own_data(file.parent)
            except ValueError as error:
                assert "a.tif" in str(error) or "at least 2 samples" in str(error)


# --- tables and text ---------------------------------------------------------------------------


def test_a_photo_listed_twice_stands_for_no_other(tmp_path):
    """Else the photo that is missing would have no attribute at all."""
    table = written(tmp_path, "t.txt", b"2\nA B\n000001.jpg 1 1\n000001.jpg 1 1\n")
    labels, note = _attributes(PHOTOS, table)
    assert labels is None
    assert "covers 1 of these 2 images" in note


def test_tables_of_celeba_are_bounded(tmp_path):
    file = written(tmp_path, "list_eval_partition.txt", b"a 0\n" + b"b" * 10**7)
    refused(read_partition, file, "line 2 is beyond what CelebA has", CorruptFileError)
    table = written(tmp_path, "list_attr_celeba.txt", b"2\n" + b"A " * 10**6)
    refused(lambda f: _attributes(PHOTOS, f), table, "line 2 is beyond", CorruptFileError)


def test_a_label_that_is_a_sentence_is_refused(tmp_path):
    """All labels take as much as the longest: here 20 GB."""
    file = written(tmp_path, "x.txt", b"L" * 10**6 + b"\ta\n" + b"x\ta\n" * 5000)
    words = r"label 'L{40}'\.\.\. has 1000000 characters, too many for one of 5001 sentences"
    with pytest.raises(CorruptFileError, match=words):
        text_files.read_text_file(file)


def test_words_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_MOST_WORDS", 9)
    file = written(tmp_path, "x.txt", b"a b c\nd e f\ng h i\n")
    words = "up to line 2 it has more than 9 different words.*Divide it into words first"
    refused(text_files.read_text_file, file, words, CorruptFileError)


@pytest.mark.parametrize("limit", ["_MOST_BYTES", "_MOST_WORDS"])
def test_a_vocabulary_is_bounded(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, limit, 3)
    file = written(tmp_path, "v.txt", b"<s>\n</s>\n<unk>\na\n")
    refused(vocabulary.Vocabulary.load, file, "it has more than 3", CorruptFileError)


# --- options and results -----------------------------------------------------------------------


CONFIGS = {
    "nested": (b"beta = " + b"[" * 5000, "no readable TOML file: maximum recursion"),
    "long": (b"#" * (2**16 + 1), "it has more than 65536 bytes"),
    "digits": (b"latent-dim = 0x" + b"f" * 5000, "latent-dim = an integer of thousands of digits"),
    "latin": (b"dataset = '\xe9'", "no readable TOML file: 'utf-8'"),
}


@pytest.mark.parametrize(("content", "words"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_cannot_be_read_is_a_usage_error(content, words, tmp_path, capsys):
    file = written(tmp_path, "run.toml", content)
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(["--config", str(file)])
    said = capsys.readouterr().err
    assert words in said
    assert str(file) in said
    assert len(said) < 1000


RESULTS = {  # every sha256 is right
    "settings": (b"{}", b"", "summary.json is not as it was written"),
    "list": (b'{"settings": [1]}', b"", "summary.json is not as it was written"),
    "nested": (b"[" * 5000, b"", "summary.json is not as it was written"),
    "column": (b'{"settings": {}}', b"quantity\nx\n", "comparison.csv is not as it was written"),
    "short": (b'{"settings": {}}', b"", ""),
}


@pytest.mark.parametrize(("summary", "table", "words"), RESULTS.values(), ids=RESULTS)
def test_a_damaged_result_is_named(summary, table, words, tmp_path):
    sealed_result(tmp_path, summary, comparison=table)
    if not words:
        assert Comparison.read(tmp_path).rows == ()
        return
    with pytest.raises(ValueError, match=f"{words}.*repeat the run: linvae compare"):
        Comparison.read(tmp_path)


@pytest.mark.parametrize("missing", ["identity", "notes", "all"])
def test_a_header_without_its_run_is_unreadable(missing, tmp_path):
    """A flipped bit in the name of a field; the sha256 is not read with the header alone."""
    content = json.loads(header("checkpoint"))
    content.pop(missing, None)
    text = "[" * 5000 if missing == "all" else json.dumps(content)
    file = written(tmp_path, "x.safetensors", safetensors(text))
    refused(lambda f: read_header(f, "checkpoint"), file, "its header (lacks|was not written)")


def test_a_cell_with_other_notes_is_trained_again(tmp_path):
    key = key_of(header("cell"))
    written(tmp_path, f"{key}.cell.safetensors", safetensors(header("cell")))
    with pytest.warns(UserWarning, match="required positional arguments.*trained again"):
        assert CellStore(tmp_path).load(key) is None


def test_a_number_too_long_for_python_is_named(tmp_path):
    """ValueError of Python, which is no JSONDecodeError and names no file."""
    file = written(tmp_path, "x.safetensors", safetensors('{"format": ' + "1" * 5000 + "}"))
    refused(lambda f: read_header(f, "checkpoint"), file, "its header was not written")


def test_a_damaged_script_is_no_script(tmp_path):
    """IndexError of torch: its archive has checksums, and they are not read."""
    content = script().replace(b"weightq", b"veightq", 1)
    refused(load_network, written(tmp_path, "x.pt", content), "is no TorchScript file")


def test_a_script_of_a_gigabyte_is_not_allocated(tmp_path, monkeypatch):
    """The reader of torch allocates what the directory declares."""
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: pytest.fail("was asked to"))
    file = written(tmp_path, "x.pt", patched(script(), SIZE, 2**30))
    refused(load_network, file, "is no TorchScript file")


MODELS = {  # every sha256 is right but of the first two
    "nested": (b"[" * 5000, "model.json is damaged .*no JSON with a format"),
    "list": (
        b'{"format": 2, "sha256": ["state.safetensors", "vocabulary.txt"]}',
        "model.json is damaged .*it has no sha256 of",
    ),
    "state": (b'{"format": 2, "kind": "vae"}', "state.safetensors is damaged"),
}


@pytest.mark.parametrize(("content", "words"), MODELS.values(), ids=MODELS)
def test_a_damaged_text_model_is_named(content, words, tmp_path):
    sealed_model(tmp_path, content, b"no archive")
    with pytest.raises(ValueError, match=words):
        load_text_model(tmp_path)


def test_a_text_model_of_no_kind_is_named(tmp_path):
    state = save({"weight": torch.ones(2)})
    sealed_model(tmp_path, b'{"format": 2, "kind": ["vae"]}', state)
    with pytest.raises(ValueError, match=r"has a model of kind \['vae'\], this linvae knows"):
        load_text_model(tmp_path)


def test_a_text_model_declares_no_more_than_it_holds(tmp_path):
    """10^12 words would take terabytes before they are compared with the file."""
    description = {
        "format": 2,
        "kind": "vae",
        "spec": dataclasses.asdict(VAESpec(2, likelihood="multinomial")),
        "vocabulary": 10**12,
        "sizes": {"embedding": 8, "hidden": 8, "dropout": 0.5},
        "seeds": [0],
        "n_points": 1,
    }
    sealed_model(tmp_path, json.dumps(description).encode(), save({"weight": torch.ones(2)}))
    words = "it does not describe state.safetensors: Error.s. in loading state_dict"
    with pytest.raises(ValueError, match=words):
        load_text_model(tmp_path)


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_hdf5_reads_no_other_file(kind, tmp_path):
    h5py = pytest.importorskip("h5py")
    other = written(tmp_path, "other", bytes(160))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external":
            file.create_dataset("target", (10, 2), "<f8", external=[(str(other), 0, 160)])
        else:
            layout = h5py.VirtualLayout((10, 2), "<f8")
            layout[:] = h5py.VirtualSource(str(other), "a", (10, 2))
            file.create_virtual_dataset("target", layout)
    with pytest.raises(ValueError, match=r"a\.h5: .*target lies in other files: copy its values"):
        own.open_own_data(tmp_path / "a.h5")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy' is neither a file nor a folder"):
        own.open_own_data(tmp_path / "a.npy")
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds no images"):
        own.open_own_data(tmp_path)
