"""A comparison on a cluster whose scheduler or workers are killed: told, and gone on with."""

from __future__ import annotations

import shlex
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

distributed = pytest.importorskip(
    "distributed", reason="Dask is not installed: pip install linvae[cluster]"
)

from test_cluster import _command, _free_port  # noqa: E402

import linvae.compare  # noqa: E402
from linvae import cluster  # noqa: E402
from linvae.train.cells import CELL  # noqa: E402

from .test_kills import FULL, members  # noqa: E402

ARGUMENTS = shlex.split(
    "--dataset gaussian --max-samples 60 --latent-dim 1 --seeds 2 --architecture linear "
    "--no-bracket --quiet"
)
LOCAL = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]


class Cluster:
    """A scheduler and two workers, each of which can be killed."""

    def __init__(self, port: int, scratch: Path) -> None:
        self.address = f"tcp://127.0.0.1:{port}"
        worker = ["--nworkers", "2", "--nthreads", "1", "--local-directory", str(scratch), *LOCAL]
        self.scheduler, self.workers = ExitStack(), ExitStack()
        self.scheduler.enter_context(_command("scheduler", "--port", str(port), *LOCAL))
        self.workers.enter_context(_command("worker", self.address, *worker))

    def close(self) -> None:
        """Kill what is left."""
        self.workers.close()
        self.scheduler.close()


def test_scheduler_that_is_gone_is_one_error():
    """Whatever Dask raises, and however long it has waited."""
    options = {"protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    found = distributed.LocalCluster(n_workers=0, processes=False, **options)
    client = distributed.Client(found.scheduler_address, timeout=1, set_as_default=False)
    threading.Timer(0.5, found.close).start()
    words = "the scheduler is gone, 0 of 1 jobs are done: start `dask scheduler` and its workers"
    with pytest.raises(cluster.ClusterError, match=words):
        cluster.run_jobs(client, len, ["a"], cluster.Shared(client, ""))
    client.close()


@pytest.mark.skipif(not FULL, reason="takes minutes: make faults")
@pytest.mark.parametrize(
    ("part", "words"),
    [("scheduler", "the scheduler is gone, "), ("workers", "no worker is left")],
)
def test_comparison_whose_cluster_dies(
    part, words, tmp_path, short_runs, no_drawing, monkeypatch, capfd
):
    """Finished members are kept in --store; given again the command ends with its numbers."""
    connect = cluster.connect
    monkeypatch.setattr(cluster, "connect", lambda address: connect(address, 3.0, 60.0))
    store, port = tmp_path / "members", _free_port()
    found = Cluster(port, tmp_path / "dask")
    command = [*ARGUMENTS, "--scheduler", found.address, "--store", str(store)]
    command += ["--out", str(tmp_path / "out")]
    connect(found.address, 60.0, 60.0).close()

    def kill() -> None:
        while not list(store.glob(f"*{CELL}")):
            time.sleep(0.001)
        getattr(found, part).close()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    start = time.monotonic()
    assert linvae.compare.main(command) == 2
    seconds = time.monotonic() - start
    killer.join()
    found.close()
    said = capfd.readouterr().err
    assert f"linvae: {words}" in said
    assert "repeat the run" in said
    assert not (tmp_path / "out").exists()
    kept = members(store)
    assert kept
    again = Cluster(port, tmp_path / "dask")
    try:
        connect(again.address, 60.0, 60.0).close()
        assert linvae.compare.main(command) == 0
    finally:
        again.close()
    now = members(store)
    assert {name: now[name] for name in kept} == kept
    print(f"\n{part} killed: told after {seconds:.0f} s, {len(kept)} members kept")
    assert linvae.compare.main([*ARGUMENTS, "--out", str(tmp_path / "local")]) == 0
    tables = [linvae.comparison.Comparison.read(tmp_path / name) for name in ("out", "local")]
    one, two = ([(r.quantity, r.seed, r.observed) for r in table.rows] for table in tables)
    for (quantity, seed, value), expected in zip(one, two, strict=True):
        # float32 products that are batched differently, as in test_jobs
        assert (quantity, seed) == expected[:2]
        assert value == pytest.approx(expected[2], rel=1e-4, abs=1e-6, nan_ok=True), quantity
