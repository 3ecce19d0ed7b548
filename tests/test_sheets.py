"""Sheets of pictures: their arrays, their labels, their files."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.data.sheet import Sheet, as_bytes
from linvae.sheets import draw_sheet, mosaic, save_sheets


def sheet(rows: int = 2, columns: int = 3, channels: int = 1, **changes) -> Sheet:
    shape = (rows, columns, 4, 5, channels)
    images = np.random.default_rng(0).integers(100, 200, shape).astype(np.uint8)
    fields = {
        "name": "pictures",
        "title": "Some pictures",
        "images": images,
        "row_labels": tuple(f"row {i}" for i in range(rows)),
        "column_labels": tuple("abc"[:columns]),
        "alt": "Two rows of three pictures.",
    }
    return Sheet(**(fields | changes))


def test_bytes_are_linear_rounded_and_cut_off():
    values = np.array([-1.0, 1.0, 2.0, 2.01, 3.0, 9.0, np.nan])
    with np.errstate(invalid="raise"):
        assert as_bytes(values, 1.0, 3.0).tolist() == [0, 0, 128, 129, 255, 255, 0]


def test_a_mosaic_has_white_between_pictures_and_none_around():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 1, 2, 1)
    assert mosaic(images)[..., 0].tolist() == [
        [0, 1, 255, 2, 3],
        [255, 255, 255, 255, 255],
        [4, 5, 255, 6, 7],
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_row_and_column_is_labelled_at_its_middle(channels):
    """Pictures of 4x5 with a white line between: rows every 5 pixels, columns every 6."""
    figure, alt = draw_sheet(sheet(channels=channels))
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["row 0", "row 1"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "c"]
    assert axes.get_yticks().tolist() == [1.5, 6.5]
    assert axes.get_xticks().tolist() == [2, 8, 14]
    assert (axes.get_title(loc="left"), alt) == ("Some pictures", "Two rows of three pictures.")
    shown = axes.images[0]
    assert shown.get_array().shape == ((9, 17, 3) if channels == 3 else (9, 17))
    assert shown.get_clim() == (0, 255)  # a dark sheet stays dark
    assert shown.get_interpolation() == "nearest"


def test_labels_lie_within_the_figure():
    long = ("beta 0.5, 45 % of the data's variance", "seed 12, point 3")
    figure, _ = draw_sheet(sheet(row_labels=long))
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [t.get_window_extent() for t in (*axes.get_yticklabels(), axes._left_title)]
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.width


def test_sheets_are_saved_with_what_describes_them_and_the_same_again(tmp_path):
    for run in ("one", "two"):
        (record,) = save_sheets([sheet()], tmp_path / run)
    assert (record.name, record.title) == ("pictures", "Some pictures")
    assert (record.alt, record.png_path) == (
        "Two rows of three pictures.",
        tmp_path / "two" / "pictures.png",
    )
    for name in ("pictures.png", "pictures.pdf"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(
        ValueError, match=r"images of sheet 'pictures' are float64 of shape .* uint8"
    ):
        sheet(images=np.zeros((2, 3, 4, 5, 1)))
    with pytest.raises(ValueError, match=r"with 1 or 3 channels: see as_bytes"):
        sheet(channels=2)
    with pytest.raises(
        ValueError, match=r"row_labels of sheet 'pictures' has 1 entries and must hav"
    ):
        sheet(row_labels=("one",))
    with pytest.raises(
        ValueError, match=r"column_labels of sheet .* has 2 entries and must have 3"
    ):
        sheet(column_labels=("a", "b"))
    assert sheet(column_labels=()).column_labels == ()
