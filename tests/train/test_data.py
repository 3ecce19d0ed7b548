"""Centring, the order of the batches, the noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linvae.data import ImageLayout, load_text
from linvae.train import TrainingData, pick_device
from linvae.train.data import BatchOrder, Noise

CPU = torch.device("cpu")


def test_data_are_centred_by_their_means():
    rng = np.random.default_rng(0)
    target = (rng.normal(size=(50, 3)) + np.array([1e4, -2.0, 0.0])).astype(np.float32)
    condition = rng.normal(size=(50, 2)) + 7
    data = TrainingData.from_arrays(target, condition)
    assert data.target.dtype == data.condition.dtype == torch.float32
    # the mean is taken in float64; what is left is float32 rounding of values about 1
    np.testing.assert_allclose(data.target.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data.condition.mean(0), 0, atol=1e-6)
    expected = target - target.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(data.target, expected, rtol=1e-6)


def test_data_stay_as_they_are_where_asked():
    target = np.arange(6.0).reshape(3, 2) + 5
    data = TrainingData.from_arrays(target, centered=False)
    np.testing.assert_array_equal(data.target, target)
    assert data.condition is None
    assert len(data) == 3


def test_take_gives_matching_rows():
    target = np.arange(8.0).reshape(4, 2)
    data = TrainingData.from_arrays(target, 10 * target, centered=False)
    index = torch.tensor([[3, 0], [1, 1]])
    picked, condition = data.take(index)
    assert picked.shape == (2, 2, 2)
    assert torch.equal(condition, 10 * picked)
    np.testing.assert_array_equal(picked[0, 0], target[3])


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (10, 5), (10, 10), (7, 4), (5, 64)])
def test_each_epoch_visits_every_sample_once(n, batch):
    """Whatever the batch size: n consecutive samples of the stream are one permutation."""
    order = BatchOrder(n, batch, seeds=(0, 1))
    size = min(batch, n)
    epochs = 2 * size  # so many epochs end with the end of a batch
    batches = [order.next() for _ in range(epochs * n // size)]
    assert {tuple(b.shape) for b in batches} == {(2, size)}
    stream = torch.cat(batches, dim=1).reshape(2, epochs, n)
    assert torch.equal(stream.sort(-1).values, torch.arange(n).expand(2, epochs, n))
    assert len(torch.unique(stream[0], dim=0)) > 1 or n == 1  # shuffled anew


def test_order_depends_on_the_seed_only():
    alone = BatchOrder(20, 8, seeds=(5,))
    among = BatchOrder(20, 8, seeds=(2, 5, 3))
    for _ in range(9):
        one, many = alone.next(), among.next()
        assert torch.equal(one[0], many[1])
        assert not torch.equal(many[0], many[1])


def test_noise_comes_in_pairs_of_unit_second_moment():
    noise = Noise((3, 2), seeds=(0, 1), device=CPU)
    for batch in (1, 7, 32):
        levels = noise.next(batch)
        assert [level.shape for level in levels] == [(2, 2 * batch, 3), (2, 2 * batch, 2)]
        for level in levels:
            assert torch.equal(level[:, batch:], -level[:, :batch])
            # float32: one division and a mean of at most 64 terms
            square = level.square().mean(1)
            torch.testing.assert_close(square, torch.ones_like(square), rtol=1e-5, atol=0)


def test_noise_is_normal():
    """Fourth moment 3 within 6 standard errors (sqrt(96/n) each), units uncorrelated."""
    draw = Noise((4,), seeds=(0,), device=CPU).next(50_000)[0][0, :50_000].double()
    fourth = draw.pow(4).mean(0)
    assert torch.all((fourth - 3).abs() < 6 * np.sqrt(96 / 50_000))
    correlation = draw.T @ draw / 50_000 - torch.eye(4)
    assert torch.all(correlation.abs() < 6 / np.sqrt(50_000))


def test_noise_depends_on_the_seed_only():
    alone, among = Noise((3, 2), (5,), CPU), Noise((3, 2), (2, 5), CPU)
    for _ in range(3):
        for one, many in zip(alone.next(4), among.next(4), strict=True):
            assert torch.equal(one[0], many[1])
            assert not torch.equal(many[0], many[1])


def test_noise_of_a_seed_is_not_the_draw_of_its_initial_weights():
    """One seed, three purposes, three streams (a CPU generator keeps 32 bits of its seed)."""
    raw = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    noise = Noise((3,), (0,), CPU).next(4)[0][0, :4]
    assert not torch.allclose(noise, raw / raw.square().mean(0).sqrt())


def test_order_of_a_seed_is_not_drawn_from_the_stream_of_its_initial_weights():
    order = BatchOrder(50, 50, seeds=(0,)).next()[0]
    assert not torch.equal(order, torch.randperm(50, generator=torch.Generator().manual_seed(0)))


def test_device_by_name():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda")


def test_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device='foo' cannot be used .* use 'auto' or 'cpu'"):
        pick_device("foo")


def test_layout_of_other_data_is_refused():
    layout = ImageLayout((2, 2, 1))
    assert TrainingData.from_arrays(np.eye(4), image=layout).image is layout
    with pytest.raises(ValueError, match="image places 4 target values but the target has 3"):
        TrainingData.from_arrays(np.eye(3), image=layout)


# --- sequences ----------------------------------------------------------------------------------


def test_sequences_end_where_the_longest_of_the_batch_ends():
    tokens = np.array([[0, 5, 1, -1, -1], [0, 5, 6, 7, 1], [0, 1, -1, -1, -1]])
    data = TrainingData.from_tokens(tokens)
    assert data.lengths.tolist() == [3, 5, 2]
    assert data.sizes.tolist() == [2, 4, 1]
    found, condition = data.take(torch.tensor([[0, 2]]))
    assert found.tolist() == [[[0, 5, 1], [0, 1, -1]]]
    assert condition is None
    assert TrainingData.from_arrays(np.arange(6.0).reshape(3, 2)).sizes is None


def test_left_out_sequences_are_another_choice_every_epoch():
    """Of 5 sequences one is left out, also a long one: each in 1/5 of the epochs."""
    lengths, epochs = torch.tensor([3, 3, 9, 4, 4]), 500
    order, kept = BatchOrder(5, 2, (0,), lengths), np.zeros(5)
    for _ in range(epochs):
        for _ in range(2):
            kept[order.next()[0].numpy()] += 1
    # binomial, 4 standard errors of sqrt(500 * 0.8 * 0.2) = 9
    assert np.all(np.abs(kept - 0.8 * epochs) < 36)


@pytest.mark.parametrize(
    ("name", "file", "at_most"),
    [
        ("yahoo", "text/yahoo/val.txt", 0.014),
        ("short-yelp", "text/short_yelp/short_yelp.train.10000.txt", 0.004),
    ],
)
def test_padding_of_real_sentences_is_little(real_data, name, file, at_most):
    """Batches follow each other in length: at most (batch - 1)(longest - shortest) tokens."""
    lengths = load_text(name, data_dir=real_data(file)).lengths
    order = BatchOrder(len(lengths), 32, (0,), torch.as_tensor(lengths))
    batches = lengths[np.stack([order.next()[0].numpy() for _ in range(len(lengths) // 32)])]
    padding = int((batches.max(1, keepdims=True) - batches).sum())
    bound = 31 * (lengths.max() - lengths.min())
    assert padding <= bound <= at_most * batches.sum()
    unsorted = lengths[np.random.default_rng(0).permutation(len(lengths))[: batches.size]]
    unsorted = unsorted.reshape(-1, 32)
    assert (unsorted.max(1, keepdims=True) - unsorted).sum() > 0.3 * batches.sum()
