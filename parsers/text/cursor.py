"""Text read eight bytes at a time, at many positions at once.

A cursor is an array of positions, one a line. Every function here looks at the eight bytes at each cursor as one
little-endian word (the first character in the lowest byte) and works on all lines together: a number is found, its
end is found and its value computed in some thirty arithmetic operations a column, without a loop over lines.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "I64",
    "LONGEST_RUN",
    "U64",
    "Flags",
    "Text",
    "count_of",
    "digits8",
    "first_of",
    "mask_of",
    "word_of",
]

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_ONES = 0x0101010101010101
_HIGH = np.uint64(0x8080808080808080)
_LOW7 = np.uint64(0x7F7F7F7F7F7F7F7F)
#: Multiplying 2^(8k) by this leaves k in the top byte.
_RANK = np.uint64(0x0001020304050607)
_EIGHT = np.uint64(8)
_TEN_TO = np.array([10**i for i in range(20)], dtype=np.uint64)

#: Words looked at in one go where all of a text is.
_PIECE = 1 << 15

#: Blanks skipped in one go; no tool prints that many.
LONGEST_RUN = 4096

#: Zero bytes after the text, so that a word may be read at any position of it.
PADDING = 64


@cache
def _u(value: int) -> np.uint64:
    return np.uint64(value)


@cache
def _every(byte: int) -> np.uint64:
    return np.uint64(byte * _ONES)


def word_of(text: bytes) -> np.uint64:
    """Up to eight bytes as a word, the rest zero."""
    return np.uint64(int.from_bytes(text, "little"))


def mask_of(length: int) -> np.uint64:
    """Ones in the first `length` bytes of a word."""
    return np.uint64((1 << 8 * length) - 1)


def _rank(flags: U64) -> I64:
    """Number of the first byte whose high bit is set in `flags`; 8 where none is."""
    lowest = flags & (~flags + _u(1))
    rank = ((lowest >> _u(7)) * _RANK) >> _u(56)
    rank[flags == 0] = 8
    return rank.view(np.int64)


def first_of(words: U64, byte: int) -> I64:
    """Position of the first `byte` in each word; 8 where there is none."""
    differ = words ^ _every(byte)
    return _rank((differ - _u(_ONES)) & ~differ & _HIGH)


def count_of(words: U64, byte: int) -> I64:
    """How many times `byte` stands at the start of each word."""
    differ = words ^ _every(byte)
    return _rank(((differ & _LOW7) + _LOW7 | differ) & _HIGH)


def _non_digits(words: U64) -> U64:
    """High bit set in each byte that is no decimal digit."""
    digit = words ^ _every(0x30)
    return ((digit & _LOW7) + _every(0x76) | digit) & _HIGH


def _non_hex(words: U64) -> U64:
    """High bit set in each byte that is no hexadecimal digit, in the kernel's lower case."""
    letter = words ^ _every(0x60)
    low = letter & _LOW7
    non_letter = (low + _every(0x79)) | ~(low + _LOW7) | letter
    neither: U64 = _non_digits(words) & non_letter & _HIGH
    return neither


def _aligned(words: U64, length: I64) -> U64:
    """The first `length` characters moved to the end of each word, zero bytes before them."""
    # A shift by 64 must give 0: it is done in two steps.
    half: U64 = (8 - length).view(np.uint64) << _u(2)
    return words << half << half


def digits8(words: U64, length: I64) -> U64:
    """Value of the decimal number in the first `length` bytes."""
    d = _aligned(words, length) & _every(0x0F)
    d = (d * _u(10) + (d >> _u(8))) & _u(0x00FF00FF00FF00FF)
    d = (d * _u(100) + (d >> _u(16))) & _u(0x0000FFFF0000FFFF)
    return (d * _u(10000) + (d >> _u(32))) & _u(0xFFFFFFFF)


def _hex8(words: U64, length: I64) -> U64:
    """Value of the hexadecimal number in the first `length` bytes."""
    c = _aligned(words, length)
    n = (c & _every(0x0F)) + ((c >> _u(6)) & _u(_ONES)) * _u(9)
    n = (n << _u(4) | n >> _u(8)) & _u(0x00FF00FF00FF00FF)
    n = (n << _u(8) | n >> _u(16)) & _u(0x0000FFFF0000FFFF)
    return (n << _u(16) | n >> _u(32)) & _u(0xFFFFFFFF)


