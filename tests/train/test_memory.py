"""Memory predicted before the start against that of a process that trains."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "analysis" / "benchmarks" / "memory.py"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("name", ["mlp cvae", "mlp vae, latent reconstruction"])
def test_tensors_in_use_are_counted(name):
    """With the allocator's heap off, resident is in use: to 10 % (threads and libraries: MiBs)."""
    bench = runpy.run_path(str(BENCHMARK))
    measured = bench["_in_a_process"](name, "cpu", {"MALLOC_MMAP_THRESHOLD_": "1048576"})
    predicted = bench["predicted"](name, "cpu")
    assert measured > 150e6  # or the noise of the process would count
    assert predicted.in_use == pytest.approx(measured, rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_total_is_within_a_fifth_as_the_allocator_is_by_default():
    bench = runpy.run_path(str(BENCHMARK))
    name = "784-512-32, 16 members"
    measured = bench["_in_a_process"](name, "cpu", {})
    assert bench["predicted"](name, "cpu").total == pytest.approx(measured, rel=0.2)


def test_parts_of_the_prediction():
    """784-512-32: 2 x (784 x 512 + 512) + ... parameters, two Adam moments, float32 data."""
    bench = runpy.run_path(str(BENCHMARK))
    found = bench["predicted"]("784-512-32, 16 members", "cpu")
    encoder = 784 * 512 + 512 + 512 * 64 + 64
    decoder = 32 * 512 + 512 + 512 * 784 + 784
    unused = 32  # log variances of linear models
    assert found.parameters == found.gradients == 4 * 16 * (encoder + decoder + unused)
    assert 0 <= 2 * found.parameters - found.optimizer < 10_000  # the unused have no moments
    assert found.data == pytest.approx(4 * 2000 * 784, rel=0.01)
