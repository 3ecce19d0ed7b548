"""Raw bytes to the explorer's server: hostile headers, foreign sites, endless and slow requests."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("bokeh", reason='pip install "linvae[explore]"')

from bokeh.util.token import generate_jwt_token

from .served import explorer

MARKUP = "<script>owned = 1<∕script><img src=x onerror='owned = 1'>\"'&{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def served():
    with explorer() as (url, _):
        yield urlsplit(url)


def answer(served, request: bytes) -> bytes:
    """The first line of what comes back; empty where the connection is closed without a word."""
    with socket.create_connection((served.hostname, served.port), timeout=30) as connection:
        connection.sendall(request)
        try:
            return connection.makefile("rb").readline()
        except ConnectionResetError:
            return b""


def get(served, *headers: str, path: str = "/", version: str = "1.1") -> bytes:
    lines = [f"GET {path} HTTP/{version}", *headers, "Connection: close", "", ""]
    own = {"OWN": served.netloc, "PORT": str(served.port)}
    text = "\r\n".join(lines)
    for name, value in own.items():
        text = text.replace(name, value)
    return answer(served, text.encode("utf-8"))


def refused(line: bytes) -> bool:
    """An error of the client's, or no word at all."""
    return line == b"" or line.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 431"))


def test_its_own_page_is_answered(served):
    for host in ("OWN", "localhost:PORT", "LOCALHOST:PORT", " OWN "):
        assert get(served, f"Host: {host}").startswith(b"HTTP/1.1 200"), host


HOSTS = {
    # names that resolve, or can be made to resolve, to 127.0.0.1
    **{
        host: (f"Host: {host}",)
        for host in (
            *("evil.example:PORT", "127.0.0.1.nip.io:PORT", "localtest.me:PORT", "0.0.0.0:PORT"),
            *("localhost.evil.example:PORT", "evil.localhost:PORT", "localhost.:PORT"),
            *("127.0.0.1.:PORT", "[::1]:PORT", "[::ffff:127.0.0.1]:PORT", "[127.0.0.1]:PORT"),
            *("127.1:PORT", "127.0.0.2:PORT", "2130706433:PORT", "0x7f.1:PORT", "0177.0.0.1:PORT"),
            *("localhost", "127.0.0.1", "127.0.0.1:", "127.0.0.1:80", "127.0.0.1:0PORT"),
            *("OWN.evil.example", "OWN@evil.example", "evil.example@OWN", "OWN/", "OWN#", "OWN?x"),
            *("http://OWN", "OWN,evil.example", "OWN evil.example", "", " ", "\tx", "*", "OWN\x00"),
            *("\u2113ocalhost:PORT", "127。0。0。1:PORT", "xn--local:PORT", "ＯＷＮ"),
        )
    },
    "absent": (),
    "absent, HTTP/1.0": ("1.0",),
    "own and foreign": ("Host: OWN", "Host: evil.example"),
    "foreign and own": ("Host: evil.example", "Host: OWN"),
    "folded": ("Host: evil.example", " OWN"),
    "line end in the value": ("Host: evil.example\nHost: OWN",),
    "carriage return in the value": ("Host: evil.example\rHost: OWN",),
    "space before the colon": ("Host : OWN",),
    "64 KiB long": (f"Host: {'a' * 65536}",),
    "forwarded": ("Host: evil.example", "X-Forwarded-Host: OWN", "Forwarded: host=OWN"),
}


@pytest.mark.parametrize("path", ["/", "/ws", "/static/js/bokeh.min.js"])
@pytest.mark.parametrize("headers", HOSTS.values(), ids=[repr(name) for name in HOSTS])
def test_another_host_is_refused(served, headers, path):
    version = "1.0" if headers == ("1.0",) else "1.1"
    headers = () if headers == ("1.0",) else headers
    assert refused(get(served, *headers, path=path, version=version))


def test_an_address_in_the_request_line_is_refused(served):
    assert refused(get(served, "Host: evil.example", path="http://OWN/"))
    tunnel = b"CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert answer(served, tunnel).startswith(b"HTTP/1.1 405")


ORIGINS = (
    *(
        "http://evil.example",
        "https://OWN",
        "http://localhost.evil.example:PORT",
        "null",
        "file://",
    ),
    *("http://OWN.evil.example", "http://evil.example@OWN", "http://OWN/", "http://127.0.0.1", ""),
    *("http://[::1]:PORT", "http://127.0.0.2:PORT", "http://localhost.:PORT", "http://OWN,x", "*"),
    *("chrome-extension://abc", "http://OWN evil.example", "ws://OWN", "x" * 10_000),
)
UPGRADE = (
    *("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: bokeh, none"),
    *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Connection: Upgrade"),
)


@pytest.mark.parametrize("origin", ORIGINS, ids=[repr(origin[:40]) for origin in ORIGINS])
def test_another_origin_is_refused(served, origin):
    assert refused(get(served, "Host: OWN", f"Origin: {origin}"))
    assert refused(get(served, "Host: OWN", f"Origin: {origin}", *UPGRADE, path="/ws"))
    both = ("Host: OWN", "Origin: http://OWN", f"Origin: {origin}")
    assert refused(get(served, *both, *UPGRADE, path="/ws"))


