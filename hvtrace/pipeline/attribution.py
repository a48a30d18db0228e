"""Deciding which VM and which vCPU each event belongs to, for whole columns.

An event of a vCPU thread belongs to what the thread runs at that time. An event that names its vCPU belongs to
that vCPU, in the VM of its thread; where it comes from an interrupt or from a thread that is no vCPU, in the only VM
that has such a vCPU then, or in the process's, or in the one whose timer was armed and due. Where this leaves more
than one, `vm` is null.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.parsers.recording import IRQ, Threads
from hvtrace.pipeline.callbacks import ARMING, CALLBACK, DISARMING, ArmedTimers
from hvtrace.pipeline.evidence import Evidence, Tables, numpy_column
from hvtrace.pipeline.machines import Machines, conclude
from hvtrace.schema.registry import BY_NAME
from hvtrace.schema.tracepoint import Context

__all__ = ["Attribution", "Attributor"]

#: `vm` and `vcpu` where they are not known or there is none.
NONE = 0xFFFF

#: VMs alive in one window up to which the only possible one is looked for.
MAX_ALIVE = 256
#: Changes of stints in a window, times threads, up to which each change has a table of its own.
MAX_EPOCHS = 1 << 20

U16 = npt.NDArray[np.uint16]
Attribution = tuple[pa.Array, pa.Array]


@dataclass(slots=True)
class Attributor:
    """Learns from windows in order and attributes their rows.

    `stale` tells, at the end, whether what was learnt later would have changed an earlier window; then the
    recording is read again with `again()`, which knows everything from the start.
    """

    threads: Threads
    evidence: Evidence = field(default_factory=Evidence)
    machines: Machines = field(default_factory=lambda: Machines([], []))
    learning: bool = True
    _views: list[tuple[int, int]] = field(default_factory=list)
    _armed: ArmedTimers = field(default_factory=ArmedTimers)
    _carry: dict[int, int] = field(default_factory=dict)

    def again(self) -> Attributor:
        """Return an attributor that knows what this one has learnt, for a second reading."""
        return Attributor(self.threads, self.evidence, conclude(self.evidence, self.threads), learning=False)

    @property
    def stale(self) -> bool:
        """Whether an earlier window was attributed with less than is known now."""
        final = conclude(self.evidence, self.threads)
        return self.learning and any(view != hash(final.view(until)) for until, view in self._views)

    def attribute(self, tables: Tables, base: int, events: int) -> dict[str, Attribution]:
        """Return `vm` and `vcpu` columns for each of `tables`, whose `seq` start at `base`."""
        if self.learning:
            self.evidence.learn(tables, base)
            self.machines = conclude(self.evidence, self.threads)
            self._views.append((base + events, hash(self.machines.view(base + events))))
        lookup = _Lookup(
            self.machines, self.threads, self.evidence.shared, tables, (base, events), self._carry
        )
        done: dict[str, Attribution] = {}
        for name, table in tables.items():
            vm, vcpu = _attribute(name, table, lookup)
            if name == CALLBACK and len(self.machines.vms) > 1:
                self._resolve_callbacks(tables, lookup, vm)
            done[name] = _arrow(vm), _arrow(vcpu)
        if CALLBACK not in tables and len(self.machines.vms) > 1:
            self._resolve_callbacks(tables, lookup, np.empty(0, np.uint16))
        self._carry = lookup.carry()
        return done

    def _resolve_callbacks(self, tables: Tables, lookup: _Lookup, vms: U16) -> None:
        """Give callbacks that could be several VMs' to the one whose timer was armed and due."""
        timers: dict[str, tuple[pa.RecordBatch, npt.NDArray[np.int64]]] = {}
        for name in (*ARMING, *DISARMING):
            if name in tables:
                vm = _attribute(name, tables[name], lookup)[0].astype(np.int64)
                timers[name] = tables[name], np.where(vm == NONE, -1, vm)
        found = self._armed.owners(timers, tables.get(CALLBACK))
        if found is not None:
            open_ = (vms == NONE) & (found >= 0)
            vms[open_] = found[open_]


def _arrow(values: U16) -> pa.Array:
    unknown = values == NONE
    return pa.array(values, mask=unknown) if unknown.any() else pa.array(values)


