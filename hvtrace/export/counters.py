"""Counters of vCPUs and VMs: exits, in all and by reason, shares of time, and the halt-polling time in force.

Exits and shares are of steps of one width (hvtrace.export.steps). A share is counted from what is drawn: of the time
in which a vCPU's state is known, as a gap says nothing about either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from hvtrace.export.draw_halts import HALT_NAMES, POLLING
from hvtrace.export.interning import Interned
from hvtrace.export.packets import counts
from hvtrace.export.states import POLL_FAILURE, POLL_SUCCESS
from hvtrace.export.steps import CELLS, Steps, Sums, distinct
from hvtrace.export.streams import Which
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import Slices, column, keys_of
from hvtrace.export.wire import in_order
from hvtrace.store import Store

__all__ = ["Counters"]

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

#: What time is spent in. GUEST and HOST (exits and userspace) are all that is known; POLLED is a part of HOST.
GUEST, HOST, POLLED = range(3)
_TIMES = {"guest": GUEST, "exit": HOST, "userspace": HOST, "halt": POLLED}
_POLLS = (HALT_NAMES[POLL_SUCCESS], HALT_NAMES[POLL_FAILURE])

#: So many reasons have counters of their own, the first ones seen; the others are counted together.
OTHER = 63

#: Values of a counter: its track, time stamps, and the value from each of them on.
Samples: TypeAlias = tuple[int, I64, F64]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of time: kind of its track (the VM's: with "vm " before it), the time, tables it cannot do without."""

    kind: str
    time: int
    tables: tuple[str, ...]
    #: Halts are told in ns, and cannot be put on a clock that counts ticks.
    in_ticks: bool


SHARES = (
    Share("guest share", GUEST, ("kvm_entry", "kvm_exit"), in_ticks=True),
    Share("polling share", POLLED, ("kvm_entry", "kvm_exit", "kvm_vcpu_wakeup"), in_ticks=False),
)


