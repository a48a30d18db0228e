"""What the interface of perf fixes: types of record, fields of a sample, features, clocks, as tables.

Sources: include/uapi/linux/perf_event.h, tools/perf/Documentation/perf.data-file-format.txt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "CALLCHAIN",
    "CLOCKS",
    "COMPRESSED",
    "COMPRESSED2",
    "FEATURES",
    "HEADER_RECORDS",
    "ID_INDEX",
    "RAW",
    "RECORDS",
    "SAMPLE",
    "Attr",
    "Layout",
    "RecordType",
]


@dataclass(frozen=True, slots=True)
class RecordType:
    """A type of record. Places are in u32 words from the record's header.

    `thread`: where process and thread id stand. `lost`: where a u64 count of lost events stands. `trailing`:
    bytes of the number at byte 8 that says how many more bytes follow outside the record.
    """

    number: int
    name: str
    thread: tuple[int, int] | None = None
    lost: int | None = None
    trailing: int = 0


RECORDS: tuple[RecordType, ...] = (
    RecordType(1, "MMAP", thread=(2, 3)),
    RecordType(2, "LOST", lost=4),
    RecordType(3, "COMM", thread=(2, 3)),
    RecordType(4, "EXIT", thread=(2, 4)),
    RecordType(5, "THROTTLE"),
    RecordType(6, "UNTHROTTLE"),
    RecordType(7, "FORK", thread=(2, 4)),
    RecordType(8, "READ"),
    RecordType(9, "SAMPLE"),
    RecordType(10, "MMAP2", thread=(2, 3)),
    RecordType(11, "AUX"),
    RecordType(12, "ITRACE_START"),
    RecordType(13, "LOST_SAMPLES", lost=2),
    RecordType(14, "SWITCH"),
    RecordType(15, "SWITCH_CPU_WIDE"),
    RecordType(16, "NAMESPACES"),
    RecordType(17, "KSYMBOL"),
    RecordType(18, "BPF_EVENT"),
    RecordType(19, "CGROUP"),
    RecordType(20, "TEXT_POKE"),
    RecordType(21, "AUX_OUTPUT_HW_ID"),
    RecordType(64, "HEADER_ATTR"),
    RecordType(65, "HEADER_EVENT_TYPE"),
    RecordType(66, "HEADER_TRACING_DATA", trailing=4),
    RecordType(67, "HEADER_BUILD_ID"),
    RecordType(68, "FINISHED_ROUND"),
    RecordType(69, "ID_INDEX"),
    RecordType(70, "AUXTRACE_INFO"),
    RecordType(71, "AUXTRACE", trailing=8),
    RecordType(72, "AUXTRACE_ERROR"),
    RecordType(73, "THREAD_MAP"),
    RecordType(74, "CPU_MAP"),
    RecordType(75, "STAT_CONFIG"),
    RecordType(76, "STAT"),
    RecordType(77, "STAT_ROUND"),
    RecordType(78, "EVENT_UPDATE"),
    RecordType(79, "TIME_CONV"),
    RecordType(80, "HEADER_FEATURE"),
    RecordType(81, "COMPRESSED"),
    RecordType(82, "FINISHED_INIT"),
    RecordType(83, "COMPRESSED2"),
)
_NUMBER = {r.name: r.number for r in RECORDS}
SAMPLE, ID_INDEX = _NUMBER["SAMPLE"], _NUMBER["ID_INDEX"]
COMPRESSED, COMPRESSED2 = _NUMBER["COMPRESSED"], _NUMBER["COMPRESSED2"]

#: What a pipe begins with, before anything that happened.
HEADER_RECORDS = frozenset(r.number for r in RECORDS if r.number >= 64) - {
    _NUMBER["FINISHED_ROUND"],
    _NUMBER["FINISHED_INIT"],
    _NUMBER["AUXTRACE"],
    COMPRESSED,
    COMPRESSED2,
}

#: Bits of sample_type (PERF_SAMPLE_*) in the order in which their u64 stand in a sample, up to those of varying
#: length; what follows RAW is not read.
SAMPLE_FIELDS: tuple[tuple[int, str], ...] = (
    (16, "identifier"),
    (0, "ip"),
    (1, "thread"),
    (2, "time"),
    (3, "addr"),
    (6, "id"),
    (9, "stream_id"),
    (7, "cpu"),
    (8, "period"),
)
READ, CALLCHAIN, RAW = 1 << 4, 1 << 5, 1 << 10

#: The same of what other records end with under sample_id_all.
TRAILER_FIELDS: tuple[tuple[int, str], ...] = (
    (1, "thread"),
    (2, "time"),
    (6, "id"),
    (9, "stream_id"),
    (7, "cpu"),
    (16, "identifier"),
)

#: Bits of read_format (PERF_FORMAT_*): times go with the whole, the others with each value.
READ_TIMES = (0, 1)
READ_EACH = (2, 4)
READ_GROUP = 1 << 3

#: Feature sections that are read: bit → name.
FEATURES: dict[int, str] = {
    1: "tracing data",
    4: "os release",
    5: "perf version",
    6: "arch",
    8: "cpudesc",
    11: "cmdline",
    12: "event desc",
    27: "compressed",
    29: "clock data",
}

#: clockid of `perf record -k` → name of the same clock of ftrace.
CLOCKS: dict[int, str] = {0: "realtime", 1: "mono", 4: "mono_raw", 7: "boot", 11: "tai"}

#: perf_event_attr: PERF_TYPE_TRACEPOINT; software type and config of the event that never samples.
TRACEPOINT = 2
DUMMY = (1, 9)
SAMPLE_ID_ALL, USE_CLOCKID = 1 << 18, 1 << 25


@dataclass(frozen=True)
class Layout:
    """How samples of one sample_type and read_format lie. Places are in u64 from the record's header."""

    sample_type: int
    read_format: int
    sample_id_all: bool
    #: Whether RAW holds a tracepoint's record.
    tracepoint: bool

    @cached_property
    def place(self) -> dict[str, int]:
        """Name of a field → its place in a sample; "end" is behind the last of those of fixed place."""
        names = [name for bit, name in SAMPLE_FIELDS if self.sample_type >> bit & 1]
        return {name: at for at, name in enumerate([*names, "end"], 1)}

    @cached_property
    def trailer(self) -> dict[str, int]:
        """Name of a field → its distance from the end of any other record; empty without sample_id_all."""
        if not self.sample_id_all:
            return {}
        names = [name for bit, name in TRAILER_FIELDS if self.sample_type >> bit & 1]
        return {name: at for at, name in enumerate(reversed(names), 1)}

    @cached_property
    def read(self) -> tuple[int, int] | None:
        """u64 that READ takes: so many, and so many more for each value of a group (0: no group)."""
        if not self.sample_type & READ:
            return None
        times = sum(self.read_format >> bit & 1 for bit in READ_TIMES)
        each = 1 + sum(self.read_format >> bit & 1 for bit in READ_EACH)
        return (1 + times, each) if self.read_format & READ_GROUP else (times + each, 0)

    @property
    def readable(self) -> bool:
        """Whether a sample holds a tracepoint's record and its time."""
        return self.tracepoint and bool(self.sample_type & RAW) and "time" in self.place


@dataclass(frozen=True, slots=True)
class Attr:
    """An event that was recorded (perf_event_attr), with the ids its samples bear."""

    type: int
    config: int
    sample_type: int
    read_format: int
    flags: int
    clockid: int
    ids: tuple[int, ...]
    name: str = ""

    @property
    def samples(self) -> bool:
        """Whether the event can have samples at all."""
        return (self.type, self.config) != DUMMY

    @property
    def layout(self) -> Layout:
        """How its samples lie."""
        read_format = self.read_format if self.sample_type & READ else 0
        return Layout(
            self.sample_type, read_format, bool(self.flags & SAMPLE_ID_ALL), self.type == TRACEPOINT
        )

    @property
    def label(self) -> str:
        """Name for people."""
        return self.name or f"type {self.type}, config {self.config:#x}"
