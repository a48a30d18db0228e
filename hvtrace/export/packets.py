"""TracePackets of Perfetto's track events, many at once (protos/perfetto/trace/track_event/*.proto).

All packets are of one sequence; names, categories and names of arguments are interned on it. Small packets
(descriptors, interned data) are made with the perfetto package; the bulk is encoded in columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.export.wire import (
    Column,
    constant,
    doubles,
    fixed64s,
    length_delimited,
    messages,
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


def _packets(ts: npt.NDArray[np.int64], event: Sequence[Column], flows: Flows | None = None) -> pa.Array:
    rows = len(ts)
    last = fixed64s(_FLOW_IDS, flows.ids, flows.offsets) if flows is not None and len(flows.ids) else None
    packet = [
        *number(_TIMESTAMP, ts),
        constant(_HEAD),
        *length_delimited(_TRACK_EVENT, event, rows, last=last),
    ]
    return messages(length_delimited(_TRACE_PACKET, packet, rows, last=last), rows, last)


def _named(
    kind: int,
    tracks: npt.NDArray[np.uint64],
    names: npt.NDArray[np.uint64],
    category_iid: int,
    arguments: Sequence[Argument],
) -> list[Column]:
    event = [
        constant(tag(_TYPE, 0) + varint(kind) + tag(_CATEGORY_IIDS, 0) + varint(category_iid)),
        *number(_TRACK_UUID, tracks),
        *number(_NAME_IID, names),
    ]
    for a in arguments:
        annotation = [
            constant(tag(_ANNOTATION_NAME_IID, 0) + varint(a.name_iid)),
            *number(int(a.kind), a.values),
        ]
        event += length_delimited(_DEBUG_ANNOTATIONS, annotation, len(tracks), a.present)
    return event


def begins(
    ts: npt.NDArray[np.int64],
    tracks: npt.NDArray[np.uint64],
    names: npt.NDArray[np.uint64],
    category_iid: int,
    arguments: Sequence[Argument] = (),
    flows: Flows | None = None,
) -> pa.Array:
    """Beginnings of slices: one large_binary message a row. `names` are iids of event names."""
    return _packets(ts, _named(_SLICE_BEGIN, tracks, names, category_iid, arguments), flows)


def instants(
    ts: npt.NDArray[np.int64],
    tracks: npt.NDArray[np.uint64],
    names: npt.NDArray[np.uint64],
    category_iid: int,
    arguments: Sequence[Argument] = (),
    flows: Flows | None = None,
) -> pa.Array:
    """Events without a length. What is given is as for `begins`."""
    return _packets(ts, _named(_INSTANT, tracks, names, category_iid, arguments), flows)


def ends(ts: npt.NDArray[np.int64], tracks: npt.NDArray[np.uint64]) -> pa.Array:
    """Ends of slices: each closes the innermost open slice of its track."""
    return _packets(ts, [constant(tag(_TYPE, 0) + varint(_SLICE_END)), *number(_TRACK_UUID, tracks)])


def counts(
    ts: npt.NDArray[np.int64], tracks: npt.NDArray[np.uint64], values: npt.NDArray[np.float64]
) -> pa.Array:
    """Values of counters, each valid from its time stamp on."""
    head = constant(tag(_TYPE, 0) + varint(_COUNTER))
    return _packets(ts, [head, *number(_TRACK_UUID, tracks), *doubles(_DOUBLE_COUNTER, values)])
