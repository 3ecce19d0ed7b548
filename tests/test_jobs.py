"""Jobs and the joining of their parts, without a cluster."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from linvae.data import gaussian, load_dataset
from linvae.jobs import LocalRunner, SweepJob, ThresholdJob, merge_seeds
from linvae.metrics import estimate_threshold
from linvae.models import Architecture
from linvae.spec import HVAESpec, VAESpec
from linvae.train import TrainConfig, TrainingData

CONFIG = TrainConfig(steps=40, batch_size=16)
DATA = TrainingData.from_arrays(gaussian([4.0, 1.0, 0.3, 0.1], 60, seed=1).target)
JOBS = {
    "threshold": ThresholdJob(VAESpec(1), Architecture(), (0, 4, 9), CONFIG),
    "mlp threshold": ThresholdJob(VAESpec(1), Architecture("mlp", hidden=8), (0, 4, 9), CONFIG),
    "sweep": SweepJob(VAESpec(2), Architecture("mlp", hidden=8), (3, 0), CONFIG, (0.2, 2.0)),
    "hierarchy": SweepJob(HVAESpec((2, 3)), Architecture(), (3, 0), CONFIG, (0.2, 2.0)),
}


def assert_same(found, expected, relative: float = 1e-6) -> None:
    """Field by field; counts, seeds and flags exactly, seconds not at all.

    1e-6 of the largest entry: the rounding of float32 products that are batched differently. NaN
    (thresholds of runs too short to converge) must be in the same places. A certified factor
    divides a difference of two distortions, of about 1 % of their size in runs as short as these.
    """
    for field in fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        arrays = isinstance(b, np.ndarray) or (
            isinstance(b, tuple) and isinstance(b[0], np.ndarray)
        )
        if not arrays:
            assert a == b or field.name == "seconds", field.name
            continue
        for part, whole in zip(a, b, strict=True) if isinstance(b, tuple) else [(a, b)]:
            assert part.shape == whole.shape
            assert part.dtype == whole.dtype
            atol = relative * np.nanmax(np.abs(whole), initial=1.0)
            atol *= 100 if field.name.startswith("certified") else 1
            np.testing.assert_allclose(part, whole, rtol=0, atol=atol, err_msg=field.name)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS.keys())
def test_parts_of_one_seed_are_the_whole(job):
    parts = [part.run(DATA) for part in job.per_seed()]
    whole = job.run(DATA)
    assert_same(merge_seeds(job.seeds, parts), whole)
    with pytest.raises(AssertionError):
        assert_same(merge_seeds(job.seeds, parts[::-1]), whole)


def test_threshold_job_is_estimate_threshold():
    job = replace(JOBS["threshold"], set_points=(0.1, 0.3), level=1)
    expected = estimate_threshold(
        VAESpec(1), DATA, seeds=(0, 4, 9), set_points=(0.1, 0.3), config=CONFIG
    )
    assert_same(job.run(DATA), expected, relative=0)


def test_local_runner_keeps_the_order_and_tells_its_progress():
    told = []
    done = LocalRunner(DATA).run(
        [JOBS["sweep"], JOBS["threshold"]], lambda *what: told.append(what)
    )
    assert_same(done[0].result, JOBS["sweep"].run(DATA), relative=0)
    assert_same(done[1].result, JOBS["threshold"].run(DATA), relative=0)
    assert told == [("mlp: sweep of beta", 40, 40), ("linear: threshold of level 1", 40, 40)]
    assert all(d.seconds > 0 for d in done)


def test_jobs_are_keys():
    assert replace(JOBS["sweep"]) in set(JOBS.values())
    assert JOBS["sweep"].per_seed()[0] not in set(JOBS.values())


@dataclass(frozen=True)
class Record:
    """Every kind of field that results have."""

    level: int
    seeds: tuple[int, ...]
    values: np.ndarray
    counts: np.ndarray
    per_level: tuple[np.ndarray, ...]
    inner: Inner
    seconds: float


@dataclass(frozen=True)
class Inner:
    values: np.ndarray


def record(seed: int, level: int = 1) -> Record:
    return Record(
        level, (seed,), np.full((1, 2), 1.5 * seed), np.array([seed]),
        (np.full((1, 3), seed + 0.1), np.full((1, 1), seed + 0.2)), Inner(np.array([2.0 * seed])),
        0.25,
    )  # fmt: skip


def test_merge_joins_every_kind_of_field():
    merged = merge_seeds((7, 3), [record(7), record(3)])
    assert (merged.level, merged.seeds, merged.seconds) == (1, (7, 3), 0.5)
    np.testing.assert_array_equal(merged.values, [[10.5, 10.5], [4.5, 4.5]])
    np.testing.assert_array_equal(merged.counts, [7, 3])
    np.testing.assert_array_equal(merged.per_level[0], [[7.1] * 3, [3.1] * 3])
    np.testing.assert_array_equal(merged.per_level[1], [[7.2], [3.2]])
    np.testing.assert_array_equal(merged.inner.values, [14.0, 6.0])


def test_a_lost_seed_is_nan_and_leaves_the_others_alone():
    merged = merge_seeds((7, 3), [ArithmeticError("gone"), record(3)])
    assert merged.seeds == (7, 3)
    np.testing.assert_array_equal(merged.values, [[np.nan, np.nan], [4.5, 4.5]])
    np.testing.assert_array_equal(merged.counts, [0, 3])
    np.testing.assert_array_equal(merged.per_level[1], [[np.nan], [3.2]])
    np.testing.assert_array_equal(merged.inner.values, [np.nan, 6.0])


def test_all_seeds_lost_is_the_first_error():
    with pytest.raises(ArithmeticError, match="seed 7"):
        merge_seeds((7, 3), [ArithmeticError("seed 7"), ValueError("seed 3")])


def test_parts_of_different_jobs_are_refused():
    with pytest.raises(ValueError, match=r"level differs between parts of one job: \[1, 2\]"):
        merge_seeds((7, 3), [record(7), record(3, level=2)])


def test_a_worker_knows_which_pixel_each_coordinate_is():
    """Networks of images run on a cluster too: the layout travels with the arrays."""
    from linvae.cluster import _Part, _run_part

    images = load_dataset("digits").subset(40, seed=0)
    network = Architecture("conv", hidden=4, channels=(2,))
    job = SweepJob(VAESpec(1), network, (0,), TrainConfig(steps=2, batch_size=8))
    found = _run_part(_Part(0, job), (images.target, None, images.image_layout()))
    assert found.distortion.shape == (1, 1)
    with pytest.raises(ValueError, match="needs to know which pixel"):
        _run_part(_Part(0, job), (images.target, None, None))
