"""Curves in TensorBoard are the rows of the history, read back by TensorBoard itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import linvae.compare
from linvae.comparison import Comparison
from linvae.models import build_model
from linvae.train import CellStore, ConstantBetas, TensorBoard, train, train_cells
from linvae.train import cells as module

from . import killed

pytest.importorskip("tensorboard")
TAGS = {"distortion_nats", "rate_nats", "first_beta"}


def curves(folder) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Steps and values by run and tag, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        found[run.name] = {
            tag: [(e.step, e.value) for e in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
    return found


def assert_curves(folder, history) -> None:
    """Event files hold float32: equal after rounding to it, nothing missing and nothing more."""
    expected: dict = {}
    for row in history:
        run = expected.setdefault(f"point {row['point']}, seed {row['seed']}", {})
        for tag in row.keys() - {"step", "seed", "point"}:
            run.setdefault(tag, []).append((row["step"], float(np.float32(row[tag]))))
    assert curves(folder) == expected


def cells(board, store=None, **options):
    return train_cells(
        killed.SPEC, killed.data(), points=killed.POINTS, seeds=killed.SEEDS, store=store,
        kl_weight=lambda points, n: killed.kl_weight("remedies", points, n),
        config=killed.config("adam", 40), architecture=killed.NETWORK, log=board, **options,
    )  # fmt: skip


def test_curves_of_one_stack(tmp_path):
    data = killed.data()
    model = build_model(killed.SPEC, data.target, seeds=killed.SEEDS, n_points=len(killed.POINTS))
    weight = ConstantBetas(killed.POINTS, killed.SPEC.betas, killed.CPU)
    with TensorBoard(tmp_path) as board:
        result = train(model, data, weight, killed.config("adam", 20), log=board)
    assert set(curves(tmp_path)["point 0, seed 3"]) >= TAGS
    assert_curves(tmp_path, result.history)


def test_curves_of_cells_have_the_points_of_the_study(tmp_path, monkeypatch):
    """Stacks of one seed and two points; then nothing but the store."""
    monkeypatch.setattr(module, "size_that_fits", lambda *_: (1, 2))
    store = CellStore(tmp_path / "store")
    with TensorBoard(tmp_path / "new") as board:
        result = cells(board, store).result
    assert result.stacks > 1
    assert_curves(tmp_path / "new", result.history)
    with TensorBoard(tmp_path / "again") as board:
        cells(board, store)
    assert_curves(tmp_path / "again", result.history)


def test_what_is_there_is_not_written_again(tmp_path):
    """Members of a store; a point with another value is one of another training."""
    store = CellStore(tmp_path / "store")
    for _ in range(2):
        with TensorBoard(tmp_path / "board") as board:
            result = cells(board, store).result
        assert_curves(tmp_path / "board", result.history)
    for value in (float("nan"), 0.1, float("nan")):
        with TensorBoard(tmp_path / "board") as board:
            board.add("other", {"step": 3, "rate_nats": value})
    (_, nan), (_, other) = curves(tmp_path / "board")["other"]["rate_nats"]
    assert np.isnan(nan) and other == float(np.float32(0.1))


def test_compare_writes_a_run_per_member(tmp_path, short_runs, no_drawing):
    options = ["--architecture", "linear", "--quick", "--seeds", "2", "--latent-dim", "2"]
    options += ["--remedy", "annealing", "--no-bracket", "--quiet", "--out", str(tmp_path / "out")]
    assert linvae.compare.main([*options, "--tensorboard", str(tmp_path / "board")]) == 0
    runs = curves(tmp_path / "board")
    rows = Comparison.read(tmp_path / "out").select("rate_nats")
    members = {
        f"{row.architecture}, beta {row.beta:.4g}, seed {row.seed}"
        for row in rows
        if row.architecture != "theory"
    }
    assert set(runs) == members
    for name, tags in runs.items():
        beta = float(name.split("beta ")[1].split(",")[0])
        last = tags["first_beta"][-1]
        assert last == (20, pytest.approx(beta, rel=1e-3))  # four digits of it are in the name


def test_workers_of_a_scheduler_write_none(capsys):
    with pytest.raises(SystemExit) as stop:
        linvae.compare.main(["--tensorboard", "x", "--scheduler", "tcp://127.0.0.1:1"])
    assert stop.value.code == 2
    assert "--tensorboard has no effect with --scheduler" in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r'pip install "linvae\[tensorboard\]"'):
        TensorBoard(tmp_path)
    assert linvae.compare.main(["--out", str(tmp_path / "o"), "--tensorboard", str(tmp_path)]) == 2
    assert 'pip install "linvae[tensorboard]"' in capsys.readouterr().err
