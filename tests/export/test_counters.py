"""Counters: exits per second, shares of time, the halt-polling time, per vCPU and per VM."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.store import Row, tiny_store
from builders.timeline import Timeline, read_timeline

from hvtrace.export.perfetto import write_trace
from hvtrace.export.steps import Steps, Sums, step_width
from hvtrace.export.streams import Which

SVM, HLT, MSR = 2, 0x78, 0x7C
MS = 1_000_000


def entry(ms: float, vcpu: int = 0) -> Row:
    return (int(ms * MS), "kvm_entry", vcpu, vcpu, {"rip": 0x1000})


def leave(ms: float, reason: int = MSR, vcpu: int = 0) -> Row:
    return (int(ms * MS), "kvm_exit", vcpu, vcpu, {"isa": SVM, "exit_reason": reason, "info1": 0})


def wakeup(ms: float, halted_ms: float, waited: bool) -> Row:
    fields = {"ns": int(halted_ms * MS), "waited": waited, "valid": True}
    return (int(ms * MS), "kvm_vcpu_wakeup", 0, 0, fields)


def polling(ms: float, old: int, new: int, vcpu: int = 0) -> Row:
    return (int(ms * MS), "kvm_halt_poll_ns", vcpu, 0, {"grow": new > old, "old": old, "new": new})


def drawn(tmp_path: Path, rows: list[Row], which: Which | None = None, **store: Any) -> Timeline:
    out = io.BytesIO()
    write_trace(tiny_store(tmp_path / "t.hvt", rows, **store), out, which)
    return read_timeline(out.getvalue())


def values(timeline: Timeline, *track: str) -> list[tuple[float, float]]:
    """A counter's samples: time stamp in ms, value."""
    return [(ts / MS, round(value, 6)) for ts, value in timeline.counters[track]]


VM, VCPU_0, VCPU_1 = ("VM 0",), ("VM 0", "vCPU 0"), ("VM 0", "vCPU 1")


def test_exits_per_second_of_each_step(tmp_path: Path) -> None:
    """Steps are at least 1 ms wide, and the last one lasts to the recording's end. Only changes are written."""
    rows = [entry(0), leave(0.2), entry(0.3), leave(0.4, HLT), entry(1.5), leave(3.1), entry(3.2), leave(4.5)]
    timeline = drawn(tmp_path, rows)
    assert values(timeline, *VCPU_0, "Exits") == [(0, 2000), (1, 0), (3, 1333.333333), (4.5, 0)]
    assert values(timeline, *VCPU_0, "Exits by reason", "msr") == [
        (0, 1000),
        (1, 0),
        (3, 1333.333333),
        (4.5, 0),
    ]
    assert values(timeline, *VCPU_0, "Exits by reason", "hlt") == [(0, 1000), (1, 0)]
    track = timeline.tracks[*VCPU_0, "Exits"]
    assert (track.counter.unit_name, track.description) == (
        "exits/s",
        "Exits of this vCPU, as far as recorded. Steps of 1 ms.",
    )


def test_steps_of_a_long_recording(tmp_path: Path) -> None:
    """There are at most 2000 of them: a day has steps of 50 s."""
    timeline = drawn(tmp_path, [entry(0), leave(86_400_000)])
    assert timeline.tracks[*VCPU_0, "Guest share"].description.endswith(" Steps of 50 s.")
    assert values(timeline, *VCPU_0, "Guest share") == [(0, 100), (86_400_000, 0)]


def test_reasons_are_in_order_and_to_scale(tmp_path: Path) -> None:
    """The commonest comes first. Perfetto gives counters with one key and one parent the same axis; so have shares."""
    rows = [
        entry(0),
        leave(0.2),
        entry(0.3),
        leave(0.4, HLT),
        wakeup(0.45, 0.01, False),
        entry(0.5),
        leave(1, HLT),
    ]
    timeline = drawn(tmp_path, rows)
    group = (*VCPU_0, "Exits by reason")
    hlt, msr = (timeline.tracks[*group, name] for name in ("hlt", "msr"))
    assert hlt.sibling_order_rank < msr.sibling_order_rank
    assert hlt.counter.y_axis_share_key == msr.counter.y_axis_share_key != ""
    guest, polled = (timeline.tracks[*VCPU_0, f"{what} share"].counter for what in ("Guest", "Polling"))
    assert guest.y_axis_share_key == polled.y_axis_share_key != hlt.counter.y_axis_share_key


