"""All that a perf.data says before and after its records: attrs, event formats, features."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from hvtrace.errors import InputError
from hvtrace.parsers.cursor import Cursor
from hvtrace.parsers.eventformat import EventFormat
from hvtrace.parsers.perfdata.layout import CLOCKS, FEATURES, HEADER_RECORDS, USE_CLOCKID, Attr
from hvtrace.parsers.recording import Damage
from hvtrace.parsers.source import Mapped
from hvtrace.parsers.tracedat import layout as tracing
from hvtrace.parsers.tracedat import version6

__all__ = ["Header", "is_perf_directory", "is_perfdata", "read_header"]

MAGIC = b"PERFILE2"
#: The same from a big-endian machine, and the format before 2009's end.
OTHERS = {b"2ELIFREP": "the recording is big-endian", b"PERFFILE": "perf.data version 1"}

FILE_HEADER, PIPE_HEADER = 104, 16
#: The least perf_event_attr there ever was; the kernel's own bound.
MIN_ATTR, MAX_ATTR = 64, 4096
#: More attrs or strings than this are damage; so are more ids in all.
MAX_COUNT = 1 << 16
MAX_IDS = 1 << 20
MAX_TEXT = 4096


@dataclass(slots=True)
class Header:
    """What is known of a perf.data apart from its records, which lie from `start` to `stop` (bytes)."""

    pipe: bool = False
    start: int = 0
    stop: int = 0
    attrs: list[Attr] = field(default_factory=list)
    events: dict[int, EventFormat] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    compressed: bool = False
    damage: list[Damage] = field(default_factory=list)
    #: Whether the file ends before its records do.
    cut: bool = False
    #: Attrs as EVENT_DESC repeats them, with names.
    described: list[Attr] = field(default_factory=list)

    @property
    def clock(self) -> str:
        """Name of the clock of the stamps."""
        ids = {a.clockid for a in self.attrs if a.flags & USE_CLOCKID}
        return CLOCKS.get(min(ids), f"clockid {min(ids)}") if ids else "perf"


def is_perfdata(head: bytes) -> bool:
    """Whether a file that starts with `head` is a perf.data, readable or not."""
    return head.startswith((MAGIC, *OTHERS))


def is_perf_directory(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a directory that `perf record --threads` wrote."""
    try:
        with open(os.path.join(path, "data"), "rb") as file:
            return is_perfdata(file.read(8))
    except OSError:
        return False


def read_header(source: Mapped) -> Header:
    """Read all but the records. Raises InputError where nothing can be made of the file."""
    cursor = Cursor(source.data, source.path)
    magic = cursor.take(8, "the magic")
    if magic in OTHERS:
        raise cursor.fail(f"{OTHERS[magic]}, which is not supported", 0)
    if magic != MAGIC:
        raise cursor.fail("not a perf.data: its first bytes are not perf's", 0)
    size = cursor.u64("the header's size")
    if size == PIPE_HEADER:
        header = Header(pipe=True)
        _read_pipe(header, cursor)
    elif size == FILE_HEADER:
        header = Header()
        _read_file(header, cursor)
    else:
        raise cursor.fail(f"a header of {size} bytes ({FILE_HEADER} or, for a pipe, {PIPE_HEADER})", 8)
    _name_attrs(header)
    return header


