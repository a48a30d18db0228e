"""Where records lie: memory addressed in u64, eight-byte aligned, whatever the file looks like.

The records of a plain file are read where they are. Those of a compressed, a misaligned (pipe) or a split
(directory) recording are brought into one nameless temporary file first.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import zstandard

from hvtrace.parsers.perfdata.layout import COMPRESSED, COMPRESSED2, RECORDS
from hvtrace.parsers.recording import Damage
from hvtrace.parsers.records import Words
from hvtrace.parsers.source import BLOCK, Mapped, release

__all__ = ["Area", "Part", "Stretch", "in_place", "spooled"]

#: Compressed bytes given to the decoder at once: what they can grow to is bounded.
SLICE = 2048
#: A window larger than this is damage (perf's levels 1–22 need at most 128 MiB).
MAX_WINDOW = 1 << 27
#: Stretches begin at multiples of this in a temporary file.
ALIGNMENT = 1 << 16

_TRAILING = {r.number: r.trailing for r in RECORDS if r.trailing}


@dataclass(frozen=True, slots=True)
class Part:
    """The records of one file: bytes from `start` to `stop` of `source`."""

    source: Mapped
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """An unbroken run of records: u64 indices in the area; byte offset of its begin in the file."""

    start: int
    stop: int
    offset: int
    #: Whether the bytes are those of the file, so that offsets inside can be told.
    plain: bool = True
    #: Bytes behind `stop` that are no whole u64.
    tail: int = 0

    def offset_of(self, at: int) -> int:
        """Byte offset in the file of the u64 at index `at`."""
        return self.offset + 8 * (at - self.start) if self.plain else self.offset


@dataclass(slots=True)
class Area:
    """Memory with stretches of records, as u64 and as u32."""

    memory: mmap.mmap | bytes
    stretches: list[Stretch]
    longs: npt.NDArray[np.uint64]
    words: Words

    @classmethod
    def of(cls, memory: mmap.mmap | bytes, stretches: list[Stretch]) -> Area:
        """Return the area over `memory`; a last partial u64 is left out."""
        count = len(memory) // 8
        longs = np.frombuffer(memory, "<u8", count=count)
        return cls(memory, stretches, longs, longs.view("<u4"))

    def release(self, start: int, stop: int) -> None:
        """Tell the kernel that u64 from `start` to `stop` need not stay in memory."""
        release(self.memory, 8 * start, 8 * stop)

    def close(self) -> None:
        """Release the memory, if it is the area's own; arrays that still look into it keep it."""
        self.longs, self.words = np.empty(0, np.uint64), np.empty(0, np.uint32)
        self.stretches = []


def in_place(part: Part) -> Area | None:
    """Return the area of a part's records where they are; None where they are not aligned."""
    if part.start % 8:
        return None
    stretch = Stretch(part.start // 8, part.stop // 8, part.start, tail=part.stop % 8)
    return Area.of(part.source.data, [stretch])


def spooled(parts: list[Part], damage: list[Damage], *, compressed: bool) -> Area:
    """Bring the records of `parts` into one area; decompress them where they are `compressed`."""
    with tempfile.TemporaryFile(prefix="hvtrace-") as spool:
        stretches: list[Stretch] = []
        for part in parts:
            if compressed:
                packed = _Packed(part, damage)
                _add(spool, stretches, packed.records(), part.start, plain=False)
                _add(spool, stretches, packed.others(), part.start, plain=False)
            else:
                _add(spool, stretches, _bytes(part, part.start, part.stop), part.start, plain=True)
        spool.flush()
        size = spool.tell()
        memory: mmap.mmap | bytes = b""
        if size:
            memory = mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ)
        return Area.of(memory, stretches)


def _add(
    spool: BinaryIO, stretches: list[Stretch], blocks: Iterator[bytes], offset: int, *, plain: bool
) -> None:
    """Append one stretch to the file."""
    start = -(-spool.tell() // ALIGNMENT) * ALIGNMENT
    spool.seek(start)
    for block in blocks:
        spool.write(block)
    stop = spool.tell()
    # What follows begins aligned, and the last u64 of this stretch is whole.
    spool.write(bytes(-stop % 8))
    if stop > start:
        stretches.append(Stretch(start // 8, stop // 8, offset, plain, stop % 8))


def _bytes(part: Part, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, BLOCK):
        yield part.source.data[at : min(at + BLOCK, stop)]
        part.source.release(at, at + BLOCK)


class _Packed:
    """A file whose kernel records lie compressed in COMPRESSED records, with perf's own records between them."""

    def __init__(self, part: Part, damage: list[Damage]) -> None:
        self._part = part
        self._damage = damage
        self._plain: list[tuple[int, int]] = []

    def records(self) -> Iterator[bytes]:
        """The decompressed records. One stream goes through the whole file; records may straddle its pieces."""
        decoder = _decoder()
        data, at, stop = self._part.source.data, self._part.start, self._part.stop
        done = at
        while at + 8 <= stop:
            kind = int.from_bytes(data[at : at + 4], "little")
            size = int.from_bytes(data[at + 6 : at + 8], "little")
            if size < 8 or at + size > stop:
                self._fault(at, f"a record of {size} bytes; {stop - at} bytes from here on are not read")
                return
            if kind in (COMPRESSED, COMPRESSED2):
                first, last = at + 8, at + size
                if kind == COMPRESSED2:
                    first = min(at + 16, last)
                    last = min(first + int.from_bytes(data[at + 8 : first], "little"), last)
                for piece in range(first, last, SLICE):
                    try:
                        if decoder.eof:
                            decoder = _decoder()
                        if block := decoder.decompress(data[piece : min(piece + SLICE, last)]):
                            yield block
                    except zstandard.ZstdError as error:
                        self._fault(at, f"the compressed records are damaged from here on: {error}")
                        return
            elif kind in _TRAILING:
                size += int.from_bytes(data[at + 8 : at + 8 + _TRAILING[kind]], "little")
            elif size % 8 == 0:
                if self._plain and self._plain[-1][1] == at:
                    self._plain[-1] = (self._plain[-1][0], at + size)
                else:
                    self._plain.append((at, at + size))
            at += size
            if at - done >= BLOCK:
                self._part.source.release(done, at)
                done = at
        if at < stop:
            self._fault(at, "the file ends inside a record")

    def others(self) -> Iterator[bytes]:
        """Perf's own records, when the compressed ones have been read."""
        for start, stop in self._plain:
            yield from _bytes(self._part, start, stop)

    def _fault(self, at: int, message: str) -> None:
        self._damage.append(Damage(at, message))


def _decoder() -> zstandard.ZstdDecompressionObj:
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
