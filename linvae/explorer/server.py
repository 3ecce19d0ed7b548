"""A server for one page on the loopback interface that answers its own page only.

Every request, of the page, its scripts and its websocket, must name this server as Host: a foreign
name that was made to resolve to 127.0.0.1 (DNS rebinding) gets 403. So does a request whose Origin
is another page, and one that a browser says another site began (Sec-Fetch-Site), but for a link to
the page. There is no way to bind to another interface. A message that is far longer than any that
the page sends ends its connection, and so does a request that is sent too slowly. So many pages are
open at most: the next visitor gets 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bokeh.document import Document
from bokeh.resources import Resources
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import ErrorHandler, RequestHandler

__all__ = ["Server"]

ADDRESS = "127.0.0.1"
MOST_BYTES = 2**18  # of a message; a state of the controls has less than one of 2**10
PATIENCE = 30.0  # seconds for the whole of a request, and without any until a connection is closed
OPENS = ("", "/", "/autoload.js")  # each begins a session, a page with its curves
MOST_PAGES = 32  # open at once; one that is left is forgotten within half a minute


class _Full(RequestHandler):
    """No page is left."""

    def get(self) -> None:
        """503, and the way out."""
        self.set_status(503)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(
            f"{MOST_PAGES} pages of linvae explore are open: close some, wait half a minute and "
            "load this one again.\n"
        )


class _Guarded(BokehTornado):
    """Bokeh's application behind the checks of who asks, and of how many do."""

    def __init__(self, open_page: Callable[[Document], None], port: int) -> None:
        self.hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")}
        if port == 80:
            self.hosts |= {ADDRESS, "localhost"}  # browsers leave the default port out
        super().__init__(
            {"/": open_page},
            extra_websocket_origins=sorted(self.hosts),
            websocket_max_message_size_bytes=MOST_BYTES,
        )

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """403 for what another site asks, before anything else looks at the request."""
        origins = request.headers.get_list("Origin")
        known = request.headers.get_list("Host") and request.host.lower() in self.hosts
        own = all(origin.lower() in {f"http://{host}" for host in self.hosts} for origin in origins)
        if not (known and own and _is_of_this_site(request)):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        if "%00" in request.path:  # no name of a file: Tornado answers 500
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 404})
        if request.path in OPENS and len(self.get_sessions("/")) >= MOST_PAGES:
            return self.get_handler_delegate(request, _Full)
        return super().find_handler(request, **kwargs)

    def resources(self, absolute_url: str | bool | None = None) -> Resources:
        """The one script that the page needs, of this server, whatever the environment says."""
        return Resources(mode="server", root_url="/", components=["bokeh"])


def _is_of_this_site(request: HTTPServerRequest) -> bool:
    """False where the browser says that another site began it, unless a visitor follows a link."""
    foreign = any(
        site.lower() in ("cross-site", "same-site")  # another port is the same site
        for site in request.headers.get_list("Sec-Fetch-Site")
    )
    mode, destination = (request.headers.get(f"Sec-Fetch-{name}") for name in ("Mode", "Dest"))
    return not foreign or (mode == "navigate" and destination == "document")


class Server:
    """Bound at once, so that `url` is known; `run` serves until it is interrupted.

    Raises ValueError where the port is taken or not allowed.
    """

    def __init__(self, open_page: Callable[[Document], None], port: int = 0) -> None:
        try:
            sockets = bind_sockets(port, address=ADDRESS)
        except OSError as error:
            raise ValueError(
                f"port={port} cannot be served on {ADDRESS}: {error.strerror or error}; leave "
                "--port out, and any free one is taken"
            ) from error
        self.port = sockets[0].getsockname()[1]
        asyncio.set_event_loop(asyncio.new_event_loop())
        application = _Guarded(open_page, self.port)
        http = HTTPServer(
            application, max_body_size=MOST_BYTES, max_header_size=2**14,
            idle_connection_timeout=PATIENCE, body_timeout=PATIENCE,
        )  # fmt: skip
        http.add_sockets(sockets)
        self._server = BaseServer(IOLoop.current(), application, http)

    @property
    def url(self) -> str:
        """The page."""
        return f"http://{ADDRESS}:{self.port}/"

    def run(self) -> None:
        """Serve until KeyboardInterrupt, which is passed on."""
        self._server.start()
        try:
            self._server.io_loop.start()
        finally:
            self._server.stop()
