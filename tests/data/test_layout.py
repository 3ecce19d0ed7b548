"""Which pixel each coordinate is: whole images, divided ones, and data that are none."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.data import Dataset, ImageLayout


def images(shape=(5, 3, 2), n=8) -> Dataset:
    pixels = np.random.default_rng(0).normal(size=(n, int(np.prod(shape))))
    return Dataset(name="toy", target=pixels, image_shape=shape)


def test_whole_image():
    assert images((4, 6)).image_layout() == ImageLayout((4, 6, 1))
    assert images().image_layout() == ImageLayout((5, 3, 2))
    assert ImageLayout((1, 2, 2)).target_index == (0, 1, 2, 3)
    assert Dataset(name="text", target=np.eye(3)).image_layout() is None


def test_layout_puts_the_parts_of_a_quarter_task_back_into_the_image():
    dataset = images()
    task = dataset.quarter_task().subset(5, seed=1)
    layout = task.image_layout()
    whole = np.full((5, layout.size), np.nan, dtype=np.float32)
    whole[:, list(layout.target)] = task.target
    whole[:, list(layout.condition)] = task.condition
    np.testing.assert_array_equal(whole, dataset.subset(5, seed=1).target)
    layout.check(task.target_dim, task.condition_dim)


def test_rotated_data_are_no_image():
    assert images(n=8).rotated_to_span().image_layout() is None
    assert images(n=8).quarter_task().rotated_to_span().image_layout() is None
    wide = images(n=40)
    assert wide.rotated_to_span().image_layout() == wide.image_layout()


REFUSED = {
    "two numbers": (((2, 3),), r"shape=\(2, 3\) must be three numbers >= 1"),
    "outside": (((2, 2, 1), (0, 4)), "different indices from 0 to 3"),
    "twice": (((2, 2, 1), (0, 1), (1,)), "must be different indices"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_impossible_layouts_are_refused(case):
    arguments, message = case
    with pytest.raises(ValueError, match=message):
        ImageLayout(*arguments)


def test_layout_of_other_data_is_refused():
    layout = ImageLayout((2, 2, 1), (0, 1, 2), (3,))
    with pytest.raises(ValueError, match="image places 3 target values but the target has 4"):
        layout.check(4, 1)
    with pytest.raises(ValueError, match="places 1 condition values but the condition has 2"):
        layout.check(3, 2)
