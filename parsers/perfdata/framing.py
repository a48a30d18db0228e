"""Finds the records in memory: a linked list, put together from all words that look like a sample's header.

Nearly every word that looks like one is one, and most records are samples. Where each ends exactly at the next, from a
known start on, they are the list; that is checked for whole columns. Where it breaks (a likeness in a record's data,
a record of another kind, damage) the list is followed record by record until it meets the columns again. So the
result is that of following the whole list from its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.perfdata.layout import COMPRESSED, COMPRESSED2, RECORDS, SAMPLE

__all__ = ["BATCH", "Attempt", "CompressedError", "Framer", "Frames"]

Longs = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]

#: u64 looked at in one go (8 MiB), and at a time within (1 MiB: they stay in the cache).
BATCH = 1 << 20
PIECE = 1 << 17
#: u64 of the largest record there is.
FAR = 8192
#: Headers of a chain that must look right where records go on after damage.
CHAIN = 5
#: Breaks in a batch, beside one for 16 samples, from which on headers of other records are looked for too.
MANY = 64
#: Breaks of the list by damage after which the rest is given up.
MAX_BREAKS = 1000

LOW = np.uint64(0xFFFFFFFF)
#: A header word shifted by this is the size in u64; the bits of the size that are 0.
SIZE = np.uint64(51)
LEAST = np.uint64(1 << 51)
#: The type and those bits.
KIND = np.uint64(7 << 48 | 0xFFFFFFFF)

_TRAILING = {r.number: r.trailing for r in RECORDS if r.trailing}
_PACKED = (COMPRESSED, COMPRESSED2)

#: Types of records the kernel writes. Tracepoint records are 12, 20, 28, ... bytes long: the word that begins with
#: this length looks like a header of type 12 or 20, which are rare.
_LIKELY = tuple(r.number for r in RECORDS if (r.number < 64 and r.number not in (12, 20)) or r.number == 68)
_IS_LIKELY = np.zeros(max(_LIKELY) + 1, np.bool_)
_IS_LIKELY[list(_LIKELY)] = True
MOST = np.uint64(max(_LIKELY))


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
    """Words from u64 `first` to `limit` that look like headers: places and the words; records end at `stop`."""

    first: int
    limit: int
    stop: int
    at: Index
    head: Longs


@dataclass(slots=True)
class Framer:
    """Finds records in `longs`. `broken(at, until)` is told of u64 from `at` to `until` that are no records."""

    longs: Longs
    broken: Callable[[int, int], None]
    _breaks: int = 0

    def attempt(self, first: int, limit: int, stop: int) -> Attempt:
        """Look for headers of samples among u64 from `first` to `limit`; the stretch ends at `stop`."""
        parts = []
        for piece in range(first, limit, PIECE):
            words = self.longs[piece : min(piece + PIECE, limit)]
            parts.append(np.flatnonzero(words & KIND == np.uint64(SAMPLE)) + piece)
        return self._attempt(parts, first, limit, stop)

    def _wider(self, attempt: Attempt) -> Attempt:
        """Look for headers of all records that the kernel writes."""
        parts = []
        for piece in range(attempt.first, attempt.limit, PIECE):
            words = self.longs[piece : min(piece + PIECE, attempt.limit)]
            at = np.flatnonzero((words & KIND <= MOST) & (words >= LEAST))
            parts.append(at[_IS_LIKELY.take((words[at] & LOW).view(np.int64))] + piece)
        return self._attempt(parts, attempt.first, attempt.limit, attempt.stop)

    def _attempt(self, parts: list[Index], first: int, limit: int, stop: int) -> Attempt:
        at = np.concatenate(parts) if parts else np.empty(0, np.int64)
        head = self.longs.take(at)
        good = head >= LEAST
        # The last may not be whole.
        near = int(np.searchsorted(at, stop - FAR))
        good[near:] &= at[near:] + (head[near:] >> SIZE).view(np.int64) <= stop
        if not good.all():
            at, head = at[good], head[good]
        return Attempt(first, limit, stop, at, head)

    def settle(self, attempt: Attempt, start: int) -> tuple[Frames, Index, int]:
        """Return the records that begin in the attempt's words, the first of them at `start`.

        With them: which are no samples, and where the next one begins.
        """
        at, size, breaks = _linked(attempt, start)
        wider = len(breaks) > MANY + len(at) // 16 or (not len(at) and attempt.limit - start > FAR)
        if wider:
            at, size, breaks = _linked(self._wider(attempt), start)
        ends = at + size
        if len(at) and not len(breaks) and int(at[0]) == start and int(ends[-1]) >= attempt.limit:
            others = np.flatnonzero(self.longs.take(at) & LOW != np.uint64(SAMPLE)) if wider else at[:0]
            return Frames(at, size.view(np.uint64)), others, int(ends[-1])
        at, place = self._follow(at, ends, breaks, start, attempt)
        head = self.longs.take(at)
        others = np.flatnonzero(head & LOW != np.uint64(SAMPLE))
        return Frames(at, head >> SIZE), others, place

    def _follow(
        self, at: Index, ends: Index, breaks: Index, place: int, attempt: Attempt
    ) -> tuple[Index, int]:
        """Follow the list from `place` to the limit: by runs of places that link, else record by record."""
        lasts = np.append(breaks, len(at) - 1)
        parts: list[Index] = []
        single: list[int] = []
        while place < attempt.limit:
            row = int(np.searchsorted(at, place))
            if row < len(at) and int(at[row]) == place:
                last = int(lasts[np.searchsorted(lasts, row)])
                parts += [np.array(single, np.int64), at[row : last + 1]]
                single = []
                place = int(ends[last])
            else:
                place = self._one(place, attempt.stop, single)
        parts.append(np.array(single, np.int64))
        return np.concatenate(parts), place

    def _one(self, at: int, stop: int, places: list[int]) -> int:
        """Take the record at `at`, if there is one, and return where the next one begins."""
        head = int(self.longs[at])
        size, kind = head >> 48, head & 0xFFFFFFFF
        if kind in _PACKED:
            raise CompressedError
        after = at + (size >> 3)
        if kind in _TRAILING and at + 1 < stop:
            # What follows the record ends at a multiple of 8.
            mask = (1 << 8 * _TRAILING[kind]) - 1
            after = at + (size + (int(self.longs[at + 1]) & mask)) // 8
        elif size & 7:
            size = 0
        if size < 8 or after > stop:
            until = self._resume(at + 1, stop)
            self.broken(at, until)
            return until
        places.append(at)
        return after

    def _resume(self, at: int, stop: int) -> int:
        """Where records go on after damage before `at`; `stop` where nowhere."""
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

    def _likely(self, places: Index, stop: int) -> npt.NDArray[np.bool_]:
        """Which places look like the header of a record the kernel wrote."""
        head = self.longs.take(places, mode="clip")
        good: npt.NDArray[np.bool_] = (head & KIND <= MOST) & (head >= LEAST)
        good &= _IS_LIKELY.take((head & LOW).view(np.int64), mode="clip")
        good &= places + (head >> SIZE).view(np.int64) <= stop
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


def _linked(attempt: Attempt, start: int) -> tuple[Index, Index, Index]:
    """Leave out likenesses before `start` and in the data of records whose end is another's begin.

    Returns places, sizes in u64, and the rows whose end is not the next one's place.
    """
    first = int(np.searchsorted(attempt.at, start))
    at, size = attempt.at[first:], (attempt.head[first:] >> SIZE).view(np.int64)
    links = at[1:] == at[:-1] + size[:-1]
    if links.all():
        return at, size, np.empty(0, np.int64)
    # Breaks after a record that is itself linked, or the first.
    breaks = np.flatnonzero(~links & np.append(True, links[:-1]))
    ends = at[breaks] + size[breaks]
    after = np.minimum(np.searchsorted(at, ends), len(at) - 1)
    met = at[after] == ends
    # Rows between are no records, unless what was taken for linked is not.
    between = np.zeros(len(at) + 1, np.int32)
    np.add.at(between, breaks[met] + 1, 1)
    np.add.at(between, after[met], -1)
    if between.any():
        keep = np.cumsum(between[:-1]) == 0
        at, size = at[keep], size[keep]
    return at, size, np.flatnonzero(at[1:] != at[:-1] + size[:-1])