def test_guest_share_of_each_step(tmp_path: Path) -> None:
    """Time in guest mode is spread over the steps it lies in, to the nanosecond."""
    rows = [entry(0), leave(0.25), entry(0.75), leave(3.5), entry(4), leave(4)]
    timeline = drawn(tmp_path, rows)
    assert values(timeline, *VCPU_0, "Guest share") == [(0, 50), (1, 100), (3, 50), (4, 0)]
    assert timeline.tracks[*VCPU_0, "Guest share"].counter.unit_name == "%"


def test_a_gap_counts_neither_way(tmp_path: Path) -> None:
    """The share is that of the known time: of the first step half is known. Where nothing is known, 0 is written."""
    rows = [entry(0), leave(0.25), entry(0.5), entry(3), leave(3.5), entry(4)]
    timeline = drawn(tmp_path, rows)
    assert values(timeline, *VCPU_0, "Guest share") == [(0, 50), (1, 0), (3, 50), (4, 0)]


def test_there_is_no_share_before_the_first_known_state(tmp_path: Path) -> None:
    """vCPU 1 is first heard of at 2 ms; for the VM it counts as idle until then."""
    rows = [entry(0), leave(2), entry(2, vcpu=1), entry(2), leave(4), leave(4, vcpu=1)]
    timeline = drawn(tmp_path, rows)
    assert values(timeline, *VCPU_0, "Guest share") == [(0, 100), (4, 0)]
    assert values(timeline, *VCPU_1, "Guest share") == [(2, 100), (4, 0)]
    assert values(timeline, *VM, "Guest share") == [(0, 50), (2, 100), (4, 0)]
    assert values(timeline, *VM, "Exits") == [(0, 0), (2, 1000), (3, 2000), (4, 0)]


def test_time_polling_counts_whether_it_succeeded_or_failed(tmp_path: Path) -> None:
    """The first halt polls 0.5 ms and ends; the second polls 0.2 ms in vain and then sleeps: sleeping counts not."""
    rows = [
        entry(0),
        leave(0.25, HLT),
        wakeup(0.75, 0.5, waited=False),
        entry(1),
        leave(1, HLT),
        polling(1.75, old=200_000, new=0),
        wakeup(1.75, 0.75, waited=True),
        entry(2),
        leave(2),
    ]
    timeline = drawn(tmp_path, rows)
    assert values(timeline, *VCPU_0, "Polling share") == [(0, 50), (1, 20), (2, 0)]
    assert values(timeline, *VM, "Polling share") == [(0, 50), (1, 20), (2, 0)]


def test_the_polling_time_in_force(tmp_path: Path) -> None:
    """From the beginning what the first change changed, then each change when it is told of; the cap plays no role."""
    rows = [entry(0), polling(1.5, old=10_000, new=0), leave(2), polling(2.5, old=0, new=40_000), entry(3)]
    changes = [(0, 10_000), (1.5, 0), (2.5, 40_000)]
    timeline = drawn(tmp_path, rows, polling_cap=20_000)
    assert values(timeline, *VCPU_0, "halt_poll_ns") == changes
    assert timeline.tracks[*VCPU_0, "halt_poll_ns"].counter.unit_name == "ns"


@pytest.mark.parametrize(
    ("first_ms", "last_ms", "expected"),
    [
        (0, 1, [(0, 10_000)]),
        (0.5, 2, [(0.5, 10_000), (1.5, 0)]),
        (1.75, 2, [(1.75, 0)]),
        (2, 3, [(2, 0), (2.5, 40_000)]),
    ],
)
def test_the_polling_time_in_force_in_a_part(
    tmp_path: Path, first_ms: float, last_ms: float, expected: list[tuple[float, float]]
) -> None:
    """A part of the recording begins with the value in force there."""
    rows = [entry(0), polling(1.5, old=10_000, new=0), leave(2), polling(2.5, old=0, new=40_000), entry(3)]
    which = Which(first_ns=int(first_ms * MS), last_ns=int(last_ms * MS))
    assert values(drawn(tmp_path, rows, which), *VCPU_0, "halt_poll_ns") == expected


def test_a_part_counts_what_is_in_it(tmp_path: Path) -> None:
    """Steps begin with the part; of guest time that begins before it and ends after it, what is inside counts."""
    rows = [entry(0), leave(1.5), entry(2.5), leave(4.5), entry(6)]
    timeline = drawn(tmp_path, rows, Which(first_ns=1 * MS, last_ns=3 * MS))
    assert values(timeline, *VCPU_0, "Guest share") == [(1, 50), (3, 0)]
    assert values(timeline, *VCPU_0, "Exits") == [(1, 1000), (2, 0)]


