"""Messages as QEMU traces them: what the guest sent, when it was taken up, what was answered, when that arrived.

QEMU takes one message at a time, in the order in which they came; its answer is posted to the guest's SynIC, and
posted again where the slot was busy, and only when it was delivered the next message is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from hvtrace.abi.vmbus import MESSAGES
from hvtrace.analysis.vmbus.tables import RECEIVED, Tables

__all__ = ["BUSY", "Messages", "messages"]

TAKEN, POSTED, CALLED_BACK = "vmbus_process_incoming_message", "vmbus_post_msg", "vmbus_msg_cb"

#: Status of a delivery that found the slot busy (−EAGAIN).
BUSY = -11

INITIATE_CONTACT, UNLOAD = 14, 16

_NO_END = 1 << 62

_U32 = pl.Int64()

#: What a message was about.
DETAILS: Mapping[str, pl.DataType] = {
    "channel": _U32,
    "gpadl": _U32,
    "pages": _U32,
    "vp": _U32,
    "version": _U32,
    "result": _U32,
}

_VERSION = pl.col("major").cast(pl.Int64) * (1 << 16) + pl.col("minor").cast(pl.Int64)

#: Event → type of message that it tells of, and where it tells what the message was about.
_EVENTS: Mapping[str, tuple[int, Mapping[str, pl.Expr]]] = {
    "vmbus_send_offer": (1, {"channel": pl.col("chan_id")}),
    "vmbus_terminate_offers": (4, {}),
    "vmbus_open_channel": (
        5,
        {"channel": pl.col("chan_id"), "gpadl": pl.col("gpadl_id"), "vp": pl.col("target_vp")},
    ),
    "vmbus_channel_open": (6, {"channel": pl.col("chan_id"), "result": pl.col("status")}),
    "vmbus_close_channel": (7, {"channel": pl.col("chan_id")}),
    "vmbus_gpadl_header": (8, {"gpadl": pl.col("gpadl_id"), "pages": pl.col("num_gfns")}),
    "vmbus_gpadl_body": (9, {"gpadl": pl.col("gpadl_id")}),
    "vmbus_gpadl_created": (10, {"gpadl": pl.col("gpadl_id")}),
    "vmbus_gpadl_teardown": (11, {"gpadl": pl.col("gpadl_id")}),
    "vmbus_gpadl_torndown": (12, {"gpadl": pl.col("gpadl_id")}),
    "vmbus_initiate_contact": (14, {"version": _VERSION, "vp": pl.col("vcpu_field")}),
}

#: Type of a request → what tells its answer from that of another of the type.
_KEYS: Mapping[int, str] = {5: "channel", 8: "gpadl", 11: "gpadl"}


@dataclass(frozen=True, slots=True)
class Messages:
    """`sent`: of the guest, a row each; `given`: to the guest, a row each, however often it was posted.

    sent: vm, vcpu (that sent it; null where not known), type, size, seq and ts_ns (received, or else taken up), tid,
    received_ns, taken_seq, taken_ns, DETAILS, and of the answer: answer_seq (first posted), answer_ns, tries,
    delivered_seq, delivered_ns. given: vm, type, size, seq and ts_ns (first posted), tries, status (null: not told),
    delivered_seq, delivered_ns, DETAILS. What is not known is null.
    """

    sent: pl.DataFrame
    given: pl.DataFrame


def messages(tables: Tables, refused: pl.Series | None = None) -> Messages:
    """The messages of a store; none where QEMU's events are not in it.

    `refused`: seqs of those received that QEMU did not keep, where it is known; they are not among those sent.
    """
    details = _details(tables)
    given = _given(tables, details)
    return Messages(_answered(_sent(tables, details, refused), given), given)


def _details(tables: Tables) -> pl.DataFrame:
    parts = [
        tables.of_qemu(
            table,
            type=(pl.lit(number), pl.Int64()),
            **{name: (columns.get(name, pl.lit(None)), dtype) for name, dtype in DETAILS.items()},
        ).drop("vcpu", "tid", "ts_ns")
        for table, (number, columns) in _EVENTS.items()
    ]
    return pl.concat(parts).rename({"seq": "detail_seq"}).sort("detail_seq")


def _sent(tables: Tables, details: pl.DataFrame, refused: pl.Series | None) -> pl.DataFrame:
    """What the guest sent: received, and taken up first come, first served."""
    number = {"type": (pl.col("type"), pl.Int64()), "size": (pl.col("size"), pl.Int64())}
    received = tables.of_qemu(RECEIVED, **number)
    if refused is not None:
        received = received.filter(~pl.col("seq").is_in(refused.implode()))
    taken = tables.of_qemu(TAKEN, type=(pl.col("message_type"), pl.Int64()))
    events = pl.concat(
        [
            received.with_columns(comes=pl.lit(1), goes=pl.lit(0)),
            taken.with_columns(comes=pl.lit(0), goes=pl.lit(1)),
        ],
        how="diagonal",
    ).sort("vm", "seq")
    # UNLOAD empties the queue.
    emptied = ((pl.col("goes") == 1) & (pl.col("type") == UNLOAD)).cast(pl.Int64)
    events = events.with_columns(epoch=(emptied.cum_sum() - emptied).over("vm"))
    group = ["vm", "epoch", "type"]
    # What was taken without having been received came before the recording's start.
    backlog = (pl.col("goes").cum_sum() - pl.col("comes").cum_sum()).cum_max().clip(0)
    events = events.with_columns(
        nth=pl.when(pl.col("comes") == 1)
        .then(pl.col("comes").cum_sum().over(group))
        .otherwise((pl.col("goes").cum_sum() - backlog).over(group)),
        # It adds to the backlog itself.
        unseen=(backlog > backlog.shift(1, fill_value=0)).over(group) & (pl.col("goes") == 1),
    )
    received = events.filter(pl.col("comes") == 1).drop("comes", "goes", "unseen")
    taken = events.filter(pl.col("goes") == 1).select(
        *group, "tid", "unseen", nth="nth", taken_seq="seq", taken_ns="ts_ns"
    )
    matched = taken.filter(~pl.col("unseen")).drop("unseen", "tid")
    rows = received.join(matched, on=[*group, "nth"], how="left").with_columns(received_ns="ts_ns")
    unseen = taken.filter("unseen").select("vm", "type", "taken_seq", "taken_ns")
    unseen = unseen.with_columns(seq="taken_seq", ts_ns="taken_ns")
    rows = pl.concat([rows.drop("epoch", "nth"), unseen], how="diagonal").sort("seq")
    again = pl.col("taken_seq").shift(-1).over("vm", "type", order_by="taken_seq").fill_null(_NO_END)
    found = rows.with_columns(again=again).sort("taken_seq", nulls_last=True)
    found = found.join_asof(
        details,
        left_on="taken_seq",
        right_on="detail_seq",
        by=["vm", "type"],
        strategy="forward",
        check_sortedness=False,
    )
    own = pl.col("detail_seq") < pl.col("again")
    return (
        found.with_columns(pl.when(own).then(pl.col(name)).alias(name) for name in DETAILS)
        .drop("detail_seq", "again")
        .sort("seq")
    )


def _given(tables: Tables, details: pl.DataFrame) -> pl.DataFrame:
    """What was given to the guest: posts of the same message, until one did not find the slot busy."""
    posts = tables.of_qemu(POSTED, type=(pl.col("type"), pl.Int64()), size=(pl.col("size"), pl.Int64()))
    back = tables.of_qemu(CALLED_BACK, status=(pl.col("status"), pl.Int64()))
    back = back.select("vm", "status", back_seq="seq", back_ns="ts_ns")
    posts = posts.sort("seq").join_asof(
        back.sort("back_seq"),
        left_on="seq",
        right_on="back_seq",
        by="vm",
        strategy="forward",
        check_sortedness=False,
    )
    # Of the callback before the next post.
    told = (pl.col("back_seq") < pl.col("seq").shift(-1).over("vm").fill_null(_NO_END)).fill_null(value=False)
    posts = posts.with_columns(
        pl.when(told).then(pl.col(name)).alias(name) for name in ("status", "back_seq", "back_ns")
    )
    posts = posts.join_asof(
        details,
        left_on="seq",
        right_on="detail_seq",
        by=["vm", "type"],
        strategy="backward",
        check_sortedness=False,
    )
    fresh = pl.col("detail_seq") > pl.col("seq").shift(1).over("vm", "type").fill_null(-1)
    posts = posts.with_columns(pl.when(fresh).then(pl.col(name)).alias(name) for name in DETAILS)
    again = (pl.col("status").shift(1) == BUSY) & (pl.col("type").shift(1) == pl.col("type"))
    posts = posts.with_columns(number=(~again.fill_null(value=False)).cum_sum().over("vm"))
    first = [pl.col(name).first() for name in ("type", "size", "seq", "ts_ns")]
    given = posts.group_by("vm", "number", maintain_order=True).agg(
        *first,
        pl.len().cast(pl.Int64).alias("tries"),
        pl.col("status", "back_seq", "back_ns").last(),
        *(pl.col(name).drop_nulls().first() for name in DETAILS),
    )
    delivered = pl.col("status") == 0
    return given.with_columns(
        delivered_seq=pl.when(delivered).then(pl.col("back_seq")),
        delivered_ns=pl.when(delivered).then(pl.col("back_ns")),
    ).drop("number", "back_seq", "back_ns")


def _answered(sent: pl.DataFrame, given: pl.DataFrame) -> pl.DataFrame:
    """Add to each message of the guest the answer to it, if there is one."""
    answers = {number: m.answer for number, m in MESSAGES.items() if m.answer is not None}
    wanted = pl.col("type").replace_strict(answers, default=None, return_dtype=pl.Int64)
    asked = {answer: number for number, answer in answers.items()}
    question = pl.col("type").replace_strict(asked, default=None, return_dtype=pl.Int64)
    # An answer comes before the next request like it, and none after the connection has begun anew, or has ended.
    again = pl.col("taken_seq").shift(-1).over("vm", "type", "key", order_by="taken_seq").fill_null(_NO_END)
    resets = sent.filter(pl.col("type").is_in([INITIATE_CONTACT, UNLOAD]), pl.col("taken_seq").is_not_null())
    resets = resets.select("vm", "taken_seq", reset="taken_seq").sort("taken_seq")
    rows = (
        sent.with_columns(wanted=wanted, key=_key(pl.col("type")))
        .with_columns(again=again)
        .sort("taken_seq", nulls_last=True)
        .join_asof(
            resets,
            on="taken_seq",
            by="vm",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .join_asof(
            given.select(
                "vm",
                "tries",
                "delivered_seq",
                "delivered_ns",
                wanted="type",
                key=_key(question),
                answer_seq="seq",
                answer_ns="ts_ns",
            ).sort("answer_seq"),
            left_on="taken_seq",
            right_on="answer_seq",
            by=["vm", "wanted", "key"],
            strategy="forward",
            check_sortedness=False,
        )
    )
    own = pl.col("answer_seq") < pl.min_horizontal("again", pl.col("reset").fill_null(_NO_END))
    answer = ("answer_seq", "answer_ns", "tries", "delivered_seq", "delivered_ns")
    return (
        rows.with_columns(pl.when(own).then(pl.col(name)).alias(name) for name in answer)
        .drop("wanted", "key", "again", "reset")
        .sort("seq")
    )


def _key(number: pl.Expr) -> pl.Expr:
    """What tells a request, by the number of its type, from others of the type; −1 where nothing does."""
    key = pl.lit(None, pl.Int64)
    for wanted, name in _KEYS.items():
        key = pl.when(number == wanted).then(pl.col(name)).otherwise(key)
    return key.fill_null(-1)
