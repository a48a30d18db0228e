"""perf.data files and pipes, from values.

Layout: perf.data-file-format.txt, include/uapi/linux/perf_event.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import zstandard

from .tracing_data import TracingData

__all__ = [
    "FINISHED_ROUND",
    "Attr",
    "PerfData",
    "auxtrace",
    "comm",
    "compress",
    "exit_",
    "fork",
    "lost",
    "lost_samples",
    "mmap",
    "record",
    "sample",
]

# Bits of sample_type.
IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU, PERIOD, STREAM_ID, RAW = (1 << n for n in range(11))
IDENTIFIER = 1 << 16

#: What `perf record -e kvm:*` asks for.
TRACEPOINTS = IP | TID | TIME | CPU | PERIOD | RAW | IDENTIFIER

SAMPLE_ID_ALL = 1 << 18

MAGIC = b"PERFILE2"
ATTR_SIZE = 128
TRACING_DATA, HOSTNAME, OSRELEASE, ARCH, COMPRESSED = 1, 3, 4, 6, 27


@dataclass(frozen=True)
class Attr:
    """A perf_event_attr with its ids. `config` is the tracepoint's id; `ids` has one per CPU."""

    config: int
    ids: Sequence[int]
    sample_type: int = TRACEPOINTS
    read_format: int = 0
    type: int = 2
    flags: int = SAMPLE_ID_ALL
    clockid: int = 0

    def pack(self) -> bytes:
        head = struct.pack(
            "<IIQQQQQ", self.type, ATTR_SIZE, self.config, 1, self.sample_type, self.read_format, self.flags
        )
        return (head.ljust(92, b"\0") + struct.pack("<i", self.clockid)).ljust(ATTR_SIZE, b"\0")


