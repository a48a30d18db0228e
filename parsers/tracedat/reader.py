"""trace.dat as a recording: header, then windows of its CPUs' events merged by time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hvtrace.errors import InputError
from hvtrace.parsers.cursor import Cursor
from hvtrace.parsers.recording import Clock, Damage, Lost, NotUnderstood, Progress, Source, Threads, Window
from hvtrace.parsers.source import ENDS, Mapped
from hvtrace.parsers.tables import Comms, EventTables, Merged
from hvtrace.parsers.tracedat import version6, version7
from hvtrace.parsers.tracedat.layout import MAGIC, Buffer, Header, Tsc2Nsec
from hvtrace.parsers.tracedat.pages import CpuStream, open_streams
from hvtrace.parsers.tracedat.ringbuffer import LOST_UNKNOWN, decode_pages

__all__ = ["TraceDat", "is_tracedat"]

#: Bytes of pages held decoded at once, over all CPUs.
WINDOW_BYTES = 32 << 20

VERSIONS = {"6": version6.read_header, "7": version7.read_header}

#: Clocks whose stamps are no nanoseconds (Documentation/trace/ftrace.rst, "trace_clock").
TICK_CLOCKS = ("x86-tsc", "counter")


def is_tracedat(head: bytes) -> bool:
    """Whether a file that starts with `head` is a trace.dat."""
    return head.startswith(MAGIC)


def read_header(source: Mapped) -> Header:
    """Read all before the events. Raises InputError where nothing can be made of the file."""
    cursor = Cursor(source.data, source.path)
    if cursor.take(min(len(MAGIC), cursor.left), "the magic") != MAGIC:
        raise cursor.fail("not a trace.dat: its first bytes are not trace-cmd's", 0)
    text = cursor.string("the version")
    if text not in VERSIONS:
        raise cursor.fail(f"trace.dat version {text!r} is not supported (6 and 7 are)", len(MAGIC))
    big, long_size = cursor.numbers("BB", "the byte order")
    if big:
        raise cursor.fail("the recording is big-endian, which is not supported", cursor.at - 2)
    if long_size not in (4, 8):
        raise cursor.fail(f"a long of {long_size} bytes", cursor.at - 1)
    header = Header(int(text), long_size, cursor.u32("the page size"))
    VERSIONS[text](header, cursor)
    if not header.events:
        raise cursor.fail("the file holds no event formats")
    if header.version == 6 and header.page.data_size:
        # The page size in the file is the host's; sub-buffers can be larger.
        size = header.page.data_offset + header.page.data_size
        header.buffers = [Buffer(b.name, b.clock, size, b.cpus) for b in header.buffers]
    return header


@dataclass(slots=True)
class Pending:
    """Events of one CPU stream that are decoded but not yet handed over."""

    stream: CpuStream
    ts: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    at: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    length: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    last_ts: int | None = None
    #: Pages between the last ones and the next could not be read.
    hole: bool = False

    def add(
        self, ts: npt.NDArray[np.uint64], at: npt.NDArray[np.int64], length: npt.NDArray[np.int32]
    ) -> None:
        if len(ts):
            # Within a CPU the order is that of the buffer; a stamp that goes back must not change it.
            if self.last_ts is not None and len(self.ts) and ts[0] < self.ts[-1]:
                ts = np.maximum(ts, self.ts[-1])
            if (ts[1:] < ts[:-1]).any():
                ts = np.maximum.accumulate(ts)
            self.ts = np.concatenate([self.ts, ts])
            self.at = np.concatenate([self.at, at])
            self.length = np.concatenate([self.length, length])
            self.last_ts = int(ts[-1])

    def split(
        self, count: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Hand over the first `count` events."""
        head = self.ts[:count], self.at[:count], self.length[:count]
        self.ts, self.at, self.length = self.ts[count:], self.at[count:], self.length[count:]
        return head


