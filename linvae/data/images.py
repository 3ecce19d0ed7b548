"""Drawings of characters and things: MNIST, Fashion-MNIST and Omniglot.

All values are scaled to [0, 1], 1 being ink (or cloth), and images are flattened row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset, Step
from .files import (
    CorruptFileError,
    decode_image,
    idx_shape,
    read_idx,
    read_members,
    sha256_of,
    zip_members,
)
from .sources import ImageSource, Splits

__all__ = ["FASHION_MNIST", "MNIST", "OMNIGLOT", "area_matrix", "check_image_size"]

_IMAGES, _LABELS = "-images-idx3-ubyte.gz", "-labels-idx1-ubyte.gz"
_OMNIGLOT_SIZE = 105  # pixels a side, all drawings


def area_matrix(size: int, original: int) -> NDArray[np.float64]:
    """Weights A, shape (size, original), of exact area averaging along one axis.

    Cell i of the small grid covers [i, i + 1) * original/size of the large one, and A[i, j] is
    the share of it that lies in pixel j, so an image becomes A @ image @ A.T. Rows of A sum to
    1: a constant image keeps its value. Columns sum to size/original: the total over a square
    image is multiplied by (size/original)^2 and nothing else.

    Raises
    ------
    ValueError
        If `size` is not between 1 and `original`.
    """
    check_image_size(size, original, "this image")
    # In units of 1/size of a pixel all borders are integers, so every overlap is exact.
    cells = np.arange(size)[:, None] * original
    pixels = np.arange(original)[None, :] * size
    overlap = np.minimum(cells + original, pixels + size) - np.maximum(cells, pixels)
    weights: NDArray[np.float64] = np.maximum(overlap, 0) / original
    return weights


def check_image_size(size: int, original: int, context: str) -> None:
    """Refuse to enlarge: averaging over areas only makes images smaller."""
    if not 1 <= size <= original:
        raise ValueError(
            f"image_size={size} must be between 1 and {original}, the pixels a side of {context}; "
            "images are only ever made smaller"
        )


def _area_step(size: int) -> Step:
    return {"step": "resize", "method": "area", "height": size, "width": size}


# --- MNIST and everything in its format ---------------------------------------------------------


def _find_idx(folder: Path) -> Splits:
    """Every pair of image and label files; "t10k" is the published name of the test files."""
    found: Splits = {}
    for images in sorted(folder.glob(f"*{_IMAGES}")):
        prefix = images.name.removesuffix(_IMAGES)
        labels = images.with_name(prefix + _LABELS)
        if labels.is_file():
            found["test" if prefix == "t10k" else prefix] = (images, labels)
    return found


def _count_idx(split: str, files: tuple[Path, ...]) -> int:
    return idx_shape(files[0])[0]


def _load_idx(
    name: str,
    split: str,
    files: tuple[Path, ...],
    max_samples: int | None,
    image_size: int | None,
) -> Dataset:
    """Scale bytes by 1/255; `image_size` below the published 28 averages exact areas."""
    pixels, labels = _read_pair(*files)
    n, height, width = pixels[:max_samples].shape
    steps: list[Step] = [{"step": "scale", "factor": "1/255"}]
    target = pixels[:n].reshape(n, -1).astype(np.float32) / np.float32(255)
    if image_size is not None and image_size != height:
        check_image_size(image_size, min(height, width), f"the images of {files[0].name}")
        target = _shrink(target.reshape(n, height, width), image_size)
        height = width = image_size
        steps.append(_area_step(image_size))
    return Dataset(
        name=name,
        split=split,
        target=target,
        labels=labels[:n],
        image_shape=(height, width),
        preprocessing=tuple(steps),
        files=tuple(path.name for path in files),
        sha256=sha256_of(files),
    )


def _read_pair(images: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, H, W) and labels (n,), or what disagrees between the two files."""
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3:
        raise CorruptFileError(images, f"images must have 3 dimensions, and it has {pixels.ndim}")
    if classes.shape != pixels.shape[:1]:
        raise CorruptFileError(
            labels, f"it holds {classes.shape} labels and {images.name} {len(pixels)} images"
        )
    return pixels, classes


