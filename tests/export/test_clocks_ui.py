"""What Perfetto's trace processor makes of clocks, processes and facts: asked in the real UI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import polars as pl
import pytest
from builders.perfetto_ui import PerfettoUi, perfetto_ui
from builders.store import tiny_store

from hvtrace.export.perfetto import write_trace
from hvtrace.store import Store

pytestmark = pytest.mark.slow

MONOTONIC, BOOTTIME, GUEST = 3, 6, 128


@pytest.fixture(scope="module")
def ui() -> Iterator[PerfettoUi]:
    with perfetto_ui() as page:
        yield page


def opened(ui: PerfettoUi, store: Store, path: Path) -> None:
    with open(path, "wb") as out:
        write_trace(store, out)
    ui.open(path)
    assert (
        ui.query("SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0") == []
    )


@pytest.mark.parametrize(
    ("name", "trace_clock", "guests"),
    [
        ("029-timeref-backwards", BOOTTIME, {GUEST}),
        ("029-timeref-backwards--kut-hyperv_clock", BOOTTIME, {GUEST}),
        ("two-vms", BOOTTIME, {GUEST + 1}),
        ("clock-mono", MONOTONIC, set()),
        ("clock-x86-tsc", BOOTTIME, set()),
    ],
)
def test_snapshots_are_understood(
    ui: PerfettoUi,
    recorded: Callable[[str], Store],
    tmp_path: Path,
    name: str,
    trace_clock: int,
    guests: set[int],
) -> None:
    """No errors; trace time is the clock it is; a guest's clock goes on, also where reads of it went back."""
    store = recorded(name)
    opened(ui, store, tmp_path / "t.pftrace")
    first = store.manifest.time["first_ns"]
    rows = ui.query("SELECT ts, clock_id, clock_value FROM clock_snapshot ORDER BY id")
    assert rows[0] == (first, trace_clock, first)
    assert all(ts == value for ts, clock, value in rows if clock == trace_clock)
    assert {clock for _, clock, _ in rows} == {trace_clock} | guests
    monotonic = first if trace_clock == MONOTONIC else None
    assert ui.query(f"SELECT to_monotonic({first})") == [(monotonic,)]
    for guest in guests:
        values = [value for _, clock, value in rows if clock == guest]
        assert values == sorted(values)


@pytest.mark.parametrize(
    ("name", "clock", "table", "field"),
    [
        ("029-timeref-backwards", GUEST, "kvm_msr", "data"),
        ("two-vms", GUEST + 1, "kvm_hv_stimer_start_periodic", "time_now"),
    ],
)
def test_guest_time_is_what_events_carry(
    ui: PerfettoUi,
    recorded: Callable[[str], Store],
    tmp_path: Path,
    name: str,
    clock: int,
    table: str,
    field: str,
) -> None:
    """At each event's stamp guest time is the reference time that the event carries, and its lag: mostly some µs."""
    store = recorded(name)
    opened(ui, store, tmp_path / "t.pftrace")
    snapshots = ui.query(f"SELECT ts, clock_value FROM clock_snapshot WHERE clock_id = {clock} ORDER BY ts")
    rows = store.scan(table)
    if table == "kvm_msr":
        rows = rows.filter((pl.col("ecx") == 0x4000_0020) & (pl.col("write") == 0))
    events = rows.select("ts_ns", field).collect().rows()
    lags = [
        ts + value - at - 100 * carried
        for ts, carried in events
        for at, value in [max((s for s in snapshots if s[0] <= ts), default=(0, None))]
        if value is not None
    ]
    assert len(lags) > 50
    assert min(lags) > -50_000
    assert median(lags) < 50_000


