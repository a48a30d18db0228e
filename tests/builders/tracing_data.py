"""The part that trace.dat and perf.data share: headers, event formats, symbols, saved thread names."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .event_format import EventFormat
from .ring_buffer import header_event, header_page

__all__ = ["MAGIC", "TracingData"]

MAGIC = b"\x17\x08\x44tracing"


@dataclass(frozen=True)
class TracingData:
    """What is known of the traced host.

    `long_size` is userspace's, `kernel_long` the kernel's; `sub_buffer` is the size of the ring buffer's
    pages as `header_page` tells it (0: the host's page size).
    """

    events: Sequence[EventFormat] = ()
    comms: Mapping[int, str] = field(default_factory=dict)
    ftrace_events: Sequence[EventFormat] = ()
    kallsyms: bytes = b""
    printk: bytes = b""
    page_size: int = 4096
    sub_buffer: int = 0
    long_size: int = 8
    kernel_long: int = 8
    endian: str = "<"

    def start(self, version: str) -> bytes:
        """Magic, version, byte order, size of long, page size."""
        order = b"\0" if self.endian == "<" else b"\1"
        head = MAGIC + version.encode() + b"\0" + order + bytes([self.long_size])
        return head + struct.pack(self.endian + "I", self.page_size)

    def headers(self) -> bytes:
        page = header_page(size=self.sub_buffer or self.page_size, long_size=self.kernel_long)
        return (
            b"header_page\0" + self._sized(page, "Q") + b"header_event\0" + self._sized(header_event(), "Q")
        )

    def ftrace_formats(self) -> bytes:
        out = struct.pack(self.endian + "I", len(self.ftrace_events))
        return out + b"".join(self._sized(e.text(), "Q") for e in self.ftrace_events)

    def event_formats(self) -> bytes:
        systems = list(dict.fromkeys(e.system for e in self.events))
        out = struct.pack(self.endian + "I", len(systems))
        for system in systems:
            own = [e for e in self.events if e.system == system]
            out += system.encode() + b"\0" + struct.pack(self.endian + "I", len(own))
            out += b"".join(self._sized(e.text(), "Q") for e in own)
        return out

    def kallsyms_text(self) -> bytes:
        return self._sized(self.kallsyms, "I")

    def printk_formats(self) -> bytes:
        return self._sized(self.printk, "I")

    def saved_comms(self) -> bytes:
        text = "".join(f"{pid} {comm}\n" for pid, comm in self.comms.items())
        return self._sized(text.encode(), "Q")

    def sequence(self) -> bytes:
        """All of it in the order of version 6."""
        return (
            self.headers()
            + self.ftrace_formats()
            + self.event_formats()
            + self.kallsyms_text()
            + self.printk_formats()
            + self.saved_comms()
        )

    def _sized(self, data: bytes, code: str) -> bytes:
        return struct.pack(self.endian + code, len(data)) + data
