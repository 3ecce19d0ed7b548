"""A stack too large for the memory is trained in smaller ones: the same members."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from linvae.data import ImageLayout, gaussian
from linvae.models import Architecture, build_model
from linvae.spec import VAESpec
from linvae.train import (
    ConstantBetas,
    InformationControl,
    TrainConfig,
    TrainingData,
    cells,
    parts,
    predict_memory,
    train,
    train_cells,
)
from linvae.train.parts import copies, like, quick_size, size_that_fits

CPU = torch.device("cpu")
SPEC = VAESpec(1, decoder_variance=0.5)
POINTS = (0.3, 0.6, 1.0, 2.0, 3.0)
SEEDS = (4, 0)
CONFIG = TrainConfig(steps=40, batch_size=32, log_every=20)
DATA = TrainingData.from_arrays(gaussian((4.0, 2.0, 1.0, 0.5), 100, seed=2).target)
NETWORK = Architecture("mlp", hidden=8)
KINDS = {
    "constant": lambda points, n: ConstantBetas(points, SPEC.betas, CPU),
    "control": lambda points, n: InformationControl(points, SPEC.betas, n, 0, CPU),
}


def run(kind="constant", limit=None, **options):
    return train_cells(
        SPEC, DATA, points=POINTS, kl_weight=KINDS[kind], config=CONFIG, architecture=NETWORK,
        seeds=SEEDS, memory_limit_bytes=limit, **options,
    )  # fmt: skip


@cache
def in_one_stack(kind):
    """What the smaller stacks are held against."""
    return run(kind)


def whole_stack():
    return build_model(SPEC, DATA.target, architecture=NETWORK, seeds=SEEDS, n_points=len(POINTS))


def needed(n_seeds, n_points):
    model = whole_stack()
    found = predict_memory(lambda: like(model, n_seeds, n_points), CONFIG, n_samples=len(DATA))
    return found.total - found.data


def same(found, expected):
    """Members do not interact: only the order of sums in a batched product may differ (1e-5)."""
    pairs = zip(found.model.named_parameters(), expected.model.parameters(), strict=True)
    for (name, one), other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
    for name, values in expected.found.items():
        torch.testing.assert_close(found.found[name], values, rtol=1e-4, atol=1e-6)
    assert len(found.result.history) == len(expected.result.history)


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_stacks_give_what_one_stack_gives(kind):
    expected = in_one_stack(kind)
    message = r"training 2 seeds x 5 points at once needs .* in stacks of 2 seeds x 2 points"
    with pytest.warns(UserWarning, match=message):
        found = run(kind, limit=needed(2, 2))
    assert (expected.result.stacks, found.result.stacks) == (1, 3)
    same(found, expected)


def test_seeds_are_divided_where_one_point_is_too_large():
    with pytest.warns(UserWarning, match="in stacks of 1 seeds x 1 points"):
        found = run(limit=needed(1, 1))
    assert found.result.stacks == 10
    same(found, in_one_stack("constant"))


def test_enough_memory_is_one_stack_without_a_word(recwarn):
    assert run(limit=2**40).result.stacks == 1
    assert not [w for w in recwarn if "stack" in str(w.message)]


def test_member_that_does_not_fit_names_the_ways_out():
    message = re.escape("batch_size=32, 100 resident samples; take a smaller batch_size or smaller")
    with pytest.raises(MemoryError, match=message):
        run(limit=1000)


ERRORS = {
    "python": MemoryError(),
    "cuda": torch.cuda.OutOfMemoryError("CUDA out of memory"),
    "host": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_out_of_memory_divides_again(monkeypatch, error):
    """The prediction says that all fits; stacks of more than two points do not."""
    expected = in_one_stack("control")

    def small_only(model, *arguments):
        if model.n_points > 2:
            raise error
        return train(model, *arguments)

    monkeypatch.setattr(cells, "train", small_only)
    with pytest.warns(UserWarning) as warned:
        found = run("control")
    said = [str(w.message) for w in warned]
    assert any(
        "2 seeds x 5 points in one stack: trained in stacks of 2 seeds x 3" in s for s in said
    )
    assert found.result.stacks == 3
    same(found, expected)


def test_no_memory_at_all_is_an_error(monkeypatch):
    def never(*arguments):
        raise MemoryError

    monkeypatch.setattr(cells, "train", never)
    with (
        pytest.raises(MemoryError, match="one member alone needs more than there was"),
        pytest.warns(UserWarning, match="out of memory"),
    ):
        run()


def test_other_errors_pass(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr(cells, "train", broken)
    with pytest.raises(RuntimeError, match="broken"):
        run()


def test_counting_is_left_out_only_where_memory_is_plenty():
    """The rough bound is above the count, so that what is not counted would have fitted."""
    from linvae.train.parts import _rough_bytes

    for network in (Architecture("linear"), NETWORK, Architecture("mlp", hidden=256)):
        model = build_model(SPEC, DATA.target, architecture=network, n_points=3)
        found = predict_memory(lambda m=model: like(m, 1, 3), CONFIG, n_samples=len(DATA))
        assert found.in_use - found.data <= _rough_bytes((1, 3), model, CONFIG), network
    assert size_that_fits((1, 3), model, DATA, CONFIG) == (1, 3)


def test_copies_are_the_members_that_were_named():
    source = build_model(SPEC, DATA.target, architecture=NETWORK, seeds=SEEDS, n_points=3)
    with torch.no_grad():
        for p in source.parameters():
            p += ranks_like(p)
    starts = np.array([[0, 2], [1, 1]])
    found = dict(copies(source, starts).named_parameters())
    for name, p in source.named_parameters():
        for s in range(2):
            for i in range(2):
                assert (found[name][s, i] == p[s, starts[s, i]]).all()


def ranks_like(p):
    """Another number for every member."""
    seeds, points = p.shape[:2]
    ranks = np.arange(seeds * points, dtype=np.float32).reshape(seeds, points)
    return p.new_tensor(ranks).reshape(seeds, points, *[1] * (p.dim() - 2))


CONV = Architecture("conv", channels=(2,))
IMAGES = TrainingData.from_arrays(
    gaussian(np.geomspace(4, 0.5, 16), 50, seed=3).target, image=ImageLayout((4, 4, 1))
)


@pytest.mark.parametrize(
    "network",
    [
        CONV,
        replace(CONV, encoder="resnet"),
        Architecture("pixelcnn", channels=(2,), kernels=(3,), pixel_channels=2),
    ],
    ids=["conv", "resnet", "pixelcnn"],
)
def test_memory_of_networks_of_images_is_counted_too(network):
    model = build_model(
        SPEC, IMAGES.target, architecture=network, seeds=SEEDS, n_points=5, image=IMAGES.image
    )
    found = [
        predict_memory(lambda p=points: like(model, 2, p), CONFIG, n_samples=len(IMAGES))
        for points in (2, 5)
    ]
    own = 4 * sum(p.numel() for p in model.parameters())
    for f, share in zip(found, (2 / 5, 1), strict=True):  # and one member as it was drawn, indices
        assert 0 <= f.parameters - share * own < own / 2
    limit = found[0].total - found[0].data
    with pytest.warns(UserWarning, match="in stacks of 2 seeds x 2 points"):
        assert size_that_fits((2, 5), model, IMAGES, CONFIG, limit) == (2, 2)


def test_progress_is_that_of_all_members():
    """Three stacks of 4, 4 and 2 members of 40 steps, told every 20."""
    told = []
    with pytest.warns(UserWarning, match="in stacks of 2 seeds x 2 points"):
        run(limit=needed(2, 2), progress=told.append)
    assert told == [8, 16, 24, 32, 36, 40]


@pytest.mark.parametrize(
    ("values", "size"),
    [
        (10 * 1024, (2, 5)),  # 32 samples x 2 draws x 16 pixels = 1024 of each of 10 members
        (9 * 1024, (2, 3)),  # 4 points fit; of 5 that is 3 and 2
        (5 * 1024, (2, 2)),
        (2 * 1024, (2, 1)),
        (1024, (1, 1)),
        (1, (1, 1)),  # never none
    ],
)
def test_stacks_of_convolutions_on_a_cpu_are_small(values, size, monkeypatch):
    monkeypatch.setattr(parts, "AT_ONCE", values)
    model = build_model(
        SPEC, IMAGES.target, architecture=CONV, seeds=SEEDS, n_points=5, image=IMAGES.image
    )
    assert quick_size((2, 5), model, IMAGES, CONFIG) == size
    assert quick_size((2, 5), whole_stack(), DATA, CONFIG) == (2, 5)  # no image
    flat = build_model(SPEC, IMAGES.target, architecture=NETWORK, seeds=SEEDS, n_points=5)
    assert quick_size((2, 5), flat, IMAGES, CONFIG) == (2, 5)  # an image, and no maps
    large = replace(CONFIG, batch_size=128)  # of 50 samples
    monkeypatch.setattr(parts, "AT_ONCE", 10 * 50 * 2 * 16)
    assert quick_size((2, 5), model, IMAGES, large) == (2, 5)


def test_small_stacks_of_convolutions_hold_the_same_members(monkeypatch):
    def trained():
        return train_cells(
            SPEC, IMAGES, points=POINTS, kl_weight=KINDS["constant"], config=CONFIG,
            architecture=CONV, seeds=SEEDS,
        )  # fmt: skip

    whole = trained()
    monkeypatch.setattr(parts, "AT_ONCE", 5 * 1024)
    divided = trained()
    assert (whole.result.stacks, divided.result.stacks) == (1, 3)
    for one, other in zip(whole.model.parameters(), divided.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
