"""Samples → columns: which event each belongs to, its stamp, its CPU, and where its tracepoint record lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.perfdata.framing import Frames
from hvtrace.parsers.perfdata.layout import CALLCHAIN, Attr, Layout
from hvtrace.parsers.recording import NotUnderstood

__all__ = ["Events", "Samples"]

Longs = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]

#: Told of the place of a sample that cannot be read, and its stamp where it has one.
Damaged = Callable[[int, int | None], None]

T = TypeVar("T", bound=np.generic)

#: Bytes every tracepoint record has: common_type to common_pid.
LEAST = np.int32(8)
#: A record has at most 64 KiB: larger counts are damage.
MAX_COUNT = np.uint64(1 << 13)


@dataclass(slots=True)
class Samples:
    """Samples that hold a tracepoint's record, in file order.

    `at` is the u32 index of that record, `length` its bytes, padding included.
    """

    at: Index
    length: npt.NDArray[np.int32]
    ts: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.uint16]

    def take(self, rows: Index) -> Samples:
        """Some of them."""
        return Samples(self.at.take(rows), self.length.take(rows), self.ts.take(rows), self.cpu.take(rows))

    def joined(self, more: Samples) -> Samples:
        """These, then `more`."""
        return Samples(
            np.concatenate([self.at, more.at]),
            np.concatenate([self.length, more.length]),
            np.concatenate([self.ts, more.ts]),
            np.concatenate([self.cpu, more.cpu]),
        )


class Events:
    """The recorded events: by them a sample's or another record's fields are found."""

    def __init__(self, attrs: Sequence[Attr]) -> None:
        self.attrs = [a for a in attrs if a.samples]
        layouts = list(dict.fromkeys(a.layout for a in self.attrs))
        self.layouts = layouts
        #: The layout of all samples, where there is but one.
        self.only: Layout | None = layouts[0] if len(layouts) == 1 else None
        pairs = sorted((number, n) for n, a in enumerate(attrs) for number in a.ids)
        self._all = list(attrs)
        self._ids = np.array([number for number, _ in pairs], np.uint64)
        self._owner = np.array([n for _, n in pairs], np.int64)
        # Events that never sample still are the source of other records.
        self._layout = np.array([layouts.index(a.layout) if a.samples else -1 for a in attrs], np.int64)
        self._ends = list({str(a.layout.trailer): a.layout.trailer for a in attrs}.values())
        self._end = np.array([self._ends.index(a.layout.trailer) for a in attrs], np.int64)
        self._cpu_ids = np.empty(0, np.uint64)
        self._cpus = np.empty(0, np.uint16)

    def fault(self) -> str | None:
        """What keeps the samples from being told apart or placed, if anything."""
        if not self.attrs:
            return "the file describes no recorded event"
        if self.only is None and self._id_place() is None:
            return "samples of several layouts bear no id at one place: they are read as the first event's"
        if any(x.readable and "cpu" not in x.place for x in self.layouts):
            return "samples do not tell their CPU: it is taken from their event's id where that tells, else 0"
        return None

    def set_cpus(self, ids: Longs, cpus: npt.NDArray[np.uint16]) -> None:
        """Tell the CPU of each sample id (ID_INDEX)."""
        order = np.argsort(ids, kind="stable")
        self._cpu_ids, self._cpus = ids[order], cpus[order]

    def cpu_of_id(self, ids: Longs, missing: int = 0) -> npt.NDArray[np.int64]:
        """CPU of sample ids, `missing` where it is not known."""
        if not len(self._cpu_ids):
            return np.full(len(ids), missing, np.int64)
        where = np.minimum(np.searchsorted(self._cpu_ids, ids), len(self._cpu_ids) - 1)
        return np.where(self._cpu_ids[where] == ids, self._cpus[where].astype(np.int64), missing)

    def _id_place(self) -> int | None:
        """Where samples bear their id, if all do at the same place."""
        places = {x.place.get("identifier", x.place.get("id")) for x in self.layouts}
        return places.pop() if len(places) == 1 else None

    def _owners(self, ids: Longs) -> Index:
        """Number of the attr of each id, -1 where no attr has it."""
        if not len(self._ids):
            return np.full(len(ids), -1, np.int64)
        where = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[where] == ids, self._owner[where], -1)

    def by_layout(
        self, longs: Longs, frames: Frames, unknown: NotUnderstood | None = None
    ) -> list[tuple[Layout, Frames]]:
        """Samples by their layout; those that hold no tracepoint's record are left out and counted."""
        if self.only is not None and (self.only.readable or len(self.attrs) == 1):
            if not self.only.readable:
                _count(unknown, self.attrs[0], len(frames.at))
                return []
            return [(self.only, frames)]
        place = self._id_place()
        if not self.attrs or place is None:
            if self.layouts and self.layouts[0].readable:
                return [(self.layouts[0], frames)]
            if unknown is not None and len(frames.at):
                unknown.add("a sample of an unknown event", len(frames.at))
            return []
        owner = self._owners(longs.take(frames.at + place, mode="clip"))
        counts = np.bincount(owner + 1, minlength=len(self._all) + 1).tolist()
        if unknown is not None:
            if counts[0]:
                unknown.add("a sample with an id of no event", counts[0])
            for attr, count in zip(self._all, counts[1:], strict=True):
                if count and not attr.layout.readable:
                    _count(unknown, attr, count)
        if self.only is not None:
            return []
        kind = np.where(owner < 0, -1, self._layout.take(owner))
        parts = []
        for n, layout in enumerate(self.layouts):
            rows = np.flatnonzero(kind == n)
            if layout.readable and len(rows):
                parts.append((layout, frames.take(rows)))
        return parts

    def trailers(self, longs: Longs, frames: Frames) -> list[tuple[dict[str, int], Index]]:
        """Rows of other records than samples, by where the fields lie that they end with."""
        rows = np.arange(len(frames.at))
        places = {end.get("identifier", end.get("id")) for end in self._ends}
        if len(self._ends) < 2 or len(places) > 1 or None in places:
            return [(self._ends[0] if self._ends else {}, rows)]
        (place,) = places
        last = frames.at + frames.size.astype(np.int64)
        owner = self._owners(longs.take(last - (place or 0), mode="clip"))
        kind = np.where(owner < 0, 0, self._end.take(owner))
        return [(end, rows[kind == n]) for n, end in enumerate(self._ends)]

    def stamps(self, longs: Longs, frames: Frames) -> tuple[Index, npt.NDArray[np.int64]]:
        """Place and stamp of the samples that hold a tracepoint's record, whole or not, in file order."""
        parts = [
            (part.at, _field(longs, part.at, layout.place["time"]).view(np.int64))
            for layout, part in self.by_layout(longs, frames)
        ]
        if len(parts) == 1:
            return parts[0]
        at = np.concatenate([np.empty(0, np.int64), *(p[0] for p in parts)])
        ts = np.concatenate([np.empty(0, np.int64), *(p[1] for p in parts)])
        order = np.argsort(at)
        return at[order], ts[order]

    def columns(
        self,
        longs: Longs,
        frames: Frames,
        unknown: NotUnderstood | None = None,
        damaged: Damaged | None = None,
    ) -> Samples:
        """Columns of the samples in `frames`; those too short for their layout are left out, and told of."""
        parts = [self._columns(longs, *part, damaged) for part in self.by_layout(longs, frames, unknown)]
        if len(parts) == 1:
            return parts[0]
        empty = np.empty(0, np.int64)
        every = Samples(empty, empty.astype(np.int32), empty, empty.astype(np.uint16))
        for part in parts:
            every = every.joined(part)
        return every.take(np.argsort(every.at))

    def _columns(self, longs: Longs, layout: Layout, frames: Frames, damaged: Damaged | None) -> Samples:
        start, place = frames.at, layout.place
        words = longs.view("<u4")
        twice = start << 1
        if layout.read is None and not layout.sample_type & CALLCHAIN:
            # RAW stands at one place: its length, then the record.
            at = twice + (2 * place["end"] + 1)
            size = _field(words, twice, 2 * place["end"]).view(np.int32)
            room = (frames.size.astype(np.int32) << np.int32(3)) - np.int32(8 * place["end"] + 4)
        else:
            at, size, room = _varying(longs, layout, frames)
        # A record has at least common_type and common_pid; what is longer than 2 GiB is negative here.
        whole = (size <= room) & (size >= LEAST)
        if not whole.all():
            if damaged is not None:
                short = np.flatnonzero(~whole)
                timed = frames.size[short].astype(np.int64) >= place["end"]
                ts = _field(longs, start[short], place["time"]).view(np.int64)
                for bad, stamp in zip(start[short].tolist(), np.where(timed, ts, 0).tolist(), strict=True):
                    damaged(bad, stamp or None)
            start, twice, at, size = start[whole], twice[whole], at[whole], size[whole]
        if "cpu" in place:
            cpu = _field(words, twice, 2 * place["cpu"]).astype(np.uint16)
        elif (number := place.get("identifier", place.get("id"))) is not None:
            cpu = self.cpu_of_id(_field(longs, start, number)).astype(np.uint16)
        else:
            cpu = np.zeros(len(start), np.uint16)
        return Samples(at, size, _field(longs, start, place["time"]).view(np.int64), cpu)


