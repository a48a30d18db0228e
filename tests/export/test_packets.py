"""Flows and instants encoded by columns are those the perfetto package would write."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from hvtrace.export.packets import Argument, Flows, Kind, begins, instants
from hvtrace.export.wire import Messages, in_order

IDS = st.lists(st.integers(1, 2**64 - 1), max_size=4)
#: Time stamp, an argument (0: left out), ids of flows.
EVENT = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1), IDS)

MAKERS = pytest.mark.parametrize(
    ("make", "kind"),
    [(begins, TrackEvent.TYPE_SLICE_BEGIN), (instants, TrackEvent.TYPE_INSTANT)],
    ids=["begins", "instants"],
)


def flows_of(ids: list[list[int]]) -> Flows:
    """Ids, event by event."""
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return Flows(offsets, np.array([one for own in ids for one in own], np.uint64))


def written(packets: Messages) -> bytes:
    """The packets, one after the other."""
    return bytes(in_order([packets], [np.arange(len(packets))]))


@MAKERS
@settings(deadline=None)
@given(events=st.lists(EVENT, max_size=20))
def test_events_decode_to_what_was_given(
    make: Callable[..., Messages], kind: int, events: list[tuple[int, int, list[int]]]
) -> None:
    """Type, time stamp, track, name, category, argument, and the event's own flows in their order."""
    values = np.array([value for _, value, _ in events], np.uint64)
    packets = make(
        np.array([ts for ts, _, _ in events], np.int64),
        np.full(len(events), 300, np.uint64),
        np.full(len(events), 70_000, np.uint64),
        9,
        [Argument(4, Kind.UINT, values, values != 0)],
        flows_of([ids for _, _, ids in events]),
    )
    expected = Trace()
    for ts, value, ids in events:
        packet = expected.packet.add(timestamp=ts, trusted_packet_sequence_id=1, sequence_flags=2)
        event = packet.track_event
        event.type, event.track_uuid, event.name_iid = kind, 300, 70_000
        event.category_iids.append(9)
        if value:
            event.debug_annotations.add(name_iid=4, uint_value=value)
        event.flow_ids.extend(ids)
    assert Trace.FromString(written(packets)) == expected


@pytest.mark.parametrize("at", [0, 8191, 8192, 9999])
def test_one_event_of_many_may_be_on_hundreds_of_flows(at: int) -> None:
    """A broadcast has a flow to each target; its neighbours stay as they are."""
    rows, ids = 10_000, np.arange(1, 500, dtype=np.uint64)
    offsets = np.where(np.arange(rows + 1) > at, len(ids), 0)
    one = np.ones(rows, np.uint64)
    packets = begins(np.arange(rows), one, one, 1, flows=Flows(offsets, ids))
    events = [p.track_event for p in Trace.FromString(written(packets)).packet]
    assert [list(e.flow_ids) for e in events] == [ids.tolist() if n == at else [] for n in range(rows)]


def test_without_flows_nothing_is_added() -> None:
    """The bytes are the same with no flows given, and with flows that no event is on."""
    one = np.ones(3, np.uint64)
    none = begins(np.arange(3), one, one, 1, flows=flows_of([[], [], []]))
    assert written(none) == written(begins(np.arange(3), one, one, 1))


def test_flows_of_a_part() -> None:
    """What is kept of the events keeps its own flows."""
    part = flows_of([[1, 2], [], [3], [4, 5]]).where(np.array([True, True, False, True]))
    assert part.offsets.tolist() == [0, 2, 2, 4]
    assert part.ids.tolist() == [1, 2, 4, 5]
