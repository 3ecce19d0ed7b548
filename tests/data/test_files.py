"""File formats: what is read, and what is said about damaged files."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from linvae.data import CorruptFileError, data_roots
from linvae.data.files import (
    decode_image,
    file_digest,
    idx_shape,
    read_idx,
    read_members,
    sha256_of,
    zip_members,
)

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_data_roots_in_order(root, monkeypatch):
    cache = root.parent / "cache" / "linvae"
    assert data_roots() == (cache,)
    monkeypatch.setenv("LINVAE_DATA", "/from/variable")
    assert data_roots("/given") == (Path("/given"), Path("/from/variable"), cache)


def test_data_roots_expands_home_and_drops_repeats(root, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("LINVAE_DATA", "~/data")
    assert data_roots("/home/somebody/data")[0] == Path("/home/somebody/data")
    assert len(data_roots("/home/somebody/data")) == 2


@pytest.mark.parametrize("shape", [(24,), (2, 12), (2, 3, 4), (0, 28, 28)])
def test_idx_round_trip(tmp_path, write_idx, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = write_idx(tmp_path / "x.gz", array)
    assert idx_shape(path) == shape
    np.testing.assert_array_equal(read_idx(path), array)


HEADER = bytes((0, 0, 8, 1, 0, 0, 0, 4))
DAMAGED = {
    "html page": (b"<!DOCTYPE html>", "not a complete gzip file"),
    "empty file": (b"", "its first bytes are ''"),
    "truncated gzip": (gzip.compress(HEADER + b"abcd")[:-6], "not a complete gzip file"),
    "bad magic": (gzip.compress(b"\x01\x02\x08\x01"), "first bytes are '01020801'; an IDX file"),
    "float IDX": (gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01"), "bytes are '00000d01'"),
    "no dimensions": (gzip.compress(b"\x00\x00\x08\x00"), "first bytes are '00000800'"),
    "short header": (gzip.compress(HEADER[:6]), "ends inside its IDX header"),
    "too short": (gzip.compress(HEADER + b"abc"), r"announces 4 bytes, shape \(4,\), and 3 follow"),
    "too long": (gzip.compress(HEADER + b"abcde"), "announces 4 bytes.* and more follow"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_idx(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)


def test_flipped_bit_inside_gzip(tmp_path, write_idx):
    path = write_idx(tmp_path / "x.gz", np.random.default_rng(0).integers(0, 256, 4000, np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="not a complete gzip file"):
        read_idx(path)


def test_published_checksum_and_command_are_named(tmp_path):
    path = tmp_path / "fashion_mnist" / "train-labels-idx1-ubyte.gz"
    path.parent.mkdir()
    path.write_bytes(b"no")
    message = r"published a04f1713.*python -m linvae.data download fashion-mnist"
    with pytest.raises(CorruptFileError, match=message):
        read_idx(path)


def test_missing_file_is_not_called_corrupt(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "absent.gz")


def test_zip_members_are_sorted_images(tmp_path, write_zip):
    names = ["top/b.png", "top/a.PNG", "top/", "top/readme.txt", "__MACOSX/top/._a.png"]
    path = write_zip(tmp_path / "x.zip", dict.fromkeys(names, b"content"))
    assert zip_members(path, (".png",)) == ("top/a.PNG", "top/b.png")


def test_read_members_keeps_the_order_asked_for(tmp_path, write_zip):
    path = write_zip(tmp_path / "x.zip", {"a": b"1", "b": b"2", "c": b"3"})
    assert list(read_members(path, ["c", "a"])) == [b"3", b"1"]


def test_truncated_zip(tmp_path, write_zip):
    path = write_zip(tmp_path / "x.zip", {"a.png": b"1" * 100})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptFileError, match="not a complete zip archive"):
        zip_members(path, (".png",))
    with pytest.raises(CorruptFileError, match="not a complete zip archive"):
        list(read_members(path, ["a.png"]))


def test_damaged_zip_member_is_named(tmp_path, write_zip):
    path = write_zip(tmp_path / "x.zip", {"top/a.png": b"1234567890"})
    path.write_bytes(path.read_bytes().replace(b"1234567890", b"1234567891"))
    with pytest.raises(CorruptFileError, match=r"member top/a\.png cannot be read"):
        list(read_members(path, ["top/a.png"]))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("keep", [0, 10, 60, 0.5], ids=str)
def test_damaged_image(tmp_path, encode, file_format, keep):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = encode(pixels, file_format)
    assert decode_image(content, tmp_path).size == (40, 40)
    cut = content[: int(keep * len(content)) if isinstance(keep, float) else keep]
    path = tmp_path / "some.zip"
    path.write_bytes(cut)
    with pytest.raises(CorruptFileError, match=r"some\.zip: member m is not a complete image"):
        decode_image(cut, path, "m")


def test_sha256_of_several_files(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, content in zip(paths, (b"one", b"two"), strict=True):
        path.write_bytes(content)
    assert sha256_of(paths) == hashlib.sha256(b"onetwo").hexdigest()
    assert file_digest(paths[0], "md5") == hashlib.md5(b"one").hexdigest()
