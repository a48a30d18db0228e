"""Names of threads as they change in time, and the processes they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["MAX_TID", "Renames", "ThreadNames"]

#: Thread ids are below this (PID_MAX_LIMIT, include/linux/threads.h).
MAX_TID = 1 << 22
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

    def add_names(self, time: Index, tid: Index, names: npt.NDArray[np.uint8]) -> None:
        """Threads `tid` are called `names` (rows of bytes, each NUL-terminated) from `time` on."""
        texts = (bytes(name).split(b"\0", 1)[0] for name in names)
        self.rows += zip(time.tolist(), tid.tolist(), texts, strict=True)

    def add_forks(self, time: Index, tid: Index, parent: Index) -> None:
        """Threads `tid` begin at `time`, named as their parents are then."""
        self.rows += zip(time.tolist(), tid.tolist(), parent.tolist(), strict=True)

    def in_order(self) -> Iterable[tuple[int, int, bytes | int]]:
        """By time; those of one time as they came."""
        return sorted(self.rows, key=lambda row: row[0])


class ThreadNames:
    """Name of a thread at a time, looked up for whole columns.

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
        # Threads that keep one name are looked up by number alone: 1 + its code; others: -(1 + their rank).
        self._slot = np.zeros(MAX_TID, np.int32)
        times = sorted({time for since in history.values() for time, _ in since} | {ALWAYS})
        self._times = np.array(times, np.int64)
        rank_of = {time: n for n, time in enumerate(times)}
        keys: list[int] = []
        codes: list[int] = []
        rank = 0
        for tid, since in history.items():
            if len(since) == 1 and since[0][0] == ALWAYS:
                self._slot[tid] = 1 + since[0][1]
                continue
            self._slot[tid] = -1 - rank
            if since[0][0] != ALWAYS:
                since = [(ALWAYS, -1), *since]
            keys += [rank * len(times) + rank_of[time] for time, _ in since]
            codes += [code for _, code in since]
            rank += 1
        self._keys, self._codes = np.array(keys, np.int64), np.array(codes, np.int32)

    def column(self, tid: npt.NDArray[np.int32], ts: npt.NDArray[np.int64]) -> pa.DictionaryArray:
        """Names of threads `tid` at times `ts`, null where unknown."""
        slot = self._slot.take(tid, mode="clip")
        outside = (tid < 0) | (tid >= MAX_TID)
        if outside.any():
            slot[outside] = 0
        codes = slot - np.int32(1)
        changing = np.flatnonzero(slot < 0)
        if len(changing):
            rank = -1 - slot[changing].astype(np.int64)
            time = np.searchsorted(self._times, ts[changing], "right") - 1
            keys = rank * len(self._times) + time
            codes[changing] = self._codes[np.searchsorted(self._keys, keys, "right") - 1]
        unknown = codes < 0
        indices = pa.array(codes, mask=unknown if unknown.any() else None)
        return pa.DictionaryArray.from_arrays(indices, self._names)