def _shrink(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Area-average images (n, H, W) to size x size; returns them flattened."""
    rows, columns = (area_matrix(size, original) for original in images.shape[1:])
    small = np.empty((len(images), size * size), dtype=np.float32)
    for i, image in enumerate(images):
        small[i] = (rows @ image @ columns.T).reshape(-1)
    return small


def _idx_source(name: str, folder: str, terms: str, origin: str) -> ImageSource:
    return ImageSource(
        name=name,
        folder=folder,
        splits=("train", "test"),
        needs=f"train{_IMAGES} and train{_LABELS}",
        terms=terms,
        origin=origin,
        find=_find_idx,
        count=_count_idx,
        load=partial(_load_idx, name),
    )


MNIST = _idx_source(
    "mnist", "mnist", "CC BY-SA 3.0, as commonly stated", "https://yann.lecun.com/exdb/mnist/"
)
FASHION_MNIST = _idx_source(
    "fashion-mnist", "fashion_mnist", "MIT", "https://github.com/zalandoresearch/fashion-mnist"
)


# --- Omniglot -----------------------------------------------------------------------------------

_FULL = "images_background.zip"
_SMALL = ("images_background_small1.zip", "images_background_small2.zip")


@dataclass(frozen=True)
class _Drawing:
    """One drawing: where it lies, and its published path below the archive's top folder."""

    archive: Path
    member: str
    key: str

    @property
    def character(self) -> str:
        """Alphabet and character, the class of the drawing."""
        return self.key.rpartition("/")[0]


def _find_omniglot(folder: Path) -> Splits:
    """Official splits; without the full background set, the union of the two small ones."""
    found: Splits = {
        path.stem.removeprefix("images_"): (path,)
        for path in (folder / _FULL, folder / "images_evaluation.zip")
        if path.is_file()
    }
    small = tuple(folder / name for name in _SMALL if (folder / name).is_file())
    if "background" not in found and len(small) == len(_SMALL):
        found["background"] = small
    return found | {path.stem.removeprefix("images_"): (path,) for path in small}


def _drawings(files: Sequence[Path]) -> list[_Drawing]:
    """All drawings of the archives sorted by path, each path once.

    The archives differ in their top folder only: a path below it names the same drawing, byte
    for byte, in the full background set and in both small ones.
    """
    unique: dict[str, _Drawing] = {}
    for archive in files:
        for member in zip_members(archive, (".png",)):
            key = member.partition("/")[2] or member
            unique.setdefault(key, _Drawing(archive, member, key))
    return [unique[key] for key in sorted(unique)]


def _count_omniglot(split: str, files: tuple[Path, ...]) -> int:
    return len(_drawings(files))


def _load_omniglot(
    split: str, files: tuple[Path, ...], max_samples: int | None, image_size: int | None
) -> Dataset:
    """Ink 1, paper 0, then exact area averages of 105x105 on `image_size` (28) a side."""
    size = 28 if image_size is None else image_size
    check_image_size(size, _OMNIGLOT_SIZE, "an Omniglot drawing")
    drawings = _drawings(files)[:max_samples]
    return Dataset(
        name="omniglot",
        split=split,
        target=_render(drawings, size),
        labels=np.array([drawing.character for drawing in drawings]),
        image_shape=(size, size),
        preprocessing=({"step": "invert", "ink": 1.0, "paper": 0.0}, _area_step(size)),
        files=tuple(path.name for path in files),
        sha256=sha256_of(files),
        note=_overlap_note(files) if len(files) > 1 else "",
    )


def _render(drawings: Sequence[_Drawing], size: int) -> NDArray[np.float32]:
    """Decode drawings one by one, archive by archive, into (n, size^2)."""
    weights = area_matrix(size, _OMNIGLOT_SIZE)
    target = np.empty((len(drawings), size * size), dtype=np.float32)
    for archive in dict.fromkeys(drawing.archive for drawing in drawings):
        rows = [i for i, drawing in enumerate(drawings) if drawing.archive == archive]
        members = [drawings[i].member for i in rows]
        for i, member, content in zip(rows, members, read_members(archive, members), strict=True):
            target[i] = (weights @ _ink(content, archive, member) @ weights.T).reshape(-1)
    return target


def _ink(content: bytes, archive: Path, member: str) -> NDArray[np.float64]:
    """One drawing, shape (105, 105), 1 where there is ink."""
    grey: NDArray[Any] = np.asarray(decode_image(content, archive, member).convert("L"))
    if grey.shape != (_OMNIGLOT_SIZE, _OMNIGLOT_SIZE):
        raise CorruptFileError(
            archive, f"member {member} has shape {grey.shape}; Omniglot drawings are 105x105"
        )
    return 1.0 - grey / 255.0


def _overlap_note(files: Sequence[Path]) -> str:
    total = sum(len(zip_members(path, (".png",))) for path in files)
    unique = len(_drawings(files))
    return (
        f"{_FULL} was not found: union of the two minimal background sets, {unique} different "
        f"drawings; {total - unique} are in both and counted once"
    )


OMNIGLOT = ImageSource(
    name="omniglot",
    folder="omniglot",
    splits=("background", "evaluation"),
    needs=f"{_FULL}, or {_SMALL[0]} together with {_SMALL[1]}",
    terms="MIT",
    origin="https://github.com/brendenlake/omniglot",
    find=_find_omniglot,
    count=_count_omniglot,
    load=_load_omniglot,
    aliases={"train": "background", "test": "evaluation"},
)
