"""Merged records → event tables: the last step of both binary parsers.

Given the records of a window in time order, group them by event and make each event's table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.parsers.eventformat import EventFormat
from hvtrace.parsers.recording import IRQ, Lost, NotUnderstood, Window
from hvtrace.parsers.records import Plan, Words, decode, numbers, packed, plan
from hvtrace.schema.arrow import DICTIONARY
from hvtrace.schema.common import COMMON_COLUMNS, RAW_STAMP
from hvtrace.schema.registry import BY_NAME

__all__ = ["Comms", "EventTables", "Merged", "Names"]

Index = npt.NDArray[np.int64]
#: Names a column of thread ids at a column of times (ns of the trace clock).
Names = Callable[[npt.NDArray[np.int32], npt.NDArray[np.int64]], pa.Array]
Groups = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

#: common_flags bits of events recorded in hard or soft interrupts or NMIs (include/linux/trace_events.h).
IN_INTERRUPT = np.uint8(0x08 | 0x10 | 0x40)

#: Every record begins with common_type u16, common_flags u8, common_preempt_count u8, common_pid s32.
FLAGS_AT, PID_AT, COMMON_SIZE = 2, 4, 8

#: Unreadable events of a CPU and window that are called lost one by one.
MAX_SINGLE = 100

_TYPES = {
    "seq": pa.uint64(),
    "ts_ns": pa.int64(),
    "ts_raw": pa.uint64(),
    "cpu": pa.uint16(),
    "tid": pa.int32(),
    "comm": DICTIONARY,
}
#: The common columns that a parser fills, in their order; `vm` and `vcpu` are not its business.
PARSED = tuple(c.name for c in COMMON_COLUMNS if c.name in _TYPES)


class Comms:
    """Thread names by id, looked up for whole columns."""

    #: Thread ids below this are looked up by index (the kernel's largest pid_max is 2**22).
    DIRECT = 1 << 22

    def __init__(self, names: dict[int, str]) -> None:
        distinct: dict[str, int] = {}
        known = {tid: distinct.setdefault(name, len(distinct)) for tid, name in names.items()}
        self._names = pa.array(list(distinct), pa.string())
        self._codes = np.full(min(max(known, default=0), self.DIRECT) + 2, -1, np.int32)
        for tid, code in known.items():
            if 0 <= tid <= self.DIRECT:
                self._codes[tid] = code

    def column(
        self, tid: npt.NDArray[np.int32], _ts: npt.NDArray[np.int64] | None = None
    ) -> pa.DictionaryArray:
        """Names of `tid`, null where unknown; these do not change with time."""
        # Ids that are too large, and negative ones, find the last code, which is nobody's.
        codes = self._codes.take(np.minimum(tid.view(np.uint32), len(self._codes) - 1))
        unknown = codes < 0
        indices = pa.array(codes, mask=unknown if unknown.any() else None)
        return pa.DictionaryArray.from_arrays(indices, self._names)


@dataclass(slots=True)
class Merged:
    """Records in merged time order: word index and bytes of each, stamp, CPU; `ts_raw` where it was converted."""

    words: Words
    at: Index
    length: npt.NDArray[np.int32]
    ts: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.uint16]
    ts_raw: npt.NDArray[np.uint64] | None = None


@dataclass(slots=True)
class EventTables:
    """Makes the tables of windows. `formats` are the recording's own, by event id (common_type)."""

    formats: dict[int, EventFormat]
    not_understood: NotUnderstood
    #: Called with the word index of a record too short for its event.
    damaged: Callable[[int], None]
    #: Names of events by id, as far as they are known without a format.
    names: dict[int, str] = field(default_factory=dict)
    _group: Groups = field(init=False)
    _plans: list[Plan] = field(init=False)
    _size: npt.NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        self._plans = _plans(self.formats.values())
        # Small numbers sort by radix. Group 0: events of no known format.
        few = len(self._plans) < 255
        self._group = np.zeros(1 << 16, np.uint8) if few else np.zeros(1 << 16, np.uint16)
        self._group[list(self.formats)] = np.arange(1, len(self._plans) + 1)
        # A whole record has its thread id, whatever a damaged format says.
        self._size = np.array([0, *(max(p.size, COMMON_SIZE) for p in self._plans)], np.int32)

    def window(self, merged: Merged, comms: Names) -> Window:
        """Return the window of `merged`; `comms` names its threads."""
        group = self._group.take(merged.words.take(merged.at) & np.uint32(0xFFFF))
        whole = merged.length >= self._size.take(group)
        lost: list[Lost] = []
        if not (group.all() and whole.all()):
            merged, group, lost = self._readable(merged, group, whole)
        counts = np.bincount(group, minlength=len(self._plans) + 1)
        order = np.argsort(group, kind="stable")
        tables: dict[str, list[pa.RecordBatch]] = {}
        stop = 0
        for number, todo in enumerate(self._plans, 1):
            start, stop = stop, stop + int(counts[number])
            if start == stop:
                continue
            rows = order[start:stop]
            batch = self._table(todo, merged, rows, comms)
            tables.setdefault(todo.tracepoint, []).append(batch)
        return Window({name: _one(parts) for name, parts in tables.items()}, len(order), lost)

    def _readable(
        self, merged: Merged, group: Groups, whole: npt.NDArray[np.bool_]
    ) -> tuple[Merged, Groups, list[Lost]]:
        """Leave out records of no known format, and those too short for theirs: count both, and call them lost."""
        unknown = np.flatnonzero(group == 0)
        ids, counts = np.unique(merged.words.take(merged.at[unknown]) & np.uint32(0xFFFF), return_counts=True)
        for number, count in zip(ids.tolist(), counts.tolist(), strict=True):
            name = f" ({self.names[number]})" if number in self.names else ""
            self.not_understood.add(f"event id {number}{name}: the file has no format of it", count)
        for row in np.flatnonzero(~whole).tolist():
            self.damaged(int(merged.at[row]))
        keep = (group != 0) & whole
        raw = None if merged.ts_raw is None else merged.ts_raw[keep]
        left = Merged(
            merged.words, merged.at[keep], merged.length[keep], merged.ts[keep], merged.cpu[keep], raw
        )
        ids = merged.words.take(merged.at) & np.uint32(0xFFFF)
        gone = ~whole | ((group == 0) & ~np.isin(ids, list(self.names)))
        return left, group[keep], _losses(merged.cpu[gone], merged.ts[gone])

    def _table(
        self,
        todo: Plan,
        merged: Merged,
        rows: Index,
        comms: Names,
    ) -> pa.RecordBatch:
        at, length = merged.at.take(rows), merged.length.take(rows)
        records = packed(merged.words, at, max(todo.size, COMMON_SIZE))
        who, ts = np.ascontiguousarray(numbers(records, PID_AT, "<i4")), merged.ts.take(rows)
        common = {
            "seq": pa.array(rows.view(np.uint64)),
            "ts_ns": pa.array(ts),
            "cpu": pa.array(merged.cpu.take(rows)),
            "tid": pa.array(who),
            "comm": comms(who, ts),
        }
        names, columns = list(common), list(common.values())
        if todo.interruptible:
            names.append(IRQ)
            columns.append(pa.array(numbers(records, FLAGS_AT, "u1") & IN_INTERRUPT != 0))
        if merged.ts_raw is not None:
            names.insert(2, RAW_STAMP.name)
            columns.insert(2, pa.array(merged.ts_raw.take(rows)))
        names += [c.name for c in todo.columns]
        columns += decode(merged.words, at, length.astype(np.int64), todo, records)
        return pa.RecordBatch.from_arrays(columns, names=names)


