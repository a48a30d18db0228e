"""Runs a layout over the texts of many events at once.

All lines stand at the same op of the layout at the same time: their cursors are one array, and an op moves it.
A line that does not fit stays in the arrays but is marked; its values are never used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.text.cursor import I64, U64, Flags, Text, mask_of
from hvtrace.parsers.text.interner import Interner
from hvtrace.parsers.text.layout import (
    Choice,
    Constant,
    Flag,
    HexBytes,
    Literal,
    Maybe,
    Msi,
    Number,
    Op,
    String,
)

__all__ = ["LONGEST_STRING", "Captured", "Matcher", "Slices"]

#: A string is looked for this far.
LONGEST_STRING = 4096
#: Hexadecimal bytes taken: the longest x86 instruction.
LONGEST_BYTES = 15

_MASKS = np.array([int(mask_of(n)) for n in range(9)], dtype=np.uint64)
_SPACE = 0x20


@dataclass(slots=True)
class Slices:
    """Strings as places in the text: where each starts and ends."""

    start: I64
    end: I64


@dataclass(slots=True)
class Captured:
    """What a layout took out of the lines it ran over.

    `fits` is true for the lines it fits. `values` holds numbers as 64-bit words (negative ones as two's
    complement), `valid` says for a field where it was there at all (missing key: everywhere).
    """

    fits: Flags
    values: dict[str, U64] = field(default_factory=dict)
    valid: dict[str, Flags] = field(default_factory=dict)
    strings: dict[str, Slices] = field(default_factory=dict)
    bytes: dict[str, tuple[npt.NDArray[np.uint8], I64]] = field(default_factory=dict)

    def put(self, name: str | None, value: U64, valid: Flags | None = None) -> None:
        """Keep the values of a field, joined with what is there already."""
        if name is None:
            return
        if name in self.values:
            before = self.valid.get(name)
            old = self.values[name] if before is None else np.where(before, self.values[name], 0)
            new = value if valid is None else np.where(valid, value, 0)
            self.values[name] = (old | new).astype(np.uint64)
            if before is not None and valid is not None:
                self.valid[name] = before | valid
            else:
                self.valid.pop(name, None)
            return
        self.values[name] = value
        if valid is not None:
            self.valid[name] = valid


_FAIL, _DONE, _MORE, _HEX, _UNKNOWN = range(5)


class _Node:
    """One step of recognising a word: up to eight bytes looked at, what they settle."""

    def __init__(self, choice: Choice, prefix: bytes) -> None:
        self.choice = choice
        self.prefix = prefix
        follow = choice.follow[:1] if choice.follow else b""
        self.words = [(word.encode(), word.encode() + follow, v) for word, v in choice.words.items()]
        longest = max((len(full) for _, full, _ in self.words), default=0)
        # Numbers for nameless words start with 0x or UNKNOWN.
        self.width = max(0, min(8, max(longest, 3) - len(prefix)))
        self.forget()

    def forget(self) -> None:
        """Know nothing of what was seen."""
        self.interner = Interner()
        self.kinds = np.zeros(0, dtype=np.int8)
        self.lengths = np.zeros(0, dtype=np.int64)
        self.values = [np.zeros(0, dtype=np.uint64) for _ in self.choice.fields]
        self.valid = [np.zeros(0, dtype=np.bool_) for _ in self.choice.fields]
        self.children: dict[int, _Node] = {}

    def settle(self, seen: bytes) -> tuple[int, int, tuple[int | None, ...]]:
        """What the bytes seen so far say: a kind, the word's length, its values."""
        none = (None,) * len(self.choice.fields)
        # Zero bytes stand for what is behind the end of the line.
        complete = seen.endswith(b"\0")
        seen = seen.rstrip(b"\0")
        settled = [(w, v) for w, full, v in self.words if seen.startswith(full) or (complete and seen == w)]
        if not complete and any(len(f) > len(seen) and f.startswith(seen) for _, f, _ in self.words):
            return _MORE, 0, none
        if settled:
            word, values = max(settled, key=lambda item: len(item[0]))
            return _DONE, len(word), values
        if seen.startswith(b"0x"):
            return _HEX, 2, none
        if seen.startswith((b"UNK", b"UNKNOWN")):
            return _UNKNOWN, len(b"UNKNOWN ("), none
        return _FAIL, 0, none

    def codes(self, words: U64) -> npt.NDArray[np.int32]:
        if len(self.interner) > Interner.LIMIT:
            self.forget()
        codes, rows = self.interner.codes(words)
        if len(rows):
            fresh = [
                self.settle(self.prefix + int(word).to_bytes(8, "little")[: self.width])
                for word in words[rows].tolist()
            ]
            self.kinds = np.append(self.kinds, np.array([kind for kind, _, _ in fresh], dtype=np.int8))
            self.lengths = np.append(self.lengths, np.array([n for _, n, _ in fresh], dtype=np.int64))
            for i in range(len(self.choice.fields)):
                column = [values[i] for _, _, values in fresh]
                numbers = np.array([(v or 0) & 0xFFFFFFFFFFFFFFFF for v in column], dtype=np.uint64)
                self.values[i] = np.append(self.values[i], numbers)
                self.valid[i] = np.append(self.valid[i], np.array([v is not None for v in column]))
        return codes


