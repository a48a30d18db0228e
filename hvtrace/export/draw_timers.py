"""Draws synthetic timers: armed until the callback, the callback until the expiration is processed, the expiration.

A flow leads from the write that armed the timer through all of them; another from the expiration to the interrupt.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.details import Shown
from hvtrace.export.draw_interrupts import VECTOR_BITS, InterruptLayer
from hvtrace.export.draw_synic import SINT_BITS, SynicLayer
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.links import KIND_BITS, FlowKind, flow_ids, listed
from hvtrace.export.machines import (
    UNFINISHED,
    Machines,
    Source,
    after,
    before,
    instants_of,
    latest,
    slices_of,
    unbroken,
    until_end,
)
from hvtrace.export.packets import Flows, Kind
from hvtrace.export.states import Losses
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import Arguments, Slices, Window, column

__all__ = ["TimerLayer"]

CONFIG, COUNT, CLEANUP, ONE_SHOT, PERIODIC, CALLBACK, EXPIRATION = range(7)

TIMER_BITS = 2

_INDEX = pl.col("timer_index")

SOURCES = (
    Source("kvm_hv_stimer_set_config", CONFIG, _INDEX, {"config": pl.col("config")}),
    Source("kvm_hv_stimer_set_count", COUNT, _INDEX, {"count": pl.col("count")}),
    Source("kvm_hv_stimer_cleanup", CLEANUP, _INDEX, {}),
    Source(
        "kvm_hv_stimer_start_one_shot",
        ONE_SHOT,
        _INDEX,
        {"now": pl.col("time_now"), "expires": pl.col("count")},
    ),
    Source(
        "kvm_hv_stimer_start_periodic",
        PERIODIC,
        _INDEX,
        {"now": pl.col("time_now"), "expires": pl.col("exp_time")},
    ),
    Source("kvm_hv_stimer_callback", CALLBACK, _INDEX, {}),
    Source(
        "kvm_hv_stimer_expiration",
        EXPIRATION,
        _INDEX,
        {"direct": pl.col("direct") != 0, "result": pl.col("msg_send_result").cast(pl.Int64)},
    ),
)

COLUMNS: Mapping[str, pl.DataType] = {
    "config": pl.UInt64(),
    "count": pl.UInt64(),
    "now": pl.UInt64(),
    "expires": pl.UInt64(),
    "direct": pl.Boolean(),
    "result": pl.Int64(),
}

#: What the event at the end of a slice did.
_ENDED = {
    CONFIG: "stopped by a write",
    COUNT: "stopped by a write",
    CLEANUP: "stopped",
    ONE_SHOT: "armed again",
    PERIODIC: "armed again",
    CALLBACK: "callback",
    EXPIRATION: "expiration",
}

_SET = (
    Shown("sint", "sint", Kind.UINT),
    Shown("vector", "vector", Kind.HEX),
    Shown("config", "config", Kind.HEX),
    Shown("count", "count", Kind.UINT),
)
_ENDS = (Shown("ended_by", "end_kind", Kind.STRING, label=lambda kind: _ENDED.get(kind, "")), UNFINISHED)
_LATE = Shown("lateness_ns", "lateness", Kind.INT)

ARMED = (
    Shown("time_now", "now", Kind.UINT),
    Shown("exp_time", "expires", Kind.UINT),
    Shown("due_in_ns", "due", Kind.INT),
    *_SET,
    *_ENDS,
)
FIRED = (_LATE, *_ENDS)
EXPIRED = (
    Shown("direct", "direct", Kind.BOOL),
    Shown("result", "result", Kind.INT),
    _LATE,
    *_SET,
)
WAITING = (*EXPIRED, *_ENDS)

#: Results of a delivery that did not succeed: negative error numbers; 1 in direct mode.
_WHY = {-11: "message slot busy", -2: "no message page, or SINT masked", -14: "APIC off", 1: "APIC off"}

#: Instead of the start's seq: the timer was set or stopped since it last started.
NONE = -1

#: Times further away are not told in ns: they do not fit (a guest may ask for any count).
MOST_TICKS = 1 << 56


def _why(result: int) -> str:
    return _WHY.get(result, f"not delivered ({result})")


class TimerLayer:
    """Synthetic timers, each on a track of its own."""

    def __init__(
        self,
        names: Interned,
        tracks: Tracks,
        losses: Losses,
        interrupts: InterruptLayer,
        synic: SynicLayer,
        *,
        ticks: bool,
    ) -> None:
        self._names = names
        self._tracks = tracks
        self._losses = losses
        self._interrupts = interrupts
        self._synic = synic
        self._ticks = ticks
        self._arguments = Arguments(names)
        self._why = Labels(lambda result: f"expired: {_why(result)}", names.event)
        self._machines = Machines(SOURCES, TIMER_BITS, COLUMNS)
        self.tables = self._machines.tables
        self.by = self._machines.by

    def draw(self, window: Window) -> list[Slices]:
        """Return what ended in this window."""
        events = self._machines.events(window.new)
        self._machines.remember(events)
        rows = until_end(self._followed(events.lazy()), window, TIMER_BITS)
        started = rows.filter(pl.col("kind").is_in([ONE_SHOT, PERIODIC]) & pl.col("new"))
        by_guest = started.filter(pl.col("before_kind").is_in([CONFIG, COUNT, CLEANUP]))
        window.links.around(
            by_guest["machine"].to_numpy() >> TIMER_BITS, by_guest["seq"].to_numpy(), _flow(by_guest["seq"])
        )
        ended = unbroken(rows.filter(pl.col("end_new")), self._losses)
        armed = ended.filter(pl.col("kind").is_in([ONE_SHOT, PERIODIC]))
        # A callback in spite of a stop: the host timer fired while it was being cancelled. Nothing follows from it.
        stopped = (pl.col("kind") == CALLBACK) & (pl.col("life") == NONE).fill_null(False)
        fired = ended.filter((pl.col("kind") == CALLBACK) & ~stopped)
        waiting = ended.filter((pl.col("kind") == EXPIRATION) & (pl.col("result") != 0))
        expired = rows.filter((pl.col("kind") == EXPIRATION) & (pl.col("result") == 0) & pl.col("new"))
        one_shot, periodic = (self._names.event(f"armed ({how})") for how in ("one-shot", "periodic"))
        return [
            self._slices(armed, np.where(armed["kind"].to_numpy() == PERIODIC, periodic, one_shot), ARMED),
            self._slices(fired, self._names.event("callback"), FIRED),
            self._slices(waiting, self._why(column(waiting, "result")), WAITING),
            self._messages(waiting),
            self._instants(rows.filter(stopped & pl.col("new")), "callback after a stop", ()),
            self._expired(expired),
        ]

    def _followed(self, events: pl.LazyFrame) -> pl.LazyFrame:
        """Each event with the next one, and what is known of the timer at it."""
        starts = pl.col("kind").is_in([ONE_SHOT, PERIODIC])
        # A timer that is set again or stopped has no start until the next one.
        ends_life = pl.col("kind").is_in([CONFIG, COUNT, CLEANUP])
        life = pl.when(starts).then(pl.col("seq")).when(ends_life).then(NONE)
        expired = pl.when(pl.col("kind") == EXPIRATION).then(pl.col("seq"))
        vcpu = pl.col("machine") // (1 << TIMER_BITS)
        rows = events.with_columns(
            config=latest(pl.col("config")),
            count=latest(pl.col("count")),
            due=_due(),
            life=latest(life),
            vcpu_expired=expired.forward_fill().shift(1).over(vcpu, order_by="seq"),
            before_kind=before("kind"),
            before_seq=before("seq"),
            end_kind=after("kind"),
            end_seq=after("seq"),
            end_ts=after("ts"),
            end_new=after("new").fill_null(False),
        ).with_columns(
            started=latest(pl.when(starts).then(pl.col("ts"))),
            asked=latest(pl.when(starts).then(pl.col("due"))),
            is_direct=pl.col("config") & (1 << 12) != 0,
        )
        lateness = pl.col("ts") - pl.col("started") - pl.col("asked")
        known = (pl.col("life") > NONE) & ~pl.lit(self._ticks)
        return rows.with_columns(
            lives=_lives(),
            lateness=pl.when(known).then(lateness),
            sint=pl.when(~pl.col("is_direct")).then((pl.col("config") // (1 << 16)) % 16),
            vector=pl.when(pl.col("is_direct")).then((pl.col("config") // 16) % 256),
        )

    def _slices(
        self, rows: pl.DataFrame, name: int | npt.NDArray[np.generic], shown: tuple[Shown, ...]
    ) -> Slices:
        return slices_of(
            "stimer",
            rows,
            self._tracks.many("timer", rows["machine"].to_numpy(), TIMER_BITS),
            np.broadcast_to(np.asarray(name, np.uint64), (len(rows),)),
            self._arguments.of(shown, rows),
            listed(rows["lives"]),
        )

    def _messages(self, waiting: pl.DataFrame) -> Slices:
        """Messages that wait for their slot, among the tracks of SINTs: one a timer, for several may wait."""
        rows = waiting.filter((pl.col("result") == -11) & pl.col("sint").is_not_null())
        return slices_of(
            "message",
            rows,
            self._tracks.many("message", _slots(rows), SINT_BITS + TIMER_BITS),
            np.full(len(rows), self._names.event("message pending"), np.uint64),
            self._arguments.of((UNFINISHED,), rows),
            listed(rows["lives"]),
        )

    def _expired(self, rows: pl.DataFrame) -> Slices:
        return self._instants(rows, "expired", EXPIRED, listed(self._raised(rows)))

    def _instants(
        self, rows: pl.DataFrame, name: str, shown: tuple[Shown, ...], flows: Flows | None = None
    ) -> Slices:
        return instants_of(
            "stimer",
            rows,
            self._tracks.many("timer", rows["machine"].to_numpy(), TIMER_BITS),
            np.full(len(rows), self._names.event(name), np.uint64),
            self._arguments.of(shown, rows),
            flows,
        )

    def _raised(self, rows: pl.DataFrame) -> pl.Series:
        """Flows of expirations: the timer's, and that of the interrupt raised for it."""
        vcpu = pl.col("machine") // (1 << TIMER_BITS)
        rows = rows.with_columns(
            direct_to=vcpu * (1 << VECTOR_BITS) + pl.col("vector").cast(pl.Int64),
            sint_to=vcpu * (1 << SINT_BITS) + pl.col("sint").cast(pl.Int64),
        )
        found = rows
        for name, raised, by in (
            ("direct_accept", self._interrupts.accepted, "direct_to"),
            ("sint_accept", self._synic.delivered, "sint_to"),
        ):
            found = _last_before(found, raised, by, name)
        accept = pl.coalesce("direct_accept", "sint_accept")
        # A tick that was dropped, because the slot was busy, raised nothing: what was raised before was not for it.
        since = pl.max_horizontal("before_seq", "vcpu_expired").fill_null(-1)
        found = found.with_columns(accept=pl.when(accept > since).then(accept))
        ids = flow_ids(found["accept"].fill_null(0).to_numpy(), FlowKind.INTERRUPT)
        found = found.with_columns(flow=pl.Series(ids, dtype=pl.UInt64))
        # In the order of `rows` again.
        return found.sort("machine", "seq").select(
            pl.when(pl.col("accept").is_not_null())
            .then(pl.concat_list(pl.col("lives"), pl.col("flow")))
            .otherwise(pl.col("lives"))
            .alias("flows")
        )["flows"]


