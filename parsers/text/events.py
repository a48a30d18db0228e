"""Texts of one tracepoint → its table's own columns."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.parsers.text.cursor import I64, U64, Flags, Text
from hvtrace.parsers.text.layout import Choice, HexBytes, Literal, Number, Op, String, parse_layout
from hvtrace.parsers.text.match import LONGEST_STRING, Captured, Matcher, Slices
from hvtrace.parsers.text.strings import binary_column, string_column
from hvtrace.parsers.text.vocabulary import VOCABULARY
from hvtrace.schema.arrow import ARROW_TYPES, DICTIONARY
from hvtrace.schema.common import column_name
from hvtrace.schema.tracepoint import Field, Tracepoint

__all__ = ["EventReader", "Rows"]

_BITS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "s8": 8, "s16": 16, "s32": 32, "s64": 64, "bool": 64}
#: What libtraceevent prints before the bare fields of an event whose print format it does not understand.
_FAILED = b"[FAILED TO PARSE] "
#: Different sets of bare fields looked for in one block.
_RAW_FORMS = 8
_RAW_NAME = re.compile(rb"(?:^| )([A-Za-z_]\w*)=")


@dataclass(slots=True)
class Rows:
    """Columns of some events, without the common ones, and their names; `understood`: the text fits a layout."""

    columns: list[pa.Array]
    names: list[str]
    understood: Flags

    def only_understood(self) -> Rows:
        """Without the rows that are not."""
        mask = pa.array(self.understood)
        return Rows([c.filter(mask) for c in self.columns], self.names, self.understood[self.understood])


class EventReader:
    """Reads one tracepoint's texts. It remembers which layout fitted last; not for several threads at once."""

    def __init__(self, tracepoint: Tracepoint, kernel: bool = True) -> None:
        """`kernel` is true for text the kernel itself printed, false for libtraceevent's."""
        self.tracepoint = tracepoint
        self.names = [column_name(f.name) for f in tracepoint.fields]
        self.fields = {name: f for f in tracepoint.fields for name in (f.name, *f.older)}
        self._bits = {f.name: _BITS.get(f.type, 64) for f in tracepoint.fields}
        self._layouts = [parse_layout(layout, VOCABULARY, kernel) for layout in tracepoint.layouts]
        self._matchers = [Matcher(ops, self._bits) for ops in self._layouts]
        self._raw: dict[tuple[bytes, ...], Matcher] = {}

    def read(self, text: Text, start: I64, end: I64) -> Rows:
        """Columns for the texts at these places; fields that the text does not carry are null."""
        found = self._captured(text, start, end)
        return Rows(self._columns(text, found, len(start)), self.names, found.fits)

    def _captured(self, text: Text, start: I64, end: I64) -> Captured:
        """What the layouts take out of the texts, each line by the first layout that fits it."""
        first = self._matchers[0].run(text, start, end)
        if first.fits.all():
            return first
        parts: list[tuple[npt.NDArray[np.int64], Captured]] = [(np.arange(len(start)), first)]
        rest = np.flatnonzero(~first.fits)
        if not first.fits.any():
            parts.clear()
        for i in range(1, len(self._matchers)):
            found = self._matchers[i].run(text, start[rest], end[rest])
            if found.fits.any():
                parts.append((rest, found))
                if len(rest) == len(start) and found.fits.all():
                    # This recording is of a kernel or tool with this layout: it is tried first from now on.
                    self._matchers.insert(0, self._matchers.pop(i))
                    return found
                rest = rest[~found.fits]
            if not len(rest):
                break
        if len(rest):
            parts.extend(self._bare_fields(text, start, end, rest))
        return _merged(len(start), parts)

    def _bare_fields(
        self, text: Text, start: I64, end: I64, rest: npt.NDArray[np.int64]
    ) -> list[tuple[npt.NDArray[np.int64], Captured]]:
        """Texts of the form `name=value name=value …`, as trace-cmd report -R prints them."""
        parts = []
        for _ in range(_RAW_FORMS):
            limit = np.minimum(end[rest], start[rest] + LONGEST_STRING)
            candidates = rest[text.find(start[rest], ord("="), limit) < limit]
            if not len(candidates):
                break
            first = candidates[0]
            sample = text.slice(start[first], min(end[first], start[first] + LONGEST_STRING))
            matcher = self._raw_matcher(sample)
            if matcher is None:
                break
            found = matcher.run(text, start[candidates], end[candidates])
            if not found.fits.any():
                break
            parts.append((candidates, found))
            rest = np.setdiff1d(rest, candidates[found.fits], assume_unique=True)
        return parts

    def _raw_matcher(self, sample: bytes) -> Matcher | None:
        failed = sample.startswith(_FAILED)
        names = tuple(_RAW_NAME.findall(sample.removeprefix(_FAILED)))
        if not names or not any(name.decode() in self.fields for name in names):
            return None
        key = (b"failed" if failed else b"raw", *names)
        if key not in self._raw and len(self._raw) < 64:
            ops: list[Op] = [Literal(_FAILED)] if failed else []
            for i, name in enumerate(names):
                ops.append(Literal((b" " if i else b"") + name + b"="))
                follow = b" " + names[i + 1] + b"=" if i + 1 < len(names) else b""
                ops.extend(self._raw_value(self.fields.get(name.decode()), failed, follow))
            self._raw[key] = Matcher(tuple(ops), self._bits)
        return self._raw.get(key)

    def _raw_value(self, field: Field | None, failed: bool, follow: bytes) -> tuple[Op, ...]:
        if field is None:
            return (String(None, follow),)
        if field.type == "str":
            return (String(field.name, follow),)
        if field.type == "bytes":
            return (Literal(b"ARRAY["), HexBytes(field.name, None, b", "), Literal(b"]"))
        if failed:
            return (Number(field.name, "auto"),)
        captures = [op for op in self._layouts[0] if field.name in _fields_of(op)]
        # What the kernel prints in parts, trace-cmd prints as the first part only.
        kept = field.name if len(captures) < 2 else None
        return (Number(kept, "x" if self._bare_hex(field) else "auto"),)

    def _bare_hex(self, field: Field) -> bool:
        """Whether the kernel prints the field in hexadecimal without 0x; trace-cmd report -R then does so too."""
        return any(
            isinstance(op, Number) and op.kind == "x" and op.field == field.name and not _after_0x(ops, i)
            for ops in self._layouts[:1]
            for i, op in enumerate(ops)
        )

    def _columns(self, text: Text, found: Captured, n: int) -> list[pa.Array]:
        all_fit = bool(found.fits.all())
        return [self._column(text, found, field, n, all_fit) for field in self.tracepoint.fields]

    def _column(self, text: Text, found: Captured, field: Field, n: int, all_fit: bool) -> pa.Array:
        valid = _valid(found, field.name, all_fit)
        if field.name in found.values:
            return _number_column(found.values[field.name], field.type, valid)
        if field.name in found.strings:
            where = found.strings[field.name]
            return string_column(text, where.start, where.end, valid).dictionary_encode().cast(DICTIONARY)
        if field.name in found.bytes:
            rows, length = found.bytes[field.name]
            if field.sized_by in found.values:
                length = np.minimum(length, found.values[field.sized_by].view(np.int64))
            return binary_column(rows, length, valid)
        return pa.nulls(n, ARROW_TYPES[field.type])


