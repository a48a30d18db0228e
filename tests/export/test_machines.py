"""Layers that draw what lies between events, on events in any order."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from builders import drawing as d
from builders.expected_timeline import CATEGORIES, compare
from builders.store import Row, tiny_store
from builders.timeline import Drawn, Timeline, read_timeline
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtrace.export.machines import Machines, Source
from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which
from hvtrace.store import Store

IDLE, OTHER = ("swapper/0", 0), ("make", 5)
VCPU, TIMER, SINT = st.integers(0, 1), st.integers(0, 1), st.sampled_from([2, 3])
VECTOR = st.sampled_from([0x30, 0x31, 0xED])
THREAD = st.sampled_from([100, 101, 7])
COUNT = st.sampled_from([0, 5, 10, 2**64 - 1])
#: In which a thread leaves its CPU: it would have run on, sleeps, is dead, is a zombie.
STATE = st.sampled_from([0, 0, 1, 1, 0x10, 0x20])


def _event(tracepoint: str, **fields: Any) -> Callable[..., Row]:
    return lambda vcpu: (0, tracepoint, vcpu, 0, {"tid": 100 + vcpu} | fields)


#: What may happen next; the time stamp is put in later.
EVENTS: list[st.SearchStrategy[Row]] = [
    st.builds(d.entry, st.just(0), VCPU),
    st.builds(d.leave, st.just(0), VCPU),
    st.builds(d.config, st.just(0), st.sampled_from([0, d.MESSAGE, d.DIRECT]), TIMER, VCPU),
    st.builds(d.count, st.just(0), COUNT, TIMER, VCPU),
    st.builds(d.cleanup, st.just(0), TIMER, VCPU),
    st.builds(d.one_shot, st.just(0), COUNT, COUNT, TIMER, VCPU),
    st.builds(d.periodic, st.just(0), COUNT, COUNT, TIMER, VCPU),
    st.builds(d.callback, st.just(0), TIMER, VCPU),
    st.builds(d.expired, st.just(0), st.sampled_from([0, -11, -2]), st.just(0), TIMER, VCPU),
    st.builds(d.accept, st.just(0), VECTOR, VCPU, THREAD),
    st.builds(d.set_irq, st.just(0), SINT, VECTOR, st.integers(0, 1), VCPU, THREAD),
    st.builds(d.acked, st.just(0), SINT, VCPU),
    st.builds(d.inject, st.just(0), VECTOR, VCPU, st.booleans(), st.booleans()),
    st.builds(d.eoi, st.just(0), VECTOR, VCPU),
    st.builds(_event("kvm_apic_ipi", icr_low=0x30), VCPU),
    st.builds(_event("kvm_hv_flush_tlb", processor_mask=3, flags=0), VCPU),
    st.builds(d.switch, st.just(0), st.just(0), st.just(IDLE), st.just(("vcpu", 100)), st.just(0)),
    st.builds(d.switch, st.just(0), st.just(0), st.just(("vcpu", 100)), st.just(OTHER), STATE),
    st.builds(d.wake, st.just(0), st.just(100)),
]
#: A sequence: steps in time and what happens then.
SEQUENCE = st.lists(st.tuples(st.integers(1, 50), st.one_of(EVENTS)), min_size=1, max_size=60)
LOSSES = st.lists(st.tuples(st.integers(900, 2_000), st.integers(1, 100)), max_size=2)
#: How long the recording goes on after the last event; None: the VM ends before.
REST = st.one_of(st.none(), st.integers(0, 200))


def rows_of(sequence: list[tuple[int, Row]]) -> list[Row]:
    """Rows with time stamps. Both vCPUs are there from the beginning."""
    rows, ts = [d.entry(900, 0), d.entry(901, 1)], 1_000
    for step, row in sequence:
        ts += step
        rows.append((ts, *row[1:]))
    return rows


def stored(folder: Path, sequence: list[tuple[int, Row]], rest: int | None, **more: Any) -> Store:
    rows = rows_of(sequence)
    last_seq = len(rows) - 1 if rest is None else None
    last_ns = rows[-1][0] + (200 if rest is None else rest)
    return tiny_store(folder / "t.hvt", rows, last_ns=last_ns, last_seq=last_seq, **more)


def drawn(store: Store, window: int, which: Which | None = None) -> Timeline:
    out = io.BytesIO()
    write_trace(store, out, which, window=window)
    return read_timeline(out.getvalue())


@settings(deadline=None, max_examples=80)
@given(sequence=SEQUENCE, losses=LOSSES, rest=REST, window=st.integers(1, 40))
def test_any_sequence_is_drawn_as_its_rules_say(
    sequence: list[tuple[int, Row]], losses: list[tuple[int, int]], rest: int | None, window: int
) -> None:
    """As a walk over the rows finds; no slices that overlap; no flow of nothing; whatever the size of windows."""
    lost = [{"cpu": 9, "from_ns": start, "to_ns": start + length, "count": 1} for start, length in losses]
    with tempfile.TemporaryDirectory() as folder:
        store = stored(Path(folder), sequence, rest, lost=lost)
        timeline = drawn(store, window)
        compare(store, timeline)
        whole = drawn(store, 1 << 20)
    assert sorted(map(shown, whole.slices)) == sorted(map(shown, timeline.slices))
    assert sorted(map(shown, whole.instants)) == sorted(map(shown, timeline.instants))
    own = [s for s in timeline.slices if s.category in CATEGORIES]
    assert all(s.depth == 0 and s.end >= s.start for s in own)
    assert all(a.end <= b.start for a, b in pairwise(own) if a.track == b.track)
    assert all(timeline.flows().values())


@settings(deadline=None, max_examples=80)
@given(
    sequence=SEQUENCE, rest=REST, window=st.integers(1, 40), span=st.tuples(*[st.integers(900, 2_200)] * 2)
)
def test_any_part_of_any_sequence_is_drawn_as_in_the_whole(
    sequence: list[tuple[int, Row]], rest: int | None, window: int, span: tuple[int, int]
) -> None:
    """Each slice that touches the span, with its true end, "unfinished" only where no event ends it at all."""
    first, last = sorted(span)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("hvtrace.export.streams.LOOKED_BACK", 3)
        store = stored(Path(folder), sequence, rest)
        whole = drawn(store, window)
        part = drawn(store, window, Which(first_ns=first, last_ns=last))
    for ours, all_of_them in ((part.slices, whole.slices), (part.instants, whole.instants)):
        touching = [s for s in all_of_them if s.end >= first and s.start <= last]
        assert sorted(map(part_of, ours)) == sorted(map(part_of, touching))


def part_of(s: Drawn) -> tuple[Any, ...]:
    return s.track, s.short, s.arguments.get("unfinished", False), s.arguments.get("ended_by", "")


def shown(s: Any) -> tuple[Any, ...]:
    return s.track, s.short, sorted(s.arguments.items(), key=str), sorted(s.flows)


@settings(deadline=None, max_examples=40)
@given(sequence=st.lists(st.tuples(st.integers(-3, 3), st.one_of(EVENTS)), min_size=1, max_size=40))
def test_stamps_that_are_equal_or_run_backwards(sequence: list[tuple[int, Row]]) -> None:
    """A damaged recording may have such stamps: no slice is negative, nothing fails."""
    with tempfile.TemporaryDirectory() as folder:
        timeline = drawn(tiny_store(Path(folder) / "t.hvt", rows_of(sequence)), 7)
    assert all(s.end >= s.start for s in timeline.slices)


def _frame(seq: int, name: str, vcpu: int | None, index: int | None) -> dict[str, pl.DataFrame]:
    row = {"seq": seq, "ts_ns": 100 * seq, "vm": 0, "vcpu": vcpu, "index": index, "value": seq * 7}
    return {name: pl.DataFrame([row], schema=dict.fromkeys(row, pl.Int64))}


@pytest.fixture
def machines() -> Machines:
    """Machines of four to a vCPU, with two kinds of events."""
    sources = (
        Source("a", 0, pl.col("index"), {"value": pl.col("value")}),
        Source("b", 1, pl.col("index"), {}),
    )
    return Machines(sources, 2, {"value": pl.Int64()})


def test_the_last_event_of_each_kind_is_remembered(machines: Machines) -> None:
    """With the next events come those of before that count; `new` tells them apart."""
    for seq, name in ((1, "a"), (2, "a"), (3, "b")):
        machines.remember(machines.events(_frame(seq, name, 1, 3)))
    events = machines.events(_frame(4, "a", 1, 3))
    assert events.select("seq", "kind", "value", "new").rows() == [
        (2, 0, 14, False),
        (3, 1, None, False),
        (4, 0, 28, True),
    ]
    assert events["machine"].unique().to_list() == [1 << 2 | 3]


def test_a_window_without_events_forgets_nothing(machines: Machines) -> None:
    """Nor does one that has other machines' events only."""
    machines.remember(machines.events(_frame(1, "a", 1, 3)))
    machines.remember(machines.events({}))
    machines.remember(machines.events(_frame(2, "a", 1, 0)))
    assert machines.events({})["seq"].to_list() == [2, 1]


@pytest.mark.parametrize(("vcpu", "index"), [(None, 0), (0, None), (0, 4), (0, -1)])
def test_what_is_no_machine_is_left_out(machines: Machines, vcpu: int | None, index: int | None) -> None:
    """No vCPU, or an index beyond those there can be."""
    assert not len(machines.events(_frame(1, "a", vcpu, index)))
