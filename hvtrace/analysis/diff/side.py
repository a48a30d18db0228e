"""One of the two recordings: when its VMs were recorded, and what happened in each block of that time."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.analysis.diff.measures import Measure, Part
from hvtrace.analysis.scope import Scope
from hvtrace.schema.groups import is_whole_group
from hvtrace.store import Store

__all__ = ["Side"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


class Side(Part):
    """The part of a recording that is compared.

    Its time is that of its VMs: from a VM's first exit or entry to its last, less what was lost; of several VMs at the
    same time each has its own.
    """

    def __init__(self, store: Store, scope: Scope) -> None:
        scope.check(store)
        super().__init__(store, scope)
        self.in_ns = store.manifest.clock.get("unit", "ns") == "ns"

    @cached_property
    def lives(self) -> dict[int, tuple[int, int]]:
        """VM → time stamps of its first and last exit or entry (event, without these) in the part asked for."""
        asked = [name for name in ("kvm_entry", "kvm_exit") if self.store.has(name)] or self.store.tracepoints
        rows = [
            self.store.scan(name)
            .filter(pl.col("vm").is_not_null(), *self.scope.owners(), *self.scope.span())
            .group_by("vm")
            .agg(first=pl.col("ts_ns").min(), last=pl.col("ts_ns").max())
            for name in asked
        ]
        if not rows:
            return {}
        found = (
            pl.concat(rows)
            .group_by("vm")
            .agg(pl.col("first").min(), pl.col("last").max())
            .sort("vm")
            .collect()
        )
        return {vm: (first, last) for vm, first, last in found.iter_rows()}

    @cached_property
    def start(self) -> int:
        """Time stamp of the first event of any VM."""
        return min((first for first, _ in self.lives.values()), default=0)

    @cached_property
    def length(self) -> int:
        """From the first event of any VM to the last, in ns."""
        return max((last for _, last in self.lives.values()), default=self.start) - self.start

    @cached_property
    def lost(self) -> I64:
        """Begins and ends of the times in which events were lost, in order: none overlap."""
        if not self.store.has("lost"):
            return np.zeros(0, np.int64)
        end = self.start + self.length
        rows = self.store.scan("lost").select("from_ns", "to_ns").collect()
        merged: list[int] = []
        for first, last in sorted(
            (self.start - 1 if first is None else first, end + 1 if last is None else last)
            for first, last in rows.iter_rows()
        ):
            if merged and first <= merged[-1]:
                merged[-1] = max(merged[-1], last)
            else:
                merged += [first, last]
        return np.array(merged, np.int64)

    @property
    def first_loss(self) -> int | None:
        """Time stamp after which events are first missing; None: none are."""
        return int(self.lost[0]) if len(self.lost) else None

    def exposure(self, edges: I64) -> F64:
        """Seconds of VM time recorded between each two edges."""
        begins, ends = edges[:-1], edges[1:]
        alive = np.zeros(len(begins))
        for first, last in self.lives.values():
            alive += np.clip(np.minimum(ends, last) - np.maximum(begins, first), 0, None)
        gone = np.zeros(len(begins))
        for first, last in self.lost.reshape(-1, 2):
            gone += np.clip(np.minimum(ends, last) - np.maximum(begins, first), 0, None)
        kept: F64 = alive * (1 - np.clip(gone / np.maximum(ends - begins, 1), 0, 1)) / 1e9
        return kept

    @cached_property
    def seconds(self) -> float:
        """Seconds of VM time recorded in all."""
        cuts = np.unique(
            np.concatenate([self.lost, np.array([t for life in self.lives.values() for t in life], np.int64)])
        )
        return float(self.exposure(cuts).sum()) if len(cuts) > 1 else 0.0

    def has(self, measure: Measure) -> bool:
        """Whether there are events of the measure's tracepoints."""
        return all(any(map(self.store.has, group)) for group in measure.needs)

    @cached_property
    def whole_group(self) -> bool:
        """Whether all of KVM's tracepoints were recorded, as nobody picks them one by one: the others never fired."""
        return is_whole_group(self.store.tracepoints)

    def recorded(self, measure: Measure) -> bool:
        """Whether the measure's tracepoints were recorded, as far as the recording shows it."""
        kvm = all(name.startswith("kvm_") for group in measure.needs for name in group)
        return self.has(measure) or (kvm and self.whole_group)

    def events(self, measure: Measure) -> pl.DataFrame:
        """Events of the measure while nothing was lost: key, ts_ns, and ns where it is timed. Of known VMs only."""
        columns = ["key", "ts_ns", *(["ns"] if measure.timed else [])]
        if not self.has(measure):
            return pl.DataFrame(schema={name: measure.key if name == "key" else pl.Int64 for name in columns})
        # Before its first entry userspace sets a VM up: that is not of its time.
        alive = pl.col("ts_ns").is_between(self.start, self.start + self.length)
        rows = measure.events(self).filter(alive, pl.col("vm").is_not_null(), pl.col("key").is_not_null())
        if len(self.lost):
            inside = pl.lit(pl.Series(self.lost)).search_sorted(pl.col("ts_ns"), side="left") % 2 == 1
            rows = rows.filter(~inside)
        return rows.select(columns).collect()
