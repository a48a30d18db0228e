"""Whether events were lost between two events of a vCPU."""

from __future__ import annotations

import polars as pl

__all__ = ["lost_between"]

_EARLIEST, _LATEST = -(1 << 63), (1 << 63) - 1
#: Stands for all CPUs, or one that is not known; CPU numbers are 16 bits wide.
_EVERYWHERE = 1 << 16


def lost_between(lost: pl.DataFrame, start: pl.Expr, end: pl.Expr, cpus: tuple[pl.Expr, ...]) -> pl.Expr:
    """Return an expression: was anything lost between `start` and `end` (ns) on one of `cpus`, or on an unknown CPU?

    `lost` has the columns of lost.parquet (cpu, from_ns, to_ns; null as there). What ends at `start` or begins at
    `end` does not count.
    """
    if lost.is_empty():
        return pl.lit(value=False)
    # By CPU and start. No end is before that of an earlier span, so that one search finds the first span which ends
    # after `start`: no earlier one does, and none that follows begins sooner.
    spans = (
        lost.select(
            cpu=pl.col("cpu").cast(pl.Int64).fill_null(_EVERYWHERE),
            start=pl.col("from_ns").cast(pl.Int64).fill_null(_EARLIEST),
            end=pl.col("to_ns").cast(pl.Int64).fill_null(_LATEST),
        )
        .sort("cpu", "start")
        .with_columns(pl.col("end").cum_max().over("cpu"))
    )
    # A search key is a number for the CPU, and below it the time since shortly before the first end.
    numbers = {cpu: n for n, cpu in enumerate(spans["cpu"].unique(maintain_order=True))}
    bits = 63 - len(numbers).bit_length()
    base = max(min(spans["end"].to_list()) - 1, _EARLIEST)
    last = min(base + (1 << bits) - 1, _LATEST)

    def key(number: pl.Expr, ts: pl.Expr) -> pl.Expr:
        time: pl.Expr = ts.clip(base, last) - base
        return number * (1 << bits) + time

    def number(cpu: pl.Expr) -> pl.Expr:
        known: pl.Expr = cpu.cast(pl.Int64)
        return known.replace_strict(numbers, default=len(numbers), return_dtype=pl.Int64)

    ends = pl.lit(spans.select(key(number(pl.col("cpu")), pl.col("end"))).to_series())
    # Behind the last span stands one of no CPU.
    starts = pl.lit(pl.concat([spans["start"], pl.Series([_LATEST], dtype=pl.Int64)]))
    owners = pl.lit(pl.concat([spans["cpu"], pl.Series([-1], dtype=pl.Int64)]))

    def hit(cpu: pl.Expr) -> pl.Expr:
        at = ends.search_sorted(key(number(cpu), start), side="right")
        return (owners.gather(at) == cpu) & (starts.gather(at) < end)

    # An expression of the events' length, as those of their CPUs are.
    everywhere = start * 0 + _EVERYWHERE
    found: pl.Expr = pl.any_horizontal(*(hit(cpu) for cpu in (*cpus, everywhere)))
    return found.fill_null(value=False)
