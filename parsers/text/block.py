"""One block of whole lines → event tables and what else the lines say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from hvtrace.parsers.recording import IRQ
from hvtrace.parsers.text.cursor import I64, LONGEST_RUN, Text
from hvtrace.parsers.text.events import EventReader, Rows
from hvtrace.parsers.text.holes import Hole, hole_at, holes_between, unread_events
from hvtrace.parsers.text.interner import Interner
from hvtrace.parsers.text.prefix import Dialect, Lines, interned, split
from hvtrace.parsers.text.strings import string_column
from hvtrace.schema.arrow import DICTIONARY
from hvtrace.schema.common import RAW_STAMP
from hvtrace.schema.registry import BY_NAME
from hvtrace.schema.tracepoint import Context

__all__ = ["Block", "BlockReader", "Stamps"]

#: Characters of a line that is no event that are looked at.
LONGEST_SAMPLE = 1000
_NEWLINE, _SPACE, _RETURN = 0x0A, 0x20, 0x0D
#: What tracers print for a thread whose name they do not know.
_UNKNOWN_COMM = re.compile(r"<\.\.\.>|:-?\d+")
#: The column of a tracepoint that is not declared: its text as it is.
TEXT_COLUMN = "text"
#: The third flag character of an event recorded outside interrupts.
_NO_INTERRUPT = ord(".")

#: Lines that are no events and yet understood: comments, headers, call chains, the report's own lines.
_KNOWN_LINES = r"^(#.*|(\S+: *)?(cpus=\d+|version = \d+|CPU \d+ is empty)|\s*|\t.*|\s+[0-9a-f]{8,16} .*)$"
_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_LOST_LINE = r"CPU:(\d+) \[(?:LOST )?(\d*) ?EVENTS(?: DROPPED)?\]"
#: A line that is no event, but may have been one.
_CUT_LINE = r"\[\d{3,}\]|kvm_"
_STARTED_LINE = r"^#+ CPU \d+ buffer started #+$"
_WRITTEN = r"entries-in-buffer/entries-written: (\d+)/(\d+)"


@dataclass(frozen=True, slots=True)
class Stamps:
    """How the recording's time stamps are written.

    `ticks`: whole numbers are ticks of the clock. Otherwise stamps are seconds with a fraction, and a whole number is
    so many times `whole_ns` (trace-cmd prints the first second that way).
    """

    ticks: bool
    whole_ns: int = 1000
    #: Where known, ticks are cycles of the TSC and this is its frequency: stamps are converted to ns.
    tsc_khz: int | None = None


@dataclass(slots=True)
class Block:
    """What one block of lines holds. `tables` as in a Window; `samples` are lines not understood."""

    lines: int
    tables: dict[str, pa.RecordBatch] = field(default_factory=dict)
    events: int = 0
    first_ns: int | None = None
    #: Last stamp of each CPU.
    last_ns: dict[int, int] = field(default_factory=dict)
    #: First stamp of each CPU.
    start_ns: dict[int, int] = field(default_factory=dict)
    lost: list[Hole] = field(default_factory=list)
    #: (entries in the buffer, entries written) from the header, if it is in this block.
    written: tuple[int, int] | None = None
    #: Whether a line says that a CPU's buffer starts here: earlier events of it were overwritten.
    started: bool = False
    comms: dict[int, str] = field(default_factory=dict)
    tgids: dict[int, int] = field(default_factory=dict)
    headers: list[str] = field(default_factory=list)
    not_understood: int = 0
    samples: list[str] = field(default_factory=list)


def line_ends(text: Text) -> tuple[I64, I64, I64]:
    """Where lines start, where they end, and where their last character that is not blank ends."""
    breaks = text.positions(_NEWLINE)
    if text.size and text.bytes[text.size - 1] != _NEWLINE:
        breaks = np.append(breaks, text.size)
    start = np.empty_like(breaks)
    if len(start):
        start[0] = 0
        start[1:] = breaks[:-1] + 1
    end = breaks.copy()
    rows = np.arange(len(end))
    for _ in range(LONGEST_RUN):
        if not len(rows):
            break
        last = text.bytes[np.maximum(end[rows] - 1, 0)]
        rows = rows[((last == _SPACE) | (last == _RETURN)) & (end[rows] > start[rows])]
        end[rows] -= 1
    return start, breaks, end


class BlockReader:
    """Reads blocks of one recording. It remembers names and layouts; not for several threads at once."""

    #: Samples of a kind of line that one block gives at most.
    SAMPLES = 20
    #: Different names of undeclared tracepoints taken; more are a sign that the lines are something else.
    UNDECLARED = 1024

    def __init__(self, dialect: Dialect, stamps: Stamps, kernel: bool = True) -> None:
        """`kernel` is true for text the kernel itself printed, false for libtraceevent's."""
        self.dialect = dialect
        self.kernel = kernel
        self.stamps = stamps
        self._readers: dict[str, EventReader] = {}
        self._comm_codes, self._comms = Interner(), list[str]()
        self._name_codes, self._names = Interner(), list[str]()
        self._usable: list[bool] = []
        self._undeclared = 0
        self._threads = Interner()

    def read(self, data: bytes) -> Block:
        """Read a block of whole lines."""
        text = Text(data)
        start, _, end = line_ends(text)
        block = Block(lines=len(start))
        lines, others = split(text, start, end, self.dialect)
        lines, others = self._named(text, lines, others)
        ts = self._stamps(lines)
        if len(lines.line):
            lines, ts = self._in_order(lines, ts)
            self._tables(block, text, lines, ts)
            block.first_ns = int(ts[0])
        if len(others):
            self._others(block, text, others, start, end, lines, ts)
        return block

    def _named(self, text: Text, lines: Lines, others: I64) -> tuple[Lines, I64]:
        """The lines with codes for their tracepoints' names; what cannot be an event is put to the others."""
        if self._name_codes.trim():
            self._names.clear()
            self._usable.clear()
        lines.name = interned(
            self._name_codes, self._names, text, lines.name, lines.name_start, lines.name_end
        ).astype(np.uint64)
        for name in self._names[len(self._usable) :]:
            usable = name in BY_NAME
            if not usable and _NAME.fullmatch(name) and self._undeclared < self.UNDECLARED:
                self._undeclared += 1
                usable = True
            self._usable.append(usable)
        last = _LAST_TICK if self.stamps.ticks else _LAST_SECOND
        good = np.array(self._usable, dtype=np.bool_)[lines.name]
        good &= (lines.whole <= last) & (lines.tid >= -1) & (lines.tid < 1 << 31)
        if good.all():
            return lines, others
        return lines.take(np.flatnonzero(good)), np.sort(np.append(others, lines.line[~good]))

    def _stamps(self, lines: Lines) -> I64:
        """Stamps in ns (ticks where the clock counts ticks)."""
        whole = lines.whole.view(np.int64)
        if self.stamps.tsc_khz is not None:
            khz = np.uint64(self.stamps.tsc_khz)
            million = np.uint64(1_000_000)
            return (lines.whole // khz * million + lines.whole % khz * million // khz).view(np.int64)
        if self.stamps.ticks:
            return whole
        scale = _TEN_TO[9 - lines.fraction_digits]
        exact = whole * 1_000_000_000 + lines.fraction.view(np.int64) * scale
        return np.where(lines.fraction_digits > 0, exact, whole * self.stamps.whole_ns)

    def _in_order(self, lines: Lines, ts: I64) -> tuple[Lines, I64]:
        if len(ts) < 2 or bool((ts[1:] >= ts[:-1]).all()):
            return lines, ts
        order = np.argsort(ts, kind="stable")
        return lines.take(order), ts[order]

    def _tables(self, block: Block, text: Text, lines: Lines, ts: I64) -> None:
        self._forget()
        comm = interned(self._comm_codes, self._comms, text, lines.comm, lines.comm_start, lines.comm_end)
        name = lines.name
        self._cpu_stamps(block, lines, ts)
        comms = pa.array(self._comms, type=pa.string())
        flagged = bool(lines.context.any())
        unknown = np.array([_UNKNOWN_COMM.fullmatch(c) is not None for c in self._comms], dtype=np.bool_)[
            comm
        ]
        has_unknown = bool(unknown.any())
        self._thread_names(block, lines, comm, np.flatnonzero(~unknown))
        # Small integers are sorted by counting.
        order = np.argsort(name.astype(np.uint16) if len(self._names) < 1 << 16 else name, kind="stable")
        counts = np.bincount(name.view(np.int64), minlength=len(self._names))
        batches: dict[str, list[tuple[I64, Rows]]] = {}
        kept = np.ones(len(ts), dtype=np.bool_)
        at = 0
        for code in np.flatnonzero(counts).tolist():
            rows = order[at : at + counts[code]]
            at += counts[code]
            title, read = self._event(block, text, lines, rows, self._names[code])
            if not read.understood.all():
                kept[rows[~read.understood]] = False
                rows, read = rows[read.understood], read.only_understood()
            if len(rows):
                batches.setdefault(title, []).append((rows, read))
        rank = np.arange(len(ts))
        if not kept.all():
            rank = np.cumsum(kept) - 1
            block.lost += unread_events(lines.cpu, ts, kept)
        block.events = int(kept.sum())
        for title, parts in batches.items():
            rows = parts[0][0] if len(parts) == 1 else np.concatenate([r for r, _ in parts])
            columns = parts[0][1].columns
            if len(parts) > 1:
                rows, columns = _put_together(rows, [read.columns for _, read in parts])
            table = {"seq": pa.array(rank[rows].view(np.uint64)), "ts_ns": pa.array(ts[rows])}
            if self.stamps.tsc_khz is not None:
                table[RAW_STAMP.name] = pa.array(lines.whole[rows])
            cpu = lines.cpu[rows]
            no_cpu = (cpu < 0) | (cpu > 0xFFFF)
            table["cpu"] = pa.array(cpu.astype(np.uint16), mask=no_cpu if no_cpu.any() else None)
            table["tid"] = pa.array(lines.tid[rows].astype(np.int32))
            table["comm"] = pa.DictionaryArray.from_arrays(
                pa.array(comm[rows], mask=unknown[rows] if has_unknown else None), comms
            )
            if flagged and _may_be_interrupt(title):
                context = lines.context[rows]
                table[IRQ] = pa.array(context != _NO_INTERRUPT, mask=context == 0)
            table.update(zip(parts[0][1].names, columns, strict=True))
            block.tables[title] = pa.RecordBatch.from_pydict(table)

    def _event(self, block: Block, text: Text, lines: Lines, rows: I64, name: str) -> tuple[str, Rows]:
        """The table's name and columns for the lines of one event name."""
        start, end = lines.start[rows], lines.end[rows]
        tracepoint = BY_NAME.get(name)
        if tracepoint is None:
            column = string_column(text, start, end).dictionary_encode().cast(DICTIONARY)
            return name, Rows([column], [TEXT_COLUMN], np.ones(len(rows), dtype=np.bool_))
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = EventReader(tracepoint, self.kernel)
        read = reader.read(text, start, end)
        if not read.understood.all():
            wrong = np.flatnonzero(~read.understood)
            block.not_understood += len(wrong)
            for row in wrong[: self.SAMPLES].tolist():
                line = rows[row]
                said = text.slice(int(start[row]), int(end[row])).decode("utf-8", "replace")
                block.samples.append(f"{int(lines.line[line])}\0{name}: {said}")
        return tracepoint.name, read

    def _forget(self) -> None:
        """Keep what is remembered of names within bounds."""
        if self._comm_codes.trim():
            self._comms.clear()
        self._threads.trim()

    def _thread_names(self, block: Block, lines: Lines, comm: npt.NDArray[np.int32], named: I64) -> None:
        """Each thread's last name and group; `named` are the rows with a name that is known."""
        for row in self._last_of_threads(lines.tid, named):
            block.comms[int(lines.tid[row])] = self._comms[comm[row]]
        for row in self._last_of_threads(lines.tid, np.flatnonzero(lines.tgid >= 0)):
            block.tgids[int(lines.tid[row])] = int(lines.tgid[row])

    def _last_of_threads(self, tid: I64, rows: I64) -> list[int]:
        """Of these rows, the last one of each thread."""
        codes, _ = self._threads.codes(tid[rows].view(np.uint64))
        last = np.full(len(self._threads), -1, dtype=np.int64)
        last[codes] = rows
        found: list[int] = last[last >= 0].tolist()
        return found

    def _cpu_stamps(self, block: Block, lines: Lines, ts: I64) -> None:
        cpus, first = _few(lines.cpu) or np.unique(lines.cpu, return_index=True)
        reverse = lines.cpu[::-1]
        for cpu, row in zip(cpus.tolist(), first.tolist(), strict=True):
            block.start_ns[cpu] = int(ts[row])
            block.last_ns[cpu] = int(ts[len(ts) - 1 - int(np.argmax(reverse == cpu))])

    def _others(
        self, block: Block, text: Text, others: I64, start: I64, end: I64, lines: Lines, ts: I64
    ) -> None:
        """Lines that are no events: headers, losses, and what is not understood."""
        # Places between events are told by line numbers, so events are looked at in the order of their lines.
        by_line = np.argsort(lines.line, kind="stable")
        line, cpus, ts = lines.line[by_line], lines.cpu[by_line], ts[by_line]
        shown = np.minimum(end[others], start[others] + LONGEST_SAMPLE)
        said = pl.Series(string_column(text, start[others], shown), dtype=pl.String)
        written = said.str.extract_groups(_WRITTEN).struct.unnest().drop_nulls()
        if written.height:
            block.written = (_number(written[0, 0]), _number(written[0, 1]))
        block.started = bool(said.str.contains(_STARTED_LINE).any())
        block.headers = said.filter(said.str.starts_with("#")).head(100).to_list()
        lost = said.str.extract_groups(_LOST_LINE).struct.unnest()
        is_lost = lost.to_series(0).is_not_null()
        for cpu, counts, at in _by_cpu(lost.filter(is_lost), others[is_lost.to_numpy()]):
            of_cpu = np.flatnonzero(cpus == cpu)
            places, stamps = np.searchsorted(line[of_cpu], at), ts[of_cpu]
            for count, place in zip(counts, places.tolist(), strict=True):
                number = _number(count) if count else None
                block.lost.append(hole_at(cpu, number, stamps, place, place))
        strange = ~(is_lost | said.str.contains(_KNOWN_LINES))
        block.not_understood += int(strange.sum())
        rows = np.flatnonzero(strange.to_numpy())
        for row in rows[: self.SAMPLES].tolist():
            block.samples.append(f"{int(others[row])}\0{said[row]}")
        cut = np.flatnonzero((strange & said.str.contains(_CUT_LINE)).to_numpy())
        block.lost += holes_between(None, ts, np.searchsorted(line, others[cut]), False)


#: Larger stamps are no stamps: they do not fit 63 bits of ns (or ticks).
_LAST_SECOND = np.uint64(9_000_000_000)
_LAST_TICK = np.uint64((1 << 63) - 1)
_TEN_TO = np.array([10**i for i in range(10)], dtype=np.int64)


def _may_be_interrupt(name: str) -> bool:
    """Whether attribution asks where an event of this tracepoint was recorded."""
    tracepoint = BY_NAME.get(name)
    return tracepoint is None or tracepoint.context not in (Context.VCPU, Context.NONE)


def _number(digits: str | None) -> int:
    """A number of the text, cut to what fits 63 bits."""
    return min(int((digits or "0")[:19]), (1 << 63) - 1)


def _by_cpu(lost: pl.DataFrame, lines: I64) -> Iterator[tuple[int, list[str], I64]]:
    """Lines that tell of losses (CPU and count as they stand there) by CPU: number, counts, line numbers."""
    numbered = lost.with_columns(pl.Series("line", lines))
    for (cpu,), rows in numbered.group_by("1", maintain_order=True):
        yield _number(str(cpu)), rows["2"].to_list(), rows["line"].to_numpy()


def _few(cpu: I64) -> tuple[I64, I64] | None:
    """Distinct CPU numbers and the first row of each, where they are small; None where they are not."""
    if not len(cpu) or int(cpu.max()) > 4096:
        return None
    counts = np.bincount(cpu + 1)
    cpus = np.flatnonzero(counts) - 1
    return cpus, np.array([int(np.argmax(cpu == c)) for c in cpus], dtype=np.int64)


def _put_together(rows: I64, parts: list[list[pa.Array]]) -> tuple[I64, list[pa.Array]]:
    """Columns of one table that came under several names, in the order of their rows."""
    order = np.argsort(rows, kind="stable")
    columns = []
    for pieces in zip(*parts, strict=True):
        column = pa.chunked_array(list(pieces)).unify_dictionaries().combine_chunks()
        columns.append(column.take(pa.array(order)))
    return rows[order], columns
