"""What Perfetto's trace processor makes of VMBus: asked in the real UI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.perfetto_ui import PerfettoUi, perfetto_ui
from recordings import get

from hvtrace.export.perfetto import write_trace
from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store

pytestmark = pytest.mark.slow

#: Slices with their track, beneath the VM's group of VMBus.
DRAWN = """
FROM slice s JOIN track t ON s.track_id = t.id
JOIN track bus ON t.parent_id = bus.id JOIN track vm ON bus.parent_id = vm.id
WHERE bus.name = 'VMBus' AND vm.name = 'VM 0'
"""


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PerfettoUi]:
    folder = get("vmbus-balloon-ftrace-2s")
    path: Path = tmp_path_factory.mktemp("vmbus")
    ingest([folder / "trace.dat"], path / "t.hvt")
    with open(path / "t.pftrace", "wb") as out:
        write_trace(Store(path / "t.hvt"), out)
    with perfetto_ui() as page:
        page.open(path / "t.pftrace")
        yield page


def test_the_trace_is_understood(ui: PerfettoUi) -> None:
    """No error, and no slice without an end."""
    stats = "SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0"
    assert ui.query(stats) == []
    assert ui.query(f"SELECT count(*) {DRAWN} AND s.dur < 0") == [(0,)]


def test_tracks(ui: PerfettoUi) -> None:
    """The connection first, then messages, the balloon, the channel and its signals."""
    rows = ui.query(f"SELECT t.name, count(*) {DRAWN} GROUP BY 1 ORDER BY 1")
    assert rows == [
        ("Balloon", 3),
        ("Balloon packets", 2),
        ("Channel 1", 5),
        ("Channel 1 signals", 4),
        ("Connection", 3),
        ("Messages", 12),
    ]


def test_a_life_and_a_conversation(ui: PerfettoUi) -> None:
    """In order of time; answers lie in their requests."""
    assert ui.query(f"SELECT s.name {DRAWN} AND t.name = 'Channel 1' ORDER BY s.ts") == [
        ("offered",), ("sharing pages",), ("pages shared",), ("opening",), ("open",),
    ]  # fmt: skip
    inside = (
        "SELECT request.name, s.name FROM slice s JOIN slice request ON s.parent_id = request.id "
        "WHERE s.category = 'vmbus' ORDER BY s.ts"
    )
    assert ui.query(inside) == [
        ("INITIATE_CONTACT", "VERSION_RESPONSE"),
        ("INITIATE_CONTACT", "VERSION_RESPONSE"),
        ("REQUESTOFFERS", "OFFERCHANNEL"),
        ("REQUESTOFFERS", "ALLOFFERS_DELIVERED (slot busy)"),
        ("REQUESTOFFERS", "ALLOFFERS_DELIVERED"),
        ("GPADL_HEADER", "GPADL_CREATED"),
        ("OPENCHANNEL", "OPENCHANNEL_RESULT"),
    ]


def test_arrows(ui: PerfettoUi) -> None:
    """From hypercalls to messages, from signals to what is read, from notifications to interrupts."""
    flows = """
        SELECT a.name, b.name, count(*) FROM flow f JOIN slice a ON f.slice_out = a.id JOIN slice b ON f.slice_in = b.id
        WHERE a.category = 'vmbus' OR b.category = 'vmbus' GROUP BY 1, 2 ORDER BY 1, 2
    """
    assert ui.query(flows) == [
        ("HvCallPostMessage", "GPADL_HEADER", 1),
        ("HvCallPostMessage", "INITIATE_CONTACT", 2),
        ("HvCallPostMessage", "OPENCHANNEL", 1),
        ("HvCallPostMessage", "REQUESTOFFERS", 1),
        ("HvCallSignalEvent", "SIGNAL_EVENT", 2),
        ("SIGNAL_EVENT", "incoming caps", 1),
        ("SIGNAL_EVENT", "incoming version", 1),
        ("notify", "delivered (vector 0xf3)", 2),
    ]
