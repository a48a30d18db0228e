"""Synthetic timers: from the time one is due to the callback, the expiration, and the interrupt in the guest.

KVM arms a host timer (kvm_hv_stimer_start_*), whose callback asks the vCPU to look at its timers; the vCPU's thread
then sends the message or raises the interrupt (kvm_hv_stimer_expiration), before its next entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from hvtrace.analysis.latency.events import Events, Source, after, before
from hvtrace.analysis.latency.interrupts import injected_after
from hvtrace.analysis.latency.measure import Measure

__all__ = ["TICK_NS", "TIMERS", "Kind", "configured_sint", "raised", "timer_events"]


class Kind:
    """What an event is to its timer."""

    CONFIG, COUNT, CLEANUP, ONE_SHOT, PERIODIC, CALLBACK, EXPIRATION = range(7)


#: Unit of the guest's reference time.
TICK_NS = 100
#: Times further away are not told in ns: they do not fit (a guest may ask for any count).
_MOST_TICKS = 1 << 56

_INDEX = pl.col("timer_index")
_MODES = {Kind.ONE_SHOT: "one-shot", Kind.PERIODIC: "periodic"}


def _start(name: str, kind: int, expires: str) -> Source:
    return Source(
        f"kvm_hv_stimer_start_{name}",
        kind,
        _INDEX,
        {"value": pl.col(expires), "due": _due(pl.col("time_now"), pl.col(expires))},
    )


def _due(now: pl.Expr, expires: pl.Expr) -> pl.Expr:
    """Time from a start to the expiry asked for, in ns; null where it is hundreds of years."""
    early = expires < now
    ticks = pl.when(early).then(now - expires).otherwise(expires - now)
    ns = pl.when(ticks < _MOST_TICKS).then(ticks).cast(pl.Int64) * TICK_NS
    return pl.when(early).then(-ns).otherwise(ns)


_SOURCES = (
    Source("kvm_hv_stimer_set_config", Kind.CONFIG, _INDEX, {"value": pl.col("config")}),
    Source("kvm_hv_stimer_set_count", Kind.COUNT, _INDEX, {"value": pl.col("count")}),
    Source("kvm_hv_stimer_cleanup", Kind.CLEANUP, _INDEX, {}),
    _start("one_shot", Kind.ONE_SHOT, "count"),
    _start("periodic", Kind.PERIODIC, "exp_time"),
    Source("kvm_hv_stimer_callback", Kind.CALLBACK, _INDEX, {}),
    Source(
        "kvm_hv_stimer_expiration",
        Kind.EXPIRATION,
        _INDEX,
        {"direct": pl.col("direct") != 0, "result": pl.col("msg_send_result")},
    ),
)
#: `value`: the configuration or count written, the expiry of a start; `due`: in how many ns that is.
_COLUMNS: dict[str, pl.DataType] = {
    "value": pl.UInt64(),
    "due": pl.Int64(),
    "direct": pl.Boolean(),
    "result": pl.Int32(),
}

#: Results of an expiration that delivered nothing (negative error numbers; in direct mode 1).
_WHY = {-11: "message slot busy", -2: "no message page, or SINT masked", -14: "APIC off", 1: "APIC off"}


def timer_events(events: Events) -> pl.DataFrame:
    """Events of timers, by timer and in order, with `timer`, `mode` (how it was last armed), `config` (the last)."""
    return events.keep("timers", lambda: _timer_events(events))


def _timer_events(events: Events) -> pl.DataFrame:
    mode = pl.col("kind").replace_strict(_MODES, default=None, return_dtype=pl.Enum(_MODES.values()))
    config = pl.when(pl.col("kind") == Kind.CONFIG).then(pl.col("value"))
    return events.machines(_SOURCES, _COLUMNS).with_columns(
        timer=pl.col("index").cast(pl.UInt8),
        mode=mode.forward_fill().over("machine"),
        config=config.forward_fill().over("machine"),
    )


def configured_vector() -> pl.Expr:
    """CONFIG bits 11:4: the vector of direct mode."""
    return (pl.col("config") // (1 << 4) % (1 << 8)).cast(pl.Int64)


def configured_sint() -> pl.Expr:
    """CONFIG bits 19:16: the source that messages go through."""
    return (pl.col("config") // (1 << 16) % (1 << 4)).cast(pl.Int64)


def _late(events: Events) -> pl.DataFrame:
    """Callbacks: from when they were due. A callback of a timer that was stopped meanwhile was never due.

    `callback` and `expiration`: the seq of the callback, and of what it led to, null where there is none.
    """
    rows = timer_events(events)
    started = before("kind").is_in(list(_MODES)) & before("due").is_not_null()
    rows = rows.with_columns(
        since_ns=pl.when(started).then(before("ts_ns")),
        start_seq=pl.when(started).then(before("seq")),
        due_ns=before("ts_ns") + before("due"),
        callback="seq",
        expiration=pl.when(after("kind") == Kind.EXPIRATION).then(after("seq")),
    ).filter(pl.col("kind") == Kind.CALLBACK)
    known = pl.col("start_seq").is_not_null()
    return rows.with_columns(
        end_seq=pl.when(known).then(pl.col("seq")),
        end_ns=pl.when(known).then(pl.col("ts_ns")),
        seq=pl.coalesce("start_seq", "seq"),
        ts_ns=pl.when(known).then(pl.col("due_ns")).otherwise(pl.col("ts_ns")),
    )


def _processed(events: Events) -> pl.DataFrame:
    """Callbacks: until the vCPU's thread has looked at the timer."""
    done = after("kind") == Kind.EXPIRATION
    return (
        timer_events(events)
        .with_columns(end_seq=pl.when(done).then(after("seq")), end_ns=pl.when(done).then(after("ts_ns")))
        .filter(pl.col("kind") == Kind.CALLBACK)
    )


