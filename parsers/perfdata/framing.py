"""Finds the records in memory: a linked list, followed in thousands of places at once.

Memory is cut into blocks of equal size. In each block a likely start of a record is guessed (a chain of plausible
headers), all blocks are followed in lock step, and the guess holds if the block before it ends exactly there. Blocks
whose guess fails, that hold damage, or that hold a record with data outside it are followed one record after the
other. The result is that of following the whole list from its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.perfdata.layout import COMPRESSED, COMPRESSED2, RECORDS, SAMPLE

__all__ = ["BLOCK", "LANES", "Attempt", "CompressedError", "Framer", "Frames"]

Longs = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]

#: u64 in a block (8 KiB), and blocks that are best followed at a time: what they touch stays in the cache.
BLOCK = 1024
LANES = 1024
#: u64 in which a block's first record is looked for at first; the largest record there is.
NEAR, FAR = 32, 8192
#: Steps between two looks at which blocks are done.
STRIDE = 8
#: Headers of a chain that must be plausible.
CHAIN = 5
#: Breaks in the list after which the rest is given up.
MAX_BREAKS = 1000

LOW = np.uint64(0xFFFFFFFF)
#: The type of a header word, and the bits of the size that are 0.
SAMPLE_BITS = np.uint64(7 << 48 | 0xFFFFFFFF)
SIZE_LOW = np.uint64(7 << 48)
#: A header word shifted by this is the size in u64.
SIZE = np.uint64(51)
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


@dataclass(slots=True)
class Frames:
    """Records in file order: u64 index of each, and its size in u64."""

    at: Index
    size: npt.NDArray[np.uint64] | npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: Index | npt.NDArray[np.bool_]) -> Frames:
        """Some of them."""
        return Frames(self.at[rows], self.size[rows])

    def without(self, rows: Index) -> Frames:
        """All but some."""
        if not len(rows):
            return self
        keep = np.ones(len(self.at), np.bool_)
        keep[rows] = False
        return self.take(keep)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Records of some blocks as guessed: per block where it begins and ends and whether it is clean; of records
    the places, the header words, and which are no samples.
    """

    block: int
    stop: int
    bounds: Index
    limits: Index
    starts: Index
    ends: Index
    clean: npt.NDArray[np.bool_]
    at: Index
    head: Longs
    others: Index