class _Lookup:
    """Thread → (vm, vcpu) for whole columns, in one window."""

    def __init__(
        self,
        machines: Machines,
        threads: Threads,
        shared: set[int],
        tables: Tables,
        span: tuple[int, int],
        carry: dict[int, int],
    ) -> None:
        self.base, events = span
        alive = [
            m
            for m in machines.vms
            if m.since < self.base + events and (m.until is None or m.until > self.base)
        ]
        self.alive = alive if len(alive) <= MAX_ALIVE else []
        self.vms = machines.vms
        self.tgids = threads.tgids
        stints = machines.stints
        self.tids = np.array(sorted({s.tid for s in stints}), np.int64)
        index = {tid: i for i, tid in enumerate(self.tids.tolist())}
        size = int(self.tids.max()) + 2 if len(self.tids) and self.tids.max() < 1 << 23 else 0
        self._lut = np.full(size, -1, np.int32)
        if size:
            self._lut[self.tids] = np.arange(len(self.tids))
        self._shared = {tid: _Turns(tid, tables, carry.get(tid, NONE)) for tid in sorted(shared)}
        # What each thread runs, from a seq of this window on; the last place is that of all other threads.
        vm = np.full(len(self.tids) + 1, NONE, np.uint16)
        vcpu = vm.copy()
        self._epochs: list[tuple[int, U16, U16]] = [(0, vm, vcpu)]
        changes = sorted((s for s in stints if s.since < self.base + events), key=lambda s: s.since)
        room = max(MAX_EPOCHS // len(vm), 1)
        for stint in changes:
            at = max(stint.since - self.base, 0)
            # Past what there is room for, a change is dated back to the one before.
            if at > self._epochs[-1][0] and len(self._epochs) < room:
                self._epochs.append((at, self._epochs[-1][1].copy(), self._epochs[-1][2].copy()))
            _, vm, vcpu = self._epochs[-1]
            vm[index[stint.tid]] = stint.vm
            vcpu[index[stint.tid]] = NONE if stint.vcpu is None else min(stint.vcpu, NONE)

    def carry(self) -> dict[int, int]:
        """VCPU that each shared thread ran last."""
        return {tid: turns.final for tid, turns in self._shared.items()}

    def thread(self, tid: npt.NDArray[np.int32], seq: npt.NDArray[np.int64]) -> tuple[U16, U16]:
        """Return vm and vcpu of what the threads `tid` run at `seq` (of this window, ascending)."""
        index = self._index(tid)
        if len(self._epochs) == 1:
            _, vms, vcpus = self._epochs[0]
            vm, vcpu = vms.take(index, mode="wrap"), vcpus.take(index, mode="wrap")
        else:
            vm, vcpu = np.empty(len(tid), np.uint16), np.empty(len(tid), np.uint16)
            cuts = np.searchsorted(seq, [at for at, *_ in self._epochs]).tolist()
            for (_, vms, vcpus), start, stop in zip(self._epochs, cuts, [*cuts[1:], len(tid)], strict=True):
                if stop > start:
                    vm[start:stop] = vms.take(index[start:stop], mode="wrap")
                    vcpu[start:stop] = vcpus.take(index[start:stop], mode="wrap")
        for number, turns in self._shared.items():
            rows = np.flatnonzero(tid == number)
            if len(rows):
                vcpu[rows] = turns.at(seq[rows])
        return vm, vcpu

    def _index(self, tid: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the rank of each thread among the vCPU threads, −1 for others."""
        if len(self._lut):
            return self._lut.take(np.clip(tid, -1, len(self._lut) - 1), mode="wrap")
        if not len(self.tids):
            return np.full(len(tid), -1, np.int32)
        where = np.minimum(np.searchsorted(self.tids, tid), len(self.tids) - 1)
        return np.where(self.tids[where] == tid, where, -1).astype(np.int32)

    def alone(self, seq: npt.NDArray[np.int64], vcpu: npt.NDArray[np.int64] | None) -> U16:
        """Return the only VM alive at `seq` (that has `vcpu`, where given), NONE where there is not exactly one."""
        found = np.full(len(seq), NONE, np.uint16)
        count = np.zeros(len(seq), np.int32)
        for m in self.alive:
            here = np.ones(len(seq), np.bool_)
            if m.since > self.base:
                here &= seq + self.base >= m.since
            if m.until is not None:
                here &= seq + self.base < m.until
            if vcpu is not None:
                here &= np.isin(vcpu, list(m.vcpus))
            found[here] = m.number
            count += here
        found[count != 1] = NONE
        return found

    def process(self, tid: npt.NDArray[np.int32], seq: npt.NDArray[np.int64]) -> U16:
        """Return the only VM alive at `seq` of the process that `tid` belongs to."""
        found = np.full(len(tid), NONE, np.uint16)
        by_tgid: dict[int, list[int]] = {}
        for m in self.alive:
            if m.tgid is not None:
                by_tgid.setdefault(m.tgid, []).append(m.number)
        if not by_tgid:
            return found
        for number in np.unique(tid).tolist():
            vms = by_tgid.get(self.tgids.get(number, -1), [])
            rows = np.flatnonzero(tid == number)
            for m in (self.vms[v] for v in vms):
                inside = seq[rows] + self.base >= m.since
                if m.until is not None:
                    inside &= seq[rows] + self.base < m.until
                found[rows[inside]] = m.number
        return found


class _Turns:
    """Which vCPU a thread that runs several in turn ran at a time: the last one it was seen as."""

    def __init__(self, tid: int, tables: Tables, before: int) -> None:
        parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        for name, table in tables.items():
            declared = BY_NAME.get(name)
            if declared is not None and declared.context is Context.VCPU and declared.vcpu_field is not None:
                rows = np.flatnonzero(numpy_column(table, "tid") == tid)
                parts.append(
                    (numpy_column(table, "seq")[rows], numpy_column(table, declared.vcpu_field)[rows])
                )
        seq = np.concatenate([np.empty(0, np.int64), *(p[0] for p in parts)])
        vcpu = np.concatenate([np.empty(0, np.int64), *(p[1] for p in parts)])
        order = np.argsort(seq, kind="stable")
        self._seq = seq[order]
        self._vcpu = np.concatenate([[before], vcpu[order]]).astype(np.uint16)

    @property
    def final(self) -> int:
        return int(self._vcpu[-1])

    def at(self, seq: npt.NDArray[np.int64]) -> U16:
        return self._vcpu[np.searchsorted(self._seq, seq, "right")]


def _attribute(name: str, table: pa.RecordBatch, lookup: _Lookup) -> tuple[U16, U16]:
    """Return `vm` and `vcpu` of one table's rows, NONE where unknown."""
    declared = BY_NAME.get(name)
    context = Context.THREAD if declared is None else declared.context
    n = table.num_rows
    if context is Context.NONE or not lookup.vms:
        return np.full(n, NONE, np.uint16), np.full(n, NONE, np.uint16)
    tid = table.column("tid").to_numpy(zero_copy_only=False)
    seq = table.column("seq").to_numpy(zero_copy_only=False).view(np.int64)
    vm, vcpu = lookup.thread(tid, seq)
    if context is Context.VCPU:
        return vm, vcpu
    # What an interrupt interrupted says nothing of the VM the event belongs to.
    irq = _from_interrupt(name, table)
    vm[irq] = vcpu[irq] = NONE
    named = None
    if context is Context.NAMED and declared is not None and declared.vcpu_field is not None:
        named = numpy_column(table, declared.vcpu_field)
        vcpu = np.where((named >= 0) & (named < NONE), named, NONE).astype(np.uint16)
    unknown = np.flatnonzero(vm == NONE)
    if len(unknown):
        ours = lookup.process(tid[unknown], seq[unknown])
        ours[irq[unknown]] = NONE
        alone = lookup.alone(seq[unknown], None if named is None else named[unknown])
        vm[unknown] = np.where(ours != NONE, ours, alone)
    return vm, vcpu


def _from_interrupt(name: str, table: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Return which rows were recorded in an interrupt; where the carrier does not say, timer callbacks were."""
    default = name == CALLBACK
    if IRQ not in table.schema.names:
        return np.full(table.num_rows, default)
    found: npt.NDArray[np.bool_] = table.column(IRQ).fill_null(default).to_numpy(zero_copy_only=False)
    return found
