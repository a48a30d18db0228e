"""Divergences as instants on the vCPU where they happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackEvent

from hvtrace.export.interning import Interned
from hvtrace.export.packets import SEQUENCE, framed
from hvtrace.export.states import NO_VM
from hvtrace.export.streams import Which
from hvtrace.export.tracks import Tracks
from hvtrace.store import Store

__all__ = ["divergence_packets"]

_NEEDED = 2

#: Columns shown as arguments, in this order.
SHOWN = ("expected", "observed", "message", "severity", "rule", "name", "tracepoint", "seq")

#: Rows turned into packets at a time.
_BATCH = 4096


def divergence_packets(store: Store, which: Which, tracks: Tracks, names: Interned) -> Iterator[bytes]:
    """Yield framed instants; before each piece the caller writes the tracks and names that are new."""
    if not store.has("divergences"):
        return
    for batch in store.parquet("divergences").iter_batches(batch_size=_BATCH):
        rows = pl.DataFrame(pl.from_arrow(batch)).to_dicts()
        yield b"".join(_instant(row, tracks, names) for row in rows if _wanted(row, which))


def _wanted(row: dict[str, Any], which: Which) -> bool:
    ts = row["ts_ns"]
    return (
        ts is not None
        and which.vm in (None, row["vm"])
        and which.vcpu in (None, row["vcpu"])
        and (which.first_ns is None or ts >= which.first_ns)
        and (which.last_ns is None or ts <= which.last_ns)
    )


def _instant(row: dict[str, Any], tracks: Tracks, names: Interned) -> bytes:
    key = None
    if row["vcpu"] is not None:
        key = (NO_VM if row["vm"] is None else row["vm"]) << 16 | row["vcpu"]
    packet = TracePacket(trusted_packet_sequence_id=SEQUENCE, sequence_flags=_NEEDED, timestamp=row["ts_ns"])
    event = packet.track_event
    event.type = TrackEvent.Type.TYPE_INSTANT
    event.track_uuid = tracks.get("unassigned") if key is None else tracks.get("divergences", key)
    event.category_iids.append(names.category("divergence"))
    event.name_iid = names.event(f"{row['rule']} {row['name']}")
    for column in SHOWN:
        value = row.get(column)
        if value is None:
            continue
        argument = event.debug_annotations.add()
        argument.name_iid = names.argument(column)
        if isinstance(value, int):
            argument.uint_value = value
        else:
            argument.string_value = str(value)
    return framed(packet.SerializeToString())