def _read_file(header: Header, cursor: Cursor) -> None:
    entry, attrs_at, attrs_size, start, size, *rest = cursor.numbers("7Q4Q", "the header")
    features = sum(bits << 64 * n for n, bits in enumerate(rest[2:]))
    end = cursor.end
    if not MIN_ATTR + 16 <= entry <= MAX_ATTR + 16:
        raise cursor.fail(f"attrs of {entry} bytes", 16)
    if start > end:
        header.damage.append(
            Damage(40, f"the records begin at {start}, past the end of the file ({end} bytes)")
        )
    header.start = min(start, end)
    header.stop = min(start + size, end) if size else end
    first = int.from_bytes(cursor.data[start : start + 8], "little")
    if not size and features and first == start + 16 * features.bit_count():
        # No records at all: the table of features is where they would begin.
        header.stop = header.start
    elif not size:
        header.damage.append(
            Damage(
                48,
                "the recorder did not finish the file: records are read up to its end, features are not there",
            )
        )
        features = 0
    elif start + size > end:
        header.cut = True
        header.damage.append(
            Damage(
                end, f"the file ends here; {start + size - end} bytes of records and all features are missing"
            )
        )
        features = 0
    _read_attrs(header, Cursor(cursor.data, cursor.path, attrs_at, min(attrs_at + attrs_size, end)), entry)
    table = Cursor(cursor.data, cursor.path, start + size)
    for bit in range(256):
        if not features >> bit & 1:
            continue
        at = table.at
        try:
            offset, length = table.numbers("QQ", "the table of features")
        except InputError:
            header.damage.append(Damage(at, "the file ends inside the table of features"))
            return
        if bit in FEATURES:
            # A section past the end of the file ends at once, which is reported where it is read.
            _read_feature(header, bit, Cursor(cursor.data, cursor.path, offset, offset + length))


