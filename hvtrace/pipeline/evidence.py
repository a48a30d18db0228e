"""What a recording's events say about which thread runs which vCPU: collected window by window.

Only few rows matter: the first time a thread appears as a vCPU, and the events by which the kernel announces a
newly created vCPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.schema.registry import BY_NAME
from hvtrace.schema.tracepoint import Context

__all__ = ["Birth", "Evidence", "Tables"]

#: The bare tables of a window, by tracepoint.
Tables = dict[str, pa.RecordBatch]

#: Creations of vCPUs taken notice of. A recording is untrusted, and each costs work with every window.
MAX_BIRTHS = 20_000

#: kvm_write_tsc_offset says "was 0" only for a vCPU just created (kvm_arch_vcpu_postcreate).
WRITE_TSC, TRACK_TSC = "kvm_write_tsc_offset", "kvm_track_tsc"


@dataclass(frozen=True, slots=True)
class Birth:
    """A vCPU was created at `seq` by thread `tid`, the `online`-th of its VM, with this TSC offset.

    `since` is the seq from which on the thread's events belong to the new vCPU: right after the last event in
    which it still ran another.
    """

    seq: int
    since: int
    tid: int
    vcpu: int
    online: int
    offset: int | None


@dataclass(slots=True)
class Evidence:
    """What is known so far. All `seq` are those of the whole recording."""

    #: thread → vCPU → seq of the first event in which it acted as that vCPU.
    acted: dict[int, dict[int, int]] = field(default_factory=dict)
    births: list[Birth] = field(default_factory=list)
    #: thread → seq of the last event that only a vCPU's own thread fires.
    last: dict[int, int] = field(default_factory=dict)
    #: Threads that acted as more than one vCPU.
    shared: set[int] = field(default_factory=set)

    def learn(self, tables: Tables, base: int) -> None:
        """Take in a window whose rows' `seq` start at `base`."""
        runs = _acting(tables)
        births = _births(tables, base)
        if births:
            whole = _acting(tables, whole=True)
            order = np.lexsort((whole.last, whole.tid))
            by_thread = whole.tid[order], whole.last[order]
            for seq, tid, vcpu, online, offset in births[: MAX_BIRTHS - len(self.births)]:
                since = self._since(tid, seq, by_thread, base)
                self.births.append(Birth(seq, since, tid, vcpu, online, offset))
        for tid, seq in _largest(runs.tid, runs.last):
            self.last[tid] = seq + base
        named = runs.vcpu >= 0
        for both, seq in _smallest((runs.tid[named] << 32) | runs.vcpu[named], runs.first[named]):
            tid, vcpu = both >> 32, both & 0xFFFFFFFF
            known = self.acted.setdefault(tid, {})
            known.setdefault(vcpu, seq + base)
            if len(known) > 1:
                self.shared.add(tid)

    def _since(
        self, tid: int, seq: int, by_thread: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], base: int
    ) -> int:
        tids, seqs = by_thread
        start, stop = np.searchsorted(tids, tid, "left"), np.searchsorted(tids, tid, "right")
        row = int(np.searchsorted(seqs[start:stop], seq - base, "left"))
        if row:
            return int(seqs[start + row - 1]) + base + 1
        return self.last[tid] + 1 if tid in self.last else 0


Column = npt.NDArray[np.int64]
Pairs = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Runs:
    """Events in a row by one thread as one vCPU: thread, vCPU (−1 not named), first and last seq of the run."""

    tid: Column
    vcpu: Column
    first: Column
    last: Column


def _smallest(key: Column, value: Column) -> Pairs:
    """(key, its smallest value) for each distinct key."""
    order = np.lexsort((value, key))
    edge = np.flatnonzero(np.diff(key[order], prepend=-1))
    return list(zip(key[order][edge].tolist(), value[order][edge].tolist(), strict=True))


def _largest(key: Column, value: Column) -> Pairs:
    """(key, its largest value) for each distinct key."""
    return [(k, -v) for k, v in _smallest(key, -value)]


def numpy_column(table: pa.RecordBatch, name: str) -> npt.NDArray[np.int64]:
    """Return a column as int64, nulls as −1."""
    column = table.column(name)
    if column.null_count:
        column = (
            column.fill_null(0)
            if column.type == pa.bool_()
            else column.cast(pa.int64(), safe=False).fill_null(-1)
        )
    values: npt.NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return values


def _acting(tables: Tables, *, whole: bool = False) -> _Runs:
    """Runs of the events that only the vCPU's own thread fires, of all tables; `whole`: every event a run."""
    parts: list[tuple[Column, Column, Column, Column]] = []
    for name, table in tables.items():
        declared = BY_NAME.get(name)
        if declared is None or declared.context is not Context.VCPU:
            continue
        tid = table.column("tid").to_numpy(zero_copy_only=False)
        seq = table.column("seq").to_numpy(zero_copy_only=False)
        vcpu = None
        starts = np.ones(len(tid), np.bool_)
        if not whole:
            starts[1:] = tid[1:] != tid[:-1]
        if declared.vcpu_field is not None:
            field_ = table.column(declared.vcpu_field)
            vcpu = numpy_column(table, declared.vcpu_field) if field_.null_count else field_.to_numpy()
            starts[1:] |= vcpu[1:] != vcpu[:-1]
        first = np.flatnonzero(starts)
        last = np.append(first[1:], len(tid)) - 1
        # No thread has a negative id; a damaged record may.
        real = tid[first] >= 0
        first, last = first[real], last[real]
        acted = np.full(len(first), -1, np.int64) if vcpu is None else vcpu[first].astype(np.int64)
        parts.append(
            (tid[first].astype(np.int64), acted, seq[first].astype(np.int64), seq[last].astype(np.int64))
        )
    if not parts:
        return _Runs(*(np.empty(0, np.int64) for _ in range(4)))
    return _Runs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _births(tables: Tables, base: int) -> list[tuple[int, int, int, int, int | None]]:
    """(seq, tid, vcpu, online, offset) of the vCPUs created in this window, in order."""
    track, write = tables.get(TRACK_TSC), tables.get(WRITE_TSC)
    if track is None or write is None:
        return []
    fresh: dict[int, tuple[int, int, int]] = {}
    rows: list[tuple[int, int, str, int, int, int]] = []
    for seq, tid, vcpu, before, after in zip(
        *(
            write.column(c).to_pylist()
            for c in ("seq", "tid", "vcpu_id", "previous_tsc_offset", "next_tsc_offset")
        ),
        strict=True,
    ):
        rows.append((seq, tid, WRITE_TSC, vcpu, before, after))
    for seq, tid, vcpu, online in zip(
        *(track.column(c).to_pylist() for c in ("seq", "tid", "vcpu_id", "online_vcpus")), strict=True
    ):
        rows.append((seq, tid, TRACK_TSC, vcpu, online, 0))
    births: list[tuple[int, int, int, int, int | None]] = []
    for seq, tid, kind, vcpu, a, b in sorted(rows):
        if kind == WRITE_TSC:
            fresh.pop(tid, None)
            if a == 0:
                fresh[tid] = (seq, vcpu, b)
        elif tid >= 0 and tid in fresh and fresh[tid][1] == vcpu:
            started, _, offset = fresh.pop(tid)
            births.append((started + base, tid, vcpu, a, offset))
    return births
