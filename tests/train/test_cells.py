"""Finished members are kept and put together to what one stack gives; none is trained twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import warnings

import numpy as np
import pytest
import torch

from linvae.metrics import estimate_threshold
from linvae.models import StackedVAE, build_model
from linvae.spec import VAESpec
from linvae.train import CellStore, DivergedError, TrainConfig, TrainingData
from linvae.train import cells as module
from linvae.train.checkpoint import content_key, member_identity, read_header, study_identity
from linvae.train.run import Diverged

from . import killed

KINDS = ("constant", "control", "remedies")
PROCESSES = multiprocessing.get_context("fork")


def refuse(*args, **options):
    raise AssertionError("a finished cell is trained again")


def assert_same(found, expected) -> None:
    """Bit for bit."""
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    assert found.found.keys() == expected.found.keys()
    for name, value in expected.found.items():
        assert torch.equal(found.found[name], value), name
    assert found.result.history == expected.result.history
    assert found.result.steps == expected.result.steps
    assert found.result.diverged == expected.result.diverged


def assert_close(found, expected) -> None:
    """The rounding of batched products and 100 steps of Adam, as in `test_loop`: 1e-5."""
    for name, value in expected.model.state_dict().items():
        atol = 1e-5 * max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-5, atol=atol)
    for name, value in expected.found.items():
        torch.testing.assert_close(found.found[name], value, rtol=1e-5, atol=1e-5)
    key = [[row[k] for k in ("step", "seed", "point")] for row in expected.result.history]
    assert [[row[k] for k in ("step", "seed", "point")] for row in found.result.history] == key


@pytest.fixture(scope="module")
def one_stack():
    """What training all members in one stack gives, without any store."""
    return {kind: killed.cells(kind, None) for kind in KINDS}


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    """A store that holds all members of both kinds."""
    store = CellStore(tmp_path_factory.mktemp("cells"))
    for kind in KINDS:
        killed.cells(kind, store)
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_finished_cells_are_not_trained_again(kind, whole_store, one_stack, monkeypatch):
    monkeypatch.setattr(module, "train", refuse)
    found = killed.cells(kind, whole_store)
    assert_same(found, one_stack[kind])
    assert found.result.seconds > 0  # those of the training, not of the reading


def test_store_holds_one_file_per_member_and_no_checkpoint(whole_store):
    members = len(KINDS) * len(killed.SEEDS) * len(killed.POINTS)
    names = [path.name for path in whole_store.folder.iterdir()]
    assert len(names) == members
    assert all(name.endswith(module.CELL) for name in names)


def test_a_member_does_not_depend_on_its_place(whole_store, one_stack, monkeypatch):
    """Some of the members, in another order: rows are numbered anew."""
    monkeypatch.setattr(module, "train", refuse)
    found = killed.cells("control", whole_store, seeds=(3,), points=(1.0, 0.1))
    for name, value in one_stack["control"].model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value[1:][:, [2, 0]]), name
    assert torch.equal(found.found["factor"], one_stack["control"].found["factor"][1:][:, [2, 0]])
    first = found.result.history[0]
    same = one_stack["control"].result.history[5]
    assert (first["seed"], first["point"], first["rate_nats"]) == (3, 0, same["rate_nats"])


@pytest.mark.parametrize("kind", KINDS)
def test_only_missing_members_are_trained(kind, tmp_path, one_stack, monkeypatch):
    """A seed and two points of two seeds are there: what is missing is 1 x 1 and 1 x 3, ragged."""
    store = CellStore(tmp_path)
    killed.cells(kind, store, seeds=(0,), points=(0.4, 1.0))
    stacks, train = [], module.train

    def watched(model, *args):
        stacks.append((model.seeds, model.n_points))
        return train(model, *args)

    monkeypatch.setattr(module, "train", watched)
    assert_close(killed.cells(kind, store), one_stack[kind])
    assert stacks == [((0,), 1), ((3,), 3)]


def test_stacks_with_and_without_inner_loops_are_one_study(one_stack, monkeypatch):
    """Points 0.1 and 0.4 have inner loops, 1.0 alone in its stack has none: counts of both."""
    monkeypatch.setattr(module, "size_that_fits", lambda *_: (2, 2))
    found = killed.cells("remedies", None)
    assert found.result.stacks == 2
    assert_close(found, one_stack["remedies"])
    assert found.found["until"][:, 2].tolist() == [0, 0]


def test_seeds_that_lack_the_same_points_share_a_stack(tmp_path, one_stack, monkeypatch):
    store = CellStore(tmp_path)
    killed.cells("constant", store, points=(0.4,))
    stacks, train = [], module.train

    def watched(model, *args):
        stacks.append((model.seeds, model.n_points))
        return train(model, *args)

    monkeypatch.setattr(module, "train", watched)
    assert_close(killed.cells("constant", store), one_stack["constant"])
    assert stacks == [((0, 3), 2)]


# Writes of a whole run: checkpoints at 40, 80 and the end of 100 steps, then six cells.
MOMENTS = {
    "first checkpoint": (0, "half a file"),
    "second checkpoint": (1, "after its rename"),
    "last checkpoint": (2, "before its rename"),
    "before the first cell": (3, "before its rename"),
    "first cell": (3, "half a file"),
    "among the cells": (5, "after its rename"),
    "before the checkpoint goes": (8, "after its rename"),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_killed_study_ends_with_the_same_bits(moment, tmp_path, one_stack):
    process = PROCESSES.Process(target=killed.cells_and_die, args=(tmp_path, "control", *moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = killed.cells("control", CellStore(tmp_path))
    assert_same(found, one_stack["control"])
    left = [p for p in tmp_path.iterdir() if not p.name.endswith((module.CELL, ".part"))]
    assert left == []


def test_stopped_stack_goes_on_where_more_is_asked_for(tmp_path, one_stack, monkeypatch):
    """Killed after 80 of 100 steps of two points; then three are asked for."""
    stop = iter(range(100))

    class StoppedError(Exception):
        pass

    def until_80(step):
        if step == 85:
            raise StoppedError
        next(stop)

    store = CellStore(tmp_path, every_steps=40)
    with pytest.raises(StoppedError):
        killed.cells("constant", store, points=(0.1, 1.0), progress=until_80)
    steps = []
    found = killed.cells("constant", store, progress=steps.append)
    two_of_three = [2 * step // 3 for step in (85, 90, 95, 100)]
    assert steps == [*two_of_three, *((200 + step) // 3 for step in range(5, 101, 5))]
    assert_close(found, one_stack["constant"])


def test_two_processes_in_one_folder(tmp_path, one_stack):
    """Both write all the time; every file is whole and the numbers are those of one."""
    args = ("control", CellStore(tmp_path, every_steps=3))
    processes = [PROCESSES.Process(target=killed.cells, args=args) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(killed.cells("control", CellStore(tmp_path)), one_stack["control"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: os.truncate(p, p.stat().st_size - 4), "not fully covered"),
        (lambda p: p.write_bytes(b"x" * 99), "header too large"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"?"), "its sha256 is not the one"),
    ],
    ids=["truncated", "garbage", "one byte"],
)
def test_damaged_cell_is_named_and_trained_again(damage, words, tmp_path):
    store = CellStore(tmp_path)
    kept = killed.cells("constant", store, seeds=(0,), points=(0.4, 1.0))
    path = sorted(tmp_path.iterdir())[0]
    damage(path)
    with pytest.warns(UserWarning, match=words) as caught:
        found = killed.cells("constant", store, seeds=(0,), points=(0.4, 1.0))
    assert len(caught) == 1
    assert f"cell {path} cannot be read" in str(caught[0].message)
    assert "delete it to train from the beginning. It is trained again and replaced" in str(
        caught[0].message
    )
    assert_close(found, kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        killed.cells("constant", store, seeds=(0,), points=(0.4, 1.0))


def test_stopped_stack_of_another_version_is_refused(tmp_path, monkeypatch):
    """Its cells would be found missing; it is not trained again without a word."""

    def stop(step):
        if step == 60:
            raise KeyboardInterrupt

    store = CellStore(tmp_path, every_steps=40)
    with pytest.raises(KeyboardInterrupt):
        killed.cells("constant", store, progress=stop)
    from linvae.train import checkpoint

    monkeypatch.setattr(checkpoint, "__version__", "9.8.7")
    with pytest.raises(ValueError, match=r"was written by linvae 0\.1\.0 and this is linvae 9\.8"):
        killed.cells("constant", store)


def test_damaged_checkpoint_in_the_store_is_refused(tmp_path):
    def stop(step):
        if step == 60:
            raise KeyboardInterrupt

    store = CellStore(tmp_path, every_steps=40)
    with pytest.raises(KeyboardInterrupt):
        killed.cells("constant", store, progress=stop)
    (path,) = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=f"checkpoint {path} cannot be read"):
        killed.cells("constant", store)


def identity(**changes):
    fields = {
        "spec": killed.SPEC, "architecture": killed.NETWORK, "data": killed.data(),
        "config": killed.config("adam"), "seed": 0,
        "setting": killed.kl_weight("constant").setting(0),
    } | changes  # fmt: skip
    seed, setting = fields.pop("seed"), fields.pop("setting")
    spec, network = fields.pop("spec"), fields.pop("architecture")
    model = build_model(spec, fields["data"].target, architecture=network)
    return member_identity(study_identity(model, **fields), seed, setting)


OTHERS = {
    "spec": {"spec": VAESpec(2, decoder_variance=0.5001)},
    "architecture": {"architecture": killed.Architecture("mlp", hidden=7)},
    "data": {"data": TrainingData(killed.data().target[:-1], None)},
    "condition": {"data": TrainingData(killed.data().target, killed.data().target)},
    "config": {"config": TrainConfig(steps=99)},
    "seed": {"seed": 1},
    "point": {"setting": killed.kl_weight("constant").setting(1)},
    "kind": {"setting": killed.kl_weight("control").setting(0)},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_key_changes_with_everything_that_changes_a_member(changes):
    assert content_key(identity(**changes)) != content_key(identity())


def test_key_does_not_depend_on_the_stack():
    alone = killed.kl_weight("constant", points=(0.4,), n_seeds=1).setting(0)
    among = killed.kl_weight("constant").setting(1)
    assert content_key(identity(setting=alone)) == content_key(identity(setting=among))


def test_a_file_tells_what_it_holds(tmp_path):
    store = CellStore(tmp_path)
    killed.cells("constant", store, seeds=(3,), points=(0.4,))
    (path,) = tmp_path.iterdir()
    told = read_header(path, "cell")["identity"]
    expected = identity(seed=3, setting=killed.kl_weight("constant").setting(1))
    assert told == json.loads(json.dumps(expected))
    assert store.has(content_key(expected))
    assert not store.has(content_key(identity()))
    assert store.load(content_key(identity())) is None


def poisoned(monkeypatch, seeds) -> None:
    """Members of these seeds start from infinite parameters."""
    build = module.build_model

    def poison(*args, **options):
        model = build(*args, **options)
        with torch.no_grad():
            for s, seed in enumerate(model.seeds):
                if seed in seeds:
                    next(model.parameters())[s] = torch.inf
        return model

    monkeypatch.setattr(module, "build_model", poison)


def test_lost_members_are_cells_too(tmp_path, monkeypatch):
    """Also where they were a whole stack: they do not stop the others."""
    poisoned(monkeypatch, seeds=(0,))
    store = CellStore(tmp_path)
    killed.cells("control", store, seeds=(3,))
    found = killed.cells("control", store)
    assert found.result.diverged == tuple(Diverged(0, p, 5) for p in range(3))
    assert torch.isnan(found.found["factor"]).tolist() == [[True] * 3, [False] * 3]
    monkeypatch.setattr(module, "train", refuse)
    assert killed.cells("control", store).result.diverged == found.result.diverged


def test_loss_of_all_members_is_an_error(tmp_path, monkeypatch):
    poisoned(monkeypatch, seeds=killed.SEEDS)
    with pytest.raises(DivergedError, match=r"all 6 members is not finite .*learning rate"):
        killed.cells("constant", CellStore(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\) must differ from each other: give each of them once"),
        ({"points": (0.1, 0.2, 0.1)}, r"points=\(0.1, 0.2, 0.1\) must differ from each other"),
    ],
)
def test_a_member_given_twice_is_refused(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        killed.cells("constant", CellStore(tmp_path), **options)


def test_state_that_members_share_is_refused(tmp_path, monkeypatch):
    build = module.build_model

    def with_mask(*args, **options):
        model = build(*args, **options)
        model.register_buffer("mask", torch.ones(5))
        return model

    monkeypatch.setattr(module, "build_model", with_mask)
    words = r"mask of the stack must have shape \(2, 3\) in front, .*persistent=False"
    with pytest.raises(ValueError, match=words):
        killed.cells("constant", CellStore(tmp_path))


def test_remains_of_killed_writes_do_not_grow(tmp_path):
    """Of any cell and checkpoint; not what another process may be writing, nor what is not ours."""
    ours = [tmp_path / f"a{kind}.1-b.part" for kind in (module.CELL, module.CHECKPOINT)]
    young, other = tmp_path / f"c{module.CELL}.2-d.part", tmp_path / "film.part"
    for path in (*ours, young, other):
        path.touch()
    for path in (*ours, other):
        os.utime(path, (0, 0))
    CellStore(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted((young, other))


def test_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"nothing can be written into .*give another folder"):
        CellStore(tmp_path / "file" / "cells")


def test_estimate_of_a_threshold_uses_the_store(tmp_path, monkeypatch):
    """Every number of the estimate, evidence included; nothing is trained the second time."""
    options = {"seeds": (0, 1), "config": TrainConfig(steps=60, batch_size=16)}
    spec, data = VAESpec(1, decoder_variance=0.5), killed.data()
    without = estimate_threshold(spec, data, **options)
    first = estimate_threshold(spec, data, store=CellStore(tmp_path), **options)
    monkeypatch.setattr(module, "train", refuse)
    again = estimate_threshold(spec, data, store=CellStore(tmp_path), **options)
    for estimate in (first, again):
        for name, value in vars(without).items():
            if name != "seconds":
                np.testing.assert_array_equal(getattr(estimate, name), value, err_msg=name)
    assert again.seconds == first.seconds


def starts_at(value: float) -> StackedVAE:
    """A stack of all members whose parameters are another multiple of their draw for each."""
    model = build_model(
        killed.SPEC, killed.data().target, architecture=killed.NETWORK, seeds=killed.SEEDS,
        n_points=len(killed.POINTS),
    )  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            p *= value * torch.arange(1.0, 7.0).view(2, 3, *[1] * (p.ndim - 2))
    return model


def test_members_begin_where_they_are_told_to(tmp_path, monkeypatch):
    """In one stack, in smaller ones, with a store and without; another start is another cell."""
    begun = starts_at(0.5)
    expected = killed.cells("constant", None, start=begun)
    own = killed.cells("constant", None).model.decoders[0].outer.weight
    assert not torch.equal(expected.model.decoders[0].outer.weight, own)
    store = CellStore(tmp_path)
    assert_same(killed.cells("constant", store, start=begun), expected)
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", refuse)
        assert_same(killed.cells("constant", store, start=begun), expected)
    monkeypatch.setattr(module, "size_that_fits", lambda *args: (1, 2))
    assert_close(killed.cells("constant", None, start=begun), expected)
    other = killed.cells("constant", store, start=starts_at(0.7))
    assert other.result.stacks > 0
    assert len(list(tmp_path.iterdir())) == 12


def test_a_start_of_other_members_is_refused():
    with pytest.raises(ValueError, match=r"start has seeds \(0, 3\) x 3 points and must"):
        killed.cells("constant", None, points=(0.4, 1.0), start=starts_at(0.5))


def test_checkpoint_of_another_start_stays(tmp_path):
    """A started run that was killed goes on after another, with a start of their own, has ended."""
    store = CellStore(tmp_path, every_steps=killed.EVERY)
    expected = killed.cells("constant", None, start=starts_at(0.5))

    def stop(step: int) -> None:
        if step >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.cells("constant", store, start=starts_at(0.5), progress=stop)
    for _ in range(2):
        killed.cells("constant", store)
    steps = []
    found = killed.cells("constant", store, start=starts_at(0.5), progress=steps.append)
    assert steps[0] == 40
    assert_same(found, expected)


def test_a_cell_under_the_name_of_another_is_trained_again(tmp_path):
    """A whole file, of another seed: its numbers are not those that are asked for."""
    store = CellStore(tmp_path)
    expected = killed.cells("constant", store)
    cells = sorted(tmp_path.glob("*.cell.safetensors"))
    cells[0].write_bytes(cells[1].read_bytes())
    with pytest.warns(UserWarning, match="another run or member. It is trained again"):
        assert_close(killed.cells("constant", store), expected)
