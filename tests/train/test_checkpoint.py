"""A run that is stopped goes on to the same numbers; what cannot be continued is refused."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from linvae.train import Checkpoint, DivergedError, InformationControl, TrainResult
from linvae.train import checkpoint as module
from linvae.train.checkpoint import read_file, read_header, write_file
from linvae.train.data import BatchOrder, Noise
from linvae.train.run import Diverged

from . import killed

RUNS = [(o, k) for o in ("adam", "sgd") for k in ("constant", "control")]
KILLS = 4


# A fork has torch loaded; it is safe with the one thread that tests run on.
PROCESSES = multiprocessing.get_context("fork")


def killed_at_once(target, *args) -> None:
    """Run in a process that kills itself."""
    process = PROCESSES.Process(target=target, args=args)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def kill_after(step: int, *args) -> None:
    """Kill a training from outside as soon as it says that it has done so many steps."""
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=killed.report_steps, args=(*args, there))
    process.start()
    there.close()
    while here.recv() < step:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def assert_same(found, expected) -> None:
    """Bit for bit: parameters, what the KL weight found, history."""
    for name, value in expected[0].state_dict().items():
        assert torch.equal(found[0].state_dict()[name], value), name
    for name, value in expected[1].found().items():
        assert torch.equal(found[1].found()[name], value), name
    assert found[2].history == expected[2].history
    assert (found[2].steps, found[2].diverged) == (expected[2].steps, expected[2].diverged)


@pytest.mark.parametrize(("optimizer", "kind"), RUNS)
def test_killed_run_ends_with_the_same_bits(optimizer, kind, tmp_path):
    """Killed wherever it was when the message came that it has done a random number of steps."""
    path = tmp_path / "run.safetensors"
    rng = np.random.default_rng(RUNS.index((optimizer, kind)))
    reached = [0]
    for step in np.sort(rng.integers(10, killed.STEPS // 2, KILLS)):
        kill_after(step, optimizer, kind, path)
        if path.exists():
            reached.append(read_header(path, "checkpoint")["notes"]["step"])
    assert len(set(reached)) > 2  # of them at least two were continued at different steps
    assert reached == sorted(reached)
    assert reached[-1] < killed.STEPS
    steps = []
    keep = Checkpoint(path, every_steps=killed.EVERY)
    found = killed.run(optimizer, kind, checkpoint=keep, progress=steps.append)
    assert steps[0] > reached[-1]  # it went on, and did not start again
    assert_same(found, killed.run(optimizer, kind))


@pytest.mark.parametrize("moment", ["half a file", "before its rename", "after its rename"])
def test_killed_while_it_writes(moment, tmp_path):
    """The third write: the second file is whole until the third is."""
    path = tmp_path / "run.safetensors"
    killed_at_once(killed.run_and_die, path, 2, moment)
    writes = 3 if moment == "after its rename" else 2
    assert read_file(path, "checkpoint")[1]["notes"]["step"] == writes * killed.EVERY
    parts = list(tmp_path.glob("*.part"))
    assert len(parts) == (moment != "after its rename")
    found = killed.run("adam", "control", checkpoint=Checkpoint(path))
    assert_same(found, killed.run("adam", "control"))


def test_finished_run_is_not_trained_again(tmp_path):
    keep = Checkpoint(tmp_path / "run.safetensors")
    first = killed.run("adam", "control", steps=40, checkpoint=keep)
    steps = []
    again = killed.run("adam", "control", steps=40, checkpoint=keep, progress=steps.append)
    assert steps == []
    assert_same(again, first)
    assert again[2].seconds == first[2].seconds


def test_lost_members_are_remembered(tmp_path):
    keep = Checkpoint(tmp_path / "run.safetensors")
    lost = (Diverged(seed=3, point=1, step=20),)
    killed.run("sgd", "constant", steps=10, checkpoint=keep)
    tensors, header = read_file(keep.path, "checkpoint")
    header["notes"]["diverged"] = [[1, 1, {"seed": 3, "point": 1, "step": 20}]]
    header["notes"]["history"][0]["rate_nats"] = float("nan")
    write_file(keep.path, "checkpoint", header["identity"], tensors, header["notes"])
    result = killed.run("sgd", "constant", steps=10, checkpoint=keep)[2]
    assert result.diverged == lost
    assert np.isnan(result.history[0]["rate_nats"])


@pytest.mark.parametrize(
    "make", [lambda: BatchOrder(50, 16, (0, 1)), lambda: Noise((2,), (0, 1), killed.CPU)]
)
def test_streams_go_on_from_their_state(make):
    def draw(stream):
        drawn = stream.next() if isinstance(stream, BatchOrder) else stream.next(16)[0]
        return drawn.clone()

    stream, again = make(), make()
    for _ in range(5):
        draw(stream)
    state = stream.state()
    expected = [draw(stream) for _ in range(5)]
    assert not torch.equal(draw(again), expected[0])
    again.restore(state)
    assert all(torch.equal(draw(again), value) for value in expected)


def test_sums_of_control_are_means_of_its_last_part():
    """Against the mean over a list; float64 sums of 15 numbers: 1e-12."""
    torch.manual_seed(0)
    control = InformationControl((0.1, 0.3), (1.0,), 1, 0, killed.CPU)
    factors, statistics = [], []
    for step in range(100):
        mean, log_variance = torch.randn(2, 1, 2, 8, 3)
        level = type("Level", (), {"mean": mean, "log_variance": log_variance})
        if step / 100 >= 0.85:
            factors.append(control.betas()[..., 0].double())
            second = mean.square() + log_variance.exp()
            statistics.append(torch.stack([v.mean(-2) for v in (mean, second, log_variance)]))
        control.observe(type("Terms", (), {"levels": (level,)}), step / 100)
    first, second, log_variance = torch.stack(statistics).double().mean(0)
    nats = ((torch.log(second - first**2) - log_variance) / 2).sum(-1)
    information, factor = control.result()
    torch.testing.assert_close(information, nats, rtol=1e-12, atol=0)
    torch.testing.assert_close(factor, torch.stack(factors).mean(0), rtol=1e-12, atol=0)


def test_rhythm():
    by_steps = Checkpoint(Path("x"), every_seconds=1.0, every_steps=10)
    assert [by_steps.due(n, 1e9, 0.0) for n in (9, 10)] == [False, True]
    by_clock = Checkpoint(Path("x"), every_seconds=30.0)
    assert [by_clock.due(10**9, t, 0.0) for t in (29.9, 30.0)] == [False, True]
    assert [by_clock.due(1, t, 2.0) for t in (99.0, 101.0)] == [False, True]  # 2 s are 2 % of 100 s


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every_seconds": -1.0}, "every_seconds=-1.0 must be >= 0 in Checkpoint"),
        ({"every_steps": 0}, "every_steps=0 must be an integer >= 1 or None in Checkpoint"),
    ],
)
def test_rhythm_that_is_none_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Checkpoint(Path("x"), **options)


@pytest.fixture
def kept(tmp_path):
    """A checkpoint of a run of 20 steps."""
    keep = Checkpoint(tmp_path / "run.safetensors")
    killed.run("adam", "control", steps=20, checkpoint=keep)
    return keep


def go_on(keep, optimizer="adam", kind="control", steps=20):
    killed.run(optimizer, kind, steps=steps, checkpoint=keep)


def rewrite(path: Path, **changes) -> None:
    """Change fields of the header."""
    tensors, header = read_file(path, "checkpoint")
    header |= changes
    text = json.dumps(header)
    save_file(tensors, path, {"linvae": text, "sha256": module.content_digest(tensors, text)})


OTHER_RUNS = {
    "steps": ({"steps": 30}, "config.steps is 20 in the file and 30 here"),
    "optimizer": ({"optimizer": "sgd"}, "config.optimizer is adam in the file and sgd here"),
    "weights": ({"kind": "constant"}, "kl_weights is .*information control.* in the file"),
}


@pytest.mark.parametrize(("options", "words"), OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_checkpoint_of_another_run_says_what_differs(options, words, kept):
    with pytest.raises(ValueError, match=words) as found:
        go_on(kept, **options)
    assert "belongs to another run" in str(found.value)
    assert "give another path, or delete the file to start from the beginning" in str(found.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SPEC", killed.VAESpec(2, decoder_variance=0.25), "spec.decoder_variance is 0.5 in the"),
        ("SEEDS", (0, 4), r"seeds is \[0, 3\] in the file and \[0, 4\] here"),
        (
            "NETWORK",
            killed.Architecture("linear", hidden=6),
            "architecture.name is mlp in the file",
        ),
    ],
)
def test_checkpoint_of_another_model(name, value, words, kept, monkeypatch):
    monkeypatch.setattr(killed, name, value)
    with pytest.raises(ValueError, match=words):
        go_on(kept)


def test_checkpoint_of_other_data(kept, monkeypatch):
    """One value of 250 is off by one part in a million."""
    data = killed.data()
    data.target[7, 2] *= 1 + 1e-6
    monkeypatch.setattr(killed, "data", lambda: data)
    with pytest.raises(ValueError, match=r"data_sha256 is [0-9a-f]{64} in the file and"):
        go_on(kept)


def test_checkpoint_of_a_run_that_started_elsewhere(kept, monkeypatch):
    build = killed.build_model

    def warm(*args, **options):
        model = build(*args, **options)
        with torch.no_grad():
            next(model.parameters())[1, 2] *= 2
        return model

    monkeypatch.setattr(killed, "build_model", warm)
    with pytest.raises(ValueError, match="start_sha256 is"):
        go_on(kept)


def test_checkpoint_of_another_version(kept, monkeypatch):
    monkeypatch.setattr(module, "__version__", "9.8.7")
    words = (
        r"run.safetensors was written by linvae 0\.1\.0 and this is linvae 9\.8\.7, whose numbers "
        r"may differ: finish the run with linvae 0\.1\.0, or delete the file"
    )
    with pytest.raises(ValueError, match=words):
        go_on(kept)


def test_checkpoint_of_another_training(kept, monkeypatch):
    monkeypatch.setattr(module, "TRAINING", 99)
    words = rf"linvae {module.__version__}, training \d+ and this is linvae \S+, training 99, whose"
    with pytest.raises(ValueError, match=words):
        go_on(kept)


def test_checkpoint_of_another_format(kept):
    rewrite(kept.path, format=0)
    words = "has format 0 and this linvae .* reads format 1: finish the run with the version that"
    with pytest.raises(ValueError, match=words):
        go_on(kept)


def test_cell_is_no_checkpoint(kept):
    rewrite(kept.path, kind="cell")
    with pytest.raises(ValueError, match=r"cannot be read \(it is a cell\)"):
        go_on(kept)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": (lambda p: os.truncate(p, p.stat().st_size - 100), "not fully covered"),
    "header cut": (lambda p: os.truncate(p, 50), "invalid header"),
    "empty": (lambda p: p.write_bytes(b""), "header too small"),
    "garbage": (lambda p: p.write_bytes(bytes(range(256)) * 8), "header too large"),
    "text": (lambda p: p.write_text("step,loss\n1,2\n" * 9), "header too large"),
    "one bit": (lambda p: flip(p, -99), "its sha256 is not the one in its header"),
    "other": (lambda p: save_file({"w": torch.ones(2)}, p), "header was not written by linvae"),
    "folder": (lambda p: (p.unlink(), p.mkdir()), "it is a folder"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_refused(damage, words, kept):
    """Never silently from the beginning: the file stays as it is."""
    damage(kept.path)
    with pytest.raises(ValueError, match=words) as found:
        go_on(kept)
    assert f"checkpoint {kept.path} cannot be read" in str(found.value)
    assert "delete it to train from the beginning" in str(found.value)
    assert kept.path.exists()


def test_folder_that_cannot_be_written(tmp_path):
    """A file is in the way of the folder; refused before the first step."""
    (tmp_path / "file").touch()
    words = "nothing can be written into .*: make it writable or give another folder"
    with pytest.raises(OSError, match=words):
        go_on(Checkpoint(tmp_path / "file" / "run.safetensors"))


def test_read_only_folder(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)  # root may write anywhere
    with pytest.raises(OSError, match=r"nothing can be written into .*Permission denied"):
        go_on(Checkpoint(tmp_path / "run.safetensors"))


def test_folder_is_made(tmp_path):
    keep = Checkpoint(tmp_path / "a" / "b" / "run.safetensors")
    go_on(keep, steps=5)
    assert keep.path.exists()


FULL = "checkpoint .* could not be written .*: free space on that disk or make the folder writable"


def test_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files, the error of a quota: half of the file does not fit."""
    keep = Checkpoint(tmp_path / "run.safetensors", every_steps=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    killed.run("adam", "control", steps=20, checkpoint=keep)
    before, size = keep.path.read_bytes(), keep.path.stat().st_size
    tensors, header = read_file(keep.path, "checkpoint")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(OSError, match=FULL):
            write_file(keep.path, "checkpoint", header["identity"], tensors, header["notes"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert keep.path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_full_disk_stops_a_run_that_then_goes_on(tmp_path, monkeypatch):
    keep, flush = Checkpoint(tmp_path / "run.safetensors", every_steps=10), module._flush
    calls = iter(range(100))

    def full(path):
        if next(calls) == 2:  # each write flushes the file and the folder
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    monkeypatch.setattr(module, "_flush", full)
    with pytest.raises(OSError, match=f"{FULL}.*start again"):
        killed.run("adam", "control", steps=40, checkpoint=keep)
    assert read_header(keep.path, "checkpoint")["notes"]["step"] == 10
    monkeypatch.setattr(module, "_flush", flush)
    found = killed.run("adam", "control", steps=40, checkpoint=keep)
    assert_same(found, killed.run("adam", "control", steps=40))


def test_old_remains_of_killed_writes_are_removed(tmp_path):
    """Of this file, and not what another process may be writing now."""
    keep = Checkpoint(tmp_path / "run.safetensors")
    old, young, other = (
        tmp_path / f"{name}.part"
        for name in ("run.safetensors.1-a", "run.safetensors.2-b", "x.3-c")
    )
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    go_on(keep, steps=5)
    assert not old.exists()
    assert young.exists()
    assert other.exists()


def test_no_pickle_is_read_or_written(kept):
    """Eight bytes of length, a JSON header, raw numbers; a pickle is refused like any garbage."""
    content = kept.path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    stored = sum(
        v["data_offsets"][1] - v["data_offsets"][0] for k, v in header.items() if k[0] != "_"
    )
    assert len(content) == 8 + length + stored
    kept.path.write_bytes(pickle.dumps({"model": [1, 2, 3]}))
    with pytest.raises(ValueError, match="cannot be read"):
        go_on(kept)


def test_loss_of_all_members_can_be_sent_between_processes():
    result = TrainResult([], 1.0, 5, (Diverged(0, 0, 5), Diverged(1, 0, 4)))
    error = DivergedError(result)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.result == result
    assert "all 2 members is not finite (first seed 1 point 0, at step 4)" in str(error)
