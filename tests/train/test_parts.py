"""A stack trained in parts: the same members, and what is said about it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from linvae.data import gaussian
from linvae.models import Architecture, build_model
from linvae.spec import VAESpec
from linvae.train import (
    ConstantBetas,
    DivergedError,
    InformationControl,
    TrainConfig,
    TrainingData,
    parts,
    predict_memory,
    split_points,
    train,
    train_in_parts,
)

CPU = torch.device("cpu")
SPEC = VAESpec(1, decoder_variance=0.5)
FACTORS = (0.3, 0.6, 1.0, 2.0, 3.0)
SEEDS = (4, 0)
CONFIG = TrainConfig(steps=40, batch_size=32, log_every=20)


def make():
    data = TrainingData.from_arrays(gaussian((4.0, 2.0, 1.0, 0.5), 100, seed=2).target)
    network = Architecture("mlp", hidden=8)
    return data, build_model(SPEC, data.target, architecture=network, seeds=SEEDS, n_points=5)


def weights(kind):
    if kind == "constant":
        return ConstantBetas(FACTORS, SPEC.betas, CPU)
    return InformationControl((0.1, 0.2, 0.3, 0.4, 0.5), SPEC.betas, 2, 0, CPU)


def needed(data, model, seeds, points):
    part = parts.Part(range(seeds), range(points))
    found = predict_memory(lambda: parts.like(model, part), CONFIG, n_samples=len(data))
    return found.total - found.data


def close(found, expected):
    """Members do not interact: only the order of sums in a batched product may differ (1e-5)."""
    for (name, one), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def test_points_are_split_evenly():
    assert split_points(range(7), 3) == [range(2), range(2, 4), range(4, 7)]
    assert split_points(range(3, 5), 2) == [range(3, 4), range(4, 5)]


@pytest.mark.parametrize("kind", ["constant", "control"])
def test_parts_give_what_one_stack_gives(kind):
    data, whole = make()
    _, divided = make()
    one, other = weights(kind), weights(kind)
    expected = train(whole, data, one, CONFIG)
    limit = needed(data, divided, 2, 2)  # so that two points and no more fit
    message = r"training 2 seeds x 5 points at once needs .* MiB .* trained in 3 stacks"
    calls = []
    with pytest.warns(UserWarning, match=message):
        found = train_in_parts(divided, data, other, CONFIG, calls.append, memory_limit_bytes=limit)
    assert (expected.stacks, found.stacks) == (1, 3)
    assert calls == [6, 13, 20, 26, 33, 40]
    close(divided, whole)
    assert len(found.history) == len(expected.history)
    for row, wanted in zip(found.history, expected.history, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4)
    if kind == "control":
        for values, wanted in zip(other.result(), one.result(), strict=True):
            torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-6)


def test_seeds_are_split_where_one_point_is_too_large():
    data, whole = make()
    _, divided = make()
    train(whole, data, weights("constant"), CONFIG)
    with pytest.warns(UserWarning, match="trained in 10 stacks"):
        found = train_in_parts(
            divided, data, weights("constant"), CONFIG,
            memory_limit_bytes=needed(data, divided, 1, 1),
        )  # fmt: skip
    assert found.stacks == 10
    close(divided, whole)


def test_enough_memory_is_one_stack_without_a_word(recwarn):
    data, whole = make()
    _, divided = make()
    train(whole, data, weights("constant"), CONFIG)
    found = train_in_parts(divided, data, weights("constant"), CONFIG, memory_limit_bytes=2**40)
    assert found.stacks == 1
    assert not [w for w in recwarn if "stack" in str(w.message)]
    for one, other in zip(divided.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_member_that_does_not_fit_names_the_ways_out():
    data, model = make()
    message = re.escape(
        "hidden=8), target_dim=4, latent_dims=(1,), batch_size=32, 100 resident samples; take a "
        "smaller batch_size or a smaller hidden, or stream the data"
    )
    with pytest.raises(MemoryError, match=message):
        train_in_parts(model, data, weights("constant"), CONFIG, memory_limit_bytes=1000)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
    ],
    ids=["python", "cuda", "host"],
)
def test_out_of_memory_divides_again(monkeypatch, error):
    """The prediction says that all fits; stacks of more than two points do not."""
    data, whole = make()
    _, divided = make()
    train(whole, data, weights("control"), CONFIG)

    def small_only(model, *arguments):
        if model.n_points > 2:
            raise error
        return train(model, *arguments)

    monkeypatch.setattr(parts, "train", small_only)
    with pytest.warns(UserWarning, match="out of memory with 2 seeds x 5 points in one stack"):
        found = train_in_parts(divided, data, weights("control"), CONFIG, memory_limit_bytes=2**40)
    assert found.stacks == 3
    close(divided, whole)


def test_other_errors_pass():
    data, model = make()
    with pytest.raises(RuntimeError, match="broken"):
        train_in_parts(model, data, Broken(FACTORS, SPEC.betas, CPU), CONFIG)


class Broken(ConstantBetas):
    def betas(self):
        raise RuntimeError("broken")


def test_part_that_diverges_stops_no_other():
    data, model = make()
    _, clean = make()
    train(clean, data, weights("constant"), CONFIG)
    with torch.no_grad():
        next(iter(model.decoders[0].parameters()))[:, 0] = torch.inf
    with pytest.warns(UserWarning, match="trained in 5 stacks"):
        found = train_in_parts(
            model, data, weights("constant"), CONFIG,
            memory_limit_bytes=needed(data, model, 2, 1),
        )  # fmt: skip
    assert {(d.seed, d.point) for d in found.diverged} == {(4, 0), (0, 0)}
    for one, other in zip(model.parameters(), clean.parameters(), strict=True):
        torch.testing.assert_close(one[:, 1:], other[:, 1:], rtol=1e-5, atol=1e-6)


def test_all_diverged_is_an_error():
    data, model = make()
    with torch.no_grad():
        next(iter(model.decoders[0].parameters())).fill_(torch.inf)
    with (
        pytest.warns(UserWarning, match="5 stacks"),
        pytest.raises(DivergedError, match=r"all 10 members .* \(first seed 4 point 0, at step 20"),
    ):
        train_in_parts(
            model, data, weights("constant"), CONFIG,
            memory_limit_bytes=needed(data, model, 2, 1),
        )  # fmt: skip


def test_points_of_later_parts_keep_their_numbers():
    data, model = make()
    with torch.no_grad():
        next(iter(model.decoders[0].parameters()))[1, 3] = torch.inf
    with pytest.warns(UserWarning, match="3 stacks"):
        found = train_in_parts(
            model, data, weights("constant"), CONFIG,
            memory_limit_bytes=needed(data, model, 2, 2),
        )  # fmt: skip
    assert [(d.seed, d.point) for d in found.diverged] == [(0, 3)]
    lost = {(r["seed"], r["point"]) for r in found.history if np.isnan(r["distortion_nats"])}
    assert lost == {(0, 3)}
