"""Jobs on a cluster of real `dask` processes on loopback: same numbers, and nothing lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

distributed = pytest.importorskip(
    "distributed", reason="Dask is not installed: pip install linvae[cluster]"
)

from test_jobs import CONFIG, DATA, JOBS, assert_same  # noqa: E402

from linvae import cluster as module  # noqa: E402
from linvae.cluster import (  # noqa: E402
    ClusterError,
    ClusterRunner,
    Shared,
    connect,
    estimate_threshold_on,
    run_jobs,
)
from linvae.metrics import estimate_threshold  # noqa: E402
from linvae.moments import Moments  # noqa: E402
from linvae.spec import VAESpec  # noqa: E402

HERE = Path(__file__).parent
WORKERS = 2


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def _command(*arguments: str) -> Iterator[None]:
    """`dask ...` in a process group of its own, all of which is gone at the end."""
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Two workers of two threads each, as Dask's own commands start them."""
    address = f"tcp://127.0.0.1:{_free_port()}"
    local = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    scratch = ["--local-directory", str(tmp_path_factory.mktemp("dask"))]
    worker = ["--nworkers", str(WORKERS), "--nthreads", "2", *local, *scratch]
    with (
        _command("scheduler", "--port", address.rsplit(":", 1)[1], *local),
        _command("worker", address, *worker),
    ):
        found = connect(address, timeout=60, worker_timeout=60)
        found.wait_for_workers(WORKERS, timeout=60)
        yield found
        found.close()


@pytest.fixture
def workers(client):
    """All workers there, also after a test that killed some."""
    client.wait_for_workers(WORKERS, timeout=60)
    return client


# --- the same numbers --------------------------------------------------------------------------


def test_results_are_those_of_one_process(workers):
    """All jobs at once, in the order in which they were given; data sent once to each worker."""
    jobs = [JOBS["threshold"], JOBS["sweep"], JOBS["hierarchy"]]
    sent, told = [], []
    original = workers.scatter
    workers.scatter = lambda *a, **k: sent.append(k["workers"][0]) or original(*a, **k)
    try:
        runner = ClusterRunner(workers, DATA)
        done = runner.run(jobs, lambda *what: told.append(what))
        again = runner.run([jobs[1]])
    finally:
        del workers.scatter
    for job, found in zip(jobs, done, strict=True):
        assert_same(found.result, job.run(DATA))
        assert found.seconds > 0
    assert_same(again[0].result, done[1].result)
    assert sorted(sent) == sorted(workers.scheduler_info()["workers"])
    sweep = [done for name, done, steps in told if name == "mlp: sweep of beta"]
    assert sweep == [20, 40]


def test_a_bracket_needs_all_seeds_on_one_worker(workers):
    """As `compare --scheduler` asks for by default."""
    job = replace(JOBS["threshold"], bracket=True, config=replace(CONFIG, steps=80))
    told = []
    done = ClusterRunner(workers, DATA).run([job], lambda *what: told.append(what))
    found, expected = done[0].result, job.run(DATA)
    assert_same(replace(found, bracket=None), replace(expected, bracket=None))
    for name in ("lows", "highs"):
        ends = (getattr(result.bracket, name) for result in (found, expected))
        np.testing.assert_allclose(*ends, rtol=1e-3)  # rates of 0.1 nats, float32
    assert told == [("linear: threshold of level 1", 80, 80)]


def test_estimate_threshold_on_a_cluster(workers):
    arguments = {"seeds": (1, 2), "set_points": (0.1, 0.2), "config": CONFIG}
    found = estimate_threshold_on(workers, VAESpec(1), DATA, **arguments)
    assert_same(found, estimate_threshold(VAESpec(1), DATA, **arguments))


