"""Flows that go through the states of vCPUs: who sees an event within an exit says which flow the exit is on.

Layers see events, such as an interrupt accepted or an EOI, and know the flow they belong to; the slice around the
event is drawn by other layers, perhaps in a later window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.packets import Flows

if TYPE_CHECKING:
    from hvtrace.export.states import Points

__all__ = ["KIND_BITS", "MOST_STEPS", "STEP", "FlowKind", "Links", "flow_ids", "flows_of", "listed"]

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

#: Marks that wait for their state to be drawn; the oldest give way (a vCPU that never enters its guest again).
MOST_WAITING = 1 << 20

#: A flow's id is the seq of the event that opens it and this many bits for what it is.
KIND_BITS = 16


class FlowKind:
    """What opens a flow: the low bits of its id."""

    #: kvm_apic_accept_irq: from who raised the interrupt to its injection and EOI.
    INTERRUPT = 1
    #: kvm_hv_stimer_start_*: from arming to callback and expiration.
    STIMER = 2
    #: A divergence, by its row in the table instead of a seq: to its VM's track. With 1 to MOST_STEPS times STEP
    #: added: from an exit that led there.
    DIVERGENCE = 3
    #: vmbus_recv_message, from the hypercall that posted it; or a SIGNAL_EVENT, to what it led to.
    VMBUS = 4
    #: kvm_hv_flush_tlb*: to the target whose vCPU id is added.
    FLUSH = 1 << 15


#: Bits that tell ways to one end apart; flushes have the vCPU id there.
STEP, MOST_STEPS = 1 << 4, (1 << 10) - 1
_STEPS = MOST_STEPS * STEP


def flow_ids(seq: npt.NDArray[np.generic], kind: int | I64) -> U64:
    """Ids of flows opened by events."""
    return (seq.astype(np.int64) << KIND_BITS | kind).astype(np.uint64)


def flows_of(rows: int, row: I64, ids: U64) -> Flows:
    """Flows of `rows` slices, from pairs (row, id)."""
    order = np.argsort(row, kind="stable")
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=rows), out=offsets[1:])
    return Flows(offsets, ids[order])


def listed(lists: pl.Series) -> Flows:
    """Flows from a column of lists of ids (null: none)."""
    if not len(lists):
        return Flows(np.zeros(1, np.int64), np.zeros(0, np.uint64))
    counts = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    return Flows(np.concatenate([[0], np.cumsum(counts)]), lists.explode().drop_nulls().to_numpy())


class _Marks(NamedTuple):
    """Events (vCPU key, seq) and flows; `latest`: an exit that begins later is not on the flow."""

    key: I64
    seq: I64
    flow: U64
    latest: I64

    def and_more(self, key: I64, seq: I64, flow: U64, latest: I64) -> _Marks:
        return _Marks(
            np.concatenate([self.key, key]),
            np.concatenate([self.seq, seq]),
            np.concatenate([self.flow, flow]),
            np.concatenate([self.latest, latest]),
        )

    def waiting(self, keep: Bool) -> _Marks:
        last = np.flatnonzero(keep)[-MOST_WAITING:]
        return _Marks(self.key[last], self.seq[last], self.flow[last], self.latest[last])


class Links:
    """Marks of events: the exit around an event, or the guest time after it, is on a flow."""

    def __init__(self) -> None:
        none = np.zeros(0, np.int64)
        self._around = self._entry = _Marks(none, none, none.astype(np.uint64), none)
        #: Of this window: index of the point whose state is on a flow, and the flow; by point.
        self._points: tuple[I64, U64] = (none, none.astype(np.uint64))

    def around(self, key: I64, seq: I64, flow: U64, latest: I64 | None = None) -> None:
        """The exits in which these events lie (else the states) are on these flows.

        An exit may be traced after an event of its own; where it begins after `latest` (time stamps), the state in
        which the event lies is on the flow instead.
        """
        self._around = self._around.and_more(key, seq, flow, _never(key) if latest is None else latest)

    def entering(self, key: I64, seq: I64, flow: U64) -> None:
        """The guest time that follows these events on these vCPUs is on these flows."""
        self._entry = self._entry.and_more(key, seq, flow, _never(key))

    def resolve(self, points: Points, whole: Bool, cut: I64, end: int) -> None:
        """Find the states that are drawn in this window. `end`: the first seq after it."""
        found = []
        key, seq, flow, latest = self._around
        place = points.before(key, seq)
        later = seq >= end
        exits = points.exits()
        at = np.where(place >= 0, exits[points.unit[place]], -1) if len(points) else place
        if len(points):
            at = np.where(points.ts[at] <= latest, at, -1)
        at = np.where(at >= 0, at, place)
        self._around = self._around.waiting(later | _undecided(place, cut))
        found.append((at[~later], flow[~later]))
        key, seq, flow, _ = self._entry
        at = points.entry_after(key, seq)
        later = (seq >= end) | (at < 0)
        self._entry = self._entry.waiting(later | _undecided(at, cut))
        found.append((at[~later], flow[~later]))
        at, flow = (np.concatenate(parts) for parts in zip(*found, strict=True))
        drawn = at >= 0
        drawn[drawn] = whole[at[drawn]]
        at, flow = at[drawn], flow[drawn]
        # Several events of a flow, or steps to one end, may lie in one exit: the first of them counts.
        way = np.where(flow & FlowKind.FLUSH != 0, flow, flow & ~np.uint64(_STEPS))
        order = np.lexsort((way, at))
        at, flow, way = at[order], flow[order], way[order]
        first = np.ones(len(at), np.bool_)
        first[1:] = (at[1:] != at[:-1]) | (way[1:] != way[:-1])
        self._points = at[first], flow[first]

    def take(self, at: I64) -> Flows | None:
        """Return the flows of states that begin at these points (ascending); they are not given again."""
        point, flow = self._points
        if not len(point) or not len(at):
            return None
        row = np.searchsorted(at, point)
        mine = at[np.minimum(row, len(at) - 1)] == point
        self._points = point[~mine], flow[~mine]
        return flows_of(len(at), row[mine], flow[mine]) if mine.any() else None


def _never(key: I64) -> I64:
    return np.full(len(key), np.iinfo(np.int64).max)


def _undecided(place: I64, cut: I64) -> Bool:
    """Whether states at these places come again with the next window."""
    if not len(cut):
        return np.zeros(len(place), np.bool_)
    return (place >= 0) & (place >= cut[place])
