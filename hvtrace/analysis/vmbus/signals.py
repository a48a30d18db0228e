"""Signals of channels, both ways.

To the host by SIGNAL_EVENT: KVM traces the connection id, which belongs to a channel by the host's choice; QEMU's is
16 + relid. What the signal led to in QEMU shows only where the device traces it. To the guest by an interrupt that
another thread than the vCPU's raises: KVM does not trace for which channel, QEMU does. What belongs together is found
by the order in time: a correlation, no proof.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from hvtrace.abi.vmbus import QEMU_FIRST_CHANNEL_CONNECTION, SIGNAL_EVENT
from hvtrace.analysis.vmbus.calls import SUCCESS
from hvtrace.analysis.vmbus.interrupts import MESSAGE, SIGNAL
from hvtrace.analysis.vmbus.tables import Tables

__all__ = ["connection_of", "handled", "interrupted", "notified", "posted", "signals", "told"]

NOTIFY = "vmbus_channel_notify_guest"

#: What the balloon says when it reads what the guest has sent.
INCOMING = tuple(
    f"hv_balloon_incoming_{what}" for what in ("version", "caps", "unballoon", "hot_add", "balloon")
)


def connection_of(channel: int) -> int:
    """The connection id that QEMU gives to a channel's events."""
    return QEMU_FIRST_CHANNEL_CONNECTION + channel


def signals(rows: pl.DataFrame) -> pl.DataFrame:
    """Those of the calls that signal."""
    return rows.filter(pl.col("code") == SIGNAL_EVENT)


def told(tables: Tables) -> pl.DataFrame:
    """Signals to the guest as QEMU traces them: vm, channel, seq, ts_ns, tid."""
    return tables.of_qemu(NOTIFY, channel=(pl.col("chan_id"), pl.Int64())).drop("vcpu")


def notified(tables: Tables, raised: pl.DataFrame) -> pl.DataFrame:
    """Signals to the guest: from QEMU's event to the interrupt: vm, channel, seq, ts_ns, end_seq, end_ns, end_eoi_ns.

    An interrupt belongs to the last signal before it; stamps may be off by the residual error. A signal raises none
    where the guest has not yet seen the one before.
    """
    late = tables.residual_ns
    rows = told(tables).sort("ts_ns").with_columns(at="ts_ns")
    by = raised.filter(pl.col("kind") == SIGNAL).select(
        "vm", at=pl.col("ts_ns") + late, end_seq="seq", end_ns="ts_ns"
    )
    found = by.sort("at").join_asof(rows, on="at", by="vm", strategy="backward", check_sortedness=False)
    found = found.filter(pl.col("seq").is_not_null()).unique("seq", keep="first").sort("end_seq")
    return rows.drop("at").join(found.select("seq", "end_seq", "end_ns"), on="seq", how="left").sort("seq")


def posted(tables: Tables, given: pl.DataFrame, raised: pl.DataFrame) -> pl.DataFrame:
    """Messages to the guest: from the last post to the interrupt of the vCPU's own thread: vm, seq, ts_ns, end_*.

    It lies before the callback that says the message was delivered.
    """
    late = tables.residual_ns
    rows = given.filter(pl.col("delivered_ns").is_not_null()).select("vm", "seq", "ts_ns", "delivered_ns")
    by = raised.filter(pl.col("kind") == MESSAGE).select(
        "vm", at=pl.col("ts_ns") - late, end_seq="seq", end_ns="ts_ns"
    )
    # The last one before the callback: of a message whose slot was busy, no interrupt tells of earlier tries.
    rows = (
        rows.with_columns(at="delivered_ns")
        .sort("at")
        .join_asof(by.sort("at"), on="at", by="vm", strategy="backward", check_sortedness=False)
    )
    inside = pl.col("end_ns") >= pl.col("ts_ns") - late
    return rows.with_columns(
        pl.when(inside).then(pl.col(name)).alias(name) for name in ("end_seq", "end_ns")
    ).drop("at", "delivered_ns")


def handled(tables: Tables, sent: pl.DataFrame, channels: list[dict[str, Any]]) -> pl.DataFrame:
    """Signals to the host: until the balloon reads what was sent: vm, seq, ts_ns, end_seq, end_ns.

    Only of channels that are known to be the balloon's. What it reads belongs to the last signal before.
    """
    own = [
        {"vm": -1 if row["vm"] is None else row["vm"], "connection": connection_of(row["channel"])}
        for row in channels
        if row["identity"] is not None
    ]
    keys = pl.DataFrame(own, schema={"vm": pl.Int64, "connection": pl.Int64})
    rows = sent.filter(pl.col("status") == SUCCESS).join(keys, on=["vm", "connection"], how="semi")
    rows = rows.select("vm", "seq", "ts_ns", at="ts_ns").sort("at")
    reads = pl.concat([tables.of_qemu(table) for table in INCOMING])
    reads = reads.select("vm", at=pl.col("ts_ns") + tables.residual_ns, end_seq="seq", end_ns="ts_ns")
    found = reads.sort("at").join_asof(rows, on="at", by="vm", strategy="backward", check_sortedness=False)
    found = found.filter(pl.col("seq").is_not_null()).sort("end_seq").unique("seq", keep="first")
    return rows.drop("at").join(found.select("seq", "end_seq", "end_ns"), on="seq", how="left").sort("seq")


def interrupted(sent: pl.DataFrame, raised: pl.DataFrame) -> pl.DataFrame:
    """Signals to the host: until the next signal to the guest, if it comes before the VM's next SIGNAL_EVENT."""
    rows = sent.filter(pl.col("status") == SUCCESS).select("vm", "seq", "ts_ns").sort("seq")
    by = raised.filter(pl.col("kind") == SIGNAL).select("vm", end_seq="seq", end_ns="ts_ns")
    rows = rows.with_columns(again=pl.col("seq").shift(-1).over("vm").fill_null(1 << 62)).join_asof(
        by.sort("end_seq"),
        left_on="seq",
        right_on="end_seq",
        by="vm",
        strategy="forward",
        check_sortedness=False,
    )
    own = pl.col("end_seq") < pl.col("again")
    return rows.with_columns(
        pl.when(own).then(pl.col(name)).alias(name) for name in ("end_seq", "end_ns")
    ).drop("again")