class Counters:
    """Counts as windows go by, what lies between the two ends of `span`.

    `exit_names` gives the iid of the name of each row of kvm_exit. `tables` are needed beside those that are drawn.
    """

    tables: Mapping[str, tuple[str, ...]] = {POLLING: ("new", "old")}

    def __init__(
        self,
        store: Store,
        which: Which,
        span: tuple[int, int],
        names: Interned,
        tracks: Tracks,
        exit_names: Callable[[pl.DataFrame], U64],
    ) -> None:
        self._names = names
        self._tracks = tracks
        self._exit_names = exit_names
        sizes = {vm["vm"]: len(vm["vcpus"]) for vm in store.manifest.vms}
        # By VM: how many vCPUs it has. Totals of some of them would be taken for the VM's.
        self._totals = sizes if which.vcpu is None else {}
        ticks = store.manifest.clock.get("unit") == "ticks"
        self._shares = [s for s in SHARES if all(map(store.has, s.tables)) and (s.in_ticks or not ticks)]
        self._polls = [names.event(name) for name in _POLLS]
        self._steps = Steps(*span, sum(sizes.values()))
        self._about = f" Steps of {_span(self._steps.width, ticks=ticks)}."
        self._unit = "exits per 1e9 ticks" if ticks else "exits/s"
        self._polling = _PollingTimes(tracks, self._steps)
        # vCPUs have numbers, and reasons too: no more than there is room for.
        self._vcpus: dict[int, int] = {}
        self._reasons: dict[int, int] = {}
        self._exits = Sums(self._steps, np.uint32)
        self._times = Sums(self._steps)

    def add(self, rows: Mapping[str, pl.DataFrame], slices: Sequence[Slices]) -> pa.Buffer:
        """Count a window's rows and what is drawn of them; return framed packets of the values that are complete.

        Before them the caller writes the tracks that are new.
        """
        if (exits := rows.get("kvm_exit")) is not None and len(exits):
            self._count(exits)
        for s in slices:
            if s.category in _TIMES and not s.instant:
                self._spread(s, _TIMES[s.category])
        return _packets(self._polling.of(rows.get(POLLING)))

    def rest(self) -> Iterator[pa.Buffer]:
        """Yield framed packets of all that was counted; before each piece the caller writes the tracks that are new."""
        yield _packets(self._polling.unchanged())
        if not len(self._steps):
            return
        by_vm: dict[int, list[int]] = {}
        for key in sorted(self._vcpus):
            by_vm.setdefault(key >> 16, []).append(key)
        for vm, keys in by_vm.items():
            if vm in self._totals:
                yield _packets(self._of_vm(vm, keys))
            for key in keys:
                yield _packets(self._of_vcpu(key))

    def _count(self, exits: pl.DataFrame) -> None:
        vcpu = self._numbered(keys_of(exits))
        iids, which = distinct(self._exit_names(exits))
        for iid in iids:
            self._reasons.setdefault(iid, min(len(self._reasons), OTHER))
        reason = np.array([self._reasons[iid] for iid in iids], np.int64)[which]
        there = vcpu >= 0
        self._exits.count((vcpu << 8 | reason)[there], column(exits, "ts_ns")[there])

    def _spread(self, slices: Slices, time: int) -> None:
        keep = np.isin(slices.name, self._polls) if time == POLLED else np.ones(len(slices.name), np.bool_)
        uuids, which = distinct(slices.track[keep])
        keys = np.array([self._tracks.vcpu_of(uuid) for uuid in uuids], np.int64)
        vcpu = self._numbered(keys)[which]
        there = vcpu >= 0
        self._times.spread((vcpu << 8 | time)[there], slices.start[keep][there], slices.end[keep][there])

    def _numbered(self, keys: I64) -> I64:
        """Return the number of each vCPU; −1 where there is no room for its counters."""
        different, which = distinct(keys)
        room = max(1, CELLS // max(len(self._steps), 1))
        for key in different:
            if len(self._vcpus) < room:
                self._vcpus.setdefault(key, len(self._vcpus))
        return np.array([self._vcpus.get(key, -1) for key in different], np.int64)[which]

    def _of_vm(self, vm: int, keys: Sequence[int]) -> list[Samples]:
        none = np.zeros(len(self._steps), np.int64)
        samples = [self._rate("vm exits", vm, sum((self._exits_of(key) for key in keys), none))]
        known = [self._time(key, GUEST) + self._time(key, HOST) for key in keys]
        # vCPUs of which nothing is known have not run.
        idle = max(self._totals[vm] - len(keys), 0) * self._steps.lengths
        of = sum((np.where(_between(own > 0), own, self._steps.lengths) for own in known), idle)
        for share in self._shares:
            spent = sum((self._time(key, share.time) for key in keys), none)
            samples += self._share(f"vm {share.kind}", vm, spent, of, sum(known, none) > 0)
        return samples

    def _of_vcpu(self, key: int) -> list[Samples]:
        samples = [self._rate("exits", key, self._exits_of(key))]
        known = self._time(key, GUEST) + self._time(key, HOST)
        for share in self._shares:
            samples += self._share(share.kind, key, self._time(key, share.time), known, known > 0)
        reasons = [(self._exits[self._vcpus[key] << 8 | n], n) for n in sorted({*self._reasons.values()})]
        reasons = [(exits, n) for exits, n in reasons if exits.any()]
        names = {n: self._names.event_name(iid) for iid, n in self._reasons.items() if n < OTHER}
        for order, (exits, n) in enumerate(sorted(reasons, key=lambda r: (-int(r[0].sum()), r[1]))):
            name = names.get(n, "other reasons")
            samples.append(self._rate("reason", key, exits, name, order=order, y_axis_share_key="reason"))
        return samples

    def _time(self, key: int, time: int) -> I64:
        return self._times[self._vcpus[key] << 8 | time]

    def _exits_of(self, key: int) -> I64:
        none = np.zeros(len(self._steps), np.int64)
        return sum((self._exits[self._vcpus[key] << 8 | n] for n in {*self._reasons.values()}), none)

    def _rate(self, kind: str, owner: int, exits: I64, name: str | None = None, **track: Any) -> Samples:
        uuid = self._tracks.get(kind, owner, name, about=self._about, unit_name=self._unit, **track)
        return self._changes(uuid, exits * (1e9 / self._steps.lengths))

    def _share(self, kind: str, owner: int, spent: I64, of: I64, known: Bool) -> list[Samples]:
        """A share, from the first step in which something is known; none where that is nowhere."""
        if not known.any():
            return []
        uuid = self._tracks.get(kind, owner, about=self._about, unit_name="%", y_axis_share_key="share")
        return [self._changes(uuid, 100 * spent / np.maximum(of, 1), int(np.argmax(known)))]

    def _changes(self, uuid: int, values: F64, first: int = 0) -> Samples:
        """Where the value changes, from step `first` on; 0 at the end."""
        values = np.append(values, 0.0)[first:]
        at = np.flatnonzero(np.diff(values, prepend=-1.0))
        return uuid, self._steps.edges[first:][at], values[at]


class _PollingTimes:
    """The halt-polling time in force, by vCPU, as its changes go by; at the beginning what the first one changed."""

    def __init__(self, tracks: Tracks, steps: Steps) -> None:
        self._tracks = tracks
        self._steps = steps
        #: By vCPU: the value at the beginning; None: written.
        self._first: dict[int, int | None] = {}

    def of(self, rows: pl.DataFrame | None) -> list[Samples]:
        """Values of a window."""
        if rows is None or not len(rows):
            return []
        rows = rows.filter(pl.col("new").is_not_null() & pl.col("old").is_not_null())
        keys, which = distinct(keys_of(rows))
        ts, old, new = (column(rows, name) for name in ("ts_ns", "old", "new"))
        samples = []
        for at, key in enumerate(keys):
            own = np.flatnonzero(which == at)
            self._first.setdefault(key, int(old[own[0]]))
            earlier = own[ts[own] < self._steps.first]
            if len(earlier) and self._first[key] is not None:
                self._first[key] = int(new[earlier[-1]])
            inside = own[self._steps.inside(ts[own])]
            if len(inside):
                samples += self._begin(key)
                samples.append((self._track(key), ts[inside], new[inside].astype(np.float64)))
        return samples

    def unchanged(self) -> list[Samples]:
        """Values of vCPUs of which no change lies within the time wanted."""
        return [samples for key in sorted(self._first) if len(self._steps) for samples in self._begin(key)]

    def _begin(self, key: int) -> list[Samples]:
        value, self._first[key] = self._first[key], None
        at = np.array([self._steps.first], np.int64)
        return [] if value is None else [(self._track(key), at, np.array([value], np.float64))]

    def _track(self, key: int) -> int:
        return self._tracks.get("halt_poll_ns", key, unit_name="ns")


def _span(width: int, *, ticks: bool) -> str:
    """The width of steps for people."""
    if ticks:
        return f"{width:,} ticks"
    return f"{width // 1_000_000_000:,} s" if width >= 1_000_000_000 else f"{width // 1_000_000} ms"


def _between(there: Bool) -> Bool:
    """From the first true to the last."""
    return np.logical_or.accumulate(there) & np.logical_or.accumulate(there[::-1])[::-1]


def _packets(samples: Sequence[Samples]) -> pa.Buffer:
    """Framed values of many counters."""
    if not samples:
        return pa.py_buffer(b"")
    uuids = np.repeat([uuid for uuid, _, _ in samples], [len(ts) for _, ts, _ in samples]).astype(np.uint64)
    ts, values = (np.concatenate(columns) for columns in list(zip(*samples, strict=True))[1:])
    return in_order([counts(ts, uuids, values)], [np.arange(len(ts), dtype=np.int64)])
