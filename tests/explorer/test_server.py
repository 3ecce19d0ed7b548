"""The explorer answers its own page only, on 127.0.0.1 only; and its command line."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("bokeh", reason='pip install "linvae[explore]"')

from tornado.websocket import WebSocketClosedError, websocket_connect

from linvae.data import load_dataset
from linvae.explore import main
from linvae.explorer.curves import curves

from .served import explorer

WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "bokeh, none",
}


@pytest.fixture(scope="module")
def served():
    with explorer() as (url, _):
        yield urlsplit(url)


def status(served, path: str, host: str | None = None, **headers: str) -> int:
    """Status of a raw GET; `host` "" sends no Host at all."""
    connection = http.client.HTTPConnection(served.hostname, served.port, timeout=30)
    connection.putrequest("GET", path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or served.netloc)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    found = connection.getresponse().status
    connection.close()
    return found


PATHS = ("/", "/static/js/bokeh.min.js", "/metadata", "/autoload.js?bokeh-autoload-element=1")


@pytest.mark.parametrize("path", PATHS)
def test_own_host_is_answered_and_a_foreign_one_is_not(served, path):
    assert status(served, path) == 200
    assert status(served, path, f"LOCALHOST:{served.port}") == 200
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1:1", "127.0.0.1", ""):
        # HTTP/1.1 without a Host is no request at all: 400
        assert status(served, path, host) == (400 if host == "" else 403), host


@pytest.mark.parametrize("path", ["/", "/ws", "/static/js/bokeh.min.js"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://"])
def test_a_foreign_page_is_refused(served, path, origin):
    headers = WEBSOCKET if path == "/ws" else {}
    assert status(served, path, Origin=origin, **headers) == 403


def test_the_websocket_opens_for_its_own_page_alone(served):
    own = f"http://{served.netloc}"
    # 101 would need the token of a session; what is refused by the guard has 403
    assert status(served, "/ws", Origin=own, **WEBSOCKET) != 403
    assert status(served, "/ws", "evil.example", Origin=own, **WEBSOCKET) == 403
    assert status(served, "/ws", "evil.example", Origin="http://evil.example", **WEBSOCKET) == 403


# site, mode, destination: status
FETCHED = {
    ("none", "navigate", "document"): 200,
    ("same-origin", "no-cors", "script"): 200,
    ("cross-site", "navigate", "document"): 200,  # a link to the page
    ("cross-site", "navigate", "iframe"): 403,
    ("cross-site", "no-cors", "image"): 403,
    ("cross-site", "no-cors", "script"): 403,
    ("same-site", "cors", "empty"): 403,  # another port of this machine
    ("cross-site", None, None): 403,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fetched", FETCHED, ids=str)
def test_what_another_site_fetches_is_refused(served, path, fetched):
    names = ("Sec_Fetch_Site", "Sec_Fetch_Mode", "Sec_Fetch_Dest")
    headers = {name: value for name, value in zip(names, fetched, strict=True) if value}
    assert status(served, path, **headers) == FETCHED[fetched]


def test_so_many_pages_are_open_at_most():
    with explorer(MOST_PAGES=4) as (url, _):  # of 32 the first ones expire on a busy machine
        own = urlsplit(url)
        found = [status(own, "/") for _ in range(5)]
        assert found == [200] * 4 + [503]
        assert status(own, "/autoload.js?bokeh-autoload-element=1") == 503
        assert status(own, "?a") == 503  # a request may begin so: GET ?a HTTP/1.1
        assert status(own, "/static/js/bokeh.min.js") == 200  # of a page that is open
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, timeout=60)
        assert b"4 pages of linvae explore are open: close some" in refused.value.read()


def answered(served, size: int) -> bool:
    """Whether a visitor's websocket answers a message with so many bytes too many."""
    page = urllib.request.urlopen(served.geturl(), timeout=60).read().decode()
    token = re.search(r'"token":"([^"]+)"', page)[1]
    header = json.dumps({"msgid": "1", "msgtype": "SERVER-INFO-REQ", "pad": "x" * size})

    async def ask():
        socket = await websocket_connect(
            f"ws://{served.netloc}/ws", subprotocols=["bokeh", token], connect_timeout=60
        )
        for _ in range(3):  # the welcome, which a page waits for: before it Bokeh reads nothing
            assert await socket.read_message() is not None
        with contextlib.suppress(WebSocketClosedError):
            for part in (header, "{}", "{}"):
                await socket.write_message(part)
        for _ in range(3):  # the answer
            if await socket.read_message() is None:
                socket.close()
                return False
        socket.close()
        while await socket.read_message() is not None:
            pass
        return True

    return asyncio.run(ask())


