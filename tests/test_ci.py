"""What CI says of the packages it installs: never that they are fine when nobody was asked."""

from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("pip_audit", reason='pip install "linvae[audit]"')

CI = Path(__file__).parent.parent / ".ci"
audit = runpy.run_path(str(CI / "audit.py"))["audit"]
licences = runpy.run_path(str(CI / "licences.py"))
PINS = f"affected==1.0 --hash=sha256:{'0' * 64}\nsound==2.0 --hash=sha256:{'1' * 64}\n"
FINDING = {
    "id": "OSV-1", "modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z",
    "details": "x", "affected": [],
}  # fmt: skip


@contextmanager
def service(findings: dict[str, Any]) -> Iterator[str]:
    """Serve findings by package, as OSV does, on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(findings.get(asked["package"]["name"], {})).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"--osv-url=http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


@pytest.fixture
def pins(tmp_path: Path) -> str:
    (tmp_path / "pins.txt").write_text(PINS)
    return str(tmp_path / "pins.txt")


def test_a_finding_fails_the_audit(pins, capsys):
    with service({"affected": {"vulns": [FINDING]}}) as url:
        assert audit(pins, url, services=["osv"]) == 1
    out = capsys.readouterr().out
    assert "osv: knows 2 of 2 pins" in out
    assert "affected 1.0: OSV-1" in out
    assert "sound" not in out


def test_no_finding_passes_the_audit(pins, capsys):
    with service({}) as url:
        assert audit(pins, url, services=["osv"]) == 0
    assert "audited: no known vulnerability" in capsys.readouterr().out


def test_no_answer_is_not_an_audit(pins, capsys):
    with service({}) as url:
        pass  # closed: the port refuses
    assert audit(pins, url, services=["osv"]) == 0
    out = capsys.readouterr().out
    assert "osv: not reached: " in out
    assert out.endswith("not audited: no service reached\n")


def test_a_service_that_knows_no_pin_is_not_an_audit(capsys, monkeypatch):
    """pip-audit itself then says "No known vulnerabilities found"."""
    answer = {"dependencies": [{"name": "affected", "skip_reason": "not found"}], "fixes": []}
    done = subprocess.CompletedProcess([], 0, json.dumps(answer), "")
    monkeypatch.setitem(audit.__globals__, "_pip_audit", lambda *_: done)
    assert audit("pins.txt", services=["pypi"]) == 0
    out = capsys.readouterr().out
    assert out == "pypi: knows 0 of 1 pins\nnot audited: no service reached\n"


def test_pins_that_cannot_be_read_fail_the_audit(tmp_path, capsys):
    assert audit(str(tmp_path / "none.txt")) == 2
    assert "not audited: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("licence", "answer"),
    [
        ("MIT", True), ("MIT AND PSF-2.0", True), ("(MIT OR Apache-2.0)", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True), ("MIT; BSD License", True),
        ("GPL-3.0-only OR MIT", True), ("MIT AND GPL-3.0-only", False), ("LGPL-2.1", False),
        ("MIT; GNU General Public License v3 (GPLv3)", False), ("UNKNOWN", False), ("", False),
    ],
)  # fmt: skip
def test_licences_that_bind_are_allowed(licence, answer):
    assert licences["allowed"](licence) is answer


def test_a_stale_list_of_licences_is_named():
    installed = {"new": "MIT", "changed": "ISC", "bad": "GPL-3.0-only"}
    listed = {"changed": "MIT", "bad": "GPL-3.0-only", "gone": "MIT", "of-windows": "MIT"}
    pinned = {"new", "changed", "bad", "of-windows"}
    assert licences["faults"](installed, listed, pinned) == [
        "bad: licence 'GPL-3.0-only' is not allowed: see ALLOWED in .ci/licences.py",
        *(
            f"{name}: docs/licences.md is stale: make licences"
            for name in ("new", "changed", "gone")
        ),
    ]
