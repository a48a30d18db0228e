"""The two hypercalls of VMBus as KVM traces them: POST_MESSAGE and SIGNAL_EVENT, with their results.

The input of a fast SIGNAL_EVENT is printed: connection id and flag number. Otherwise it stands in the guest's memory,
and is not known. A message's contents never are.
"""

from __future__ import annotations

import polars as pl

from hvtrace.abi.exit_reasons import USERSPACE
from hvtrace.abi.vmbus import CONNECTION_MASK, FLAG_MASK, FLAG_SHIFT, POST_MESSAGE, SIGNAL_EVENT
from hvtrace.analysis.vmbus.tables import RECEIVED, Tables

__all__ = ["INVALID_CONNECTION", "SUCCESS", "calls", "received", "refused", "searched"]

CALL, DONE, EXIT = "kvm_hv_hypercall", "kvm_hv_hypercall_done", "kvm_userspace_exit"

SUCCESS, INVALID_CONNECTION = 0x0, 0x12

#: KVM_EXIT_HYPERV.
_EXIT_HYPERV = next(number for number, name in USERSPACE.items() if name == "KVM_EXIT_HYPERV")

_STATUS_MASK = 0xFFFF


def calls(tables: Tables) -> pl.DataFrame:
    """The calls, in order.

    Columns: vm, owner, tid, seq, ts_ns, code, connection and flag (of fast SIGNAL_EVENTs; else null), end_seq, end_ns
    and status (null: no result was traced), userspace (whether it went there).
    """
    number = pl.col("ingpa").cast(pl.UInt64)
    told = pl.col("fast") & (pl.col("code") == SIGNAL_EVENT)
    every = tables.of_kvm(
        CALL,
        code=pl.col("code").cast(pl.Int64),
        connection=pl.when(told).then(number & CONNECTION_MASK).cast(pl.Int64),
        flag=pl.when(told).then(number // (1 << FLAG_SHIFT) & FLAG_MASK).cast(pl.Int64),
    )
    again = pl.col("seq").shift(-1).over("tid").fill_null(1 << 62)
    rows = every.with_columns(again=again).filter(pl.col("code").is_in([POST_MESSAGE, SIGNAL_EVENT]))
    # The result comes on the call's thread, before another call there.
    done = tables.of_kvm(DONE, status=(pl.col("result") & _STATUS_MASK).cast(pl.Int64))
    done = done.select("tid", "status", end_seq="seq", end_ns="ts_ns", end_owner="owner")
    rows = rows.join_asof(
        done, left_on="seq", right_on="end_seq", by="tid", strategy="forward", check_sortedness=False
    )
    own = (pl.col("end_seq") < pl.col("again")) & (pl.col("end_owner") == pl.col("owner"))
    rows = rows.with_columns(
        pl.when(own).then(pl.col(name)).alias(name) for name in ("end_seq", "end_ns", "status")
    ).drop("again", "end_owner")
    out = tables.of_kvm(EXIT, pl.col("reason") == _EXIT_HYPERV).select("tid", "seq", out="seq")
    rows = rows.join_asof(
        out, on="seq", by="tid", strategy="forward", allow_exact_matches=False, check_sortedness=False
    )
    userspace = (pl.col("out") < pl.col("end_seq")).fill_null(value=False)
    return rows.with_columns(userspace=userspace).drop("out")


def searched(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each VM: posts before the first one that was taken, refused for their connection id.

    Columns: vm, searched (how many), taken (whether one was at all). A guest that knows newer versions of VMBus tries
    these first, by a connection id that an older host does not have.
    """
    posts = rows.filter(pl.col("code") == POST_MESSAGE, pl.col("status").is_not_null()).sort("seq")
    other = (pl.col("status") != INVALID_CONNECTION).cast(pl.Int64).cum_sum().over("vm")
    return (
        posts.with_columns(before=other == 0)
        .group_by("vm", maintain_order=True)
        .agg(searched=pl.col("before").sum().cast(pl.Int64), taken=(pl.col("status") == SUCCESS).any())
        .sort("vm")
    )


def received(tables: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """Messages that QEMU received within a call of their thread: seq, and the call's call_seq, call_ns, status."""
    posts = rows.filter(pl.col("code") == POST_MESSAGE).select(
        "status", "end_seq", tid=pl.col("tid").cast(pl.Int64), call_seq="seq", call_ns="ts_ns"
    )
    found = (
        tables.of_qemu(RECEIVED)
        .select("seq", "tid")
        .join_asof(
            posts.sort("call_seq"),
            left_on="seq",
            right_on="call_seq",
            by="tid",
            strategy="backward",
            check_sortedness=False,
        )
    )
    inside = pl.col("seq") < pl.col("end_seq").fill_null(1 << 62)
    return found.filter(pl.col("call_seq").is_not_null(), inside).select(
        "seq", "call_seq", "call_ns", "status"
    )


def refused(found: pl.DataFrame) -> pl.Series:
    """Seqs of messages that QEMU received and did not keep."""
    return found.filter(pl.col("status").fill_null(SUCCESS) != SUCCESS)["seq"]
