"""trace.dat version 7: sections in any order, found through the options (trace-cmd.dat.v7.5)."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zstandard

from hvtrace.errors import InputError
from hvtrace.parsers.cursor import Cursor
from hvtrace.parsers.recording import Damage
from hvtrace.parsers.tracedat import options
from hvtrace.parsers.tracedat.layout import (
    MAX_COUNT,
    Buffer,
    CpuData,
    Header,
    add_events,
    add_format,
    parse_cmdlines,
)
from hvtrace.parsers.tracedat.recover import find_pages
from hvtrace.parsers.tracedat.version6 import read_header_info

__all__ = ["decompress", "read_header"]

COMPRESSED = 1

#: A header section holds texts: more than this, decompressed, is damage (kallsyms is some 10 MiB).
MAX_SECTION = 1 << 28
#: The number of chained options sections.
MAX_OPTIONS = 1 << 12


def decompress(method: str, data: bytes, size: int) -> bytes:
    """Return the `size` bytes that `data` holds. Raises ValueError where it does not hold exactly those.

    trace-cmd writes zstd frames without their content size.
    """
    try:
        if method == "zstd":
            # A frame that states its size gets that much memory before anything is unpacked.
            if (stated := zstandard.frame_content_size(data)) not in (-1, size):
                raise ValueError(f"a frame of {stated} bytes where {size} were announced")
            out = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
        elif method == "zlib":
            decoder = zlib.decompressobj()
            out = decoder.decompress(data, size)
        else:
            raise ValueError(f"unknown compression {method!r}")
    except (zstandard.ZstdError, zlib.error) as error:
        raise ValueError(str(error)) from error
    if len(out) != size:
        raise ValueError(f"{len(out)} bytes where {size} were announced")
    return out


SECTION_NAMES = {
    0: "its options",
    3: "a buffer",
    16: "the header page",
    17: "the ftrace formats",
    18: "the event formats",
    21: "the command lines",
}


@dataclass(frozen=True, slots=True)
class Section:
    id: int
    flags: int
    at: int
    size: int


def _section(cursor: Cursor, offset: int, expected: int) -> Section:
    head = Cursor(cursor.data, cursor.path, offset)
    name = SECTION_NAMES.get(expected, f"section {expected}")
    if offset >= head.end:
        raise head.fail(f"the file ends before {name}")
    number, flags, _description, size = head.numbers("HHIQ", f"the header of {name}")
    if number != expected:
        raise head.fail(f"section {number} where {name} was announced", offset)
    return Section(number, flags, head.at, size)


def _payload(header: Header, cursor: Cursor, section: Section) -> Cursor:
    """Return the section's contents, decompressed."""
    inner = Cursor(cursor.data, cursor.path, section.at)
    if not section.flags & COMPRESSED:
        if section.size > inner.left:
            raise inner.fail(f"the file ends inside section {section.id}")
        return Cursor(cursor.data, cursor.path, section.at, section.at + section.size)
    packed, size = inner.numbers("II", "a compressed section")
    if size > MAX_SECTION:
        raise inner.fail(f"section {section.id} announces {size} bytes")
    at = inner.at
    try:
        data = decompress(header.compression, inner.take(packed, f"compressed section {section.id}"), size)
    except ValueError as error:
        raise inner.fail(f"section {section.id} cannot be decompressed: {error}", at) from error
    return Cursor(data, cursor.path, base=at)


def _formats(header: Header, inner: Cursor) -> None:
    count = inner.u32("the number of ftrace formats")
    if count > MAX_COUNT:
        raise inner.fail(f"{count} ftrace formats announced")
    for _ in range(count):
        add_format(header, inner, "ftrace")


def _cmdlines(header: Header, inner: Cursor) -> None:
    header.comms.update(
        parse_cmdlines(inner.take(inner.u64("the size of the command lines"), "the command lines"))
    )


