"""Photographs of faces: CelebA and FFHQ, RGB in [0, 1], flattened as (H, W, C).

Both are resized with Pillow's BOX filter on 8-bit values: an output pixel is the mean of the
input pixels whose centres lie in it, rounded to a multiple of 1/255 after each of the two axes.
Where the ratio of the sizes is an integer, as for FFHQ, that is the area average up to 1/255.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset, Step
from .files import CorruptFileError, decode_image, read_members, sha256_of, zip_members
from .images import check_image_size
from .sources import ImageSource, Splits

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CELEBA", "FFHQ", "read_partition"]

_DEFAULT_SIZE = 64
_CROP = 148  # centre square of a CelebA image that is kept
_CELEBA_SIZE = (178, 218)  # width, height of every aligned image
_PARTITION, _ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"
# CelebA has 202,599 lines, none of 1000 characters
_LINE_CHARS, _LINES = 2**14, 2**20
_FFHQ_TRAIN = 60_000  # the numbers below it are the published training split


@dataclass(frozen=True)
class _Photo:
    """One image file: on its own, or member of a zip archive."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """File name of the image, such as 000001.jpg."""
        return (self.member or self.path.name).rpartition("/")[2]


def _contents(photos: Sequence[_Photo]) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of every photo with its position in `photos`, archive by archive."""
    for path in dict.fromkeys(photo.path for photo in photos if photo.member):
        rows = [i for i, photo in enumerate(photos) if photo.member and photo.path == path]
        members = [photos[i].member for i in rows]
        yield from zip(rows, read_members(path, members), strict=True)
    for i, photo in enumerate(photos):
        if not photo.member:
            yield i, photo.path.read_bytes()


def _resize(image: Image, size: int) -> NDArray[np.float32]:
    """RGB values / 255 of a square image, shape (size * size * 3,)."""
    from PIL.Image import Resampling

    small = image.convert("RGB").resize((size, size), Resampling.BOX)
    return np.asarray(small, dtype=np.float32).reshape(-1) / np.float32(255)


def _steps(size: int) -> tuple[Step, ...]:
    return (
        {"step": "resize", "method": "Pillow BOX on 8-bit RGB", "height": size, "width": size},
        {"step": "scale", "factor": "1/255"},
    )


# --- CelebA -------------------------------------------------------------------------------------

_CELEBA_SPLITS = ("train", "valid", "test")


def _celeba_photos(folder: Path) -> dict[str, _Photo]:
    """{file name: photo}: the official archive, else the unpacked folder, else other archives."""
    official, unpacked = folder / "img_align_celeba.zip", folder / "img_align_celeba"
    if unpacked.is_dir() and not official.is_file():
        return {path.name: _Photo(path) for path in sorted(unpacked.glob("*.jpg"))}
    archives = [official] if official.is_file() else sorted(folder.glob("img_align_celeba*.zip"))
    photos = (_Photo(path, member) for path in archives for member in zip_members(path, (".jpg",)))
    found: dict[str, _Photo] = {}
    for photo in photos:
        found.setdefault(photo.name, photo)
    return found


def read_partition(path: Path) -> dict[str, list[str]]:
    """{split: file names} of list_eval_partition.txt, in the published order."""
    names: dict[str, list[str]] = {split: [] for split in _CELEBA_SPLITS}
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise CorruptFileError(
                path,
                f"line {number} is {line.strip()[:60]!r}; a file name and 0, 1 or 2 expected",
            )
        names[_CELEBA_SPLITS[int(fields[1])]].append(fields[0])
    return names


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines of a table of CelebA, each of bounded length."""
    with path.open(encoding="ascii", errors="replace") as stream:
        for number in count(1):
            line = stream.readline(_LINE_CHARS + 1)
            if not line:
                return
            if len(line) > _LINE_CHARS or number > _LINES:
                raise CorruptFileError(
                    path,
                    f"line {number} is beyond what CelebA has: at most {_LINES} lines of "
                    f"{_LINE_CHARS} characters are read",
                )
            yield number, line


def _find_celeba(folder: Path) -> Splits:
    """Splits of which at least one image is there; the files are tables, then containers."""
    partition = folder / _PARTITION
    if not partition.is_file():
        return {}
    photos = _celeba_photos(folder)
    tables = (partition, folder / _ATTRIBUTES) if (folder / _ATTRIBUTES).is_file() else (partition,)
    found: Splits = {}
    for split, names in read_partition(partition).items():
        if any(name in photos for name in names):
            found[split] = tables
    return found


def _celeba_split(split: str, partition: Path) -> tuple[list[_Photo], int]:
    """Photos of a split that are there, in the published order, and how many were published."""
    photos = _celeba_photos(partition.parent)
    names = read_partition(partition)[split]
    return [photos[name] for name in names if name in photos], len(names)


def _count_celeba(split: str, files: tuple[Path, ...]) -> int:
    return len(_celeba_split(split, files[0])[0])


def _load_celeba(
    split: str, files: tuple[Path, ...], max_samples: int | None, image_size: int | None
) -> Dataset:
    """Centre crop of 148x148, resized to `image_size` (64) a side; attributes as labels."""
    size = _DEFAULT_SIZE if image_size is None else image_size
    check_image_size(size, _CROP, "a cropped CelebA image")
    photos, published = _celeba_split(split, files[0])
    note = "" if len(photos) == published else f"{len(photos)} of {published} images are here"
    photos = photos[:max_samples]
    labels, label_note = _attributes(photos, files[1] if len(files) > 1 else None)
    sources = (*files, *dict.fromkeys(photo.path for photo in photos))
    target = np.empty((len(photos), size * size * 3), dtype=np.float32)
    for i, content in _contents(photos):
        target[i] = _resize(_crop(content, photos[i]), size)
    return Dataset(
        name="celeba",
        split=split,
        target=target,
        labels=labels,
        image_shape=(size, size, 3),
        preprocessing=(
            {"step": "crop", "method": "centre", "height": _CROP, "width": _CROP},
            *_steps(size),
        ),
        files=tuple(path.name for path in sources),
        sha256=sha256_of(sources),
        note="; ".join(part for part in (note, label_note) if part),
    )


def _crop(content: bytes, photo: _Photo) -> Image:
    image = decode_image(content, photo.path, photo.member)
    if image.size != _CELEBA_SIZE:
        raise CorruptFileError(
            photo.path,
            f"{photo.name} is {image.size[0]}x{image.size[1]} pixels; aligned CelebA images are "
            "178x218",
        )
    left, top = ((length - _CROP) // 2 for length in _CELEBA_SIZE)
    return image.crop((left, top, left + _CROP, top + _CROP))


def _attributes(
    photos: Sequence[_Photo], table: Path | None
) -> tuple[NDArray[np.int8] | None, str]:
    """Attributes (n, 40) in {0, 1}, in the order of the table's second line, or None and why."""
    if table is None:
        return None, f"no labels: {_ATTRIBUTES} was not found"
    wanted = {photo.name: i for i, photo in enumerate(photos)}
    found: dict[int, NDArray[np.int8]] = {}
    width = 0
    for number, line in _lines(table):
        fields = line.split()
        if number == 2:
            width = len(fields)
        elif number > 2 and fields and fields[0] in wanted:
            signs = _signs(fields[1:], width, table, number)
            found[wanted[fields[0]]] = np.array(signs, dtype=np.int8)
    if len(found) < len(photos):
        # A label that is only there for some images would silently mean "no attribute".
        return None, f"no labels: {_ATTRIBUTES} covers {len(found)} of these {len(photos)} images"
    return np.array([found[i] for i in range(len(photos))], dtype=np.int8), ""