@dataclass(slots=True)
class Framer:
    """Follows the records of `longs`. `broken(at, until)` is told of u64 from `at` to `until` that are no records."""

    longs: Longs
    broken: Callable[[int, int], None]
    _breaks: int = 0

    def kinds(self, at: Index) -> Index:
        """Types of the records at `at`; all that are larger than 128 as 128."""
        kinds: Longs = np.minimum(self.longs.take(at) & LOW, np.uint64(128))
        return kinds.view(np.int64)

    def attempt(self, block: int, count: int, stop: int) -> Attempt:
        """Guess and follow the records that begin in `count` blocks from number `block` on and end at `stop`."""
        bounds = (block + np.arange(count, dtype=np.int64)) * BLOCK
        limits = np.minimum(bounds + BLOCK, stop)
        starts = self._guess(bounds, limits, stop)
        at, ends = self._step(starts, limits)
        head = self.longs.take(at)
        others = np.flatnonzero((head & SAMPLE_BITS) != np.uint64(SAMPLE))
        clean = self._clean(at, head, others, bounds, stop)
        return Attempt(block, stop, bounds, limits, starts, ends, clean, at, head, others)

    def settle(self, attempt: Attempt, start: int) -> tuple[Frames, Index, int]:
        """Make an attempt right: the first record begins at `start`.

        Returns the records, which of them are no samples, and where the next one begins.
        """
        at, head, others, stop = attempt.at, attempt.head, attempt.others, attempt.stop
        edges = [*np.searchsorted(at, attempt.bounds).tolist(), len(at)]
        parts: list[Index] = []
        first = 0
        place = start
        columns = (attempt.starts, attempt.ends, attempt.limits, attempt.clean)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for n, (guess, end, limit, good) in enumerate(rows):
            if good and guess == place and place < limit:
                place = end
                continue
            # All before this block stands; this one is followed anew, unless no record begins in it.
            parts.append(at[edges[first] : edges[n]])
            first = n + 1
            if place < limit:
                own, place = self._follow(place, limit, stop)
                parts.append(own)
        if parts:
            at = np.concatenate([*parts, at[edges[first] :]])
            head = self.longs.take(at)
            others = np.flatnonzero((head & SAMPLE_BITS) != np.uint64(SAMPLE))
        return Frames(at, head >> SIZE), others, place

    def _step(self, starts: Index, limits: Index) -> tuple[Index, Index]:
        """Follow the list from each start to its limit, all in lock step; places in file order, and the ends.

        A lane that has passed its limit goes on with the others, to no effect, until few are left.
        """
        ends = starts.copy()
        lanes = np.flatnonzero((starts >= 0) & (starts < limits))
        at, limit = starts[lanes], limits[lanes]
        counts = np.zeros(len(starts), np.int64)
        parts: list[tuple[Index, Index, Index]] = []
        # A block has at most so many records: a lane that does not move (a size of 0) ends there.
        left = BLOCK
        while lanes.size and left > 0:
            steps = [at]
            head = np.empty(len(at), np.uint64)
            while True:
                for _ in range(STRIDE):
                    self.longs.take(at, out=head, mode="clip")
                    np.right_shift(head, SIZE, out=head)
                    at = at + head.view(np.int64)
                    steps.append(at)
                left -= STRIDE
                live = at < limit
                if left <= 0 or 4 * np.count_nonzero(live) < len(live):
                    break
            matrix = np.array(steps[:-1]).T
            inside = matrix < limit[:, None]
            own = inside.sum(axis=1)
            matrix = matrix[inside]
            # The first place past the limit, or where the lane stands.
            parts.append((lanes, own, matrix))
            counts[lanes] += own
            stood = np.array(steps).T[np.arange(len(lanes)), own]
            ends[lanes] = stood
            rest = np.flatnonzero(live)
            lanes, at, limit = lanes[rest], at[rest], limit[rest]
        if len(parts) == 1:
            return parts[0][2], ends
        out = np.empty(int(counts.sum()), np.int64)
        base = np.cumsum(counts) - counts
        for lanes, own, places in parts:
            first = np.cumsum(own) - own
            out[np.repeat(base[lanes] - first, own) + np.arange(len(places))] = places
            base[lanes] += own
        return out, ends

    def _clean(
        self, at: Index, head: Longs, others: Index, bounds: Index, stop: int
    ) -> npt.NDArray[np.bool_]:
        """Which blocks hold nothing but whole records that tell where the next one is."""
        bad = [at[:0]]
        if len(at) and int(head.min()) < 1 << 51:
            bad.append(at[head < np.uint64(1 << 51)])
        kind = np.minimum(head[others] & LOW, np.uint64(128)).view(np.int64)
        bad.append(at[others[_ODD.take(kind) | (head[others] & SIZE_LOW != 0)]])
        near = int(np.searchsorted(at, stop - FAR))
        bad.append(at[near:][at[near:] + (head[near:] >> SIZE).view(np.int64) > stop])
        clean = np.ones(len(bounds), np.bool_)
        clean[np.searchsorted(bounds, np.concatenate(bad), "right") - 1] = False
        return clean

    def _guess(self, bounds: Index, limits: Index, stop: int) -> Index:
        """A likely first record at or after each bound, -1 where none is near."""
        starts = np.full(len(bounds), -1, np.int64)
        # Mostly the first that looks like a sample is one.
        places = bounds[:, None] + np.arange(NEAR)
        found = self._samples(places)
        first = bounds + found.argmax(axis=1)
        rows = np.flatnonzero(found.any(axis=1) & (first < limits))
        rows = rows[self._chained(first[rows], stop)]
        starts[rows] = first[rows]
        self._search(starts, bounds, limits, stop, 4 * NEAR, self._samples)
        # A few without a guess are better followed than searched on.
        if np.count_nonzero(starts < 0) > len(bounds) // 8:
            self._search(starts, bounds, limits, stop, BLOCK, lambda places: self._likely(places, stop))
        return starts

    def _search(
        self,
        starts: Index,
        bounds: Index,
        limits: Index,
        stop: int,
        reach: int,
        look: Callable[[Index], npt.NDArray[np.bool_]],
    ) -> None:
        """Look at every place within reach of the bounds that have no start yet."""
        todo = np.flatnonzero(starts < 0)
        for part in np.split(todo, range(256, len(todo), 256)):
            places = bounds[part, None] + np.arange(reach)
            row, column = np.nonzero(look(places) & (places < limits[part, None]))
            chained = self._chained(places[row, column], stop)
            row, column = row[chained], column[chained]
            row, first = np.unique(row, return_index=True)
            starts[part[row]] = places[row, column[first]]

    def _samples(self, places: Index) -> npt.NDArray[np.bool_]:
        """Which places look like the header of a sample."""
        like: npt.NDArray[np.bool_] = self.longs.take(places, mode="clip") & SAMPLE_BITS == np.uint64(SAMPLE)
        return like

    def _likely(self, places: Index, stop: int) -> npt.NDArray[np.bool_]:
        """Which places look like the header of a record the kernel wrote."""
        head = self.longs.take(places, mode="clip")
        size = head >> np.uint64(48)
        good: npt.NDArray[np.bool_] = (size >= np.uint64(8)) & (size & np.uint64(7) == 0)
        good &= head & LOW < np.uint64(len(_LIKELY))
        where = np.nonzero(good)
        good[where] = _LIKELY.take((head[where] & LOW).view(np.int64))
        good[where] &= places[where] + (size[where] >> np.uint64(3)).view(np.int64) <= stop
        return good

    def _chained(self, places: Index, stop: int) -> npt.NDArray[np.bool_]:
        """Which places are followed by a chain of likely headers, or by the very end."""
        good = np.ones(len(places), np.bool_)
        at = places
        for _ in range(CHAIN):
            ended = at == stop
            good &= ended | self._likely(at, stop)
            step = (self.longs.take(at, mode="clip") >> SIZE).view(np.int64)
            at = np.where(ended | ~good, at, at + step)
        return good

    def _follow(self, at: int, limit: int, stop: int) -> tuple[Index, int]:
        """Follow the list record by record until `limit`; skips data outside records and what is no record."""
        places: list[int] = []
        longs = self.longs
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
            elif size & 7:
                size = 0
            if size < 8 or after > stop:
                until = self._resume(at + 1, stop)
                self.broken(at, until)
                at = until
                continue
            places.append(at)
            at = after
        return np.array(places, np.int64), at

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
