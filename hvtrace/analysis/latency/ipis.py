"""Interrupts between vCPUs: from the one that sends to each that gets one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from hvtrace.analysis.latency.events import Events
from hvtrace.analysis.latency.interrupts import injected_after, vector_label
from hvtrace.analysis.latency.measure import Measure

__all__ = ["IPIS"]

#: KVM_HC_SEND_IPI: a0, a1 targets, a2 the first APIC id, a3 the ICR.
_KVM_SEND_IPI = 10

#: Bits of the interrupt command register: vector, and delivery mode.
_VECTOR, _MODE = 0xFF, 0x700
_MODES = {
    0: None,
    0x100: "lowest priority",
    0x200: "SMI",
    0x400: "NMI",
    0x500: "INIT",
    0x600: "SIPI",
    0x700: "ExtINT",
}
#: Those that are injected as a vector.
_FIXED = (0, 0x100)

#: Tracepoint → what it sends (vector and mode as in the command register), and which rows do.
_SENDERS: Mapping[str, tuple[pl.Expr, pl.Expr]] = {
    "kvm_hv_send_ipi": (pl.col("vector") & _VECTOR, pl.lit(value=True)),
    "kvm_hv_send_ipi_ex": (pl.col("vector") & _VECTOR, pl.lit(value=True)),
    "kvm_apic_ipi": (pl.col("icr_low"), pl.lit(value=True)),
    "kvm_hypercall": (pl.col("a3"), pl.col("nr") == _KVM_SEND_IPI),
}
_ACCEPTED = ("kvm_apic_accept_irq", "kvm_apicv_accept_irq")


def _command(icr: pl.Expr) -> pl.Expr:
    return (icr & (_VECTOR | _MODE)).cast(pl.Int64)


def _accepted(events: Events) -> pl.DataFrame:
    return events.keep("ipis", lambda: _ipis(events))


def _ipis(events: Events) -> pl.DataFrame:
    """IPIs, a row each target that accepted it: in the exit in which it was sent, by the thread that sent it.

    One that nobody accepted is a row of its sender, without an end.
    """
    sent = pl.concat(
        events.rows(table, where, command=_command(icr))
        for table, (icr, where) in _SENDERS.items()
        if events.has(table)
    )
    sends = sent.sort("seq").collect()
    entries = events.followers("kvm_entry")
    sends = sends.hstack(entries.at(entries.after(sends), {"entered": "seq"}))
    sends = sends.select("tid", "command", "entered", "seq", "ts_ns", sent_seq="seq", sender="owner")
    accepted = _command(pl.col("dm").cast(pl.UInt32) | pl.col("vec"))
    # Few interrupts are of a kind that was sent.
    alike = accepted.is_in(sends["command"].unique().implode())
    taken = pl.concat(events.rows(table, alike, command=accepted) for table in _ACCEPTED if events.has(table))
    found = (
        taken.sort("seq")
        .collect()
        .with_columns(end_seq="seq", end_ns="ts_ns")
        .drop("ts_ns")
        .join_asof(
            sends.drop_nulls("tid"),
            on="seq",
            by=["tid", "command"],
            strategy="backward",
            check_sortedness=False,
        )
        .filter(
            pl.col("end_seq") < pl.col("entered").fill_null(1 << 62),
            # With APICv an acceptance may be traced twice.
            pl.struct("sent_seq", "owner").is_first_distinct(),
            pl.col("owner") // (1 << 16) == pl.col("sender") // (1 << 16),
        )
        .with_columns(seq="sent_seq")
    )
    alone = sends.join(found, on="seq", how="anti").with_columns(owner="sender")
    return pl.concat([found, alone], how="diagonal").with_columns(
        vector=(pl.col("command") & _VECTOR),
        mode=(pl.col("command") & _MODE).replace_strict(_MODES, default=None, return_dtype=pl.String),
        sender=(pl.col("sender") % (1 << 16)).cast(pl.UInt16),
    )


def _injected(events: Events) -> pl.DataFrame:
    """IPIs that were accepted: until the target is given them."""
    rows = _accepted(events).filter(
        pl.col("end_seq").is_not_null(), (pl.col("command") & _MODE).is_in(list(_FIXED))
    )
    rows = rows.with_columns(sent_seq="seq", seq="end_seq")
    found = injected_after(events, rows)
    return found.with_columns(seq="sent_seq", end_seq="inj_seq", end_ns="inj_ns")


def _label(row: Mapping[str, Any]) -> str:
    mode = row["mode"]
    if mode in (None, "lowest priority"):
        return vector_label(row) + (f" ({mode})" if mode else "")
    return f"{mode} {row['vector']:#04x}" if mode == "SIPI" else str(mode)


IPIS = (
    Measure(
        "ipi-accept",
        "an IPI is sent → each target's kvm_apic_accept_irq",
        (tuple(_SENDERS), _ACCEPTED, ("kvm_entry",)),
        ("vector", "mode"),
        _accepted,
        _label,
        ("IPI", "that nobody accepted"),
        others=("sender",),
    ),
    Measure(
        "ipi-inject",
        "an IPI is sent → each target's kvm_inj_virq",
        (tuple(_SENDERS), _ACCEPTED, ("kvm_entry",), ("kvm_inj_virq",)),
        ("vector", "mode"),
        _injected,
        _label,
        ("acceptance", "without an injection"),
        others=("sender",),
    ),
)
