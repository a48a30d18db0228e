"""Clock snapshots: what trace time is, what time of day it was, what time the guests had."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from builders.store import Row, tiny_store
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from hvtrace.export.clocks import GUEST_CLOCK, host_clocks, reference_times, trace_clock
from hvtrace.export.streams import Which
from hvtrace.store import Manifest, Store

REALTIME, MONOTONIC, MONOTONIC_RAW, BOOTTIME, PERF = 1, 3, 5, 6, 10
S = 1_000_000_000


def snapshots(data: bytes) -> list[dict[int, int]]:
    """Value by clock id, of each snapshot."""
    return [{c.clock_id: c.timestamp for c in p.clock_snapshot.clocks} for p in Trace.FromString(data).packet]


def recorded(clock: str, facts: dict[str, str] | None = None, unit: str = "ns") -> Manifest:
    """A recording that begins at 5 s of `clock`."""
    sources = [{"name": "a", "facts": {}}, {"name": "b", "facts": facts or {}}]
    return Manifest(clock={"name": clock, "unit": unit}, time={"first_ns": 5 * S}, sources=sources)


@pytest.mark.parametrize(
    ("clock", "named"),
    [
        ("mono", MONOTONIC),
        ("mono_raw", MONOTONIC_RAW),
        ("boot", BOOTTIME),
        ("realtime", REALTIME),
        ("perf", PERF),
        # Perfetto's default: it has no name for the scheduler's clock, TAI, and a TSC made ns.
        ("local", BOOTTIME),
        ("global", BOOTTIME),
        ("tai", BOOTTIME),
        ("x86-tsc", BOOTTIME),
    ],
)
def test_trace_time_is_called_what_it_is(clock: str, named: int) -> None:
    """The first snapshot names trace time, and says of no other clock that it is equal."""
    manifest = recorded(clock)
    assert trace_clock(manifest) == named
    data = host_clocks(manifest)
    assert snapshots(data) == [{named: 5 * S}]
    assert Trace.FromString(data).packet[0].clock_snapshot.primary_trace_clock == named


def test_time_of_day_is_told_where_a_recording_has_it() -> None:
    """perf notes its clock and the time of day at one moment."""
    facts = {"clock": "mono", "clock ns": str(4 * S), "time of day ns": str(1_700_000_000 * S)}
    data = host_clocks(recorded("mono", facts))
    assert snapshots(data) == [{MONOTONIC: 4 * S, REALTIME: 1_700_000_000 * S}]
    assert Trace.FromString(data).packet[0].clock_snapshot.primary_trace_clock == MONOTONIC


@pytest.mark.parametrize(
    "facts",
    [
        {"clock": "boot", "clock ns": "4", "time of day ns": "5"},
        {"clock": "mono", "clock ns": "-4", "time of day ns": "5"},
        {"clock": "mono", "clock ns": "4", "time of day ns": "9223372036854775808"},
        {"clock": "mono", "clock ns": "٤", "time of day ns": "5"},
        {"clock": "mono", "clock ns": "4"},
    ],
)
def test_time_of_day_of_another_clock_or_beyond_all_times_is_none(facts: dict[str, str]) -> None:
    """Nothing is claimed then."""
    assert snapshots(host_clocks(recorded("mono", facts))) == [{MONOTONIC: 5 * S}]


def test_stamps_that_trace_cmd_made_time_of_day_are_time_of_day() -> None:
    """`trace-cmd record --date`."""
    manifest = recorded("local", {"date offset ns": str(1_700_000_000 * S)})
    assert snapshots(host_clocks(manifest)) == [{REALTIME: 5 * S}]


def test_of_ticks_nothing_is_said(tmp_path: Path) -> None:
    """No snapshot, neither of the host's clock nor of a guest's."""
    rows = [armed(10, 7)]
    assert host_clocks(recorded("counter", unit="ticks")) == b""
    assert list(reference_times(tiny_store(tmp_path / "s.hvt", rows, unit="ticks"), Which())) == []


def armed(ts: int, now: int, vcpu: int = 0) -> Row:
    """A timer is armed; KVM says what reference time it is (100 ns)."""
    return (
        ts,
        "kvm_hv_stimer_start_one_shot",
        vcpu,
        0,
        {"timer_index": 0, "time_now": now, "count": now + 9},
    )


def read(ts: int, data: int, **fields: Any) -> Row:
    """The guest reads HV_X64_MSR_TIME_REF_COUNT."""
    fields = {"write": 0, "ecx": 0x4000_0020, "data": data, "exception": 0} | fields
    return (ts, "kvm_msr", 1, 1, fields)


def guest(tmp_path: Path, rows: list[Row], which: Which | None = None) -> list[tuple[int, int, int]]:
    """(Trace time, clock id, reference time in 100 ns) of each snapshot of a recording with these events."""
    store = tiny_store(tmp_path / "s.hvt", sorted(rows, key=lambda row: row[0]))
    found = snapshots(b"".join(reference_times(store, which or Which())))
    assert all(BOOTTIME in clocks and len(clocks) == 2 for clocks in found)
    return [(clocks.pop(BOOTTIME), *clocks.popitem()) for clocks in found]


def test_of_each_stretch_the_sample_is_taken_that_lags_least(tmp_path: Path) -> None:
    """Reference time is 1,000 units (100 µs) at trace time 0: stamps lag by 3, 9 and 1 µs, then by 7 µs."""
    rows = [armed(3_000, 1_000), read(50_009_000, 501_000), armed(90_001_000, 901_000, vcpu=1)]
    rows += [armed(150_007_000, 1_501_000)]
    assert guest(tmp_path, rows) == [(90_001_000, 128, 901_000), (150_007_000, 128, 1_501_000)]


def test_only_successful_reads_of_reference_time_count(tmp_path: Path) -> None:
    """Not writes, not other registers, not reads that failed, nor what is no time."""
    rows = [read(0, 1, write=1), read(1, 1, ecx=0x4000_0021), read(2, 1, exception=1)]
    rows += [read(3, 1 << 63), read(4, (1 << 64) - 1), armed(5, 0, vcpu=0)]
    assert guest(tmp_path, rows) == [(5, 128, 0)]


def at(tenths: int, units: int) -> Row:
    """A sample in the stretch that begins so many tenths of a second after the start."""
    return armed(tenths * S // 10, units)


def test_a_sample_that_is_behind_is_left_out(tmp_path: Path) -> None:
    """It was stamped late: the next one goes on from the one before it."""
    rows = [at(0, 5_000_000), at(1, 4_000_000), at(2, 7_000_000)]
    assert guest(tmp_path, rows) == [(0, 128, 5_000_000), (2 * S // 10, 128, 7_000_000)]


def test_reference_time_that_begins_anew_is_a_new_clock(tmp_path: Path) -> None:
    """After a reset values stay behind: from then on they are another clock's, whose id is 65536 higher."""
    rows = [at(0, 5_000_000), at(1, 100), at(2, 1_000_100), at(3, 2_000_100), at(4, 7), at(5, 1_000_007)]
    assert [clock for _, clock, _ in guest(tmp_path, rows)] == [
        GUEST_CLOCK,
        *[GUEST_CLOCK + (1 << 16)] * 3,
        *[GUEST_CLOCK + (2 << 16)] * 2,
    ]


def test_each_vm_has_its_clock_and_the_part_wanted_is_all_there_is(tmp_path: Path) -> None:
    """Within --from and --to, of the VM of --vm."""
    rows = [at(0, 5), at(10, 10_000_005), at(20, 20_000_005)]
    middle = Which(first_ns=S // 2, last_ns=3 * S // 2)
    assert guest(tmp_path / "a", rows, middle) == [(S, 128, 10_000_005)]
    assert guest(tmp_path / "b", rows, Which(vm=1)) == []


def test_a_long_recording_has_no_more_snapshots_than_a_short_one(tmp_path: Path) -> None:
    """Twenty samples a second for an hour: five thousand snapshots, evenly apart."""
    store: Store = tiny_store(tmp_path / "s.hvt", [armed(n * S // 20, n * 500_000) for n in range(20 * 3600)])
    stamps = [clocks[BOOTTIME] for clocks in snapshots(b"".join(reference_times(store, Which())))]
    assert len(stamps) == 5000
    assert max(b - a for a, b in pairwise(stamps)) <= 2 * 3600 * S // 5000
