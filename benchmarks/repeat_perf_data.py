"""Repeats a perf.data in time: its samples again and again, each round with later stamps.

Layout: perf.data-file-format.txt, include/uapi/linux/perf_event.h.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from repeat_trace_dat import GAP_NS, Repeated

__all__ = ["repeat_perf_data"]

_LOST, _SAMPLE, _LOST_SAMPLES, _FINISHED_ROUND, _COMPRESSED = 2, 9, 13, 68, (81, 83)

#: Bits of sample_type, in the order in which the parts stand before TIME in a sample, with their sizes.
_BEFORE_TIME = ((16, 8), (0, 8), (1, 8))
#: The same for the parts after TIME in the trailer of other records.
_AFTER_TIME = ((6, 8), (9, 8), (7, 8), (16, 8))
_HEADER = 104


def repeat_perf_data(source: Path, target: Path, times: int) -> Repeated:
    """Write `target`, a file that holds the samples of `source` `times` times.

    The first round is the source's whole data section; later ones hold its samples and losses, so
    that threads are named once. Needs a file (no pipe), uncompressed, whose attrs all place the time alike.
    """
    raw = source.read_bytes()
    if raw[:16] != b"PERFILE2" + struct.pack("<Q", _HEADER):
        raise SystemExit("not a little-endian perf.data file (or one in pipe mode)")
    attr_size, attrs_at, attrs_size, data_at, data_size = struct.unpack_from("<QQQQQ", raw, 16)
    placing = sum(1 << bit for bit in {bit for bit, _ in (*_BEFORE_TIME, *_AFTER_TIME)})
    sample_types = {
        struct.unpack_from("<Q", raw, attrs_at + n + 24)[0] & placing for n in range(0, attrs_size, attr_size)
    }
    if len(sample_types) != 1:
        raise SystemExit("attrs that place the time differently cannot be repeated")
    sample_type = sample_types.pop()
    data = raw[data_at : data_at + data_size]
    kind, at, size = _index(data)
    if np.isin(kind, _COMPRESSED).any():
        raise SystemExit("compressed records cannot be repeated")

    times_at = _times_at(kind, at, size, sample_type)
    words = np.frombuffer(data, dtype="<u8")
    stamps = words[times_at[kind == _SAMPLE]]
    period = int(stamps.max() - stamps.min()) + GAP_NS

    again = np.isin(kind, (_LOST, _SAMPLE, _LOST_SAMPLES))
    stretch, moved = _select(words, at[again] // 8, size[again] // 8, times_at[again])
    round_end = struct.pack("<IHH", _FINISHED_ROUND, 0, 8)
    added = (len(stretch) * 8 + len(round_end)) * (times - 1)
    with target.open("wb") as out:
        head = bytearray(raw[:data_at])
        struct.pack_into("<Q", head, 48, data_size + added)
        out.write(head)
        out.write(data)
        for _ in range(1, times):
            stretch[moved] += np.uint64(period)
            out.write(stretch.data)
            out.write(round_end)
        out.write(_tail(raw, data_at + data_size, added))
        total = out.tell()
    return Repeated(times, times * len(stamps), period, total)


def _index(data: bytes) -> tuple[npt.NDArray[np.int64], ...]:
    """Type, offset and size of every record."""
    header = struct.Struct("<IHH")
    rows, at = [], 0
    while at < len(data):
        kind, _, size = header.unpack_from(data, at)
        rows.append((kind, at, size))
        at += size
    table = np.array(rows, dtype=np.int64)
    return table[:, 0], table[:, 1], table[:, 2]


def _times_at(
    kind: npt.NDArray[np.int64], at: npt.NDArray[np.int64], size: npt.NDArray[np.int64], sample_type: int
) -> npt.NDArray[np.int64]:
    """Index of the word that holds each record's time; -1 where it has none."""
    before = 8 + sum(n for bit, n in _BEFORE_TIME if sample_type >> bit & 1)
    after = 8 + sum(n for bit, n in _AFTER_TIME if sample_type >> bit & 1)
    where = np.where(kind == _SAMPLE, at + before, at + size - after)
    timed = np.isin(kind, (_SAMPLE, _LOST, _LOST_SAMPLES))
    return np.where(timed, where // 8, -1)


def _select(
    words: npt.NDArray[np.uint64],
    at: npt.NDArray[np.int64],
    size: npt.NDArray[np.int64],
    times_at: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The records at `at` (in words) put together, and the indices of their times in the result."""
    start = np.cumsum(size) - size
    source = np.arange(size.sum()) + np.repeat(at - start, size)
    timed = times_at >= 0
    return words[source], (times_at - at + start)[timed]


def _tail(raw: bytes, at: int, added: int) -> bytes:
    """The feature sections, `added` bytes further on."""
    tail = bytearray(raw[at:])
    count = int.from_bytes(raw[72:104], "little").bit_count()
    for n in range(count):
        offset = struct.unpack_from("<Q", tail, 16 * n)[0]
        struct.pack_into("<Q", tail, 16 * n, offset + added)
    return bytes(tail)
