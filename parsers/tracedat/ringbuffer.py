"""Ring-buffer pages → time stamps and places of their events, for many pages at once.

All pages are stepped in lock step: step k looks at the k-th event of every page that has one, so that the work
is a few numpy operations per step over thousands of pages, never a loop over events.

Source: include/linux/ring_buffer.h, kernel/trace/ring_buffer.c (rb_fix_abs_ts), tools/lib/traceevent/kbuffer-parse.c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hvtrace.parsers.records import Words
from hvtrace.parsers.tracedat.layout import PageLayout

__all__ = ["LOST_UNKNOWN", "Decoded", "decode_pages"]

Index = npt.NDArray[np.int64]
Stamps = npt.NDArray[np.uint64]

#: type_len of events that are no plain data.
LONG, PADDING, TIME_EXTEND, TIME_STAMP = 0, 29, 30, 31

#: `commit`: length of the data, "events were lost before this page", "their number is stored behind the data".
LENGTH_MASK = np.uint32((1 << 27) - 1)
MISSED_EVENTS = np.uint32(1 << 31)
MISSED_STORED = np.uint32(1 << 30)

#: An absolute time stamp has 59 bits; the others come from the clock before it.
TS_BITS = np.uint64(59)
TS_HIGH = ~np.uint64((1 << 59) - 1)
#: A step back this large can only be a wrap of the 59 bits.
TS_WRAP = np.uint64(1 << 58)

#: A page's lost count where events were lost but nobody counted them.
LOST_UNKNOWN = -1

#: type_len 1 to 28 are short data events of as many words; less one, all others are larger than this.
LAST_SHORT = np.uint32(27)


@dataclass(slots=True)
class Decoded:
    """The events of some pages, in page order.

    `ts` raw stamps, `at` word index of each payload (common_type), `length` payload bytes; `count` events per
    page; `page_ts` stamp of each page; `lost` per page: 0, a number, or LOST_UNKNOWN, of events lost before it;
    `faults` (page, word index) where a page could not be followed further.
    """

    ts: Stamps
    at: Index
    length: npt.NDArray[np.int32]
    count: Index
    page_ts: Stamps
    lost: Index
    faults: list[tuple[int, int]]


def decode_pages(words: Words, pages: Index, page_words: Index, layout: PageLayout) -> Decoded:
    """Decode the pages that start at word indices `pages` and are `page_words` long (shorter at a cut)."""
    end_of_all = len(words)
    head = layout.data_offset // 4
    stop = np.minimum(pages + page_words, end_of_all)
    page_ts = words.take(pages + 1).astype(np.uint64) << np.uint64(32) | words.take(pages)
    commit = words.take(pages + 2)
    first = pages + head
    used = ((commit & LENGTH_MASK) // np.uint32(4)).astype(np.int64)
    end = np.minimum(first + used, stop)
    cut = np.flatnonzero(first + used > stop)
    faults = list(zip(cut.tolist(), stop[cut].tolist(), strict=True))

    act = np.flatnonzero(end > first)
    pos, last, clock = first[act], end[act], page_ts[act]
    seen = np.zeros(len(pages), np.int64)
    out: list[tuple[Index, Index, Index, Stamps, npt.NDArray[np.int32]]] = []
    while act.size:
        word = words.take(pos)
        kind = word & np.uint32(31)
        delta = word >> np.uint32(5)
        step = kind.astype(np.int64) + 1
        clock += delta
        at = pos + 1
        length = (kind << np.uint32(2)).astype(np.int32)
        data: npt.NDArray[np.bool_] | None = None
        special = kind - np.uint32(1) > LAST_SHORT
        if special.any():
            data = _special(words, np.flatnonzero(special), kind, delta, pos, last, clock, step, at, length)
        following = pos + step
        over = following > last
        if over.any():
            faults += zip(act[over].tolist(), pos[over].tolist(), strict=True)
            data = ~over if data is None else data & ~over
            following[over] = last[over]
        if data is None:
            out.append((act, seen[act], at, clock.copy(), length))
            seen[act] += 1
        elif data.any():
            who = act[data]
            out.append((who, seen[who], at[data], clock[data], length[data]))
            seen[who] += 1
        alive = following < last
        if alive.all():
            pos = following
        else:
            act, pos, last, clock = act[alive], following[alive], last[alive], clock[alive]

    lost = _lost(words, commit, end, stop, layout)
    if not out:
        empty = np.empty(0, np.int64)
        return Decoded(page_ts[:0], empty, np.empty(0, np.int32), seen, page_ts, lost, faults)
    base = np.cumsum(seen) - seen
    who, rank, at, ts, length = (np.concatenate(part) for part in zip(*out, strict=True))
    where = base[who] + rank
    decoded = Decoded(
        np.empty_like(ts), np.empty_like(at), np.empty_like(length), seen, page_ts, lost, faults
    )
    decoded.ts[where], decoded.at[where], decoded.length[where] = ts, at, length
    return decoded


def _special(
    words: Words,
    rows: Index,
    kind: Words,
    delta: Words,
    pos: Index,
    last: Index,
    clock: Stamps,
    step: Index,
    at: Index,
    length: npt.NDArray[np.int32],
) -> npt.NDArray[np.bool_]:
    """Rows whose event is a long one, padding or time: sets their step, clock, place; returns which are data."""
    data = np.ones(len(pos), np.bool_)
    kinds, deltas = kind[rows], delta[rows]
    extra = words.take(np.minimum(pos[rows] + 1, len(words) - 1))
    n_words = (extra.astype(np.int64) + 3) // 4

    long = kinds == LONG
    where = rows[long]
    step[where] = np.maximum(n_words[long], 1) + 1
    # An event without payload may end where the words do.
    at[where] = np.minimum(at[where] + 1, len(words) - 1)
    length[where] = np.clip(extra[long].astype(np.int64) - 4, 0, 1 << 30)

    padding = kinds == PADDING
    where = rows[padding]
    rest = last[where] - pos[where]
    step[where] = np.where(deltas[padding] == 0, rest, np.maximum(n_words[padding], 1) + 1)

    step[rows[kinds >= TIME_EXTEND]] = 2
    extend = kinds == TIME_EXTEND
    clock[rows[extend]] += extra[extend].astype(np.uint64) << np.uint64(27)

    stamp = kinds == TIME_STAMP
    if stamp.any():
        where = rows[stamp]
        before = clock[where] - deltas[stamp]
        value = (extra[stamp].astype(np.uint64) << np.uint64(27)) + deltas[stamp]
        value |= before & TS_HIGH
        back = before - value
        wrapped = (value < before) & (((before & TS_HIGH) != 0) | (back > TS_WRAP))
        clock[where] = value + (wrapped.astype(np.uint64) << TS_BITS)
    data[rows[~long]] = False
    return data


def _lost(words: Words, commit: Words, end: Index, stop: Index, layout: PageLayout) -> Index:
    """How many events were lost before each page. The number, one kernel long, lies directly behind the data."""
    lost = np.where(commit & MISSED_EVENTS, LOST_UNKNOWN, 0).astype(np.int64)
    stored = np.flatnonzero((commit & MISSED_STORED != 0) & (commit & MISSED_EVENTS != 0))
    longs = layout.commit_size // 4
    for row in stored[end[stored] + longs <= stop[stored]].tolist():
        number = words[end[row] : end[row] + longs].tobytes()
        lost[row] = min(int.from_bytes(number, "little"), (1 << 62) - 1) or LOST_UNKNOWN
    return lost
