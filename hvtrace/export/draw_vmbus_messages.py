"""Draws messages of VMBus: those of the guest from being received to the delivery of the answer.

QEMU takes one at a time, first come, first served, and what it posts to the guest until the next one answers it. A
message that came while another was being handled is drawn from that one's end on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import polars as pl

from hvtrace.abi.vmbus import MESSAGES, message_name
from hvtrace.export.cut import Keys
from hvtrace.export.details import Shown
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.links import FlowKind, flow_ids, listed
from hvtrace.export.machines import key_of
from hvtrace.export.packets import Kind
from hvtrace.export.tracks import Tracks
from hvtrace.export.vmbus_facts import VmbusFacts, vm_of
from hvtrace.export.window import Arguments, Slices, Window

__all__ = ["VmbusMessageLayer"]

RECEIVED, TAKEN, POSTED, BACK = range(4)

#: Tracepoint → what it is, and its columns by name.
SOURCES: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "vmbus_recv_message": (RECEIVED, {"type": "type", "size": "size"}),
    "vmbus_process_incoming_message": (TAKEN, {"type": "message_type"}),
    "vmbus_post_msg": (POSTED, {"type": "type", "size": "size"}),
    "vmbus_msg_cb": (BACK, {"status": "status"}),
}

UNLOAD = next(m.number for m in MESSAGES.values() if m.name == "UNLOAD")

#: Status of a delivery that found the slot busy (−EAGAIN).
BUSY = -11

#: Order of what one event ends and begins: what lies in a message, the message, what has no length, the next one.
_END_INSIDE, _END, _BEGIN, _END_AT_ONCE, _AFTER = range(5)
_KEYS = 8

#: Messages received that wait to be taken up; QEMU keeps 16, others it has refused.
MOST_WAITING = 1 << 16

_NO_END = 1 << 61

#: received_seq of a message that was taken up without having been received.
_UNSEEN = -1

#: `key`: the vCPU that sent the message. `start`: when and by which event it was received.
SCHEMA: Mapping[str, pl.DataType] = {
    "vm": pl.Int64(),
    "seq": pl.Int64(),
    "ts": pl.Int64(),
    "kind": pl.Int8(),
    "type": pl.Int64(),
    "size": pl.Int64(),
    "status": pl.Int64(),
    "key": pl.Int64(),
    "received_seq": pl.Int64(),
    "received_ts": pl.Int64(),
}

SHOWN = (
    Shown("size", "size", Kind.UINT),
    Shown("waited_ns", "waited", Kind.UINT),
    Shown("answered", "answered", Kind.BOOL),
)
POST_SHOWN = (Shown("size", "size", Kind.UINT), Shown("status", "status", Kind.INT))

#: How a post went, as it is written behind the message's name.
_OUTCOMES = ("", " (slot busy)", " (failed)", " (outcome not known)", " (not taken up)")
_DELIVERED, _BUSY, _FAILED, _UNKNOWN, _LEFT = range(len(_OUTCOMES))


def _label(number: int) -> str:
    return message_name(number >> 3) + _OUTCOMES[number & 7]


class VmbusMessageLayer:
    """Messages, by VM; what is not yet answered waits for the next window."""

    def __init__(self, names: Interned, tracks: Tracks, facts: VmbusFacts) -> None:
        self._tracks = tracks
        self._facts = facts
        self._arguments = Arguments(names)
        self._labels = Labels(_label, names.event)
        #: Received and not taken up; the last one taken up, and all that was posted since, by VM.
        self._left = pl.DataFrame(schema=SCHEMA)
        #: Where the last message drawn ends, by VM.
        self._ends = pl.DataFrame(schema={"vm": pl.Int64, "last_seq": pl.Int64, "last_ts": pl.Int64})
        self.tables: dict[str, tuple[str, ...]] = {
            table: tuple(columns.values()) for table, (_, columns) in SOURCES.items()
        }
        self.by: dict[str, Keys] = {table: (("vm", columns[0]),) for table, columns in self.tables.items()}

    def draw(self, window: Window) -> list[Slices]:
        """Return messages that were handled to their end in this window, or that it ends."""
        new = pl.concat([self._left, *(self._read(window.new, table) for table in SOURCES)])
        events = new.sort("vm", "seq")
        if events.is_empty():
            return []
        received = events.filter(pl.col("kind") == RECEIVED)
        fresh = received.join(self._left.select("vm", "seq"), on=["vm", "seq"], how="anti")
        # Where KVM was traced: else the vCPU's state is not the one that sent it.
        traced = pl.col("ts") <= self._facts.kvm_until
        sent = fresh.filter(pl.col("key").is_not_null(), traced)
        window.links.around(
            sent["key"].to_numpy(),
            sent["seq"].to_numpy(),
            flow_ids(sent["seq"].to_numpy(), FlowKind.VMBUS),
        )
        taken, waiting, dropped = _matched(received, events.filter(pl.col("kind") == TAKEN))
        following = pl.col("seq").shift(-1).over("vm", order_by="seq")
        taken = taken.sort("vm", "seq").with_columns(next=following)
        posts = _posts(events, taken)
        if window.final:
            over = pl.lit(value=True)
            dropped, waiting = pl.concat([dropped, waiting]), waiting.clear()
        else:
            over = pl.col("next").is_not_null()
        current = taken.filter(~over)
        # Of posts before the first message there is no end to wait for but their own.
        last = (pl.col("again") == _NO_END) & pl.col("next").is_null()
        undecided = (pl.col("take") == -1) & (pl.col("outcome") == _UNKNOWN) & last
        ongoing = posts.join(current.select("vm", take="seq"), on=["vm", "take"], how="semi")
        waits = posts.filter(undecided) if not window.final else posts.clear()
        told = posts.join(pl.concat([ongoing, waits]), on=["vm", "seq"], how="anti")
        since = pl.concat([current.select("vm", since="seq"), waits.select("vm", since=pl.col("seq") - 1)])
        going_on = events.filter(pl.col("kind") >= POSTED).join(since, on="vm")
        going_on = going_on.filter(pl.col("seq") > pl.col("since")).select(*SCHEMA)
        left = pl.concat([waiting.select(*SCHEMA), current.select(*SCHEMA), going_on])
        self._left = left if not window.final else left.clear()
        self._end_of(told.filter(pl.col("take") == -1))
        return [self._messages(taken.filter(over), told), self._given(told), self._dropped(dropped)]

    def _end_of(self, posts: pl.DataFrame) -> None:
        """Note where these posts end: what is drawn later must not begin before."""
        ends = posts.filter(pl.col("back_seq").is_not_null()).sort("seq")
        ends = ends.select("vm", last_seq="back_seq", last_ts="back_ts")
        self._ends = pl.concat([self._ends, ends]).unique("vm", keep="last", maintain_order=True)

    def _read(self, new: Mapping[str, pl.DataFrame], table: str) -> pl.DataFrame:
        rows = new.get(table)
        if rows is None:
            return pl.DataFrame(schema=SCHEMA)
        kind, columns = SOURCES[table]
        given = {
            "vm": vm_of(),
            "seq": pl.col("seq"),
            "ts": pl.col("ts_ns"),
            "kind": pl.lit(kind),
            "key": pl.when(pl.col("vcpu").is_not_null()).then(key_of()),
            **{name: pl.col(column) for name, column in columns.items()},
        }
        return rows.select(
            given.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in SCHEMA.items()
        )

    def _messages(self, done: pl.DataFrame, posts: pl.DataFrame) -> Slices:
        """Slices of messages of the guest."""
        ends = posts.group_by("vm", seq="take").agg(
            end_seq=pl.col("back_seq").max(),
            end_ts=pl.col("back_ts").max(),
            answered=(pl.col("outcome") == _DELIVERED).any(),
        )
        rows = done.join(ends, on=["vm", "seq"], how="left").sort("vm", "seq")
        seen = pl.col("received_seq") != _UNSEEN
        rows = rows.with_columns(received_seq=pl.when(seen).then(pl.col("received_seq")))
        rows = rows.with_columns(
            end_seq=pl.coalesce("end_seq", "seq"), end_ts=pl.coalesce("end_ts", "ts")
        ).join(self._ends, on="vm", how="left", maintain_order="left")
        # What was received meanwhile begins where the one before ends.
        last_seq = pl.col("end_seq").shift(1).over("vm").fill_null(pl.col("last_seq")).fill_null(-1)
        last_ts = pl.col("end_ts").shift(1).over("vm").fill_null(pl.col("last_ts")).fill_null(0)
        begin = pl.coalesce("received_seq", "seq")
        waits = begin < last_seq
        answers = {m.number: True for m in MESSAGES.values() if m.answer is not None}
        wants = pl.col("type").replace_strict(answers, default=None, return_dtype=pl.Boolean)
        rows = rows.with_columns(
            waits=waits,
            start_seq=pl.when(waits).then(last_seq).otherwise(begin),
            start_ts=pl.when(waits).then(last_ts).otherwise(pl.coalesce("received_ts", "ts")),
            waited=pl.col("ts") - pl.col("received_ts"),
            answered=pl.when(wants).then(pl.col("answered").fill_null(value=False)),
        )
        ends = rows.group_by("vm", maintain_order=True).agg(
            last_seq=pl.col("end_seq").last(), last_ts=pl.col("end_ts").last()
        )
        self._ends = pl.concat([self._ends, ends]).unique("vm", keep="last", maintain_order=True)
        start = rows["start_ts"].to_numpy()
        end = rows["end_ts"].to_numpy()
        whole = pl.Series(~self._facts.losses.anywhere(start, end) & (end >= start))
        rows = rows.filter(whole)
        start_seq, end_seq = rows["start_seq"].to_numpy(), rows["end_seq"].to_numpy()
        ids = pl.Series(flow_ids(rows["received_seq"].fill_null(0).to_numpy(), FlowKind.VMBUS))
        none = pl.lit([], pl.List(pl.UInt64))
        flows = rows.with_columns(flow=ids).select(
            pl.when(pl.col("received_seq").is_not_null() & pl.col("key").is_not_null())
            .then(pl.concat_list("flow"))
            .otherwise(none)
        )
        return Slices(
            "vmbus",
            self._track(rows),
            rows["start_ts"].to_numpy(),
            rows["end_ts"].to_numpy(),
            self._labels(rows["type"].to_numpy() << 3),
            start_seq * _KEYS + np.where(rows["waits"].to_numpy(), _AFTER, _BEGIN),
            end_seq * _KEYS + np.where(end_seq == start_seq, _END_AT_ONCE, _END),
            self._arguments.of(SHOWN, rows),
            listed(flows.to_series()),
        )

    def _given(self, posts: pl.DataFrame) -> Slices:
        """Slices of messages to the guest; one whose outcome is not known has no length."""
        rows = posts.with_columns(end_seq=pl.coalesce("back_seq", "seq"), end_ts=pl.coalesce("back_ts", "ts"))
        start, end = rows["ts"].to_numpy(), rows["end_ts"].to_numpy()
        rows = rows.filter(pl.Series(~self._facts.losses.anywhere(start, end) & (end >= start)))
        seq, end_seq = rows["seq"].to_numpy(), rows["end_seq"].to_numpy()
        return Slices(
            "vmbus",
            self._track(rows),
            rows["ts"].to_numpy(),
            rows["end_ts"].to_numpy(),
            self._labels(rows["type"].to_numpy() << 3 | rows["outcome"].to_numpy()),
            seq * _KEYS + _BEGIN,
            end_seq * _KEYS + np.where(end_seq == seq, _END_AT_ONCE, _END_INSIDE),
            self._arguments.of(POST_SHOWN, rows),
        )

    def _dropped(self, rows: pl.DataFrame) -> Slices:
        """Messages that were received and never taken up."""
        ts, key = rows["ts"].to_numpy(), rows["seq"].to_numpy() * _KEYS + _BEGIN
        return Slices(
            "vmbus",
            self._track(rows),
            ts,
            ts,
            self._labels(rows["type"].to_numpy() << 3 | _LEFT),
            key,
            key,
            self._arguments.of(SHOWN[:1], rows),
            instant=True,
        )

    def _track(self, rows: pl.DataFrame) -> np.ndarray:
        return self._tracks.many("vmbus messages", rows["vm"].to_numpy())


def _matched(received: pl.DataFrame, taken: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Messages taken up with what was received; what waits; and what was dropped as the connection was unloaded.

    Of each type the first received is the first taken up. One that was not received came before the recording's start.
    """
    known = taken.filter(pl.col("received_seq").is_not_null())
    fresh = taken.filter(pl.col("received_seq").is_null())
    both = pl.concat(
        [
            received.with_columns(comes=pl.lit(1), goes=pl.lit(0)),
            fresh.with_columns(comes=pl.lit(0), goes=pl.lit(1)),
        ]
    ).sort("vm", "seq")
    emptied = ((pl.col("goes") == 1) & (pl.col("type") == UNLOAD)).cast(pl.Int64)
    both = both.with_columns(epoch=(emptied.cum_sum() - emptied).over("vm"), epochs=emptied.sum().over("vm"))
    group = ["vm", "epoch", "type"]
    backlog = (pl.col("goes").cum_sum() - pl.col("comes").cum_sum()).cum_max().clip(0)
    both = both.with_columns(
        nth=pl.when(pl.col("comes") == 1)
        .then(pl.col("comes").cum_sum().over(group))
        .otherwise((pl.col("goes").cum_sum() - backlog).over(group)),
        unseen=(backlog > backlog.shift(1, fill_value=0)).over(group) & (pl.col("goes") == 1),
    )
    came = both.filter(pl.col("comes") == 1)
    went = both.filter((pl.col("goes") == 1) & ~pl.col("unseen"))
    own = came.select(*group, "nth", came_seq="seq", came_ts="ts", came_size="size", came_key="key")
    found = went.join(own, on=[*group, "nth"], how="left").with_columns(
        received_seq="came_seq", received_ts="came_ts", size="came_size", key="came_key"
    )
    unseen = both.filter("unseen").with_columns(
        key=pl.lit(None, pl.Int64), received_seq=pl.lit(_UNSEEN, pl.Int64)
    )
    left = came.join(found.select("vm", seq="received_seq"), on=["vm", "seq"], how="anti")
    kept = left.filter(pl.col("epoch") == pl.col("epochs")).tail(MOST_WAITING)
    dropped = left.filter(pl.col("epoch") < pl.col("epochs"))
    columns = list(SCHEMA)
    parts = [part.select(columns) for part in (known, found, unseen)]
    return pl.concat(parts), kept.select(columns), dropped.select(columns)


