"""Pictures of a comparison: from the members of its sweep, nothing trained again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import linvae.jobs
from linvae.comparison import Comparison
from linvae.data import load_dataset
from linvae.data.sheet import Sheet, joined
from linvae.jobs import LocalRunner
from linvae.pictures import SHEETS, draw_pictures
from linvae.pipeline import make_plan, sweep_jobs, training_data
from linvae.spec import VAESpec
from linvae.train import CellStore, TrainConfig, pick_device

SPEC = VAESpec(2, decoder_variance=1.0)
SWEPT = Comparison({"betas_swept": [0.07, 0.7]}, ())


@pytest.fixture
def digits():
    return load_dataset("digits").subset(150, seed=0)


def plan(tmp_path, architectures=("linear",), remedies=("free-bits",)):
    made = make_plan(architectures=architectures, n_seeds=2, remedies=remedies, device="cpu")
    config = TrainConfig(steps=30, batch_size=50)
    return replace(made, store=CellStore(tmp_path / "cells"), config=config)


def swept(digits, plan):
    network = plan.network(plan.architectures[0])
    data = training_data(digits, digits.rotated_to_span(), network, pick_device("cpu"))
    jobs = sweep_jobs(SPEC, (0.07, 0.7), plan.architectures[0], plan)
    return LocalRunner(data).run(list(jobs.values()))


def test_sheets_show_the_members_of_the_sweep(tmp_path, digits, monkeypatch):
    """After the sweep no member is trained again, and the first seed's error is on the label."""
    chosen = plan(tmp_path)
    swept(digits, chosen)
    monkeypatch.setattr(linvae.jobs, "train_cells", refusing(linvae.jobs.train_cells))
    samples, reconstructions, traversals = draw_pictures(digits, SPEC, chosen, SWEPT)
    names = [sheet.name for sheet in (samples, reconstructions, traversals)]
    assert names == ["samples_linear", "reconstructions_linear", "traversals_linear"]
    assert set(names) <= set(SHEETS)
    assert samples.title.startswith("Prior samples: ") and samples.title.endswith(" (linear)")
    assert samples.images.shape == (2, 12, 8, 8, 1)
    assert reconstructions.row_labels[0] == "original"
    assert [label.split(",")[0] for label in reconstructions.row_labels[1:]] == [
        "linear", "linear + free-bits",
    ]  # fmt: skip
    assert len(traversals.images) == 2 * 2  # both units of both networks
    shown = digits.target[:12].reshape(12, 8, 8, 1)
    np.testing.assert_array_equal(reconstructions.images[0], np.rint(255 * shown))


def refusing(train_cells):
    """The same, but an error where a member would be trained."""

    def only_kept(*args, **kwargs):
        def fail(*_):
            raise AssertionError("a member is trained again")

        return train_cells(*args, **{**kwargs, "progress": fail})

    return only_kept


def test_no_pictures_without_a_store_a_sweep_or_pixels(tmp_path, digits):
    chosen = plan(tmp_path)
    assert draw_pictures(digits, SPEC, replace(chosen, store=None), SWEPT) == []
    assert draw_pictures(digits, SPEC, replace(chosen, sweep=False), SWEPT) == []
    few = digits.subset(20, seed=0)  # fewer than pixels: rotated to their span
    assert draw_pictures(few, SPEC, chosen, SWEPT) == []


def sheet(name, rows, width=3):
    images = np.arange(len(rows) * 2 * 4 * width, dtype=np.uint8)
    shape = (len(rows), 2, 4, width, 1)
    return Sheet(name, "title", images.reshape(shape), tuple(rows), (), f"{name}.")


def test_joined_sheets_keep_every_row_once_in_order():
    a, b = sheet("a", ["original", "x"]), sheet("b", ["original", "y"])
    both = joined("both", [a, b])
    assert both.row_labels == ("original", "x", "y")
    np.testing.assert_array_equal(both.images, np.stack([*b.images[:1], a.images[1], b.images[1]]))
    assert (both.name, both.alt) == ("both", "a. b.")
    with pytest.raises(ValueError, match=r"sheets of 'both' have .* must agree: join"):
        joined("both", [a, sheet("c", ["z"], width=5)])
