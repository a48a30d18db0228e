"""Small texts in, rows out."""

from __future__ import annotations

import io
from typing import Any

from hvtrace.parsers.recording import Lost
from hvtrace.parsers.text import TextRecording, open_text

__all__ = ["events", "losses", "recording", "rows"]


def recording(text: str | bytes, tsc_khz: int | None = None) -> TextRecording:
    """The text as an opened recording."""
    data = text.encode() if isinstance(text, str) else text
    return open_text("some.txt", lambda: io.BytesIO(data), tsc_khz)


def rows(text: str | bytes, tsc_khz: int | None = None) -> list[dict[str, Any]]:
    """Every event as a dict with its tracepoint's name, in the order of the windows."""
    result = []
    for window in recording(text, tsc_khz).windows():
        found = [{"event": name} | row for name, table in window.tables.items() for row in table.to_pylist()]
        result += sorted(found, key=lambda row: row["seq"])
    return result


def events(text: str) -> list[dict[str, Any]]:
    """Own fields of the events whose texts these are, one a line: `kvm_fpu: load`; null fields left out."""
    common = {"seq", "ts_ns", "cpu", "tid", "comm", "irq"}
    lines = [
        f"     CPU 0/KVM-206     [001] d..1.    16.000001: {line}\n" for line in text.strip("\n").splitlines()
    ]
    return [
        {k: v for k, v in row.items() if k not in common and v is not None}
        for row in rows("# tracer: nop\n" + "".join(lines))
    ]


def losses(text: str) -> list[Lost]:
    """Losses the text tells of."""
    return [lost for window in recording(text).windows() for lost in window.lost]
