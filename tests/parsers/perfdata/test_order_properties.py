"""Whatever the records and their order: all are found, and come by time."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from builders import perf_data as perf
from builders.event_format import event_format
from builders.perf_data import Attr, PerfData
from builders.tracing_data import TracingData
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtrace.parsers.open import open_recording
from hvtrace.parsers.perfdata import framing, index, reader

EVENT = event_format("my", "my_event", 70, [("u64", "rank"), ("__data_loc char[]", "text")])
HOST = TracingData((EVENT,))
ATTR = Attr(70, (10, 11))


def sample(rank: int, time: int, length: int = 0) -> bytes:
    record = EVENT.record(7, rank=rank, text="x" * length)
    return perf.sample(ATTR, time, record, cpu=rank % 2, tid=7)


#: Words that look like headers of records, in the data of others.
lookalikes = st.sampled_from([9 | 72 << 48, 9 | 8 << 48, 68 | 8 << 48, 3 | 16 << 48, 0, 9, 2**64 - 1])

records = st.one_of(
    st.tuples(st.just("sample"), st.integers(1, 40), st.sampled_from([0, 3, 40, 900])),
    st.tuples(st.just("round"), st.just(0), st.just(0)),
    st.tuples(st.just("aux"), st.lists(lookalikes, max_size=60), st.just(0)),
    st.tuples(st.just("switch"), st.just(0), st.just(0)),
    st.tuples(st.just("other"), st.lists(lookalikes, max_size=20), st.sampled_from([1, 10, 50, 79])),
)


@contextmanager
def small_spans(monkeypatch: pytest.MonkeyPatch, span: int, batch: int) -> Iterator[None]:
    """Spans (u64) and batches (spans) so small that a few records make many."""
    with monkeypatch.context() as patch:
        for module in (index, reader):
            patch.setattr(module, "SPAN", span)
        for module in (framing, index):
            patch.setattr(module, "BATCH", span * batch)
        patch.setattr(framing, "PIECE", span)
        patch.setattr(reader, "BATCH", batch)
        yield


@settings(max_examples=80, deadline=None)
@given(
    drawn=st.lists(records, max_size=60),
    span=st.sampled_from([4, 16, 64, 2048]),
    batch=st.sampled_from([1, 2, 7]),
    room=st.sampled_from([0, 1 << 20]),
    many=st.sampled_from([-9, 64]),
)
def test_all_samples_come_by_time_and_then_in_file_order(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[str, object, int]],
    span: int,
    batch: int,
    room: int,
    many: int,
) -> None:
    """Span by span and in columns gives what reading record by record and sorting all gives."""
    out: list[bytes] = []
    expected: list[tuple[int, int]] = []
    for rank, (kind, what, number) in enumerate(drawn):
        if kind == "sample":
            assert isinstance(what, int)
            expected.append((what, rank))
            out.append(sample(rank, what, number))
        elif kind == "round":
            out.append(perf.FINISHED_ROUND)
        elif kind == "switch":
            out.append(perf.record(14, perf.trailer(ATTR, 1)))
        else:
            assert isinstance(what, list)
            body = struct.pack(f"<{len(what)}Q", *what)
            out.append(perf.auxtrace(body) if kind == "aux" else perf.record(number, body))
    path = tmp_path_factory.mktemp("order") / "perf.data"
    path.write_bytes(PerfData((ATTR,), out, HOST).pack())

    with pytest.MonkeyPatch.context() as patch, small_spans(patch, span, batch):
        patch.setattr("hvtrace.parsers.perfdata.kept.ROOM", room)
        patch.setattr(framing, "MANY", many)
        opened = open_recording(path)
        windows = list(opened.windows())
    tables = [w.tables["my_event"] for w in windows if w.events]
    found = [
        (t, r) for x in tables for t, r in zip(x["ts_ns"].to_pylist(), x["rank"].to_pylist(), strict=True)
    ]
    assert found == sorted(expected)
    assert opened.damage == []
    for window in windows:
        if window.events:
            assert np.array_equal(window.tables["my_event"]["seq"], np.arange(window.events))


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.integers(1, 1000), min_size=8, max_size=60),
    cut=st.floats(0, 1),
    span=st.sampled_from([4, 16, 2048]),
)
def test_a_cut_pipe_keeps_every_whole_record(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], cut: float, span: int
) -> None:
    """Whatever the place of the cut."""
    samples = [sample(rank, time, rank % 5) for rank, time in enumerate(times)]
    whole = PerfData((ATTR,), samples, HOST).pack_pipe()
    size = sum(map(len, samples))
    left = int(size * cut)
    path = tmp_path_factory.mktemp("cut") / "perf.data"
    path.write_bytes(whole[: len(whole) - size + left])
    ends = np.cumsum([len(s) for s in samples])
    expected = [rank for rank, end in enumerate(ends.tolist()) if end <= left]

    with pytest.MonkeyPatch.context() as patch, small_spans(patch, span, 2):
        opened = open_recording(path)
        found = [r for w in opened.windows() if w.events for r in w.tables["my_event"]["rank"].to_pylist()]
    assert sorted(found) == expected
    assert bool(opened.damage) == (left not in (0, *ends.tolist()) and left >= 8)


def test_a_compressed_recording_is_the_same_recording(tmp_path: Path) -> None:
    """Records straddle pieces of the compressed stream; perf's own records stand between."""
    samples = b"".join(sample(rank, 1000 - rank) for rank in range(8))
    for cut in range(1, len(samples), 29):
        first, second = perf.compress(samples, (cut,))
        records = [perf.comm(ATTR, 7, 7, "vcpu"), first, perf.FINISHED_ROUND, second, perf.FINISHED_ROUND]
        path = tmp_path / f"{cut}.perf.data"
        path.write_bytes(PerfData((ATTR,), records, HOST, perf.compressed_feature()).pack())
        (window,) = open_recording(path).windows()
        table = window.tables["my_event"]
        assert table["rank"].to_pylist() == list(range(7, -1, -1))
        assert set(table["comm"].to_pylist()) == {"vcpu"}