class TraceDat:
    """A trace.dat, opened. `tsc_khz` converts x86-tsc stamps where the file has no TSC2NSEC option."""

    def __init__(self, path: str | os.PathLike[str], tsc_khz: int | None = None) -> None:
        self._mapped = Mapped(path)
        try:
            self._header = header = read_header(self._mapped)
        except InputError:
            self._mapped.close()
            raise
        if self._mapped.fault:
            header.damage.append(Damage(self._mapped.size, self._mapped.fault, ENDS in self._mapped.fault))
        self.source = Source(str(path), os.path.getsize(path), f"trace.dat {header.version}")
        clocks = {b.clock for b in header.buffers if b.clock} or {header.clock or "local"}
        if len(clocks) > 1:
            header.incomplete = True
            header.damage.append(Damage(0, f"buffers use several clocks: {', '.join(sorted(clocks))}"))
        self._scale: Tsc2Nsec | int | None = header.tsc2nsec
        name = sorted(clocks)[0] if None in clocks or header.clock not in clocks else str(header.clock)
        if name == "x86-tsc" and self._scale is None and tsc_khz:
            self._scale = tsc_khz
        if name == "tsc2nsec" or (name == "x86-tsc" and self._scale):
            self.clock = Clock(name, "ns", raw=self._scale is not None)
        else:
            self._scale = None
            self.clock = Clock(name, "ticks" if name in TICK_CLOCKS else "ns")
        uname = header.facts.get("uname", "").split()
        self.kernel = uname[2] if len(uname) > 2 else None
        self.facts = header.facts
        self.threads = Threads(comms={0: "<idle>", **header.comms}, guests=header.guests)
        #: Where ASCII trace text takes the place of binary buffers ("latency" recordings of version 6).
        self.text_offset = header.text_offset
        self.damage = header.damage
        self.not_understood = NotUnderstood()
        self._known_damage = len(self.damage)
        self._packed = False

    @property
    def formats(self) -> list[str]:
        """Names of the events whose formats the file carries."""
        return [event.name for event in self._header.events.values()]

    def close(self) -> None:
        """Release the file."""
        self._mapped.close()

    def windows(self, progress: Progress | None = None) -> Iterator[Window]:
        """Yield the events of all CPUs and buffers, merged by time; ties in the order of CPUs."""
        del self.damage[self._known_damage :]
        self.not_understood = NotUnderstood()
        space, streams = open_streams(self._header, self._mapped)
        self._packed = space.area is not self._mapped.data
        tables = EventTables(self._header.events, self.not_understood, self._short_record)
        comms = Comms(self.threads.comms)
        pending = [Pending(s) for s in streams]
        lost: list[Lost] = []
        if not pending:
            return
        if self._header.incomplete:
            # Nobody knows which CPUs are missing altogether.
            lost.append(Lost(None, None, None, None))
        share = max(WINDOW_BYTES // len(pending), 1 << 16)
        starved: set[int] = set()
        while True:
            self._fill(space.words, pending, share, starved, lost)
            for p in pending:
                if not p.stream.more and (p.stream.cut or p.hole):
                    p.stream.cut = p.hole = False
                    until = None if p.last_ts is None else self._ns_one(p.last_ts)
                    lost.append(Lost(p.stream.cpu, until, None, None))
            open_ends = [p for p in pending if p.stream.more]
            counts = self._cut(pending, open_ends)
            starved = {id(p) for p in open_ends if not len(p.ts)}
            if sum(counts) == 0 and open_ends:
                if not starved:
                    # Everything decoded bears one stamp: more is needed to see past it.
                    starved = {id(p) for p in open_ends}
            elif sum(counts) or (lost and not open_ends):
                yield self._window(space.words, tables, comms, pending, counts, lost)
                lost = []
            for p in pending:
                p.stream.release(int(p.at[0]) - 8 if len(p.at) else p.stream.word)
            if progress is not None:
                progress(sum(s.consumed for s in streams))
            if not open_ends:
                return

    def _fill(
        self,
        words: npt.NDArray[np.uint32],
        pending: list[Pending],
        share: int,
        starved: set[int],
        lost: list[Lost],
    ) -> None:
        """Decode more pages of the streams that run low, all in one go."""
        low = [p for p in pending if p.stream.more and (id(p) in starved or 16 * len(p.ts) < share // 4)]
        parts = [p.stream.load(max(share // (4 * p.stream.page_words), 1)) for p in low]
        if not parts:
            return
        pages = np.concatenate([p[0] for p in parts])
        sizes = np.concatenate([p[1] for p in parts])
        if not len(pages):
            return
        done = decode_pages(words, pages, sizes, self._header.page)
        for row, word in done.faults:
            # A page that the end of the file has cut is no wrong page.
            at_end = bool(pages[row] + sizes[row] >= len(words))
            self._fault(4 * word, "a ring-buffer page breaks off here", cut=at_end)
        broken = np.array(sorted({page for page, _ in done.faults}), np.int64)
        page = event = 0
        for p, (own, _) in zip(low, parts, strict=True):
            counts = done.count[page : page + len(own)]
            ends = event + np.cumsum(counts)
            # What follows a page that breaks off, or pages that could not be unpacked, follows a loss.
            inside = broken[(broken >= page) & (broken < page + len(own))] - page
            after = sorted({*(inside + 1).tolist(), *p.stream.holes, *([0] if p.hole else [])})
            p.hole = bool(after) and after[-1] >= len(own)
            after = [row for row in after if row < len(own) and not done.lost[page + row]]
            done.lost[[page + row for row in after]] = LOST_UNKNOWN
            for row in np.flatnonzero(done.lost[page : page + len(own)]).tolist():
                first = int(ends[row] - counts[row])
                before = int(done.ts[first - 1]) if first > event else p.last_ts
                number = int(done.lost[page + row])
                until = int(done.page_ts[page + row])
                lost.append(
                    Lost(
                        p.stream.cpu,
                        None if before is None else self._ns_one(before),
                        self._ns_one(until if before is None else max(until, before)),
                        None if number == LOST_UNKNOWN else number,
                    )
                )
            total = int(counts.sum())
            cut = slice(event, event + total)
            p.add(done.ts[cut], done.at[cut], done.length[cut])
            page, event = page + len(own), event + total

    def _cut(self, pending: list[Pending], open_ends: list[Pending]) -> list[int]:
        """How many events of each stream are certain to precede all that is not yet decoded."""
        if not open_ends:
            return [len(p.ts) for p in pending]
        if any(not len(p.ts) for p in open_ends):
            return [0] * len(pending)
        until = min(p.ts[-1] for p in open_ends)
        return [int(np.searchsorted(p.ts, until, "left")) for p in pending]

    def _window(
        self,
        words: npt.NDArray[np.uint32],
        tables: EventTables,
        comms: Comms,
        pending: list[Pending],
        counts: list[int],
        lost: list[Lost],
    ) -> Window:
        parts = [p.split(n) for p, n in zip(pending, counts, strict=True)]
        ts = np.concatenate([part[0] for part in parts])
        order = np.argsort(ts, kind="stable")
        raw = ts.take(order)
        cpu = np.repeat(np.array([p.stream.cpu for p in pending]).astype(np.uint16), counts)
        merged = Merged(
            words,
            np.concatenate([part[1] for part in parts]).take(order),
            np.concatenate([part[2] for part in parts]).take(order),
            self._ns(raw),
            cpu.take(order),
            raw if self.clock.raw else None,
        )
        window = tables.window(merged, comms.column)
        window.lost += lost
        return window

    def _ns(self, raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Stamps in ns: ticks scaled without overflow of 64 bits, plus the date offset."""
        ns = raw
        if isinstance(self._scale, int):
            khz = np.uint64(self._scale)
            ns = raw // khz * np.uint64(1_000_000) + raw % khz * np.uint64(1_000_000) // khz
        elif self._scale is not None:
            mult, shift = np.uint64(self._scale.mult), self._scale.shift
            # 128-bit product in two halves; ns itself wraps at 64 bits, as trace-cmd's does.
            low = (raw & np.uint64(0xFFFFFFFF)) * mult
            high = (raw >> np.uint64(32)) * mult + (low >> np.uint64(32))
            low &= np.uint64(0xFFFFFFFF)
            if shift <= 32:
                ns = (high << np.uint64(32 - shift)) + (low >> np.uint64(shift))
            else:
                ns = high >> np.uint64(shift - 32)
        return ns.view(np.int64) + np.int64(self._header.date_offset_ns)

    def _ns_one(self, raw: int) -> int:
        return int(self._ns(np.array([raw], np.uint64))[0])

    def _fault(self, offset: int, message: str, *, cut: bool = False) -> None:
        if self._packed:
            message += " (offset within the unpacked pages)"
        self.damage.append(Damage(offset, message, cut))

    def _short_record(self, word: int) -> None:
        self._fault(4 * word, "a record is shorter than its event's format says")
