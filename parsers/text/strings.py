"""Strings that lie scattered in a block of text, as one Arrow column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hvtrace.parsers.text.cursor import I64, Flags, Text

__all__ = ["binary_column", "string_column"]

_QUESTION_MARK = 0x3F
_ASCII_END = 0x80


def string_column(text: Text, start: I64, end: I64, valid: Flags | None = None) -> pa.StringArray:
    """The strings from `start` to `end` (bytes). Where they are not UTF-8, bytes above 127 become question marks."""
    length = np.maximum(end - start, 0)
    offsets = np.zeros(len(length) + 1, dtype=np.int64)
    np.cumsum(length, out=offsets[1:])
    index = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)
    chars = text.bytes[index]
    high = chars >= _ASCII_END
    if high.any() and not _is_utf8(chars.tobytes(), offsets):
        chars[high] = _QUESTION_MARK
    return _with_nulls(
        pa.LargeStringArray.from_buffers(len(length), pa.py_buffer(offsets), pa.py_buffer(chars)).cast(
            pa.string()
        ),
        valid,
    )


def _is_utf8(data: bytes, offsets: I64) -> bool:
    """Whether all is UTF-8, and no string begins or ends within a character."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    starts = offsets[:-1][np.diff(offsets) > 0]
    first = np.frombuffer(data, dtype=np.uint8)[starts]
    return not bool(((first & 0xC0) == _ASCII_END).any())


def binary_column(rows: np.ndarray, length: I64, valid: Flags | None = None) -> pa.BinaryArray:
    """The first `length` bytes of each row of a byte matrix."""
    width = rows.shape[1]
    offsets = np.zeros(len(length) + 1, dtype=np.int32)
    np.cumsum(length, out=offsets[1:])
    chars = rows[np.arange(width) < length[:, None]]
    column = pa.BinaryArray.from_buffers(
        pa.binary(), len(length), [None, pa.py_buffer(offsets), pa.py_buffer(chars)]
    )
    return _with_nulls(column, valid)


def _with_nulls(column: pa.Array, valid: Flags | None) -> pa.Array:
    if valid is None or valid.all():
        return column
    return pa.compute.if_else(pa.array(valid), column, pa.scalar(None, column.type))
