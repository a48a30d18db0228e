"""Where events are missing from a text: lines that say so, and lines that cannot be read.

An event whose text is cut is a hole like any other: what it would have told is not known from there on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hvtrace.parsers.text.cursor import I64, Flags

__all__ = ["Hole", "hole_at", "holes_between", "unread_events"]

#: Holes of one kind that a block tells one by one; more are told as one, from the first to the last.
MOST = 500


@dataclass(frozen=True, slots=True)
class Hole:
    """Events are missing on `cpu` (None: on which is not known) between two stamps.

    A stamp is None where the block has no event of that CPU on that side; `count` is None where it is not known.
    """

    cpu: int | None
    count: int | None
    after_ns: int | None
    before_ns: int | None


def hole_at(cpu: int | None, count: int | None, stamps: I64, first: int, last: int) -> Hole:
    """The hole from before event `first` to before event `last` of those with these stamps."""
    after = int(stamps[first - 1]) if first else None
    before = int(stamps[last]) if last < len(stamps) else None
    if after is not None and before is not None and after > before:
        after, before = before, after
    return Hole(cpu, count, after, before)


def holes_between(cpu: int | None, stamps: I64, places: I64, counted: bool) -> list[Hole]:
    """Holes before the events of these numbers (`len(stamps)`: after the last); equal numbers are one hole.

    `stamps` are those of the events that are there, in order. `counted`: each place is one event that is missing.
    """
    distinct, sizes = np.unique(places, return_counts=True)
    if not len(distinct):
        return []

    if len(distinct) > MOST:
        distinct, sizes = distinct[[0, -1]], sizes.sum(keepdims=True)
        return [hole_at(cpu, int(sizes[0]) if counted else None, stamps, int(distinct[0]), int(distinct[1]))]
    pairs = zip(distinct.tolist(), sizes.tolist(), strict=True)
    return [hole_at(cpu, n if counted else None, stamps, at, at) for at, n in pairs]


def unread_events(cpu: I64, ts: I64, kept: Flags) -> list[Hole]:
    """Holes where events are, of which only the name could be read (`kept` is false for them)."""
    holes = []
    for one in np.unique(cpu[~kept]).tolist():
        there = np.flatnonzero(kept & (cpu == one))
        missing = np.flatnonzero(~kept & (cpu == one))
        holes += holes_between(one if one >= 0 else None, ts[there], np.searchsorted(there, missing), True)
    return holes
