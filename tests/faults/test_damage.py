"""A file of linvae's own that is cut short or has a wrong bit is named, never used.

What is still accepted must mean the same: white space of a JSON file.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train import killed

from linvae.comparison import Boundary, Comparison, CurvePoint, Row
from linvae.models import build_model
from linvae.models.recurrent import SequenceSizes, StackedTextVAE
from linvae.models.saved import load_text_model, save_text_model
from linvae.spec import VAESpec
from linvae.train import CellStore, Checkpoint
from linvae.train.checkpoint import read_header, study_identity

from .damage import damages

WAYS_OUT = ("put a copy", "trained again", "the version that wrote it")


def refused(path: Path, read: Callable[[], Any], same: Callable[[Any], bool]) -> Counter[str]:
    """How the damages of `path` end: refused by its name, or read as the same."""
    content, found = path.read_bytes(), Counter[str]()
    for what, damaged in damages(content):
        path.write_bytes(damaged)
        try:
            value = read()
        except ValueError as error:
            named = str(path) in str(error) or f"{path.parent} has format" in str(error)
            assert named and any(word in str(error) for word in WAYS_OUT), what
            found["refused"] += 1
        else:
            assert same(value), f"{path.name} is used with {what}"
            found["same"] += 1
    path.write_bytes(content)
    assert same(read())
    print(f"\n{path.name}: {sum(found.values())} damages of {len(content)} bytes: {dict(found)}")
    return found


@pytest.fixture
def results(tmp_path) -> Comparison:
    """Of every kind a row, in a folder."""
    row = Row("rate_nats", "mlp", 1, 0, 0.5, float("nan"), 0, 1.25, 1.5)
    comparison = Comparison(
        {"dataset": "x", "estimates": [], "decoder_variance": 1.0, "seconds": {"total": 1.5}},
        (row, dataclasses.replace(row, beta=0.75)),
        (CurvePoint("mlp", 0.5, 0, 10, 1.0, 2.0, 3.0),),
        (Boundary(1, 1, 0.25, 0.5),),
    )
    comparison.write(tmp_path)
    return comparison


@pytest.mark.parametrize("name", ["comparison.csv", "curves.csv", "phases.csv", "summary.json"])
def test_results_are_read_as_they_were_written_or_not_at_all(name, results, tmp_path):
    def same(found: Comparison) -> bool:
        return repr(dataclasses.astuple(found)) == repr(dataclasses.astuple(results))

    found = refused(tmp_path / name, lambda: Comparison.read(tmp_path), same)
    # white space around the JSON text, of which some flips and the last line break are
    assert found["same"] <= (found.total() // 4 if name == "summary.json" else 0)


def test_tables_of_two_runs_are_not_read_together(results, tmp_path):
    """As a run leaves them that is killed while it replaces those of an earlier one."""
    other = dataclasses.replace(results, rows=results.rows[:1])
    other.write(tmp_path / "other")
    (tmp_path / "other" / "comparison.csv").replace(tmp_path / "comparison.csv")
    words = r"comparison.csv is not as it was written: .*or repeat the run: linvae compare --config"
    with pytest.raises(ValueError, match=words):
        Comparison.read(tmp_path)


def test_a_table_that_was_written_is_not_taken_for_one_that_was_not(results, tmp_path):
    (tmp_path / "curves.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"curves\.csv"):
        Comparison.read(tmp_path)


def test_cells_are_whole_or_missing(tmp_path):
    store = CellStore(tmp_path)
    killed.cells("constant", store, seeds=(0,), points=(0.4,))
    (path,) = tmp_path.iterdir()
    key = path.name.partition(".")[0]
    whole = store.load(key)

    def read() -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cell = store.load(key)
        if cell is None:
            raise ValueError(str(caught[0].message))
        return cell

    def same(cell: Any) -> bool:
        equal = all(torch.equal(cell.parameters[k], v) for k, v in whole.parameters.items())
        rest = [{k: v for k, v in vars(c).items() if k != "parameters"} for c in (cell, whole)]
        return equal and rest[0] == rest[1]

    assert refused(path, read, same)["same"] == 0


def stopped(folder: Path) -> CellStore:
    """A store with the checkpoint of a stack that was stopped."""

    def stop(step: int) -> None:
        if step >= 10:
            raise KeyboardInterrupt

    store = CellStore(folder, every_steps=5)
    with pytest.raises(KeyboardInterrupt):
        killed.cells("constant", store, seeds=(0,), points=(0.4,), progress=stop)
    return store


def test_checkpoints_are_whole_or_refused(tmp_path):
    """Where a stack goes on from one, and where a study looks for those of its members."""
    store = stopped(tmp_path)
    (path,) = tmp_path.iterdir()
    identity = read_header(path, "checkpoint")["identity"]
    whole = Checkpoint(path).read(identity)
    model = build_model(killed.SPEC, killed.data().target, architecture=killed.NETWORK)
    study = study_identity(model, killed.data(), killed.config("adam"))

    def read() -> Any:
        ((_, told),) = store.checkpoints(study)
        assert told == identity
        return Checkpoint(path).read(identity)

    def same(found: Any) -> bool:
        (tensors, notes), (expected, written) = found, whole
        return notes == written and all(torch.equal(tensors[k], v) for k, v in expected.items())

    assert refused(path, read, same)["same"] == 0


@dataclasses.dataclass(frozen=True)
class FourWords:
    """A vocabulary."""

    words = ("<pad>", "<s>", "</s>", "<unk>")


@pytest.fixture
def text_model(tmp_path) -> StackedTextVAE:
    """The smallest that can be saved, in a folder."""
    spec = VAESpec(1, likelihood="multinomial")
    model = StackedTextVAE(spec, vocabulary=4, sizes=SequenceSizes(1, 1), seeds=(0,))
    save_text_model(tmp_path, model, FourWords())
    return model


@pytest.mark.parametrize("name", ["model.json", "vocabulary.txt", "state.safetensors"])
def test_text_models_are_as_they_were_saved_or_refused(name, text_model, tmp_path):
    expected = load_text_model(tmp_path)

    def same(found: Any) -> bool:
        (model, words), (whole, known) = found, expected
        state = whole.state_dict()
        return (
            (model.spec, model.seeds, words) == (whole.spec, whole.seeds, known)
            and vars(model.sizes) == vars(whole.sizes)
            and all(np.array_equal(v, state[k]) for k, v in model.state_dict().items())
        )

    refused(tmp_path / name, lambda: load_text_model(tmp_path), same)
