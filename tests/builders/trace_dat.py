"""trace-cmd files of version 6 and 7, from values (layout: trace-cmd.dat.v6.5 and .v7.5 documents)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import zstandard

from .ring_buffer import Page
from .tracing_data import TracingData

__all__ = ["Buffer", "Option", "TraceDat", "cpu_count", "date", "guest", "trace_clock", "tsc2nsec", "uname"]

#: Section ids of version 7; the option that points to a section has the same id.
BUFFER, STRINGS, HEADERS, FTRACE_FORMATS, EVENT_FORMATS, KALLSYMS, PRINTK, COMMS = (
    3,
    15,
    16,
    17,
    18,
    19,
    20,
    21,
)

CLOCKS = "local global counter uptime perf mono mono_raw boot tai x86-tsc"


@dataclass(frozen=True)
class Option:
    """An entry of the options section; `data` as the file holds it."""

    id: int
    data: bytes


def date(offset_us: int) -> Option:
    """Microseconds to add to every stamp."""
    return Option(1, f"{offset_us:#x}".encode() + b"\0")


def trace_clock(name: str) -> Option:
    """The list of clocks with the one in use in brackets."""
    names = [f"[{clock}]" if clock == name else clock for clock in CLOCKS.split()]
    return Option(4, " ".join(names).encode() + b"\n\0")


def uname(text: str) -> Option:
    """The host: "Linux NAME RELEASE MACHINE"."""
    return Option(5, text.encode() + b"\0")


def cpu_count(count: int, endian: str = "<") -> Option:
    """Number of CPUs of the host."""
    return Option(8, struct.pack(endian + "I", count))


def tsc2nsec(mult: int, shift: int, offset: int = 0, endian: str = "<") -> Option:
    """How TSC cycles become nanoseconds: (cycles * mult) >> shift."""
    return Option(14, struct.pack(endian + "IIQ", mult, shift, offset))


def guest(name: str, trace_id: int, pids: Mapping[int, int], endian: str = "<") -> Option:
    """A guest traced at the same time: which host thread runs which of its CPUs."""
    head = name.encode() + b"\0" + struct.pack(endian + "QI", trace_id, len(pids))
    return Option(13, head + b"".join(struct.pack(endian + "II", cpu, pid) for cpu, pid in pids.items()))


@dataclass(frozen=True)
class Buffer:
    """A buffer instance: pages by CPU. The empty name is the top-level buffer.

    `page_size` is the size of its sub-buffers, None: as `header_page` says.
    """

    cpus: Mapping[int, Sequence[Page | bytes]]
    name: str = ""
    clock: str = "local"
    page_size: int | None = None


@dataclass(frozen=True)
class TraceDat:
    """A whole file.

    `compression` (version 7) is "none", "zstd" or "zlib", with `chunk_pages` pages in one chunk.
    """

    host: TracingData
    buffers: Sequence[Buffer]
    options: Sequence[Option] = field(default=())
    version: int = 7
    compression: str = "none"
    chunk_pages: int = 10

    def pack(self) -> bytes:
        """The bytes of the file."""
        return self._pack6() if self.version == 6 else self._pack7()

    # Version 6: one thing after the other.

    def _pack6(self) -> bytes:
        top, *instances = self.buffers
        count = max(top.cpus, default=-1) + 1
        head = self.host.start("6") + self.host.sequence() + self._u32(count) + b"options  \0"
        named = {b.name: len(b.name) + 1 + 8 for b in instances}
        size = sum(6 + len(o.data) for o in self.options) + sum(6 + n for n in named.values()) + 2
        at = len(head) + size
        blocks, entries = b"", b""
        for buffer in self.buffers:
            block = self._flyrecord6(buffer, at)
            if buffer is not top:
                entries += self._option(3, self._u64(at) + buffer.name.encode() + b"\0")
            blocks += block
            at += len(block)
        options = b"".join(self._option(o.id, o.data) for o in self.options)
        return head + options + entries + self._u16(0) + blocks

    def _flyrecord6(self, buffer: Buffer, at: int) -> bytes:
        count = max(buffer.cpus, default=-1) + 1
        clock = f"[{buffer.clock}]".encode()
        tail = self._u64(len(clock)) + clock
        start = self._aligned(at + 10 + 16 * count + len(tail))
        table, data = b"", b""
        for cpu in range(count):
            raw = b"".join(self._raw_pages(buffer, buffer.cpus.get(cpu, ())))
            table += self._u64(start + len(data)) + self._u64(len(raw))
            data += raw
        head = b"flyrecord\0" + table + tail
        return head.ljust(start - at, b"\0") + data

    # Version 7: sections, found through options.

    def _pack7(self) -> bytes:
        algorithm = {"none": (b"none", b""), "zstd": (b"zstd", b"1.5.4"), "zlib": (b"zlib", b"1.2.13")}[
            self.compression
        ]
        start = self.host.start("7") + algorithm[0] + b"\0" + algorithm[1] + b"\0"
        out = bytearray(start + self._u64(0))
        strings = b""
        pointers: list[tuple[int, bytes]] = []

        def section(number: int, title: str, body: bytes, *, compressed: bool = True) -> None:
            nonlocal strings
            pointers.append((number, self._u64(len(out))))
            if compressed and self.compression != "none":
                body, flags = self._chunk(body), 1
            else:
                flags = 0
            out.extend(
                self._u16(number) + self._u16(flags) + self._u32(len(strings)) + self._u64(len(body)) + body
            )
            strings += title.encode() + b"\0"

        section(HEADERS, "headers", self.host.headers())
        section(FTRACE_FORMATS, "ftrace events", self.host.ftrace_formats())
        section(EVENT_FORMATS, "events format", self.host.event_formats())
        section(KALLSYMS, "kallsyms", self.host.kallsyms_text())
        section(PRINTK, "printk", self.host.printk_formats())
        section(COMMS, "command lines", self.host.saved_comms())
        first = [*pointers, *((o.id, o.data) for o in self.options)]
        out[len(start) : len(start) + 8] = self._u64(len(out))
        chain = self._options7(out, first)
        last = [(BUFFER, self._buffer7(out, len(strings), b)) for b in self.buffers]
        strings += b"buffer flyrecord\0"
        pointers.clear()
        section(STRINGS, "strings", strings + b"options\0strings\0")
        out[chain : chain + 8] = self._u64(len(out))
        self._options7(out, [*last, *pointers])
        return bytes(out)

    def _options7(self, out: bytearray, entries: Sequence[tuple[int, bytes]]) -> int:
        """Append an options section; returns where the offset of the next one goes."""
        body = b"".join(self._option(i, d) for i, d in entries) + self._option(0, self._u64(0))
        out.extend(self._u16(0) + self._u16(0) + self._u32(0) + self._u64(len(body)) + body)
        return len(out) - 8

    def _buffer7(self, out: bytearray, title: int, buffer: Buffer) -> bytes:
        """Append a buffer's section to the file; returns the data of the option that describes it."""
        at = len(out)
        flags = int(self.compression != "none")
        out.extend(self._u16(BUFFER) + self._u16(flags) + self._u32(title) + self._u64(0))
        table = b""
        for cpu, cpu_pages in buffer.cpus.items():
            raw = self._raw_pages(buffer, cpu_pages)
            if flags:
                groups = [raw[i : i + self.chunk_pages] for i in range(0, len(raw), self.chunk_pages)]
                data = self._u32(len(groups)) + b"".join(self._chunk(b"".join(g)) for g in groups)
            else:
                data = b"".join(raw)
            out.extend(bytes(self._aligned(len(out)) - len(out)))
            table += self._u32(cpu) + self._u64(len(out)) + self._u64(len(data))
            out.extend(data)
        out[at + 8 : at + 16] = self._u64(len(out) - at - 16)
        head = self._u64(at) + buffer.name.encode() + b"\0" + buffer.clock.encode() + b"\0"
        return head + self._u32(self._page_size(buffer)) + self._u32(len(buffer.cpus)) + table

    def _raw_pages(self, buffer: Buffer, cpu_pages: Sequence[Page | bytes]) -> list[bytes]:
        size, host = self._page_size(buffer), self.host
        return [
            p if isinstance(p, bytes) else p.pack(size=size, long_size=host.kernel_long, endian=host.endian)
            for p in cpu_pages
        ]

    def _page_size(self, buffer: Buffer) -> int:
        return buffer.page_size or self.host.sub_buffer or self.host.page_size

    def _chunk(self, data: bytes) -> bytes:
        if self.compression == "zlib":
            packed = zlib.compress(data)
        else:
            packed = zstandard.ZstdCompressor(write_content_size=False).compress(data)
        return self._u32(len(packed)) + self._u32(len(data)) + packed

    def _aligned(self, at: int) -> int:
        return -(-at // self.host.page_size) * self.host.page_size

    def _option(self, number: int, data: bytes) -> bytes:
        return self._u16(number) + self._u32(len(data)) + data

    def _u16(self, value: int) -> bytes:
        return struct.pack(self.host.endian + "H", value)

    def _u32(self, value: int) -> bytes:
        return struct.pack(self.host.endian + "I", value)

    def _u64(self, value: int) -> bytes:
        return struct.pack(self.host.endian + "Q", value)
