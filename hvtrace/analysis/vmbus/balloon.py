"""What QEMU's Hyper-V balloon asked of the guest over its channel, and what it got: pages of 4096 bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from hvtrace.analysis.vmbus.tables import UNKNOWN, Tables, named

__all__ = ["PAGE", "balloons"]

PAGE = 4096

STATE_CHANGE, TARGET = "hv_balloon_state_change", "balloon_event"

#: What is asked → the event that asks, the one that answers.
_OPERATIONS: Mapping[str, tuple[str, str]] = {
    "balloon": ("hv_balloon_outgoing_balloon", "hv_balloon_incoming_balloon"),
    "unballoon": ("hv_balloon_outgoing_unballoon", "hv_balloon_incoming_unballoon"),
    "hot add": ("hv_balloon_outgoing_hot_add", "hv_balloon_incoming_hot_add"),
}

#: Operation → columns of its answer.
_ANSWERED: Mapping[str, Mapping[str, str]] = {
    "balloon": {"more": "more_pages"},
    "hot add": {"count": "count", "result": "result"},
}

#: Ranges that the guest gave.
_RANGES = "hv_balloon_remove_response"

#: State of a balloon whose channel was closed.
_RESET = "S_WAIT_RESET"

#: hv_balloon_incoming_hot_add: the guest took the memory.
_DONE = 1


def balloons(tables: Tables) -> list[dict[str, Any]]:
    """Balloons by VM; none where QEMU's events of it are not in the store.

    Each has vm, version and capabilities (as the guest told them), state (the last one), targets (ts_ns, bytes),
    `requested`, `given`, `asked_back`, `returned`, `hot_add_asked`, `hot_added` (pages), and operations: operation,
    ts_ns (first asked), pages (asked), packets, answered_ns, ns, done (pages; null where not answered, or not told).
    """
    if not tables.balloon:
        return []
    integers = {"major": pl.Int64(), "minor": pl.Int64()}
    versions = tables.of_qemu(
        "hv_balloon_incoming_version", **{name: (pl.col(name), dtype) for name, dtype in integers.items()}
    )
    caps = tables.of_qemu("hv_balloon_incoming_caps", caps=(pl.col("caps"), pl.Int64()))
    states = tables.of_qemu(STATE_CHANGE, state=(pl.col("tostr"), pl.String()))
    targets = tables.of_qemu(TARGET, bytes=(pl.col("addr"), pl.UInt64()))
    operations = pl.concat([_operations(tables, what, *events) for what, events in _OPERATIONS.items()])
    answer = []
    vms = (
        pl.concat([frame.select("vm") for frame in (versions, caps, states, operations)])["vm"]
        .unique()
        .sort()
    )
    for vm in vms.to_list():
        own = pl.col("vm") == vm
        version, offered, state = (
            frame.filter(own).sort("seq").tail(1).to_dicts() for frame in (versions, caps, states)
        )
        done = operations.filter(own).sort("seq")
        rows = done.select("operation", "ts_ns", "pages", "packets", "answered_ns", "ns", "done").to_dicts()
        answer.append(
            {
                "vm": named(UNKNOWN if vm is None else vm),
                "version": f"{version[0]['major']}.{version[0]['minor']}" if version else None,
                "capabilities": _capabilities(offered[0]["caps"]) if offered else None,
                "state": state[0]["state"] if state else None,
                "targets": [
                    {"ts_ns": ts, "bytes": size}
                    for ts, size in targets.filter(own).select("ts_ns", "bytes").iter_rows()
                ],
                "requested": _sum(rows, "balloon", "pages"),
                "given": _sum(rows, "balloon", "done"),
                "asked_back": _sum(rows, "unballoon", "pages"),
                "returned": _sum(rows, "unballoon", "done"),
                "hot_add_asked": _sum(rows, "hot add", "pages"),
                "hot_added": _sum(rows, "hot add", "done"),
                "operations": rows,
            }
        )
    return answer


def _capabilities(caps: int) -> dict[str, Any]:
    """hv_balloon_incoming_caps: bit 0 balloon, 1 hot-add, 5:2 alignment of hot-added memory as a power of two in MB."""
    return {
        "balloon": bool(caps & 1),
        "hot_add": bool(caps >> 1 & 1),
        "hot_add_alignment_mb": 1 << (caps >> 2 & 15),
    }


def _sum(rows: list[dict[str, Any]], operation: str, column: str) -> int:
    return sum(row[column] or 0 for row in rows if row["operation"] == operation)


def _operations(tables: Tables, what: str, asks: str, answers: str) -> pl.DataFrame:
    """Operations of a kind: all that was asked from one answer to the next, with that answer.

    Transaction ids do not tell: the guest counts its own messages. A channel that is closed answers nothing any more.
    """
    asked = tables.of_qemu(asks, pages=(pl.col("count"), pl.Int64()))
    columns = {name: (pl.col(column), pl.Int64()) for name, column in _ANSWERED.get(what, {}).items()}
    answered = tables.of_qemu(answers, **columns).rename({"seq": "end_seq", "ts_ns": "answered_ns"})
    if "more" in columns:
        answered = answered.filter(pl.col("more") == 0)
    resets = tables.of_qemu(STATE_CHANGE, state=(pl.col("tostr"), pl.String()))
    resets = resets.filter(pl.col("state") == _RESET).select("vm", reset="seq")
    rows = asked.sort("seq")
    for right, on in ((answered.drop("vcpu", "tid"), "end_seq"), (resets, "reset")):
        rows = rows.join_asof(
            right.sort(on), left_on="seq", right_on=on, by="vm", strategy="forward", check_sortedness=False
        )
    late = (pl.col("reset") < pl.col("end_seq")).fill_null(value=False)
    rows = rows.with_columns(
        pl.when(~late).then(pl.col(name)).alias(name) for name in ("end_seq", "answered_ns", *columns)
    )
    rows = rows.group_by("vm", "end_seq", "reset", maintain_order=True).agg(
        pl.col("seq", "ts_ns").first(),
        pl.col("pages").sum(),
        pl.len().cast(pl.Int64).alias("packets"),
        pl.col("answered_ns", *columns).first(),
    )
    match what:
        case "balloon":
            rows = rows.with_columns(done=_given(tables, rows))
        case "hot add":
            rows = rows.with_columns(done=pl.when(pl.col("result") == _DONE).then("count").otherwise(0))
        case _:
            rows = rows.with_columns(done="pages")
    return rows.select(
        "vm",
        "seq",
        "ts_ns",
        "pages",
        "packets",
        "answered_ns",
        operation=pl.lit(what),
        ns=pl.col("answered_ns") - pl.col("ts_ns"),
        done=pl.when(pl.col("end_seq").is_not_null()).then("done").cast(pl.Int64),
    )


def _given(tables: Tables, rows: pl.DataFrame) -> pl.Series:
    """Pages that the guest gave for each of `rows`: the ranges that QEMU looks up until it asks again."""
    ranges = tables.of_qemu(_RANGES, count=(pl.col("count"), pl.Int64())).select("vm", "seq", "count")
    found = ranges.sort("seq").join_asof(
        rows.select("vm", at="seq").sort("at"),
        left_on="seq",
        right_on="at",
        by="vm",
        strategy="backward",
        check_sortedness=False,
    )
    sums = found.group_by("vm", "at").agg(given=pl.col("count").sum())
    joined = rows.join(sums, left_on=["vm", "seq"], right_on=["vm", "at"], how="left", maintain_order="left")
    return joined["given"].fill_null(0) if tables.has(_RANGES) else joined["given"]
