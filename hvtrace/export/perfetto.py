"""A store as a Perfetto trace: written as a stream, window by window, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from hvtrace.export.divergences import divergence_packets
from hvtrace.export.draw_details import DetailLayer
from hvtrace.export.draw_halts import HaltLayer
from hvtrace.export.draw_states import StateLayer
from hvtrace.export.interning import Interned, sequence_start
from hvtrace.export.packets import begins, counts, ends
from hvtrace.export.rates import Rates
from hvtrace.export.states import Losses
from hvtrace.export.streams import WINDOW, Which, windows
from hvtrace.export.timeline import Timeline
from hvtrace.export.tracks import Tracks, metadata_packet
from hvtrace.export.window import Slices, keys_of
from hvtrace.export.wire import in_order
from hvtrace.store import Store

__all__ = ["write_trace"]

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
    return _Writer(store, out, which or Which(), window).run(progress)


class _Writer:
    def __init__(self, store: Store, out: BinaryIO, which: Which, window: int) -> None:
        self._store = store
        self._out = out
        self._which = which
        self._window = window
        manifest = store.manifest
        self._names = Interned()
        self._tracks = Tracks(manifest)
        self._lost = store.scan("lost").collect().to_dicts() if store.has("lost") else []
        self._states = StateLayer(self._names)
        layers = (self._states, DetailLayer(self._names), HaltLayer(self._names, store))
        self._timeline = Timeline(layers, Losses(self._lost))
        first, last = manifest.time.get("first_ns") or 0, manifest.time.get("last_ns") or 0
        self._rates = Rates(
            max(first, which.first_ns) if which.first_ns is not None else first,
            min(last, which.last_ns) if which.last_ns is not None else last,
        )
        self._slices = 0

    def run(self, progress: Progress | None) -> int:
        """Write everything."""
        total = self._store.manifest.total
        size = sum(self._store.file(table).stat().st_size for table in self._store.tracepoints)
        self._out.write(sequence_start())
        self._out.write(metadata_packet(self._store.manifest))
        self._declare()
        self._write_lost()
        for done, frames in windows(self._store, self._timeline.tables, self._which, self._window):
            if (exits := frames.get("kvm_exit")) is not None and len(exits):
                self._rates.add(keys_of(exits), self._states.exit_names(exits), exits["ts_ns"].to_numpy())
            final = done >= total
            self._write_slices(self._timeline.add(frames, final, self._open_until() if final else {}))
            if progress is not None:
                # In bytes of the store, as progress is shown everywhere.
                progress(done * size // total, size, "exporting")
        self._write_divergences()
        self._write_rates()
        return self._slices

    def _vcpus(self) -> Iterator[tuple[int, bool]]:
        """Yield the key of each vCPU wanted, and whether its VM is there to the recording's end."""
        for vm in self._store.manifest.vms:
            for vcpu in vm["vcpus"]:
                if self._which.vm in (None, vm["vm"]) and self._which.vcpu in (None, vcpu["vcpu"]):
                    yield (vm["vm"] << 16 | vcpu["vcpu"]), vm.get("last_seq") is None

    def _declare(self) -> None:
        for key, _ in self._vcpus():
            self._tracks.vcpu(key)
        self._out.write(self._tracks.packets())

    def _open_until(self) -> dict[int, int]:
        last = self._store.manifest.time.get("last_ns")
        return {key: last for key, lives in self._vcpus() if lives} if last is not None else {}

    def _write_slices(self, all_slices: list[Slices]) -> None:
        groups, keys = [], []
        for s in all_slices:
            slices = s.within(self._which.first_ns, self._which.last_ns)
            if not len(slices.start):
                continue
            distinct, inverse = np.unique(slices.vcpu, return_inverse=True)
            uuids = np.array([self._tracks.vcpu(key) for key in distinct.tolist()], np.uint64)[inverse]
            category = self._names.category(slices.category)
            groups += [
                begins(slices.start, uuids, slices.name, category, slices.arguments),
                ends(slices.end, uuids),
            ]
            keys += [slices.key_begin, slices.key_end]
            self._slices += len(slices.start)
        self._out.write(self._tracks.packets())
        self._out.write(self._names.packet())
        if groups:
            self._out.write(in_order(groups, keys))

    def _write_lost(self) -> None:
        first, last = self._store.manifest.time.get("first_ns"), self._store.manifest.time.get("last_ns")
        rows = [
            (
                self._tracks.lost(row["cpu"]),
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
        self._out.write(self._tracks.packets())
        self._out.write(self._names.packet())
        at = np.arange(len(rows), dtype=np.int64) * 2
        self._out.write(in_order(groups, [at, at + 1]))

    def _write_divergences(self) -> None:
        for packets in divergence_packets(self._store, self._which, self._tracks, self._names):
            self._out.write(self._tracks.packets())
            self._out.write(self._names.packet())
            self._out.write(packets)

    def _write_rates(self) -> None:
        ticks = self._store.manifest.clock.get("unit") == "ticks"
        unit = "exits per 1e9 ticks" if ticks else "exits/s"
        about = f"Exits counted in steps of {self._rates.width / 1e6:g} ms."
        for key, reason, ts, values in self._rates.series():
            name = None if reason is None else self._names.event_name(reason)
            uuid = self._tracks.rate(key, name, unit, about)
            self._out.write(self._tracks.packets())
            packets = counts(ts, np.full(len(ts), uuid, np.uint64), values)
            self._out.write(in_order([packets], [np.arange(len(ts), dtype=np.int64)]))
