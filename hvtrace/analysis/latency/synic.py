"""What is delivered to synthetic interrupt sources (SINTs), until the guest is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from hvtrace.analysis.latency.events import Events
from hvtrace.analysis.latency.interrupts import injected_after
from hvtrace.analysis.latency.measure import Measure
from hvtrace.analysis.latency.timers import Kind, configured_sint, timer_events

__all__ = ["SYNIC"]

#: HV_X64_MSR_EOM.
_EOM = 0x4000_0084
#: Result of an expiration whose message found its slot busy (−EAGAIN).
_BUSY = -11


def _delivered(events: Events) -> pl.DataFrame:
    """Interrupts of sources that the APIC took, in order."""
    return events.rows(
        "kvm_hv_synic_set_irq",
        pl.col("ret") > 0,
        pl.col("vector").is_between(0, 255),
        sint=pl.col("sint").cast(pl.Int64),
        vector=pl.col("vector").cast(pl.Int64),
    ).collect()


def _ended(events: Events) -> pl.DataFrame:
    """Deliveries: until the EOI of the injection that served them. One may serve several."""
    return injected_after(events, _delivered(events)).with_columns(end_seq="eoi_seq", end_ns="eoi_ns")


def _messages(events: Events) -> pl.DataFrame:
    """Writes of EOM: from the delivery of the message that they are about.

    A guest writes EOM for a message whose slot was wanted meanwhile, and the write does not say for which: it is taken
    to be that of the source which last got a message, or which a timer last found busy. Messages are delivered by the
    vCPU's own thread, signals of channels by others.
    """
    own = events.threads.select("tid", "owner").unique()
    sources = ("owner", "sint", "seq")
    delivered = _delivered(events).join(own, on=["tid", "owner"], how="semi").select(*sources, "ts_ns")
    last = pl.concat([delivered.select(sources), _found_busy(events).select(sources)]).sort("seq")
    rows = events.rows("kvm_hv_synic_set_msr", pl.col("msr") == _EOM, ~pl.col("host")).collect()
    rows = rows.sort("seq").join_asof(last, on="seq", by="owner", strategy="backward", check_sortedness=False)
    begins = delivered.with_columns(begin="seq").rename({"ts_ns": "begin_ns"})
    rows = rows.join_asof(begins, on="seq", by=["owner", "sint"], strategy="backward", check_sortedness=False)
    # A second write is about no message any more.
    fresh = pl.col("begin").is_not_null() & pl.col("begin").is_first_distinct()
    return rows.with_columns(
        end_seq=pl.when(fresh).then(pl.col("seq")),
        end_ns=pl.when(fresh).then(pl.col("ts_ns")),
        seq=pl.when(fresh).then(pl.col("begin")).otherwise(pl.col("seq")),
        ts_ns=pl.when(fresh).then(pl.col("begin_ns")).otherwise(pl.col("ts_ns")),
    )


def _found_busy(events: Events) -> pl.DataFrame:
    """Expirations of timers that found the slot of their source (sint) busy."""
    rows = timer_events(events).with_columns(sint=configured_sint())
    busy = (pl.col("kind") == Kind.EXPIRATION) & (pl.col("result") == _BUSY)
    return rows.filter(busy, pl.col("sint").is_not_null())


def _label(row: Mapping[str, Any]) -> str:
    return f"SINT {row['sint']} (vector {row['vector']:#04x})"


SYNIC = (
    Measure(
        "sint-eoi",
        "kvm_hv_synic_set_irq → kvm_eoi of the interrupt",
        (("kvm_hv_synic_set_irq",), ("kvm_inj_virq",), ("kvm_eoi", "kvm_pv_eoi")),
        ("sint", "vector"),
        _ended,
        _label,
        ("interrupt", "without an EOI: auto-EOI has none"),
    ),
    Measure(
        "message-eom",
        "kvm_hv_synic_set_irq of a message → the guest's write of EOM",
        (("kvm_hv_synic_set_irq",), ("kvm_hv_synic_set_msr",)),
        ("sint",),
        _messages,
        lambda row: f"SINT {row['sint']}",
        ("EOM", "without a message before it"),
    ),
)