def _fields_of(op: Op) -> tuple[str | None, ...]:
    return op.fields if isinstance(op, Choice) else (getattr(op, "field", None),)


def _after_0x(ops: tuple[Op, ...], i: int) -> bool:
    before = ops[i - 1] if i else None
    return isinstance(before, Literal) and before.text.endswith(b"0x")


def _valid(found: Captured, name: str, all_fit: bool) -> Flags | None:
    valid = found.valid.get(name)
    if all_fit:
        return valid
    return found.fits if valid is None else valid & found.fits


def _number_column(values: U64, kind: str, valid: Flags | None) -> pa.Array:
    mask = None if valid is None else ~valid
    if kind == "bool":
        return pa.array(values != 0, mask=mask)
    if kind.startswith("s"):
        return pa.array(values.view(np.int64).astype(f"i{_BITS[kind] // 8}", copy=False), mask=mask)
    return pa.array(values.astype(f"u{_BITS[kind] // 8}", copy=False), mask=mask)


def _merged(n: int, parts: list[tuple[npt.NDArray[np.int64], Captured]]) -> Captured:
    """One result for n lines out of several, each for some of the lines; of those it counts where it fits."""
    whole = Captured(np.zeros(n, dtype=np.bool_))
    for rows, part in parts:
        fits = np.flatnonzero(part.fits)
        at = rows[fits]
        whole.fits[at] = True
        for name, value in part.values.items():
            if name not in whole.values:
                whole.values[name] = np.zeros(n, dtype=np.uint64)
                whole.valid[name] = np.zeros(n, dtype=np.bool_)
            whole.values[name][at] = value[fits]
            valid = part.valid.get(name)
            whole.valid[name][at] = True if valid is None else valid[fits]
        for name, where in part.strings.items():
            if name not in whole.strings:
                whole.strings[name] = Slices(np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64))
                whole.valid[name] = np.zeros(n, dtype=np.bool_)
            whole.strings[name].start[at] = where.start[fits]
            whole.strings[name].end[at] = where.end[fits]
            whole.valid[name][at] = True
        for name, (matrix, length) in part.bytes.items():
            if name not in whole.bytes:
                shape = (n, matrix.shape[1])
                whole.bytes[name] = (np.zeros(shape, dtype=np.uint8), np.zeros(n, dtype=np.int64))
                whole.valid[name] = np.zeros(n, dtype=np.bool_)
            whole.bytes[name][0][at] = matrix[fits]
            whole.bytes[name][1][at] = length[fits]
            whole.valid[name][at] = True
    return whole
