"""Runs millions of halts through many settings at once.

Under one setting a polling time takes but a few values, and what a halt makes of it depends only on which thresholds
the halt's times lie between. So halts fall into classes, and a class is a table: value before → value after. The halts
are cut into pieces; every piece is walked from all values at once, all pieces and settings side by side; then they are
joined, and walked once more from the value with which each really begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hvtrace.analysis.halt_poll.rules import MAX_VALUES, Halts, Setting
from hvtrace.errors import HvtraceError

__all__ = ["Classes", "Walk", "classes_of", "values_of", "walks"]

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

#: Pieces that are walked side by side.
PIECES = 512
#: Settings that are walked side by side: what bounds the memory.
TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Classes:
    """Halts by class: `of` each halt, and one halt of each class in `examples`."""

    of: I32
    examples: Halts

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, slots=True)
class Walk:
    """The halts under one setting: the `values` that its polling time takes, and which of them before each halt."""

    values: I64
    value: I32

    @property
    def in_force(self) -> I64:
        """The polling time before each halt, in ns."""
        return self.values[self.value]


def values_of(setting: Setting, first: Sequence[int]) -> list[int]:
    """All values a polling time takes, in order, from 0 and those in `first` on. Raises HvtraceError: too many."""
    found: set[int] = set()
    new = {0, *(setting.begins(value) for value in first)}
    while new:
        found |= new
        if len(found) > MAX_VALUES:
            raise HvtraceError(f"under {setting} polling times take more than {MAX_VALUES:,} values")
        new = set().union(*(setting.next(value) for value in new)) - found
    return sorted(found)


def classes_of(halts: Halts, thresholds: set[int]) -> Classes:
    """Halts that no comparison with one of `thresholds` tells apart are of one class."""
    edges = np.array(sorted(thresholds | {-1}), np.int64)
    code = np.zeros(len(halts), np.int64)
    for times in (halts.arrival, halts.polled, halts.blocked):
        code = code * (len(edges) + 1) + np.searchsorted(edges, times)
    starts, nth = np.unique(halts.first, return_inverse=True)
    code = (code * 2 + halts.allowed) * len(starts) + nth.reshape(-1)
    _, examples, of = np.unique(code, return_index=True, return_inverse=True)
    return Classes(of.reshape(-1).astype(np.int32), halts.at(examples))


def walks(settings: Sequence[Setting], halts: Halts) -> Iterator[Walk]:
    """Run the halts through each of `settings`, in order. Raises HvtraceError: a setting leads to too many values."""
    began = [int(value) for value in np.unique(halts.first) if value >= 0]
    values = [values_of(setting, began) for setting in settings]
    bounds = set().union(*(s.thresholds(v) for s, v in zip(settings, values, strict=True)))
    classes = classes_of(halts, bounds)
    for at in range(0, len(settings), TOGETHER):
        chosen = list(zip(settings[at : at + TOGETHER], values[at : at + TOGETHER], strict=True))
        yield from _walked(chosen, classes)


def _table(setting: Setting, values: list[int], classes: Classes) -> npt.NDArray[np.int64]:
    """Rank of the value after a halt, by rank of the value before and class; the last class changes nothing."""
    known, examples = np.array(values, np.int64), classes.examples
    begins = examples.first >= 0
    start = np.searchsorted(known, _begins(setting, examples.first))
    rows = np.stack([np.searchsorted(known, setting.after(value, examples)) for value in values])
    # At a vCPU's first halt it does not matter what the vCPU before it left behind.
    columns = np.flatnonzero(begins)
    rows[:, columns] = rows[start[columns], columns]
    return np.concatenate([rows, np.arange(len(values))[:, None]], axis=1)


def _begins(setting: Setting, first: I64) -> I64:
    own, nth = np.unique(first, return_inverse=True)
    return np.array([setting.begins(max(int(value), 0)) for value in own], np.int64)[nth.reshape(-1)]


def _walked(chosen: list[tuple[Setting, list[int]]], classes: Classes) -> Iterator[Walk]:
    number, width = len(classes.of), len(classes) + 1
    pieces = max(1, min(PIECES, number // 8))
    length = -(-number // pieces) if number else 0
    padded = np.full(pieces * length, width - 1, np.int32)
    padded[:number] = classes.of
    # One row for each step; the pieces stand side by side.
    steps = np.ascontiguousarray(padded.reshape(pieces, length).T)
    # A place is that of a table's row: its setting's offset + the value's rank · width.
    offsets = np.cumsum([0, *(len(values) * width for _, values in chosen)])
    table = np.concatenate(
        [
            (offset + width * _table(setting, values, classes)).reshape(-1)
            for offset, (setting, values) in zip(offsets, chosen, strict=False)
        ]
    ).astype(np.int32)
    rows = np.arange(0, offsets[-1], width, dtype=np.int32)
    place = np.repeat(rows[:, None], pieces, axis=1)
    for step in steps:
        place = table[place + step]
    # Joined: with what value each piece begins.
    start = np.empty((len(chosen), pieces), np.int32)
    here = offsets[:-1].astype(np.int32)
    for piece in range(pieces):
        start[:, piece] = here
        here = place[here // width, piece]
    seen = np.empty((length, len(chosen), pieces), np.int32)
    now = start
    for n, step in enumerate(steps):
        seen[n] = now
        now = table[now + step]
    first = classes.examples.first[classes.of]
    at = np.flatnonzero(first >= 0)
    for n, (setting, values) in enumerate(chosen):
        known = np.array(values, np.int64)
        rank = ((seen[:, n, :].T.reshape(-1)[:number] - offsets[n]) // width).astype(np.int32)
        rank[at] = np.searchsorted(known, _begins(setting, first[at]))
        yield Walk(known, rank)
