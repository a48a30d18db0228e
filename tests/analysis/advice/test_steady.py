"""Habits and bursts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.steady import about, accesses, per_slice, slice_ns

PORT = about("port", 0x608)
RATE = 50


def part(stamps: list[int], length_ns: int, *, in_ns: bool = True) -> Facts:
    """The facts of a VM that read a port at these times, 10 ns each."""
    number = len(stamps)
    frame = pl.DataFrame(
        {
            "vm": [0] * number,
            "about": [PORT] * number,
            "ts_ns": sorted(stamps),
            "ns": [10] * number,
            "userspace_ns": [4] * number,
            "seq": list(range(number)),
            "nested": [False] * number,
        },
        schema={
            "vm": pl.UInt16,
            "about": pl.UInt64,
            "ts_ns": pl.Int64,
            "ns": pl.Int64,
            "userspace_ns": pl.Int64,
            "seq": pl.UInt64,
            "nested": pl.Boolean,
        },
    )
    return cast(Facts, SimpleNamespace(handled=frame, length_ns=length_ns, in_ns=in_ns))


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[int], int]:
    """Times of reads, in clusters, in a part of 0.3 to 30 seconds."""
    length = draw(st.integers(300_000_000, 30_000_000_000))
    stamps: list[int] = []
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, length - 1))
        count, gap = draw(st.integers(1, 80)), draw(st.integers(1, 40_000_000))
        stamps += [ts for n in range(count) if (ts := start + n * gap) < length]
    return stamps, length


@given(parts())
def test_as_a_walk_over_the_reads_finds(drawn: tuple[list[int], int]) -> None:
    """Steady where three slices or more have the rate, each slice a tenth of the part, from 0.1 s to 1 s long."""
    stamps, length = drawn
    width = min(max(length // 10, 100_000_000), 1_000_000_000)
    slices: dict[int, int] = {}
    for ts in stamps:
        slices[ts // width] = slices.get(ts // width, 0) + 1
    busy = sum(count >= RATE * width / 1e9 for count in slices.values())
    facts = part(stamps, length)
    seen = accesses(facts, per_slice(facts, {PORT}), 0, {PORT}, RATE)
    assert slice_ns(facts) == width
    assert (seen.count, seen.time_ns, seen.userspace_ns) == (len(stamps), 10 * len(stamps), 4 * len(stamps))
    assert seen.steady == (busy >= 3)
    assert seen.seqs == tuple(sorted({0, len(stamps) - 1})) if stamps else seen.seqs == ()


@given(st.lists(st.integers(0, 399_999_999), max_size=500))
def test_what_lies_within_two_slices_is_no_habit(stamps: list[int]) -> None:
    """A boot's calibration, however dense: 0.4 s of a recording of ten seconds."""
    facts = part([5_000_000_000 + ts for ts in stamps], 10_000_000_000)
    assert not accesses(facts, per_slice(facts, {PORT}), 0, {PORT}, RATE).steady


def test_nothing_is_steady_in_ticks() -> None:
    """Where the clock's frequency is not known, no rate is reached."""
    facts: Any = part([n * 1_000_000 for n in range(5_000)], 5_000_000_000, in_ns=False)
    assert not accesses(facts, per_slice(facts, {PORT}), 0, {PORT}, RATE).steady
