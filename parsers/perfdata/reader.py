"""perf.data as a recording: header, a first pass over its records, then windows of samples in order of time."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hvtrace.errors import InputError
from hvtrace.parsers.ahead import ahead
from hvtrace.parsers.perfdata.area import Area, Part, in_place, spooled
from hvtrace.parsers.perfdata.framing import CompressedError
from hvtrace.parsers.perfdata.header import is_perf_directory, read_header
from hvtrace.parsers.perfdata.index import SPAN, Index, make_index
from hvtrace.parsers.perfdata.samples import Events, Samples
from hvtrace.parsers.perfdata.threads import ThreadNames
from hvtrace.parsers.recording import Clock, Damage, Lost, NotUnderstood, Progress, Source, Threads, Window
from hvtrace.parsers.source import ENDS, Mapped
from hvtrace.parsers.tables import EventTables, Merged

__all__ = ["PerfData"]

Numbers = npt.NDArray[np.int64]

#: Spans whose samples are taken up in one go (32 MiB).
BATCH = 512
#: Spans at the end in which every busy CPU is taken to occur (128 MiB).
VISIT = 2048
#: Places of damage within samples that are listed; the others are counted.
MAX_LISTED = 100
#: Data files of a directory: "data.0", "data.1", ...
MAX_FILES = 1 << 12


@dataclass(slots=True)
class Step:
    """What a batch of spans gave: spans taken (rows of the index), how many are done with it, whether all are;
    samples that are now complete in order of time; places of samples too short to read; what was not understood.
    """

    taken: Numbers
    done: int
    last: bool
    merged: Merged | None = None
    short: list[tuple[int, int | None]] = field(default_factory=list)
    unknown: NotUnderstood = field(default_factory=NotUnderstood)

    def add_short(self, at: int, stamp: int | None) -> None:
        """Note a sample that is too short."""
        self.short.append((at, stamp))

    def losses(self) -> list[Lost]:
        """Samples too short, as losses: each where it was, many as one."""
        if len(self.short) <= MAX_LISTED:
            return [Lost(None, stamp, stamp, 1) for _, stamp in self.short]
        stamps = [stamp for _, stamp in self.short]
        known = [stamp for stamp in stamps if stamp is not None]
        whole = len(known) == len(stamps)
        return [Lost(None, min(known) if whole else None, max(known) if whole else None, len(stamps))]


class PerfData:
    """A perf.data file, pipe or directory, opened."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._mapped: list[Mapped] = []
        self._area: Area | None = None
        self._index: Index | None = None
        directory = is_perf_directory(path)
        try:
            first = Mapped(os.path.join(path, "data") if directory else path)
            self._mapped.append(first)
            self._header = header = read_header(first)
            self._parts = [Part(first, header.start, header.stop)]
            for name in _data_files(path) if directory else ():
                self._mapped.append(Mapped(name))
                self._parts.append(Part(self._mapped[-1], 0, self._mapped[-1].size))
        except InputError:
            self.close()
            raise
        for mapped in self._mapped:
            if mapped.fault:
                header.damage.append(Damage(mapped.size, mapped.fault, ENDS in mapped.fault))
        if not header.events:
            header.damage.append(Damage(first.size, "the file holds no event formats (tracing data)"))
        self._events = Events(header.attrs)
        if fault := self._events.fault():
            header.damage.append(Damage(0, fault))
        kind = "perf.data pipe" if header.pipe else "perf.data directory" if directory else "perf.data"
        size = sum(os.path.getsize(m.path) for m in self._mapped)
        self.source = Source(str(path), size, kind)
        self.clock = Clock(header.clock)
        self.facts = dict(header.facts)
        self.kernel = self.facts.pop("os release", None)
        self.threads = Threads()
        self.damage: list[Damage] = list(header.damage)
        self.not_understood = NotUnderstood()
        self._cut = 0

    @property
    def formats(self) -> list[str]:
        """Names of the events whose formats the file carries."""
        return [event.name for event in self._header.events.values()]

    def close(self) -> None:
        """Release the files."""
        self._area = self._index = None
        for mapped in self._mapped:
            mapped.close()

    def windows(self, progress: Progress | None = None) -> Iterator[Window]:
        """Yield all samples by time; those of one stamp in the order of the file."""
        self.damage[:] = self._header.damage
        self.not_understood = NotUnderstood()
        self._cut = 0
        area, index = self._open(progress)
        self.damage += index.damage
        _add(self.not_understood, index.unknown)
        names = ThreadNames(index.renames)
        self.threads.comms.update(names.last)
        self.threads.tgids.update(index.tgids)
        tables = EventTables(self._header.events, self.not_understood, self._short_record, self._names())
        lost = list(index.lost)
        if self._header.cut or index.cut or any(m.fault for m in self._mapped):
            lost.append(Lost(None, self._visited(area, index), None, None))
        ends = [x.to_ns for x in lost if x.to_ns is not None]
        told = 0
        found: list[Lost] = []
        report = self._share(progress, 1)
        for step in ahead(self._steps(area, index)):
            self._take_notes(step)
            found += step.losses()
            merged = step.merged
            if merged is not None:
                since, until = int(merged.ts[0]), int(merged.ts[-1])
                window = tables.window(merged, names.between(since, until))
                passed = len(lost) if step.last else bisect_right(ends, until)
                window.lost += found + lost[told:passed]
                found, told = [], passed
                yield window
            _release(area, index.spans.number[step.taken])
            if report is not None:
                report(8 * SPAN * step.done)
        if found or told < len(lost):
            yield Window({}, 0, found + lost[told:])
        if self._cut > MAX_LISTED:
            self.damage.append(
                Damage(0, f"{self._cut - MAX_LISTED} more samples are shorter than they should be")
            )

    def _names(self) -> dict[int, str]:
        """Names of tracepoints by number, also of those without a format."""
        return {a.config & 0xFFFF: a.name for a in self._header.attrs if a.layout.tracepoint and a.name}

    def _open(self, progress: Progress | None) -> tuple[Area, Index]:
        """The records' place and the first pass over them, made when first asked for."""
        if self._area is None or self._index is None:
            found: list[Damage] = []
            area = None
            if len(self._parts) == 1 and not self._header.compressed:
                area = in_place(self._parts[0])
            report = self._share(progress, 0)
            try:
                area = area or spooled(self._parts, found, compressed=self._header.compressed)
                index = make_index(area, self._events, report)
            except CompressedError:
                # Nothing had announced them.
                found.clear()
                area = spooled(self._parts, found, compressed=True)
                index = make_index(area, self._events, report)
            index.damage[:0] = found
            index.cut |= bool(found)
            self._area, self._index = area, index
        return self._area, self._index

    def _share(self, progress: Progress | None, base: int) -> Progress | None:
        """Progress of one of the two passes, each half of the whole."""
        if progress is None:
            return None
        report, size = progress, self.source.size

        def consumed(done: int) -> None:
            whole = sum(8 * (s.stop - s.start) for s in self._area.stretches) if self._area else 0
            whole = whole or max(sum(p.stop - p.start for p in self._parts), 1)
            report(size * base // 2 + min(size * done // (2 * whole), size // 2))

        return consumed

    def _steps(self, area: Area, index: Index) -> Iterator[Step]:
        """Take up spans in order of their least stamps; hand over what precedes all spans not yet taken up."""
        least = index.spans.least
        order = np.argsort(least, kind="stable")
        left: Samples | None = None
        for start in range(0, len(order), BATCH):
            taken = np.sort(order[start : start + BATCH])
            done = start + len(taken)
            step = Step(taken, done, done >= len(order))
            samples = self._events.columns(area.longs, index.samples(taken), step.unknown, step.add_short)
            if left is not None and len(left.ts):
                samples = left.joined(samples)
            until = None if step.last else int(least[order[done]])
            now, left = _split(samples, until)
            if len(now.ts):
                step.merged = Merged(area.words, now.at, now.length, now.ts, now.cpu)
            yield step

    def _visited(self, area: Area, index: Index) -> int | None:
        """Return a stamp up to which nothing is missing at the end: the recorder had been at every CPU since then."""
        count = len(index.spans.number)
        frames = index.samples(np.arange(max(count - VISIT, 0), count))
        samples = self._events.columns(area.longs, frames)
        last = np.full(1 << 16, np.iinfo(np.int64).max)
        last[samples.cpu] = samples.ts
        return int(last.min()) if len(samples.ts) else None

    def _take_notes(self, step: Step) -> None:
        for at, _ in step.short:
            self._fault(8 * at, "a sample is shorter than its event's layout says")
        _add(self.not_understood, step.unknown)

    def _short_record(self, word: int) -> None:
        self._fault(4 * word, "a record is shorter than its event's format says")

    def _fault(self, place: int, message: str) -> None:
        self._cut += 1
        if self._cut <= MAX_LISTED:
            stretches = self._area.stretches if self._area else []
            own = next((s for s in stretches if 8 * s.start <= place < 8 * s.stop), None)
            self.damage.append(Damage(own.offset_of(place // 8) if own else place, message))


def _add(notes: NotUnderstood, more: NotUnderstood) -> None:
    notes.count += more.count
    for sample in more.samples:
        if sample not in notes.samples:
            notes.add(sample, 0)


def _data_files(path: str | os.PathLike[str]) -> list[str]:
    """The data files of a directory beside "data", in order of their numbers."""
    numbers = (name.removeprefix("data.") for name in os.listdir(path) if name.startswith("data."))
    found = sorted(int(n) for n in numbers if n.isascii() and n.isdigit() and len(n) < 8)
    return [os.path.join(path, f"data.{n}") for n in found[:MAX_FILES]]


def _split(samples: Samples, until: int | None) -> tuple[Samples, Samples | None]:
    """Samples before `until` in order of time, those of one stamp in file order; and the others."""
    order = np.argsort(samples.ts, kind="stable")
    ts = samples.ts.take(order)
    same = np.flatnonzero(ts[1:] == ts[:-1])
    if len(same) and (samples.at[order[same + 1]] < samples.at[order[same]]).any():
        order = np.lexsort((samples.at, samples.ts))
    if until is None:
        return samples.take(order), None
    count = int(np.searchsorted(ts, until, "left"))
    return samples.take(order[:count]), samples.take(order[count:])


def _release(area: Area, spans: Numbers) -> None:
    """Give back the memory of spans (ascending), run by run."""
    ends = np.flatnonzero(np.diff(spans) != 1)
    first = spans[np.concatenate([[0], ends + 1])]
    last = spans[np.concatenate([ends, [len(spans) - 1]])]
    for start, stop in zip(first.tolist(), last.tolist(), strict=True):
        area.release(start * SPAN, (stop + 1) * SPAN)
