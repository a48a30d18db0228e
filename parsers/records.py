"""Trace records → columns, for many records of one event at once.

A record is what the kernel wrote: the fields of its event format, starting with common_type. trace.dat and
perf.data hold the same records, four-byte aligned in both. Everything is numpy over whole columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.parsers.eventformat import EventFormat, FormatField
from hvtrace.schema.arrow import ARROW_TYPES, DICTIONARY
from hvtrace.schema.common import column_name
from hvtrace.schema.tracepoint import Context, Tracepoint

__all__ = ["Plan", "Words", "decode", "numbers", "packed", "plan"]

Words = npt.NDArray[np.uint32]
Index = npt.NDArray[np.int64]
#: The fixed parts of some records, one after the other.
Packed = npt.NDArray[np.void]

_INT = {
    (size, signed): f"{'s' if signed else 'u'}{8 * size}" for size in (1, 2, 4, 8) for signed in (False, True)
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column to make: its name, its declared type, and the record's field it comes from (None: all null)."""

    name: str
    type: str
    source: FormatField | None
    #: The field that says how many bytes of an array count.
    sized_by: FormatField | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How records of one event become columns. `size` is the least length in bytes a whole record has."""

    tracepoint: str
    size: int
    columns: tuple[Column, ...]
    #: Whether the event may come from an interrupt and belong to another vCPU than the interrupted thread's.
    interruptible: bool = False


def _own_type(field: FormatField) -> str:
    """Column type of a field of a tracepoint nobody declared."""
    if field.array:
        return "str" if field.is_text else "bytes"
    if field.ctype in ("bool", "_Bool"):
        return "bool"
    return _INT.get((field.size, field.signed), "bytes")


def plan(event: EventFormat, declared: Tracepoint | None) -> Plan:
    """Plan the columns of `event`: the declared ones, or the format's own where the tracepoint is not declared."""
    own = {f.name: f for f in event.fields}
    if declared is None:
        columns = tuple(Column(column_name(f.name), _own_type(f), f) for f in event.fields)
        return Plan(event.name, event.size, columns)
    columns = tuple(
        Column(
            column_name(f.name),
            f.type,
            next((own[name] for name in (f.name, *f.older) if name in own), None),
            own.get(f.sized_by or ""),
        )
        for f in declared.fields
    )
    interruptible = declared.context in (Context.NAMED, Context.THREAD)
    return Plan(declared.name, event.size, columns, interruptible)


def decode(words: Words, at: Index, length: Index, todo: Plan, rows: Packed) -> list[pa.Array]:
    """Columns of the records that start at word index `at` and are `length` bytes long (at least `todo.size`).

    `words` is the memory the records lie in, as little-endian u32; `rows` what `packed` made of them.
    """
    return [_column(words, at, length, column, rows) for column in todo.columns]