def test_moments_out_of_core(workers, tmp_path):
    """Blocks are made and summed in the workers; only sums come here."""
    import dask.array as da

    def block(block_info=None):
        index = block_info[None]["chunk-location"][0]
        (tmp_path / f"{index}-{os.getpid()}").touch()
        return 1e6 + np.random.default_rng(index).normal(size=(50, 4))

    lazy = da.map_blocks(block, chunks=((50,) * 7, (4,)), dtype=float)
    with workers.as_current():
        found = Moments.from_data(lazy[:, 1:], lazy[:, :1])
    pids = {int(path.name.split("-")[1]) for path in tmp_path.iterdir()}
    assert os.getpid() not in pids
    assert len(list(tmp_path.iterdir())) == 7  # every block once
    whole = lazy.compute(scheduler="synchronous")
    expected = Moments.from_data(whole[:, 1:], whole[:, :1])
    # of variances of 1; the data are rounded to 1e-10 before either side sees them
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-15)


# --- one job at a time -------------------------------------------------------------------------


def _interval(job: int, folder: str) -> tuple[int, float, float, int]:
    import torch

    start = time.time()
    time.sleep(0.05)
    return os.getpid(), start, time.time(), torch.get_num_threads()


def test_each_worker_has_one_job_at_a_time_and_its_share_of_the_cores(workers):
    from dask.system import CPU_COUNT

    outcomes = run_jobs(workers, _interval, range(8), Shared(workers, ""))
    intervals = sorted(outcome.result for outcome in outcomes)
    assert {threads for *_, threads in intervals} == {max(1, min(2, CPU_COUNT // WORKERS))}
    assert len({pid for pid, *_ in intervals}) == WORKERS
    for (pid, _, end, _), (next_pid, start, _, _) in pairwise(intervals):
        assert pid != next_pid or start >= end


# --- deaths and errors -------------------------------------------------------------------------

SLOW = 1  # the job that is being run when its worker is killed


def _counted(part: module._Part, shared: tuple[str, tuple]):
    """A part of a sweep that leaves a file for every execution; the slow one waits to be killed."""
    folder, arrays = Path(shared[0]), shared[1]
    seed = part.job.seeds[0]
    earlier = len(list(folder.glob(f"{seed}-*")))
    (folder / f"{seed}-{earlier}-{os.getpid()}").touch()
    if seed == SLOW and not earlier:
        time.sleep(120)
    return module._run_part(part, arrays)


def _executions(folder: Path) -> dict[int, int]:
    return dict(Counter(int(path.name.split("-")[0]) for path in folder.iterdir()))


def _kill_slow(folder: Path) -> None:
    (path,) = folder.glob(f"{SLOW}-*")
    os.kill(int(path.name.split("-")[2]), signal.SIGKILL)


def test_worker_killed_in_the_middle_costs_no_finished_job(workers, tmp_path):
    job = replace(JOBS["hierarchy"], seeds=tuple(range(6)))
    parts = [module._Part(0, part) for part in job.per_seed()]
    arrays = (DATA.target.numpy(), None, None)
    seen = []

    def on_done(outcome):
        seen.append(outcome)
        if len(seen) == 3:
            _kill_slow(tmp_path)

    shared = Shared(workers, (str(tmp_path), arrays))
    outcomes = run_jobs(workers, _counted, parts, shared, on_done=on_done)
    assert _executions(tmp_path) == {seed: 1 + (seed == SLOW) for seed in job.seeds}
    assert [outcome.deaths for outcome in outcomes] == [seed == SLOW for seed in job.seeds]
    assert len(seen) == len(parts)
    merged = module.merge_seeds(job.seeds, [outcome.result for outcome in outcomes])
    assert_same(merged, job.run(DATA))


def _poison(job: str, folder: str) -> str:
    (Path(folder) / f"{job}-{time.time_ns()}").touch()
    if job == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "error":
        raise ZeroDivisionError("of this job")
    return job.upper()


def test_job_that_kills_its_workers_is_given_up_and_the_others_go_on(
    workers, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "TRIES", 2)
    jobs = ["poison", "a", "b", "error", "c"]
    outcomes = run_jobs(workers, _poison, jobs, Shared(workers, str(tmp_path)))
    assert [outcome.job for outcome in outcomes] == jobs
    assert [outcome.result for outcome in outcomes] == [None, "A", "B", None, "C"]
    assert [outcome.deaths for outcome in outcomes] == [2, 0, 0, 0, 0]
    assert isinstance(outcomes[0].error, ClusterError)
    assert "2 workers died while they ran it, the last at tcp://127.0.0.1" in str(outcomes[0].error)
    assert isinstance(outcomes[3].error, ZeroDivisionError)
    found = Counter(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert found == {"poison": 2, "a": 1, "b": 1, "error": 1, "c": 1}


def test_failed_part_is_named_and_the_rest_of_its_job_is_there(monkeypatch):
    job = JOBS["sweep"]

    def here(client, function, parts, shared, on_done):
        """`run_jobs` in this process, with an error in the first part."""
        results = [None, *(part.job.run(DATA) for part in parts[1:])]
        errors = [OSError("disk full"), *[None] * len(parts[1:])]
        outcomes = [
            module.Outcome(part, result, error, "here", 0.5, 0)
            for part, result, error in zip(parts, results, errors, strict=True)
        ]
        for outcome in outcomes:
            on_done(outcome)
        return outcomes

    monkeypatch.setattr(module, "run_jobs", here)
    with pytest.warns(UserWarning, match="mlp: sweep of beta, seed 3, failed: OSError: disk full"):
        (done,) = ClusterRunner(None, DATA).run([job])
    assert np.isnan(done.result.distortion[0]).all()
    np.testing.assert_allclose(done.result.distortion[1], job.run(DATA).distortion[1], rtol=1e-6)
    assert done.seconds == 0.5
    with pytest.warns(UserWarning), pytest.raises(OSError, match="disk full"):
        ClusterRunner(None, DATA).run([replace(job, seeds=(3,))])


def test_without_workers_a_run_gives_up(empty_scheduler):
    with distributed.Client(empty_scheduler, set_as_default=False) as client:
        message = r"no worker is left \(waited 0.1 s\), 0 of 1 jobs are done: start `dask worker`"
        with pytest.raises(ClusterError, match=message):
            run_jobs(client, _poison, ["a"], Shared(client, ""), patience=0.1)


# --- connecting --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_scheduler():
    with distributed.LocalCluster(
        n_workers=0,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize(
    "address",
    ["localhost", "localhost:8786", "http://localhost:8786", "tcp://localhost", "tcp://:1"],
)
def test_malformed_address(address):
    with pytest.raises(ValueError, match=f"scheduler='{address}' must be tcp://HOST:PORT; start"):
        connect(address)


def test_unreachable_scheduler():
    address = f"tcp://127.0.0.1:{_free_port()}"
    with pytest.raises(ClusterError) as error:
        connect(address, timeout=0.5)
    assert str(error.value) == (
        f"no scheduler answers at {address} (waited 0.5 s): start `dask scheduler`, then "
        f"`dask worker {address}` on each machine, or drop --scheduler"
    )


def test_scheduler_without_workers(empty_scheduler):
    message = rf"scheduler {empty_scheduler} has no workers \(waited 0.3 s\): start `dask worker"
    with pytest.raises(ClusterError, match=message):
        connect(empty_scheduler, worker_timeout=0.3)


def test_dask_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"needs Dask: pip install 'linvae\[cluster\]', or drop"):
        connect("tcp://127.0.0.1:8786")


def _other_versions(monkeypatch) -> None:
    original = distributed.Client.get_versions

    def with_another_torch(self, **options):
        found = original(self, **options)
        first = min(found["workers"])
        found["workers"][first]["packages"].update(torch="1.0", linvae=None)
        return found

    monkeypatch.setattr(distributed.Client, "get_versions", with_another_torch)


def test_workers_of_other_versions(workers, monkeypatch):
    _other_versions(monkeypatch)
    with pytest.raises(ClusterError, match=r"tcp://\S+ has torch 1.0 \(here \S+\), linvae missing"):
        connect(workers.scheduler.address)


def test_worker_of_another_version_that_joins_is_left_idle(workers, monkeypatch):
    _other_versions(monkeypatch)
    first = min(workers.scheduler_info()["workers"])
    with pytest.warns(UserWarning, match=f"worker {first} is left idle: it has torch 1.0"):
        outcomes = run_jobs(workers, _interval, range(3), Shared(workers, ""))
    assert first not in {outcome.worker for outcome in outcomes}