def _read_attrs(header: Header, cursor: Cursor, entry: int) -> None:
    """Entries of a perf_event_attr and {u64 offset, u64 size} of its ids."""
    while cursor.left >= entry and len(header.attrs) < MAX_COUNT:
        at = cursor.at
        try:
            own = Cursor(cursor.data, cursor.path, at, at + entry - 16)
            attr = _read_attr(own)
            cursor.skip(entry - 16, "an attr")
            offset, size = cursor.numbers("QQ", "the place of an attr's ids")
            ids = Cursor(cursor.data, cursor.path, offset)
            header.attrs.append(replace(attr, ids=_ids(header.attrs, ids, size // 8)))
        except InputError as error:
            header.damage.append(Damage(error.offset or at, error.reason))
            cursor.at = at + entry
    if cursor.left:
        header.damage.append(Damage(cursor.at, "the attrs break off here"))


def _ids(attrs: list[Attr], cursor: Cursor, count: int) -> tuple[int, ...]:
    """Return the next `count` ids of an event."""
    if 8 * count > cursor.left or count > MAX_IDS - sum(len(a.ids) for a in attrs):
        raise cursor.fail(f"{count} ids of an event announced")
    return cursor.numbers(f"{count}Q", "the ids of an event")


def _read_attr(cursor: Cursor) -> Attr:
    """A perf_event_attr, which says its own size; leaves the cursor behind it."""
    at = cursor.at
    kind, size, config, _, sample_type, read_format, flags = cursor.numbers("IIQQQQQ", "an attr")
    size = size or MIN_ATTR
    if not MIN_ATTR <= size <= MAX_ATTR:
        raise cursor.fail(f"an attr of {size} bytes", at)
    clockid = 0
    if size >= 96 and cursor.left >= 48:
        cursor.at = at + 92
        (clockid,) = cursor.numbers("i", "an attr's clock")
    cursor.at = at + size
    return Attr(kind, config, sample_type, read_format, flags, clockid, ())


def _read_pipe(header: Header, cursor: Cursor) -> None:
    """Records of the header's kinds up to the first of another kind."""
    header.start = header.stop = cursor.end
    while cursor.left >= 8:
        at = cursor.at
        kind, _, size = cursor.numbers("IHH", "a record")
        if kind not in HEADER_RECORDS:
            header.start = at
            return
        try:
            if size < 8:
                raise cursor.fail(f"a record of {size} bytes", at)
            body = Cursor(cursor.data, cursor.path, at + 8, at + size)
            cursor.skip(size - 8, "a record")
            if kind == 64:
                attr = _read_attr(body)
                header.attrs.append(replace(attr, ids=_ids(header.attrs, body, body.left // 8)))
            elif kind == 66:
                length = body.u32("the size of the tracing data")
                _read_feature(header, 1, Cursor(cursor.data, cursor.path, cursor.at, cursor.at + length))
                cursor.skip(-(-length // 8) * 8, "the tracing data")
            elif kind == 80:
                feature = body.u64("a feature")
                if feature in FEATURES:
                    _read_feature(header, feature, body)
        except InputError as error:
            header.damage.append(Damage(error.offset or at, error.reason))
            if size < 8 or cursor.at > at + size:
                return


def _read_feature(header: Header, bit: int, cursor: Cursor) -> None:
    name = FEATURES[bit]
    try:
        if name == "tracing data":
            _read_tracing_data(header, cursor)
        elif name == "event desc":
            _read_event_desc(header, cursor)
        elif name == "cmdline":
            count = min(cursor.u32("the command line"), MAX_COUNT)
            words = [_string(cursor, "the command line") for _ in range(count)]
            header.facts[name] = " ".join(words)[:MAX_TEXT]
        elif name == "compressed":
            header.compressed = True
        elif name == "clock data":
            _read_clock_data(header, cursor)
        else:
            header.facts[name] = _string(cursor, f"the feature {name!r}")
    except InputError as error:
        header.damage.append(Damage(error.offset or cursor.at, error.reason))


def _read_clock_data(header: Header, cursor: Cursor) -> None:
    """u32 version (1), u32 clockid, u64 time of day, u64 that clock's time at the same moment."""
    version, clockid, wall, own = cursor.numbers("IIQQ", "the clock's data")
    if version == 1:
        header.facts |= {
            "clock": CLOCKS.get(clockid, f"clockid {clockid}"),
            "clock ns": str(own),
            "time of day ns": str(wall),
        }


def _string(cursor: Cursor, what: str) -> str:
    """u32 length, then so many bytes, NUL-padded."""
    data = cursor.take(cursor.u32(what), what)
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")[:MAX_TEXT]


def _read_tracing_data(header: Header, cursor: Cursor) -> None:
    """The steps of a trace.dat header up to the formats; its version is perf's own ("0.6")."""
    at = cursor.at
    if cursor.take(len(tracing.MAGIC), "the tracing data") != tracing.MAGIC:
        raise cursor.fail("the tracing data do not begin as they should", at)
    cursor.string("the version of the tracing data")
    big, long_size = cursor.numbers("BB", "the tracing data")
    if big:
        raise cursor.fail("the tracing data are big-endian, which is not supported", cursor.at - 2)
    steps = tracing.Header(6, long_size, cursor.u32("the page size"))
    try:
        version6.read_metadata(steps, cursor)
    finally:
        header.events |= steps.events
        header.damage += steps.damage


def _read_event_desc(header: Header, cursor: Cursor) -> None:
    """u32 count, u32 size of an attr; each: attr, u32 count of ids, name, ids."""
    count, size = cursor.numbers("II", "the event descriptions")
    if count > MAX_COUNT or not MIN_ATTR <= size <= MAX_ATTR:
        raise cursor.fail(f"{count} event descriptions of {size} bytes")
    for _ in range(count):
        at = cursor.at
        attr = _read_attr(Cursor(cursor.data, cursor.path, at, at + size))
        cursor.skip(size, "an event description")
        ids = cursor.u32("an event description")
        name = _string(cursor, "the name of an event")
        header.described.append(replace(attr, name=name, ids=_ids(header.described, cursor, ids)))


def _name_attrs(header: Header) -> None:
    """Give attrs the names that EVENT_DESC or the formats have; without any attrs EVENT_DESC takes their place."""
    if not header.attrs:
        header.attrs = list(header.described)
    names = {(a.type, a.config): a.name for a in header.described}
    names |= {(2, e.id): f"{e.system}:{e.name}" for e in header.events.values()}
    by_id = {number: a.name for a in header.described for number in a.ids}
    header.attrs = [
        replace(a, name=a.name or by_id.get(a.ids[0] if a.ids else -1, names.get((a.type, a.config), "")))
        for a in header.attrs
    ]
