"""What a measure is: from which event to which other, and how their spans are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from hvtrace.analysis.latency.events import Events, place
from hvtrace.analysis.losses import lost_between

__all__ = ["BACKWARDS", "LOST", "STATES", "UNATTRIBUTED", "UNPAIRED", "WHOLE", "Measure", "spans_of"]

#: What `state` says of a span: it counts; events were lost meanwhile; it ends before it begins; it has no end; it is
#: not known of which vCPU it is.
STATES = WHOLE, LOST, BACKWARDS, UNPAIRED, UNATTRIBUTED = (
    "whole",
    "lost",
    "backwards",
    "unpaired",
    "unattributed",
)


@dataclass(frozen=True, slots=True)
class Measure:
    """A latency that a recording shows.

    `needs`: tracepoints without which nothing is known; of each group one is enough. `find` returns what begins, a row
    each, found or not: owner, the columns of `keys`, seq and ts_ns, end_seq and end_ns (null where it has no end), and
    perhaps `since_ns` (losses count from there, not from ts_ns), `cpu` and `end_cpu` (only losses on those count), and
    other columns that are kept. `label` names what a row is about by its keys.
    """

    name: str
    sentence: str
    needs: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...]
    find: Callable[[Events], pl.DataFrame]
    label: Callable[[Mapping[str, Any]], str]
    #: What has no end, in words: a noun that follows a number, and the rest.
    unpaired: tuple[str, str]
    #: Columns of spans that are no keys.
    others: tuple[str, ...] = ()
    #: Compares a time in the guest's units with stamps: not possible where these are ticks.
    in_ns: bool = False
    #: About synthetic timers.
    of_timers: bool = False

    def missing(self, events: Events) -> list[str]:
        """Tracepoints that have no events, and of which one is needed; alternatives are joined by "|"."""
        return ["|".join(group) for group in self.needs if not any(map(events.has, group))]


def spans_of(measure: Measure, events: Events) -> pl.DataFrame:
    """All that begins for a measure: vm, vcpu, its keys, seq, ts_ns, end_seq, end_ns, ns, state."""
    rows = measure.find(events)
    start = pl.col("since_ns") if "since_ns" in rows.columns else pl.col("ts_ns")
    lost, cpus = events.lost, tuple(pl.col(name) for name in ("cpu", "end_cpu") if "end_cpu" in rows.columns)
    if not cpus:
        # Any event may have been the one that was lost.
        lost = lost.with_columns(cpu=pl.lit(None, pl.UInt16))
    ns = pl.col("end_ns") - pl.col("ts_ns")
    state = (
        pl.when(pl.col("owner").is_null())
        .then(pl.lit(UNATTRIBUTED))
        .when(pl.col("end_seq").is_null())
        .then(pl.lit(UNPAIRED))
        .when(lost_between(lost, start, pl.col("end_ns"), cpus))
        .then(pl.lit(LOST))
        .when(ns < 0)
        .then(pl.lit(BACKWARDS))
        .otherwise(pl.lit(WHOLE))
    )
    columns = [*measure.keys, *measure.others, "seq", "ts_ns", "end_seq", "end_ns"]
    return rows.select(
        **place(), **{name: pl.col(name) for name in columns}, ns=ns, state=state.cast(pl.Enum(STATES))
    )