def _parked(events: Events) -> pl.DataFrame:
    """Expirations that delivered nothing: until one does. Of several tries the first counts."""
    rows = timer_events(events).with_columns(
        fails=(pl.col("kind") == Kind.EXPIRATION) & (pl.col("result") != 0)
    )
    rows = rows.filter(~(pl.col("fails") & before("fails").fill_null(value=False)))
    done = after("kind") == Kind.EXPIRATION
    return rows.with_columns(
        end_seq=pl.when(done).then(after("seq")), end_ns=pl.when(done).then(after("ts_ns"))
    ).filter("fails")


def raised(events: Events) -> pl.DataFrame:
    """Expirations that succeeded, with the `vector` raised (null where not known).

    `dropped`: nothing was raised, for a message was in the slot and the timer is periodic.
    """
    return events.keep("raised", lambda: _raised(events))


def _raised(events: Events) -> pl.DataFrame:
    rows = timer_events(events).with_columns(before_seq=before("seq"))
    rows = rows.filter(pl.col("kind") == Kind.EXPIRATION).sort("seq")
    # Since the timer's event before, and since the vCPU's expiration before.
    since = pl.max_horizontal("before_seq", pl.col("seq").shift(1).over("owner")).fill_null(-1)
    rows = rows.with_columns(since=since).filter(pl.col("result") == 0)
    raised = (
        events.rows(
            "kvm_hv_synic_set_irq",
            pl.col("ret") > 0,
            sint=pl.col("sint").cast(pl.Int64),
            sint_vector=pl.col("vector").cast(pl.Int64),
        )
        .select("owner", "seq", "sint", "sint_vector", sint_seq="seq")
        .collect()
    )
    # Traced right before the expiration. A tick that was dropped, because the slot was busy, raised nothing.
    rows = rows.join_asof(raised, on="seq", by="owner", strategy="backward", check_sortedness=False)
    own = (pl.col("sint_seq") > pl.col("since")) & (configured_sint() == pl.col("sint")).fill_null(value=True)
    told = events.has("kvm_hv_synic_set_irq")
    return rows.with_columns(
        vector=pl.when("direct").then(configured_vector()).when(own).then(pl.col("sint_vector")),
        dropped=~pl.col("direct") & ~own.fill_null(value=False) & told,
    )


def _injected(events: Events) -> pl.DataFrame:
    """Expirations that raised an interrupt: until it is injected."""
    return events.keep("timers injected", lambda: _found_injected(events))


def _found_injected(events: Events) -> pl.DataFrame:
    rows = injected_after(events, raised(events).filter(~pl.col("dropped")))
    return rows.with_columns(end_seq="inj_seq", end_ns="inj_ns")


def _whole(events: Events) -> pl.DataFrame:
    """Callbacks of timers that were due: through their expiration, until the interrupt is injected."""
    due = _late(events).filter(pl.col("end_seq").is_not_null()).drop("end_seq", "end_ns")
    injected = _injected(events).select("end_seq", "end_ns", expiration="seq")
    return due.join(injected, on="expiration", how="left")


def _label(row: Mapping[str, Any]) -> str:
    return f"timer {row['timer']}" + (f" {row['mode']}" if row["mode"] else "")


def _why(row: Mapping[str, Any]) -> str:
    result = row["result"]
    return f"{_label(row)}: {_WHY.get(result, f'not delivered ({result})')}"


_KEYS = ("timer", "mode")
_STARTS = ("kvm_hv_stimer_start_one_shot", "kvm_hv_stimer_start_periodic")
_CALLBACK, _EXPIRATION = "kvm_hv_stimer_callback", "kvm_hv_stimer_expiration"
_INJECTION = ((_EXPIRATION,), ("kvm_inj_virq",), ("kvm_hv_synic_set_irq", "kvm_hv_stimer_set_config"))

TIMERS = (
    Measure(
        "stimer-lateness",
        "a synthetic timer is due → kvm_inj_virq of its interrupt",
        (_STARTS, (_CALLBACK,), *_INJECTION),
        _KEYS,
        _whole,
        _label,
        ("callback", "that led to no injection, or to one not known"),
        in_ns=True,
        of_timers=True,
    ),
    Measure(
        "stimer-callback",
        "a synthetic timer is due → kvm_hv_stimer_callback",
        (_STARTS, (_CALLBACK,)),
        _KEYS,
        _late,
        _label,
        ("callback", "of a timer that was stopped, or armed before the recording"),
        in_ns=True,
        of_timers=True,
    ),
    Measure(
        "stimer-expiration",
        "kvm_hv_stimer_callback → kvm_hv_stimer_expiration",
        ((_CALLBACK,), (_EXPIRATION,)),
        _KEYS,
        _processed,
        _label,
        ("callback", "without an expiration: the timer was set or stopped"),
        of_timers=True,
    ),
    Measure(
        "stimer-injection",
        "kvm_hv_stimer_expiration → kvm_inj_virq of its interrupt",
        _INJECTION,
        _KEYS,
        _injected,
        _label,
        ("expiration", "whose interrupt was not injected, or is not known"),
        of_timers=True,
    ),
    Measure(
        "stimer-retry",
        "kvm_hv_stimer_expiration that failed → the one that did not",
        ((_EXPIRATION,),),
        (*_KEYS, "result"),
        _parked,
        _why,
        ("failure", "after which the timer was set or stopped"),
        of_timers=True,
    ),
)
