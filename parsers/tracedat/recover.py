"""A version-7 file that ends before its table of buffers: find the compressed pages without it.

trace-cmd writes a buffer's section right behind the options section that precedes it, each CPU's compressed runs at
the next page boundary, and the table that names them last of all. A file cut in between (a copy that broke off) still
holds whole runs; they are found by walking them.
"""

from __future__ import annotations

from hvtrace.parsers.cursor import Cursor
from hvtrace.parsers.recording import Damage
from hvtrace.parsers.tracedat.layout import MAX_COUNT, Buffer, CpuData, Header

__all__ = ["find_pages"]

BUFFER_SECTION = 3
COMPRESSED = 1
SECTION_HEADER = 16


def find_pages(header: Header, cursor: Cursor, at: int) -> None:
    """Add the buffer whose section starts at offset `at`, if there is one. CPUs are numbered in their order."""
    head = Cursor(cursor.data, cursor.path, at)
    if head.left < SECTION_HEADER:
        return
    number, flags, _description, _size = head.numbers("HHIQ", "a section header")
    if number != BUFFER_SECTION or not flags & COMPRESSED:
        return
    page = header.page_size
    cpus: list[CpuData] = []
    place = head.at
    while len(cpus) < MAX_COUNT and page:
        place = -(-place // page) * page
        walk = Cursor(cursor.data, cursor.path, place)
        runs = walk.u32("a CPU's runs") if walk.left >= 4 else 0
        if not 0 < runs < 1 << 24 or not _walk(walk, runs, page):
            break
        cpus.append(CpuData(len(cpus), place, walk.at - place))
        place = walk.at
    if cpus:
        header.buffers.append(Buffer("", header.clock, page, tuple(cpus), compressed=True))
        header.damage.append(
            Damage(
                at,
                "the file ends before its table of buffers; CPUs are numbered by the order of their data",
                cut=True,
            )
        )


def _walk(walk: Cursor, runs: int, page: int) -> bool:
    """Pass over the runs of one CPU as far as the file has them; False where these are no runs."""
    for number in range(runs):
        if walk.left < 8:
            return number > 0
        packed, size = walk.numbers("II", "a compressed run")
        if not packed or not size or size % page:
            return number > 0
        walk.at = min(walk.at + packed, walk.end)
    return True