class Matcher:
    """Runs layouts. One is not for several threads at once: it remembers the words it has seen."""

    def __init__(self, ops: tuple[Op, ...], bits: dict[str, int]) -> None:
        """`bits` gives the width of each number field; a number that does not fit makes a line not fit."""
        self.ops = ops
        self.bits = bits
        self._nodes: dict[int, _Node] = {}

    def run(self, text: Text, cursor: I64, end: I64) -> Captured:
        """Read the texts that start at `cursor`; `end` is behind their last character that is not blank."""
        state = _State(self, text, cursor, end)
        state.run(self.ops)
        done = (state.cursor == end) | ((state.cursor > end) & (text.skip(end, _SPACE) >= state.cursor))
        state.captured.fits &= done
        return state.captured

    def node(self, choice: Choice) -> _Node:
        """Where the recognition of a choice's words starts."""
        node = self._nodes.get(id(choice))
        if node is None:
            node = self._nodes[id(choice)] = _Node(choice, b"")
        return node


class _State:
    def __init__(self, matcher: Matcher, text: Text, cursor: I64, end: I64) -> None:
        self.matcher = matcher
        self.text = text
        self.cursor = cursor
        self.end = end
        self.captured = Captured(np.ones(len(cursor), dtype=np.bool_))

    def run(self, ops: tuple[Op, ...]) -> None:
        for op in ops:
            match op:
                case Literal():
                    self.literal(op)
                case Number():
                    self.number(op)
                case Choice():
                    self.choice(op)
                case Constant():
                    self.captured.put(op.field, self.full(op.value))
                case Flag():
                    here = self.text.matches(self.cursor, op.text)
                    self.advance(np.where(here, len(op.text), 0))
                    self.captured.put(op.field, here.astype(np.uint64))
                case String():
                    self.string(op)
                case HexBytes():
                    self.hex_bytes(op)
                case Msi():
                    self.msi(op)
                case Maybe():
                    self.maybe(op)

    def full(self, value: int) -> U64:
        return np.full(len(self.cursor), value & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64)

    def require(self, here: Flags) -> None:
        self.captured.fits &= here

    def advance(self, by: Any) -> None:
        self.cursor = np.minimum(self.cursor + by, self.text.size)

    def literal(self, op: Literal) -> None:
        self.require(self.text.matches(self.cursor, op.text))
        self.advance(len(op.text))

    def number(self, op: Number) -> None:
        kind = op.kind
        negative: Flags | None = None
        if kind in ("d", "auto"):
            negative = self.text.char(self.cursor) == ord("-")
            if negative.any():
                self.advance(negative)
            else:
                negative = None
        if kind == "X":
            self.advance(np.where(self.text.matches(self.cursor, b"0x"), 2, 0))
        if kind in ("x", "X"):
            value, length = self.text.hexadecimal(self.cursor)
        elif kind == "auto":
            value, length = self.auto()
        else:
            value, length = self.text.decimal(self.cursor)
        self.require(length > 0)
        self.advance(length)
        bits = self.matcher.bits.get(op.field or "", 64)
        if bits < 64:
            self.require(value < np.uint64(1 << bits))
        if kind == "-u":
            value = np.uint64(0) - value
        elif negative is not None:
            value = np.where(negative, np.uint64(0) - value, value)
        self.captured.put(op.field, value << np.uint64(op.shift) if op.shift else value)

    def auto(self) -> tuple[U64, I64]:
        """A number that is hexadecimal where 0x says so, decimal otherwise."""
        is_hex = self.text.matches(self.cursor, b"0x")
        if not is_hex.any():
            return self.text.decimal(self.cursor)
        if not is_hex.all():
            value, length = self.text.decimal(self.cursor)
            hex_value, hex_length = self.text.hexadecimal(self.cursor + 2)
            return np.where(is_hex, hex_value, value), np.where(
                is_hex & (hex_length > 0), hex_length + 2, length
            )
        value, length = self.text.hexadecimal(self.cursor + 2)
        return value, np.where(length > 0, length + 2, 0)

    def choice(self, op: Choice) -> None:
        node = self.matcher.node(op)
        kinds, lengths, values, valid = self.recognise(node, self.cursor, self.end, 0)
        plain = bool((kinds == _DONE).all())
        if not plain:
            self.require(kinds != _FAIL)
            for kind, after in ((_HEX, 0), (_UNKNOWN, 1)):
                rows = np.flatnonzero(kinds == kind)
                if not len(rows):
                    continue
                start = self.cursor[rows] + lengths[rows]
                read = self.text.hexadecimal if kind == _HEX else self.text.decimal
                number, digits = read(start)
                values[0][rows] = number
                valid[0][rows] = True
                lengths[rows] += digits + after
                self.captured.fits[rows] &= digits > 0
        self.advance(lengths)
        for name, column, there in zip(op.fields, values, valid, strict=True):
            self.captured.put(name, column, None if there.all() else there)

    def recognise(
        self, node: _Node, cursor: I64, end: I64, looked_at: int
    ) -> tuple[npt.NDArray[np.int8], I64, list[U64], list[Flags]]:
        """Kinds, lengths, and for each field values and validity, of the words at the cursors."""
        here = np.minimum(cursor + looked_at, self.text.size)
        known = np.clip(end - here, 0, node.width)
        codes = node.codes(self.text.at(here) & _MASKS[known])
        kinds = node.kinds[codes]
        lengths = node.lengths[codes]
        values = [column[codes] for column in node.values]
        valid = [column[codes] for column in node.valid]
        unsettled = np.flatnonzero(kinds == _MORE)
        for code in np.unique(codes[unsettled]).tolist():
            rows = unsettled[codes[unsettled] == code]
            child = node.children.get(code)
            if child is None:
                word = int(self.text.at(here[rows[:1]])[0]).to_bytes(8, "little")[: node.width]
                child = node.children[code] = _Node(node.choice, node.prefix + word)
            deeper = self.recognise(child, cursor[rows], end[rows], looked_at + node.width)
            kinds[rows], lengths[rows] = deeper[0], deeper[1]
            for i in range(len(values)):
                values[i][rows], valid[i][rows] = deeper[2][i], deeper[3][i]
        return kinds, lengths, values, valid

    def string(self, op: String) -> None:
        start = self.cursor
        if not op.follow:
            self.cursor = np.maximum(self.end, start)
        else:
            self.cursor = self.search(op, start)
        if op.field is not None:
            self.captured.strings[op.field] = Slices(start, self.cursor)

    def search(self, op: String, start: I64) -> I64:
        """Where the string ends: at the literal after it, or (with `rest`) where all of the rest fits."""
        end = np.minimum(self.end, start + LONGEST_STRING)
        found = start.copy()
        rows = np.flatnonzero(self.captured.fits)
        while len(rows):
            here = self.text.find(found[rows], op.follow[0], end[rows])
            missing = here >= end[rows]
            self.captured.fits[rows[missing]] = False
            rows, here = rows[~missing], here[~missing]
            found[rows] = here
            if op.rest_fits:
                trial = _State(self.matcher, self.text, here, self.end[rows])
                trial.run(op.rest)
                fits = trial.captured.fits & (trial.cursor >= trial.end)
            else:
                fits = self.text.matches(here, op.follow)
            rows = rows[~fits]
            found[rows] += 1
        return found

    def hex_bytes(self, op: HexBytes) -> None:
        n = len(self.cursor)
        out = np.zeros((n, LONGEST_BYTES), dtype=np.uint8)
        count = np.zeros(n, dtype=np.int64)
        cursor = self.cursor.copy()
        rows = np.arange(n)
        for i in range(LONGEST_BYTES):
            value, digits = self.text.hexadecimal(cursor[rows])
            fits = digits == 2
            rows, value = rows[fits], value[fits]
            if not len(rows):
                break
            out[rows, i] = value
            count[rows] += 1
            cursor[rows] += 2
            more = self.text.matches(cursor[rows], op.between)
            rows = rows[more]
            cursor[rows] += len(op.between)
        # A blank after the last byte belongs to what follows.
        trailing = (count > 0) & (self.text.char(np.maximum(cursor - 1, 0)) == op.between[-1])
        cursor -= np.where(trailing, len(op.between), 0)
        self.require(count > 0)
        self.cursor = np.minimum(cursor, self.text.size)
        self.captured.bytes[op.field] = (out, count)
        self.captured.put(op.length_field, count.astype(np.uint64))

    def msi(self, op: Msi) -> None:
        """The inverse of (address >> 12 & 0xff) | (address >> 32 & 0xffffff00)."""
        destination, length = self.text.hexadecimal(self.cursor)
        self.require(length > 0)
        self.advance(length)
        low = (destination & np.uint64(0xFF)) << np.uint64(12)
        self.captured.put(op.field, low | (destination & np.uint64(0xFFFFFF00)) << np.uint64(32))

    def maybe(self, op: Maybe) -> None:
        trial = _State(self.matcher, self.text, self.cursor, self.end)
        trial.run(op.ops)
        fits = trial.captured.fits
        self.cursor = np.where(fits, trial.cursor, self.cursor)
        for name, value in trial.captured.values.items():
            valid = trial.captured.valid.get(name)
            self.captured.put(name, value, fits if valid is None else fits & valid)
        for name in (*trial.captured.strings, *trial.captured.bytes):
            self.captured.valid[name] = fits
        self.captured.strings.update(trial.captured.strings)
        self.captured.bytes.update(trial.captured.bytes)