def _field(memory: npt.NDArray[T], at: Index, place: int) -> npt.NDArray[T]:
    """The numbers `place` behind each index `at`; where memory ends before, its last one."""
    return memory[min(place, len(memory) - 1) :].take(at, mode="clip")


def _varying(
    longs: Longs, layout: Layout, frames: Frames
) -> tuple[Index, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Where the record stands behind parts of varying length, its length, and the bytes there are for it."""
    end = 2 * (frames.at + frames.size.astype(np.int64))
    raw = 2 * (frames.at + layout.place["end"])
    if layout.read is not None:
        fixed, each = layout.read
        if each:
            raw += 2 * each * _number(longs, raw, end)
        raw += 2 * fixed
    if layout.sample_type & CALLCHAIN:
        raw += 2 + 2 * _number(longs, raw, end)
    size = longs.view("<u4").take(raw, mode="clip").view(np.int32)
    room = np.clip(4 * (end - raw - 1), -1, None).astype(np.int32)
    return raw + 1, size, room


def _number(longs: Longs, at: Index, end: Index) -> Index:
    """The u64 counts at u32 indices `at` (even), 0 where they are past the record's end, bounded."""
    count = np.minimum(longs.take(at >> 1, mode="clip"), MAX_COUNT).view(np.int64)
    return np.where(at < end, count, 0)


def _count(unknown: NotUnderstood | None, attr: Attr, count: int) -> None:
    if unknown is not None and count:
        unknown.add(f"a sample of {attr.label}: holds no tracepoint's record with its time", count)
