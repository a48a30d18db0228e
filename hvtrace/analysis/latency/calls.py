"""Hypercalls: what they take, and what those take that flush translations of several vCPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from hvtrace.analysis.latency.events import Events
from hvtrace.analysis.latency.measure import Measure
from hvtrace.analysis.latency.threads import until
from hvtrace.schema.names import NAME_TABLES

__all__ = ["CALLS"]

_CALL, _DONE = "kvm_hv_hypercall", "kvm_hv_hypercall_done"

#: HV_FLUSH_ALL_PROCESSORS (TLFS, HvCallFlushVirtualAddressSpace), and HV_GENERIC_SET_ALL of the calls with sets.
_ALL_PROCESSORS, _SET_ALL = 1, 1

#: Tracepoint of a flush: whether it concerns all processors, and else which (null: not traced).
_FLUSHES: Mapping[str, tuple[pl.Expr, pl.Expr]] = {
    # An empty mask is taken for all processors, too.
    "kvm_hv_flush_tlb": (
        (pl.col("flags") & _ALL_PROCESSORS != 0) | (pl.col("processor_mask") == 0),
        pl.col("processor_mask"),
    ),
    "kvm_hv_flush_tlb_ex": (pl.col("format") == _SET_ALL, pl.lit(None, pl.UInt64)),
}

_KVM, _HYPERV = "kvm", "hv"


def _calls(events: Events) -> pl.DataFrame:
    return events.keep(
        "calls",
        lambda: until(events, events.rows(_CALL, code=pl.col("code").cast(pl.Int64)).collect(), _DONE),
    )


def _exits(events: Events) -> pl.DataFrame:
    """Exits in which a hypercall was made: from the last kvm_exit between two entries to the second of them.

    KVM on SVM before 6.6 traces some exits after what they are about.
    """
    parts = [
        events.rows(table, code=code.cast(pl.Int64), interface=pl.lit(name))
        for table, code, name in (
            (_CALL, pl.col("code"), _HYPERV),
            ("kvm_hypercall", pl.col("nr") & 0xFFFFFFFF, _KVM),
        )
        if events.has(table)
    ]
    calls = pl.concat(parts).sort("seq").collect()
    entries, exits = events.followers("kvm_entry"), events.followers("kvm_exit")
    rows = until(events, calls, "kvm_entry", calls.head(0))
    # Of several calls in one exit the first counts.
    rows = rows.filter(pl.col("end_seq").is_null() | pl.struct("tid", "end_seq").is_first_distinct())
    entered = entries.at(entries.before(rows), {"entered": "seq"})
    left = exits.at(
        exits.before(rows.select("tid", seq=pl.coalesce("end_seq", "seq"))),
        {"exit_seq": "seq", "exit_ns": "ts_ns", "exit_cpu": "cpu"},
    )
    rows = rows.hstack(entered).hstack(left)
    # A thread's first entry is not known: no exit before it is its own.
    own = (pl.col("exit_seq") > pl.col("entered")) & pl.col("end_seq").is_not_null()
    own = own.fill_null(value=False)
    return rows.with_columns(
        seq=pl.when(own).then(pl.col("exit_seq")).otherwise(pl.col("seq")),
        ts_ns=pl.when(own).then(pl.col("exit_ns")).otherwise(pl.col("ts_ns")),
        cpu=pl.when(own).then(pl.col("exit_cpu")).otherwise(pl.col("cpu")),
        end_seq=pl.when(own).then(pl.col("end_seq")),
        end_ns=pl.when(own).then(pl.col("end_ns")),
    )


def _flushes(events: Events) -> pl.DataFrame:
    """Flushes: the hypercall in which they were asked for, and how many vCPUs they concern."""
    masks = {vm: sum(1 << vcpu for vcpu in own if vcpu < 64) for vm, own in events.vcpus.items()}
    sizes = {vm: len(own) for vm, own in events.vcpus.items()}
    vm = pl.col("vm").cast(pl.Int64)
    known = vm.replace_strict(masks, default=(1 << 64) - 1, return_dtype=pl.UInt64)
    size = vm.replace_strict(sizes, default=None, return_dtype=pl.Int64)
    parts = [
        events.rows(
            table,
            targets=pl.when(everyone)
            .then(size)
            .otherwise((mask & known).bitwise_count_ones().cast(pl.Int64)),
        )
        for table, (everyone, mask) in _FLUSHES.items()
        if events.has(table)
    ]
    flushes = pl.concat(parts).sort("seq").collect()
    calls = (
        _calls(events)
        .sort("seq")
        .select(
            "tid",
            "seq",
            "code",
            "end_seq",
            "end_ns",
            "end_cpu",
            call_seq="seq",
            call_ns="ts_ns",
            call_cpu="cpu",
        )
    )
    rows = flushes.join_asof(calls, on="seq", by="tid", strategy="backward", check_sortedness=False)
    inside = (pl.col("seq") < pl.col("end_seq")).fill_null(value=False)
    return rows.with_columns(
        seq=pl.when(inside).then(pl.col("call_seq")).otherwise(pl.col("seq")),
        ts_ns=pl.when(inside).then(pl.col("call_ns")).otherwise(pl.col("ts_ns")),
        cpu=pl.when(inside).then(pl.col("call_cpu")).otherwise(pl.col("cpu")),
        end_seq=pl.when(inside).then(pl.col("end_seq")),
        end_ns=pl.when(inside).then(pl.col("end_ns")),
    )


def _name(row: Mapping[str, Any]) -> str:
    if row["code"] is None:
        return "?"
    return NAME_TABLES["hv_hypercall"].get(row["code"], f"{row['code']:#06x}")


def _exit_label(row: Mapping[str, Any]) -> str:
    if row["interface"] == _HYPERV:
        return _name(row)
    return NAME_TABLES["kvm_hypercall"].get(row["code"], f"KVM {row['code']}")


def _flush_label(row: Mapping[str, Any]) -> str:
    number = row["targets"]
    to = "a sparse set" if number is None else f"{number} vCPU{'' if number == 1 else 's'}"
    return f"{_name(row)}, {to}"


CALLS = (
    Measure(
        "hypercall",
        "kvm_hv_hypercall → kvm_hv_hypercall_done",
        ((_CALL,), (_DONE,)),
        ("code",),
        _calls,
        _name,
        ("hypercall", "without an end"),
    ),
    Measure(
        "hypercall-exit",
        "kvm_exit of a hypercall → kvm_entry",
        ((_CALL, "kvm_hypercall"), ("kvm_exit",), ("kvm_entry",)),
        ("interface", "code"),
        _exits,
        _exit_label,
        ("hypercall", "without its exit or entry"),
    ),
    Measure(
        "tlb-flush",
        "the hypercall with a kvm_hv_flush_tlb(_ex) → kvm_hv_hypercall_done",
        (tuple(_FLUSHES), (_CALL,), (_DONE,)),
        ("code", "targets"),
        _flushes,
        _flush_label,
        ("flush call", "outside of a hypercall"),
    ),
)
