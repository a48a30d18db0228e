"""Runs millions of halts through many settings, without looking at them one by one.

The halts are cut into pieces that are walked side by side, each from every value that the polling time may have where
it begins; then the pieces are joined, and walked once more from the value with which each really begins.

Under most settings a polling time takes but a few values, and what a halt makes of it depends only on which thresholds
the halt's times lie between. So halts fall into classes, and a class is a table: value before → value after. Where
there are too many values for that (they grow threefold and shrink by halves), the rules themselves are walked, from
those values with which pieces turn out to begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hvtrace.analysis.halt_poll.rules import Halts, Setting

__all__ = ["FEW", "Classes", "classes_of", "values_of", "walks"]

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

#: Pieces that are walked side by side.
PIECES = 512
#: Settings that are walked side by side: what bounds the memory.
TOGETHER = 8
#: Values for which there are tables.
FEW = 64
#: Values from which pieces are walked at a time, where there are no tables.
LANES = 32


@dataclass(frozen=True, slots=True)
class Classes:
    """Halts by class: `of` each halt, and one halt of each class in `examples`."""

    of: I32
    examples: Halts

    def __len__(self) -> int:
        return len(self.examples)


def values_of(setting: Setting, first: Sequence[int]) -> list[int] | None:
    """All values a polling time takes, in order, from 0 and those in `first` on; None: more than FEW."""
    found: set[int] = set()
    new = {0, *(setting.begins(value) for value in first)}
    while new:
        found |= new
        if len(found) > FEW:
            return None
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


def walks(settings: Sequence[Setting], halts: Halts) -> Iterator[I64]:
    """Run the halts through each of `settings`, in order: the polling time before each halt."""
    began = [int(value) for value in np.unique(halts.first) if value >= 0]
    values = [values_of(setting, began) for setting in settings]
    bounds = [
        setting.thresholds(own) for setting, own in zip(settings, values, strict=True) if own is not None
    ]
    classes = classes_of(halts, set().union(*bounds)) if bounds else None
    for at in range(0, len(settings), TOGETHER):
        chosen = list(zip(settings[at : at + TOGETHER], values[at : at + TOGETHER], strict=True))
        few = [(setting, own) for setting, own in chosen if own is not None]
        tables = _by_tables(few, classes) if classes is not None and few else iter(())
        for setting, own in chosen:
            yield _by_rules(setting, halts) if own is None else next(tables)


def _begins(setting: Setting, first: I64) -> I64:
    """With what value each vCPU begins."""
    own, nth = np.unique(first, return_inverse=True)
    return np.array([setting.begins(max(int(value), 0)) for value in own], np.int64)[nth.reshape(-1)]


def _side_by_side(number: int) -> tuple[int, int]:
    """How many pieces, and how long they are."""
    pieces = max(1, min(PIECES, number // 8))
    return pieces, -(-number // pieces)


def _table(setting: Setting, values: I64, classes: Classes) -> I64:
    """Rank of the value after a halt, by rank of the value before and class; the last class changes nothing."""
    examples = classes.examples
    rows = np.searchsorted(values, setting.after(values[:, None], examples))
    # At a vCPU's first halt it does not matter what the vCPU before it left behind.
    start = np.searchsorted(values, _begins(setting, examples.first))
    columns = np.flatnonzero(examples.first >= 0)
    rows[:, columns] = rows[start[columns], columns]
    return np.concatenate([rows, np.arange(len(values))[:, None]], axis=1)


def _by_tables(chosen: list[tuple[Setting, list[int]]], classes: Classes) -> Iterator[I64]:
    number, width = len(classes.of), len(classes) + 1
    pieces, length = _side_by_side(number)
    padded = np.full(pieces * length, width - 1, np.int32)
    padded[:number] = classes.of
    # One row for each step; the pieces stand side by side.
    steps = np.ascontiguousarray(padded.reshape(pieces, length).T)
    # A place is that of a table's row: its setting's offset + the value's rank · width.
    offsets = np.cumsum([0, *(len(values) * width for _, values in chosen)])
    tables = [
        offset + width * _table(setting, np.array(values, np.int64), classes).reshape(-1)
        for offset, (setting, values) in zip(offsets, chosen, strict=False)
    ]
    table = np.concatenate(tables).astype(np.int32)
    place = np.repeat(np.arange(0, offsets[-1], width, dtype=np.int32)[:, None], pieces, axis=1)
    for step in steps:
        place = table[place + step]
    starts = np.empty((len(chosen), pieces), np.int32)
    here = offsets[:-1].astype(np.int32)
    for piece in range(pieces):
        starts[:, piece] = here
        here = place[here // width, piece]
    seen = np.empty((length, len(chosen), pieces), np.int32)
    now = starts
    for n, step in enumerate(steps):
        seen[n] = now
        now = table[now + step]
    first = classes.examples.first[classes.of]
    at = np.flatnonzero(first >= 0)
    for n, (setting, values) in enumerate(chosen):
        ranks = (seen[:, n, :].T.reshape(-1)[:number] - offsets[n]) // width
        found = np.array(values, np.int64)[ranks]
        found[at] = _begins(setting, first[at])
        yield found


def _by_rules(setting: Setting, halts: Halts) -> I64:
    number = len(halts)
    pieces, length = _side_by_side(number)
    # Steps as above; what is added at the end changes nothing.
    padded = np.arange(pieces * length)
    steps = halts.at(np.minimum(padded, number - 1).reshape(pieces, length).T)
    allowed = steps.allowed & (padded < number).reshape(pieces, length).T
    begins = np.where(steps.first >= 0, _begins(setting, steps.first.reshape(-1)).reshape(length, pieces), -1)
    steps = Halts(steps.arrival, steps.polled, steps.blocked, allowed, steps.first)

    def walked(value: I64, seen: I64 | None = None) -> I64:
        for n in range(length):
            value = np.where(begins[n] >= 0, begins[n], value)
            if seen is not None:
                seen[n] = value
            value = setting.after(value, steps.at(n))
        return value

    starts, ends = np.zeros(pieces, np.int64), dict[int, I64]()
    wanted = [0]
    while wanted:
        found = walked(np.repeat(np.array(wanted, np.int64)[:, None], pieces, axis=1))
        ends |= zip(wanted, found, strict=True)
        value, wanted = 0, []
        for piece in range(pieces):
            if value not in ends:
                # What other pieces end with is likely to be met as well.
                others = [
                    other for other in np.unique(found).tolist() if other not in ends and other != value
                ]
                wanted = [value, *others[: LANES - 1]]
                break
            starts[piece] = value
            value = int(ends[value][piece])
    seen = np.empty((length, pieces), np.int64)
    walked(starts, seen)
    return seen.T.reshape(-1)[:number]
