"""The same seed gives the same result: in every process, on any number of threads, on the GPU.

A member alone and in a stack: `tests/train/test_loop.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import same_result
import torch

# Sums of 1000 products, or of 300 in LAPACK, in another order: 1000 * 1e-16 of the largest entry.
THEORY = 1e-13
# 6e-8 per product in float32; 60 steps of Adam, which divides by the size of the gradient, may
# multiply it some hundred times (tests/train/test_loop.py). Another seed: 60 steps of 1e-3.
TRAINED = 1e-5

Part = dict[str, np.ndarray]


def result(threads: int) -> dict[str, Part]:
    """In a process of its own, which starts with so many threads of BLAS and torch."""
    script = Path(same_result.__file__)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    environment |= {"PYTHONPATH": str(script.parents[1])}
    found = subprocess.run(
        [sys.executable, str(script), str(threads)],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {
        part: {name: np.array(value) for name, value in values.items()}
        for part, values in json.loads(found.stdout).items()
    }


def largest_error(found: Part, expected: Part) -> float:
    """Relative to the largest entry of every array."""
    return max(
        float(np.abs(found[name] - value).max() / max(np.abs(value).max(), 1e-3))
        for name, value in expected.items()
    )


def test_runs_are_equal_and_threads_change_the_order_of_sums_only():
    """Measured between one and two threads: theory 9e-16, training 0."""
    one, again, two = result(1), result(1), result(2)
    for part, tolerance in (("theory", THEORY), ("training", TRAINED)):
        for name, value in one[part].items():
            np.testing.assert_array_equal(again[part][name], value, err_msg=name)
        assert largest_error(two[part], one[part]) < tolerance


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_trains_to_what_the_cpu_does():
    """The same batches and the same noise, drawn on the host; products in float32 of both."""
    expected = same_result.training()
    assert largest_error(same_result.training("cuda"), expected) < 100 * TRAINED
    other = {name: value[::-1] for name, value in expected.items()}  # the two seeds exchanged
    assert largest_error(other, expected) > 1000 * TRAINED