def packed(words: Words, at: Index, size: int) -> Packed:
    """The first `size` bytes of each record, one after the other: each is fetched from afar only once."""
    span = -(-size // 4)
    every = np.ndarray((max(len(words) - span + 1, 0),), f"V{4 * span}", buffer=words.data, strides=(4,))
    return every[at]


def numbers(rows: Packed, offset: int, kind: str) -> npt.NDArray[Any]:
    """Return a view of the numbers of numpy type `kind` at byte `offset` of packed records."""
    place: Any = {"names": ["x"], "formats": [kind], "offsets": [offset], "itemsize": rows.itemsize}
    view: npt.NDArray[Any] = rows.view(np.dtype(place))["x"]
    return view


def _column(words: Words, at: Index, length: Index, column: Column, rows: Packed) -> pa.Array:
    source, n = column.source, len(at)
    if source is None:
        return pa.nulls(n, ARROW_TYPES[column.type])
    if source.array:
        data = _array_bytes(words, at, length, source, column.sized_by)
        # Text that runs to the record's end is a marker write, which ends its line.
        marker = source.loc is None and not source.size
        return texts(data, "\n" if marker else "") if column.type == "str" else data
    if column.type in ("str", "bytes"):
        return _fixed_bytes(words, at, source.offset, source.size)
    if source.size in (1, 2, 4, 8):
        kind = f"<{'i' if source.signed else 'u'}{source.size}"
        place: Any = {
            "names": ["x"],
            "formats": [kind],
            "offsets": [source.offset],
            "itemsize": rows.itemsize,
        }
        values = rows.view(np.dtype(place))["x"]
    else:
        values = integers(words, at, source.offset, source.size)
    if column.type == "bool":
        return pa.array(values != 0)
    return pa.array(np.ascontiguousarray(values, _dtype(column.type)))


def _dtype(kind: str) -> np.dtype[Any]:
    return np.dtype(f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")


def integers(words: Words, at: Index, offset: int, size: int) -> npt.NDArray[Any]:
    """Return unsigned integers of `size` bytes at byte `offset` of the records at word indices `at`."""
    where = at + (offset >> 2) if offset >> 2 else at
    shift = 8 * (offset & 3)
    if size == 8 and shift == 0:
        # A view of every u64 that starts on a word: one unaligned load each.
        every = np.ndarray((max(len(words) - 1, 0),), "<u8", buffer=words.data, strides=(4,))
        return every[where]
    if size not in (1, 2, 4) or shift + 8 * size > 32:
        raw = _byte_matrix(words, at, offset, size)
        padded = np.zeros((len(at), 8), np.uint8)
        padded[:, : min(size, 8)] = raw[:, :8]
        return padded.view("<u8").ravel().astype(f"u{size}" if size in (1, 2, 4, 8) else "u8")
    values = words.take(where)
    if shift:
        values >>= np.uint32(shift)
    return values if size == 4 else values.astype(f"u{size}")


def _byte_matrix(words: Words, at: Index, offset: int, size: int) -> npt.NDArray[np.uint8]:
    """(n, size) bytes at byte `offset` of each record."""
    skip = offset & 3
    span = -(-(skip + size) // 4)
    every = np.ndarray((max(len(words) - span + 1, 0),), f"V{4 * span}", buffer=words.data, strides=(4,))
    rows = every[at + (offset >> 2)].view(np.uint8).reshape(len(at), 4 * span)
    return rows[:, skip : skip + size]


def _fixed_bytes(words: Words, at: Index, offset: int, size: int) -> pa.Array:
    data = np.ascontiguousarray(_byte_matrix(words, at, offset, size))
    ends = (
        np.arange(0, (len(at) + 1) * size, size, dtype=np.int32) if size else np.zeros(len(at) + 1, np.int32)
    )
    return pa.Array.from_buffers(pa.binary(), len(at), [None, pa.py_buffer(ends), pa.py_buffer(data)])


def _array_bytes(
    words: Words, at: Index, length: Index, source: FormatField, sized_by: FormatField | None
) -> pa.Array:
    """Return the bytes of an array field: all of a fixed array or as many as another field says; else its own."""
    if source.loc is None and source.size and sized_by is None:
        return _fixed_bytes(words, at, source.offset, source.size)
    if source.loc is None:
        start = np.full(len(at), source.offset, np.int64)
        size = length - source.offset
        if sized_by is not None:
            size = integers(words, at, sized_by.offset, sized_by.size).astype(np.int64)
            size = np.clip(size, 0, source.size)
    else:
        loc = integers(words, at, source.offset, 4)
        start = (loc & np.uint32(0xFFFF)).astype(np.int64)
        size = (loc >> np.uint32(16)).astype(np.int64)
        if source.loc == "rel":
            start += source.offset + 4
    start = np.minimum(start, length)
    size = np.clip(size, 0, length - start)
    ends = np.zeros(len(at) + 1, np.int64)
    np.cumsum(size, out=ends[1:])
    flat = np.arange(int(ends[-1]), dtype=np.int64)
    flat += np.repeat(4 * at + start - ends[:-1], size)
    data = words.view(np.uint8)[flat]
    return pa.Array.from_buffers(pa.large_binary(), len(at), [None, pa.py_buffer(ends), pa.py_buffer(data)])


def texts(data: pa.Array, without: str = "") -> pa.DictionaryArray:
    """Byte strings as dictionary-encoded text; what is no UTF-8 is replaced.

    Each is cut at its first NUL, and at its end loses `without`.
    """
    encoded = data.cast(pa.binary()).dictionary_encode()
    names: dict[str, int] = {}
    code = [
        names.setdefault(
            bytes(value).split(b"\0", 1)[0].decode("utf-8", "replace").removesuffix(without), len(names)
        )
        for value in encoded.dictionary.to_pylist()
    ]
    again = pa.array(code, pa.int32()).take(encoded.indices)
    return pa.DictionaryArray.from_arrays(again, pa.array(list(names), pa.string())).cast(DICTIONARY)
