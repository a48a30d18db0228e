"""The states of vCPUs, from entries, exits and returns to userspace: disjoint, and gaps where one cannot know.

A point is one such event; a state lasts from a point to the next point of the same vCPU:

    kvm_entry          → guest
    kvm_exit           → the exit is handled in the kernel
    kvm_userspace_exit → userspace, until the next entry

A state is a gap where two points cannot follow each other (an event is missing), where time runs backwards, or
where events were lost meanwhile on a CPU that recorded one of the two points.

A unit is what lies between two entries. An event of the vCPU's own thread belongs to the exit of its unit, also
where it stands before it: KVM on SVM before 6.6 traces the exit late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ENTRY", "EXIT", "USERSPACE", "Halts", "Losses", "Points", "halts", "vcpu_keys"]

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

#: What a point begins.
ENTRY, EXIT, USERSPACE = 0, 1, 2

#: Whether point [row] may be followed by point [column]. After a return to userspace KVM_RUN may return at once.
_FOLLOWS = np.array(
    [
        # ENTRY  EXIT  USERSPACE
        [False, True, False],
        [True, False, True],
        [True, False, True],
    ]
)

_EARLIEST, _LATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max

#: Stands for a VM that is not known.
NO_VM = 0xFFFF


def vcpu_keys(vm: npt.NDArray[Any], vcpu: npt.NDArray[Any]) -> I64:
    """One number for each vCPU: its VM (NO_VM where not known) and its id."""
    return vm.astype(np.int64) << 16 | vcpu.astype(np.int64)


class Losses:
    """Intervals in which events were lost, by CPU (rows of lost.parquet: cpu, from_ns, to_ns; null as there)."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        by_cpu: dict[int | None, list[tuple[int, int]]] = {}
        for row in rows:
            start = _EARLIEST if row["from_ns"] is None else row["from_ns"]
            end = _LATEST if row["to_ns"] is None else row["to_ns"]
            by_cpu.setdefault(row["cpu"], []).append((start, end))
        self._any = _joined([span for spans in by_cpu.values() for span in spans])
        self._everywhere = _joined(by_cpu.pop(None, []))
        self._by_cpu = {cpu: _joined(spans) for cpu, spans in by_cpu.items() if cpu is not None}

    def hit(self, start: I64, end: I64, first_cpu: I64, second_cpu: I64) -> Bool:
        """Whether something was lost between `start` and `end` on one of two CPUs."""
        found = _overlap(self._everywhere, start, end)
        for cpu, spans in self._by_cpu.items():
            found |= ((first_cpu == cpu) | (second_cpu == cpu)) & _overlap(spans, start, end)
        return found

    def anywhere(self, start: I64, end: I64) -> Bool:
        """Whether something was lost between `start` and `end` on any CPU."""
        return _overlap(self._any, start, end)


def _joined(spans: list[tuple[int, int]]) -> tuple[I64, I64]:
    starts: list[int] = []
    ends: list[int] = []
    for start, end in sorted(spans):
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return np.array(starts, np.int64), np.array(ends, np.int64)


def _overlap(spans: tuple[I64, I64], start: I64, end: I64) -> Bool:
    starts, ends = spans
    if not len(starts):
        return np.zeros(len(start), np.bool_)
    # The first loss that ends after `start`; it matters if it begins before `end`.
    at = np.searchsorted(ends, start, side="right")
    return (at < len(starts)) & (starts[np.minimum(at, len(starts) - 1)] < end)


