"""Downloads from a server on this machine: verified, atomic, mirror after mirror."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from linvae.data import SOURCES, MissingDataError, load_dataset
from linvae.data import published as published_module
from linvae.data.download import DownloadError, download, fetch
from linvae.data.published import PUBLISHED, PublishedFile, downloadable

GOOD = b"the published bytes" * 100


@pytest.fixture
def server(monkeypatch):
    """Serve `pages` (path -> bytes, or an int status); `cut` paths end in mid-transfer."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            page = self.server.pages.get(self.path, 404)
            if isinstance(page, int):
                self.send_error(page)
                return
            self.send_response(200)
            missing = 50 if self.path in self.server.cut else 0
            self.send_header("Content-Length", str(len(page) + missing))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.pages, http.cut, http.asked = {}, set(), []
        http.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def published(server, *paths: str, content: bytes = GOOD, name: str = "file.gz") -> PublishedFile:
    digest = hashlib.sha256(content).hexdigest()
    return PublishedFile(name, f"sha256:{digest}", tuple(server.address + path for path in paths))


def test_good_file(server, tmp_path, capsys):
    server.pages["/good"] = GOOD
    path = fetch(published(server, "/good"), tmp_path / "new" / "folder")
    assert path.read_bytes() == GOOD
    announced = capsys.readouterr()
    assert f"file.gz: downloading {server.address}/good" in announced.err
    assert "100%" in announced.err  # the progress bar
    assert announced.out == ""


def test_progress_bar_can_be_silenced(server, tmp_path, capsys):
    server.pages["/good"] = GOOD
    fetch(published(server, "/good"), tmp_path, progress=False)
    assert "%" not in capsys.readouterr().err


def test_md5_checksums_work_too(server, tmp_path):
    server.pages["/good"] = GOOD
    file = PublishedFile("x", f"md5:{hashlib.md5(GOOD).hexdigest()}", (f"{server.address}/good",))
    assert fetch(file, tmp_path).read_bytes() == GOOD


def test_second_run_asks_for_nothing(server, tmp_path, capsys):
    server.pages["/good"] = GOOD
    for _ in range(2):
        fetch(published(server, "/good"), tmp_path)
    assert server.asked == ["/good"]
    assert "file.gz: already there, checksum ok" in capsys.readouterr().err


def test_damaged_file_on_disk_is_replaced(server, tmp_path):
    server.pages["/good"] = GOOD
    (tmp_path / "file.gz").write_bytes(GOOD[:-1])
    assert fetch(published(server, "/good"), tmp_path).read_bytes() == GOOD


BAD_PAGES = {"corrupted": b"<html>sorry</html>", "absent": 404, "down": 503}


@pytest.mark.parametrize("page", BAD_PAGES.values(), ids=BAD_PAGES)
def test_next_mirror(server, tmp_path, page):
    server.pages |= {"/bad": page, "/good": GOOD}
    assert fetch(published(server, "/bad", "/good"), tmp_path).read_bytes() == GOOD
    assert server.asked == ["/bad", "/good"]


def test_next_mirror_after_a_broken_transfer(server, tmp_path):
    server.pages |= {"/cut": GOOD[:70], "/good": GOOD}
    server.cut.add("/cut")
    assert fetch(published(server, "/cut", "/good"), tmp_path).read_bytes() == GOOD


def test_next_mirror_where_nobody_answers(server, tmp_path):
    server.pages["/good"] = GOOD
    file = published(server, "/good")
    unreachable = "http://127.0.0.1:1/good"  # port 1 is reserved and not served
    path = fetch(PublishedFile(file.name, file.checksum, (unreachable, *file.urls)), tmp_path)
    assert path.read_bytes() == GOOD


def test_all_mirrors_bad(server, tmp_path):
    server.pages |= {"/bad": b"other bytes", "/cut": GOOD[:70]}
    server.cut.add("/cut")
    file = published(server, "/bad", "/cut", "/absent")
    with pytest.raises(DownloadError) as caught:
        fetch(file, tmp_path)
    message = str(caught.value)
    assert all(url in message for url in file.urls)
    assert file.checksum in message
    assert str(tmp_path) in message
    assert re.search("404", message)
    assert "digits" in message
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]  # nothing half-finished


def test_a_failed_download_keeps_no_file_of_the_final_name(server, tmp_path):
    (tmp_path / "file.gz").write_bytes(b"older, unverified")
    with pytest.raises(DownloadError):
        fetch(published(server, "/absent"), tmp_path)
    # What was there before is the user's; only verified bytes may replace it.
    assert (tmp_path / "file.gz").read_bytes() == b"older, unverified"


@pytest.fixture
def served_mnist(server, tmp_path, write_pair, monkeypatch):
    """Publish a tiny MNIST on the server, under the registry's own name."""
    pixels = write_pair(tmp_path / "published", "train")
    files = []
    for path in sorted((tmp_path / "published").iterdir()):
        server.pages[f"/{path.name}"] = path.read_bytes()
        files.append(published(server, f"/{path.name}", content=path.read_bytes(), name=path.name))
    monkeypatch.setitem(PUBLISHED, "mnist", tuple(files))
    return pixels


def test_load_dataset_downloads_when_asked(server, root, served_mnist):
    with pytest.raises(MissingDataError):
        load_dataset("mnist", data_dir=root)
    assert server.asked == []
    dataset = load_dataset("mnist", data_dir=root, download=True)
    np.testing.assert_allclose(dataset.target * 255, served_mnist.reshape(6, 16), atol=1e-4)
    load_dataset("mnist", data_dir=root, download=True)
    assert len(server.asked) == 2  # two files, once each


def test_download_goes_to_the_first_root(server, root, served_mnist, monkeypatch):
    monkeypatch.setenv("LINVAE_DATA", str(root / "variable"))
    paths = download(SOURCES["mnist"], progress=False)
    assert {path.parent for path in paths} == {root / "variable" / "mnist"}


def test_download_of_restricted_data_says_what_to_place_where(root):
    with pytest.raises(MissingDataError, match=r"(?s)celeba.*no redistribution.*img_align_celeba"):
        download(SOURCES["celeba"], root)


@pytest.mark.parametrize("folder", ["mnist", "fashion_mnist", "omniglot"])
def test_published_table(folder):
    files = downloadable(folder)
    assert len({file.name for file in files}) == len(files)
    for file in files:
        assert len(file.urls) >= 2
        assert all(url.endswith(f"/{file.name}") for url in file.urls)
        assert re.fullmatch("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", file.checksum)


def test_published_checksums_match_the_real_samples(real_data):
    root = real_data("mnist/t10k-images-idx3-ubyte.gz")
    checked = 0
    for folder, files in PUBLISHED.items():
        for file in files:
            path = root / folder / file.name
            if path.is_file() and file.name != "list_attr_celeba.txt":  # the sample is truncated
                algorithm, _, digest = file.checksum.partition(":")
                assert hashlib.new(algorithm, path.read_bytes()).hexdigest() == digest, path
                checked += 1
    assert checked >= 2
    assert published_module.published_checksum(root / "mnist" / "unknown.gz") is None