def _signs(fields: Sequence[str], width: int, table: Path, number: int) -> list[bool]:
    if len(fields) != width or not set(fields) <= {"-1", "1"}:
        raise CorruptFileError(
            table, f"line {number} has {len(fields)} values; {width} of -1 or 1 expected"
        )
    return [value == "1" for value in fields]


CELEBA = ImageSource(
    name="celeba",
    folder="celeba",
    splits=_CELEBA_SPLITS,
    needs=(
        f"img_align_celeba.zip (or the folder img_align_celeba/) and {_PARTITION}, optionally "
        f"{_ATTRIBUTES}"
    ),
    terms="non-commercial research only, no redistribution",
    origin="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    find=_find_celeba,
    count=_count_celeba,
    load=_load_celeba,
)


# --- FFHQ ---------------------------------------------------------------------------------------


def _ffhq_photos(folder: Path) -> list[_Photo]:
    """Numbered PNGs of the first published layout that holds any, sorted by number."""
    layouts = (
        (folder / "thumbnails128x128").rglob("*.png"),
        (folder / "images1024x1024").rglob("*.png"),
        folder.glob("*.png"),
    )
    for layout in layouts:
        numbered = {int(path.stem): path for path in sorted(layout) if path.stem.isdecimal()}
        if numbered:
            return [_Photo(numbered[number]) for number in sorted(numbered)]
    return []


def _find_ffhq(folder: Path) -> Splits:
    """Split by number: below 60,000 training, the others validation."""
    paths = [photo.path for photo in _ffhq_photos(folder)]
    splits = {
        "train": tuple(path for path in paths if int(path.stem) < _FFHQ_TRAIN),
        "validation": tuple(path for path in paths if int(path.stem) >= _FFHQ_TRAIN),
    }
    return {split: files for split, files in splits.items() if files}


def _count_ffhq(split: str, files: tuple[Path, ...]) -> int:
    return len(files)


def _load_ffhq(
    split: str, files: tuple[Path, ...], max_samples: int | None, image_size: int | None
) -> Dataset:
    """Square RGB images of any size resized to `image_size` (64) a side; alpha is dropped."""
    size = _DEFAULT_SIZE if image_size is None else image_size
    published = _FFHQ_TRAIN if split == "train" else 10_000
    note = "" if len(files) == published else f"{len(files)} of {published} images are here"
    paths = files[:max_samples]
    target = np.empty((len(paths), size * size * 3), dtype=np.float32)
    digest = hashlib.sha256()
    for i, content in _contents([_Photo(path) for path in paths]):
        digest.update(content)
        target[i] = _resize(_square(content, paths[i], size), size)
    return Dataset(
        name="ffhq",
        split=split,
        target=target,
        image_shape=(size, size, 3),
        preprocessing=({"step": "convert", "mode": "RGB"}, *_steps(size)),
        files=tuple(path.name for path in paths),
        sha256=digest.hexdigest(),
        note=note,
    )


def _square(content: bytes, path: Path, size: int) -> Image:
    image = decode_image(content, path)
    if image.width != image.height:
        raise CorruptFileError(
            path, f"it is {image.width}x{image.height} pixels; FFHQ images are square"
        )
    check_image_size(size, image.width, f"the FFHQ image {path.name}")
    return image


FFHQ = ImageSource(
    name="ffhq",
    folder="ffhq",
    splits=("train", "validation"),
    needs="the PNGs (in thumbnails128x128/, in images1024x1024/ or directly)",
    terms="CC BY-NC-SA 4.0, single images under their own licences",
    origin="https://github.com/NVlabs/ffhq-dataset",
    find=_find_ffhq,
    count=_count_ffhq,
    load=_load_ffhq,
    aliases={"valid": "validation"},
)
