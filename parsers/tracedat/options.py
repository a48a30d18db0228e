"""The options of a trace.dat: a row for each one that hvtrace reads; all others are passed over by their size.

Source: trace-cmd.dat.v7.5, "OPTIONS"; trace-cmd.dat.v6.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hvtrace.parsers.cursor import Cursor
from hvtrace.parsers.tracedat.layout import Header, Tsc2Nsec

__all__ = ["BUFFER", "CPUCOUNT", "DONE", "read_option"]

DONE = 0
BUFFER = 3
CPUCOUNT = 8

#: Text kept of an option meant for people.
MAX_TEXT = 4096


def _text(cursor: Cursor) -> str:
    return cursor.take(cursor.left, "an option").split(b"\0", 1)[0].decode("utf-8", "replace").strip()


def _date(header: Header, cursor: Cursor) -> None:
    text = _text(cursor)
    try:
        header.date_offset_ns = int(text, 16 if text.lower().startswith("0x") else 10) * 1000
    except ValueError:
        header.facts["date offset"] = text[:MAX_TEXT]
    if abs(header.date_offset_ns) >= 1 << 62:
        header.date_offset_ns = 0
    if header.date_offset_ns:
        header.facts["date offset ns"] = str(header.date_offset_ns)


def _clock(header: Header, cursor: Cursor) -> None:
    chosen = re.search(r"\[([\w-]+)\]", text := _text(cursor))
    header.clock = chosen[1] if chosen else text.split()[0] if text.split() else None


def _guest(header: Header, cursor: Cursor) -> None:
    name = cursor.string("a guest's name")
    cursor.u64("a guest's trace id")
    count = cursor.u32("a guest's number of vCPUs")
    for _ in range(min(count, cursor.left // 8)):
        vcpu, tid = cursor.numbers("II", "a guest's vCPU")
        header.guests[tid] = (name, vcpu)


def _tsc2nsec(header: Header, cursor: Cursor) -> None:
    mult, shift, _offset = cursor.numbers("IIQ", "the TSC2NSEC option")
    if mult and shift < 64:
        header.tsc2nsec = Tsc2Nsec(mult, shift)


def _fact(name: str) -> Callable[[Header, Cursor], None]:
    def read(header: Header, cursor: Cursor) -> None:
        header.facts[name] = _text(cursor)[:MAX_TEXT]

    return read


def _trace_id(header: Header, cursor: Cursor) -> None:
    header.facts["trace id"] = f"{cursor.u64('the trace id'):#x}"


def _cpustat(header: Header, cursor: Cursor) -> None:
    """Per-CPU statistics: only what was overrun is of interest."""
    text = _text(cursor)
    cpu = re.search(r"^CPU:\s*(\d+)", text, re.MULTILINE)
    for key in ("overrun", "commit overrun", "dropped events"):
        value = re.search(rf"^{key}:\s*([1-9]\d*)", text, re.MULTILINE)
        if cpu and value:
            header.facts[f"CPU {cpu[1]} {key}"] = value[1]


#: Option id → reader. A reader sees exactly the option's data.
READERS: dict[int, Callable[[Header, Cursor], None]] = {
    1: _date,
    2: _cpustat,
    4: _clock,
    5: _fact("uname"),
    6: _fact("hook"),
    7: _fact("offset"),
    9: _fact("trace-cmd version"),
    11: _trace_id,
    13: _guest,
    14: _tsc2nsec,
    24: _fact("last boot"),
}


def read_option(header: Header, option: int, cursor: Cursor) -> None:
    """Let the option's reader, if there is one, take its data into `header`."""
    reader = READERS.get(option)
    if reader is not None:
        reader(header, cursor)
