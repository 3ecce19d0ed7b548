"""Data that stay on the host: the same batches and the same training, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from linvae.models import build_model
from linvae.spec import CVAESpec
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train
from linvae.train import data as data_module

CPU = torch.device("cpu")


@pytest.fixture
def arrays(tmp_path):
    """1100 rows, so that sums over all of them take three chunks; the target on the disk."""
    rng = np.random.default_rng(0)
    target = np.lib.format.open_memmap(
        tmp_path / "target.npy", mode="w+", dtype=np.float32, shape=(1100, 5)
    )
    target[:] = rng.normal(size=(1100, 5)) + 3
    return np.load(tmp_path / "target.npy", mmap_mode="r"), rng.normal(size=(1100, 2)) - 1


def test_streamed_batches_are_the_resident_ones(arrays):
    resident = TrainingData.from_arrays(*arrays)
    streamed = TrainingData.from_arrays(*arrays, resident=False)
    assert (resident.resident, streamed.resident) == (True, False)
    assert streamed.target.shape == (1100, 5)
    assert len(streamed) == 1100
    index = torch.tensor([[3, 0, 1099], [7, 7, 2]])
    for one, other in zip(resident.take(index), streamed.take(index), strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


def test_memmap_is_not_copied(arrays):
    streamed = TrainingData.from_arrays(*arrays, resident=False)
    assert isinstance(streamed.target.values, np.memmap)
    assert np.shares_memory(streamed.target.values, arrays[0])


def test_training_on_streamed_data_is_the_same(arrays):
    spec, config = CVAESpec(2, decoder_variance=0.5), TrainConfig(steps=20, batch_size=64)
    found = []
    for resident in (True, False):
        data = TrainingData.from_arrays(*arrays, resident=resident)
        model = build_model(spec, data.target, data.condition, architecture="mlp", n_points=2)
        train(model, data, ConstantBetas((0.5, 1.0), spec.betas, CPU), config)
        found.append(model)
    assert found[0].scale == found[1].scale
    for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("free", "resident"), [(61_600, True), (61_599, False)])
def test_auto_is_resident_where_it_takes_at_most_half(arrays, monkeypatch, free, resident):
    """1100 x 7 entries of 4 bytes are 30,800."""
    monkeypatch.setattr(data_module, "free_bytes", lambda device: free)
    assert TrainingData.from_arrays(*arrays, resident="auto").resident is resident


def test_free_memory_of_the_host_is_what_the_kernel_says():
    total = 1024 * int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < data_module.free_bytes(CPU) < total
