"""Messages encoded by columns are those the perfetto package would write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent

from hvtrace.export.packets import Argument, Kind, begins, counts, ends
from hvtrace.export.wire import Messages, in_order

U64 = st.integers(0, 2**64 - 1)
STAMP = st.integers(0, 2**63 - 1)


def written(packets: Messages) -> bytes:
    """The packets, one after the other."""
    return bytes(in_order([packets], [np.arange(len(packets))]))


@settings(deadline=None)
@given(st.lists(st.tuples(STAMP, st.integers(1, 2**40), st.integers(1, 2**21), U64, U64), max_size=30))
def test_slices_decode_to_what_was_given(rows: list[tuple[int, int, int, int, int]]) -> None:
    """Time stamp, track, name and arguments of every width; an argument may be absent."""
    ts, track, name, a, b = (list(c) for c in zip(*rows, strict=True)) if rows else ([], [], [], [], [])
    odd = np.array([value % 2 == 1 for value in b], np.bool_)
    arguments = [
        Argument(3, Kind.HEX, np.array(a, np.uint64)),
        Argument(200, Kind.UINT, np.array(b, np.uint64), odd),
    ]
    tracks = np.array(track, np.uint64)
    encoded = begins(np.array(ts, np.int64), tracks, np.array(name, np.uint64), 5, arguments)
    expected = Trace()
    for i in range(len(rows)):
        packet = expected.packet.add(timestamp=ts[i], trusted_packet_sequence_id=1, sequence_flags=2)
        event = packet.track_event
        event.type = TrackEvent.TYPE_SLICE_BEGIN
        event.category_iids.append(5)
        event.track_uuid, event.name_iid = track[i], name[i]
        event.debug_annotations.add(name_iid=3, pointer_value=a[i])
        if b[i] % 2:
            event.debug_annotations.add(name_iid=200, uint_value=b[i])
    assert expected == Trace.FromString(written(encoded))


def test_signed_values_keep_their_sign() -> None:
    """A negative argument is written as 64-bit two's complement."""
    one = np.ones(2, np.uint64)
    encoded = begins(np.array([1, 2]), one, one, 1, [Argument(1, Kind.INT, np.array([-11, 300], np.int32))])
    trace = Trace.FromString(written(encoded))
    assert [p.track_event.debug_annotations[0].int_value for p in trace.packet] == [-11, 300]


def test_groups_are_put_in_order() -> None:
    """Beginnings, ends and counters made apart stand in the file by their keys."""
    one = np.ones(2, np.uint64)
    groups = [
        begins(np.array([10, 30]), one, one, 1),
        ends(np.array([20, 40]), one),
        counts(np.array([15]), one[:1], np.array([2.5])),
    ]
    keys = [np.array([0, 4]), np.array([2, 6]), np.array([1])]
    trace = Trace.FromString(bytes(in_order(groups, keys)))
    assert [p.timestamp for p in trace.packet] == [10, 15, 20, 30, 40]
    assert trace.packet[1].track_event.double_counter_value == 2.5


@pytest.mark.parametrize("rows", [0, 1, 20000])
def test_any_number_of_rows(rows: int) -> None:
    """None, one, many."""
    ts, tracks = np.arange(rows, dtype=np.int64) * 1000, np.full(rows, 7, np.uint64)
    stamps = [p.timestamp for p in Trace.FromString(written(ends(ts, tracks))).packet]
    assert stamps == ts.tolist()
    counted = Trace.FromString(written(counts(ts, tracks, ts / 3))).packet
    assert [p.track_event.double_counter_value for p in counted] == (ts / 3).tolist()


@pytest.mark.parametrize("bits", [*range(65)])
def test_numbers_of_any_width(bits: int) -> None:
    """Beside one of so many bits, a smaller number is written as widely, and read as what it is."""
    widest = (1 << bits) - 1
    values = np.array([widest, 0, widest // 3, 1], np.uint64)
    one = np.ones(4, np.uint64)
    encoded = written(begins(np.arange(4), one, one, 1, [Argument(1, Kind.UINT, values)]))
    packets = Trace.FromString(encoded).packet
    assert [p.track_event.debug_annotations[0].uint_value for p in packets] == values.tolist()


def test_a_packet_of_the_package_and_one_of_ours_are_alike() -> None:
    """Byte for byte, where the package writes the fields in the same order."""
    one = np.ones(1, np.uint64)
    packet = TracePacket(timestamp=99, trusted_packet_sequence_id=1, sequence_flags=2)
    packet.track_event.type = TrackEvent.TYPE_SLICE_END
    packet.track_event.track_uuid = 1
    ours = TracePacket.FromString(written(ends(np.array([99]), one))[2:])
    assert packet.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True)
