"""The parts of a trace.dat header, whichever version wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hvtrace.parsers.cursor import Cursor
from hvtrace.parsers.eventformat import EventFormat, parse_event_format
from hvtrace.parsers.recording import Damage

__all__ = [
    "Buffer",
    "CpuData",
    "Header",
    "PageLayout",
    "Tsc2Nsec",
    "add_events",
    "parse_cmdlines",
    "parse_header_page",
]

MAGIC = b"\x17\x08\x44tracing"

#: More event formats, CPUs or buffers than this are damage.
MAX_COUNT = 1 << 16


@dataclass(frozen=True, slots=True)
class PageLayout:
    """A ring-buffer page: bytes of the `commit` word (the kernel's long), offset of the data, bytes of data."""

    commit_size: int = 8
    data_offset: int = 16
    data_size: int = 0


@dataclass(frozen=True, slots=True)
class CpuData:
    """Where one CPU's ring-buffer pages lie in the file: absolute offset and size in bytes (0: none)."""

    cpu: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """One ring buffer: the top-level one (name "") or a named instance."""

    name: str
    clock: str | None
    page_size: int
    cpus: tuple[CpuData, ...]
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class Tsc2Nsec:
    """ns = (ticks * mult) >> shift."""

    mult: int
    shift: int


@dataclass(slots=True)
class Header:
    """All a trace.dat says before its events."""

    version: int
    long_size: int
    page_size: int
    compression: str = "none"
    page: PageLayout = field(default_factory=PageLayout)
    events: dict[int, EventFormat] = field(default_factory=dict)
    comms: dict[int, str] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)
    clock: str | None = None
    tsc2nsec: Tsc2Nsec | None = None
    #: Added to every stamp, in ns (recorded with --date).
    date_offset_ns: int = 0
    #: thread id → (guest name, vCPU), from the host/guest options.
    guests: dict[int, tuple[str, int]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    #: Whether whole CPUs or buffers may be missing, unnamed.
    incomplete: bool = False
    #: Offset of ASCII trace text that takes the place of binary buffers, where there is such.
    text_offset: int | None = None


def parse_header_page(text: str) -> PageLayout:
    """Sizes from the text of events/header_page; those of a 64-bit kernel where it does not tell."""
    found = {
        m[1]: (int(m[2]), int(m[3]))
        for m in re.finditer(r"\b(commit|data);\s*offset:(\d+);\s*size:(\d+);", text[:4096])
    }
    commit, data = found.get("commit", (8, 8)), found.get("data", (16, 0))
    if commit[1] not in (4, 8) or data[0] not in (12, 16):
        return PageLayout()
    return PageLayout(commit[1], data[0], data[1])


def parse_cmdlines(data: bytes) -> dict[int, str]:
    """Names by thread id from saved_cmdlines ("PID COMM" lines)."""
    pairs = (line.partition(" ") for line in data.decode("utf-8", "replace").splitlines())
    return {int(pid): comm for pid, _, comm in pairs if pid.isascii() and pid.isdigit() and len(pid) < 10}


def add_events(header: Header, cursor: Cursor) -> None:
    """Read the event systems (u32 count of systems; each its name, u32 count, and that many u64 size + text)."""
    systems = cursor.u32("the number of event systems")
    if systems > MAX_COUNT:
        raise cursor.fail(f"{systems} event systems announced")
    for _ in range(systems):
        system = cursor.string("the name of an event system")
        count = cursor.u32(f"the number of events of {system}")
        if count > MAX_COUNT:
            raise cursor.fail(f"{count} events of {system} announced")
        for _ in range(count):
            add_format(header, cursor, system)


def add_format(header: Header, cursor: Cursor, system: str) -> None:
    """Read one u64 size + format text."""
    size = cursor.u64(f"the size of an event format of {system}")
    at = cursor.at
    text = cursor.take(size, f"an event format of {system}").decode("utf-8", "replace")
    event = parse_event_format(text, system)
    if event is None:
        header.damage.append(Damage(cursor.base + at, f"an event format of {system} cannot be read"))
    elif event.id < 1 << 16:
        header.events[event.id] = event