@dataclass(slots=True)
class Points:
    """Points of all vCPUs, by vCPU and then in order of `seq`. All arrays have one entry a point.

    `row` is the row in the table the point came from. `next` is true where the following point is of the same vCPU;
    `whole` where the state that begins here is no gap. `unit` numbers the units.
    """

    key: I64
    seq: I64
    ts: I64
    cpu: I64
    kind: npt.NDArray[np.int8]
    row: I64
    next: Bool
    whole: Bool
    unit: I64
    _rank: I64
    _place: I64
    _firsts: I64

    @classmethod
    def of(
        cls, key: I64, seq: I64, ts: I64, cpu: I64, kind: npt.NDArray[np.int8], row: I64, losses: Losses
    ) -> Points:
        """Order points and say what follows what."""
        order = np.lexsort((seq, key))
        key, seq, ts, cpu, row = (a[order] for a in (key, seq, ts, cpu, row))
        kind = kind[order]
        n = len(key)
        following = np.zeros(n, np.bool_)
        whole = np.zeros(n, np.bool_)
        new = np.ones(n, np.bool_)
        if n:
            following[:-1] = key[1:] == key[:-1]
            new[1:] = ~following[:-1]
            whole[:-1] = (
                following[:-1]
                & _FOLLOWS[kind[:-1], kind[1:]]
                & (ts[1:] >= ts[:-1])
                & ~losses.hit(ts[:-1], ts[1:], cpu[:-1], cpu[1:])
            )
        unit = np.cumsum(new | (kind == ENTRY)) - 1
        rank = np.cumsum(new) - 1
        firsts = np.flatnonzero(new)
        return cls(key, seq, ts, cpu, kind, row, following, whole, unit, rank, _placed(rank, seq), firsts)

    def __len__(self) -> int:
        return len(self.key)

    def before(self, key: I64, seq: I64) -> I64:
        """Return the index of the last point of the same vCPU before each event; −1 where there is none."""
        if not len(self) or not len(key):
            return np.full(len(key), -1, np.int64)
        keys = self.key[self._firsts]
        rank = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        at = np.searchsorted(self._place, _placed(rank, seq), side="right") - 1
        known = (keys[rank] == key) & (at >= 0)
        known &= self._rank[np.maximum(at, 0)] == rank
        return np.where(known, at, -1)

    def exits(self) -> I64:
        """Return the index of each unit's exit, by unit; −1 where it has none or more than one."""
        units = int(self.unit[-1]) + 1 if len(self) else 0
        exits = np.flatnonzero(self.kind == EXIT)
        count = np.bincount(self.unit[exits], minlength=units)
        found = np.full(units, -1, np.int64)
        found[self.unit[exits]] = exits
        return np.where(count == 1, found, -1)

    def entry_after(self, key: I64, seq: I64) -> I64:
        """Return the index of the first entry of the same vCPU after each event; −1 where there is none."""
        entries = np.flatnonzero(self.kind == ENTRY)
        if not len(entries):
            return np.full(len(key), -1, np.int64)
        keys = self.key[self._firsts]
        rank = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        at = np.searchsorted(self._place[entries], _placed(rank, seq), side="left")
        found = entries[np.minimum(at, len(entries) - 1)]
        return np.where((at < len(entries)) & (self.key[found] == key), found, -1)

    def cuts(self, limit: int) -> I64:
        """Return for each point where its vCPU's unfinished part begins: at its last entry.

        That is at most `limit` points before the vCPU's last one, else the last one itself.
        """
        n = len(self)
        last = np.flatnonzero(~self.next)
        first = self._firsts
        entry = np.where(self.kind == ENTRY, np.arange(n), -1)
        cut = np.maximum(np.maximum.reduceat(entry, first), first) if n else first
        cut = np.where(last - cut > limit, last, cut)
        return cut[self._rank]


def _placed(rank: I64, seq: I64) -> I64:
    return rank << 44 | seq


@dataclass(slots=True)
class Halts:
    """Parts of halts, in order: `point` whose state each lies in, `start`, `end`, and which of the three it is.

    `kind`: POLL_SUCCESS, POLL_FAILURE or BLOCKED. `ns` is the whole halt as the kernel measured it.
    """

    point: I64
    start: I64
    end: I64
    kind: npt.NDArray[np.int8]
    ns: I64


POLL_SUCCESS, POLL_FAILURE, BLOCKED = 0, 1, 2


def halts(
    points: Points, ends: I64, point: I64, ts: I64, ns: npt.NDArray[Any], waited: Bool, polling: I64
) -> Halts:
    """Parts of halts from wake-ups (kvm_vcpu_wakeup), given in order with the `point` before each.

    `ends` says where each point's state ends. A halt lies within its state; guest time has none.

    A halt that ended without sleeping is polling that succeeded. One that slept began with polling that failed
    where `polling` says for how long (ns; −1: not known, and the whole is then called blocked).
    """
    inside = points.kind[point] != ENTRY
    point, ts, waited, polling = point[inside], ts[inside], waited[inside], polling[inside]
    ns = np.minimum(ns[inside].astype(np.uint64), np.uint64(_LATEST)).astype(np.int64)
    if not len(point):
        return Halts(point, ts, ts, np.zeros(0, np.int8), ns)
    end = np.minimum(ts, ends[point])
    floor = points.ts[point]
    # The state may hold several halts; each begins after the one before.
    again = np.zeros(len(point), np.bool_)
    again[1:] = point[1:] == point[:-1]
    floor[1:] = np.where(again[1:], end[:-1], floor[1:])
    end = np.maximum(end, floor)
    start = np.maximum(end - np.minimum(ns, end - floor), floor)
    slept = start + np.maximum(polling, 0)
    # Slept before the polling time was over: another task wanted the CPU, nobody knows when.
    split = waited & (slept > start) & (slept < end)
    # Rows: successful polling, or failed polling and then blocked.
    copies = 1 + split.astype(np.int64)
    source = np.repeat(np.arange(len(point)), copies)
    second = np.zeros(len(source), np.bool_)
    second[1:] = source[1:] == source[:-1]
    first_of_two = split[source] & ~second
    kind = np.where(~waited[source], POLL_SUCCESS, np.where(first_of_two, POLL_FAILURE, BLOCKED))
    return Halts(
        point[source],
        np.where(second, slept[source], start[source]),
        np.where(first_of_two, slept[source], end[source]),
        kind.astype(np.int8),
        ns[source],
    )
