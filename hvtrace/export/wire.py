"""Protocol-buffer messages encoded column by column: many messages of one shape at once.

A message is a list of columns; a column holds one piece of every message (a tag, a number, nested bytes), left
aligned in a matrix of bytes, with its length per row. Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "Column",
    "Ragged",
    "constant",
    "doubles",
    "fixed64s",
    "in_order",
    "length_delimited",
    "messages",
    "number",
    "tag",
]

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

#: Wire types.
VARINT, FIXED64, LENGTH = 0, 1, 2

_ONE = np.uint64(1)
_SEVEN = np.uint64(7)


@dataclass(frozen=True, slots=True)
class Column:
    """A piece of every message. `bytes`: (1 or n, width). `lengths`: (n,), or one length for all rows."""

    bytes: U8
    lengths: npt.NDArray[np.int64] | int


@dataclass(frozen=True, slots=True)
class Ragged:
    """The last piece of every message, of any length: row i has `bytes[offsets[i]:offsets[i + 1]]`.

    `bytes`: (m,). `offsets`: (n + 1,), from 0 to m. Costs only where there are bytes, however many one row has.
    """

    bytes: U8
    offsets: I64

    @property
    def lengths(self) -> I64:
        """Bytes of each row."""
        return np.diff(self.offsets)


def varint(value: int) -> bytes:
    """One number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(field: int, wire_type: int) -> bytes:
    """Bytes that announce a field."""
    return varint(field << 3 | wire_type)


def constant(data: bytes, present: Bool | None = None) -> Column:
    """The same bytes in every message, or where `present`."""
    lengths = len(data) if present is None else np.where(present, len(data), 0)
    return Column(np.frombuffer(data, np.uint8)[None, :], lengths)


def _varints(values: U64) -> Column:
    widest = int(values.max()) if len(values) else 0
    width = max(1, -(-widest.bit_length() // 7))
    out = np.empty((len(values), width), np.uint8)
    lengths = np.ones(len(values), np.int64)
    rest = values
    for at in range(width):
        low = rest.astype(np.uint8) & np.uint8(0x7F)
        rest = rest >> _SEVEN
        more = rest != 0
        out[:, at] = low | (more.view(np.uint8) << np.uint8(7))
        if at + 1 < width:
            lengths += more
    return Column(out, lengths)


def number(field: int, values: npt.NDArray[np.generic], present: Bool | None = None) -> list[Column]:
    """Columns of an integer field. Signed values are written as 64-bit two's complement (int64, not sint64)."""
    as_u64 = values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
    column = _varints(as_u64)
    if present is not None:
        column = Column(column.bytes, np.where(present, column.lengths, 0))
    return [constant(tag(field, VARINT), present), column]


def doubles(field: int, values: npt.NDArray[np.float64]) -> list[Column]:
    """Columns of a double field."""
    data = np.ascontiguousarray(values, dtype="<f8").view(np.uint8).reshape(len(values), 8)
    return [constant(tag(field, FIXED64)), Column(data, 8)]


def fixed64s(field: int, values: U64, offsets: I64) -> Ragged:
    """A repeated fixed64 field, not packed: row i has `values[offsets[i]:offsets[i + 1]]`."""
    head = np.frombuffer(tag(field, FIXED64), np.uint8)
    out = np.empty((len(values), len(head) + 8), np.uint8)
    out[:, : len(head)] = head
    out[:, len(head) :] = np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(len(values), 8)
    return Ragged(out.reshape(-1), offsets * out.shape[1])


def length_delimited(
    field: int,
    inner: Sequence[Column],
    rows: int,
    present: Bool | None = None,
    *,
    last: Ragged | None = None,
) -> list[Column]:
    """Columns of a nested message whose columns are `inner`; where not `present`, those are left out as well.

    With `last`, that is the nested message's end, and the caller gives it to `messages` in its turn.
    """
    sizes = np.zeros(rows, np.int64) if last is None else last.lengths
    for column in inner:
        sizes += column.lengths
    length = _varints(sizes.astype(np.uint64))
    columns = [constant(tag(field, LENGTH)), length, *inner]
    if present is None:
        return columns
    return [Column(c.bytes, np.where(present, c.lengths, 0)) for c in columns]


#: Rows put together at once: what they take stays in the processor's cache.
_BLOCK = 8192


def messages(columns: Sequence[Column], rows: int, last: Ragged | None = None) -> pa.Array:
    """Put columns together, with `last` after them: a large_binary array with one message a row."""
    sizes = np.zeros(rows, np.int64)
    for column in columns:
        sizes += column.lengths
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    data = np.empty(int(offsets[-1]), np.uint8)
    width = sum(c.bytes.shape[1] for c in columns)
    block = np.empty((min(_BLOCK, rows), width), np.uint8)
    kept = np.empty(block.shape, np.bool_)
    for start in range(0, rows, _BLOCK):
        stop = min(start + _BLOCK, rows)
        n, at = stop - start, 0
        for column in columns:
            wide = column.bytes.shape[1]
            one = column.bytes.shape[0] == 1
            block[:n, at : at + wide] = column.bytes if one else column.bytes[start:stop]
            if isinstance(column.lengths, int):
                kept[:n, at : at + wide] = True
            else:
                kept[:n, at : at + wide] = np.arange(wide) < column.lengths[start:stop, None]
            at += wide
        data[offsets[start] : offsets[stop]] = block[:n][kept[:n]]
    if last is not None and len(last.bytes):
        data, offsets = _extended(data, offsets, last)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def _extended(data: U8, offsets: I64, last: Ragged) -> tuple[U8, I64]:
    """Rows of bytes and where they begin, each row with its end."""
    longer = np.flatnonzero(last.lengths)
    # In turn: rows up to the end of one that gets longer, what that one gets; then the rows that are left.
    runs = np.empty(2 * len(longer) + 1, np.int64)
    runs[0::2] = np.diff(offsets[longer + 1], prepend=0, append=len(data))
    runs[1::2] = last.lengths[longer]
    added = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    out = np.empty(len(added), np.uint8)
    out[added] = last.bytes
    out[~added] = data
    return out, offsets + last.offsets


def in_order(groups: Sequence[pa.Array], keys: Sequence[I64]) -> pa.Buffer:
    """Bytes of the messages of all groups, one after the other, by ascending key."""
    order = np.argsort(np.concatenate(keys), kind="stable")
    taken = pa.concat_arrays(groups).take(pa.array(order))
    offsets = np.frombuffer(taken.buffers()[1], np.int64)[taken.offset : taken.offset + len(taken) + 1]
    return taken.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
