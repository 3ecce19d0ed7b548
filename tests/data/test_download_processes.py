"""Several processes download into one folder; some are killed in the middle of it."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import threading

import numpy as np
import pytest

from linvae.data import download as module
from linvae.data.download import fetch
from linvae.data.published import PublishedFile
from tests.faulty_server import reply, serving

GOOD = np.random.default_rng(0).bytes(300_000)
WAIT = 60  # seconds after which a process that should have ended is a failure
# fresh interpreters that have imported the package: a fork would inherit the server's threads
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["linvae.data.download", "pooch", "requests", "filelock"])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as found:
        yield found


def published(server, path: str = "/good", name: str = "file.gz") -> PublishedFile:
    checksum = f"sha256:{hashlib.sha256(GOOD).hexdigest()}"
    return PublishedFile(name, checksum, (server.address + path,))


def started(server, folder, path="/good", name="file.gz"):
    process = processes.Process(
        target=fetch, args=(published(server, path, name), folder), kwargs={"progress": False}
    )
    process.start()
    return process


def ended(process) -> int:
    process.join(WAIT)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode


def test_each_file_is_asked_for_once_by_so_many_processes(server, tmp_path):
    names = ("a.gz", "b.gz")
    server.answers |= {f"/{name}": reply(GOOD) for name in names}
    running = [started(server, tmp_path, f"/{name}", name) for name in names for _ in range(3)]
    assert [ended(process) for process in running] == [0] * 6
    assert sorted(server.asked) == ["/a.gz", "/b.gz"]
    assert all((tmp_path / name).read_bytes() == GOOD for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", *names]


# 16 moments in the transfer, at its first and last bytes too, and 4 between its end and the name
SENT = (0, 1, *np.random.default_rng(1).integers(2, 300_000, 13).tolist(), 299_999)
AFTER = np.random.default_rng(2).uniform(0, 0.004, 4).tolist()


@pytest.mark.parametrize("sent", SENT)
def test_killed_in_the_transfer_the_other_process_finishes(sent, server, tmp_path):
    reached, go = threading.Event(), threading.Event()
    whole = reply(GOOD)

    def stall():
        if reached.is_set():  # asked again
            yield whole
            return
        yield whole[: len(whole) - len(GOOD) + sent]
        reached.set()
        go.wait(WAIT)

    server.answers["/good"] = stall
    first = started(server, tmp_path)
    assert reached.wait(WAIT)
    second = started(server, tmp_path)
    assert not (tmp_path / "file.gz").exists()
    first.kill()
    assert (ended(first), ended(second)) == (-signal.SIGKILL, 0)
    go.set()
    assert (tmp_path / "file.gz").read_bytes() == GOOD
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file.gz"]


@pytest.mark.parametrize("seconds", AFTER)
def test_killed_about_the_end_the_file_is_whole_or_not_there(seconds, server, tmp_path):
    sent = threading.Event()

    def whole():
        yield reply(GOOD)
        sent.set()

    server.answers["/good"] = whole
    process = started(server, tmp_path)
    assert sent.wait(WAIT)
    threading.Event().wait(seconds)
    process.kill()  # it may have ended
    ended(process)
    path = tmp_path / "file.gz"
    assert not path.exists() or path.read_bytes() == GOOD
    assert fetch(published(server), tmp_path, progress=False).read_bytes() == GOOD


def test_who_waits_says_so(server, tmp_path, monkeypatch, capsys):
    reached, go = threading.Event(), threading.Event()

    def stall():
        reached.set()
        go.wait(WAIT)
        yield reply(GOOD)

    server.answers["/good"] = stall
    first = started(server, tmp_path)
    assert reached.wait(WAIT)
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    threading.Timer(0.5, go.set).start()
    assert fetch(published(server), tmp_path, progress=False).read_bytes() == GOOD
    assert ended(first) == 0
    said = capsys.readouterr().err
    assert f"another process downloads to {tmp_path}: waiting for it" in said
    assert server.asked == ["/good"]
