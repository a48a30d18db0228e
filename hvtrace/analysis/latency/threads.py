"""What a vCPU's thread waits for: being run after a wake-up, userspace, other threads on its CPU."""

from __future__ import annotations

from collections.abc import Mapping
from errno import errorcode
from typing import Any

import numpy as np
import polars as pl

from hvtrace.analysis.latency.events import Events, after, before
from hvtrace.analysis.latency.measure import Measure
from hvtrace.schema.names import NAME_TABLES

__all__ = ["THREADS", "until"]

_RUNS, _PREEMPTED, _SLEEPS, _WOKEN = range(4)

#: prev_state of a thread that would have gone on: TASK_RUNNING, and what stands for preemption (TASK_REPORT_MAX).
_GOES_ON = (0, 0x100)

#: Where a thread was, by the last of these that it traced.
_PLACES = {"kvm_entry": "guest", "kvm_exit": "kernel", "kvm_userspace_exit": "userspace"}


def until(events: Events, rows: pl.DataFrame, table: str, again: pl.DataFrame | None = None) -> pl.DataFrame:
    """Add the next event of a table on each row's thread: end_seq, end_ns, end_cpu. Rows of a thread are by seq.

    Null where there is none, where it is another vCPU's, and where one of `again` (tid, seq; `rows`, if none are given)
    comes before it.
    """
    ends = events.followers(table)
    found = ends.at(
        ends.after(rows), {"end_seq": "seq", "end_ns": "ts_ns", "end_cpu": "cpu", "end_owner": "owner"}
    )
    rows = rows.hstack(found)
    next_one = pl.col("seq").shift(-1).over("tid")
    if again is not None:
        again = again.sort("seq").select("tid", "seq", next="seq")
        rows = rows.sort("seq").join_asof(
            again, on="seq", by="tid", strategy="forward", allow_exact_matches=False, check_sortedness=False
        )
        next_one = pl.col("next")
    ok = (pl.col("end_owner") == pl.col("owner")) & (pl.col("end_seq") < next_one.fill_null(1 << 62))
    return rows.with_columns(
        pl.when(ok).then(pl.col(name)).alias(name) for name in ("end_seq", "end_ns", "end_cpu")
    )


def _woken(events: Events) -> pl.DataFrame:
    how = pl.when(pl.col("waited")).then(pl.lit("slept")).otherwise(pl.lit("polled"))
    rows = events.rows("kvm_vcpu_wakeup", how=how).collect()
    return until(events, rows, "kvm_entry")


def _returned(events: Events) -> pl.DataFrame:
    # Texts of trace-cmd report and perf script do not tell errors (null): there the reason has to do.
    failed = (pl.col("errno") < 0).fill_null(value=False)
    reason = pl.when(~failed).then(pl.col("reason"))
    error = pl.when(failed).then(-pl.col("errno"))
    rows = events.rows("kvm_userspace_exit", reason=reason, error=error).collect()
    return until(events, rows, "kvm_entry")


def _switches(events: Events) -> pl.DataFrame:
    """What happened to the threads of vCPUs, by thread and in order."""
    return events.keep("switches", lambda: _switched(events))


def _switched(events: Events) -> pl.DataFrame:
    threads = events.threads
    schema = {"culprit": pl.String, "culprit_tid": pl.Int32, "kind": pl.Int8}
    parts = []
    if events.has("sched_switch"):
        # Of `R` in the text of trace-cmd's plugin it is not known which of the two it was.
        goes_on = pl.col("prev_state").is_in(list(_GOES_ON)) | pl.col("prev_state").is_null()
        kind = pl.when(goes_on).then(_PREEMPTED).otherwise(_SLEEPS).cast(pl.Int8)
        ours = pl.col("prev_pid").is_in(threads["tid"].implode())
        went = events.rows(
            "sched_switch",
            ours,
            thread=pl.col("prev_pid"),
            culprit=pl.col("next_comm").cast(pl.String),
            culprit_tid=pl.col("next_pid"),
            kind=kind,
        )
        ours = pl.col("next_pid").is_in(threads["tid"].implode())
        came = events.rows("sched_switch", ours, thread=pl.col("next_pid"), kind=pl.lit(_RUNS, pl.Int8))
        parts += [went, came]
    if events.has("sched_wakeup"):
        ours = pl.col("pid").is_in(threads["tid"].implode())
        parts.append(events.rows("sched_wakeup", ours, thread=pl.col("pid"), kind=pl.lit(_WOKEN, pl.Int8)))
    rows = [part.drop("owner", "tid").rename({"thread": "tid"}).collect() for part in parts] or [
        pl.DataFrame(schema={"seq": pl.Int64, "ts_ns": pl.Int64, "cpu": pl.UInt16, "tid": pl.Int32, **schema})
    ]
    found = pl.concat(rows, how="diagonal").join(threads, on="tid")
    found = found.filter(pl.col("seq").is_between("first_seq", "last_seq")).sort("tid", "seq")
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in found.columns]
    # Woken while it runs or waits to run: nothing changes.
    woken = pl.col("kind") == _WOKEN
    asleep = (before("kind", "tid") == _SLEEPS).fill_null(value=False)
    return found.with_columns(*missing).filter(~woken | asleep)


