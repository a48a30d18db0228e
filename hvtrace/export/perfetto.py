"""A store as a Perfetto trace: written as a stream, window by window, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from hvtrace.export.clocks import host_clocks, reference_times, trace_clock
from hvtrace.export.counters import Counters
from hvtrace.export.divergences import divergence_packets, link_histories
from hvtrace.export.draw_details import DetailLayer
from hvtrace.export.draw_halts import HaltLayer
from hvtrace.export.draw_interrupts import InterruptLayer
from hvtrace.export.draw_sched import SchedLayer
from hvtrace.export.draw_states import StateLayer
from hvtrace.export.draw_synic import SynicLayer
from hvtrace.export.draw_timers import TimerLayer
from hvtrace.export.draw_vmbus import VmbusStateLayer
from hvtrace.export.draw_vmbus_messages import VmbusMessageLayer
from hvtrace.export.draw_vmbus_signals import VmbusSignalLayer
from hvtrace.export.interning import Interned, sequence_start
from hvtrace.export.link_senders import SenderLayer
from hvtrace.export.links import Links
from hvtrace.export.metadata import metadata_packets, source_slices
from hvtrace.export.overlap import Behind
from hvtrace.export.packets import begins, ends, instants
from hvtrace.export.states import Losses
from hvtrace.export.streams import WINDOW, Which, windows
from hvtrace.export.timeline import Timeline
from hvtrace.export.tracks import Tracks
from hvtrace.export.vmbus_facts import VmbusFacts
from hvtrace.export.window import EventLayer, Slices, UnitLayer
from hvtrace.export.wire import in_order
from hvtrace.parsers.ahead import ahead
from hvtrace.store import Store

__all__ = ["CATEGORIES", "write_trace"]

#: Category of slices → the kind of track (`hvtrace export --tracks`) they are on.
CATEGORIES = {
    "guest": "states",
    "exit": "states",
    "userspace": "states",
    "detail": "states",
    "halt": "states",
    "sched": "sched",
    "stimer": "timers",
    "synic": "synic",
    "message": "synic",
    "interrupt": "interrupts",
    "vmbus": "vmbus",
}

Progress = Callable[[int, int, str], None]


def write_trace(
    store: Store,
    out: BinaryIO,
    which: Which | None = None,
    *,
    progress: Progress | None = None,
    window: int = WINDOW,
) -> int:
    """Write the part `which` (default: all) of a store to `out` as a Perfetto trace; return the number of slices.

    Slices that touch the span wanted are written whole. Raises InputError where a table cannot be read.
    """
    with Behind(out) as behind:
        return _Writer(store, behind, which or Which(), window).run(progress)


class _Writer:
    def __init__(self, store: Store, out: Behind, which: Which, window: int) -> None:
        self._store = store
        self._out = out
        self._which = which
        self._window = window
        manifest = store.manifest
        self._names = Interned()
        self._tracks = Tracks(manifest)
        self._lost = store.scan("lost").collect().to_dicts() if store.has("lost") else []
        # Key of each vCPU wanted, and whether its VM is there to the recording's end.
        self._vcpus = {
            vm["vm"] << 16 | vcpu["vcpu"]: vm.get("last_seq") is None
            for vm in manifest.vms
            for vcpu in vm["vcpus"]
            if which.vm in (None, vm["vm"]) and which.vcpu in (None, vcpu["vcpu"])
        }
        self._links = Links()
        link_histories(store, which, self._links)
        self._timeline = self._layers(Losses(self._lost))
        first, last = manifest.time.get("first_ns") or 0, manifest.time.get("last_ns") or 0
        self._span = (
            max(first, which.first_ns) if which.first_ns is not None else first,
            min(last, which.last_ns) if which.last_ns is not None else last,
        )
        self._counters = Counters(
            store, which, self._span, self._names, self._tracks, self._states.exit_names
        )
        self._slices = 0

    def _layers(self, losses: Losses) -> Timeline:
        names, tracks, manifest = self._names, self._tracks, self._store.manifest
        by_vm: dict[int, list[int]] = {}
        for key in self._vcpus:
            by_vm.setdefault(key >> 16, []).append(key)
        ticks = manifest.clock.get("unit") == "ticks"
        interrupts = InterruptLayer(names, tracks, losses)
        synic = SynicLayer(names, tracks, losses, interrupts)
        timers = TimerLayer(names, tracks, losses, interrupts, synic, ticks=ticks)
        events: list[EventLayer] = []
        # In this order: a timer raises an interrupt by a delivery.
        vmbus = self._vmbus(synic)
        if vmbus or self._which.wants("timers", "synic", "interrupts"):
            events += [interrupts, synic, timers, SenderLayer(interrupts, by_vm)]
        events += vmbus
        if self._which.wants("sched") and any(map(self._store.has, SchedLayer.tables)):
            events.append(SchedLayer(names, tracks, losses, manifest.vms, frozenset(self._vcpus)))
        self._states = StateLayer(names, tracks)
        # Details first: a flow goes through an exit's detail where it has one.
        units: list[UnitLayer] = [DetailLayer(names, tracks), self._states]
        # KVM measures halts in ns; a clock that counts ticks cannot show them.
        if not ticks:
            units.append(HaltLayer(names, tracks, self._store))
        return Timeline(events, units, losses, self._links)

    def _vmbus(self, synic: SynicLayer) -> list[EventLayer]:
        """Layers of VMBus, which is the VM's; none where QEMU's events are not in the store."""
        if not self._which.wants("vmbus") or self._which.vcpu is not None:
            return []
        facts = VmbusFacts.of(self._store)
        if facts is None:
            return []
        shared = (self._names, self._tracks, facts)
        signals = VmbusSignalLayer(*shared, synic, self._store.manifest.vms)
        return [VmbusStateLayer(*shared), VmbusMessageLayer(*shared), signals]

    def run(self, progress: Progress | None) -> int:
        """Write everything."""
        total = self._store.manifest.total
        size = sum(self._store.file(table).stat().st_size for table in self._store.tracepoints)
        tables = {**self._counters.tables, **self._timeline.tables}
        # Begins to read.
        windows_ahead = ahead(windows(self._store, tables, self._which, self._window, self._timeline.by))
        self._write_facts()
        self._tracks.describe_processes()
        for key in self._vcpus:
            self._tracks.vcpu(key)
        self._write_source()
        self._write_lost()
        for rows in windows_ahead:
            slices = self._timeline.add(rows, self._open_until() if rows.final else {})
            if not rows.before:
                self._write_slices(slices)
            if self._which.wants("counters"):
                self._write(self._counters.add(rows.tables, slices))
            if progress is not None:
                # In bytes of the store, as progress is shown everywhere.
                progress(rows.end * size // total, size, "exporting")
        self._write_divergences()
        if self._which.wants("counters"):
            for packets in self._counters.rest():
                self._write(packets)
        return self._slices

    def _open_until(self) -> dict[int, int]:
        last = self._store.manifest.time.get("last_ns")
        return {key: last for key, lives in self._vcpus.items() if lives} if last is not None else {}

    def _write_slices(self, all_slices: list[Slices]) -> None:
        parts = [s.within(self._which.first_ns, self._which.last_ns) for s in all_slices]
        parts = [s for s in parts if len(s.start) and self._which.wants(CATEGORIES[s.category])]
        categories = [self._names.category(slices.category) for slices in parts]
        self._slices += sum(len(slices.start) for slices in parts if not slices.instant)
        self._write_new()
        if parts:
            self._out.make(lambda: _packets(parts, categories))

    def _write_new(self) -> None:
        """Write tracks and names that what follows refers to."""
        self._out.write(self._tracks.packets())
        self._out.write(self._names.packet())

    def _write_facts(self) -> None:
        manifest = self._store.manifest
        self._out.write(sequence_start(trace_clock(manifest)))
        self._out.write(metadata_packets(self._store, self._which))
        self._out.write(host_clocks(manifest))
        for packets in reference_times(self._store, self._which):
            self._out.write(packets)

    def _write_source(self) -> None:
        manifest, (first, last) = self._store.manifest, self._span
        if manifest.time.get("first_ns") is None or last < first:
            return
        slices = source_slices(manifest, self._tracks.get("source"), self._names, first, last)
        self._write_new()
        packets, keys = zip(*slices, strict=True)
        self._out.write(in_order(packets, [np.array([key]) for key in keys]))

    def _write_lost(self) -> None:
        first, last = self._store.manifest.time.get("first_ns"), self._store.manifest.time.get("last_ns")
        rows = [
            (
                self._tracks.get("lost", index=-1 if row["cpu"] is None else row["cpu"]),
                first if row["from_ns"] is None else row["from_ns"],
                last if row["to_ns"] is None else row["to_ns"],
                "lost" if row["count"] is None else f"{row['count']:,} lost",
            )
            for row in self._lost
        ]
        if not rows or first is None:
            return
        tracks, start, end, names = zip(*rows, strict=True)
        uuids = np.array(tracks, np.uint64)
        iids = np.array([self._names.event(name) for name in names], np.uint64)
        groups = [
            begins(np.array(start, np.int64), uuids, iids, self._names.category("lost")),
            ends(np.array(end, np.int64), uuids),
        ]
        self._write_new()
        at = np.arange(len(rows), dtype=np.int64) * 2
        self._out.write(in_order(groups, [at, at + 1]))

    def _write_divergences(self) -> None:
        if not self._which.wants("divergences"):
            return
        for packets in divergence_packets(self._store, self._which, self._tracks, self._names):
            self._write_new()
            self._out.write(packets)

    def _write(self, packets: pa.Buffer) -> None:
        self._write_new()
        self._out.write(packets)


def _packets(parts: list[Slices], categories: list[int]) -> pa.Buffer:
    groups, keys = [], []
    for slices, category in zip(parts, categories, strict=True):
        make = instants if slices.instant else begins
        shown = (slices.track, slices.name, category, slices.arguments, slices.flows)
        groups.append(make(slices.start, *shown))
        keys.append(slices.key_begin)
        if not slices.instant:
            groups.append(ends(slices.end, slices.track))
            keys.append(slices.key_end)
    return in_order(groups, keys)