#: Section id → what reads it. Others (kallsyms, printk, strings, BTF, modules) say nothing that hvtrace needs.
SECTIONS: dict[int, Callable[[Header, Cursor], None]] = {
    16: read_header_info,
    17: _formats,
    18: add_events,
    21: _cmdlines,
}


def read_header(header: Header, cursor: Cursor) -> None:
    """Read the chain of options sections and all they point to. Damage of one section leaves the others."""
    header.compression = cursor.string("the compression's name") or "none"
    header.facts["compression"] = (
        f"{header.compression} {cursor.string('the version of the compression')}".strip()
    )
    if header.compression not in ("none", "zstd", "zlib"):
        raise cursor.fail(f"compression {header.compression!r} is not supported (zstd, zlib and none are)")
    following = cursor.u64("the offset of the options")
    seen: set[int] = set()
    end = 0
    if not following:
        raise cursor.fail("the recording was never finished: it has no options section")
    while following and following not in seen and len(seen) < MAX_OPTIONS:
        seen.add(following)
        try:
            section = _section(cursor, following, 0)
            following = _options(header, cursor, _payload(header, cursor, section))
            end = section.at + section.size
        except InputError as error:
            if not header.events:
                raise
            header.incomplete = True
            header.damage.append(Damage(error.offset or 0, error.reason, "the file ends" in error.reason))
            break
    if not header.buffers and end:
        find_pages(header, cursor, end)


def _options(header: Header, cursor: Cursor, inner: Cursor) -> int:
    """Read one options section; return the offset of the next, 0 at the end."""
    pointers: list[tuple[int, int]] = []
    following = 0
    while inner.left >= 6:
        option, size = inner.numbers("HI", "an option")
        at = inner.at
        inner.skip(size, f"option {option}")
        data = Cursor(inner.data, inner.path, at, inner.at, inner.base)
        if option == options.DONE:
            following = data.u64("the offset of the next options") if size >= 8 else 0
            break
        if option == options.BUFFER:
            _attempt(header, _add_buffer, cursor, data)
        elif option in SECTIONS:
            pointers.append((option, data.u64(f"the offset of section {option}")))
        else:
            _attempt(header, options.read_option, option, data)
    # Formats only after the header page, whatever the order of the options.
    for option, offset in sorted(pointers):
        _attempt(header, _pointed, option, offset, cursor)
    return following


def _attempt(header: Header, work: Callable[..., None], *args: Any) -> None:
    """Do one part; its damage is noted and costs that part alone."""
    try:
        work(header, *args)
    except InputError as error:
        header.incomplete = True
        header.damage.append(Damage(error.offset or 0, error.reason))


def _pointed(header: Header, option: int, offset: int, cursor: Cursor) -> None:
    SECTIONS[option](header, _payload(header, cursor, _section(cursor, offset, option)))


def _add_buffer(header: Header, cursor: Cursor, data: Cursor) -> None:
    header.buffers.append(_buffer(header, cursor, data))


def _buffer(header: Header, cursor: Cursor, data: Cursor) -> Buffer:
    """Option BUFFER: u64 section offset, name, clock, u32 page size, u32 CPUs, each {u32 cpu, u64 offset, u64 size}."""
    offset = data.u64("a buffer's offset")
    name, clock = data.string("a buffer's name"), data.string("a buffer's clock")
    page_size, cpus = data.numbers("II", "a buffer's page size")
    rows = [CpuData(*data.numbers("IQQ", "a buffer's CPU")) for _ in range(min(cpus, data.left // 20))]
    if len(rows) < cpus:
        header.damage.append(
            Damage(data.base + data.at, f"buffer {name!r} ends after {len(rows)} of {cpus} CPUs")
        )
    numbered = [row for row in rows if row.cpu < MAX_COUNT]
    if len(numbered) < len(rows):
        header.incomplete = True
        header.damage.append(Damage(data.base + data.at, f"buffer {name!r} names CPUs beyond {MAX_COUNT}"))
    rows = numbered
    section = _section(cursor, offset, options.BUFFER)
    return Buffer(name, clock or None, page_size, tuple(rows), bool(section.flags & COMPRESSED))
