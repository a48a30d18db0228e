"""The kernel's ring-buffer pages, from lists of events."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = [
    "Absolute",
    "Data",
    "Discarded",
    "Event",
    "Extend",
    "Page",
    "Rest",
    "header_event",
    "header_page",
    "pages",
]

#: Largest delta that the 27 bits of an event word hold.
MAX_DELTA = (1 << 27) - 1

_MISSED = 1 << 31
_MISSED_STORED = 1 << 30


@dataclass(frozen=True)
class Data:
    """An event: time since the event before it, and its record. `long`: its length has a word of its own."""

    delta: int
    payload: bytes
    long: bool = False


@dataclass(frozen=True)
class Extend:
    """A time extend: moves the clock by up to 59 bits."""

    delta: int


@dataclass(frozen=True)
class Absolute:
    """An absolute time stamp; the file holds its low 59 bits."""

    stamp: int


@dataclass(frozen=True)
class Discarded:
    """An event that was reserved and dropped: a filled hole of `size` payload bytes."""

    size: int
    delta: int = 1


@dataclass(frozen=True)
class Rest:
    """Padding that says: the rest of the page is empty. `fill` bytes follow it, still counted as used."""

    fill: int = 0


Event = Data | Extend | Absolute | Discarded | Rest


@dataclass(frozen=True)
class Page:
    """One sub-buffer. `missed`: events lost before it (0 none, n stored in the page, None: some)."""

    stamp: int
    events: tuple[Event, ...] = field(default=())
    missed: int | None = 0

    def pack(self, *, size: int = 4096, long_size: int = 8, endian: str = "<") -> bytes:
        """The page's bytes, `size` long. `long_size` is the kernel's, 8 or 4."""
        body = b"".join(_pack_event(e, endian) for e in self.events)
        commit = len(body)
        long_code = "Q" if long_size == 8 else "I"
        if self.missed is None:
            commit |= _MISSED
        elif self.missed:
            commit |= _MISSED | _MISSED_STORED
            body += struct.pack(endian + long_code, self.missed)
        header = struct.pack(endian + "Q" + long_code, self.stamp, commit)
        assert len(header) + len(body) <= size, f"{len(body)} bytes do not fit into a page of {size}"
        return (header + body).ljust(size, b"\0")


def pages(events: Iterable[tuple[int, bytes]], *, size: int = 4096, long_size: int = 8) -> list[Page]:
    """Pages that hold (stamp, record) pairs, which are in time order; far stamps get a time extend."""
    room = size - 8 - long_size
    out: list[Page] = []
    current: list[Event] = []
    start = clock = used = 0
    for stamp, payload in events:
        far: list[Event] = []
        delta = stamp - clock
        if current and delta > MAX_DELTA:
            far, delta = [Extend(delta)], 0
        added = len(far) * 8 + len(_pack_event(Data(0, payload), "<"))
        if not current or used + added > room:
            if current:
                out.append(Page(start, tuple(current)))
            start, delta, far, current, used = stamp, 0, [], [], 0
            added = len(_pack_event(Data(0, payload), "<"))
        current += [*far, Data(delta, payload)]
        clock = stamp
        used += added
    if current:
        out.append(Page(start, tuple(current)))
    return out


def header_page(*, size: int = 4096, long_size: int = 8) -> bytes:
    """The text of `events/header_page` for sub-buffers of `size` bytes."""
    data = 8 + long_size
    return (
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        f"\tfield: local_t commit;\toffset:8;\tsize:{long_size};\tsigned:1;\n"
        f"\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
        f"\tfield: char data;\toffset:{data};\tsize:{size - data};\tsigned:1;\n"
    ).encode()


def header_event() -> bytes:
    """The text of `events/header_event`."""
    rows = (
        ("type_len", "   5 bits"),
        ("time_delta", "  27 bits"),
        ("array", "  32 bits"),
    )
    types = (("padding", 29), ("time_extend", 30), ("time_stamp", 31))
    head = "# compressed entry header\n" + "".join(f"\t{name:<12}:{bits}\n" for name, bits in rows)
    return (head + "\n" + "".join(f"\t{name:<12}: type == {n}\n" for name, n in types)).encode() + (
        b"\tdata max type_len  == 28\n"
    )


def _word(type_len: int, delta: int, endian: str) -> bytes:
    assert 0 <= delta <= MAX_DELTA, f"a delta of {delta} needs a time extend"
    value = delta << 5 | type_len if endian == "<" else type_len << 27 | delta
    return struct.pack(endian + "I", value)


def _pack_event(event: Event, endian: str) -> bytes:
    match event:
        case Data(delta, payload, long):
            words = -(-len(payload) // 4)
            padded = payload.ljust(words * 4, b"\0")
            if long or not 1 <= words <= 28:
                return _word(0, delta, endian) + struct.pack(endian + "I", len(padded) + 4) + padded
            return _word(words, delta, endian) + padded
        case Extend(delta):
            return _word(30, delta & MAX_DELTA, endian) + struct.pack(endian + "I", delta >> 27)
        case Absolute(stamp):
            low = stamp & ((1 << 59) - 1)
            return _word(31, low & MAX_DELTA, endian) + struct.pack(endian + "I", low >> 27)
        case Discarded(size, delta):
            words = -(-size // 4) * 4
            return _word(29, delta, endian) + struct.pack(endian + "I", words + 4) + b"\xee" * words
        case Rest(fill):
            return _word(29, 0, endian) + b"\0" * fill
