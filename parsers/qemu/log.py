"""QEMU's trace output as text, as its log backend writes it: a line an event, in one of three forms.

    253@1795193279.858814:vmbus_recv_message type 14 size 40        until QEMU 10.0, with -msg timestamp=on
    2025-07-21T18:43:28.089797Z vmbus_recv_message type 14 size 40  later ones
    vmbus_recv_message type 14 size 40                              without time stamps

The number before @ is the thread that wrote the line. Stamps are taken before the file is locked: between threads,
lines may be out of order by some µs. Sources: QEMU's util/log.c, scripts/tracetool/backend/log.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from hvtrace.errors import InputError
from hvtrace.parsers.qemu.rows import REALTIME, joined, table
from hvtrace.parsers.recording import Clock, Damage, NotUnderstood, Progress, Source, Threads, Window
from hvtrace.parsers.source import ENDS, fault_of
from hvtrace.parsers.text.block import line_ends
from hvtrace.parsers.text.cursor import I64, Text
from hvtrace.parsers.text.events import EventReader
from hvtrace.parsers.text.recording import blocks
from hvtrace.parsers.text.strings import string_column
from hvtrace.schema.arrow import DICTIONARY
from hvtrace.schema.qemu import OTHER, QEMU_EVENTS

__all__ = ["QemuLog", "sniff_log"]

#: Characters of a line that is no event that are looked at.
LONGEST_SAMPLE = 200
#: Lines by which the form is told.
LOOK = 400
#: Lines of different threads may be out of order by so much.
UNORDERED_NS = 10_000_000
#: Bytes of text in one window.
BLOCK = 16 << 20


@dataclass(frozen=True, slots=True)
class Form:
    """A form of lines. The pattern covers all that stands before an event's text; stamps by `stamps`."""

    name: str
    pattern: str
    clock: Clock
    stamps: Callable[[pl.DataFrame, I64], I64]
    #: Characters of the pattern that are in no group.
    fixed: Callable[[pl.DataFrame], I64]


def _lengths(found: pl.DataFrame, name: str) -> I64:
    return np.asarray(found[name].fill_null("").str.len_bytes().to_numpy(), dtype=np.int64)


def _fraction(found: pl.DataFrame) -> pl.Series:
    """A fraction of a second in ns."""
    return found["frac"].fill_null("").str.pad_end(9, "0").cast(pl.Int64)


def _of_seconds(found: pl.DataFrame, _: I64) -> I64:
    return np.asarray((found["sec"].cast(pl.Int64) * 1_000_000_000 + _fraction(found)).to_numpy())