def test_a_part_of_the_vcpus_has_no_totals(tmp_path: Path) -> None:
    """They would be taken for the VM's."""
    rows = [entry(0), entry(0, vcpu=1), leave(2), leave(2, vcpu=1)]
    timeline = drawn(tmp_path, rows, Which(vcpu=1))
    assert set(timeline.counters) == {
        (*VCPU_1, "Exits"),
        (*VCPU_1, "Guest share"),
        (*VCPU_1, "Exits by reason", "msr"),
    }


def test_nothing_is_claimed_without_the_events_that_tell_it(tmp_path: Path) -> None:
    """Without kvm_entry nobody knows of guest time; without kvm_vcpu_wakeup nobody knows of polling."""
    without_entry = drawn(tmp_path / "a", [leave(0), leave(2)])
    assert {track[-1] for track in without_entry.counters} == {"Exits", "msr"}
    without_wakeup = drawn(tmp_path / "b", [entry(0), leave(2)])
    assert "Polling share" not in {track[-1] for track in without_wakeup.counters}


def test_ticks_are_no_nanoseconds(tmp_path: Path) -> None:
    """On a clock that counts ticks rates are per tick, and halts, which are told in ns, have no share of the time."""
    rows = [
        entry(0),
        leave(0.5, HLT),
        polling(0.9, old=10_000, new=0),
        wakeup(1, 0.5, waited=False),
        entry(2),
        leave(2),
    ]
    timeline = drawn(tmp_path, rows, unit="ticks")
    exits = timeline.tracks[*VCPU_0, "Exits"]
    assert exits.counter.unit_name == "exits per 1e9 ticks"
    assert exits.description.endswith("Steps of 1,000,000 ticks.")
    assert values(timeline, *VCPU_0, "Guest share") == [(0, 50), (1, 0)]
    assert timeline.tracks[*VCPU_0, "halt_poll_ns"].counter.unit_name == "ns"
    assert "Polling share" not in {track[-1] for track in timeline.counters}


def test_many_reasons_are_counted_together(tmp_path: Path) -> None:
    """A recording may hold any number as a reason; 63 have counters of their own and nothing is left out."""
    rows: list[Row] = [row for n in range(100) for row in (entry(n), leave(n + 0.5, 0x1000 + n))]
    timeline = drawn(tmp_path, rows)
    reasons = {track: own for track, own in timeline.counters.items() if track[-2] == "Exits by reason"}
    assert len(reasons) == 64
    assert values(timeline, *VCPU_0, "Exits by reason", "other reasons") == [
        (0, 0),
        (63, 1000),
        (98, 1333.333333),
        (99.5, 0),
    ]


@pytest.mark.parametrize(
    ("duration", "most", "width"),
    [
        (0, 2000, MS),
        (2000 * MS, 2000, MS),
        (2000 * MS + 1, 2000, 2 * MS),
        (9_000 * MS, 2000, 5 * MS),
        (10**13, 10, 10**12),
    ],
)
def test_width_of_steps(duration: int, most: int, width: int) -> None:
    """1, 2 or 5 times a power of ten, so that there are no more steps than wanted."""
    assert step_width(duration, most) == width


def test_times_of_any_size_have_a_step() -> None:
    """A damaged recording may reach from the least to the greatest number there is."""
    steps = Steps(-(2**63), 2**63 - 1)
    ts = np.array([-(2**63), 0, 2**63 - 1], np.int64)
    assert steps.of(ts).tolist() == [0, 2**63 // steps.width, len(steps) - 1]
    sums = Sums(steps)
    sums.count(np.zeros(3, np.int64), ts)
    assert sums[0].sum() == 3


def test_time_is_spread_exactly() -> None:
    """Whatever spans of time there are, each step has what lies in it: compared with counting it span by span."""
    random = np.random.default_rng(1)
    steps = Steps(5 * MS, 5 * MS + 12_345_678)
    start = random.integers(0, 20 * MS, 500)
    end = start + random.integers(0, 6 * MS, 500) * random.integers(0, 2, 500)
    keys = random.integers(0, 3, 500)
    sums = Sums(steps)
    for part in np.array_split(np.arange(500), 7):
        sums.spread(keys[part], start[part], end[part])
    for key in range(3):
        own = list(zip(start[keys == key].tolist(), end[keys == key].tolist(), strict=True))
        expected = [
            sum(max(0, min(b, right) - max(a, left)) for a, b in own)
            for left, right in zip(steps.edges[:-1].tolist(), steps.edges[1:].tolist(), strict=True)
        ]
        assert sums[key].tolist() == expected
    assert steps.edges[[0, 1, -2, -1]].tolist() == [5 * MS, 6 * MS, 16 * MS, 17_345_678]
