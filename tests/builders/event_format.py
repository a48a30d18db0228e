"""Event formats: the text that a recording carries for each tracepoint, and records packed by it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hvtrace.schema.tracepoint import Tracepoint

__all__ = ["EventFormat", "FormatField", "event_format", "format_of"]

#: C types by name: size in bytes and signedness.
C_TYPES: dict[str, tuple[int, bool]] = {
    "bool": (1, False),
    "char": (1, True),
    "unsigned char": (1, False),
    "short": (2, True),
    "unsigned short": (2, False),
    "int": (4, True),
    "pid_t": (4, True),
    "unsigned int": (4, False),
    "u8": (1, False),
    "u16": (2, False),
    "u32": (4, False),
    "u64": (8, False),
    "s8": (1, True),
    "s16": (2, True),
    "s32": (4, True),
    "s64": (8, True),
}

#: The C type that stands for a declared column type.
DECLARED_AS = {"str": "__data_loc char[]", "bytes": "__data_loc u8[]"}

_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}


@dataclass(frozen=True)
class FormatField:
    """One field of a record: its C type, its place, and how many elements it has (1: not an array)."""

    type: str
    name: str
    offset: int
    size: int
    signed: bool
    elements: int = 1

    @property
    def dynamic(self) -> bool:
        return self.type.startswith(("__data_loc", "__rel_loc"))

    def text(self) -> str:
        base = self.type.split("[")[0]
        declaration = f"{self.type} {self.name}"
        if not self.dynamic and self.elements > 1:
            declaration = f"{base} {self.name}[{self.elements}]"
        return (
            f"\tfield:{declaration};\toffset:{self.offset};\tsize:{self.size};\tsigned:{int(self.signed)};\n"
        )


@dataclass(frozen=True)
class EventFormat:
    """A tracepoint as the recording declares it. `record` packs one event of it."""

    system: str
    name: str
    id: int
    common: tuple[FormatField, ...]
    fields: tuple[FormatField, ...]
    print_fmt: str = '"%d", REC->common_pid'
    fixed_size: int = field(default=0)

    def text(self) -> bytes:
        """The text of the event's `format` file."""
        common = "".join(f.text() for f in self.common)
        own = "".join(f.text() for f in self.fields)
        head = f"name: {self.name}\nID: {self.id}\nformat:\n"
        return f"{head}{common}\n{own}\nprint fmt: {self.print_fmt}\n".encode()

    def record(
        self, pid: int = 0, *, endian: str = "<", flags: int = 0, preempt: int = 0, **values: object
    ) -> bytes:
        """Pack one event: fields by name, absent ones zero; text and bytes for arrays and dynamic fields."""
        head = {
            "common_type": self.id,
            "common_flags": flags,
            "common_preempt_count": preempt,
            "common_pid": pid,
        }
        out = bytearray(self.fixed_size)
        unknown = set(values) - {f.name for f in self.fields}
        assert not unknown, f"{self.name} has no field {unknown}"
        for spec in (*self.common, *self.fields):
            value = head.get(spec.name, values.get(spec.name, 0))
            if spec.dynamic:
                data = _as_bytes(value or b"", terminate="char" in spec.type)
                base = spec.offset + spec.size if spec.type.startswith("__rel_loc") else 0
                struct.pack_into(endian + "I", out, spec.offset, len(data) << 16 | (len(out) - base))
                out += data
            elif spec.elements > 1:
                data = _as_bytes(value or b"", terminate=False)[: spec.size]
                out[spec.offset : spec.offset + len(data)] = data
            else:
                assert isinstance(value, int)
                wrapped = value & ((1 << 8 * spec.size) - 1)
                struct.pack_into(endian + _CODES[spec.size].upper(), out, spec.offset, wrapped)
        return bytes(out)


def event_format(
    system: str,
    name: str,
    event_id: int,
    fields: Sequence[tuple[str, str]],
    *,
    print_fmt: str | None = None,
    long_size: int = 8,
) -> EventFormat:
    """Declare a tracepoint from (C type, name) pairs, each at the offset where a compiler would put it.

    A type may be a C type, `T[n]`, `__data_loc T[]`, `__rel_loc T[]`, `unsigned long` or a pointer.
    """
    head = [
        ("unsigned short", "common_type"),
        ("unsigned char", "common_flags"),
        ("unsigned char", "common_preempt_count"),
        ("int", "common_pid"),
    ]
    common, end = _lay_out(head, 0, long_size)
    own, end = _lay_out(fields, end, long_size)
    alignment = max([f.size // f.elements for f in own], default=4)
    fixed = -(-end // alignment) * alignment
    extra = {} if print_fmt is None else {"print_fmt": print_fmt}
    return EventFormat(system, name, event_id, common, own, fixed_size=fixed, **extra)


def format_of(
    tracepoint: Tracepoint,
    event_id: int,
    *,
    without: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
) -> EventFormat:
    """The format of a declared tracepoint: all its fields (less `without`), with C types of their width.

    `types` gives a field another C type, as an older kernel would.
    """
    types = types or {}
    fields = [
        (types.get(f.name, DECLARED_AS.get(f.type, f.type)), f.name)
        for f in tracepoint.fields
        if f.name not in without
    ]
    return event_format(tracepoint.system, tracepoint.name, event_id, fields)


def _lay_out(
    pairs: Sequence[tuple[str, str]], at: int, long_size: int
) -> tuple[tuple[FormatField, ...], int]:
    out = []
    for c_type, name in pairs:
        base, _, count = c_type.partition("[")
        elements = 1
        if c_type.startswith(("__data_loc", "__rel_loc")):
            width, signed = 4, False
        else:
            width, signed = _width(base.strip(), long_size)
            elements = int(count.rstrip("]")) if count else 1
        at = -(-at // width) * width
        out.append(FormatField(c_type, name, at, width * elements, signed, elements))
        at += width * elements
    return tuple(out), at


def _width(c_type: str, long_size: int) -> tuple[int, bool]:
    if c_type.endswith("*") or c_type in ("unsigned long", "gpa_t", "gva_t"):
        return long_size, False
    if c_type == "long":
        return long_size, True
    return C_TYPES[c_type]


def _as_bytes(value: object, *, terminate: bool) -> bytes:
    if isinstance(value, str):
        return value.encode() + b"\0" * terminate
    assert isinstance(value, bytes)
    return value
