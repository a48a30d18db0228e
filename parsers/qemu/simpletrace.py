"""Files of QEMU's simple trace backend (simpletrace), versions 3 and 4.

A header of 24 bytes (all ones, the magic number, the version, each u64), then records in the byte order of the host.
Version 4: each record begins with its kind. Kind 0 gives an event's name: id u64, length u32, name. Kind 1 is an event.
An event: id u64, time in ns u64, length u32 (of all from the id on), process u32, arguments. Arguments have no types:
numbers and addresses take eight bytes, a string has its length (u32) before it; which is which, hvtrace.schema.qemu
says. Version 3 has neither kinds nor names. Sources: QEMU's trace/simple.c, scripts/simpletrace.py.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.errors import InputError
from hvtrace.parsers.qemu.rows import joined, table
from hvtrace.parsers.recording import (
    Clock,
    Damage,
    Lost,
    NotUnderstood,
    Progress,
    Source,
    Threads,
    Window,
)
from hvtrace.parsers.source import ENDS, Mapped
from hvtrace.schema.arrow import ARROW_TYPES, DICTIONARY
from hvtrace.schema.common import column_name
from hvtrace.schema.qemu import OTHER, QEMU_EVENTS
from hvtrace.schema.tracepoint import Tracepoint

__all__ = ["MAGIC", "SimpleTrace", "is_simpletrace"]

#: The header's second number; the first is all ones.
MAGIC = 0xF2B177CB0AA429B4
_ONES = (1 << 64) - 1

#: Id of the record that stands for events which were dropped.
DROPPED = _ONES - 1

#: Bytes of a record before its arguments, from the id on.
HEAD = 24
#: A longer name or record is damage: the backend's buffer has 256 KiB.
LONGEST = 1 << 18
#: Events in one window.
WINDOW = 1 << 18

I64 = npt.NDArray[np.int64]


def _order(head: bytes) -> str | None:
    """Byte order of a file ("<" or ">"); None where it is no such file."""
    for order in "<>":
        if len(head) >= HEAD and struct.unpack_from(f"{order}QQ", head) == (_ONES, MAGIC):
            return order
    return None


def is_simpletrace(head: bytes) -> bool:
    """Whether a file that begins so is of the simple backend."""
    return _order(head) is not None


class SimpleTrace:
    """Implements `hvtrace.parsers.recording.Recording`. Stamps are CLOCK_MONOTONIC."""

    kernel: str | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._bytes = Mapped(path)
        order = _order(bytes(self._bytes.data[:HEAD]))
        if order is None:
            raise InputError(path, "no file of QEMU's simple trace backend", 0)
        (version,) = struct.unpack_from(f"{order}Q", self._bytes.data, 16)
        if version not in (3, 4):
            self._bytes.close()
            raise InputError(path, f"simpletrace version {version} is not read; versions 3 and 4 are", 16)
        self._order = order
        self._kinds = version == 4
        self.clock = Clock("mono")
        self.source = Source(os.fspath(path), os.stat(path).st_size, f"QEMU simpletrace {version}")
        self.facts: dict[str, str] = {}
        self._clear()

    def _clear(self) -> None:
        self.threads = Threads()
        self.damage: list[Damage] = []
        self.not_understood = NotUnderstood()
        self._names: dict[int, str] = {}

    def close(self) -> None:
        """Release the file."""
        self._bytes.close()

    def windows(self, progress: Progress | None = None) -> Iterator[Window]:
        """Yield windows of so many events. Raises InputError where there is none at all."""
        self._clear()
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        stamps: list[int] = []
        lost: list[Lost] = []
        events = 0
        last: int | None = None
        for at, ident, ts, size in self._records():
            if ident == DROPPED:
                count = struct.unpack_from(f"{self._order}Q", self._bytes.data, at + HEAD)[0]
                lost.append(Lost(None, last, ts, count))
                continue
            found[ident].append((len(stamps), at))
            stamps.append(ts)
            last = ts if last is None else max(last, ts)
            if len(stamps) == WINDOW:
                yield self._window(found, stamps, lost)
                events += len(stamps)
                found, stamps, lost = defaultdict(list), [], []
                if progress is not None:
                    progress(at + size)
        if stamps or lost:
            yield self._window(found, stamps, lost)
        if self._bytes.fault is not None:
            self.damage.append(Damage(self._bytes.size, self._bytes.fault, ENDS in self._bytes.fault))
        if not events + len(stamps):
            why = f": {self.damage[0].message}" if self.damage else ""
            raise InputError(self.source.path, f"holds no event{why}", HEAD)

    def _records(self) -> Iterator[tuple[int, int, int, int]]:
        """Place (of the id), id, time and length of each event; names are taken on the way."""
        data, end = self._bytes.data, self._bytes.size
        u64, event = struct.Struct(f"{self._order}Q"), struct.Struct(f"{self._order}QQI")
        name_head = struct.Struct(f"{self._order}QI")
        at = HEAD
        while at < end:
            start = at
            kind = 1
            if self._kinds:
                if at + 8 > end:
                    break
                (kind,) = u64.unpack_from(data, at)
                at += 8
            if kind == 0:
                if at + name_head.size > end:
                    break
                ident, size = name_head.unpack_from(data, at)
                if size > LONGEST:
                    self._wrong(start, f"a name of {size} bytes")
                    return
                at += name_head.size + size
                if at > end:
                    break
                self._names[ident] = bytes(data[at - size : at]).decode("utf-8", "replace")
            elif kind == 1:
                if at + HEAD > end:
                    break
                ident, ts, size = event.unpack_from(data, at)
                if not HEAD + 8 * (ident == DROPPED) <= size <= LONGEST or ts >> 63:
                    self._wrong(start, f"a record of {size} bytes at time {ts}")
                    return
                if at + size > end:
                    break
                yield at, ident, ts, size
                at += size
            else:
                self._wrong(start, f"a record of the unknown kind {kind}")
                return
        else:
            return
        self.damage.append(Damage(start, "the file ends in the middle of a record", cut=True))

    def _wrong(self, at: int, what: str) -> None:
        self.damage.append(Damage(at, f"{what}: what follows cannot be read"))

    def _window(self, found: dict[int, list[tuple[int, int]]], stamps: list[int], lost: list[Lost]) -> Window:
        ts = np.array(stamps, np.int64)
        rank = np.empty(len(ts), np.int64)
        rank[np.argsort(ts, kind="stable")] = np.arange(len(ts))
        parts: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        for ident, places in found.items():
            rows, at = np.array(places, np.int64).T
            name = self._names.get(ident)
            event = None if name is None else QEMU_EVENTS.get(name)
            fits = np.zeros(len(rows), np.bool_)
            if event is not None:
                columns, fits = self._arguments(event, at)
                if fits.any():
                    parts[event.name].append(table(rank[rows[fits]], ts[rows[fits]], None, columns))
                if number := int((~fits).sum()):
                    self.not_understood.add(f"{name}: arguments of another form", number)
            if not fits.all():
                rest = ~fits
                columns = self._other(name or f"event {ident}", at[rest])
                parts[OTHER.name].append(table(rank[rows[rest]], ts[rows[rest]], None, columns))
        return Window({name: joined(batches) for name, batches in parts.items()}, len(ts), lost)

    def _arguments(self, event: Tracepoint, at: I64) -> tuple[dict[str, pa.Array], npt.NDArray[np.bool_]]:
        """Columns of the events at these places whose arguments are those declared, and which are."""
        data, order = self._bytes.data, self._order
        ends = at + np.array([struct.unpack_from(f"{order}I", data, p + 16)[0] for p in at.tolist()])
        fits = np.ones(len(at), np.bool_)
        cursor = at + HEAD
        values: dict[str, list[int | str]] = {}
        for field in event.fields:
            own: list[int | str] = []
            for i, (place, end) in enumerate(zip(cursor.tolist(), ends.tolist(), strict=True)):
                width = 4 if field.type == "str" else 8
                if not fits[i] or place + width > end:
                    fits[i] = False
                    own.append("" if field.type == "str" else 0)
                    continue
                if field.type != "str":
                    own.append(struct.unpack_from(f"{order}Q", data, place)[0])
                    cursor[i] += width
                    continue
                (size,) = struct.unpack_from(f"{order}I", data, place)
                if place + width + size > end:
                    fits[i] = False
                    own.append("")
                    continue
                own.append(bytes(data[place + width : place + width + size]).decode("utf-8", "replace"))
                cursor[i] += width + size
            values[field.name] = own
        fits &= cursor == ends
        kept = np.flatnonzero(fits).tolist()
        return {
            column_name(f.name): _column([values[f.name][i] for i in kept], f.type) for f in event.fields
        }, fits

    def _other(self, name: str, at: I64) -> dict[str, pa.Array]:
        data, order = self._bytes.data, self._order
        texts = []
        for place in at.tolist():
            (size,) = struct.unpack_from(f"{order}I", data, place + 16)
            texts.append(bytes(data[place + HEAD : place + size]).hex())
        return {
            "event": pa.array([name] * len(texts)).dictionary_encode().cast(DICTIONARY),
            "text": pa.array(texts, pa.string()).dictionary_encode().cast(DICTIONARY),
        }


def _column(values: list[int | str], kind: str) -> pa.Array:
    """Arguments as a column: numbers are cut to their width, as their C type cuts them."""
    if kind == "str":
        return pa.array(values, pa.string()).dictionary_encode().cast(DICTIONARY)
    numbers = np.array(values, np.uint64)
    if kind == "bool":
        return pa.array(numbers != 0)
    width = int(kind[1:]) // 8
    return pa.array(
        numbers.astype(f"u{width}").view(f"{'i' if kind[0] == 's' else 'u'}{width}"), ARROW_TYPES[kind]
    )