def _of_dates(found: pl.DataFrame, _: I64) -> I64:
    day = found["date"].str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="ms", strict=False)
    # A date that is none is that of the line before.
    seconds = (day.dt.timestamp("ms") // 1000).forward_fill().fill_null(0)
    return np.asarray((seconds * 1_000_000_000 + _fraction(found)).to_numpy())


_WORD = r"(?P<name>[A-Za-z_]\w{0,63})(?: |$)"

FORMS = (
    Form(
        "QEMU log, threads and seconds",
        rf"^(?P<tid>\d{{1,10}})@(?P<sec>\d{{1,10}})\.(?P<frac>\d{{6}}):{_WORD}",
        Clock(REALTIME),
        _of_seconds,
        lambda found: np.full(len(found), 3),
    ),
    Form(
        "QEMU log, dates",
        rf"^(?P<date>\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(?P<frac>\d{{1,9}}))?Z {_WORD}",
        Clock(REALTIME),
        _of_dates,
        lambda found: 2 + (_lengths(found, "frac") > 0),
    ),
    # Without a time the file's order is the only one: stamps are numbers of lines. Words are events only where they
    # look like one: other lines may be mixed in.
    Form(
        "QEMU log, no time",
        r"^(?P<name>[a-z][a-z0-9]*_\w{0,63})(?: |$)",
        Clock("line", "ticks"),
        lambda _, line: line + 1,
        lambda found: np.zeros(len(found), np.int64),
    ),
)


def sniff_log(head: bytes) -> Form | None:
    """The form of a log by its first bytes; None where it is none.

    Without stamps a line is one of a log only if it begins with the name of an event that is known.
    """
    lines = head.decode("latin-1").splitlines()[:LOOK]
    if b"\0" in head:
        return None
    for form in FORMS:
        found = [match["name"] for line in lines if (match := re.match(form.pattern, line, re.ASCII))]
        if form.clock.unit == "ticks":
            found = [name for name in found if name in QEMU_EVENTS]
        if found and 2 * len(found) >= sum(bool(line.strip()) for line in lines):
            return form
    return None


class QemuLog:
    """Implements `hvtrace.parsers.recording.Recording`."""

    kernel: str | None = None

    def __init__(self, path: str | os.PathLike[str], form: Form, opener: Callable[[], BinaryIO]) -> None:
        self._form = form
        self._open = opener
        self.clock = form.clock
        self.source = Source(os.fspath(path), os.stat(path).st_size, form.name)
        self.facts: dict[str, str] = {}
        self._clear()

    def _clear(self) -> None:
        self.threads = Threads()
        self.damage: list[Damage] = []
        self.not_understood = NotUnderstood()
        self._readers: dict[str, EventReader] = {}

    def close(self) -> None:
        """Nothing is held open between iterations."""

    def windows(self, progress: Progress | None = None) -> Iterator[Window]:
        """Yield one window a block. Raises InputError where no line at all is an event."""
        self._clear()
        line, offset, events = 0, 0, 0
        with self._open() as stream:
            for data in blocks(stream, BLOCK):
                window, lines = self._read(data, line, offset)
                line += lines
                offset += len(data)
                events += window.events
                if progress is not None:
                    progress(offset)
                if window.events:
                    yield window
            if fault := fault_of(stream):
                self.damage.append(Damage(offset, fault, ENDS in fault))
        if not events:
            raise InputError(self.source.path, "no event was found in this text", 0)

    def _read(self, data: bytes, base: int, offset: int) -> tuple[Window, int]:
        """The window of a block whose first line is number `base`, and its number of lines."""
        text = Text(data)
        start, _, end = line_ends(text)
        shown = np.minimum(end, start + 256)
        heads = pl.Series(string_column(text, start, shown), dtype=pl.String)
        found = heads.str.extract_groups(self._form.pattern).struct.unnest()
        rows = np.flatnonzero(found["name"].is_not_null().to_numpy())
        found = found[rows]
        length = self._form.fixed(found) + sum(_lengths(found, name) for name in found.columns)
        begin = np.minimum(start[rows] + length + 1, np.maximum(end[rows], start[rows]))
        ts = self._form.stamps(found, base + rows)
        understood = np.ones(len(rows), np.bool_)
        parts: list[tuple[str, npt.NDArray[np.int64], dict[str, pa.Array]]] = []
        for (name,), group in found.with_row_index("row").group_by("name", maintain_order=True):
            own = group["row"].to_numpy().astype(np.int64)
            title, columns, fits = self._event(str(name), text, begin[own], end[rows[own]])
            understood[own] = fits
            parts.append((title, own[fits], columns))
        self._strange(heads, rows[understood], base, text, offset, start, end)
        if (back := self._backwards(found, ts)) is not None:
            told = "stamps run backwards from here on: the clock was set, and nobody knows the order"
            self.damage.append(Damage(offset + int(start[rows[back]]), told))
        return self._window(parts, ts, understood, found), len(start)

    def _event(
        self, name: str, text: Text, start: I64, end: I64
    ) -> tuple[str, dict[str, pa.Array], npt.NDArray[np.bool_]]:
        """Table, columns, and which lines are understood."""
        tracepoint = QEMU_EVENTS.get(name)
        if tracepoint is None:
            said = string_column(text, start, np.maximum(start, end)).dictionary_encode().cast(DICTIONARY)
            names = pa.array([name] * len(start)).dictionary_encode().cast(DICTIONARY)
            return OTHER.name, {"event": names, "text": said}, np.ones(len(start), np.bool_)
        if name not in self._readers:
            self._readers[name] = EventReader(tracepoint)
        read = self._readers[name].read(text, start, np.maximum(start, end))
        kept = read.only_understood()
        return name, dict(zip(kept.names, kept.columns, strict=True)), read.understood

    def _backwards(self, found: pl.DataFrame, ts: I64) -> int | None:
        """The first row whose stamp lies before its thread's last one; None where there is none."""
        if self._form.clock.unit == "ticks" or not len(ts):
            return None
        lines = pl.DataFrame(
            {"ts": ts, "tid": found["tid"] if "tid" in found.columns else pl.repeat("", len(ts), eager=True)}
        )
        # Where threads are not told, lines of several may be out of order by as much as one waits for the file.
        allowed = 0 if "tid" in found.columns else UNORDERED_NS
        latest = pl.col("ts").cum_max().over("tid")
        rows = lines.select((latest - pl.col("ts") > allowed).arg_true()).to_series()
        return int(rows[0]) if len(rows) else None

    def _strange(
        self, heads: pl.Series, events: I64, base: int, text: Text, offset: int, start: I64, end: I64
    ) -> None:
        """Count the lines that are no events; the last one may be cut."""
        strange = np.ones(len(heads), np.bool_)
        strange[events] = False
        strange &= end > start
        rows = np.flatnonzero(strange)
        for row in rows[: NotUnderstood.MAX_SAMPLES].tolist():
            self.not_understood.add(f"line {base + row + 1}: {str(heads[row])[:LONGEST_SAMPLE]}")
        self.not_understood.count += max(len(rows) - NotUnderstood.MAX_SAMPLES, 0)
        if strange.size and strange[-1] and text.bytes[text.size - 1] != ord("\n"):
            self.damage.append(Damage(offset + int(start[-1]), "the last line is cut", cut=True))

    def _window(
        self,
        parts: list[tuple[str, npt.NDArray[np.int64], dict[str, pa.Array]]],
        ts: I64,
        understood: npt.NDArray[np.bool_],
        found: pl.DataFrame,
    ) -> Window:
        """Tables in time order; lines of one time in the file's."""
        kept = np.flatnonzero(understood)
        rank = np.zeros(len(ts), np.int64)
        rank[kept[np.argsort(ts[kept], kind="stable")]] = np.arange(len(kept))
        tid = found["tid"].cast(pl.Int32, strict=False) if "tid" in found.columns else None
        tables: dict[str, list[pa.RecordBatch]] = {}
        for title, rows, columns in parts:
            if not len(rows):
                continue
            who = None if tid is None else pa.array(tid.gather(rows).to_arrow(), pa.int32())
            tables.setdefault(title, []).append(table(rank[rows], ts[rows], who, columns))
        return Window({name: joined(batches) for name, batches in tables.items()}, len(kept))
