"""Where ring-buffer pages lie: one address space of words, and per CPU a stream of page addresses in it.

Uncompressed pages are addressed in the mapped file itself; compressed ones are unpacked, chunk by chunk as they are
asked for, into reserved memory. What has been used is given back, so that memory stays flat.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.recording import Damage
from hvtrace.parsers.records import Words
from hvtrace.parsers.source import Mapped, release
from hvtrace.parsers.tracedat.layout import Buffer, CpuData, Header
from hvtrace.parsers.tracedat.version7 import decompress

__all__ = ["CpuStream", "Space", "open_streams"]

#: mmap(2), asm-generic/mman-common.h: reserve addresses, not memory.
MAP_NORESERVE = 0x4000

#: Sub-buffers are a power-of-two number of pages; the kernel allows up to 128 pages' worth.
MIN_PAGE, MAX_PAGE = 64, 1 << 22
#: trace-cmd packs some ten pages into a chunk; more than this is damage.
MAX_CHUNK = 1 << 26


@dataclass(slots=True)
class Space:
    """Memory in which pages are addressed by word (u32) index."""

    area: mmap.mmap | bytes
    words: Words

    @classmethod
    def of(cls, area: mmap.mmap | bytes) -> Space:
        """Return the space over a mapping or bytes; a last partial word is left out."""
        return cls(area, np.frombuffer(area, "<u4", count=len(area) // 4))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A compressed run of pages: its bytes in the file, and the word index it unpacks to."""

    offset: int
    packed: int
    size: int
    word: int


