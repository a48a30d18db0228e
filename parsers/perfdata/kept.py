"""Sizes of records, kept from the first pass so that the second need not follow the list again.

One byte a record, for as many as there is room for; the spans of the others are followed again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.perfdata.framing import Frames

__all__ = ["KeptSizes"]

Index = npt.NDArray[np.int64]

#: Records whose size is kept (bytes of memory).
ROOM = 64 << 20
#: The largest size in u64 that is kept, and the bit of records that are no samples.
LARGEST, OTHER = 0x7F, 0x80


class KeptSizes:
    """Sizes in u64 of the records of whole batches, in file order; `most` is how many records there can be."""

    def __init__(self, most: int) -> None:
        # Memory that is taken only where it is written.
        self._sizes = np.zeros(min(most, ROOM), np.uint8)
        self._count = 0

    def add(self, frames: Frames, others: Index) -> int | None:
        """Keep the sizes of all records of a batch; returns the place of the first, None where there is no room."""
        start, stop = self._count, self._count + len(frames)
        if stop > len(self._sizes):
            return None
        sizes = np.minimum(frames.size, np.uint64(LARGEST)).astype(np.uint8)
        sizes[others] |= np.uint8(OTHER)
        self._sizes[start:stop] = sizes
        self._count = stop
        return start

    def samples(self, place: Index, count: Index, first: Index, end: Index) -> Frames:
        """Samples of spans, in file order: place and count of their sizes, their first record and their end."""
        # Spans that follow one another are one run.
        breaks = np.flatnonzero((place[1:] != place[:-1] + count[:-1]) | (first[1:] != end[:-1]))
        heads = np.concatenate([[0], breaks + 1])[: len(place)]
        tails = np.concatenate([breaks, [len(place) - 1]])[: len(place)]
        at, sizes = [np.empty(0, np.int64)], [self._sizes[:0]]
        for head, tail in zip(heads.tolist(), tails.tolist(), strict=True):
            own = self._sizes[place[head] : place[tail] + count[tail]]
            size = own & np.uint8(LARGEST)
            where = np.cumsum(size, dtype=np.int64)
            where -= size
            where += first[head]
            if int(own.max()) >= OTHER:
                sample = own < OTHER
                where, size = where[sample], size[sample]
            at.append(where)
            sizes.append(size)
        return Frames(np.concatenate(at), np.concatenate(sizes))