def _flow(seq: pl.Series) -> npt.NDArray[np.uint64]:
    return flow_ids(seq.to_numpy(), FlowKind.STIMER)


def _lives() -> pl.Expr:
    """The timer's flow, as a list; empty where it was armed before the recording."""
    life = pl.col("life").fill_null(NONE)
    flow = life.clip(0).cast(pl.UInt64) * (1 << KIND_BITS) + FlowKind.STIMER
    return pl.when(life > NONE).then(pl.concat_list(flow)).otherwise(pl.lit([], pl.List(pl.UInt64)))


def _due() -> pl.Expr:
    """Time from a start to the expiry asked for, in ns; null where it is hundreds of years."""
    now, expires = pl.col("now"), pl.col("expires")
    early = expires < now
    ticks = pl.when(early).then(now - expires).otherwise(expires - now)
    ns = pl.when(ticks < MOST_TICKS).then(ticks).cast(pl.Int64) * 100
    return pl.when(early).then(-ns).otherwise(ns)


def _slots(rows: pl.DataFrame) -> npt.NDArray[np.int64]:
    """The vCPU's key, and in the low bits SINT and timer."""
    machine = rows["machine"].to_numpy().astype(np.int64)
    vcpu, timer = machine >> TIMER_BITS, machine & ((1 << TIMER_BITS) - 1)
    return (vcpu << SINT_BITS | column(rows, "sint")) << TIMER_BITS | timer


def _last_before(rows: pl.DataFrame, raised: pl.DataFrame, by: str, name: str) -> pl.DataFrame:
    """Add the accept_seq of the last of `raised` before each row, of the machine in its column `by`."""
    right = raised.sort("seq").select(pl.col("machine").alias(by), "seq", pl.col("accept_seq").alias(name))
    return rows.sort("seq").join_asof(right, on="seq", by=by, strategy="backward", check_sortedness=False)