def _run(events: Events) -> pl.DataFrame:
    """Wake-ups: until the thread runs."""
    return _then_runs(events, _WOKEN)


def _then_runs(events: Events, kind: int) -> pl.DataFrame:
    runs = after("kind", "tid") == _RUNS
    return (
        _switches(events)
        .with_columns(
            end_seq=pl.when(runs).then(after("seq", "tid")), end_ns=pl.when(runs).then(after("ts_ns", "tid"))
        )
        .filter(pl.col("kind") == kind)
    )


def _entered(events: Events) -> pl.DataFrame:
    """Wake-ups: until the thread enters the guest, if it does so before it sleeps again."""
    rows = _switches(events)
    slept = rows.filter(pl.col("kind") == _SLEEPS)
    return until(events, rows.filter(pl.col("kind") == _WOKEN), "kvm_entry", slept).drop("cpu", "end_cpu")


def _preempted(events: Events) -> pl.DataFrame:
    """Threads that stop though they would go on: until they run again; and where they were."""
    rows = _then_runs(events, _PREEMPTED)
    last = np.full(len(rows), -1, np.int64)
    where = np.full(len(rows), -1, np.int8)
    names = list(_PLACES.values())
    for number, table in enumerate(_PLACES):
        if events.has(table) and len(rows):
            found = events.followers(table)
            seq = found.at(found.before(rows), {"seq": "seq"})["seq"].fill_null(-1).to_numpy()
            where = np.where(seq > last, number, where).astype(np.int8)
            last = np.maximum(last, seq)
    during = pl.Series(where).replace_strict(dict(enumerate(names)), default=None, return_dtype=pl.String)
    return rows.with_columns(during=during)


def _userspace_label(row: Mapping[str, Any]) -> str:
    if row["error"] is None and row["reason"] is None:
        return "KVM_RUN: ?"
    if row["error"] is not None:
        return f"KVM_RUN: {errorcode.get(row['error'], row['error'])}"
    return NAME_TABLES["userspace_exit"].get(row["reason"], f"reason {row['reason']}")


def _preempted_label(row: Mapping[str, Any]) -> str:
    where = row["during"] or "?"
    return f"by {row['culprit'] or '?'} ({row['culprit_tid']}), in {where}"


THREADS = (
    Measure(
        "wakeup-entry",
        "kvm_vcpu_wakeup → kvm_entry",
        (("kvm_vcpu_wakeup",), ("kvm_entry",)),
        ("how",),
        _woken,
        lambda row: f"after it {row['how']}",
        ("wake-up", "without an entry"),
    ),
    Measure(
        "sched-wakeup-run",
        "sched_wakeup of a vCPU's thread → it runs",
        (("sched_wakeup",), ("sched_switch",)),
        (),
        _run,
        lambda _: "vCPU threads",
        ("wake-up", "after which the thread did not run"),
    ),
    Measure(
        "sched-wakeup-entry",
        "sched_wakeup of a vCPU's thread → kvm_entry",
        (("sched_wakeup",), ("sched_switch",), ("kvm_entry",)),
        (),
        _entered,
        lambda _: "vCPU threads",
        ("wake-up", "after which the thread slept again"),
    ),
    Measure(
        "preempted",
        "a vCPU's thread is switched out while runnable → it runs",
        (("sched_switch",),),
        ("culprit", "culprit_tid", "during"),
        _preempted,
        _preempted_label,
        ("preemption", "without an end"),
    ),
    Measure(
        "userspace",
        "kvm_userspace_exit → kvm_entry",
        (("kvm_userspace_exit",), ("kvm_entry",)),
        ("reason", "error"),
        _returned,
        _userspace_label,
        ("return", "to userspace without an entry"),
    ),
)
