"""Channels: offered, opened, closed; the pages they share (GPADLs); and which device is behind them.

No event prints the GUIDs of an offer. That a channel is the balloon's is known where QEMU's balloon changes its state
while that channel is opened or closed, or where it is named as the device of `balloon_event`; others have no name.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from hvtrace.abi.vmbus import BALLOON
from hvtrace.analysis.vmbus.messages import INITIATE_CONTACT, UNLOAD, Messages
from hvtrace.analysis.vmbus.tables import Tables, named

__all__ = ["channels", "gpadls", "opens"]

OFFER, OPEN, CLOSE, GPADL, BODY, TEARDOWN = 1, 5, 7, 8, 9, 11

STATE_CHANGE = "hv_balloon_state_change"

#: States that the balloon enters while its channel is opened, and closed.
_WHILE_OPENED, _WHILE_CLOSED = "S_VERSION", "S_WAIT_RESET"

_NO_END = 1 << 62


def opens(found: Messages) -> pl.DataFrame:
    """Channels being opened, in order.

    Columns: vm, channel, gpadl, vp, seq, ts_ns (asked), result (0: open; null: not answered), open_seq and open_ns (the
    guest was told), until_seq and until_ns (null: not closed), ended ("closed", "unloaded", "contacted again").
    """
    asked = found.sent.filter(pl.col("type") == OPEN, pl.col("channel").is_not_null())
    results = found.given.select("vm", "result", answer_seq="seq")
    asked = asked.drop("result").join(results, on=["vm", "answer_seq"], how="left")
    done = pl.col("result") == 0
    rows = asked.select(
        "vm",
        "channel",
        "gpadl",
        "vp",
        "seq",
        "ts_ns",
        "result",
        open_seq=pl.when(done).then(pl.coalesce("delivered_seq", "answer_seq")),
        open_ns=pl.when(done).then(pl.coalesce("delivered_ns", "answer_ns")),
        after="taken_seq",
    ).sort("after")
    taken = found.sent.filter(pl.col("taken_seq").is_not_null())
    closed = taken.filter(pl.col("type") == CLOSE).select(
        "vm", "channel", until_seq="taken_seq", until_ns="taken_ns", ended=pl.lit("closed")
    )
    words = {INITIATE_CONTACT: "contacted again", UNLOAD: "unloaded"}
    resets = taken.filter(pl.col("type").is_in(list(words))).select(
        "vm",
        until_seq="taken_seq",
        until_ns="taken_ns",
        ended=pl.col("type").replace_strict(words, return_dtype=pl.String),
    )
    ends = pl.concat(
        [closed, resets.join(rows.select("vm", "channel").unique(), on="vm").select(closed.columns)]
    ).sort("until_seq")
    return (
        rows.join_asof(
            ends,
            left_on="after",
            right_on="until_seq",
            by=["vm", "channel"],
            strategy="forward",
            check_sortedness=False,
        )
        .drop("after")
        .sort("seq")
    )


def gpadls(found: Messages, opened: pl.DataFrame) -> list[dict[str, Any]]:
    """Pages shared: vm, gpadl, pages, bodies, channel (opened with them), shared_ns, created_ns, torn_down_ns."""
    taken = found.sent.filter(pl.col("gpadl").is_not_null())
    headers = taken.filter(pl.col("type") == GPADL).sort("taken_seq")
    again = pl.col("taken_seq").shift(-1).over("vm", "gpadl").fill_null(_NO_END)
    rows = headers.select(
        "vm", "gpadl", "pages", "taken_seq", shared_ns="ts_ns", created_ns="delivered_ns", again=again
    )
    ends = taken.filter(pl.col("type") == TEARDOWN).select(
        "vm", "gpadl", end_seq="taken_seq", torn_down_ns="delivered_ns"
    )
    rows = rows.join_asof(
        ends.sort("end_seq"),
        left_on="taken_seq",
        right_on="end_seq",
        by=["vm", "gpadl"],
        strategy="forward",
        check_sortedness=False,
    )
    own = (pl.col("end_seq") < pl.col("again")).fill_null(value=False)
    bodies = taken.filter(pl.col("type") == BODY).group_by("vm", "gpadl").agg(bodies=pl.len().cast(pl.Int64))
    first = opened.group_by("vm", "gpadl").agg(pl.col("channel").first())
    rows = (
        rows.with_columns(torn_down_ns=pl.when(own).then(pl.col("torn_down_ns")))
        .join(bodies, on=["vm", "gpadl"], how="left")
        .join(first, on=["vm", "gpadl"], how="left")
        .with_columns(pl.col("bodies").fill_null(0))
        .sort("vm", "taken_seq")
    )
    names = ("vm", "gpadl", "pages", "bodies", "channel", "shared_ns", "created_ns", "torn_down_ns")
    return [row | {"vm": named(row["vm"])} for row in rows.select(names).to_dicts()]


def channels(tables: Tables, found: Messages, opened: pl.DataFrame) -> list[dict[str, Any]]:
    """Channels that were offered, opened, closed or signalled: vm, channel, device, guid, identity, vp, gpadl,
    offered_ns, state (offered, opening, refused, open, closed), since_ns, until_ns and ended (of the last time it was
    open), opened and refused (how often).
    """
    offers = found.given.filter(pl.col("type") == OFFER, pl.col("channel").is_not_null())
    told = tables.of_qemu("vmbus_channel_notify_guest", channel=(pl.col("chan_id"), pl.Int64()))
    closed = found.sent.filter(pl.col("type") == CLOSE, pl.col("channel").is_not_null())
    known = pl.concat([frame.select("vm", "channel") for frame in (offers, opened, told, closed)]).unique()
    offered = offers.sort("seq").group_by("vm", "channel").agg(offered_ns=pl.col("ts_ns").first())
    last = (
        opened.sort("seq")
        .group_by("vm", "channel")
        .agg(
            pl.col("vp", "gpadl").last(),
            pl.col("result", "until_ns", "ended").last(),
            since_ns=pl.col("open_ns").last(),
            opened=(pl.col("result") == 0).sum().cast(pl.Int64),
            refused=(pl.col("result") != 0).sum().cast(pl.Int64),
        )
    )
    rows = known.join(offered, on=["vm", "channel"], how="left").join(last, on=["vm", "channel"], how="left")
    # Signalled before it was seen being opened: it was open when the recording began.
    told_first = told.group_by("vm", "channel").agg(told=pl.len())
    closes = closed.group_by("vm", "channel").agg(closed_ns=pl.col("taken_ns").last())
    rows = rows.join(told_first, on=["vm", "channel"], how="left").join(
        closes, on=["vm", "channel"], how="left"
    )
    unseen = pl.col("opened").is_null()
    state = (
        pl.when(unseen & pl.col("closed_ns").is_not_null())
        .then(pl.lit("closed"))
        .when(unseen & pl.col("told").is_not_null())
        .then(pl.lit("open"))
        .when(unseen)
        .then(pl.lit("offered"))
        .when(pl.col("result").is_null())
        .then(pl.lit("opening"))
        .when(pl.col("result") != 0)
        .then(pl.lit("refused"))
        .when(pl.col("ended").is_null())
        .then(pl.lit("open"))
        .otherwise(pl.lit("closed"))
    )
    rows = rows.with_columns(
        state=state,
        until_ns=pl.when(unseen).then(pl.col("closed_ns")).otherwise(pl.col("until_ns")),
        opened=pl.col("opened").fill_null(0),
        refused=pl.col("refused").fill_null(0),
    )
    balloons = _balloons(tables, found)
    answer = []
    for row in rows.sort("vm", "channel").iter_rows(named=True):
        identity = balloons.get((row["vm"], row["channel"]))
        answer.append(
            {
                "vm": named(row["vm"]),
                "channel": row["channel"],
                "device": None if identity is None else BALLOON.name,
                "guid": None if identity is None else BALLOON.guid,
                "identity": identity,
            }
            | {
                name: row[name]
                for name in ("vp", "gpadl", "offered_ns", "state", "since_ns", "until_ns", "ended")
            }
            | {name: row[name] for name in ("opened", "refused")}
        )
    return answer


def _balloons(tables: Tables, found: Messages) -> dict[tuple[int, int], str]:
    """Channels that are the Hyper-V balloon's: how that is known."""
    changes = tables.of_qemu(STATE_CHANGE, state=(pl.col("tostr"), pl.String())).select("vm", "seq", "state")
    identities: dict[tuple[int, int], str] = {}
    device = tables.of_qemu(
        "vmbus_send_offer", channel=(pl.col("chan_id"), pl.Int64()), dev=(pl.col("dev"), pl.UInt64())
    )
    targets = tables.of_qemu("balloon_event", dev=(pl.col("opaque"), pl.UInt64()))
    if tables.balloon:
        same = device.join(targets.select("vm", "dev").unique(), on=["vm", "dev"])
        identities |= dict.fromkeys(_pairs(same), "balloon_event names its device")
    rows = found.sent.filter(pl.col("taken_seq").is_not_null(), pl.col("channel").is_not_null())
    for number, state in ((OPEN, _WHILE_OPENED), (CLOSE, _WHILE_CLOSED)):
        # From one message to the next, or to its answer, QEMU handles that message.
        then = pl.col("taken_seq").shift(-1).over("vm")
        every = found.sent.filter(pl.col("taken_seq").is_not_null()).sort("taken_seq")
        spans = every.select("vm", "taken_seq", then=pl.min_horizontal(then, "answer_seq").fill_null(_NO_END))
        own = rows.filter(pl.col("type") == number).select("vm", "channel", "taken_seq")
        own = own.join(spans, on=["vm", "taken_seq"]).sort("taken_seq")
        entered = changes.filter(pl.col("state") == state).rename({"seq": "change_seq"}).sort("change_seq")
        hit = own.join_asof(
            entered,
            left_on="taken_seq",
            right_on="change_seq",
            by="vm",
            strategy="forward",
            check_sortedness=False,
        ).filter(pl.col("change_seq") < pl.col("then"))
        identities |= dict.fromkeys(_pairs(hit), "the balloon's state changes with it")
    return identities


def _pairs(rows: pl.DataFrame) -> list[tuple[int, int]]:
    return [(int(vm), int(channel)) for vm, channel in rows.select("vm", "channel").unique().iter_rows()]