def record(kind: int, body: bytes = b"", misc: int = 0) -> bytes:
    """Any record: header and body, padded to 8 bytes."""
    size = 8 + -(-len(body) // 8) * 8
    return struct.pack("<IHH", kind, misc, size) + body.ljust(size - 8, b"\0")


FINISHED_ROUND = record(68)


def sample(
    attr: Attr,
    time: int,
    raw: bytes,
    *,
    cpu: int = 0,
    pid: int = 0,
    tid: int = 0,
    ip: int = 0,
    chain: Sequence[int] = (),
    misc: int = 1,
) -> bytes:
    """One SAMPLE as `attr` lays it out, with the id of `cpu`. `misc` 4: taken while the guest ran."""
    event_id = attr.ids[cpu % len(attr.ids)]
    # The data's size makes it end on 8 bytes together with its own length.
    padded = raw + b"\0" * (-(len(raw) + 4) % 8)
    parts = (
        (IDENTIFIER, struct.pack("<Q", event_id)),
        (IP, struct.pack("<Q", ip)),
        (TID, struct.pack("<II", pid, tid)),
        (TIME, struct.pack("<Q", time)),
        (ADDR, struct.pack("<Q", 0)),
        (ID, struct.pack("<Q", event_id)),
        (STREAM_ID, struct.pack("<Q", event_id)),
        (CPU, struct.pack("<II", cpu, 0)),
        (PERIOD, struct.pack("<Q", 1)),
        (READ, _read_values(attr, event_id, time)),
        (CALLCHAIN, struct.pack(f"<{1 + len(chain)}Q", len(chain), *chain)),
        (RAW, struct.pack("<I", len(padded)) + padded),
    )
    return record(9, b"".join(data for bit, data in parts if attr.sample_type & bit), misc)


def _read_values(attr: Attr, event_id: int, count: int) -> bytes:
    """The READ part: the counter, then what read_format asks for; a group of one where it says so."""
    enabled, running, wants_id, group, lost_count = (attr.read_format >> n & 1 for n in range(5))
    times = [7] * (enabled + running)
    tail = [event_id] * wants_id + [0] * lost_count
    values = [1, *times, count, *tail] if group else [count, *times, *tail]
    return struct.pack(f"<{len(values)}Q", *values)


def trailer(attr: Attr, time: int, *, cpu: int = 0, pid: int = 0, tid: int = 0) -> bytes:
    """What every record but a SAMPLE ends with under sample_id_all."""
    event_id = attr.ids[cpu % len(attr.ids)]
    parts = (
        (TID, struct.pack("<II", pid, tid)),
        (TIME, struct.pack("<Q", time)),
        (ID, struct.pack("<Q", event_id)),
        (STREAM_ID, struct.pack("<Q", event_id)),
        (CPU, struct.pack("<II", cpu, 0)),
        (IDENTIFIER, struct.pack("<Q", event_id)),
    )
    return (
        b"".join(data for bit, data in parts if attr.sample_type & bit) if attr.flags & SAMPLE_ID_ALL else b""
    )


def comm(attr: Attr, pid: int, tid: int, name: str, time: int = 0) -> bytes:
    """COMM: the name of a thread."""
    return record(3, struct.pack("<II", pid, tid) + _text(name) + trailer(attr, time, pid=pid, tid=tid))


def fork(attr: Attr, pid: int, tid: int, parent: int, time: int) -> bytes:
    """FORK: a new thread `tid` in process `pid`."""
    body = struct.pack("<IIIIQ", pid, parent, tid, parent, time)
    return record(7, body + trailer(attr, time, pid=pid, tid=tid))


def exit_(attr: Attr, pid: int, tid: int, time: int) -> bytes:
    """EXIT of a thread."""
    body = struct.pack("<IIIIQ", pid, pid, tid, tid, time)
    return record(4, body + trailer(attr, time, pid=pid, tid=tid))


def mmap(attr: Attr, pid: int, tid: int, name: str, time: int = 0) -> bytes:
    """MMAP of a file."""
    body = struct.pack("<IIQQQ", pid, tid, 0x400000, 0x1000, 0) + _text(name)
    return record(1, body + trailer(attr, time, pid=pid, tid=tid))


def lost(attr: Attr, count: int, time: int, *, cpu: int = 0) -> bytes:
    """LOST: `count` events did not fit into the buffer of `cpu`."""
    body = struct.pack("<QQ", attr.ids[cpu % len(attr.ids)], count)
    return record(2, body + trailer(attr, time, cpu=cpu))


def lost_samples(attr: Attr, count: int, time: int, *, cpu: int = 0) -> bytes:
    """LOST_SAMPLES: the same, as newer kernels count at the end."""
    return record(13, struct.pack("<Q", count) + trailer(attr, time, cpu=cpu))


def auxtrace(data: bytes) -> bytes:
    """AUXTRACE: hardware trace data, which follows the record."""
    return record(71, struct.pack("<QQQIIII", len(data), 0, 0, 0, 0, 0, 0)) + data


def compress(records: bytes, cuts: Sequence[int] = (), *, padded: bool = False) -> list[bytes]:
    """COMPRESSED records (COMPRESSED2 if `padded`): one zstd stream, a new record at each byte of `cuts`."""
    stream = zstandard.ZstdCompressor().compressobj()
    out = []
    for start, end in zip((0, *cuts), (*cuts, len(records)), strict=True):
        data = stream.compress(records[start:end]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        if padded:
            out.append(record(83, struct.pack("<Q", len(data)) + data))
        else:
            # The one kind of record whose size need not be a multiple of eight.
            out.append(struct.pack("<IHH", 81, 0, 8 + len(data)) + data)
    return out


@dataclass(frozen=True)
class PerfData:
    """A whole recording: attrs, records in file order, the event formats, feature strings by bit."""

    attrs: Sequence[Attr]
    records: Sequence[bytes]
    tracing: TracingData
    features: Mapping[int, bytes] = field(default_factory=dict)

    def pack(self) -> bytes:
        """File mode: header, ids, attrs, data, feature sections."""
        entry = ATTR_SIZE + 16
        ids, table, at = b"", b"", 104
        for attr in self.attrs:
            own = struct.pack(f"<{len(attr.ids)}Q", *attr.ids)
            table += attr.pack() + struct.pack("<QQ", at + len(ids), len(own))
            ids += own
        attrs_at = at + len(ids)
        data = b"".join(self.records)
        data_at = attrs_at + len(table)
        features = self._features()
        bits = sum(1 << bit for bit in features)
        header = MAGIC + struct.pack("<QQQQQQQQ", 104, entry, attrs_at, len(table), data_at, len(data), 0, 0)
        header += bits.to_bytes(32, "little")
        index, bodies = b"", b""
        start = data_at + len(data) + 16 * len(features)
        for body in features.values():
            index += struct.pack("<QQ", start + len(bodies), len(body))
            bodies += body
        return header + ids + table + data + index + bodies

    def pack_pipe(self) -> bytes:
        """Pipe mode: the same as records only, as `perf record -o -` writes them."""
        out = MAGIC + struct.pack("<Q", 16)
        for attr in self.attrs:
            out += record(64, attr.pack() + struct.pack(f"<{len(attr.ids)}Q", *attr.ids))
        for bit, body in self._features().items():
            if bit != TRACING_DATA:
                out += record(80, struct.pack("<Q", bit) + body)
        blob = self._tracing()
        size = -(-len(blob) // 8) * 8
        out += struct.pack("<IHHI", 66, 0, 12, size) + blob.ljust(size, b"\0")
        return out + b"".join(self.records)

    def _tracing(self) -> bytes:
        return self.tracing.start("0.6") + self.tracing.sequence()

    def _features(self) -> dict[int, bytes]:
        own = {TRACING_DATA: self._tracing(), ARCH: string("x86_64"), **self.features}
        return dict(sorted(own.items()))


def string(text: str) -> bytes:
    """A feature's string: length, then bytes padded to 64."""
    size = (len(text) // 64 + 1) * 64
    return struct.pack("<I", size) + text.encode().ljust(size, b"\0")


def compressed_feature(mmap_len: int = 1 << 20) -> dict[int, bytes]:
    """The COMPRESSED feature: zstd, level 1."""
    return {COMPRESSED: struct.pack("<IIIII", 1, 1, 1, 5, mmap_len)}


def _text(name: str) -> bytes:
    data = name.encode() + b"\0"
    return data.ljust(-(-len(data) // 8) * 8, b"\0")
