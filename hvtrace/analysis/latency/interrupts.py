"""Interrupts by vCPU and vector: accepted by the APIC, injected into the guest, ended by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from hvtrace.analysis.latency.events import INDEX_BITS, Events, Source, after, before
from hvtrace.analysis.latency.measure import Measure

__all__ = ["INTERRUPTS", "injected_after", "injections", "vector_label"]

_ACCEPTED, _POSTED, _INJECTED, _EOI, _PV_EOI = range(5)

#: Delivery modes that go through the APIC's request register: fixed and lowest priority (APIC_DM_*).
_REQUESTED = pl.col("dm").is_in([0, 0x100])

_SOURCES = (
    Source("kvm_apic_accept_irq", _ACCEPTED, pl.col("vec"), {}, _REQUESTED),
    Source("kvm_apicv_accept_irq", _POSTED, pl.col("vec"), {}, _REQUESTED),
    Source(
        "kvm_inj_virq",
        _INJECTED,
        pl.col("vector"),
        {},
        # Neither the same interrupt again nor one of the guest's own instructions.
        ~(pl.col("reinjected").fill_null(value=False) | pl.col("soft").fill_null(value=False)),
    ),
    Source("kvm_eoi", _EOI, pl.col("vector"), {}),
    Source("kvm_pv_eoi", _PV_EOI, pl.col("vector"), {}),
)

#: How the end of an interrupt came to be known.
_BY_EXIT, _BY_BIT = "exit", "pv"


def vector_label(row: Mapping[str, Any]) -> str:
    """A vector in words."""
    return "vector ?" if row["vector"] is None else f"vector {row['vector']:#04x}"


def _events(events: Events) -> pl.DataFrame:
    return events.keep("interrupts", lambda: events.machines(_SOURCES, {}))


def _vector() -> pl.Expr:
    return pl.col("index").cast(pl.UInt8)


def injections(events: Events) -> pl.DataFrame:
    """All injections: machine, owner, seq, ts_ns, vector; end_seq, end_ns, eoi of the end, null where none is known."""
    return events.keep("injections", lambda: _injections(events))


def _injections(events: Events) -> pl.DataFrame:
    rows = _events(events).filter(pl.col("kind") >= _INJECTED)
    # A paravirtual EOI is traced as both kinds, kvm_eoi first.
    ended = after("kind").is_in([_EOI, _PV_EOI])
    by_bit = (after("kind") == _PV_EOI) | (after("then") == _PV_EOI)
    return (
        rows.with_columns(then=after("kind"))
        .with_columns(
            end_seq=pl.when(ended).then(after("seq")),
            end_ns=pl.when(ended).then(after("ts_ns")),
            eoi=pl.when(ended & by_bit.fill_null(value=False))
            .then(pl.lit(_BY_BIT))
            .when(ended)
            .then(pl.lit(_BY_EXIT)),
        )
        .filter(pl.col("kind") == _INJECTED)
        .select("machine", "owner", "seq", "ts_ns", "end_seq", "end_ns", "eoi", vector=_vector())
    )


def injected_after(events: Events, rows: pl.DataFrame) -> pl.DataFrame:
    """Add the next injection of a vector after each row (owner, vector, seq): inj_seq, inj_ns, and its eoi_seq, eoi_ns.

    Null where there is none, or where the interrupt went to the guest without one: APICv posted it. A row's interrupt
    must have been accepted before the row or with it.
    """
    number = pl.col("owner") * (1 << INDEX_BITS) + pl.col("vector").cast(pl.Int64)
    found = injections(events).select(
        "machine",
        inj_seq="seq",
        inj_ns="ts_ns",
        eoi_seq="end_seq",
        eoi_ns="end_ns",
        seq="seq",
    )
    rows = _next(rows.with_columns(machine=number), found)
    if not events.has("kvm_apicv_accept_irq"):
        return rows.drop("machine")
    # Posted with the row's own acceptance or after it: what is injected later is another one.
    posted = _events(events).filter(pl.col("kind") == _POSTED).select("machine", "seq", posted="seq")
    accepted = _events(events).filter(pl.col("kind") == _ACCEPTED).select("machine", "seq", accepted="seq")
    rows = _last(_last(rows, accepted, "seq"), posted, "inj_seq")
    own = pl.col("posted") > pl.col("accepted").fill_null(-1)
    names = ("inj_seq", "inj_ns", "eoi_seq", "eoi_ns")
    return rows.with_columns(
        pl.when(~own.fill_null(value=False)).then(pl.col(name)).alias(name) for name in names
    ).drop("machine", "posted", "accepted")


def _next(rows: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Join the first of `right` after each row, of its machine."""
    return rows.sort("seq").join_asof(
        right.sort("seq"),
        on="seq",
        by="machine",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )


def _last(rows: pl.DataFrame, right: pl.DataFrame, on: str) -> pl.DataFrame:
    """Join the last of `right` before the seq in column `on` of each row, of its machine."""
    if on != "seq":
        right = right.rename({"seq": on})
    return rows.sort(on, nulls_last=True).join_asof(
        right.sort(on),
        on=on,
        by="machine",
        strategy="backward",
        check_sortedness=False,
    )


def _accepted(events: Events) -> pl.DataFrame:
    """The first acceptance since the injection before, and the next injection."""
    rows = _events(events).filter(pl.col("kind") <= _INJECTED)
    # What is accepted while it waits already changes nothing for the guest.
    again = (pl.col("kind") == _ACCEPTED) & (before("kind") == _ACCEPTED).fill_null(value=False)
    rows = rows.filter(~again)
    taken = after("kind") == _INJECTED
    return rows.with_columns(
        end_seq=pl.when(taken).then(after("seq")),
        end_ns=pl.when(taken).then(after("ts_ns")),
        vector=_vector(),
    ).filter(pl.col("kind") == _ACCEPTED)


def _ended_label(row: Mapping[str, Any]) -> str:
    return vector_label(row) + (" (PV EOI)" if row["eoi"] == _BY_BIT else "")


INTERRUPTS = (
    Measure(
        "accept-inject",
        "kvm_apic_accept_irq → the vector's next kvm_inj_virq",
        (("kvm_apic_accept_irq",), ("kvm_inj_virq",)),
        ("vector",),
        _accepted,
        vector_label,
        ("acceptance", "without an injection"),
    ),
    Measure(
        "inject-eoi",
        "kvm_inj_virq → the vector's kvm_eoi",
        (("kvm_inj_virq",), ("kvm_eoi", "kvm_pv_eoi")),
        ("vector", "eoi"),
        injections,
        _ended_label,
        ("injection", "without an EOI: auto-EOI has none"),
    ),
)
