"""What every parser hands over: a recording, opened, that yields windows of event tables.

A window is a stretch of the recording's merged time order, small enough to hold in memory. Concatenated, the
windows are the whole recording. Nothing here knows of VMs or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

__all__ = ["IRQ", "Clock", "Damage", "Lost", "NotUnderstood", "Recording", "Source", "Threads", "Window"]

#: The column that says whether an event was recorded in an interrupt.
IRQ = "irq"

#: Called with the number of bytes of the source consumed so far.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """The file a recording came from. `format` is e.g. "trace.dat 7", "perf.data", "perf.data pipe", "ftrace text"."""

    path: str
    size: int
    format: str


@dataclass(frozen=True, slots=True)
class Clock:
    """The trace clock: its kernel name ("local", "x86-tsc", ...) and the unit of `ts_ns` ("ns" or "ticks").

    `raw` is true where the tables carry `ts_raw` beside a converted `ts_ns`.
    """

    name: str
    unit: str = "ns"
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """An interval in which events of one CPU are known to be lost.

    Ends are in ns of the trace clock; None: not known (the start or the end of the recording). `cpu` None: every
    CPU. `count` None: the number is not known.
    """

    cpu: int | None
    from_ns: int | None
    to_ns: int | None
    count: int | None


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of the file that could not be read. `offset` in bytes (text: of the decompressed text).

    `cut`: the file merely ends too early, and what is there is sound; otherwise bytes are wrong, and nobody knows
    which others are.
    """

    offset: int
    message: str
    cut: bool = False


@dataclass(slots=True)
class NotUnderstood:
    """What was read but not understood: a count and the first few samples (text lines, record types)."""

    count: int = 0
    samples: list[str] = field(default_factory=list)

    #: Samples kept, and the length each is cut to.
    MAX_SAMPLES = 20
    MAX_LENGTH = 200

    def add(self, sample: str, count: int = 1) -> None:
        """Count something that was not understood and keep it as a sample while there is room."""
        self.count += count
        if len(self.samples) < self.MAX_SAMPLES:
            self.samples.append(sample[: self.MAX_LENGTH])


@dataclass(slots=True)
class Threads:
    """What the recording says of threads, so far: names and thread groups by tid."""

    comms: dict[int, str] = field(default_factory=dict)
    tgids: dict[int, int] = field(default_factory=dict)
    #: Which (guest, vCPU) a thread runs, where the recording says so (trace-cmd's GUEST option).
    guests: dict[int, tuple[str, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Window:
    """Events of one stretch of time.

    `tables` maps a tracepoint's bare name to its rows. Columns: `seq` (uint64, rank within this window, gapless
    over all tables), `ts_ns` int64, [`ts_raw` uint64], `cpu` uint16, `tid` int32, `comm` dictionary,
    [`irq` bool: recorded in an interrupt, null where the carrier does not say; not kept in a store], then the
    tracepoint's own fields (declared tracepoints: exactly the declared columns, null where the carrier lacks
    one). Rows are in `seq` order. `events` is the number of rows in all tables.
    """

    tables: dict[str, pa.RecordBatch]
    events: int
    lost: list[Lost] = field(default_factory=list)


class Recording(Protocol):
    """An opened recording. `windows` may be iterated more than once; each time it starts anew."""

    source: Source
    clock: Clock
    #: Kernel release of the host ("6.1.0-56-amd64"), where the file tells it.
    kernel: str | None
    #: Other facts the file states, printable, by name ("uname", "hostname", "trace-cmd version", ...).
    facts: dict[str, str]
    #: Known when iteration is over, at the latest.
    threads: Threads
    damage: list[Damage]
    not_understood: NotUnderstood

    def windows(self, progress: Progress | None = None) -> Iterator[Window]:
        """Yield the recording window by window, in time order."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...
