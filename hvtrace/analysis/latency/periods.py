"""Periodic synthetic timers: whether their expiries stay on the grid of the period, and how many ticks were lost.

A start says when the timer is due next (exp_time). As long as nobody sets or stops the timer, that advances by whole
periods: by one where the tick was processed in time, by more where ticks were passed over, and by anything else where
the timer drifts. All of it is in the guest's reference time, so that it holds whatever the recording's clock is.
"""

from __future__ import annotations

import polars as pl

from hvtrace.analysis.latency.events import Events, place
from hvtrace.analysis.latency.timers import TICK_NS, Kind, raised, timer_events
from hvtrace.analysis.scope import Scope

__all__ = ["periods"]

_STOPS = (Kind.CONFIG, Kind.COUNT, Kind.CLEANUP, Kind.ONE_SHOT)


def periods(events: Events, scope: Scope) -> pl.DataFrame:
    """Return a row each periodic timer and period: vm, vcpu, timer, period_ns, and how often, and how far off.

    `starts`; `periods` that passed between one start and the next, `lost` those of them in which the timer did not
    expire; `drift_ns`, the farthest that an expiry lay off the grid which began with the timer's first; `expirations`,
    and of them `dropped` those that delivered nothing because a message was in the slot (null where not recorded).
    """
    if not events.has("kvm_hv_stimer_start_periodic"):
        return pl.DataFrame(schema=_SCHEMA)
    dropped = raised(events).filter("dropped")["seq"].implode()
    expired = pl.col("kind") == Kind.EXPIRATION
    kept = (
        _steps(events)
        .with_columns(**place(), dropped=expired & pl.col("seq").is_in(dropped))
        .filter(pl.col("vcpu").is_not_null(), *scope.owners(), *scope.span())
    )
    told = events.has("kvm_hv_synic_set_irq")
    return (
        kept.group_by("vm", "vcpu", "timer", period_ns=pl.col("period") * TICK_NS)
        .agg(
            starts=(pl.col("kind") == Kind.PERIODIC).sum().cast(pl.Int64),
            periods=pl.col("passed").sum(),
            lost=(pl.col("passed") - 1).clip(0).sum(),
            drift_ns=pl.col("drift").abs().max().fill_null(0) * TICK_NS,
            expirations=expired.sum().cast(pl.Int64),
            dropped=pl.col("dropped").sum().cast(pl.Int64) if told else pl.lit(None, pl.Int64),
        )
        .select(*_SCHEMA)
        .sort("vm", "vcpu", "timer", "period_ns")
    )


def _steps(events: Events) -> pl.DataFrame:
    """Starts and expirations of periodic timers, with `period`; at a start, `passed` and `drift` since the one before.

    A timer's life goes from whatever sets or stops it to the next such event; lives have numbers.
    """
    kind, machine = pl.col("kind"), pl.col("machine")
    count = pl.when(kind == Kind.COUNT).then(pl.col("value")).cast(pl.Int64, strict=False)
    another = (machine != machine.shift(1)).fill_null(value=True)
    rows = timer_events(events).with_columns(
        count=count.forward_fill().over("machine"),
        life=(kind.is_in(_STOPS) | another).cum_sum(),
    )
    start = kind == Kind.PERIODIC
    armed = pl.when(start).then(pl.col("life")).forward_fill()
    # Expirations before the first start are another sort's.
    rows = rows.with_columns(armed=armed).filter(
        (pl.col("armed") == pl.col("life")) & kind.is_in([Kind.PERIODIC, Kind.EXPIRATION])
    )
    expires = pl.when(start).then(pl.col("value")).cast(pl.Int64, strict=False)
    same = pl.col("life") == pl.col("life").shift(1)
    rows = rows.with_columns(step=pl.when(same).then(expires - expires.forward_fill().shift(1)))
    # Where the count was set before the recording: the shortest step.
    shortest = pl.when(pl.col("step") > 0).then(pl.col("step")).min().over("machine")
    known = pl.when(pl.col("count") > 0).then(pl.col("count")).otherwise(shortest)
    rows = rows.with_columns(period=known.clip(upper_bound=_LONGEST))
    rows = rows.with_columns(passed=(pl.col("step") + pl.col("period") // 2) // pl.col("period"))
    off = (pl.col("step") - pl.col("passed") * pl.col("period")).fill_null(0).cum_sum()
    first = pl.when(~same.fill_null(value=False)).then(off).forward_fill()
    return rows.with_columns(drift=off - first)


#: Periods up to which ns fit.
_LONGEST = (1 << 62) // TICK_NS

_SCHEMA: dict[str, pl.DataType] = {
    "vm": pl.UInt16(),
    "vcpu": pl.UInt16(),
    "timer": pl.UInt8(),
    "period_ns": pl.Int64(),
    "starts": pl.Int64(),
    "periods": pl.Int64(),
    "lost": pl.Int64(),
    "drift_ns": pl.Int64(),
    "expirations": pl.Int64(),
    "dropped": pl.Int64(),
}
