"""Draws signals of channels, both ways, and what the balloon asks and reads.

A signal to the host is on a flow from the exit that makes it to what the balloon then reads; one to the guest is on the
flow of the interrupt that it raises. Both are found by the order in time, within the error of QEMU's stamps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from hvtrace.abi.vmbus import CONNECTION_MASK, QEMU_FIRST_CHANNEL_CONNECTION, SIGNAL_EVENT
from hvtrace.export.cut import Keys
from hvtrace.export.details import Shown
from hvtrace.export.draw_synic import SynicLayer
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.links import FlowKind, flow_ids, listed
from hvtrace.export.machines import key_of
from hvtrace.export.packets import Kind
from hvtrace.export.tracks import Tracks
from hvtrace.export.vmbus_facts import CHANNEL_BITS, VmbusFacts, vm_of
from hvtrace.export.window import Arguments, Slices, Window

__all__ = ["VmbusSignalLayer"]

CALL, NOTIFY, RAISED = "kvm_hv_hypercall", "vmbus_channel_notify_guest", "kvm_hv_synic_set_irq"

#: What the balloon reads, and what it asks → columns that are shown.
INCOMING: Mapping[str, Mapping[str, str]] = {
    "hv_balloon_incoming_version": {"major": "major", "minor": "minor"},
    "hv_balloon_incoming_caps": {},
    "hv_balloon_incoming_unballoon": {},
    "hv_balloon_incoming_hot_add": {"pages": "count", "result": "result"},
    "hv_balloon_incoming_balloon": {"ranges": "range_count"},
}
OUTGOING: Mapping[str, Mapping[str, str]] = {
    "hv_balloon_outgoing_unballoon": {"pages": "count"},
    "hv_balloon_outgoing_hot_add": {"pages": "count"},
    "hv_balloon_outgoing_balloon": {"pages": "count"},
}
PACKETS: Mapping[str, Mapping[str, str]] = {**INCOMING, **OUTGOING}
NUMBERS = ("pages", "result", "ranges", "major", "minor")

SHOWN = tuple(Shown(name, name, Kind.UINT) for name in NUMBERS)

_TO_HOST, _TO_GUEST = 0, 1
_NAMES = ("SIGNAL_EVENT", "notify")

_NO_END = 1 << 61

_FLOW = pl.List(pl.UInt64)

SIGNAL: Mapping[str, pl.DataType] = {
    "vm": pl.Int64(),
    "channel": pl.Int64(),
    "seq": pl.Int64(),
    "ts": pl.Int64(),
    "key": pl.Int64(),
}
IRQ: Mapping[str, pl.DataType] = {
    "vm": pl.Int64(),
    "seq": pl.Int64(),
    "ts": pl.Int64(),
    "accept_seq": pl.Int64(),
}
#: `what`: number of the tracepoint in PACKETS.
PACKET: Mapping[str, pl.DataType] = {
    "vm": pl.Int64(),
    "seq": pl.Int64(),
    "ts": pl.Int64(),
    "what": pl.Int64(),
    **dict.fromkeys(NUMBERS, pl.Int64()),
}


class VmbusSignalLayer:
    """Signals, by VM. `vms` are the manifest's: which threads are vCPUs."""

    def __init__(
        self,
        names: Interned,
        tracks: Tracks,
        facts: VmbusFacts,
        synic: SynicLayer,
        vms: Iterable[Mapping[str, Any]],
    ) -> None:
        self._tracks = tracks
        self._facts = facts
        self._synic = synic
        self._arguments = Arguments(names)
        self._signals = Labels(_NAMES.__getitem__, names.event)
        words = [table.removeprefix("hv_balloon_").replace("_", " ") for table in PACKETS]
        self._packets = Labels(words.__getitem__, names.event)
        self._threads = pl.DataFrame(
            [
                {"vm": vm["vm"], "vcpu": vcpu["vcpu"], "tid": tid, "own": True}
                for vm in vms
                for vcpu in vm["vcpus"]
                for tid in vcpu["tids"]
            ],
            schema={"vm": pl.Int64, "vcpu": pl.Int64, "tid": pl.Int64, "own": pl.Boolean},
        ).unique()
        #: Signals to the guest of which it is not yet known whether they raised an interrupt, and such interrupts.
        self._notified = pl.DataFrame(schema={**SIGNAL, "flows": _FLOW})
        self._raised = pl.DataFrame(schema=IRQ)
        #: The balloon's last signal to the host, by VM; and what it read since.
        self._last = pl.DataFrame(schema={**SIGNAL, "taken": pl.Boolean})
        self._read_later = pl.DataFrame(schema=PACKET)
        self.tables: dict[str, tuple[str, ...]] = {
            CALL: ("code", "fast", "ingpa"),
            NOTIFY: ("chan_id",),
            RAISED: ("tid", "ret"),
            **{table: tuple(columns.values()) for table, columns in PACKETS.items()},
        }
        self.by: dict[str, Keys] = {CALL: (("vm", "vcpu", "code"),), NOTIFY: (("vm", "chan_id"),)}

    def draw(self, window: Window) -> list[Slices]:
        """Return signals and packets of which it is known, with this window, what they led to."""
        reached = _NO_END if window.final else max(_last(rows) for rows in window.new.values())
        sent = self._sent(window.new)
        window.links.around(
            sent["key"].to_numpy(), sent["seq"].to_numpy(), flow_ids(sent["seq"].to_numpy(), FlowKind.VMBUS)
        )
        flow = pl.Series(flow_ids(sent["seq"].to_numpy(), FlowKind.VMBUS), dtype=pl.UInt64)
        to_host = sent.with_columns(flow=flow).with_columns(flows=pl.concat_list("flow").cast(_FLOW))
        to_guest = self._to_guest(window.new, reached)
        packets = self._balloon(window.new, sent, reached)
        return [
            self._instants(to_host, _TO_HOST),
            self._instants(to_guest, _TO_GUEST),
            self._drawn_packets(packets),
        ]

    def _sent(self, new: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Signals to the host on channels that there are: by the connection id that QEMU gives them."""
        rows = new.get(CALL)
        if rows is None:
            return pl.DataFrame(schema=SIGNAL)
        rows = rows.filter(pl.col("code") == SIGNAL_EVENT, "fast", pl.col("vcpu").is_not_null())
        connection = (pl.col("ingpa").cast(pl.UInt64) & CONNECTION_MASK).cast(pl.Int64)
        rows = rows.select(
            vm=vm_of(),
            channel=connection - QEMU_FIRST_CHANNEL_CONNECTION,
            seq=pl.col("seq").cast(pl.Int64),
            ts=pl.col("ts_ns"),
            key=key_of(),
        )
        return rows.join(self._facts.channels, on=["vm", "channel"], how="semi").sort("seq").select(*SIGNAL)

    def _to_guest(self, new: Mapping[str, pl.DataFrame], reached: int) -> pl.DataFrame:
        """Signals to the guest, with the flow of the interrupt that each raised."""
        late = self._facts.residual_ns
        fresh = _read(new, NOTIFY, SIGNAL, channel=pl.col("chan_id"))
        fresh = fresh.filter(pl.col("channel").is_between(0, (1 << CHANNEL_BITS) - 1))
        notified = pl.concat([self._notified, fresh.with_columns(flows=pl.lit(None, _FLOW))]).sort(
            "vm", "ts", "seq"
        )
        raised = pl.concat([self._raised, self._by_others(new)])
        ready = pl.col("ts") + late < reached
        self._raised = raised.filter(~ready)
        found = raised.filter(ready).select("vm", "accept_seq", irq="seq", at=pl.col("ts") + late)
        # An interrupt belongs to the last signal before it; only the first that a signal raises is its own.
        found = (
            found.sort("at")
            .join_asof(
                notified.select("vm", "seq", at="ts").sort("at"),
                on="at",
                by="vm",
                strategy="backward",
                check_sortedness=False,
            )
            .filter(pl.col("seq").is_not_null())
            .sort("irq")
            .unique("seq", keep="first", maintain_order=True)
            .filter(pl.col("accept_seq").is_not_null())
        )
        flow = pl.Series(flow_ids(found["accept_seq"].to_numpy(), FlowKind.INTERRUPT), dtype=pl.UInt64)
        own = found.with_columns(flow=flow).select("seq", found=pl.concat_list("flow").cast(_FLOW))
        notified = (
            notified.join(own, on="seq", how="left", maintain_order="left")
            .with_columns(flows=pl.coalesce("flows", "found"))
            .drop("found")
        )
        over = (pl.col("ts").shift(-1).over("vm").fill_null(_NO_END) < reached) | (reached == _NO_END)
        notified = notified.with_columns(over=over)
        self._notified = notified.filter(~pl.col("over")).drop("over")
        return notified.filter("over").drop("over")

    def _by_others(self, new: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """New interrupts of SINTs that another thread than the vCPU's raised."""
        rows = new.get(RAISED)
        if rows is None or not len(self._synic.delivered):
            return pl.DataFrame(schema=IRQ)
        rows = rows.filter(pl.col("vcpu").is_not_null(), pl.col("ret") > 0).select(
            vm=vm_of(),
            vcpu=pl.col("vcpu").cast(pl.Int64),
            tid=pl.col("tid").cast(pl.Int64),
            seq=pl.col("seq").cast(pl.Int64),
            ts="ts_ns",
        )
        rows = rows.join(self._threads, on=["vm", "vcpu", "tid"], how="anti")
        return rows.join(self._synic.delivered.select("seq", "accept_seq"), on="seq").select(*IRQ)

    def _balloon(self, new: Mapping[str, pl.DataFrame], sent: pl.DataFrame, reached: int) -> pl.DataFrame:
        """What the balloon asked and read, the latter with the flow of the signal before it."""
        late = self._facts.residual_ns
        fresh = [
            _read(new, table, PACKET, what=pl.lit(n), **{k: pl.col(v) for k, v in columns.items()})
            for n, (table, columns) in enumerate(PACKETS.items())
        ]
        packets = pl.concat([self._read_later, *fresh]).sort("seq")
        ready = (pl.col("what") >= len(INCOMING)) | (pl.col("ts") + late < reached)
        self._read_later = packets.filter(~ready)
        packets = packets.filter(ready)
        own = sent.join(self._facts.balloons, on=["vm", "channel"], how="semi")
        signals = pl.concat([self._last, own.with_columns(taken=pl.lit(value=False))]).sort("seq")
        found = (
            packets.filter(pl.col("what") < len(INCOMING))
            .select("vm", packet="seq", at=pl.col("ts") + late)
            .sort("at")
            .join_asof(
                signals.select("vm", "taken", signal="seq", at="ts").sort("at"),
                on="at",
                by="vm",
                strategy="backward",
                check_sortedness=False,
            )
            .filter(pl.col("signal").is_not_null(), ~pl.col("taken"))
            .sort("packet")
            .unique("signal", keep="first", maintain_order=True)
        )
        taken = pl.col("seq").is_in(found["signal"].implode()) | pl.col("taken")
        signals = signals.with_columns(taken=taken)
        # Those that a packet which waits may belong to, and the last one of each VM.
        oldest = self._read_later["ts"].min()
        least = oldest if isinstance(oldest, int) else _NO_END
        following = pl.col("ts").shift(-1).over("vm", order_by="seq").fill_null(_NO_END)
        self._last = (
            signals.filter(following > least)
            if least < _NO_END
            else signals.unique("vm", keep="last", maintain_order=True)
        )
        flow = pl.Series(flow_ids(found["signal"].to_numpy(), FlowKind.VMBUS), dtype=pl.UInt64)
        flows = found.with_columns(flow=flow).select(seq="packet", flows=pl.concat_list("flow").cast(_FLOW))
        return packets.join(flows, on="seq", how="left", maintain_order="left")

    def _instants(self, rows: pl.DataFrame, way: int) -> Slices:
        ts, key = rows["ts"].to_numpy(), rows["seq"].to_numpy() * 2
        tracks = rows["vm"].to_numpy() << CHANNEL_BITS | rows["channel"].to_numpy()
        return Slices(
            "vmbus",
            self._tracks.many("vmbus signals", tracks, CHANNEL_BITS),
            ts,
            ts,
            self._signals(np.full(len(rows), way)),
            key,
            key,
            [],
            listed(rows["flows"]),
            instant=True,
        )

    def _drawn_packets(self, rows: pl.DataFrame) -> Slices:
        ts, key = rows["ts"].to_numpy(), rows["seq"].to_numpy() * 2
        return Slices(
            "vmbus",
            self._tracks.many("vmbus packets", rows["vm"].to_numpy()),
            ts,
            ts,
            self._packets(rows["what"].to_numpy()),
            key,
            key,
            self._arguments.of(SHOWN, rows),
            listed(rows["flows"]),
            instant=True,
        )


def _last(rows: pl.DataFrame) -> int:
    return int(rows["ts_ns"][-1]) if len(rows) else -_NO_END


def _read(
    new: Mapping[str, pl.DataFrame], table: str, schema: Mapping[str, pl.DataType], **columns: pl.Expr
) -> pl.DataFrame:
    rows = new.get(table)
    if rows is None:
        return pl.DataFrame(schema=schema)
    given = {"vm": vm_of(), "seq": pl.col("seq"), "ts": pl.col("ts_ns"), **columns}
    return rows.select(
        given.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in schema.items()
    )
