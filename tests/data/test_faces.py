"""CelebA and FFHQ: splits, cropping, resizing and labels."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from linvae.data import CorruptFileError, MissingDataError, load_dataset

EIGHT_BIT = 1 / 255 + 1e-6  # Pillow rounds to 1/255 after each of the two axes: half a step each

NAMES = ["000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg", "000005.jpg"]
PARTITION = "".join(f"{name} {split}\r\n" for name, split in zip(NAMES, "00012", strict=True))
ATTRIBUTES = "5\r\nBald Young\r\n" + "".join(
    f"{name} {'-1' if i % 2 else ' 1'}  1\r\n" for i, name in enumerate(NAMES)
)


def photo(seed: int) -> np.ndarray:
    """A smooth 218x178 RGB image: a plane in each channel, of another slope for each seed."""
    rows, columns = np.mgrid[:218, :178]
    return np.stack([rows, columns, (rows + columns) // 2 + 5 * seed], axis=2).astype(np.uint8)


@pytest.fixture
def celeba(root, write_zip, encode):
    """Images 1 to 4 of 5; PNG content keeps pixel values exact under the published names."""
    folder = root / "celeba"
    members = {f"img_align_celeba/{name}": encode(photo(i)) for i, name in enumerate(NAMES[:4])}
    write_zip(folder / "img_align_celeba_part.zip", members)
    (folder / "list_eval_partition.txt").write_bytes(PARTITION.encode())
    (folder / "list_attr_celeba.txt").write_bytes(ATTRIBUTES.encode())
    return root


def test_celeba_splits(celeba):
    train = load_dataset("celeba", data_dir=celeba)
    assert (train.split, train.n_samples, train.image_shape) == ("train", 3, (64, 64, 3))
    assert train.note.startswith("published training split 'train'; not as published")
    assert train.files == (
        "list_eval_partition.txt",
        "list_attr_celeba.txt",
        "img_align_celeba_part.zip",
    )


def test_celeba_split_of_which_no_image_is_there(celeba):
    with pytest.raises(
        MissingDataError, match=r"split 'test', are missing\. Splits found: train, v"
    ):
        load_dataset("celeba", split="test", data_dir=celeba)


def test_celeba_part_of_a_split_is_said(celeba, write_zip, encode):
    path = celeba / "celeba" / "img_align_celeba_part.zip"
    write_zip(path, {name: encode(photo(i)) for i, name in enumerate(NAMES[:2])})
    assert "2 of 3 images are here" in load_dataset("celeba", data_dir=celeba).note


def test_celeba_crop_is_the_centre(celeba):
    """148 pixels from row 35 and column 15; 37 a side makes every cell 4x4 pixels exactly."""
    dataset = load_dataset("celeba", data_dir=celeba, image_size=37)
    crop = photo(0)[35:183, 15:163].astype(float)
    blocks = crop.reshape(37, 4, 37, 4, 3).mean(axis=(1, 3)) / 255
    assert dataset.image_shape == (37, 37, 3)
    np.testing.assert_allclose(dataset.target[0], blocks.reshape(-1), atol=EIGHT_BIT)
    assert [step["step"] for step in dataset.preprocessing] == ["crop", "resize", "scale"]


def test_celeba_labels_are_attributes(celeba):
    dataset = load_dataset("celeba", data_dir=celeba)
    assert dataset.labels.tolist() == [[1, 1], [0, 1], [1, 1]]


def test_celeba_truncated_attributes_give_no_labels(celeba):
    table = celeba / "celeba" / "list_attr_celeba.txt"
    table.write_text("\n".join(ATTRIBUTES.splitlines()[:4]))
    dataset = load_dataset("celeba", data_dir=celeba)
    assert dataset.labels is None
    assert "list_attr_celeba.txt covers 2 of these 3 images" in dataset.note
    first = load_dataset("celeba", data_dir=celeba, max_samples=2)
    assert first.labels.tolist() == [[1, 1], [0, 1]]


def test_celeba_without_attributes(celeba):
    (celeba / "celeba" / "list_attr_celeba.txt").unlink()
    dataset = load_dataset("celeba", data_dir=celeba)
    assert dataset.labels is None
    assert "list_attr_celeba.txt was not found" in dataset.note


def test_celeba_from_a_folder_equals_the_archive(celeba, encode):
    archived = load_dataset("celeba", data_dir=celeba)
    folder = celeba / "celeba" / "img_align_celeba"
    folder.mkdir()
    for i, name in enumerate(NAMES[:4]):
        (folder / name).write_bytes(encode(photo(i)))
    unpacked = load_dataset("celeba", data_dir=celeba)
    np.testing.assert_array_equal(unpacked.target, archived.target)
    assert unpacked.files[2:] == tuple(NAMES[:3])


def test_celeba_rows_follow_the_partition_over_several_archives(celeba, write_zip, encode):
    folder = celeba / "celeba"
    whole = load_dataset("celeba", data_dir=celeba)
    (folder / "img_align_celeba_part.zip").unlink()
    for archive, rows in (("a", (0, 2)), ("b", (1,))):
        content = {NAMES[i]: encode(photo(i)) for i in rows}
        write_zip(folder / f"img_align_celeba_{archive}.zip", content)
    np.testing.assert_array_equal(load_dataset("celeba", data_dir=celeba).target, whole.target)


def test_celeba_partition_is_needed(celeba):
    (celeba / "celeba" / "list_eval_partition.txt").unlink()
    message = r"(?s)img_align_celeba\.zip .* and list_eval_partition\.txt.*holds img_align_celeba"
    with pytest.raises(MissingDataError, match=message):
        load_dataset("celeba", data_dir=celeba)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("list_eval_partition.txt", "000001.jpg 7\n", "line 1 is '000001.jpg 7'"),
        ("list_eval_partition.txt", "<html>\n", "line 1 is '<html>'; a file name and 0, 1 or 2"),
        ("list_attr_celeba.txt", "5\nBald\n000001.jpg 1 1\n", "line 3 has 2 values; 1 of -1 or 1"),
        ("list_attr_celeba.txt", "5\nBald\n000001.jpg yes\n", "line 3 has 1 values; 1 of -1 or 1"),
    ],
    ids=["split 7", "html", "too many", "not a sign"],
)
def test_celeba_damaged_tables(celeba, file, content, message):
    (celeba / "celeba" / file).write_text(content)
    with pytest.raises(CorruptFileError, match=rf"{file}: {message}"):
        load_dataset("celeba", data_dir=celeba)


def test_celeba_image_of_another_size(celeba, write_zip, encode):
    path = celeba / "celeba" / "img_align_celeba_part.zip"
    write_zip(path, {name: encode(photo(0)[:, :100]) for name in NAMES})
    with pytest.raises(CorruptFileError, match=r"000001\.jpg is 100x218 pixels; aligned .*178x218"):
        load_dataset("celeba", data_dir=celeba)


# --- FFHQ ---------------------------------------------------------------------------------------


def square(seed: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), dtype=np.uint8)


@pytest.fixture
def place(root, encode):
    """Write numbered PNGs below ffhq/ and return the data root."""

    def write(*numbers: int, under: str = "", **options):
        folder = root / "ffhq" / under
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (folder / f"{number:05}.png").write_bytes(encode(square(number, **options)))
        return root

    return write


def test_ffhq_splits_by_number(place):
    root = place(3, 59_999, 60_000, 69_999)
    train = load_dataset("ffhq", data_dir=root, image_size=4)
    assert train.files == ("00003.png", "59999.png")
    assert "2 of 60000 images are here" in train.note
    validation = load_dataset("ffhq", split="valid", data_dir=root, image_size=4)
    assert validation.split == "validation"
    assert validation.files == ("60000.png", "69999.png")


def test_ffhq_resize_is_a_block_mean(place):
    dataset = load_dataset("ffhq", data_dir=place(0, 1), image_size=4)
    blocks = square(0).reshape(4, 2, 4, 2, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(dataset.target[0], blocks.reshape(-1), atol=EIGHT_BIT)


def test_ffhq_alpha_is_dropped(place):
    dataset = load_dataset("ffhq", data_dir=place(0, 1, channels=4), image_size=8)
    expected = square(0, channels=4)[..., :3].reshape(-1) / 255
    np.testing.assert_allclose(dataset.target[0], expected, atol=1e-6)


def test_ffhq_layouts_in_order(place):
    root = place(0, 1)
    place(1000, 1001, 1002, under="images1024x1024/01000")
    assert load_dataset("ffhq", data_dir=root, image_size=4).n_samples == 3
    place(0, 1, 2, 3, under="thumbnails128x128/00000")
    assert load_dataset("ffhq", data_dir=root, image_size=4).n_samples == 4


def test_ffhq_sha256_is_of_the_files_read(place):
    dataset = load_dataset("ffhq", data_dir=place(0, 1, 2), image_size=4, max_samples=2)
    paths = sorted((place() / "ffhq").glob("*.png"))[:2]
    assert dataset.files == tuple(path.name for path in paths)
    content = b"".join(path.read_bytes() for path in paths)
    assert dataset.sha256 == hashlib.sha256(content).hexdigest()


def test_ffhq_is_never_enlarged(place):
    with pytest.raises(ValueError, match=r"image_size=64 must be between 1 and 8, .*00000\.png"):
        load_dataset("ffhq", data_dir=place(0, 1))


def test_ffhq_must_be_square(place, encode):
    root = place(0, 1)
    (root / "ffhq" / "00001.png").write_bytes(encode(square(0)[:5]))
    with pytest.raises(CorruptFileError, match=r"00001\.png: it is 8x5 pixels"):
        load_dataset("ffhq", data_dir=root, image_size=4)


def test_ffhq_truncated_image(place):
    root = place(0, 1)
    path = root / "ffhq" / "00001.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptFileError, match=r"00001\.png: it is not a complete image"):
        load_dataset("ffhq", data_dir=root, image_size=4)


# --- real samples -------------------------------------------------------------------------------


def top_eigenvalue(dataset):
    """Largest eigenvalue of the 1/n covariance, by the singular values of n samples << d."""
    centred = dataset.target - dataset.target.mean(axis=0, dtype=np.float64)
    return np.linalg.svd(centred, compute_uv=False)[0] ** 2 / dataset.n_samples


def test_real_celeba(real_data):
    root = real_data("celeba/img_align_celeba_000001-000558.zip")
    dataset = load_dataset("celeba", data_dir=root, max_samples=558)
    assert dataset.target.shape == (558, 12_288)
    assert dataset.labels.shape == (558, 40)
    assert dataset.labels[0, [20, 39]].tolist() == [0, 1]  # 000001.jpg: not Male, Young
    if dataset.files[-1] == "img_align_celeba_000001-000558.zip":
        # JPEG decoders may differ in the last bit of a pixel.
        assert top_eigenvalue(dataset) == pytest.approx(246.39, abs=0.05)


def test_real_celeba_first_image_agrees_with_its_pixels(real_data):
    """The mean colour of the crop survives the resize, up to rounding of 8-bit values."""
    root = real_data("celeba/img_align_celeba_000001-000558.zip")
    from linvae.data.files import read_members

    archive = root / "celeba" / "img_align_celeba_000001-000558.zip"
    (content,) = read_members(archive, ["img_align_celeba/000001.jpg"])
    import io

    crop = np.asarray(Image.open(io.BytesIO(content)))[35:183, 15:163] / 255
    dataset = load_dataset("celeba", data_dir=root, max_samples=2)
    mean = dataset.target[0].reshape(64, 64, 3).mean(axis=(0, 1))
    # Cells of 2 or 3 pixels get equal weight (148/64 is not an integer): 1 % of the range.
    np.testing.assert_allclose(mean, crop.mean(axis=(0, 1)), atol=0.01)


def test_real_ffhq(real_data):
    root = real_data("ffhq/00014.png")  # 00014 has an alpha channel
    train = load_dataset("ffhq", data_dir=root)
    assert train.target_dim == 64 * 64 * 3
    assert 0 <= train.target.min() < 0.05 < 0.95 < train.target.max() <= 1
    assert load_dataset("ffhq", data_dir=root, image_size=128).target_dim == 128 * 128 * 3
    validation = load_dataset("ffhq", split="validation", data_dir=root)
    assert all(int(name[:5]) >= 60_000 for name in validation.files)
