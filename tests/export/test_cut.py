"""A part of a recording is drawn as it is in the whole, without reading the whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.store import Row, tiny_store
from builders.timeline import Drawn, read_timeline

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which, windows
from hvtrace.export.tracks import PARTS
from hvtrace.store import Store

#: Arguments that count what was raised before the part began.
FROM_BEFORE = {"raised", "waited_ns"}


def drawn(store: Store, which: Which | None = None) -> list[Drawn]:
    """Slices and instants of the VMs."""
    out = io.BytesIO()
    write_trace(store, out, which)
    timeline = read_timeline(out.getvalue())
    return [s for s in timeline.slices + timeline.instants if s.track[0] != "Recording"]


def shape(s: Drawn) -> tuple[Any, ...]:
    return s.track, s.short, sorted((k, v) for k, v in s.arguments.items() if k not in FROM_BEFORE)


@pytest.mark.parametrize("name", ["two-vms", "lossy", "kut-hyperv_synic", "vmbus-balloon-ftrace-2s"])
@pytest.mark.parametrize("part", [(0.3, 0.31), (0.0, 0.4), (0.5, 0.500001), (0.7, 1.0)])
def test_a_part_is_drawn_as_in_the_whole(
    recorded: Callable[[str], Store], name: str, part: tuple[float, float]
) -> None:
    """Every slice that touches the span, whole and with its arguments, and no other."""
    store = recorded(name)
    first, last = store.manifest.time["first_ns"], store.manifest.time["last_ns"]
    assert first is not None
    assert last is not None
    start, end = (first + int((last - first) * share) for share in part)
    which = Which(first_ns=start, last_ns=end)
    whole = [shape(s) for s in drawn(store) if s.end >= start and s.start <= end]
    assert sorted(shape(s) for s in drawn(store, which)) == sorted(whole)


def entry_and_exit(ts: int) -> list[Row]:
    return [
        (ts, "kvm_entry", 0, 0, {"rip": 1}),
        (ts + 5, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x78, "guest_rip": 1, "info1": 0}),
    ]


def test_what_is_open_at_both_ends_is_found(tmp_path: Path) -> None:
    """A halt that began long before the part and ends long after it is drawn with its true ends."""
    rows = [
        *entry_and_exit(1_000),
        *[(2_000 + n, "kvm_set_irq", None, 1, {"gsi": 1, "level": 1}) for n in range(200)],
        *entry_and_exit(9_000),
    ]
    store = tiny_store(tmp_path / "t.hvt", rows)
    assert [s.short for s in drawn(store, Which(first_ns=2_050, last_ns=2_060))] == [(1_005, 9_000, 0, "hlt")]


@pytest.mark.parametrize("window", [1, 3, 100])
def test_a_part_after_the_last_event_has_what_is_unfinished(tmp_path: Path, window: int) -> None:
    """The state in which the recording ends lasts through the part, which has no event of its own."""
    store = tiny_store(tmp_path / "t.hvt", [*entry_and_exit(1_000), *entry_and_exit(2_000)], last_ns=9_000)
    out = io.BytesIO()
    write_trace(store, out, Which(first_ns=3_000), window=window)
    timeline = read_timeline(out.getvalue())
    assert [s.short for s in timeline.slices] == [(2_005, 9_000, 0, "hlt")]
    assert timeline.slices[0].arguments["unfinished"] is True


def test_only_the_part_is_read(recorded: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what lies far before and after the part, a row for each machine is looked up, and no more."""
    monkeypatch.setattr("hvtrace.export.streams.LOOKED_BACK", 100)
    store = recorded("two-vms")
    ts = sorted(store.scan("kvm_exit").collect()["ts_ns"].to_list())
    which = Which(first_ns=ts[len(ts) // 2], last_ns=ts[len(ts) // 2 + 50])
    tables = {"kvm_exit": ("exit_reason",), "kvm_entry": ()}
    read = list(windows(store, tables, which))
    assert [(r.before, r.edge, r.final) for r in read] == [
        (True, True, False),
        (True, False, False),
        (False, False, False),
        (False, True, True),
    ]
    vcpus = sum(len(vm["vcpus"]) for vm in store.manifest.vms)
    assert all(len(rows) <= vcpus for r in read if r.edge for rows in r.tables.values())
    assert len(read[2].tables["kvm_exit"]) == 51


@pytest.mark.parametrize("part", [p for p in PARTS if p != "counters"])
def test_kinds_of_tracks_alone(recorded: Callable[[str], Store], part: str) -> None:
    """--tracks draws these as they are among the others, and nothing else."""
    categories = {
        "states": {"guest", "exit", "userspace", "detail", "halt"},
        "timers": {"stimer"},
        "synic": {"synic", "message"},
        "interrupts": {"interrupt"},
        "sched": {"sched"},
        "divergences": {"divergence"},
        "vmbus": {"vmbus"},
    }
    store = recorded("vmbus-balloon-ftrace-2s" if part == "vmbus" else "kut-hyperv_synic")
    want = [shape(s) for s in drawn(store) if s.category in categories[part]]
    assert sorted(shape(s) for s in drawn(store, Which(parts=frozenset({part})))) == sorted(want)
