"""What advices ask of a recording, each question answered once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import polars as pl

from hvtrace.analysis.overview import overview
from hvtrace.analysis.scope import Scope
from hvtrace.store import Store

__all__ = ["Facts"]


class Facts:
    """The part of a store that is asked about. Times in ns (or ticks: `in_ns` is false)."""

    def __init__(self, store: Store, scope: Scope) -> None:
        scope.check(store)
        self.store = store
        self.scope = scope
        self.in_ns = store.manifest.clock.get("unit", "ns") == "ns"
        #: Tables of that part, by tracepoint.
        self.tables = {name: rows.filter(True, *scope.span()) for name, rows in scope.tables(store).items()}
        self.length_ns = scope.length_ns(store)
        self.vms: list[int] = [vm["vm"] for vm in store.manifest.vms if scope.vm in (None, vm["vm"])]

    def has(self, *tracepoints: str) -> bool:
        """Whether the store has rows of all of these."""
        return all(name in self.store.tracepoints for name in tracepoints)

    def per_second(self, count: int) -> float | None:
        """Rate of something counted; None where the clock counts ticks or no time passed."""
        return count * 1e9 / self.length_ns if self.in_ns and self.length_ns else None

    @cached_property
    def overview(self) -> dict[int, dict[str, Any]]:
        """VM → its part of hvtrace.analysis.overview: enlightenments offered and used, vCPUs. Of the whole store."""
        return {vm["vm"]: vm for vm in overview(self.store)["vms"]}

    def counts(self, table: str, *keys: str) -> pl.DataFrame:
        """Rows of a tracepoint by vm, vcpu and `keys`: count, first_seq. Empty where the store does not have it."""
        if table not in self.tables:
            return pl.DataFrame(
                schema={"vm": pl.UInt16, "vcpu": pl.UInt16, "count": pl.Int64, "first_seq": pl.UInt64}
            )
        by = ("vm", "vcpu", *keys)
        rows = self.tables[table].filter(pl.col("vm").is_not_null())
        return (
            rows.group_by(by)
            .agg(count=pl.len().cast(pl.Int64), first_seq=pl.col("seq").min())
            .sort(by)
            .collect()
        )
