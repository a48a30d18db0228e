"""Marks of events become flows of the exits around them, and of the guest time after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from hvtrace.export.links import FlowKind, Links, flow_ids, flows_of, listed
from hvtrace.export.states import ENTRY, EXIT, USERSPACE, Losses, Points

E, X, U = ENTRY, EXIT, USERSPACE


def points(*of: tuple[int, int, int]) -> Points:
    """Points (vCPU key, seq, kind); a time stamp is ten times the seq."""
    key, seq, kind = (np.array(column, np.int64) for column in zip(*of, strict=True))
    row = np.arange(len(of))
    return Points.of(key, seq, seq * 10, np.zeros_like(key), kind.astype(np.int8), row, Losses([]))


def ints(*numbers: int) -> npt.NDArray[Any]:
    return np.array(numbers, np.int64)


def ids(*numbers: int) -> npt.NDArray[Any]:
    return np.array(numbers, np.uint64)


def taken(links: Links, at: npt.NDArray[Any]) -> dict[int, list[int]]:
    """Flows of each of these points that has any."""
    flows = links.take(at)
    if flows is None:
        return {}
    parts = np.split(flows.ids, flows.offsets[1:-1])
    return {int(point): sorted(part.tolist()) for point, part in zip(at, parts, strict=True) if len(part)}


#: Entry, exit, userspace, entry, exit of vCPU 5; entry, exit, entry of vCPU 6.
ALL = points((5, 1, E), (5, 4, X), (5, 7, U), (5, 10, E), (5, 14, X), (6, 2, E), (6, 5, X), (6, 8, E))
WHOLE = np.ones(len(ALL), np.bool_)


@pytest.mark.parametrize(
    ("key", "seq", "point"),
    [
        (5, 2, 1),  # before its exit, which is traced late
        (5, 5, 1),
        (5, 8, 1),  # in userspace: still that exit
        (5, 12, 4),
        (6, 6, 6),
        (5, 0, None),  # before all points
        (7, 5, None),  # of another vCPU
    ],
)
def test_the_exit_around_an_event(key: int, seq: int, point: int | None) -> None:
    """That is the exit between two entries of the vCPU, also where it is traced after the event."""
    links = Links()
    links.around(ints(key), ints(seq), ids(99))
    links.resolve(ALL, WHOLE, np.full(len(ALL), 99), 20)
    assert taken(links, np.arange(len(ALL))) == ({} if point is None else {point: [99]})


@pytest.mark.parametrize(("key", "seq", "point"), [(5, 0, 0), (5, 2, 3), (5, 9, 3), (6, 3, 7), (5, 11, None)])
def test_the_guest_time_after_an_event(key: int, seq: int, point: int | None) -> None:
    """That is the vCPU's next entry."""
    links = Links()
    links.entering(ints(key), ints(seq), ids(99))
    links.resolve(ALL, WHOLE, np.full(len(ALL), 99), 20)
    assert taken(links, np.arange(len(ALL))) == ({} if point is None else {point: [99]})


def test_flows_are_given_once_each() -> None:
    """Several events of one flow in one exit are one; who asks first gets them, and nobody after."""
    links = Links()
    links.around(ints(5, 5, 5), ints(5, 6, 5), ids(99, 99, 98))
    links.resolve(ALL, WHOLE, np.full(len(ALL), 99), 20)
    assert taken(links, ints(0, 3)) == {}
    assert taken(links, ints(1)) == {1: [98, 99]}
    assert taken(links, ints(1)) == {}


def test_a_mark_waits_for_its_state() -> None:
    """As long as the event is not reached, or its state is not complete; then it is given once."""
    first, second = points((5, 1, E), (5, 4, X)), points((5, 1, E), (5, 4, X), (5, 10, E))
    links = Links()
    links.around(ints(5), ints(8), ids(99))
    links.resolve(first, np.zeros(2, np.bool_), ints(0, 0), 5)
    assert taken(links, ints(0, 1)) == {}
    # Reached, but what belongs to the exit may come yet.
    links.resolve(first, np.zeros(2, np.bool_), ints(0, 0), 9)
    assert taken(links, ints(0, 1)) == {}
    links.resolve(second, np.array([True, True, False]), ints(2, 2, 2), 15)
    assert taken(links, ints(0, 1, 2)) == {1: [99]}
    links.resolve(second, np.array([True, True, False]), ints(2, 2, 2), 20)
    assert taken(links, ints(0, 1, 2)) == {}


def test_a_gap_is_on_no_flow() -> None:
    """A state that is not drawn takes no flow, and the mark does not wait for it."""
    links = Links()
    links.around(ints(5), ints(5), ids(99))
    whole = WHOLE.copy()
    whole[1] = False
    links.resolve(ALL, whole, np.full(len(ALL), 99), 20)
    assert taken(links, np.arange(len(ALL))) == {}
    links.resolve(ALL, WHOLE, np.full(len(ALL), 99), 20)
    assert taken(links, np.arange(len(ALL))) == {}


def test_a_vcpu_that_never_enters_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of marks that wait, the oldest give way."""
    monkeypatch.setattr("hvtrace.export.links.MOST_WAITING", 2)
    links = Links()
    links.entering(ints(8, 8, 8), ints(1, 2, 3), ids(11, 12, 13))
    links.resolve(ALL, WHOLE, np.full(len(ALL), 99), 20)
    entered = points((8, 30, E))
    links.resolve(entered, np.ones(1, np.bool_), ints(99), 40)
    assert taken(links, ints(0)) == {0: [12, 13]}


def test_ids_tell_seq_and_kind() -> None:
    """No two flows share an id: not of one event, not of two."""
    seq = ints(1, 2, (1 << 40) + 1)
    kinds = [FlowKind.INTERRUPT, FlowKind.STIMER, FlowKind.DIVERGENCE, FlowKind.FLUSH, FlowKind.FLUSH | 4095]
    found = np.concatenate([flow_ids(seq, kind) for kind in kinds])
    assert len(set(found.tolist())) == len(seq) * len(kinds)
    assert all(number > 0 for number in found.tolist())


def test_flows_by_row() -> None:
    """Pairs in any order, and lists with nulls, become flows by row."""
    flows = flows_of(4, ints(3, 1, 3), ids(7, 8, 9))
    assert (flows.offsets.tolist(), flows.ids.tolist()) == ([0, 0, 1, 1, 3], [8, 7, 9])
    lists = listed(pl.Series([[], [8], None, [7, 9]], dtype=pl.List(pl.UInt64)))
    assert (lists.offsets.tolist(), lists.ids.tolist()) == ([0, 0, 1, 1, 3], [8, 7, 9])