def test_times_can_be_read_as_time_of_day(ui: PerfettoUi, tmp_path: Path) -> None:
    """Where perf noted it: 2 s of its clock after the moment it noted; and a guest that began anew does no harm."""
    second = 1_000_000_000
    store = tiny_store(
        tmp_path / "s.hvt",
        [
            (
                n * second,
                "kvm_hv_stimer_start_one_shot",
                0,
                0,
                {"timer_index": 0, "time_now": now, "count": now},
            )
            for n, now in enumerate([50_000_000, 1_000, 10_001_000], start=6)
        ],
    )
    manifest = store.manifest
    manifest.clock["name"] = "mono"
    noted = {"clock": "mono", "clock ns": str(5 * second), "time of day ns": str(1_700_000_000 * second)}
    manifest.sources = [{"name": "perf.data", "facts": noted}]
    manifest.write(store.path)
    opened(ui, Store(store.path), tmp_path / "t.pftrace")
    assert ui.query(f"SELECT abs_time_str({7 * second}), to_monotonic({7 * second})") == [
        ("2023-11-14T22:13:22.000000000", 7 * second)
    ]
    assert ui.page.evaluate("() => String(app.trace.traceInfo.unixOffset)") == str(
        -(1_700_000_000 - 5) * second
    )
    guests = "SELECT ts, clock_id, clock_value FROM clock_snapshot WHERE clock_id >= 128 ORDER BY ts"
    assert ui.query(guests) == [
        (6 * second, GUEST, 5_000_000_000),
        (7 * second, GUEST + (1 << 16), 100_000),
        (8 * second, GUEST + (1 << 16), 1_000_100_000),
    ]


def test_vms_are_in_the_table_of_processes_and_nowhere_else(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path
) -> None:
    """With their flags and vCPUs; the list of tracks has no second group for them."""
    opened(ui, recorded("two-vms"), tmp_path / "t.pftrace")
    unknown = (4 << 20) + 1
    assert ui.query("SELECT pid, name, cmdline FROM process WHERE pid > 0 ORDER BY pid") == [
        (unknown, "VM 0", "VM 0 -cpu host,hv-passthrough"),
        (unknown + 1, "VM 1", "VM 1 -cpu host,hv-passthrough"),
    ]
    threads = (
        "SELECT t.tid, t.name, p.name FROM thread t JOIN process p USING (upid) WHERE tid BETWEEN 1 AND 1000"
    )
    assert ui.query(threads) == [
        (213, "vCPU 0", "VM 0"),
        (214, "vCPU 0", "VM 1"),
        (215, "vCPU 1", "VM 1"),
    ]
    assert ui.query("SELECT DISTINCT utid FROM thread_track") == []
    collapse = "dev.perfetto.CollapseAllGroups"
    ui.page.wait_for_function("(id) => app.commands.commands.some((c) => c.id === id)", arg=collapse)
    titles = ui.page.locator(".pf-track__title")
    titles.first.wait_for(timeout=120_000)
    ui.command(collapse)
    ui.page.wait_for_timeout(500)
    shown = [text.split("\n")[0] for text in titles.all_inner_texts()]
    assert [name for name in shown if name != "System"] == ["Recording", "VM 0", "VM 1"]


def test_facts_are_in_the_table_of_metadata(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path
) -> None:
    """Which the page "Info and stats" shows; and as arguments of the slice that is the recording."""
    store = recorded("clock-x86-tsc")
    opened(ui, store, tmp_path / "t.pftrace")
    facts = dict(ui.query("SELECT name, coalesce(str_value, int_value) FROM metadata"))
    assert facts["system_release"] == "6.1.0-56-amd64"
    assert facts["cr-recording"] == "trace.dat"
    assert facts["cr-trace clock"] == "x86-tsc"
    assert facts["cr-guest flags"] == "-cpu host,hv-passthrough"
    assert facts["cr-events"] == store.manifest.total
    rows = ui.query(
        "SELECT s.name, s.ts, s.dur, extract_arg(s.arg_set_id, 'debug.kvm_halt_poll_ns') "
        "FROM slice s WHERE s.category = 'source'"
    )
    time = store.manifest.time
    assert rows == [("trace.dat", time["first_ns"], time["duration_ns"], 200_000)]
