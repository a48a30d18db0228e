"""Names are written once and referred to by number."""

from __future__ import annotations

import numpy as np
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from hvtrace.export import interning
from hvtrace.export.interning import Interned, Labels


def written(names: Interned) -> dict[int, str]:
    """Names of events in the next packet."""
    packets = Trace.FromString(names.packet()).packet
    return {entry.iid: entry.name for p in packets for entry in p.interned_data.event_names}


def test_a_name_is_written_once() -> None:
    """A packet has the names that are new since the last one."""
    names = Interned()
    assert [names.event(name) for name in ("guest", "hlt", "guest")] == [1, 2, 1]
    assert written(names) == {1: "guest", 2: "hlt"}
    assert (names.event("hlt"), names.event("msr")) == (2, 3)
    assert written(names) == {3: "msr"}
    assert names.packet() == b""


def test_each_kind_of_name_is_numbered_apart() -> None:
    """A category and an argument may have the number of an event; the event's name is found by its number."""
    names = Interned()
    assert (names.category("exit"), names.event("hlt"), names.argument("rip"), names.event("msr")) == (
        1,
        1,
        1,
        2,
    )
    assert (names.event_name(1), names.event_name(2)) == ("hlt", "msr")


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32])
def test_numbers_are_labelled_once(kind: type[np.generic]) -> None:
    """Each different number is given to the function once, over all calls."""
    names, asked = Interned(), []

    def label(number: int) -> str:
        asked.append(number)
        return f"msr {number}"

    labels = Labels(label, names.event)
    assert labels(np.array([7, 5, 7], kind)).tolist() == [1, 2, 1]
    assert labels(np.array([9, 5], kind)).tolist() == [3, 2]
    assert labels(np.array([], kind)).tolist() == []
    assert asked == [7, 5, 9]


def test_names_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit further numbers share one name; those named before keep theirs."""
    monkeypatch.setattr(interning, "MOST", 3)
    names = Interned()
    labels = Labels(str, names.event)
    first = labels(np.array([1, 2, 3, 4, 5]))
    assert [names.event_name(iid) for iid in first.tolist()] == ["1", "2", "3", "other", "other"]
    second = labels(np.array([6, 3]))
    assert [names.event_name(iid) for iid in second.tolist()] == ["other", "3"]
