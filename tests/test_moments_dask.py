"""Moments of dask arrays: those of the same numbers in memory, without the numbers in memory."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from linvae import moments as module
from linvae.moments import Moments

da = pytest.importorskip("dask.array", reason="dask is not installed: pip install linvae[cluster]")

# Both sums are exact to n * 1e-16 of the largest variance, 700 * 1e-16 here: see test_moments.
RELATIVE = 1e-12


def _data(n: int = 700, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(n, 5)) @ rng.normal(size=(5, 5)) + [3.0, -40.0, 0.0, 7.0, 50.0]


DATA = _data()


def assert_same(found: Moments, expected: Moments, relative: float = RELATIVE) -> None:
    atol = relative * np.abs(expected.covariance).max()
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=atol)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13, atol=1e-13)
    assert (found.n_samples, found.condition_dim, found.centered) == (
        expected.n_samples, expected.condition_dim, expected.centered,
    )  # fmt: skip
    np.testing.assert_array_equal(found.covariance, found.covariance.T)


CHUNKS = {
    "one": (700, 5),
    "even": (100, 5),
    "odd number of blocks": (140, 5),
    "ragged": ((1, 350, 0, 2, 347), (5,)),
    "single rows": (1, 5),
    "columns": (100, 2),
    "ragged columns": ((300, 400), (1, 3, 1)),
    "longer than a batch": ((600, 100), (5,)),
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
@pytest.mark.parametrize("centered", [True, False], ids=["centred", "uncentred"])
def test_blocks_equal_the_whole(chunks, centered):
    lazy = da.from_array(DATA, chunks=chunks)
    found = Moments.from_data(lazy, centered=centered)
    assert_same(found, Moments.from_data(DATA, centered=centered))


@pytest.mark.parametrize("lazy_part", ["both", "target", "condition"])
def test_condition_and_target_in_different_chunks(lazy_part):
    x, y = DATA[:, :2], DATA[:, 2:]
    lazy_x = da.from_array(x, chunks=(90, 1)) if lazy_part != "target" else x
    lazy_y = da.from_array(y, chunks=(200, 3)) if lazy_part != "condition" else y
    assert_same(Moments.from_data(lazy_y, lazy_x), Moments.from_data(y, x))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool], ids=str)
def test_any_numeric_type_is_summed_in_double(dtype):
    data = (np.random.default_rng(1).uniform(0, 200, size=(900, 3)) > 60).astype(dtype)
    found = Moments.from_data(da.from_array(data, chunks=(250, 3)))
    np.testing.assert_allclose(
        found.covariance, np.cov(data.T.astype(float), bias=True), rtol=1e-12
    )


def test_far_mean_and_drifting_blocks_keep_their_digits():
    """Against long doubles: variances of 1 about means of 1e8 that drift from block to block.

    The data are rounded to 1e-8 before either side sees them. A single float64 mean per block would
    be off by as much, and the spread of the means with it, by 1e-8.
    """
    data = np.random.default_rng(2).normal(size=(4000, 3))
    data += 1e8 + np.linspace(0, 10, 4000)[:, None]
    exact = data.astype(np.longdouble)
    exact -= exact.mean(axis=0)
    expected = (exact.T @ exact / len(data)).astype(np.float64)
    found = Moments.from_data(da.from_array(data, chunks=(300, 3))).covariance
    np.testing.assert_allclose(found, expected, rtol=0, atol=RELATIVE * expected.max())


def test_blocks_are_let_go():
    """At no time more blocks alive than there are threads at work, and one on its way in each."""
    alive, most, lock = 0, 0, threading.Lock()

    def gone():
        nonlocal alive
        with lock:
            alive -= 1

    def block(block_info=None):
        nonlocal alive, most
        index = block_info[None]["chunk-location"][0]
        values = np.random.default_rng(index).normal(size=(100, 4))
        with lock:
            alive += 1
            most = max(most, alive)
        weakref.finalize(values, gone)
        return values

    lazy = da.map_blocks(block, chunks=((100,) * 40, (4,)), dtype=float)
    import dask

    with dask.config.set(scheduler="threads", num_workers=2):
        assert Moments.from_data(lazy).n_samples == 4000
    assert most <= 4


def test_memory_does_not_grow_with_the_number_of_blocks():
    """One block (a sixth of a matrix), one sum and the parts of the next: measured 3.2 matrices.

    A tree of sums needs one more with every doubling of the blocks: 8 for these.
    """
    import dask

    d, n = 300, 64

    def block(block_info=None):
        index = block_info[None]["chunk-location"][0]
        return np.random.default_rng(index).normal(size=(50, d))

    lazy = da.map_blocks(block, chunks=((50,) * n, (d,)), dtype=float)
    with dask.config.set(scheduler="synchronous"):
        Moments.from_data(lazy[:100])  # imports and caches of the first call
        tracemalloc.start()
        Moments.from_data(lazy)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4.5 * d * d * 8


def _with_nan(row: int, column: int) -> np.ndarray:
    data = DATA.copy()
    data[row, column] = np.nan
    return data


BAD = {
    "nan": (_with_nan(600, 2), "target[:, 2] contains NaN"),
    "huge": (DATA * 1e200, "entries so large that their squares overflow"),
    "constant": (np.full((700, 2), 0.1), "target has zero variance everywhere"),
    "vector": (DATA[:, 0], "target has shape (700,) but must be 2-D"),
    "complex": (DATA.astype(complex), "dtype complex128 but must be numeric"),
    "one row": (DATA[:1], "target has 1 samples but moments need at least 2"),
    "no rows": (DATA[:0], "target has 0 samples but moments need at least 2"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_data_are_refused_as_in_memory(case):
    data, message = case
    for values in (data, da.from_array(data, chunks=100)):
        with pytest.raises(ValueError, match=re.escape(message)):
            Moments.from_data(values)


def test_different_lengths_are_refused():
    lazy = da.from_array(DATA, chunks=100)
    with pytest.raises(ValueError, match="condition has 699 samples but target has 700"):
        Moments.from_data(lazy, lazy[:-1])


@pytest.mark.parametrize("conditional", [False, True])
def test_unknown_lengths_are_refused(conditional):
    lazy = da.from_array(DATA, chunks=100)
    filtered = lazy[lazy[:, 0] > 0]
    with pytest.raises(ValueError, match=r"unknown length.*call its compute_chunk_sizes\(\) first"):
        Moments.from_data(filtered, lazy if conditional else None)
    filtered.compute_chunk_sizes()
    assert_same(Moments.from_data(filtered), Moments.from_data(DATA[DATA[:, 0] > 0]))


def test_columns_in_chunks_that_hold_all_rows_are_refused():
    """Whole rows would be the whole array: 7.5 GiB, of which nothing is computed here."""
    tall = da.zeros((10**6, 1000), chunks=(10**6, 10))
    message = r"1000 columns in 100 chunks of up to 1000000 rows: .* 7.5 GiB \(limit 1\)"
    with pytest.raises(ValueError, match=message):
        Moments.from_data(tall)


def test_limit_is_that_of_whole_rows(monkeypatch):
    lazy = da.from_array(DATA, chunks=(100, 2))
    monkeypatch.setattr(module, "STRIP_BYTES", 100 * 5 * 8)
    assert_same(Moments.from_data(lazy), Moments.from_data(DATA))
    monkeypatch.setattr(module, "STRIP_BYTES", 100 * 5 * 8 - 1)
    with pytest.raises(ValueError, match="store it in chunks of fewer rows and all columns"):
        Moments.from_data(lazy)


def test_dask_is_not_imported_for_arrays_in_memory():
    code = (
        "import sys, numpy; from linvae import Moments; Moments.from_data(numpy.eye(3)); "
        "print('dask' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False"


def test_blocks_whose_means_are_too_far_apart_are_refused():
    """Each block is fine; the square of the distance of their means overflows in the sum."""
    lazy = da.from_array(np.repeat([[1e200], [-1e200]], 10, axis=0), chunks=(10, 1))
    with pytest.raises(ValueError, match="so large that their squares overflow: rescale them"):
        Moments.from_data(lazy)
