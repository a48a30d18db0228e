"""Steps of one width over a span of time, and sums over them: how many events, and how much time, lie in each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["CELLS", "STEPS", "Steps", "Sums", "distinct", "step_width"]

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

#: Steps aimed at: as many as a screen has pixels.
STEPS = 2000
#: Steps of all vCPUs together; where there are very many vCPUs, steps are wider.
CELLS = 1 << 19

_NARROWEST = 1_000_000


def step_width(duration: int, most: int = STEPS) -> int:
    """Width at which `duration` has at most so many steps: 1, 2 or 5 times a power of ten, at least 1,000,000."""
    width = _NARROWEST
    while duration > most * width:
        width = width * 5 // 2 if str(width)[0] == "2" else width * 2
    return width


class Steps:
    """Steps from `first` to `last`, both included. All have the same width, but the last has what remains as well.

    `edges`: (n + 1,), where steps begin, and `last`; `lengths`: (n,). No time, no steps.
    """

    def __init__(self, first: int, last: int, vcpus: int = 1) -> None:
        self.first = first
        self.last = max(first, last)
        duration = self.last - first
        self.width = step_width(duration, max(1, min(STEPS, CELLS // max(vcpus, 1))))
        count = max(1, duration // self.width) if duration else 0
        self.edges = np.array([first + n * self.width for n in range(count)] + [self.last], np.int64)
        self.lengths: I64 = np.diff(self.edges)

    def __len__(self) -> int:
        return len(self.lengths)

    def inside(self, ts: I64) -> Bool:
        """Whether there are steps for these times."""
        return (ts >= self.first) & (ts <= self.last) & (len(self) > 0)

    def of(self, ts: I64) -> I64:
        """Return the step of each time; all must be inside."""
        # Unsigned: the difference of two times may be more than int64 holds.
        since = (ts - self.first).view(np.uint64)
        step: I64 = (since // np.uint64(self.width)).astype(np.int64)
        return np.minimum(step, len(self) - 1)


class Sums:
    """A sum for each step and each of many keys (whole numbers); `sums[key]` is 0 everywhere if nothing was added."""

    def __init__(self, steps: Steps, dtype: npt.DTypeLike = np.int64) -> None:
        self._steps = steps
        self._rows: dict[int, int] = {}
        self._sums = np.zeros((0, len(steps)), dtype)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __getitem__(self, key: int) -> I64:
        row = self._rows.get(key)
        return np.zeros(len(self._steps), np.int64) if row is None else self._sums[row].astype(np.int64)

    def count(self, keys: I64, ts: I64) -> None:
        """Count an event of each key at each time; those outside are left out."""
        inside = self._steps.inside(ts)
        rows = self._rows_of(keys[inside])
        self._add(rows, self._steps.of(ts[inside]), np.ones(len(rows), self._sums.dtype))

    def spread(self, keys: I64, start: I64, end: I64) -> None:
        """Add the time from `start` to `end` of each key to the steps it lies in; what is outside is left out."""
        steps = self._steps
        touches = (end > steps.first) & (start < steps.last) & (end > start) & (len(steps) > 0)
        start, end = np.maximum(start[touches], steps.first), np.minimum(end[touches], steps.last)
        rows = self._rows_of(keys[touches])
        first, last = steps.of(start), steps.of(end)
        self._add(rows, first, np.minimum(end, steps.edges[first + 1]) - start)
        more = last > first
        rows, first, last, end = rows[more], first[more], last[more], end[more]
        self._add(rows, last, end - steps.edges[last])
        # The steps between are filled: as many times as begin before and end after.
        long = last > first + 1
        if long.any():
            own, which = distinct(rows[long])
            times = np.zeros((len(own), len(steps)), np.int64)
            np.add.at(times, (which, first[long] + 1), 1)
            np.add.at(times, (which, last[long]), -1)
            self._sums[own] += np.cumsum(times, axis=1) * steps.lengths

    def _add(self, rows: I64, steps: I64, values: npt.NDArray[np.generic]) -> None:
        # Numbered through: several times as fast as by row and column.
        np.add.at(self._sums.reshape(-1), rows * len(self._steps) + steps, values)

    def _rows_of(self, keys: I64) -> I64:
        """Return the row of each key's sums; new ones are made."""
        different, which = distinct(keys)
        rows = np.array([self._rows.setdefault(key, len(self._rows)) for key in different], np.int64)
        if (missing := len(self._rows) - len(self._sums)) > 0:
            # Twice as many, so that growing costs little.
            more = np.zeros((missing + len(self._sums), len(self._steps)), self._sums.dtype)
            self._sums = np.concatenate([self._sums, more])
        return rows[which]


def distinct(values: npt.NDArray[np.generic]) -> tuple[list[int], I64]:
    """Return the different values in order of their first place, and for each value which of them it is."""
    encoded = pa.array(values).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
