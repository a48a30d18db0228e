r"""The part of a line before the event's text: thread, CPU, time stamp, event name.

    ftrace, report    ` qemu-system-x86-206     ( 200) [001] d..1.    16.754942: kvm_entry: `
    perf script       ` qemu-system-x86   206 [001]    16.754942:        kvm:kvm_entry: `

Tracers write the thread's name right-aligned in sixteen columns, and names have at most fifteen characters: lines
of that form are split by position. Other lines (columns changed, names cut, blanks lost) go through a pattern.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.parsers.text.cursor import I64, LONGEST_RUN, U64, Flags, Text
from hvtrace.parsers.text.interner import Interner, mix
from hvtrace.parsers.text.strings import string_column

__all__ = ["PATTERNS", "Dialect", "Lines", "split"]

#: How a tracer's tools write a line: "ftrace" (ftrace and trace-cmd report) or "perf" (perf script).
Dialect = str

_COMM_WIDTH = 16
_LONGEST_NAME = 64
#: What follows a thread's name in ftrace's and trace-cmd's lines.
_THREAD = re.compile(rb"-\d+ +(\( *[\d-]+\) +)?\[\d+\] ")
_SPACE, _DASH, _COLON, _DOT = b" -:."

#: A longer line is no event: ftrace's own lines have at most a few KiB.
LONGEST_EVENT = 1 << 16
#: And so is a shorter one.
SHORTEST_EVENT = len("a-1 [0] 1: e:")

#: For lines that are not aligned: tried in this order.
PATTERNS: dict[Dialect, tuple[str, ...]] = {
    "ftrace": (
        # As above, with any width of columns.
        r"^\s*(?P<comm>\S.*?|)-(?P<tid>\d+)\s+(?:\(\s*(?:(?P<tgid>\d+)|-+)\s*\)\s*)?\[(?P<cpu>\d+)\]"
        r"\s+(?:(?P<flags>[^\s\d]\S{0,8})\s+)?(?P<sec>\d+)(?:\.(?P<frac>\d{1,9}))?:\s+(?:\(\+\d+\)\s+)?"
        r"(?P<event>[A-Za-z_]\w*):(?: |$)\s*(?P<text>.*)$",
        # trace-cmd report -l: the name cut to eight columns, CPU and flags in one.
        r"^\s*(?P<comm>\S.*?|)-(?P<tid>\d+)\s+(?P<tgid>\b\B)?(?P<cpu>\d+)(?P<flags>[^\s\d]\S{0,8})?"
        r"\s+(?P<sec>\d+)(?:\.(?P<frac>\d{1,9}))?:\s+(?P<event>[A-Za-z_]\w*):(?: |$)\s*(?P<text>.*)$",
    ),
    "perf": (
        r"^\s*(?P<comm>\S.*?|)\s+(?:(?P<tgid>\d+)/\s*)?(?P<tid>-?\d+)\s+(?P<flags>\b\B)?(?:\[(?P<cpu>\d+)\]\s+)?"
        r"(?P<sec>\d+)\.(?P<frac>\d{1,9}):\s+(?:\d+\s+)?(?:[\w-]+:)?(?P<event>[A-Za-z_]\w*):(?: |$)\s*"
        r"(?P<text>.*)$",
    ),
}


@dataclass(slots=True)
class Lines:
    """Lines split. All arrays have one entry a line that is an event; `line` is its number in the block.

    `comm` and `name` are keys (see `Interner`) whose characters stand at `comm_start`..`comm_end` and
    `name_start`..`name_end`; `start` and `end` bound the event's text. `tgid` and `cpu` are -1 where not given.
    `context` is the third of the flag characters (a dot: not in an interrupt), 0 where there are none. `fraction`
    has `fraction_digits` digits, 0 where the stamp is one whole number.
    """

    line: I64
    comm: U64
    comm_start: I64
    comm_end: I64
    tid: I64
    tgid: I64
    cpu: I64
    context: npt.NDArray[np.uint8]
    whole: U64
    fraction: U64
    fraction_digits: I64
    name: U64
    name_start: I64
    name_end: I64
    start: I64
    end: I64

    def take(self, rows: npt.NDArray[np.int64]) -> Lines:
        """The lines of these rows, in this order."""
        return Lines(*(getattr(self, f.name)[rows] for f in fields(self)))

    @staticmethod
    def joined(parts: list[Lines]) -> Lines:
        """The lines of several, by line number."""
        if len(parts) == 1:
            return parts[0]
        whole = Lines(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Lines)))
        return whole.take(np.argsort(whole.line, kind="stable"))


def _keys(text: Text, start: I64, end: I64) -> U64:
    """A key for the characters from `start` to `end` (up to _LONGEST_NAME of them)."""
    key = np.zeros(len(start), dtype=np.uint64)
    rows = np.arange(len(start))
    for offset in range(0, _LONGEST_NAME, 8):
        at = start[rows] + offset
        left = np.minimum(end[rows] - at, 8)
        words = text.at(at) & _MASKS[left]
        key[rows] = mix(key[rows], words)
        rows = rows[left == 8]
        if not len(rows):
            break
    return key


_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)


class _Aligned:
    """Splits aligned lines by position. `fits` tells which lines were."""

    def __init__(self, text: Text, start: I64, end: I64, dialect: Dialect) -> None:
        self.text = text
        self.end = end
        self.fits: Flags = end - start > _COMM_WIDTH + 2
        self.start = np.where(self.fits, start, 0)
        self.perf = dialect == "perf"
        self.cursor = self.start + _COMM_WIDTH

    def require(self, here: Flags) -> None:
        self.fits &= here

    def advance(self, by: I64 | int | Flags) -> None:
        self.cursor = np.minimum(self.cursor + by, self.text.size)

    def skip_blanks(self) -> None:
        self.cursor = np.minimum(self.text.skip(self.cursor, _SPACE), self.text.size)

    def number(self) -> U64:
        value, length = self.text.decimal(self.cursor)
        self.require(length > 0)
        self.advance(length)
        return value

    def expect(self, literal: bytes) -> None:
        self.require(self.text.matches(self.cursor, literal))
        self.advance(len(literal))

    def split(self) -> Lines:
        text = self.text
        comm = mix(text.at(self.start), text.at(np.minimum(self.start + 8, text.size)))
        self.require(text.char(self.cursor) == (_SPACE if self.perf else _DASH))
        self.advance(1)
        if self.perf:
            self.skip_blanks()
        tid = self.number()
        tgid = np.full(len(tid), -1, dtype=np.int64)
        if self.perf:
            self.pid_and_tid(tid, tgid)
        self.skip_blanks()
        if not self.perf:
            self.group(tgid)
        cpu = self.cpu()
        self.skip_blanks()
        context = np.zeros(len(tid), dtype=np.uint8)
        if not self.perf:
            self.flags(context)
        whole = self.number()
        fraction, digits = self.fraction()
        self.expect(b": ")
        self.skip_blanks()
        name_start, name_end = self.name()
        self.skip_blanks()
        begin = np.minimum(self.cursor, self.end)
        rows = np.flatnonzero(self.fits)
        split = Lines(
            line=rows,
            comm=comm,
            comm_start=self.start,
            comm_end=self.start + _COMM_WIDTH,
            tid=tid.view(np.int64),
            tgid=tgid,
            cpu=cpu,
            context=context,
            whole=whole,
            fraction=fraction,
            fraction_digits=digits,
            name=name_start.view(np.uint64),
            name_start=name_start,
            name_end=name_end,
            start=begin,
            end=self.end,
        )
        if len(rows) < len(self.fits):
            split.line = np.arange(len(self.fits))
            split = split.take(rows)
        split.name = _keys(text, split.name_start, split.name_end)
        return split

    def pid_and_tid(self, tid: U64, tgid: I64) -> None:
        """`pid/tid`, which perf script prints when asked for both."""
        rows = np.flatnonzero(self.text.char(self.cursor) == ord("/"))
        if not len(rows):
            return
        after = self.text.skip(self.cursor[rows] + 1, _SPACE)
        value, length = self.text.decimal(after)
        self.fits[rows] &= length > 0
        tgid[rows] = tid[rows].view(np.int64)
        tid[rows] = value
        self.cursor[rows] = np.minimum(after + length, self.text.size)

    def group(self, tgid: I64) -> None:
        """`( 1234) ` or `(-----) `: the thread group, where the recording has it."""
        rows = np.flatnonzero(self.text.char(self.cursor) == ord("("))
        if not len(rows):
            return
        at = self.text.skip(self.cursor[rows] + 1, _SPACE)
        value, length = self.text.decimal(at)
        tgid[rows] = np.where(length > 0, value.view(np.int64), -1)
        at = self.text.skip(at + length, _DASH)
        self.fits[rows] &= self.text.char(np.minimum(at, self.text.size)) == ord(")")
        self.cursor[rows] = np.minimum(self.text.skip(at + 1, _SPACE), self.text.size)

    def cpu(self) -> I64:
        """`[001]`, which perf script may leave out."""
        here = self.text.char(self.cursor) == ord("[")
        if self.perf and not here.all():
            rows = np.flatnonzero(here)
            cpu = np.full(len(here), -1, dtype=np.int64)
            value, length = self.text.decimal(self.cursor[rows] + 1)
            cpu[rows] = value.view(np.int64)
            at = np.minimum(self.cursor[rows] + 1 + length, self.text.size)
            self.fits[rows] &= (length > 0) & self.text.matches(at, b"] ")
            self.cursor[rows] = at + 1
            return cpu
        self.require(here)
        self.advance(1)
        value = self.number()
        self.expect(b"] ")
        return value.view(np.int64)

    def flags(self, context: npt.NDArray[np.uint8]) -> None:
        """`d..1.`: interrupt and preemption flags, in the columns some tools leave out. Never starts with a digit."""
        char = self.text.char(self.cursor)
        rows = np.flatnonzero((char < ord("0")) | (char > ord("9")))
        if len(rows):
            context[rows] = self.text.char(np.minimum(self.cursor[rows] + 2, self.text.size))
            limit = np.minimum(self.end[rows], self.cursor[rows] + 10)
            at = self.text.find(self.cursor[rows], _SPACE, limit)
            self.cursor[rows] = np.minimum(self.text.skip(at, _SPACE), self.text.size)

    def fraction(self) -> tuple[U64, I64]:
        here = self.text.char(self.cursor) == _DOT
        value, digits = self.text.decimal(np.where(here, self.cursor + 1, self.cursor))
        if not here.all():
            value[~here] = 0
            digits[~here] = 0
        self.require((digits > 0) == here)
        self.require(digits <= 9)
        self.advance(digits + here)
        return value, digits

    def name(self) -> tuple[I64, I64]:
        """`kvm_entry: ` or, from perf, `kvm:kvm_entry: `."""
        start = self.cursor
        end = self.text.find(start, _COLON, np.minimum(self.end, start + _LONGEST_NAME))
        if self.perf:
            rows = np.flatnonzero(self.text.char(np.minimum(end + 1, self.text.size)) != _SPACE)
            if len(rows):
                start = start.copy()
                start[rows] = np.minimum(end[rows] + 1, self.text.size)
                limit = np.minimum(self.end[rows], start[rows] + _LONGEST_NAME)
                end[rows] = self.text.find(start[rows], _COLON, limit)
        self.require((end > start) & (self.text.char(end) == _COLON))
        after = self.text.char(np.minimum(end + 1, self.text.size))
        self.require((after == _SPACE) | (end + 1 >= self.end))
        self.cursor = np.minimum(end + 1, self.text.size)
        return start, end


def _moved(text: Text, lines: I64, start: I64, end: I64) -> Lines | None:
    """Split those of the lines that are aligned but for a margin: `name: `, or as many blanks.

    trace-cmd report writes the buffer's or the file's name there if there are several.
    """
    first = next((text.slice(start[i], end[i]) for i in lines[:1].tolist()), b"")
    thread = _THREAD.search(first)
    if thread is None or not 0 < thread.start() - _COMM_WIDTH <= _LONGEST_NAME:
        return None
    margin = thread.start() - _COMM_WIDTH
    moved = np.minimum(start[lines] + margin, end[lines])
    split = _Aligned(text, moved, end[lines], "ftrace").split()
    split = split.take(np.flatnonzero(text.char(split.comm_start - 1) == _SPACE))
    split.line = lines[split.line]
    return split


def _patterned(text: Text, lines: I64, start: I64, end: I64, dialect: Dialect) -> list[Lines]:
    """Split by pattern those of the lines (block numbers, places) that have one."""
    result: list[Lines] = []
    for pattern in PATTERNS[dialect]:
        if not len(lines):
            break
        strings = pl.Series(string_column(text, start, end), dtype=pl.String)
        groups = strings.str.extract_groups(pattern).struct.unnest()
        fits = groups["sec"].is_not_null().to_numpy()
        rows = np.flatnonzero(fits)
        if not len(rows):
            continue
        found = groups.filter(pl.Series(fits))

        def number(name: str, absent: int = -1, found: pl.DataFrame = found) -> I64:
            column = found[name].cast(pl.Int64, strict=False).fill_null(absent)
            return np.asarray(column.to_numpy(), dtype=np.int64)

        def length(name: str, found: pl.DataFrame = found) -> I64:
            return np.asarray(found[name].fill_null("").str.len_bytes().to_numpy(), dtype=np.int64)

        # What precedes the name, and what lies between it and the text, is measured from the line's ends.
        blanks = np.asarray(
            strings.gather(rows).str.extract(r"^(\s*)", 1).str.len_bytes().to_numpy(),
            dtype=np.int64,
        )
        comm_start = start[rows] + blanks
        comm_end = comm_start + length("comm")
        text_start = end[rows] - length("text")
        name_end = _back_to(text, text_start, _COLON)
        name_start = name_end - length("event")
        split = Lines(
            line=lines[rows],
            comm=_keys(text, comm_start, comm_end),
            comm_start=comm_start,
            comm_end=comm_end,
            tid=number("tid"),
            tgid=number("tgid"),
            cpu=number("cpu"),
            context=_third(found["flags"]),
            whole=number("sec", 0).view(np.uint64),
            fraction=number("frac", 0).view(np.uint64),
            fraction_digits=length("frac"),
            name=_keys(text, name_start, name_end),
            name_start=name_start,
            name_end=name_end,
            start=text_start,
            end=end[rows],
        )
        result.append(split)
        rest = np.flatnonzero(~fits)
        lines, start, end = lines[rest], start[rest], end[rest]
    return result


def _third(flags: pl.Series) -> npt.NDArray[np.uint8]:
    """Code of the third character of each string, 0 where there is none."""
    third = flags.cast(pl.String).str.slice(2, 1).fill_null("")
    codes = {c: ord(c) for c in third.unique().to_list() if c and ord(c) < 128}
    return np.asarray(
        third.replace_strict(codes, default=0, return_dtype=pl.UInt8).to_numpy(), dtype=np.uint8
    )


def _back_to(text: Text, position: I64, byte: int) -> I64:
    """The last `byte` before each position."""
    result = position - 1
    rows = np.arange(len(position))
    for _ in range(LONGEST_RUN):
        if not len(rows):
            break
        rows = rows[(text.char(result[rows]) != byte) & (result[rows] > 0)]
        result[rows] -= 1
    return result


def split(text: Text, start: I64, end: I64, dialect: Dialect) -> tuple[Lines, I64]:
    """Split lines that start and end (blanks at the end not counted) at these places of the text.

    Gives the lines that are events, and the numbers of those that are not (without empty ones).
    """
    long_enough = end - start >= SHORTEST_EVENT
    if long_enough.all():
        aligned = _Aligned(text, start, end, dialect).split()
        if len(aligned.line) == len(start):
            return aligned, np.zeros(0, dtype=np.int64)
    else:
        rows = np.flatnonzero(long_enough)
        aligned = _Aligned(text, start[rows], end[rows], dialect).split()
        aligned.line = rows[aligned.line]
    rest = end > start
    rest[aligned.line] = False
    others = np.flatnonzero(rest & long_enough & (end - start < LONGEST_EVENT))
    parts = [aligned]
    if dialect == "ftrace" and (moved := _moved(text, others, start, end)) is not None:
        parts.append(moved)
        rest[moved.line] = False
        others = others[rest[others]]
    parts += _patterned(text, others, start[others], end[others], dialect)
    for part in parts[1:]:
        rest[part.line] = False
    return Lines.joined(parts), np.flatnonzero(rest)


def interned(
    interner: Interner, names: list[str], text: Text, keys: U64, start: I64, end: I64
) -> npt.NDArray[np.int32]:
    """Codes of the keys; the strings of new ones are appended to `names`, so that names[code] is the string."""
    codes, rows = interner.codes(keys)
    names.extend(text.slice(start[row], end[row]).decode("utf-8", "replace").strip() for row in rows.tolist())
    return codes
