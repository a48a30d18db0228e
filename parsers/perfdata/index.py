"""First pass over the records: where they are and from what time on, names of threads, losses.

With the least stamp of every span of the file known, windows of exact time order can be handed over whatever the
order of the file: recorders write one CPU's buffer after the other, and say with FINISHED_ROUND only that all were
visited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.ahead import ahead
from hvtrace.parsers.perfdata.area import Area, Stretch
from hvtrace.parsers.perfdata.framing import BATCH, Attempt, Framer, Frames
from hvtrace.parsers.perfdata.kept import LARGEST, KeptSizes
from hvtrace.parsers.perfdata.layout import ID_INDEX, RECORDS, RecordType
from hvtrace.parsers.perfdata.samples import Events, Samples
from hvtrace.parsers.perfdata.threads import MAX_TID, NAME_SIZE, Renames
from hvtrace.parsers.recording import Damage, Lost, NotUnderstood

__all__ = ["Index", "Spans", "make_index"]

Numbers = npt.NDArray[np.int64]
Report = Callable[[int], None]

#: u64 in a span (64 KiB).
SPAN = 1 << 13
#: Losses listed one by one.
MAX_LOST = 1 << 17
#: Host CPUs.
MAX_CPUS = 1 << 16
LOW = np.uint64(0xFFFFFFFF)
#: Types of records are told apart below this.
MAX_KIND = 128
#: misc bit of LOST_SAMPLES that a filter dropped on purpose (PERF_RECORD_MISC_LOST_SAMPLES_BPF).
FILTERED = 1 << 15

_BY_NUMBER = {r.number: r for r in RECORDS}


@dataclass(slots=True)
class Spans:
    """Spans of SPAN u64 that have samples, in file order; places in u64 of the area.

    `number` of each, where its `first` record begins and its last one ends, the `stop` of its stretch, the
    `least` stamp of its samples; `place` and `count` of the sizes of its records, where they are kept (else -1).
    """

    number: Numbers
    first: Numbers
    end: Numbers
    stop: Numbers
    least: Numbers
    place: Numbers
    count: Numbers


@dataclass(slots=True)
class Index:
    """What the first pass found."""

    area: Area
    sizes: KeptSizes
    spans: Spans = field(default_factory=lambda: Spans(*[np.empty(0, np.int64)] * len(fields(Spans))))
    renames: Renames = field(default_factory=Renames)
    tgids: dict[int, int] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    unknown: NotUnderstood = field(default_factory=NotUnderstood)
    damage: list[Damage] = field(default_factory=list)
    #: Whether samples are missing of which neither CPU nor time is known.
    cut: bool = False

    def samples(self, rows: Numbers) -> Frames:
        """Samples of some spans (rows of `spans`, ascending), in file order."""
        spans = self.spans
        known = spans.place[rows] >= 0
        kept, others = rows[known], rows[~known]
        frames = self.sizes.samples(spans.place[kept], spans.count[kept], spans.first[kept], spans.end[kept])
        if not len(others):
            return frames
        # Neighbours are followed together.
        number = spans.number[others]
        breaks = np.flatnonzero((np.diff(number) != 1) | (np.diff(spans.stop[others]) != 0)) + 1
        more = [self._again(run) for run in np.split(others, breaks)]
        at = np.concatenate([frames.at, *(x.at for x in more)])
        size = np.concatenate([frames.size.astype(np.uint64), *(x.size for x in more)])
        return Frames(at, size).take(np.argsort(at, kind="stable"))

    def _again(self, rows: Numbers) -> Frames:
        """Samples of spans that follow one another, found as they were at first; damage is not told again."""
        framer = Framer(self.area.longs, lambda at, until: None)
        stop = int(self.spans.stop[rows[0]])
        last = min((int(self.spans.number[rows[-1]]) + 1) * SPAN, stop)
        place = int(self.spans.first[rows[0]])
        parts = []
        for first in range(int(self.spans.number[rows[0]]) * SPAN, last, BATCH):
            attempt = framer.attempt(first, min(first + BATCH, last), stop)
            frames, others, place = framer.settle(attempt, place)
            parts.append(frames.without(others))
        return Frames(np.concatenate([x.at for x in parts]), np.concatenate([x.size for x in parts]))


def make_index(area: Area, events: Events, progress: Report | None = None) -> Index:
    """Go over all records once. Raises framing.CompressedError where some are compressed."""
    builder = _Builder(area, events)
    framer = Framer(area.longs, builder.broken)
    done = 0
    for stretch in area.stretches:
        builder.add(stretch, framer, done, progress)
        done += 8 * (stretch.stop - stretch.start)
    return builder.finish()


def _attempts(stretch: Stretch, framer: Framer) -> Iterator[Attempt]:
    for first in range(stretch.start // SPAN * SPAN, stretch.stop, BATCH):
        yield framer.attempt(first, min(first + BATCH, stretch.stop), stretch.stop)


def _by_cpu(lost: list[Lost]) -> list[Lost]:
    """Return one interval a CPU that holds all its losses."""
    out: dict[int | None, Lost] = {}
    for x in lost:
        y = out.setdefault(x.cpu, x)
        if x is not y:
            since = None if None in (x.from_ns, y.from_ns) else min(x.from_ns or 0, y.from_ns or 0)
            until = None if None in (x.to_ns, y.to_ns) else max(x.to_ns or 0, y.to_ns or 0)
            count = None if None in (x.count, y.count) else (x.count or 0) + (y.count or 0)
            out[x.cpu] = Lost(x.cpu, since, until, count)
    return list(out.values())


class _Builder:
    def __init__(self, area: Area, events: Events) -> None:
        self._area = area
        self._events = events
        self._stretch = Stretch(0, 0, 0)
        #: Whether damage reaches to the stretch's end, and places where there are no records in this batch.
        self._cut = False
        self._holes: list[tuple[int, int]] = []
        self.index = Index(area, KeptSizes(len(area.longs)))
        self._parts: list[tuple[Numbers, ...]] = []
        self._before: Frames | None = None
        #: By thread id: 1 + its process, 0 unknown. By CPU: stamp of a late sample of it so far, 0 none.
        self._process = np.zeros(MAX_TID, np.int32)
        self._last = np.zeros(MAX_CPUS, np.int64)
        #: Counts by CPU: reported when they occurred, and as a total at the end.
        self._told: dict[int | None, int] = {}
        self._totals: dict[int | None, int] = {}

    def add(self, stretch: Stretch, framer: Framer, done: int, progress: Report | None) -> None:
        """Index one stretch."""
        self._stretch, self._cut = stretch, False
        place = stretch.start
        for attempt in ahead(_attempts(stretch, framer)):
            frames, others, place = framer.settle(attempt, place)
            self._look(frames, others, np.arange(attempt.first, attempt.limit, SPAN) // SPAN)
            self._area.release(max(attempt.first, stretch.start), attempt.limit)
            if progress is not None:
                progress(done + 8 * (attempt.limit - stretch.start))
        if stretch.tail and not self._cut:
            message = f"the records end with {stretch.tail} bytes that are no record"
            self.index.damage.append(Damage(stretch.offset_of(stretch.stop), message, cut=True))
            self.index.cut = True

    def finish(self) -> Index:
        """Put the parts together."""
        index = self.index
        if self._parts:
            index.spans = Spans(*(np.concatenate(part) for part in zip(*self._parts, strict=True)))
        known = np.flatnonzero(self._process)
        index.tgids = dict(zip(known.tolist(), (self._process[known] - 1).tolist(), strict=True))
        # What the kernel reported as it happened it counts again in each event's total.
        for cpu, total in sorted(self._totals.items(), key=lambda item: -1 if item[0] is None else item[0]):
            rest = total - self._told.get(cpu, 0)
            if rest > 0:
                since = int(self._last[cpu]) if cpu is not None else 0
                index.lost.append(Lost(cpu, since or None, None, rest))
        if index.renames.dropped:
            index.unknown.add("a name of a thread, after more than are kept", index.renames.dropped)
        index.lost.sort(key=lambda x: (x.to_ns is None, x.to_ns or 0))
        return index

    def _look(self, frames: Frames, others: Numbers, spans: Numbers) -> None:
        samples = frames.without(others)
        start, ts = self._events.stamps(self._area.longs, samples)
        if len(ts):
            self._spans(frames, others, start, ts, spans)
            self._processes(samples)
        if len(others):
            self._others(frames.take(others), samples)
        if self._holes:
            self._gaps(samples)
        self._before = samples

    def _spans(self, frames: Frames, others: Numbers, start: Numbers, ts: Numbers, spans: Numbers) -> None:
        """Note each span that has samples: where its records are and its least stamp."""
        bounds = [*(spans * SPAN).tolist(), self._stretch.stop]
        edges = np.searchsorted(start, bounds)
        there = np.flatnonzero(edges[1:] > edges[:-1])
        least = np.minimum.reduceat(ts, edges[there])
        edges = np.searchsorted(frames.at, bounds)
        head, count = edges[there], np.diff(edges)[there]
        first, tail = frames.at[head], head + count - 1
        end = frames.at[tail] + frames.size[tail].astype(np.int64)
        # Sizes tell the places only where the records are small and one follows the other.
        ends = np.append(np.cumsum(frames.size, dtype=np.int64), 0)
        gapless = ends[tail] - ends[head - 1] == end - first
        large = frames.at[np.flatnonzero(frames.size > np.uint64(LARGEST))] // SPAN
        place = self.index.sizes.add(frames, others)
        keeps = (
            gapless & ~np.isin(spans[there], large) if place is not None else np.zeros(len(there), np.bool_)
        )
        stop = np.full(len(there), self._stretch.stop)
        places = np.where(keeps, head + (place or 0), -1)
        self._parts.append((spans[there], first, end, stop, least, places, count))

    def _processes(self, frames: Frames) -> None:
        """Take process and thread id of samples."""
        longs = self._area.longs
        for layout, part in self._events.by_layout(longs, frames):
            if "thread" in layout.place:
                pair = longs.take(part.at + layout.place["thread"], mode="clip")
                # Many samples of one thread stand together.
                pair = pair[np.flatnonzero(np.append(pair[1:] != pair[:-1], True))]
                self._pairs((pair & LOW).view(np.int64), (pair >> np.uint64(32)).view(np.int64))

    def _pairs(self, process: Numbers, thread: Numbers) -> None:
        if len(thread) and (int(thread.max()) >= MAX_TID or int(process.max()) >= MAX_TID):
            good = (thread < MAX_TID) & (process < MAX_TID)
            process, thread = process[good], thread[good]
        self._process[thread] = process + 1

    def _others(self, frames: Frames, samples: Frames) -> None:
        """Records that are no samples, by their type."""
        kinds = np.minimum(self._area.longs.take(frames.at) & LOW, np.uint64(MAX_KIND))
        # CPUs by id are known first.
        for number in sorted(np.unique(kinds).tolist(), key=lambda number: number != ID_INDEX):
            rows = np.flatnonzero(kinds == number)
            part = frames.take(rows)
            record = _BY_NUMBER.get(number)
            if record is None:
                types = np.unique(self._area.longs.take(part.at) & LOW, return_counts=True)
                for value, count in zip(types[0].tolist(), types[1].tolist(), strict=True):
                    self.index.unknown.add(f"a record of type {value}", count)
                continue
            if record.thread is not None:
                self._threads(record, part)
            if record.name == "COMM":
                self._names(part)
            elif record.name == "FORK":
                self._forks(part)
            elif record.number == ID_INDEX:
                self._cpus(part)
            elif record.lost is not None:
                self._losses(record, part, samples)

    def _field(self, frames: Frames, word: int) -> Numbers:
        """The u32 at `word` of each record, 0 where the record is too short."""
        words = self._area.words
        value = words.take(2 * frames.at + word, mode="clip").astype(np.int64)
        return np.where(2 * frames.size.astype(np.int64) > word, value, 0)

    def _long(self, frames: Frames, word: int) -> Numbers:
        """The same of a u64."""
        high = self._field(frames, word + 1)
        return self._field(frames, word) | high << 32

    def _trailing(self, frames: Frames, name: str) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """The u64 of that name at the end of each record, and which records have it."""
        longs = self._area.longs
        value, there = np.zeros(len(frames.at), np.int64), np.zeros(len(frames.at), np.bool_)
        size = frames.size.astype(np.int64)
        for places, rows in self._events.trailers(longs, frames):
            if name in places:
                rows = rows[size[rows] > places[name]]
                value[rows] = longs.take(frames.at[rows] + size[rows] - places[name]).view(np.int64)
                there[rows] = True
        return value, there

    def _threads(self, record: RecordType, frames: Frames) -> None:
        assert record.thread is not None
        process, thread = (self._field(frames, word) for word in record.thread)
        self._pairs(process, thread)

    def _names(self, frames: Frames) -> None:
        time, _ = self._trailing(frames, "time")
        room = (8 * frames.size.astype(np.int64) - 16).clip(0, NAME_SIZE)
        place = 8 * frames.at[:, None] + 16 + np.arange(NAME_SIZE)
        text = self._area.longs.view(np.uint8).take(place, mode="clip")
        text[np.arange(NAME_SIZE) >= room[:, None]] = 0
        self.index.renames.add_names(time, self._field(frames, 3), text)

    def _forks(self, frames: Frames) -> None:
        # {pid, ppid, tid, ptid, u64 time}
        self.index.renames.add_forks(self._long(frames, 6), self._field(frames, 4), self._field(frames, 5))

    def _cpus(self, frames: Frames) -> None:
        """ID_INDEX: u64 count, each {u64 id, index, CPU, thread}."""
        longs = self._area.longs
        parts = []
        for at, size in zip(frames.at.tolist(), frames.size.tolist(), strict=True):
            count = min(int(longs[at + 1]), (size - 2) // 4) if size >= 2 else 0
            parts.append(longs[at + 2 : at + 2 + 4 * count].reshape(count, 4))
        rows = np.concatenate(parts)
        rows = rows[rows[:, 2] < MAX_CPUS]
        self._events.set_cpus(rows[:, 0], rows[:, 2].astype(np.uint16))

    def _losses(self, record: RecordType, frames: Frames, every: Frames) -> None:
        """LOST as it happened, between the CPU's sample before it and the record; LOST_SAMPLES at the end: totals."""
        assert record.lost is not None
        count = self._long(frames, record.lost)
        time, timed = self._trailing(frames, "time")
        cpu, known = self._trailing(frames, "cpu")
        cpu &= 0xFFFFFFFF
        ids, named = self._trailing(frames, "identifier")
        by_id = self._events.cpu_of_id(ids.view(np.uint64), -1)
        misc = self._area.longs.take(frames.at) >> np.uint64(32) & np.uint64(0xFFFF)
        total = np.full(len(time), record.name == "LOST_SAMPLES") & ~(timed & (time > 0))
        # A total is written by the recorder, not on the CPU: its id tells where.
        where = np.where(known & ~total & (cpu < MAX_CPUS), cpu, np.where(named, by_id, -1))
        if self._before is not None:
            before = self._events.columns(self._area.longs, self._before)
            self._last[before.cpu] = before.ts
        since = self._since(frames.at, where, self._events.columns(self._area.longs, every))
        keep = np.flatnonzero((record.name != "LOST_SAMPLES") | (misc & np.uint64(FILTERED) == 0))
        rows = (column[keep].tolist() for column in (count, time, where, total, since))
        for number, stamp, place, is_total, before in zip(*rows, strict=True):
            cpu_of = None if place < 0 else place
            counts = self._totals if is_total else self._told
            counts[cpu_of] = counts.get(cpu_of, 0) + number
            if not is_total:
                until = stamp if stamp > 0 else None
                start = min(before, until) if until else before
                self.index.lost.append(Lost(cpu_of, start or None, until, number))
        if len(self.index.lost) > MAX_LOST:
            self.index.lost = _by_cpu(self.index.lost)

    def _since(self, at: Numbers, cpu: Numbers, samples: Samples) -> Numbers:
        """Stamp of the CPU's last sample before each record at `at`, in the order of the file; 0 where none.

        A negative CPU stands for any.
        """
        stop = np.searchsorted(samples.at, 2 * at)
        if not len(samples.ts):
            return np.where(cpu < 0, 0, self._last[cpu])
        count = len(samples.ts)
        keys = samples.cpu.astype(np.int64) * count + np.arange(count)
        keys.sort()
        row = keys[np.maximum(np.searchsorted(keys, cpu * count + stop) - 1, 0)]
        own = (row // count == cpu) & (row % count < stop)
        row = np.where(own, row % count, np.maximum(stop - 1, 0))
        there = own | (cpu < 0) & (stop > 0)
        return np.where(there, samples.ts[row], np.where(cpu < 0, 0, self._last[cpu]))

    def _gaps(self, every: Frames) -> None:
        """Samples may have been where there are no records: those of the CPU around, where there is but one."""
        samples = self._events.columns(self._area.longs, every)
        for at, _ in self._holes:
            row = int(np.searchsorted(samples.at, 2 * at))
            if 0 < row < len(samples.at) and samples.cpu[row - 1] == samples.cpu[row]:
                since, until = sorted(samples.ts[row - 1 : row + 1].tolist())
                self.index.lost.append(Lost(int(samples.cpu[row]), since, until, None))
            else:
                self.index.cut = True
        self._holes = []

    def broken(self, at: int, until: int) -> None:
        offset = self._stretch.offset_of(at)
        if until >= self._stretch.stop:
            self._cut = self.index.cut = True
            message = f"no record begins here: the last {8 * (until - at)} bytes of records are not read"
        else:
            self._holes.append((at, until))
            message = f"no record begins here: {8 * (until - at)} bytes are passed over"
        if not self._stretch.plain:
            message += " (of decompressed records)"
        self.index.damage.append(Damage(offset, message))
