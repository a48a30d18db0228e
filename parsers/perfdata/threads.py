"""Names of threads as they change in time, and the processes they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.parsers.tables import Names

__all__ = ["MAX_TID", "Renames", "ThreadNames"]

#: Thread ids are below this (PID_MAX_LIMIT, include/linux/threads.h).
MAX_TID = 1 << 22
#: COMM and FORK records kept: memory stays bounded.
MAX_RENAMES = 1 << 20
#: A thread's name, its NUL included (TASK_COMM_LEN).
NAME_SIZE = 16
#: Before every stamp.
ALWAYS = -(1 << 63)
#: What the idle task is called in every store.
IDLE = "<idle>"

Index = npt.NDArray[np.int64]


@dataclass(slots=True)
class Renames:
    """COMM and FORK records as they come, each (time, thread, name or parent thread)."""

    rows: list[tuple[int, int, bytes | int]] = field(default_factory=list)
    #: How many more there were than are kept.
    dropped: int = 0

    def add_names(self, time: Index, tid: Index, names: npt.NDArray[np.uint8]) -> None:
        """Threads `tid` are called `names` (rows of bytes, each NUL-terminated) from `time` on."""
        room = self._room(len(time))
        texts = (bytes(name).split(b"\0", 1)[0] for name in names[:room])
        self.rows += zip(time[:room].tolist(), tid[:room].tolist(), texts, strict=True)

    def add_forks(self, time: Index, tid: Index, parent: Index) -> None:
        """Threads `tid` begin at `time`, named as their parents are then."""
        room = self._room(len(time))
        self.rows += zip(time[:room].tolist(), tid[:room].tolist(), parent[:room].tolist(), strict=True)

    def _room(self, count: int) -> int:
        room = min(MAX_RENAMES - len(self.rows), count)
        self.dropped += count - room
        return room

    def in_order(self) -> Iterable[tuple[int, int, bytes | int]]:
        """By time; those of one time as they came."""
        return sorted(self.rows, key=lambda row: row[0])


class ThreadNames:
    """Names of threads in time, looked up for whole columns.

    A name holds from its COMM record on; what perf found when it started (stamp 0) holds from the beginning. A
    new thread has its parent's name. Before its first record a thread's name is not known.
    """

    def __init__(self, renames: Renames) -> None:
        distinct: dict[str, int] = {IDLE: 0}
        history: dict[int, list[tuple[int, int]]] = {}
        now: dict[int, int] = {}
        for time, tid, what in renames.in_order():
            if not 0 < tid < MAX_TID:
                continue
            if isinstance(what, int):
                if time == 0 or what == tid:
                    continue
                code = now.get(what, -1)
            else:
                code = distinct.setdefault(what.decode("utf-8", "replace"), len(distinct))
            since = history.setdefault(tid, [])
            if since and since[-1][0] == (time or ALWAYS):
                since.pop()
            if not since or since[-1][1] != code:
                since.append((time or ALWAYS, code))
            now[tid] = code
        now[0] = 0
        history[0] = [(ALWAYS, 0)]
        self._names = pa.array(list(distinct), pa.string())
        #: The last name of each thread.
        self.last = {tid: self._names[code].as_py() for tid, code in sorted(now.items()) if code >= 0}
        self._set(history)

    def _set(self, history: dict[int, list[tuple[int, int]]]) -> None:
        changes = sorted((time, tid, code) for tid, since in history.items() for time, code in since)
        self._time = np.array([time for time, _, _ in changes], np.int64)
        self._tid = np.array([tid for _, tid, _ in changes], np.int64)
        self._code = np.array([1 + code for _, _, code in changes], np.int32)
        #: By thread id: 1 + the code of its name now, 0 where that is not known, or -1 - its rank among those that
        #: change soon. The last stands for what is no thread id. Memory that is taken only where it is written.
        self._now = np.zeros(MAX_TID + 1, np.int32)
        self._done = 0

    def between(self, first: int, last: int) -> Names:
        """Return the look-up for times from `first` to `last`; each call's times are later than those before."""
        start = int(np.searchsorted(self._time, first, "right"))
        stop = int(np.searchsorted(self._time, last, "right"))
        self._now[self._tid[self._done : start]] = self._code[self._done : start]
        self._done = start
        if start == stop:
            return self._constant
        # These change their names within these times: a name is found by thread and number of changes before.
        times, own = self._time[start:stop], self._tid[start:stop]
        threads, rank = np.unique(own, return_inverse=True)
        span = len(times) + 1
        keys = np.concatenate([np.arange(len(threads)) * span, rank * span + np.arange(1, span)])
        codes = np.concatenate([self._now[threads], self._code[start:stop]])
        order = np.argsort(keys)
        keys, codes = keys[order], codes[order]
        self._now[threads] = -1 - np.arange(len(threads), dtype=np.int32)

        def changing(tid: npt.NDArray[np.int32], ts: npt.NDArray[np.int64]) -> pa.DictionaryArray:
            now = self._now.take(tid.view(np.uint32), mode="clip")
            rows = np.flatnonzero(now < 0)
            changes = np.searchsorted(times, ts[rows], "right")
            key = (-1 - now[rows].astype(np.int64)) * span + changes
            now[rows] = codes[np.searchsorted(keys, key, "right") - 1]
            return self._array(now)

        return changing

    def _constant(self, tid: npt.NDArray[np.int32], ts: npt.NDArray[np.int64]) -> pa.DictionaryArray:
        return self._array(self._now.take(tid.view(np.uint32), mode="clip"))

    def _array(self, codes: npt.NDArray[np.int32]) -> pa.DictionaryArray:
        codes -= 1
        unknown = codes < 0 if len(codes) and int(codes.min()) < 0 else None
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=unknown), self._names)