@pytest.mark.parametrize(
    "token", ["", generate_jwt_token("invented", signed=False)], ids=["none", "forged"]
)
def test_the_websocket_wants_the_token_of_a_page(token, served):
    """Its own origin, without the token that the page has: closed before anything is said."""
    own = [f"Host: {served.netloc}", f"Origin: http://{served.netloc}"]
    own += [f"Sec-WebSocket-Protocol: bokeh, {token}"] if token else []
    request = "\r\n".join(["GET /ws HTTP/1.1", *own, *UPGRADE, "", ""]).encode()
    with socket.create_connection((served.hostname, served.port), timeout=30) as connection:
        connection.sendall(request)
        stream = connection.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 101")
        while stream.readline().strip():
            pass
        assert stream.read(1) in (b"\x88", b"")  # a frame that closes, or no more at all


PATHS = (
    *("/../../etc/passwd", "/static/../../../../../etc/passwd", "/static//etc/passwd"),
    *("/static/%2e%2e/%2e%2e/server.py", "/static/..%5c..%5cserver.py", "/static/js/..%00"),
    "/static/a%00b",
)


@pytest.mark.parametrize("path", PATHS)
def test_no_file_outside_the_scripts_is_served(served, path):
    assert get(served, "Host: OWN", path=path)[9:12] in (b"403", b"404")


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_nothing_but_reading_is_answered(served, verb):
    request = f"{verb} / HTTP/1.1\r\nHost: {served.netloc}\r\nContent-Length: 0\r\n\r\n"
    assert answer(served, request.encode())[9:12] in (b"403", b"405")


def test_too_large_requests_end_the_connection(served):
    host = f"Host: {served.netloc}\r\n"
    assert refused(answer(served, f"GET / HTTP/1.1\r\n{host}X: {'x' * 2**15}\r\n\r\n".encode()))
    endless = f"POST / HTTP/1.1\r\n{host}Content-Length: {2**30}\r\n\r\n".encode()
    assert refused(answer(served, endless))
    assert get(served, "Host: OWN").startswith(b"HTTP/1.1 200")  # and it is still there


def test_no_other_address_of_the_machine_is_listened_on(served):
    addresses = {"127.0.0.2", "::1", *(entry[4][0] for entry in socket.getaddrinfo(
        socket.gethostname(), None, proto=socket.IPPROTO_TCP))} - {"127.0.0.1"}  # fmt: skip
    for address in addresses:
        with pytest.raises(OSError), socket.create_connection((address, served.port), timeout=5):
            pass


@pytest.fixture(scope="module")
def impatient():
    """The same server with half a second for a request."""
    with explorer(PATIENCE=0.5) as (url, _):
        yield urlsplit(url)


SLOWLY = {
    "nothing": b"",
    "part of the first line": b"GET / HT",
    "part of the headers": b"GET / HTTP/1.1\r\nHost: 127.0",
    "part of the body": b"POST / HTTP/1.1\r\nHost: HERE\r\nContent-Length: 99\r\n\r\nabc",
}


@pytest.mark.parametrize("sent", SLOWLY.values(), ids=SLOWLY)
def test_a_request_that_never_ends_is_ended(impatient, sent):
    where = (impatient.hostname, impatient.port)
    with socket.create_connection(where, timeout=20) as connection:
        connection.sendall(sent.replace(b"HERE", impatient.netloc.encode()))
        while connection.recv(4096):  # an answer, then the end; a time-out of the socket fails
            pass


def test_many_slow_requests_keep_nobody_out(impatient):
    where = (impatient.hostname, impatient.port)
    slow = [socket.create_connection(where, timeout=20) for _ in range(200)]
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
    assert get(impatient, "Host: OWN").startswith(b"HTTP/1.1 200")
    for connection in slow:
        assert connection.recv(4096) == b""
        connection.close()


def test_a_page_that_is_open_outlives_the_limit(impatient, browser_page):
    browser_page.goto(impatient.geturl())
    browser_page.wait_for_selector("html[data-answered]", timeout=20_000)
    time.sleep(1.5)  # three times the limit
    browser_page.evaluate("delete document.documentElement.dataset.answered")
    browser_page.locator("#beta").press("ArrowRight")
    browser_page.wait_for_selector("html[data-answered]", timeout=20_000)


def test_the_name_of_a_data_file_is_text_on_the_page(tmp_path, browser_page):
    np.save(tmp_path / f"{MARKUP}.npy", np.random.default_rng(0).normal(size=(50, 3)))
    with explorer("--data", str(tmp_path / f"{MARKUP}.npy")) as (url, _):
        browser_page.goto(url)
        browser_page.wait_for_selector("html[data-answered]", timeout=20_000)
        assert browser_page.evaluate("typeof owned") == "undefined"
        assert browser_page.locator("img[onerror]").count() == 0
        assert MARKUP in browser_page.locator("body").inner_text()
        browser_page.goto("about:blank")  # before the server ends
