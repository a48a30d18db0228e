"""The part of a store that `--from` and `--to` want, without reading what is before and after it.

What is open at the part's beginning began with the last event of its machine before, and what is open at its end
lasts until the first event after: these few rows are looked up, of each table by the columns that tell machines apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from hvtrace.store import Store

__all__ = ["BY_VCPU", "Keys", "Span", "first_after", "last_before", "span_of"]

#: Sets of columns, each of which tells machines apart.
Keys = tuple[tuple[str, ...], ...]

#: Unless a layer says otherwise.
BY_VCPU: Keys = (("vm", "vcpu"),)


@dataclass(frozen=True, slots=True)
class Span:
    """Events from seq `start` up to, not including, `stop`."""

    start: int
    stop: int


def span_of(store: Store, tables: Iterable[str], first_ns: int | None, last_ns: int | None) -> Span:
    """Events from the first one at or after `first_ns` to the last one at or before `last_ns` (None: no bound)."""
    total = store.manifest.total
    start, stop = 0, total
    if first_ns is not None:
        start = _first(store, tables, pl.col("ts_ns") >= first_ns, total)
    if last_ns is not None:
        stop = _first(store, tables, pl.col("ts_ns") > last_ns, total)
    return Span(start, max(start, stop))


def _first(store: Store, tables: Iterable[str], which: pl.Expr, total: int) -> int:
    frames = [store.scan(table).filter(which).select(pl.col("seq").min()) for table in tables]
    found = [frame["seq"][0] for frame in pl.collect_all(frames)]
    return min((int(seq) for seq in found if seq is not None), default=total)


def last_before(
    store: Store, table: str, columns: Sequence[str], seq: int, by: Keys = BY_VCPU
) -> pl.DataFrame:
    """The last row of each machine before `seq`, in order."""
    return _edge(store, table, columns, pl.col("seq") < seq, pl.col("seq").max(), by)


def first_after(
    store: Store, table: str, columns: Sequence[str], seq: int, by: Keys = BY_VCPU
) -> pl.DataFrame:
    """The first row of each machine at or after `seq`, in order."""
    return _edge(store, table, columns, pl.col("seq") >= seq, pl.col("seq").min(), by)


def _edge(
    store: Store,
    table: str,
    columns: Sequence[str],
    which: pl.Expr,
    one: pl.Expr,
    by: Keys,
) -> pl.DataFrame:
    rows = store.scan(table).filter(which)
    found = pl.collect_all([rows.group_by(keys).agg(one) for keys in by])
    seqs = pl.concat([frame["seq"] for frame in found]).unique()
    return rows.select(columns).filter(pl.col("seq").is_in(seqs.implode())).collect().sort("seq")
