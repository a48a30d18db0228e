"""Repeats a trace.dat in time: the same ring-buffer pages again and again, each round with later stamps.

Layout: trace-cmd.dat.v6.5 document; ring-buffer pages as in kernel/trace/ring_buffer.c.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["Repeated", "repeat_trace_dat"]

#: Time between the last event of one round and the first of the next.
GAP_NS = 1_000_000
#: Pages read and written at a time.
STRETCH = 1024

_STAMP_BITS = 59
_DELTA_BITS = 27
_DATA_START = 16


@dataclass(frozen=True)
class Repeated:
    """What was written: rounds, events over all rounds, the length of a round in ns, bytes."""

    times: int
    events: int
    period_ns: int
    size: int


@dataclass(frozen=True)
class _Cpu:
    offset: int
    pages: int
    events: int
    first: int
    last: int
    #: Absolute stamps: page and byte offset within the page of the word each begins with.
    absolute: npt.NDArray[np.int64]


def repeat_trace_dat(source: Path, target: Path, times: int) -> Repeated:
    """Write `target`, a version 6 file that holds the events of `source` `times` times.

    `source` is of version 6 or 7, little endian, with 4 KiB pages and without named instances. Version 7 is
    converted by trace-cmd first.
    """
    plain = source
    scratch = target.with_suffix(".v6")
    try:
        with source.open("rb") as file:
            version = file.read(11)[10:]
        if version == b"7":
            _convert(source, scratch)
            plain = scratch
        with plain.open("rb") as file, target.open("wb") as out:
            return _repeat(file, out, times)
    finally:
        scratch.unlink(missing_ok=True)


def _convert(source: Path, target: Path) -> None:
    tool = shutil.which("trace-cmd")
    if tool is None:
        raise SystemExit("trace-cmd is needed to convert a version 7 file")
    command = [
        tool,
        "convert",
        "--file-version",
        "6",
        "--compression",
        "none",
        "-i",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _repeat(file: BinaryIO, out: BinaryIO, times: int) -> Repeated:
    page_size, table_at, count = _find_table(file)
    file.seek(table_at)
    table = np.frombuffer(file.read(16 * count), dtype="<u8").reshape(count, 2)
    cpus = [_survey(file, int(o), int(s), page_size) for o, s in table]
    busy = [c for c in cpus if c.pages]
    start = min(c.offset for c in busy)
    period = max(c.last for c in busy) - min(c.first for c in busy) + GAP_NS

    file.seek(0)
    head = bytearray(file.read(start))
    at = start
    for n, cpu in enumerate(cpus):
        size = cpu.pages * page_size * times
        struct.pack_into("<QQ", head, table_at + 16 * n, at if size else 0, size)
        at += size
    out.write(head)
    for cpu in cpus:
        for n in range(times):
            _copy(file, out, cpu, page_size, n * period)
    return Repeated(times, times * sum(c.events for c in cpus), period, at)


def _find_table(file: BinaryIO) -> tuple[int, int, int]:
    """Page size, offset of the per-CPU table, number of its entries."""

    def number(code: str) -> int:
        return int(struct.unpack("<" + code, file.read(struct.calcsize(code)))[0])

    def skip(code: str) -> None:
        file.seek(number(code), 1)

    head = file.read(14)
    if head[10:13] != b"6\0\0":
        raise SystemExit("not a little-endian trace.dat of version 6")
    page_size = number("I")
    for name in (b"header_page\0", b"header_event\0"):
        assert file.read(len(name)) == name
        skip("Q")
    for _ in range(number("I")):
        skip("Q")
    for _ in range(number("I")):
        while file.read(1) != b"\0":
            pass
        for _ in range(number("I")):
            skip("Q")
    skip("I")
    skip("I")
    skip("Q")
    cpus = number("I")
    tag = file.read(10)
    if tag == b"options  \0":
        while (option := number("H")) != 0:
            size = number("I")
            data = file.read(size)
            if option == 3:
                raise SystemExit("a recording with named instances cannot be repeated")
            if option == 8:
                cpus = struct.unpack("<I", data)[0]
        tag = file.read(10)
    assert tag == b"flyrecord\0"
    return page_size, file.tell(), cpus


def _survey(file: BinaryIO, offset: int, size: int, page_size: int) -> _Cpu:
    """Step through one CPU's pages in lock step: count events, find the time range and absolute stamps."""
    pages = size // page_size
    if not pages:
        return _Cpu(offset, 0, 0, 0, 0, np.empty((0, 2), dtype=np.int64))
    words = np.memmap(file, dtype="<u4", mode="r", offset=offset, shape=(pages, page_size // 4))
    stamps = words[:, 0].astype(np.int64) | words[:, 1].astype(np.int64) << 32
    end = (words[:, 2] & (1 << _DELTA_BITS) - 1).astype(np.int64) + _DATA_START
    at = np.full(pages, _DATA_START, dtype=np.int64)
    clock = stamps.copy()
    active = np.flatnonzero(at < end)
    events = 0
    absolute: list[npt.NDArray[np.int64]] = []
    while len(active):
        where = at[active] >> 2
        word = words[active, where].astype(np.int64)
        second = words[active, np.minimum(where + 1, page_size // 4 - 1)].astype(np.int64)
        kind, delta = word & 31, word >> 5
        clock[active] += np.where(kind < 29, delta, 0) + np.where(
            kind == 30, (second << _DELTA_BITS) + delta, 0
        )
        is_absolute = kind == 31
        if is_absolute.any():
            rows = active[is_absolute]
            low = (second[is_absolute] << _DELTA_BITS) + delta[is_absolute]
            clock[rows] = (clock[rows] >> _STAMP_BITS << _STAMP_BITS) | low
            absolute.append(np.column_stack((rows, at[rows])))
        events += int((kind < 29).sum())
        length = np.where(kind == 0, 4 + ((second + 3) & ~3), 4 + 4 * kind)
        length = np.where(kind == 29, np.where(delta == 0, page_size, 4 + second), length)
        length = np.where(kind >= 30, 8, length)
        at[active] += length
        active = active[at[active] < end[active]]
    stamps_at = np.concatenate(absolute) if absolute else np.empty((0, 2), dtype=np.int64)
    stamps_at = stamps_at[np.lexsort((stamps_at[:, 1], stamps_at[:, 0]))]
    return _Cpu(offset, pages, events, int(stamps.min()), int(clock.max()), stamps_at)


def _copy(file: BinaryIO, out: BinaryIO, cpu: _Cpu, page_size: int, shift: int) -> None:
    """Write one round of one CPU, with every stamp `shift` later."""
    file.seek(cpu.offset)
    for start in range(0, cpu.pages, STRETCH):
        count = min(STRETCH, cpu.pages - start)
        data = np.frombuffer(bytearray(file.read(count * page_size)), dtype=np.uint8).reshape(
            count, page_size
        )
        data.view("<u8")[:, 0] += np.uint64(shift)
        words = data.view("<u4")
        low, high = np.searchsorted(cpu.absolute[:, 0], (start, start + count))
        for page, at in cpu.absolute[low:high] - (start, 0):
            word, second = (int(w) for w in words[page, at >> 2 : (at >> 2) + 2])
            stamp = ((second << _DELTA_BITS) + (word >> 5) + shift) & ((1 << _STAMP_BITS) - 1)
            words[page, at >> 2] = (stamp & (1 << _DELTA_BITS) - 1) << 5 | 31
            words[page, (at >> 2) + 1] = stamp >> _DELTA_BITS
        out.write(data.data)
