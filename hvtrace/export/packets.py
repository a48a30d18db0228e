"""TracePackets of Perfetto's track events, many at once (protos/perfetto/trace/track_event/*.proto).

All packets are of one sequence; names, categories and names of arguments are interned on it. Small packets
(descriptors, interned data) are made with the perfetto package; the bulk is encoded in columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.export.wire import (
    Column,
    Messages,
    Shape,
    constant,
    doubles,
    fixed64s,
    length_delimited,
    number,
    tag,
    varint,
)

__all__ = ["SEQUENCE", "Argument", "Flows", "Kind", "begins", "counts", "ends", "framed", "instants"]

#: trusted_packet_sequence_id of every packet. Any number but 0.
SEQUENCE = 1

# Field numbers of Trace, TracePacket, TrackEvent and DebugAnnotation.
_TRACE_PACKET = 1
_TIMESTAMP, _SEQUENCE_ID, _TRACK_EVENT, _SEQUENCE_FLAGS = 8, 10, 11, 13
_CATEGORY_IIDS, _DEBUG_ANNOTATIONS, _TYPE, _NAME_IID, _TRACK_UUID = 3, 4, 9, 10, 11
_DOUBLE_COUNTER, _FLOW_IDS = 44, 47
_ANNOTATION_NAME_IID = 1

_NEEDS_INCREMENTAL_STATE = 2
_SLICE_BEGIN, _SLICE_END, _INSTANT, _COUNTER = 1, 2, 3, 4

_HEAD = tag(_SEQUENCE_ID, 0) + varint(SEQUENCE) + tag(_SEQUENCE_FLAGS, 0) + varint(_NEEDS_INCREMENTAL_STATE)


class Kind(IntEnum):
    """How the UI shows an argument's value; the value is the field number in DebugAnnotation."""

    BOOL = 2
    UINT = 3
    INT = 4
    #: Shown as hexadecimal.
    HEX = 7
    #: The value is the iid of an interned string.
    STRING = 17


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of many slices: interned name, kind, a value a row, and where it is there (None: everywhere)."""

    name_iid: int
    kind: Kind
    values: npt.NDArray[np.generic]
    present: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Flows:
    """Flows that go through events: row i is on the flows `ids[offsets[i]:offsets[i + 1]]`.

    `offsets`: (n + 1,), from 0 to the number of ids. Any 64-bit number but 0 is an id; the UI draws an arrow from
    each event on a flow to the next one in time.
    """

    offsets: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint64]

    def where(self, keep: npt.NDArray[np.bool_]) -> Flows:
        """Flows of the rows to keep."""
        counts = np.diff(self.offsets)
        return Flows(np.concatenate([[0], np.cumsum(counts[keep])]), self.ids[np.repeat(keep, counts)])


def framed(packet: bytes) -> bytes:
    """A packet as it stands in the file."""
    return tag(_TRACE_PACKET, 2) + varint(len(packet)) + packet


def _packets(rows: npt.NDArray[np.int64], ts: npt.NDArray[np.int64], event: Sequence[Column]) -> Shape:
    packet = [*number(_TIMESTAMP, ts), constant(_HEAD), *length_delimited(_TRACK_EVENT, event)]
    return Shape(rows, length_delimited(_TRACE_PACKET, packet))


def _all(ts: npt.NDArray[np.int64], event: Sequence[Column]) -> Messages:
    return Messages(len(ts), (_packets(np.arange(len(ts)), ts, event),))


def _shapes(rows: int, arguments: Sequence[Argument], flows: Flows | None) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of each shape: those that have the same arguments and as many flows."""
    shape = np.zeros(rows, np.int64) if flows is None else np.diff(flows.offsets)
    for a in arguments:
        if a.present is not None:
            shape = _numbered(shape) << 1 | a.present
    shape = _numbered(shape)
    count = np.bincount(shape)
    # Stable, so that rows stay in order; and fast, as it is for small numbers.
    order = np.argsort(shape.astype(np.min_scalar_type(len(count))), kind="stable")
    yield from np.split(order, np.cumsum(count)[:-1]) if rows else ()


def _numbered(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Different values as 0, 1, 2 and so on."""
    found: npt.NDArray[np.int64] = pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)
    return found


def _events(
    kind: int,
    ts: npt.NDArray[np.int64],
    tracks: npt.NDArray[np.uint64],
    names: npt.NDArray[np.uint64],
    category_iid: int,
    arguments: Sequence[Argument],
    flows: Flows | None,
) -> Messages:
    head = constant(tag(_TYPE, 0) + varint(kind) + tag(_CATEGORY_IIDS, 0) + varint(category_iid))
    shapes = []
    for rows in _shapes(len(ts), arguments, flows):
        event = [head, *number(_TRACK_UUID, tracks[rows]), *number(_NAME_IID, names[rows])]
        for a in arguments:
            if a.present is None or a.present[rows[0]]:
                name = constant(tag(_ANNOTATION_NAME_IID, 0) + varint(a.name_iid))
                value = number(int(a.kind), a.values[rows])
                event += length_delimited(_DEBUG_ANNOTATIONS, [name, *value])
        if flows is not None and (count := int(flows.offsets[rows[0] + 1] - flows.offsets[rows[0]])):
            event += fixed64s(_FLOW_IDS, flows.ids[flows.offsets[rows][:, None] + np.arange(count)])
        shapes.append(_packets(rows, ts[rows], event))
    return Messages(len(ts), tuple(shapes))


def begins(
    ts: npt.NDArray[np.int64],
    tracks: npt.NDArray[np.uint64],
    names: npt.NDArray[np.uint64],
    category_iid: int,
    arguments: Sequence[Argument] = (),
    flows: Flows | None = None,
) -> Messages:
    """Beginnings of slices, a message each. `names` are iids of event names."""
    return _events(_SLICE_BEGIN, ts, tracks, names, category_iid, arguments, flows)


def instants(
    ts: npt.NDArray[np.int64],
    tracks: npt.NDArray[np.uint64],
    names: npt.NDArray[np.uint64],
    category_iid: int,
    arguments: Sequence[Argument] = (),
    flows: Flows | None = None,
) -> Messages:
    """Events without a length. What is given is as for `begins`."""
    return _events(_INSTANT, ts, tracks, names, category_iid, arguments, flows)


def ends(ts: npt.NDArray[np.int64], tracks: npt.NDArray[np.uint64]) -> Messages:
    """Ends of slices: each closes the innermost open slice of its track."""
    return _all(ts, [constant(tag(_TYPE, 0) + varint(_SLICE_END)), *number(_TRACK_UUID, tracks)])


def counts(
    ts: npt.NDArray[np.int64], tracks: npt.NDArray[np.uint64], values: npt.NDArray[np.float64]
) -> Messages:
    """Values of counters, each valid from its time stamp on."""
    head = constant(tag(_TYPE, 0) + varint(_COUNTER))
    return _all(ts, [head, *number(_TRACK_UUID, tracks), *doubles(_DOUBLE_COUNTER, values)])
