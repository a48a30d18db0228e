"""Exits per second, per vCPU and reason, in steps of one width over the whole recording."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["Rates", "step_width"]

I64 = npt.NDArray[np.int64]

#: Steps aimed at: as many as a screen has pixels.
STEPS = 2000


def step_width(duration: int) -> int:
    """Width of a step in ns: 1, 2 or 5 times a power of ten, at least a millisecond."""
    width = 1_000_000
    while duration > STEPS * width:
        width = width * 5 // 2 if str(width)[0] == "2" else width * 2
    return width


class Rates:
    """Counts exits by vCPU, reason and step as windows of kvm_exit pass by."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.width = step_width(last - first)
        self.steps = max(0, (last - first) // self.width + 1)
        self._counts: dict[tuple[int, int], npt.NDArray[np.uint32]] = {}

    def add(self, vcpu: I64, reason: npt.NDArray[np.uint64], ts: I64) -> None:
        """Count exits; those outside the time wanted are left out."""
        step = (ts - self.first) // self.width
        inside = (step >= 0) & (step < self.steps)
        vcpu, reason, step = vcpu[inside], reason[inside].astype(np.int64), step[inside]
        pair = vcpu << 24 | reason
        for value in np.unique(pair).tolist():
            key = (value >> 24, value & 0xFFFFFF)
            counts = self._counts.get(key)
            if counts is None:
                counts = self._counts[key] = np.zeros(self.steps, np.uint32)
            counts += np.bincount(step[pair == value], minlength=self.steps).astype(np.uint32)

    def series(self) -> Iterator[tuple[int, int | None, I64, npt.NDArray[np.float64]]]:
        """Yield vCPU, reason (None: all), time stamps and exits per second, where the rate changes."""
        for vcpu in sorted({key for key, _ in self._counts}):
            own = {reason: counts for (key, reason), counts in self._counts.items() if key == vcpu}
            yield vcpu, None, *self._changes(np.sum(list(own.values()), axis=0))
            # The commonest first.
            for reason, counts in sorted(own.items(), key=lambda item: (-int(item[1].sum()), item[0])):
                yield vcpu, reason, *self._changes(counts)

    def _changes(self, counts: npt.NDArray[np.generic]) -> tuple[I64, npt.NDArray[np.float64]]:
        values = np.append(counts.astype(np.float64) * (1e9 / self.width), 0.0)
        at = np.flatnonzero(np.diff(values, prepend=-1.0))
        return self.first + at * self.width, values[at]