def _posts(events: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Posts, with `take` (seq of the message that they answer; −1: none is known), and their outcome."""
    posts = events.filter(pl.col("kind") == POSTED).drop("status")
    back = events.filter(pl.col("kind") == BACK).select("vm", "status", back_seq="seq", back_ts="ts")
    posts = posts.with_columns(again=pl.col("seq").shift(-1).over("vm", order_by="seq").fill_null(_NO_END))
    # Of posts before the first message, that one is the next.
    follows = taken.select("vm", follows="seq")
    joins: tuple[tuple[pl.DataFrame, str, Literal["forward", "backward"]], ...] = (
        (back, "back_seq", "forward"),
        (taken.select("vm", "next", take="seq"), "take", "backward"),
        (follows, "follows", "forward"),
    )
    for right, on, strategy in joins:
        posts = posts.sort("seq").join_asof(
            right.sort(on), left_on="seq", right_on=on, by="vm", strategy=strategy, check_sortedness=False
        )
    first = pl.col("take").is_null()
    posts = posts.with_columns(next=pl.when(first).then(pl.col("follows")).otherwise(pl.col("next")))
    # An outcome comes before the next post, and before the next message is taken up.
    until = pl.min_horizontal("again", pl.col("next").fill_null(_NO_END))
    told = (pl.col("back_seq") < until).fill_null(value=False)
    outcome = (
        pl.when(~told)
        .then(_UNKNOWN)
        .when(pl.col("status") == 0)
        .then(_DELIVERED)
        .when(pl.col("status") == BUSY)
        .then(_BUSY)
        .otherwise(_FAILED)
    )
    return posts.with_columns(
        outcome=outcome.cast(pl.Int64),
        take=pl.col("take").fill_null(-1),
        **{name: pl.when(told).then(pl.col(name)) for name in ("status", "back_seq", "back_ts")},
    )
