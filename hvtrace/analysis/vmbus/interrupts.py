"""Interrupts of synthetic interrupt sources (SINTs): which are messages, which signals, and when the guest is done.

QEMU has a message written by the thread of the vCPU that gets it, and signals from another thread. Where another
program serves the guest, only "of the vCPU's own thread" and "of another thread" is certain.
"""

from __future__ import annotations

import polars as pl

from hvtrace.analysis.latency.interrupts import injected_after
from hvtrace.analysis.vmbus.tables import Tables

__all__ = ["KINDS", "MESSAGE", "SIGNAL", "TIMER", "UNDELIVERED", "interrupts"]

SET_IRQ, EXPIRATION, ENTRY = "kvm_hv_synic_set_irq", "kvm_hv_stimer_expiration", "kvm_entry"

#: By the vCPU's own thread; by another one; a synthetic timer's message; the APIC did not take it.
KINDS = MESSAGE, SIGNAL, TIMER, UNDELIVERED = "message", "signal", "timer", "undelivered"

_NO_END = 1 << 62


def interrupts(tables: Tables) -> pl.DataFrame:
    """The interrupts, in order: vm, owner, tid, seq, ts_ns, sint, vector, kind (KINDS), eoi_seq, eoi_ns (or null)."""
    rows = tables.of_kvm(
        SET_IRQ,
        pl.col("vcpu").is_not_null(),
        sint=pl.col("sint").cast(pl.Int64),
        vector=pl.col("vector").cast(pl.Int64),
        ret=pl.col("ret").cast(pl.Int64),
    )
    threads = tables.events.threads.select("tid", "owner", own=pl.lit(value=True)).unique()
    rows = rows.join(threads, on=["tid", "owner"], how="left", maintain_order="left")
    own = pl.col("own").fill_null(value=False)
    kind = (
        pl.when(pl.col("ret") <= 0)
        .then(pl.lit(UNDELIVERED))
        .when(~own)
        .then(pl.lit(SIGNAL))
        .when(_by_timer(tables, rows))
        .then(pl.lit(TIMER))
        .otherwise(pl.lit(MESSAGE))
    )
    rows = rows.with_columns(kind=kind.cast(pl.Enum(KINDS))).drop("own", "ret")
    if rows.is_empty():
        none = pl.lit(None, pl.Int64)
        return rows.with_columns(eoi_seq=none, eoi_ns=none)
    known = pl.col("vector").is_between(0, 255)
    ended = injected_after(tables.events, rows.filter(known))
    # One interrupt may serve several deliveries; the vector may be nobody's.
    return rows.join(
        ended.select("seq", "eoi_seq", "eoi_ns"), on="seq", how="left", maintain_order="left"
    ).sort("seq")


def _by_timer(tables: Tables, rows: pl.DataFrame) -> pl.Series:
    """Whether a timer's message went out: its expiration follows on the thread, before the guest runs again."""
    expired = tables.of_kvm(
        EXPIRATION, pl.col("direct").cast(pl.Int64) == 0, pl.col("msg_send_result") == 0
    ).select("tid", "seq", expired="seq")
    if expired.is_empty() or rows.is_empty():
        return pl.repeat(value=False, n=len(rows), eager=True)
    found = rows.select("tid", "seq").join_asof(
        expired.sort("seq"), on="seq", by="tid", strategy="forward", check_sortedness=False
    )
    entries = tables.events.followers(ENTRY)
    entered = entries.at(entries.after(rows), {"entered": "seq"})["entered"]
    again = rows.select(pl.col("seq").shift(-1).over("tid").fill_null(_NO_END))["seq"]
    before = (found["expired"] < entered.fill_null(_NO_END)) & (found["expired"] < again)
    return before.fill_null(value=False)