def _plans(formats: Iterable[EventFormat]) -> list[Plan]:
    """One plan a format. A format with a name already taken, but other columns, gets a table of its own."""
    out = []
    columns: dict[str, list[str]] = {}
    for event in formats:
        todo = plan(event, BY_NAME.get(event.name))
        own = [f"{c.name} {c.type}" for c in todo.columns]
        if columns.setdefault(todo.tracepoint, own) != own:
            todo = replace(todo, tracepoint=f"{todo.tracepoint}.{event.id}")
        out.append(todo)
    return out


def _losses(cpu: npt.NDArray[np.uint16], ts: npt.NDArray[np.int64]) -> list[Lost]:
    """Single events that could not be read, as losses; many of one CPU as one interval."""
    losses = []
    for number in np.unique(cpu).tolist():
        stamps = ts[cpu == number].tolist()
        if len(stamps) <= MAX_SINGLE:
            losses += [Lost(number, stamp, stamp, 1) for stamp in stamps]
        else:
            losses.append(Lost(number, stamps[0], stamps[-1], len(stamps)))
    return losses


def _one(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Several tables of one name (an event and its older name) as one, in `seq` order."""
    if len(parts) == 1:
        return parts[0]
    table = pa.Table.from_batches([p.cast(parts[0].schema) for p in parts]).sort_by("seq").combine_chunks()
    return table.to_batches()[0]
