"""Divergences as instants: on the vCPU where they happened, with arrows from what led there, and again on its VM.

The UI gives slices their colours: of what it offers, a correlation id is taken, so that colours tell errors, warnings
and what a baseline accepts apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import polars as pl
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackEvent

from hvtrace.export.interning import Interned
from hvtrace.export.links import MOST_STEPS, STEP, FlowKind, Links, flow_ids
from hvtrace.export.packets import SEQUENCE, framed
from hvtrace.export.states import NO_VM
from hvtrace.export.streams import Which
from hvtrace.export.tracks import Tracks
from hvtrace.replay.tape import FIELDS, TAPE, text_of
from hvtrace.store import Store, is_store

__all__ = ["divergence_packets", "in_part", "link_histories", "without_verdicts"]

_NEEDED = 2

#: Columns shown as arguments, in this order.
SHOWN = (
    *("expected", "observed", "message", "severity", "rule", "name", "count", "known", "tracepoint", "seq"),
    "vcpu",
)

#: Correlation ids. The UI (v52) makes a colour of their letters, and these become red, yellow and blue.
CORRELATION = {"error": "verdict: error", "warning": "divergences (warning)", "known": "verdict: known"}

#: Category of an instant, and of the same divergence shown again on the VM's track.
CATEGORY, AGAIN = "divergence", "divergence of VM"

#: Rows turned into packets at a time.
_BATCH = 4096


def without_verdicts(store: Store, source: Path, which: Which) -> str | None:
    """Say how to get divergences where they are wanted and `store`, made of `source` or it, was never judged."""
    if store.has("divergences") or not which.wants("divergences"):
        return None
    name = quote(str(source))
    if is_store(source):
        return f"no divergences are drawn: `hvtrace replay {name} --check` adds them to the store"
    return (
        f"no divergences are drawn: they need a store (`hvtrace ingest {name}`) and `hvtrace replay --check`"
    )


def link_histories(store: Store, which: Which, links: Links) -> None:
    """Mark the exits around the events that led to each divergence, its own included: arrows lead from there."""
    if not which.wants("divergences"):
        return
    for rows in _batches(store, which):
        events = (
            rows.filter(pl.col("vcpu").is_not_null())
            .explode("history")
            # A store of before that column was there.
            .filter(pl.col("history").is_not_null())
            .filter(pl.col("history") <= pl.col("seq"))
            # From the last one on, which is the event itself.
            .with_columns(step=pl.int_range(pl.len(), 0, -1).over("row"))
            .filter(pl.col("step") <= MOST_STEPS)
        )
        vm = events["vm"].fill_null(NO_VM).cast(pl.Int64).to_numpy()
        links.around(
            vm << 16 | events["vcpu"].cast(pl.Int64).to_numpy(),
            events["history"].cast(pl.Int64).to_numpy(),
            flow_ids(events["row"].to_numpy(), FlowKind.DIVERGENCE | events["step"].to_numpy() * STEP),
            # Arrows end at the instant.
            events["ts_ns"].to_numpy(),
        )


def divergence_packets(store: Store, which: Which, tracks: Tracks, names: Interned) -> Iterator[bytes]:
    """Yield framed instants; before each piece the caller writes the tracks and names that are new."""
    for rows in _batches(store, which):
        listed = rows.to_dicts()
        texts = _texts(store, {seq for row in listed for seq in row.get("history") or ()})
        yield b"".join(packet for row in listed for packet in _instants(row, texts, tracks, names))


def in_part(which: Which) -> pl.Expr:
    """Rows of the table of divergences that are in the part wanted."""
    wanted = pl.col("ts_ns").is_not_null()
    for column, number in (("vm", which.vm), ("vcpu", which.vcpu)):
        if number is not None:
            wanted &= pl.col(column) == number
    if which.first_ns is not None:
        wanted &= pl.col("ts_ns") >= which.first_ns
    if which.last_ns is not None:
        wanted &= pl.col("ts_ns") <= which.last_ns
    return wanted


def _batches(store: Store, which: Which) -> Iterator[pl.DataFrame]:
    """The divergences wanted; `row` numbers those of the table."""
    if not store.has("divergences"):
        return
    yield from (
        store.scan("divergences").with_row_index("row").filter(in_part(which)).collect().iter_slices(_BATCH)
    )


def _texts(store: Store, seqs: set[int]) -> dict[int, str]:
    """Events by their rank, in words."""
    found: dict[int, str] = {}
    wanted = pl.col("seq").is_in(sorted(seqs))
    for table, fields in TAPE.items():
        if seqs and store.has(table):
            events = store.scan(table)
            there = events.collect_schema().names()
            columns = ["seq", *(field for field in fields if field in there)]
            for event in events.filter(wanted).select(columns).collect().to_dicts():
                own = (event.get(field) for field in fields)
                found[event["seq"]] = text_of((event["seq"], *[table] * (FIELDS - 1), *own))
    return found


def _instants(row: dict[str, Any], texts: dict[int, str], tracks: Tracks, names: Interned) -> Iterator[bytes]:
    vm = NO_VM if row["vm"] is None else row["vm"]
    led = sum(seq <= row["seq"] for seq in row.get("history") or ()) if row["vcpu"] is not None else 0
    onward, *ways = _flows(row["row"], min(led, MOST_STEPS))
    shown: list[tuple[int, str, list[int]]] = []
    if row["vcpu"] is not None:
        shown.append((tracks.get("divergences", vm << 16 | row["vcpu"]), CATEGORY, [*ways, onward]))
    if row["vm"] is not None or row["vcpu"] is not None:
        # After the one on the vCPU, from which an arrow leads here.
        again = (AGAIN, [onward]) if shown else (CATEGORY, [])
        shown.append((tracks.get("vm divergences", vm), *again))
    for track, category, flows in shown or [(tracks.get("unassigned"), CATEGORY, [])]:
        packet = TracePacket(
            trusted_packet_sequence_id=SEQUENCE, sequence_flags=_NEEDED, timestamp=row["ts_ns"]
        )
        event = packet.track_event
        event.type = TrackEvent.Type.TYPE_INSTANT
        event.track_uuid = track
        event.category_iids.append(names.category(category))
        kind = "known" if row["known"] else row["severity"]
        event.name_iid = names.event(f"{row['rule']} {row['name']}" + (f" ({kind})" if kind else ""))
        if kind in CORRELATION:
            event.correlation_id_str = CORRELATION[kind]
        event.flow_ids.extend(flows)
        _add_arguments(event, row, texts, names)
        yield framed(packet.SerializeToString())


def _flows(row: int, steps: int) -> list[int]:
    """Ids of the flow onward to the VM's track and of those from what led there."""
    kinds = FlowKind.DIVERGENCE + np.arange(steps + 1) * STEP
    return [int(flow) for flow in flow_ids(np.full(len(kinds), row), kinds)]


def _add_arguments(event: TrackEvent, row: dict[str, Any], texts: dict[int, str], names: Interned) -> None:
    for column in SHOWN:
        value = row.get(column)
        if value is None:
            continue
        argument = event.debug_annotations.add()
        argument.name_iid = names.argument(column)
        if isinstance(value, bool):
            argument.bool_value = value
        elif isinstance(value, int):
            argument.uint_value = value
        else:
            argument.string_value = str(value)
    if lines := [texts[seq] for seq in row.get("history") or () if seq in texts]:
        argument = event.debug_annotations.add()
        argument.name_iid = names.argument("history")
        for line in lines:
            argument.array_values.add().string_value = line
