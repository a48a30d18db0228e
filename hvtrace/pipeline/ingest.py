"""Recording → store: parse, attribute, write, in windows of bounded size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hvtrace.errors import HvtraceError, InputError
from hvtrace.parsers.ahead import ahead
from hvtrace.parsers.open import open_recording
from hvtrace.parsers.recording import IRQ, Lost, Recording, Threads, Window
from hvtrace.pipeline.alignment import Aligned, align, is_qemu
from hvtrace.pipeline.attribution import Attribution, Attributor
from hvtrace.pipeline.markers import Markers
from hvtrace.pipeline.merge import merge
from hvtrace.pipeline.metadata import find_metadata, host_facts, tsc_khz_of
from hvtrace.schema.common import RAW_STAMP, column_name
from hvtrace.schema.names import EXIT_REASON, decoded
from hvtrace.schema.registry import BY_NAME
from hvtrace.store import DECODED, Manifest, StoreWriter

__all__ = ["ingest"]

#: Called with bytes read and bytes there are, and with what is being done.
Progress = Callable[[int, int, str], None]

#: Damage and losses listed in the manifest; all are counted.
MAX_LISTED = 1000

Path_ = str | os.PathLike[str]


def ingest(
    paths: Sequence[Path_], target: Path_, *, force: bool = False, progress: Progress | None = None
) -> Manifest:
    """Read the recordings at `paths` (several: buffers of one run, QEMU's own trace) and write the store `target`.

    Returns its manifest. Raises InputError where a recording is unusable or holds no event at all, or where
    `target` exists and `force` is not given; then nothing is left behind.
    """
    metadata = find_metadata(paths[0])
    recordings: list[Recording] = []
    try:
        recordings = [open_recording(path, tsc_khz_of(metadata or find_metadata(path))) for path in paths]
        recordings = _aligned(recordings, progress)
        clocks = {r.clock for r in recordings}
        if len(clocks) > 1:
            names = ", ".join(f"{r.source.path}: {r.clock.name} ({r.clock.unit})" for r in recordings)
            raise HvtraceError(f"recordings with different clocks cannot be merged ({names})")
        attributor = Attributor(_threads(recordings))
        manifest = _write(recordings, attributor, Path(target), force, metadata, progress, "reading")
        if attributor.stale:
            # Something seen late (a thread that turned out to be a vCPU) bears on what was already written.
            again = attributor.again()
            manifest = _write(recordings, again, Path(target), True, metadata, progress, "reading again")
        return manifest
    finally:
        for recording in recordings:
            recording.close()


def _aligned(recordings: Sequence[Recording], progress: Progress | None) -> list[Recording]:
    """Recordings of the host, and those of QEMU on the host's clock."""
    host = [r for r in recordings if not is_qemu(r)]
    if not host or len(host) == len(recordings):
        return list(recordings)
    size = sum(r.source.size for r in host)
    report = None if progress is None else lambda done: progress(min(done, size), size, "aligning")
    return [Aligned(r, align(host, r, report), host[0].clock) if is_qemu(r) else r for r in recordings]


def _threads(recordings: Sequence[Recording]) -> Threads:
    if len(recordings) == 1:
        return recordings[0].threads
    joined = Threads()
    for r in recordings:
        joined.comms.update(r.threads.comms)
        joined.tgids.update(r.threads.tgids)
        joined.guests.update(r.threads.guests)
    return joined


def _write(
    recordings: Sequence[Recording],
    attributor: Attributor,
    target: Path,
    force: bool,
    metadata: dict[str, Any],
    progress: Progress | None,
    doing: str,
) -> Manifest:
    total = sum(r.source.size for r in recordings)
    manifest = Manifest(host=host_facts(metadata))
    lost: list[Lost] = []
    base = 0
    first: int | None = None
    last: int | None = None
    markers = None if any(isinstance(r, Aligned) for r in recordings) else Markers()
    with StoreWriter(target, force=force, prepare=_add_names) as writer:
        for window in ahead(_windows(recordings, progress, total, doing)):
            # QEMU's events are taken from its own trace where that is given.
            decoded = {} if markers is None else markers.decode(window.tables)
            who = attributor.attribute({**decoded, **window.tables}, base, window.events)
            for name, batch in decoded.items():
                manifest.decoded[name] = manifest.decoded.get(name, 0) + batch.num_rows
                writer.append(name, _finished(batch, base, who[name]), DECODED)
            for name, batch in window.tables.items():
                manifest.events[name] = manifest.events.get(name, 0) + batch.num_rows
                stamps = batch.column("ts_ns")
                first = min(x for x in (first, stamps[0].as_py()) if x is not None)
                last = max(x for x in (last, stamps[-1].as_py()) if x is not None)
                writer.append(name, _finished(batch, base, who[name]))
            base += window.events
            lost += window.lost
        if markers is not None and markers.not_understood:
            said = "markers that begin with the name of an event of QEMU's and go on otherwise"
            recordings[0].not_understood.add(said, markers.not_understood)
        if not base and (damage := _first_damage(recordings)) is not None:
            raise damage
        _describe(manifest, recordings, attributor, lost)
        manifest.total = base
        manifest.time = {
            "first_ns": first,
            "last_ns": last,
            "duration_ns": None if first is None or last is None else last - first,
        }
        if progress is not None:
            progress(total, total, "finishing")
        writer.finish(manifest)
    return manifest


def _first_damage(recordings: Sequence[Recording]) -> InputError | None:
    """Return why a recording gave no events at all; None where it is whole and simply empty."""
    for r in recordings:
        if r.damage:
            why = r.damage[0]
            return InputError(
                r.source.path, f"the recording holds no readable events: {why.message}", why.offset
            )
    return None


def _windows(
    recordings: Sequence[Recording], progress: Progress | None, total: int, doing: str
) -> Iterator[Window]:
    done = [0] * len(recordings)

    def report(number: int) -> Callable[[int], None]:
        def consumed(size: int) -> None:
            done[number] = min(size, recordings[number].source.size)
            if progress is not None:
                progress(sum(done), total, doing)

        return consumed

    streams = [r.windows(report(i)) for i, r in enumerate(recordings)]
    return streams[0] if len(streams) == 1 else merge(streams)


def _finished(batch: pa.RecordBatch, base: int, who: Attribution) -> pa.RecordBatch:
    """Columns in a store's order: the common ones, `ts_raw`, the tracepoint's own."""
    names = batch.schema.names
    own = [n for n in names if n not in ("seq", "ts_ns", "cpu", "tid", "comm", RAW_STAMP.name, IRQ)]
    columns = {n: batch.column(n) for n in names}
    if base:
        columns["seq"] = pc.add(columns["seq"], np.uint64(base))
    columns["vm"], columns["vcpu"] = who
    order = ["seq", "ts_ns", "cpu", "tid", "comm", "vm", "vcpu"]
    order += [RAW_STAMP.name] if RAW_STAMP.name in columns else []
    order += own
    return pa.RecordBatch.from_arrays([columns[n] for n in order], names=order)


def _add_names(name: str, table: pa.Table) -> pa.Table:
    """Add the decoded names a tracepoint declares, beside their numbers."""
    declared = BY_NAME.get(name)
    for named in declared.names if declared else ():
        where = table.schema.get_field_index(column_name(named.field))
        column = table.column(where)
        valid = column.is_valid().to_numpy() if column.null_count else None
        values = column.fill_null(0).to_numpy()
        isa = None
        if named.table == EXIT_REASON:
            isa = table.column("isa").fill_null(0).to_numpy()
        table = table.add_column(where + 1, named.column, decoded(named, values, isa, valid))
    return table


def _describe(
    manifest: Manifest, recordings: Sequence[Recording], attributor: Attributor, lost: list[Lost]
) -> None:
    clock = recordings[0].clock
    manifest.clock = {"name": clock.name, "unit": clock.unit, "raw": clock.raw}
    host_kernel = str(manifest.host.get("kernel", "")).split()
    manifest.kernel = next(
        (r.kernel for r in recordings if r.kernel), host_kernel[0] if host_kernel else None
    )
    manifest.events = dict(sorted(manifest.events.items(), key=lambda item: (-item[1], item[0])))
    manifest.tracepoints = sorted({name for r in recordings for name in getattr(r, "formats", ())})
    manifest.lost = [asdict(x) for x in lost]
    manifest.sources = [
        {
            "name": Path(r.source.path).name,
            "size": r.source.size,
            "format": r.source.format,
            "clock": asdict(r.clock),
            "facts": r.facts,
            "damaged": len(r.damage),
            "corrupt": sum(not d.cut for d in r.damage),
            "damage": [asdict(d) for d in r.damage[:MAX_LISTED]],
            "not_understood": asdict(r.not_understood),
            **({"aligned": r.as_dict()} if isinstance(r, Aligned) else {}),
        }
        for r in recordings
    ]
    manifest.vms = [
        {
            "vm": vm.number,
            "name": vm.name,
            "vcpus": [{"vcpu": v, "tids": sorted(set(tids))} for v, tids in sorted(vm.vcpus.items())],
            "first_seq": vm.since,
            "last_seq": None if vm.until is None else vm.until - 1,
            "tgid": vm.tgid,
            "certain": vm.certain,
        }
        for vm in attributor.machines.vms
    ]
