"""Protocol-buffer messages encoded column by column: many messages of one shape at once.

Messages of one shape have the same fields, and each field is as wide in all of them: a varint is written with as many
bytes as the widest of its column takes, which decoders accept, and which Perfetto's own writer does for lengths. Then
all are equally long: a matrix of bytes, a row each, in which tags and lengths are the same everywhere and a field is
a few columns. Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "Column",
    "Messages",
    "Shape",
    "constant",
    "doubles",
    "fixed64s",
    "in_order",
    "length_delimited",
    "number",
    "tag",
    "varint",
]

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

#: Wire types.
VARINT, FIXED64, LENGTH = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Varints:
    """Column of numbers (n,), written as varints of `width` bytes."""

    values: U64
    width: int


#: Bytes of each message, (n, width), or the same in all, (1, width); or numbers.
Column = U8 | Varints


@dataclass(frozen=True, slots=True)
class Shape:
    """Messages of one shape, not yet put together: which they are, ascending, and their columns."""

    rows: I64
    columns: Sequence[Column]

    @property
    def width(self) -> int:
        """Length of each message."""
        return sum(map(width, self.columns))


@dataclass(frozen=True, slots=True)
class Messages:
    """Many messages, by their shapes; every row is in one of them."""

    rows: int
    shapes: tuple[Shape, ...]

    def __len__(self) -> int:
        return self.rows


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


def constant(data: bytes) -> U8:
    """Column of the same bytes in every message: (1, width)."""
    return np.frombuffer(data, np.uint8)[None, :]


def width(column: Column) -> int:
    """Bytes a column takes in each message."""
    return column.width if isinstance(column, Varints) else column.shape[1]


def number(field: int, values: npt.NDArray[np.generic]) -> list[Column]:
    """Columns of an integer field. Signed values are written as 64-bit two's complement (int64, not sint64)."""
    if values.dtype.kind == "i":
        values = values.astype(np.int64, copy=False).view(np.uint64)
    as_u64 = values.astype(np.uint64, copy=False)
    widest = int(as_u64.max(initial=0)).bit_length()
    return [constant(tag(field, VARINT)), Varints(as_u64, max(1, -(-widest // 7)))]


def doubles(field: int, values: npt.NDArray[np.float64]) -> list[Column]:
    """Columns of a double field."""
    data = np.ascontiguousarray(values, dtype="<f8").view(np.uint8).reshape(len(values), 8)
    return [constant(tag(field, FIXED64)), data]


def fixed64s(field: int, values: U64) -> list[Column]:
    """Columns of a repeated fixed64 field, not packed. `values`: (n, elements of each message)."""
    head = tag(field, FIXED64)
    out = np.empty((*values.shape, len(head) + 8), np.uint8)
    out[..., : len(head)] = np.frombuffer(head, np.uint8)
    out[..., len(head) :] = np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(*values.shape, 8)
    return [out.reshape(len(values), -1)]


def length_delimited(field: int, inner: Sequence[Column]) -> list[Column]:
    """Columns of a nested message whose columns are `inner`."""
    return [constant(tag(field, LENGTH) + varint(sum(map(width, inner)))), *inner]


def _varints(values: U64, width: int) -> U8:
    """(n, width)."""
    words = np.empty((len(values), 1 if width <= 8 else 2), "<u8")
    words[:, 0] = _spread(values, width)
    if width > 8:
        words[:, 1] = _bits(values, 56, 7) | _bits(values, 63, 1) << np.uint64(8)
    for at, word in enumerate(words.T):
        # All bytes but the last say that another follows.
        word |= np.uint64(sum(0x80 << 8 * n for n in range(8) if 8 * at + n < width - 1))
    return words.view(np.uint8)[:, :width]


def _bits(values: U64, first: int, count: int) -> U64:
    return values >> np.uint64(first) & np.uint64((1 << count) - 1)


#: Steps that move every second group of 28, 14 and 7 bits up, to the next 4 bytes, 2 bytes and byte: the bits that
#: stay, those that move, how far, and the widest varint for which there are none to move.
_STEPS = (
    (np.uint64(0xFFF_FFFF), np.uint64(0xFF_FFFF_F000_0000), np.uint64(4), 4),
    (np.uint64(0x3FFF_0000_3FFF), np.uint64(0xFFF_C000_0FFF_C000), np.uint64(2), 2),
    (np.uint64(0x7F_007F_007F_007F), np.uint64(0x3F80_3F80_3F80_3F80), np.uint64(1), 1),
)


def _spread(values: U64, width: int) -> U64:
    """The low 7 bits of each number in the lowest byte, the next 7 in the next, up to `width` bytes or all 8."""
    for stay, move, far, none in _STEPS:
        if width > none:
            values = (values & stay) | (values & move) << far
    return values


def _whole(matrix: U8) -> npt.NDArray[np.void]:
    """Each row of bytes as one thing, which numpy moves at once."""
    return matrix.view(f"V{matrix.shape[1]}")[:, 0]


#: Bytes put together at a time: few enough to stay in the processor's cache.
_BLOCK = 1 << 20


def _put_together(shape: Shape) -> Iterator[tuple[I64, U8]]:
    """Yield rows and the bytes of their messages (k, width), which are valid until the next ones."""
    if not len(shape.rows):
        return
    same = [
        np.zeros((1, width(c)), np.uint8) if isinstance(c, Varints) or len(c) > 1 else c
        for c in shape.columns
    ]
    block = min(max(1, _BLOCK // shape.width), len(shape.rows))
    scratch = np.repeat(np.concatenate(same, axis=1), block, axis=0)
    for start in range(0, len(shape.rows), block):
        rows = shape.rows[start : start + block]
        out, at = scratch[: len(rows)], 0
        for column in shape.columns:
            end = at + width(column)
            if isinstance(column, Varints):
                numbers = _varints(column.values[start : start + block], column.width)
                _whole(out[:, at:end])[:] = _whole(numbers)
            elif len(column) > 1:
                _whole(out[:, at:end])[:] = _whole(column[start : start + block])
            at = end
        yield rows, out


def in_order(groups: Sequence[Messages], keys: Sequence[I64]) -> pa.Buffer:
    """Bytes of the messages of all groups, one after the other, by ascending key."""
    firsts = np.cumsum([0, *map(len, groups)])
    shapes = [(first, shape) for group, first in zip(groups, firsts, strict=False) for shape in group.shapes]
    lengths = np.empty(firsts[-1], np.int64)
    for first, shape in shapes:
        lengths[first + shape.rows] = shape.width
    order = np.argsort(np.concatenate(keys), kind="stable")
    ends = np.cumsum(lengths[order])
    starts = np.empty_like(lengths)
    starts[order] = ends
    starts -= lengths
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    for first, shape in shapes:
        for rows, matrix in _put_together(shape):
            _anywhere(out, shape.width)[starts[first + rows]] = _whole(matrix)
    return pa.py_buffer(out)


def _anywhere(data: U8, width: int) -> npt.NDArray[np.void]:
    """`width` bytes from each byte on: entry i is what begins at byte i."""
    return np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))