def test_a_message_that_no_page_sends_ends_the_connection(served):
    assert answered(served, 100)
    assert not answered(served, 2**19)


def test_an_environment_that_allows_every_origin_changes_nothing(monkeypatch):
    monkeypatch.setenv("BOKEH_ALLOW_WS_ORIGIN", "*")
    with explorer() as (url, _):
        assert status(urlsplit(url), "/ws", Origin="http://evil.example", **WEBSOCKET) == 403


def test_other_interfaces_are_not_listened_on(served):
    for address in ("127.0.0.2", "0.0.0.0" if sys.platform == "win32" else "::1"):
        with pytest.raises(OSError):
            socket.create_connection((address, served.port), timeout=5)


def test_control_c_ends_it_in_order():
    with explorer() as (_, process):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")


# of tornado's bind_sockets, where the port is taken
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_port_in_use_is_said(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--no-browser", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"linvae: port={port} cannot be served on 127.0.0.1: Address already in")
    assert "leave --port out, and any free one is taken" in said


# --- command line -------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """What the command would serve: the first state and the source."""
    seen = []
    monkeypatch.setattr("linvae.explorer.server.Server.run", lambda self: None)

    def page(*given):
        seen.extend(given)
        return lambda document: None

    monkeypatch.setattr("linvae.explorer.page.page", page)
    return seen


def test_browser_is_opened_unless_not_wanted(opened, monkeypatch, capsys):
    urls = []
    monkeypatch.setattr("webbrowser.open", urls.append)
    assert main([]) == 0 and main(["--no-browser"]) == 0
    first, second = (line.split()[0] for line in capsys.readouterr().out.splitlines())
    assert urls == [first]
    assert first.startswith("http://127.0.0.1:") and second.startswith("http://127.0.0.1:")


def test_one_array_of_several_in_its_scale(opened, tmp_path):
    values = np.diag([3.0, 1.0, 0.0])
    np.savez(tmp_path / "two.npz", a=values, b=np.ones((3, 2)))
    options = ["--array", "a", "--scale", "2"]
    assert main(["--no-browser", "--data", str(tmp_path / "two.npz"), *options]) == 0
    expected = np.linalg.eigvalsh(np.cov(2 * values, rowvar=False, ddof=0))[::-1]
    assert opened[1].variances == pytest.approx(expected)


def test_sources(opened, tmp_path):
    covariance = np.diag([1.0, 4.0, 3.0])
    covariance[0, 1] = covariance[1, 0] = 1.0
    np.save(tmp_path / "c.npy", covariance)
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=(50, 3)))
    for arguments, model, dims, given in (
        ([], "vae", None, None),
        (["--dataset", "digits", "--model", "hvae"], "hvae", 64, None),
        (["--dataset", "digits", "--model", "cvae"], "cvae", 48, 48),
        (["--data", str(tmp_path / "y.npy")], "vae", 3, None),
        (["--data", str(tmp_path / "y.npy"), "--condition-dim", "1"], "cvae", 2, 2),
        (["--covariance", str(tmp_path / "c.npy"), "--condition-dim", "1"], "cvae", 2, 2),
    ):
        opened.clear()
        assert main(["--no-browser", *arguments]) == 0
        start, source = opened
        assert start.model == model
        assert (source and len(source.variances)) == dims
        assert (source and source.given and len(source.given.variances)) == given
    assert source.variances.tolist() == [4.0, 3.0]
    assert source.given.variances.tolist() == pytest.approx([3.0, 3.0])


