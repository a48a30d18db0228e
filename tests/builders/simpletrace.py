"""Writes files of QEMU's simple trace backend from values."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["dropped", "event", "header", "name"]

MAGIC = 0xF2B177CB0AA429B4
ONES = (1 << 64) - 1


def header(version: int = 4, order: str = "<") -> bytes:
    """The file's first 24 bytes."""
    return struct.pack(f"{order}QQQ", ONES, MAGIC, version)


def name(ident: int, text: str, order: str = "<") -> bytes:
    """The record that names an event."""
    return struct.pack(f"{order}QQI", 0, ident, len(text)) + text.encode()


def event(
    ident: int, ts: int, arguments: Sequence[int | str] = (), order: str = "<", *, kind: bool = True
) -> bytes:
    """An event: numbers take eight bytes (negative ones sign-extended), strings their length and bytes."""
    body = b""
    for value in arguments:
        if isinstance(value, str):
            body += struct.pack(f"{order}I", len(value.encode())) + value.encode()
        else:
            body += struct.pack(f"{order}Q", value & ONES)
    head = struct.pack(f"{order}QQII", ident, ts, 24 + len(body), 4711)
    return (struct.pack(f"{order}Q", 1) if kind else b"") + head + body


def dropped(ts: int, number: int, order: str = "<") -> bytes:
    """The record that tells of so many events dropped before it."""
    return event(ONES - 1, ts, (number,), order)
