"""Servers that misbehave: what they give is refused in words, and the next try works."""

from __future__ import annotations

import gc
import gzip
import hashlib
import re
import resource
import threading
import time
import warnings
from contextlib import contextmanager

import pytest

from linvae.data import SOURCES, load_dataset
from linvae.data import download as module
from linvae.data.__main__ import main
from linvae.data.download import DownloadError, fetch
from linvae.data.published import PUBLISHED, PublishedFile
from tests.faulty_server import reply, serving

# requests leaves a connection that broke to the garbage collector, whenever that comes
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*<socket:pytest.PytestUnraisableExceptionWarning"),
]
GOOD = b"the published bytes" * 300
DIGEST = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as found:
        found.answers["/good"] = reply(GOOD)
        yield found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def redirected(to: str) -> bytes:
    return reply(b"", "302 Found", Location=to)


HEAD = len(reply(GOOD)) - len(GOOD)
ZIPPED = gzip.compress(GOOD)
# name: what is sent, and what is said of it
REFUSED = {
    **{
        f"cut after {k} bytes of the answer": (
            reply(GOOD)[:k],
            "onnection|BadStatusLine|gave 0 byt",
        )
        for k in (0, 1, 9, 15, HEAD - 2)
    },
    **{
        f"cut after {k} bytes of the body": (reply(GOOD)[: HEAD + k], f"IncompleteRead.{k} bytes")
        for k in (0, 1, 1023, 1024, 1025, len(GOOD) - 1)
    },
    "cut, length unknown": (reply(GOOD[:99], length=""), "it gave 99 bytes with sha256"),
    "length too long": (reply(GOOD, length=len(GOOD) + 1), "1 more expected"),
    "length too short": (reply(GOOD, length=99), "it gave 99 bytes with sha256"),
    "length no number": (reply(GOOD, length="many"), "invalid literal for int.*'many'"),
    "length given twice": (reply(GOOD, Content_Length="7"), "'7, 5700'|unmatching values"),
    "chunk cut": (reply(b"ff\r\nabc", length="", Transfer_Encoding="chunked"), "IncompleteRead"),
    "chunk of no size": (
        reply(b"xyz\r\nabc", length="", Transfer_Encoding="chunked"),
        "InvalidChunkLength",
    ),
    "other bytes, same length": (reply(GOOD[::-1]), f"it gave {len(GOOD)} bytes with sha256"),
    **{
        f"bit {bit} flipped": (reply(flipped(GOOD, bit)), f"it gave {len(GOOD)} bytes with sha256")
        for bit in (0, 8 * len(GOOD) // 2, 8 * len(GOOD) - 1)
    },
    "a page instead of a file": (
        reply(b"<html>sign in</html>", Content_Type="text/html"),
        "it gave 20 bytes with sha256",
    ),
    "empty body": (reply(b""), "it gave 0 bytes with sha256"),
    "no content": (reply(b"", "204 No Content"), "it gave 0 bytes with sha256"),
    "a part": (reply(GOOD[:99], "206 Partial Content"), "it gave 99 bytes with sha256"),
    **{f"status {s}": (reply(GOOD, f"{s} X"), f"{s} .* Error") for s in (403, 404, 410, 500, 503)},
    "compressed on the way, cut": (
        reply(ZIPPED[:-20], Content_Encoding="gzip"),
        "it gave [0-9]+ bytes with sha256",
    ),
    "compressed on the way, no gzip": (reply(GOOD, Content_Encoding="gzip"), "failed to decode it"),
    "redirected for ever": (redirected("/fault"), "Exceeded 30 redirects"),
    "redirected to a file": (redirected("file:///etc/hostname"), "No connection adapters"),
    "redirected to ftp": (redirected("ftp://127.0.0.1/good"), "No connection adapters"),
    "redirected to nobody": (redirected("http://127.0.0.1:1/good"), "refused"),
    "redirected to no address": (redirected("http://[::bad"), "Invalid|Failed to parse"),
    "redirected nowhere": (reply(b"gone", "302 Found"), "it gave 4 bytes with sha256"),
    "a header too long": (reply(GOOD, X="x" * 70_000), "LineTooLong|more than 65536"),
    "too many headers": (reply(GOOD, **{f"X{i}": "" for i in range(200)}), "more than 100 headers"),
    "no HTTP": (b"\x00\xff" * 500 + b"\r\n\r\n", "BadStatusLine|Connection aborted"),
}


def published(server, *paths: str) -> PublishedFile:
    return PublishedFile("file.gz", f"sha256:{DIGEST}", tuple(server.address + p for p in paths))


def refused(server, folder) -> str:
    """What is said where /fault is the only mirror; nothing of it is left."""
    with pytest.raises(DownloadError) as caught:
        fetch(published(server, "/fault"), folder, progress=False)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    return str(caught.value)


@pytest.mark.parametrize(("answer", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_server_does_wrong_is_refused_and_said(answer, words, server, tmp_path):
    server.answers["/fault"] = answer
    said = refused(server, tmp_path)
    named = ("file.gz", f"{server.address}/fault", f"expected sha256:{DIGEST}", str(tmp_path))
    assert all(part in said for part in (*named, "run the command again later"))
    assert re.search(words, said), said
    assert len(server.asked) == (31 if "30 redirects" in words else 1)  # nothing is asked for ever
    # the same address healthy again
    server.answers["/fault"] = reply(GOOD)
    assert fetch(published(server, "/fault"), tmp_path).read_bytes() == GOOD


@pytest.mark.parametrize("answer", [answer for answer, _ in REFUSED.values()], ids=REFUSED)
def test_the_next_mirror_is_taken(answer, server, tmp_path):
    server.answers["/fault"] = answer
    path = fetch(published(server, "/fault", "/good"), tmp_path, progress=False)
    assert path.read_bytes() == GOOD


def test_the_checksum_that_came_is_named(server, tmp_path):
    wrong = flipped(GOOD, 1000)
    server.answers["/fault"] = reply(wrong)
    found = hashlib.sha256(wrong).hexdigest()
    assert f"with sha256 {found}, expected sha256:{DIGEST}" in refused(server, tmp_path)


ACCEPTED = {
    "no length": reply(GOOD, length=""),
    "compressed on the way": reply(ZIPPED, Content_Encoding="gzip"),
    "chunked": reply(
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD), length="", Transfer_Encoding="chunked"
    ),
    "more than was announced": reply(GOOD) + b"and more",
    "redirected": redirected("/good"),
}


@pytest.mark.parametrize("answer", ACCEPTED.values(), ids=ACCEPTED)
def test_what_ends_in_the_published_bytes_is_taken(answer, server, tmp_path):
    server.answers["/odd"] = answer
    assert fetch(published(server, "/odd"), tmp_path, progress=False).read_bytes() == GOOD


def test_another_host_is_believed_for_its_checksum_alone(server, tmp_path):
    with serving() as other:
        server.answers["/fault"] = redirected(other.address + "/good")
        other.answers["/good"] = reply(GOOD[:-1])
        assert f"it gave {len(GOOD) - 1} bytes" in refused(server, tmp_path)
        other.answers["/good"] = reply(GOOD)
        assert fetch(published(server, "/fault"), tmp_path, progress=False).read_bytes() == GOOD


# --- time and size ------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [0, 12, HEAD - 2, HEAD, HEAD + 2000])
def test_a_server_that_falls_silent_is_left(sent, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    silent = threading.Event()

    def stall():
        yield reply(GOOD)[:sent]
        silent.wait(60)

    server.answers["/fault"] = stall
    assert re.search("timed out", refused(server, tmp_path))
    silent.set()


def test_a_server_that_never_ends_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 0.2)

    def drip():  # for five seconds, or what is not left would not end
        yield reply(b"", length="")
        for _ in range(500):
            time.sleep(0.01)
            yield b"x" * 2000

    server.answers["/fault"] = drip
    assert "it takes more than 0.2 seconds" in refused(server, tmp_path)
    monkeypatch.setattr(module, "_LONGEST", 60.0)
    monkeypatch.setattr(module, "_MOST_BYTES", 5000)
    assert "it sends more than 5000 bytes" in refused(server, tmp_path)


def test_every_published_file_fits_the_limit(real_data):
    root = real_data("mnist/t10k-images-idx3-ubyte.gz")
    largest = 26_421_880  # bytes of Fashion-MNIST's training images, the largest that is offered
    assert 4 * largest < module._MOST_BYTES
    assert (root / "mnist" / "t10k-images-idx3-ubyte.gz").stat().st_size < largest


# --- the disk -----------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int):
    """A full disk as a process sees it: writing past `size` bytes of a file is an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [2048, 4096, len(GOOD) - 1])
def test_a_full_disk_is_said_and_keeps_what_was_there(room, server, tmp_path):
    (tmp_path / "file.gz").write_bytes(b"older, unverified")
    (tmp_path / "other.gz").write_bytes(b"of the user")
    with (
        files_of_at_most(room),
        pytest.raises(
            ValueError, match=r"cannot be written \(File too large\): make room"
        ) as caught,
    ):
        fetch(published(server, "/good", "/never-asked"), tmp_path, progress=False)
    assert str(tmp_path) in str(caught.value)
    assert server.asked == ["/good"]  # another mirror makes no room
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file.gz", "other.gz"]
    assert (tmp_path / "file.gz").read_bytes() == b"older, unverified"
    assert (tmp_path / "other.gz").read_bytes() == b"of the user"
    assert fetch(published(server, "/good"), tmp_path, progress=False).read_bytes() == GOOD


def test_a_folder_that_cannot_be_made_is_said(server, tmp_path):
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(ValueError, match=r"data/mnist cannot be written \(Not a directory\)"):
        fetch(published(server, "/good"), tmp_path / "data" / "mnist", progress=False)
    assert server.asked == []


def test_nothing_is_written_through_a_link_that_lies_in_the_way(server, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"of the user")
    folder = tmp_path / "data"
    folder.mkdir()
    for name in (".file.gz.part", "file.gz"):
        (folder / name).symlink_to(victim)
    path = fetch(published(server, "/good"), folder, progress=False)
    assert victim.read_bytes() == b"of the user"
    assert not path.is_symlink() and path.read_bytes() == GOOD


def test_a_downloaded_file_may_be_read_by_whom_the_umask_lets(server, tmp_path):
    before = (tmp_path / "new").touch() or (tmp_path / "new").stat().st_mode
    path = fetch(published(server, "/good"), tmp_path / "data", progress=False)
    assert path.stat().st_mode == before


# --- command line -------------------------------------------------------------------------------


def test_the_command_refuses_with_code_3_and_then_works(server, root, monkeypatch, capsys):
    monkeypatch.setitem(PUBLISHED, "mnist", (published(server, "/fault"),))
    command = ["download", "mnist", "--data-dir", str(root)]
    server.answers["/fault"] = reply(GOOD[:-1])
    assert main(command) == 3
    found = capsys.readouterr()
    assert found.out == ""
    assert "linvae: file.gz could not be downloaded:" in found.err and DIGEST in found.err
    server.answers["/fault"] = reply(GOOD)
    assert main(command) == 0
    with files_of_at_most(9):
        assert main(["download", "mnist", "--data-dir", str(root / "full")]) == 2
    assert "cannot be written (File too large)" in capsys.readouterr().err


def test_a_server_cannot_write_to_the_terminal(server, tmp_path, capsys):
    server.answers["/fault"] = reply(b"", "404 \x1b]0;owned\x07")
    refused(server, tmp_path)
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\x07" not in said
    assert r"404 Client Error: \x1b]0;owned\x07" in said


def test_load_dataset_passes_the_refusal_on(server, root, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "mnist", (published(server, "/fault"),))
    server.answers["/fault"] = reply(b"<html>")
    with pytest.raises(DownloadError, match="it gave 6 bytes"):
        load_dataset("mnist", data_dir=root, download=True)
    assert SOURCES["mnist"].find(root / "mnist") == {}
