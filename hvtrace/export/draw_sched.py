"""Draws the host's view of vCPU threads, where sched events were recorded: running, preempted, sleeping, woken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from hvtrace.export.cut import Keys
from hvtrace.export.details import Shown
from hvtrace.export.interning import Interned
from hvtrace.export.machines import UNFINISHED, Machines, after, before, slices_of, unbroken, until_end
from hvtrace.export.packets import Kind
from hvtrace.export.states import Losses
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import Arguments, Slices, Window

__all__ = ["SchedLayer"]

RUNNING, PREEMPTED, SLEEPING, WOKEN, EXITED = range(5)

NAMES = {RUNNING: "running", PREEMPTED: "preempted", SLEEPING: "sleeping", WOKEN: "runnable"}

#: prev_state of a thread that would have gone on: TASK_RUNNING, and what stands for preemption (TASK_REPORT_MAX).
_GOES_ON = (0, 0x100)
#: Bits of the prev_state of a thread that never comes back: EXIT_DEAD and EXIT_ZOMBIE. Nothing is drawn after it.
_DEAD = 0x10 | 0x20

SHOWN = (
    Shown("host_cpu", "cpu", Kind.UINT),
    Shown("preempted_by", "by", Kind.STRING),
    Shown("prev_state", "state", Kind.HEX),
    Shown("waker", "waker", Kind.STRING),
    UNFINISHED,
)


COLUMNS: Mapping[str, pl.DataType] = {
    "cpu": pl.Int64(),
    "state": pl.Int64(),
    "by": pl.String(),
    "waker": pl.String(),
}


class SchedLayer:
    """The thread of each vCPU. `vms` as in the manifest: which thread is which vCPU, and how long the VM was there."""

    tables: Mapping[str, tuple[str, ...]] = {
        "sched_switch": ("prev_comm", "prev_pid", "prev_state", "next_comm", "next_pid"),
        "sched_wakeup": ("pid", "comm", "tid"),
    }

    by: Mapping[str, Keys] = {
        "sched_switch": (("prev_pid",), ("next_pid",)),
        "sched_wakeup": (("pid",),),
    }

    def __init__(
        self,
        names: Interned,
        tracks: Tracks,
        losses: Losses,
        vms: list[dict[str, Any]],
        wanted: frozenset[int],
    ) -> None:
        self._names = names
        self._tracks = tracks
        self._losses = losses
        self._arguments = Arguments(names)
        self._threads = _threads(vms, wanted)
        self._machines = Machines((), 0, COLUMNS)

    def draw(self, window: Window) -> list[Slices]:
        """Return what ended in this window."""
        events = self._machines.joined(self._events(window.new))
        # Woken while it runs or waits to run: nothing changes.
        events = events.with_columns(was=before("kind")).filter(
            (pl.col("kind") != WOKEN) | pl.col("was").eq_missing(SLEEPING)
        )
        events = events.drop("was")
        self._machines.remember(events)
        followed = events.lazy().with_columns(
            end_seq=after("seq"), end_ts=after("ts"), end_new=after("new").fill_null(False)
        )
        rows = until_end(followed, window, 0)
        rows = unbroken(rows.filter(pl.col("end_new") & (pl.col("kind") != EXITED)), self._losses)
        kinds = rows["kind"].to_numpy()
        names = np.array([self._names.event(name) for _, name in sorted(NAMES.items())], np.uint64)
        return [
            slices_of(
                "sched",
                rows,
                self._tracks.many("host thread", rows["machine"].to_numpy()),
                names[kinds],
                self._arguments.of(SHOWN, self._with_strings(rows)),
            )
        ]

    def _events(self, new: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        parts = [
            pl.DataFrame(
                schema={"seq": pl.Int64, "ts": pl.Int64, "tid": pl.Int32, "kind": pl.Int8, **COLUMNS}
            )
        ]
        if (rows := new.get("sched_switch")) is not None:
            goes_on = pl.col("prev_state").is_in(_GOES_ON)
            dead = pl.col("prev_state") & _DEAD != 0
            went = rows.select(
                *_WHEN,
                tid="prev_pid",
                kind=pl.when(goes_on)
                .then(PREEMPTED)
                .when(dead)
                .then(EXITED)
                .otherwise(SLEEPING)
                .cast(pl.Int8),
                state="prev_state",
                by=pl.when(goes_on).then(_who("next_comm", "next_pid")),
            )
            came = rows.select(
                *_WHEN, tid="next_pid", kind=pl.lit(RUNNING, pl.Int8), cpu=pl.col("cpu").cast(pl.Int64)
            )
            parts += [went, came]
        if (rows := new.get("sched_wakeup")) is not None:
            woken = rows.select(*_WHEN, tid="pid", kind=pl.lit(WOKEN, pl.Int8), waker=_who("comm", "tid"))
            parts.append(woken)
        events = pl.concat(parts, how="diagonal").join(self._threads, on="tid")
        events = events.filter(pl.col("seq").is_between("first_seq", "last_seq"))
        return events.select(*self._machines.schema)

    def _with_strings(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Names of threads as the numbers of interned strings."""
        for column in ("by", "waker"):
            known = {name: self._names.string(name) for name in rows[column].drop_nulls().unique().to_list()}
            rows = rows.with_columns(
                pl.col(column).replace_strict(known, default=None, return_dtype=pl.UInt64)
            )
        return rows


_WHEN = (pl.col("seq").cast(pl.Int64), pl.col("ts_ns").alias("ts"))


def _who(comm: str, pid: str) -> pl.Expr:
    return pl.format("{} ({})", pl.col(comm).cast(pl.String).fill_null("?"), pl.col(pid))


def _threads(vms: list[dict[str, Any]], wanted: frozenset[int]) -> pl.DataFrame:
    rows = [
        {
            "tid": tid,
            "machine": vm["vm"] << 16 | vcpu["vcpu"],
            "first_seq": vm.get("first_seq") or 0,
            "last_seq": 1 << 62 if vm.get("last_seq") is None else vm["last_seq"],
        }
        for vm in vms
        for vcpu in vm["vcpus"]
        for tid in vcpu["tids"]
        if (vm["vm"] << 16 | vcpu["vcpu"]) in wanted
    ]
    schema = {"tid": pl.Int32, "machine": pl.Int64, "first_seq": pl.Int64, "last_seq": pl.Int64}
    return pl.DataFrame(rows, schema=schema)
