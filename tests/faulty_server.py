"""A server of 127.0.0.1 whose answers are raw bytes, so that every part of them can be wrong."""

from __future__ import annotations

import socketserver
import threading
from contextlib import contextmanager


class Handler(socketserver.StreamRequestHandler):
    """Sends `answers[path]`, bytes or parts with pauses between them, then closes."""

    def handle(self):
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(path)
        answer = self.server.answers.get(path, reply(b"nothing here", "404 Not Found"))
        try:
            for part in [answer] if isinstance(answer, bytes) else answer():
                self.wfile.write(part)
        except OSError:  # who asked is gone
            pass


@contextmanager
def serving():
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as found:
        found.answers, found.asked = {}, []
        found.address = f"http://127.0.0.1:{found.server_address[1]}"
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield found
        found.shutdown()


def reply(body: bytes, status: str = "200 OK", length: object = None, **headers: str) -> bytes:
    """A whole answer; `length` instead of that of the body, "" for none."""
    lines = [f"HTTP/1.1 {status}", "Connection: close"]
    lines += [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
    if length != "":
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body