class Text:
    """A block of text. `bytes` holds it with PADDING zero bytes after its `size` bytes."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.size = len(data)
        self.bytes: npt.NDArray[np.uint8] = np.zeros(self.size + PADDING, dtype=np.uint8)
        self.bytes[: self.size] = np.frombuffer(data, dtype=np.uint8)
        self._words: U64 = np.ndarray(
            (self.size + PADDING - 7,), dtype="<u8", buffer=self.bytes, strides=(1,)
        )

    def at(self, cursor: I64) -> U64:
        """The word at each cursor. Cursors must lie within the text, or less than PADDING - 8 after it."""
        return self._words[cursor]

    def char(self, cursor: I64) -> npt.NDArray[np.uint8]:
        """The byte at each cursor."""
        return self.bytes[cursor]

    def matches(self, cursor: I64, literal: bytes) -> Flags:
        """Where `literal` stands at the cursor."""
        if len(literal) == 1:
            same: Flags = self.bytes[cursor] == literal[0]
            return same
        result: Flags | None = None
        for start in range(0, len(literal), 8):
            piece = literal[start : start + 8]
            if start and len(piece) < 8:
                # The last piece is read with its end at the literal's end: a full word needs no mask.
                piece, start = literal[-8:], len(literal) - 8
            words = self.at(cursor + start)
            if len(piece) < 8:
                words &= mask_of(len(piece))
            same = words == word_of(piece)
            result = same if result is None else result & same
        assert result is not None
        return result

    def decimal(self, cursor: I64) -> tuple[U64, I64]:
        """Value and number of characters of the decimal number at each cursor, at most 20 characters long.

        The length is 0 where there is no number, and where it does not fit 64 bits by its length.
        """
        return self._number(cursor, _non_digits, digits8, 20, 10)

    def hexadecimal(self, cursor: I64) -> tuple[U64, I64]:
        """Value and number of characters of the hexadecimal number (without 0x) at each cursor.

        The length is 0 where there is no number, and where it has more than 16 digits.
        """
        return self._number(cursor, _non_hex, _hex8, 16, 16)

    def _number(
        self, cursor: I64, non_digits: Any, value_of: Any, longest: int, base: int
    ) -> tuple[U64, I64]:
        words = self.at(cursor)
        length = _rank(non_digits(words))
        value: U64 = value_of(words, length)
        rows = np.flatnonzero(length == 8)
        done = 8
        while len(rows):
            more = self.at(cursor[rows] + done)
            extra = _rank(non_digits(more))
            np.minimum(extra, longest - done, out=extra)
            scale = _TEN_TO[extra] if base == 10 else _u(1) << (extra.view(np.uint64) << _u(2))
            value[rows] = value[rows] * scale + value_of(more, extra)
            length[rows] += extra
            done += 8
            rows = rows[extra == 8]
            if done >= longest:
                break
        at_limit = np.flatnonzero(length == longest)
        if len(at_limit):
            after = self.at(cursor[at_limit] + longest)
            length[at_limit[_rank(non_digits(after)) > 0]] = 0
        return value, length

    def skip(self, cursor: I64, byte: int) -> I64:
        """The cursors moved past every `byte` that stands there, up to LONGEST_RUN of them."""
        count = count_of(self.at(cursor), byte)
        moved = cursor + count
        rows = np.flatnonzero(count == 8)
        for _ in range(LONGEST_RUN // 8):
            if not len(rows):
                break
            count = count_of(self.at(moved[rows]), byte)
            moved[rows] += count
            rows = rows[count == 8]
        return moved

    def find(self, cursor: I64, byte: int, end: I64) -> I64:
        """The first `byte` at or after each cursor and before `end`; `end` where there is none."""
        found = cursor + first_of(self.at(cursor), byte)
        rows = np.flatnonzero((found == cursor + 8) & (found < end))
        while len(rows):
            step = first_of(self.at(found[rows]), byte)
            found[rows] += step
            rows = rows[(step == 8) & (found[rows] < end[rows])]
        np.minimum(found, end, out=found)
        return found

    def positions(self, byte: int) -> I64:
        """Every place of the text where `byte` stands."""
        words = self.bytes[: (self.size + 7) & ~7].view("<u8")
        found = [np.zeros(0, dtype=np.int64)]
        # Piece by piece, so that what is computed stays in the processor's cache.
        for first in range(0, len(words), _PIECE):
            piece = words[first : first + _PIECE]
            differ = piece ^ _every(byte)
            differ |= (differ & _LOW7) + _LOW7
            with_byte = np.flatnonzero((differ & _HIGH) != _HIGH)
            row, column = np.divmod(np.flatnonzero(piece[with_byte].view(np.uint8) == byte), 8)
            found.append((with_byte[row] + first) * 8 + column)
        places = np.concatenate(found)
        return places[: np.searchsorted(places, self.size)]

    def slice(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`."""
        return self.bytes[start:end].tobytes()