def test_what_was_done_to_a_file_is_shown_as_predict_shows_it(opened, tmp_path):
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=(50, 3, 2)))
    own = ["--data", str(tmp_path / "y.npy"), "--scale", "2"]
    assert main(["--no-browser", *own]) == 0
    assert "; target: samples of shape (3, 2), flattened; values multiplied by 2" in opened[1].title
    start, source = opened
    assert curves(start, source).source == source.title
    assert main(["--no-browser", "--dataset", "digits"]) == 0
    assert opened[3].note == load_dataset("digits").note


def test_data_too_wide_are_refused_before_they_are_read(opened, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("linvae.measured._memory", lambda: 10)
    np.save(tmp_path / "y.npy", np.full((9, 3), np.nan))
    assert main(["--no-browser", "--data", str(tmp_path / "y.npy")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("linvae: y.npy has 3 dimensions, whose covariance takes")


BAD = {
    "host": (["--host", "0.0.0.0"], 2, "unknown option --host"),
    "config": (["--config", "run.toml"], 2, "unknown option --config"),  # it writes none
    "port": (["--port", "65536"], 2, "'65536' must be an integer between 0 and 65535"),
    "two": (["--data", "x.npy", "--dataset", "digits"], 2, "are two sources: leave one of them"),
    "idle": (["--condition-dim", "1"], 2, "--condition-dim has no effect without --data or"),
    "idle-array": (["--dataset", "digits", "--array", "a"], 2, "--array has no effect without"),
    "idle-scale": (["--covariance", "c.npy", "--scale", "2"], 2, "no effect without --data: leave"),
    "idle-download": (["--download"], 2, "--download has no effect without --dataset: leave it"),
    "constant": (["--data", "SAME"], 2, "same.npy: target has zero variance everywhere"),
    "two-arrays": (["--data", "TWO"], 2, "holds a, b: name one with array="),
    "idle-split": (["--split", "all"], 2, "--split has no effect without --dataset: leave it out"),
    "missing": (["--covariance", "none.npy"], 3, "covariance='none.npy' does not exist"),
    "damaged": (["--covariance", "BAD"], 2, "is no .npy file of numbers: write it with numpy.save"),
    "no-matrix": (["--covariance", "LINE"], 2, "covariance has shape (3,) but must be square"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_served_is_said(arguments, code, message, opened, tmp_path, capsys):
    (tmp_path / "bad.npy").write_bytes(b"no numbers")
    np.save(tmp_path / "line.npy", np.ones(3))
    np.savez(tmp_path / "two.npz", a=np.ones((3, 2)), b=np.ones((3, 2)))
    np.save(tmp_path / "same.npy", np.ones((9, 3)))
    files = {"SAME": "same.npy", "BAD": "bad.npy", "LINE": "line.npy", "TWO": "two.npz"}
    files = {key: str(tmp_path / name) for key, name in files.items()}
    try:
        found = main(["--no-browser", *(files.get(a, a) for a in arguments)])
    except SystemExit as end:
        found = end.code
    assert found == code
    assert message in capsys.readouterr().err


def test_without_bokeh_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bokeh.server.server", None)
    assert main(["--no-browser"]) == 2
    assert "not installed: pip install 'linvae[explore]'" in capsys.readouterr().err


def test_help_loads_neither_bokeh_nor_numpy():
    code = (
        "import sys, linvae.explore as e\n"
        "try:\n    e.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('bokeh', 'tornado', 'numpy', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert "--host" not in result.stdout
