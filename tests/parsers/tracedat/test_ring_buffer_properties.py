"""Whatever the kernel can write into a ring buffer is read back: every payload, every stamp, every loss.

Pages are built from values and decoded; what must come out is computed here the plain way, one event after
the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from builders.event_format import event_format
from builders.ring_buffer import Absolute, Data, Discarded, Event, Extend, Page, Rest, pages
from builders.trace_dat import Buffer, TraceDat
from builders.tracing_data import TracingData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtrace.parsers.open import open_recording
from hvtrace.parsers.tracedat.layout import PageLayout
from hvtrace.parsers.tracedat.ringbuffer import LOST_UNKNOWN, decode_pages

PAGE = 4096

#: Records are whole words; 112 bytes is the longest whose length fits into the event's own word.
PAYLOADS = st.integers(1, 40).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
DELTAS = st.one_of(st.integers(0, 3), st.integers(0, (1 << 27) - 1))
FAR = st.integers(0, (1 << 45) - 1)

DATA = st.builds(Data, DELTAS, PAYLOADS, st.booleans())
EVENTS = st.lists(
    st.one_of(
        DATA, DATA, st.builds(Extend, FAR), st.builds(Absolute, FAR), st.builds(Discarded, st.integers(0, 64))
    ),
    max_size=20,
)
MISSED = st.one_of(st.just(0), st.none(), st.integers(1, 1 << 40))


@st.composite
def page(draw: st.DrawFn) -> Page:
    """A page; an absolute stamp lies less than 2**58 ahead of the clock, as in a kernel."""
    start = draw(st.one_of(st.integers(0, 1 << 40), st.integers((1 << 59) - 1000, (1 << 59) + 1000)))
    clock = start
    events: list[Event] = []
    for event in draw(EVENTS):
        moved = Absolute(clock + event.stamp) if isinstance(event, Absolute) else event
        clock = moved.stamp if isinstance(moved, Absolute) else clock + getattr(moved, "delta", 0)
        events.append(moved)
    if draw(st.booleans()):
        events.append(Rest(4 * draw(st.integers(0, 50))))
    return Page(start, tuple(events), draw(MISSED))


def expected(page: Page) -> list[tuple[int, bytes]]:
    """The (stamp, payload) pairs that a page holds."""
    clock, out = page.stamp, []
    for event in page.events:
        match event:
            case Absolute(stamp):
                clock = stamp
            case Data(delta, payload):
                clock += delta
                out.append((clock, payload))
            case Extend(delta) | Discarded(_, delta):
                clock += delta
    return out


def decoded(
    built: Iterable[Page], size: int, long_size: int
) -> tuple[list[list[tuple[int, bytes]]], list[int]]:
    """What the decoder makes of the pages: the (stamp, payload) pairs of each, and its losses."""
    data = b"".join(p.pack(size=size, long_size=long_size) for p in built)
    words = np.frombuffer(data, "<u4")
    starts = np.arange(0, len(words), size // 4, dtype=np.int64)
    layout = PageLayout(long_size, 8 + long_size, size - 8 - long_size)
    done = decode_pages(words, starts, np.full(len(starts), size // 4), layout)
    assert done.faults == []
    pairs = [
        (int(ts), data[4 * at : 4 * at + length])
        for ts, at, length in zip(done.ts.tolist(), done.at.tolist(), done.length.tolist(), strict=True)
    ]
    ends = np.cumsum(done.count).tolist()
    return [
        pairs[end - n : end] for end, n in zip(ends, done.count.tolist(), strict=True)
    ], done.lost.tolist()


@given(
    st.lists(page(), min_size=1, max_size=4), st.sampled_from((4096, 8192, 65536)), st.sampled_from((8, 4))
)
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
def test_pages_give_back_what_was_written(built: list[Page], size: int, long_size: int) -> None:
    """Data events keep payload and stamp through extends, absolute stamps, discarded events and padding."""
    if long_size == 4:
        built = [Page(p.stamp, p.events, p.missed and min(p.missed, (1 << 32) - 1)) for p in built]
    rows, lost = decoded(built, size, long_size)
    assert rows == [expected(p) for p in built]
    assert lost == [LOST_UNKNOWN if p.missed is None else p.missed for p in built]


@pytest.mark.parametrize("start", [0, 1 << 40, (1 << 59) - 5, (5 << 59) - 5])
def test_an_absolute_stamp_has_59_bits_and_may_wrap(start: int) -> None:
    """The upper five bits come from the clock; a stamp that fell back has wrapped."""
    events = (Data(1, b"aaaa"), Absolute(start + 7), Data(2, b"bbbb"))
    rows, _ = decoded([Page(start, events)], PAGE, 8)
    assert rows == [[(start + 1, b"aaaa"), (start + 9, b"bbbb")]]


PING = event_format("test", "ping", 900, [("u32", "number"), ("u64", "value"), ("__data_loc char[]", "text")])

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
ROWS = st.lists(st.tuples(st.integers(0, 1 << 28), st.integers(0, (1 << 64) - 1), TEXTS), max_size=60)


@given(
    st.lists(ROWS, min_size=1, max_size=3),
    st.sampled_from([(6, "none"), (7, "none"), (7, "zstd"), (7, "zlib")]),
    st.sampled_from((0, 16384)),
    st.sampled_from((8, 4)),
)
@settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_gives_its_events_in_time_order(
    tmp_path: Path,
    cpus: list[list[tuple[int, int, str]]],
    carrier: tuple[int, str],
    sub_buffer: int,
    kernel_long: int,
) -> None:
    """Whichever version, compression, sub-buffer size and kernel: all CPUs merged by stamp, ties by CPU."""
    version, compression = carrier
    host = TracingData([PING], {7: "CPU 0/KVM"}, sub_buffer=sub_buffer, kernel_long=kernel_long)
    expected_rows = []
    buffers = {}
    for cpu, rows in enumerate(cpus):
        stamp, events = 1_000_000_000, []
        for number, (delta, value, text) in enumerate(rows):
            stamp += delta
            events.append((stamp, PING.record(7, number=number, value=value, text=text)))
            expected_rows.append((stamp, cpu, 7, number, value, text))
        buffers[cpu] = pages(events, size=sub_buffer or PAGE, long_size=kernel_long)
    path = tmp_path / "built.dat"
    path.write_bytes(
        TraceDat(host, [Buffer(buffers)], version=version, compression=compression, chunk_pages=2).pack()
    )

    recording = open_recording(path)
    seen = [
        tuple(row[name] for name in ("ts_ns", "cpu", "tid", "number", "value", "text"))
        for window in recording.windows()
        for table in window.tables.values()
        for row in table.to_pylist()
    ]
    recording.close()
    assert seen == sorted(expected_rows, key=lambda row: row[:2])
    assert recording.damage == []
