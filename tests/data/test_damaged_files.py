"""Files cut at every byte and with single bits flipped: said, or the same data, never others."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.data import CorruptFileError, MissingDataError, load_dataset, load_text
from linvae.data.published import PUBLISHED, PublishedFile

RNG = np.random.default_rng(0)


@pytest.fixture
def files(root, write_pair, write_zip, encode, monkeypatch):
    """Name -> the file that is damaged, of three sets with checks in their formats."""
    monkeypatch.setitem(PUBLISHED, "mnist", ())
    write_pair(root / "mnist", "train")
    drawings = RNG.integers(0, 256, (3, 105, 105), dtype=np.uint8) & 0xC0
    images = {f"top/a/{i}.png": encode(drawing) for i, drawing in enumerate(drawings)}
    write_zip(root / "omniglot" / "images_background.zip", images)
    (root / "ffhq").mkdir()
    for i in range(2):
        pixels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (root / "ffhq" / f"0000{i}.png").write_bytes(encode(pixels))
    return {
        "mnist": root / "mnist" / "train-images-idx3-ubyte.gz",
        "omniglot": root / "omniglot" / "images_background.zip",
        "ffhq": root / "ffhq" / "00000.png",
    }


def load(name, root):
    return load_dataset(name, data_dir=root, image_size=4)


@pytest.mark.parametrize("name", ["mnist", "omniglot", "ffhq"])
def test_a_cut_file_is_refused_by_its_name(name, files, root):
    path, whole = files[name], files[name].read_bytes()
    before, refused = load(name, root).target, 0
    sizes = {0, 1, 2, len(whole) - 1, *RNG.integers(3, len(whole) - 1, 60).tolist()}
    for size in sizes:
        path.write_bytes(whole[:size])
        try:  # the end of a PNG holds no pixels
            np.testing.assert_array_equal(load(name, root).target, before)
        except CorruptFileError as error:
            assert path.name in str(error) and ("sha256 " in str(error) or "md5 " in str(error))
            refused += 1
    assert refused == len(sizes) if name != "ffhq" else refused > 50


@pytest.mark.parametrize("name", ["mnist", "omniglot", "ffhq"])
def test_a_flipped_bit_is_refused_or_changes_nothing(name, files, root):
    path, whole = files[name], files[name].read_bytes()
    before, refused = load(name, root), 0
    for bit in RNG.choice(8 * len(whole), 400, replace=False).tolist():
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = load(name, root)
        except (CorruptFileError, MissingDataError) as error:  # a name in an archive is no image's
            assert path.name in str(error)
            refused += 1
            continue
        except ValueError as error:  # a member is lost from the list: too few samples are left
            assert "at least 2" in str(error), error
            continue
        assert found.sha256 != before.sha256  # and the report says so
        same = found.target.shape == before.target.shape
        assert not same or np.array_equal(found.target, before.target), f"bit {bit}"
    assert refused > 200


def test_another_file_under_a_published_name_is_noted(files, root, write_pair, monkeypatch):
    path = files["mnist"]
    assert "not as published" not in load("mnist", root).note
    monkeypatch.setitem(PUBLISHED, "mnist", (PublishedFile(path.name, "sha256:" + "0" * 64),))
    said = "; not as published (linvae data verify): train-images-idx3-ubyte.gz"
    assert load("mnist", root).note.endswith(said)


def test_text_has_no_check_but_its_checksum_in_the_report(root):
    path = root / "text" / "yahoo" / "train.txt"
    path.parent.mkdir(parents=True)
    path.write_text("a b c\n" * 20)
    before = load_text("yahoo", data_dir=root)
    path.write_text("a b c\n" * 19 + "a b d\n")
    assert load_text("yahoo", data_dir=root).sha256 != before.sha256