@dataclass(slots=True)
class CpuStream:
    """The pages of one CPU in one buffer, in order.

    Plain: `runs` are (word, words) stretches of the space. Compressed: `chunks` are unpacked on demand.
    """

    cpu: int
    page_words: int
    space: Space
    source: Mapped
    damage: list[Damage]
    method: str = "none"
    word: int = 0
    end: int = 0
    chunks: list[Chunk] = field(default_factory=list)
    next_chunk: int = 0
    consumed: int = 0
    done: int = 0
    #: Whether the file ends before the CPU's data does.
    cut: bool = False
    #: Ranks, among the pages of the last `load`, of those before which pages could not be unpacked.
    holes: list[int] = field(default_factory=list)

    @property
    def more(self) -> bool:
        """Whether there are pages not yet loaded."""
        return self.word < self.end or self.next_chunk < len(self.chunks)

    def load(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return word index and length in words of about the next `count` pages."""
        self.holes = []
        if not self.chunks:
            start, self.word = self.word, min(self.word + count * self.page_words, self.end)
            self.consumed += 4 * (self.word - start)
            return self._pages(start, self.word)
        parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        while count > 0 and self.next_chunk < len(self.chunks):
            chunk = self.chunks[self.next_chunk]
            self.next_chunk += 1
            self.consumed += chunk.packed
            if self._unpack(chunk):
                parts.append(self._pages(chunk.word, chunk.word + chunk.size // 4))
                count -= len(parts[-1][0])
            else:
                self.holes.append(sum(len(pages) for pages, _ in parts))
            self.word = self.end = chunk.word + chunk.size // 4
        if not parts:
            return self._pages(0, 0)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _pages(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        pages = np.arange(start, stop, self.page_words, dtype=np.int64)
        sizes = np.minimum(stop - pages, self.page_words)
        whole = sizes >= 4  # less than a page header cannot hold an event
        return pages[whole], sizes[whole]

    def _unpack(self, chunk: Chunk) -> bool:
        try:
            data = decompress(
                self.method, self.source.data[chunk.offset : chunk.offset + chunk.packed], chunk.size
            )
        except ValueError as error:
            self.damage.append(Damage(chunk.offset, f"CPU {self.cpu}: pages cannot be decompressed: {error}"))
            return False
        assert isinstance(self.space.area, mmap.mmap)
        self.space.area[4 * chunk.word : 4 * chunk.word + chunk.size] = data
        return True

    def release(self, word: int) -> None:
        """Give back the memory of pages before word index `word`."""
        if 4 * (word - self.done) >= 1 << 20:
            release(self.space.area, 4 * self.done, 4 * word)
            self.done = word


def open_streams(header: Header, source: Mapped) -> tuple[Space, list[CpuStream]]:
    """Return the address space of all pages of `source`, and a stream for every CPU of every buffer with data."""
    places = [
        (cpu, buffer, _place(header, source, buffer, cpu))
        for buffer in header.buffers
        for cpu in buffer.cpus
        if cpu.size
    ]
    if not any(place.chunks for *_, place in places):
        space = Space.of(source.data)
    else:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        total = sum(place.size for *_, place in places)
        space = Space.of(mmap.mmap(-1, max(total, mmap.PAGESIZE), flags=flags))
    streams = []
    word = 0
    for cpu, buffer, place in places:
        packed = place.size
        stream = CpuStream(cpu.cpu, buffer.page_size // 4, space, source, header.damage, header.compression)
        stream.cut = place.cut
        if place.chunks:
            for chunk in place.chunks:
                stream.chunks.append(Chunk(chunk.offset, chunk.packed, chunk.size, word))
                word += chunk.size // 4
            stream.done = stream.chunks[0].word
        elif space.area is source.data:
            stream.word = stream.done = cpu.offset // 4
            stream.end = stream.word + packed // 4
        else:
            # A plain buffer beside compressed ones: one chunk that needs no unpacking.
            stream.word = stream.done = word
            stream.end = word + packed // 4
            assert isinstance(space.area, mmap.mmap)
            space.area[4 * word : 4 * word + packed] = source.data[cpu.offset : cpu.offset + packed]
            word += packed // 4
        streams.append(stream)
    return space, streams


@dataclass(frozen=True, slots=True)
class Place:
    """What the file has of a CPU's pages: their bytes, unpacked, the runs they are packed in, whether some miss."""

    size: int
    chunks: list[Chunk]
    cut: bool


def _place(header: Header, source: Mapped, buffer: Buffer, cpu: CpuData) -> Place:
    """Look where a CPU's pages are, as far as the file has them."""
    where = f"buffer {buffer.name!r}, CPU {cpu.cpu}" if buffer.name else f"CPU {cpu.cpu}"
    cut = False

    def broken(message: str, offset: int | None = None, *, ends: bool = False) -> None:
        nonlocal cut
        cut = True
        header.damage.append(Damage(cpu.offset if offset is None else offset, f"{where}: {message}", ends))

    size, chunks = 0, []
    if not MIN_PAGE <= buffer.page_size <= MAX_PAGE or buffer.page_size % 4:
        broken(f"a page size of {buffer.page_size} bytes")
    elif cpu.offset >= source.size:
        broken(
            f"all {cpu.size} bytes of its data lie past the end of the file ({source.size} bytes)", ends=True
        )
    elif buffer.compressed:
        chunks = _chunks(source, buffer, cpu, broken)
        size = sum(chunk.size for chunk in chunks)
    elif cpu.offset % 4:
        broken("its data is not aligned")
    else:
        size = min(cpu.size, source.size - cpu.offset)
        if size < cpu.size:
            missing = f"{cpu.size - size} of {cpu.size} bytes of its data"
            broken(f"{missing} lie past the end of the file", cpu.offset + size, ends=True)
        size = size // 4 * 4
    return Place(size, chunks, cut)


def _chunks(source: Mapped, buffer: Buffer, cpu: CpuData, report: Callable[..., None]) -> list[Chunk]:
    """Walk the chunk table: u32 count, then each {u32 packed size, u32 size, bytes}."""
    data, at = source.data, cpu.offset
    # The table's size does not count the chunk headers: the count of chunks is what tells.
    stop = source.size
    count = int.from_bytes(data[at : at + 4], "little")
    at += 4
    chunks: list[Chunk] = []
    for number in range(count):
        if at + 8 > stop:
            report(f"the file ends after {number} of {count} compressed runs of pages", at, ends=True)
            break
        packed = int.from_bytes(data[at : at + 4], "little")
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if not packed or size % buffer.page_size or not 0 < size <= MAX_CHUNK:
            report(f"compressed run {number} announces {packed} bytes for {size}", at - 8)
            break
        if at + packed > stop:
            report(f"the file ends inside compressed run {number} of {count}", at, ends=True)
            break
        chunks.append(Chunk(at, packed, size, 0))
        at += packed
    return chunks
