"""Finds the records in memory: a linked list, followed in thousands of places at once.

Memory is cut into blocks of equal size. In each block a likely start of a record is guessed (a chain of plausible
headers), all blocks are followed in lock step, and the guess holds if the block before it ends exactly there. Blocks
whose guess fails, that hold damage, or that hold a record with data outside it are followed one record after the
other. The result is that of following the whole list from its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.perfdata.layout import COMPRESSED, COMPRESSED2, RECORDS, SAMPLE

__all__ = ["BLOCK", "CompressedError", "Frames", "Framer", "kinds_of", "sizes_of"]

Longs = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]

#: u64 in a block.
BLOCK = 2048
#: u64 in which a block's first record is looked for at first; the largest record there is.
NEAR, FAR = 96, 8192
#: Headers of a chain that must be plausible.
CHAIN = 5
#: Breaks in the list after which the rest is given up.
MAX_BREAKS = 1000

LOW = np.uint64(0xFFFFFFFF)
#: The type of a header word, and the bits of the size that are 0.
SAMPLE_BITS = np.uint64(7 << 48 | 0xFFFFFFFF)
_TRAILING = {r.number: r.trailing for r in RECORDS if r.trailing}
_PACKED = (COMPRESSED, COMPRESSED2)

#: By type (the last stands for all larger ones): whether a record's place in the list does not tell the next one.
_ODD = np.zeros(129, np.bool_)
_ODD[[*_TRAILING, *_PACKED]] = True
#: By type: whether the kernel writes such records.
_LIKELY = np.zeros(129, np.bool_)
_LIKELY[[r.number for r in RECORDS if r.number < 64 or r.name == "FINISHED_ROUND"]] = True


class CompressedError(Exception):
    """There are compressed records."""


def kinds_of(head: Longs) -> npt.NDArray[np.int64]:
    """Types of records from their header words; all that are larger than 128 as 128."""
    return np.minimum(head & LOW, np.uint64(128)).view(np.int64)


def sizes_of(head: Longs) -> Longs:
    """Sizes in bytes of records from their header words."""
    return head >> np.uint64(48)


@dataclass(slots=True)
class Frames:
    """Records of some blocks in file order: u64 index and header word of each."""

    at: Index
    head: Longs


@dataclass(slots=True)
class Framer:
    """Follows the records of `longs`. `broken(at, until)` is told of u64 from `at` to `until` that are no records."""

    longs: Longs
    broken: Callable[[int, int], None]
    #: Blocks whose records cannot be followed in lock step: number → their places.
    irregular: dict[int, Index] = field(default_factory=dict)
    _breaks: int = 0

    def frame(self, start: int, block: int, count: int, stop: int) -> tuple[Frames, int]:
        """Find the records that begin in `count` blocks from number `block` on, the first of them at `start`.

        Records end at `stop`. Returns them and where the next one begins.
        """
        bounds = (block + np.arange(count, dtype=np.int64)) * BLOCK
        limits = np.minimum(bounds + BLOCK, stop)
        starts = self._guess(bounds, limits, stop)
        starts[0] = start
        at, ends = self._step(starts, limits)
        head = self.longs.take(at)
        clean = self._clean(at, head, bounds, stop)
        edges = np.searchsorted(at, bounds).tolist()
        edges.append(len(at))

        parts: list[Index] = []
        first = 0
        place = start
        rows = zip(starts.tolist(), ends.tolist(), limits.tolist(), clean.tolist(), strict=True)
        for n, (guess, end, limit, good) in enumerate(rows):
            if good and guess == place and place < limit:
                place = end
                continue
            # All before this block stands; this one is followed anew, unless no record begins in it.
            parts.append(at[edges[first] : edges[n]])
            first = n + 1
            if place < limit:
                own, place = self._follow(place, limit, stop, block + n)
                parts.append(own)
        if not parts:
            return Frames(at, head), place
        parts.append(at[edges[first] :] if first < len(edges) else at[:0])
        at = np.concatenate(parts)
        return Frames(at, self.longs.take(at)), place

    def again(self, blocks: Index, starts: Index, stops: Index) -> Frames:
        """Find the records of blocks whose first record is known; `stops` are the ends of their stretches."""
        odd = np.array([number in self.irregular for number in blocks.tolist()], np.bool_)
        plain = ~odd
        limits = np.minimum((blocks[plain] + 1) * BLOCK, stops[plain])
        at, _ = self._step(starts[plain], limits)
        if odd.any():
            at = np.sort(np.concatenate([at, *(self.irregular[n] for n in blocks[odd].tolist())]))
        return Frames(at, self.longs.take(at))

    def _step(self, starts: Index, limits: Index) -> tuple[Index, Index]:
        """Follow the list from each start to its limit, all in lock step; places in file order, and the ends."""
        ends = starts.copy()
        live = np.flatnonzero((starts >= 0) & (starts < limits))
        at, limit = starts[live], limits[live]
        counts = np.zeros(len(starts), np.int64)
        steps: list[Index] = []
        alive: list[Index] = []
        longs, shift = self.longs, np.uint64(51)
        while live.size:
            steps.append(at)
            alive.append(live)
            step = (longs.take(at) >> shift).view(np.int64)
            at = at + np.maximum(step, 1)
            on = at < limit
            if not on.all():
                done = np.flatnonzero(~on)
                gone = live[done]
                ends[gone], counts[gone] = at[done], len(steps)
                on = np.flatnonzero(on)
                live, at, limit = live[on], at[on], limit[on]
        out = np.empty(int(counts.sum()), np.int64)
        base = np.cumsum(counts) - counts
        where, last = base, None
        for n, (at, live) in enumerate(zip(steps, alive, strict=True)):
            if live is not last:
                where, last = base[live], live
            out[where + n] = at
        return out, ends

    def _clean(self, at: Index, head: Longs, bounds: Index, stop: int) -> npt.NDArray[np.bool_]:
        """Which blocks hold nothing but whole records that tell where the next one is."""
        size = sizes_of(head)
        bad = (size < 8) | (size & np.uint64(7) != 0) | _ODD.take(kinds_of(head))
        if len(at):
            near = np.searchsorted(at, stop - FAR)
            bad[near:] |= at[near:] + (size[near:] >> np.uint64(3)).view(np.int64) > stop
        clean = np.ones(len(bounds), np.bool_)
        if bad.any():
            clean[np.searchsorted(bounds, at[bad], "right") - 1] = False
        return clean

    def _guess(self, bounds: Index, limits: Index, stop: int) -> Index:
        """A likely first record at or after each bound, -1 where none is near."""
        starts = np.full(len(bounds), -1, np.int64)
        todo = np.arange(len(bounds))
        for reach, rows, look in ((NEAR, len(bounds), self._samples), (BLOCK, 256, self._likely)):
            for part in np.split(todo, range(rows, len(todo), rows)):
                places = bounds[part, None] + np.arange(reach)
                row, column = np.nonzero(look(places, stop) & (places < limits[part, None]))
                chained = self._chained(places[row, column], stop)
                row, column = row[chained], column[chained]
                row, first = np.unique(row, return_index=True)
                starts[part[row]] = places[row, column[first]]
            todo = np.flatnonzero(starts < 0)
            # A few without a guess are better followed than searched on.
            if len(todo) <= len(bounds) // 8:
                break
        return starts

    def _samples(self, places: Index, stop: int) -> npt.NDArray[np.bool_]:
        """Which places look like the header of a sample: most records are."""
        return (self.longs.take(places, mode="clip") & SAMPLE_BITS) == np.uint64(SAMPLE)

    def _likely(self, places: Index, stop: int) -> npt.NDArray[np.bool_]:
        """Which places look like the header of a record the kernel wrote."""
        head = self.longs.take(places, mode="clip")
        size = head >> np.uint64(48)
        good = (size >= np.uint64(8)) & (size & np.uint64(7) == 0)
        good &= head & LOW < np.uint64(len(_LIKELY))
        where = np.nonzero(good)
        good[where] = _LIKELY.take(kinds_of(head[where]))
        good[where] &= places[where] + (size[where] >> np.uint64(3)).view(np.int64) <= stop
        return good

    def _chained(self, places: Index, stop: int) -> npt.NDArray[np.bool_]:
        """Which places are followed by a chain of likely headers, or by the very end."""
        good = np.ones(len(places), np.bool_)
        at = places
        for _ in range(CHAIN):
            ended = at == stop
            good &= ended | self._likely(at, stop)
            step = (self.longs.take(at, mode="clip") >> np.uint64(51)).view(np.int64)
            at = np.where(ended | ~good, at, at + step)
        return good

    def _follow(self, at: int, limit: int, stop: int, block: int) -> tuple[Index, int]:
        """Follow the list record by record until `limit`; skips data outside records and what is no record."""
        places: list[int] = []
        longs = self.longs
        regular = True
        while at < limit:
            head = int(longs[at])
            size, kind = head >> 48, head & 0xFFFFFFFF
            if kind in _PACKED:
                raise CompressedError
            after = at + (size >> 3)
            if kind in _TRAILING and at + 1 < stop:
                mask = (1 << 8 * _TRAILING[kind]) - 1
                # A size of 12 bytes and what follows end at a multiple of 8 only where the recorder made it so.
                after = at + (size + (int(longs[at + 1]) & mask)) // 8
                regular = False
            elif size & 7:
                size = 0
            if size < 8 or after > stop:
                until = self._resume(at + 1, stop)
                self.broken(at, until)
                at, regular = until, False
                continue
            places.append(at)
            at = after
        own = np.array(places, np.int64)
        if not regular:
            self.irregular[block] = own
        return own, at

    def _resume(self, at: int, stop: int) -> int:
        """Where records go on after damage at `at`; `stop` where nowhere."""
        self._breaks += 1
        if self._breaks > MAX_BREAKS:
            return stop
        while at < stop:
            places = np.arange(at, min(at + FAR, stop))
            likely = places[self._likely(places, stop)]
            chained = np.flatnonzero(self._chained(likely, stop))
            if len(chained):
                return int(likely[chained[0]])
            at += FAR
        return stop
