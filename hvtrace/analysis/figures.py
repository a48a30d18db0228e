"""Figures of pairs: counts, times, percentiles, histograms."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

__all__ = ["FIGURES", "PERCENTILES", "SORT_KEYS", "histograms", "statistics"]

#: Column → permille of the pairs that took no longer. The value is one that occurred (nearest rank).
PERCENTILES = {"p50_ns": 500, "p90_ns": 900, "p99_ns": 990, "p99_9_ns": 999}

#: What every row says of its pairs, in this order; times in ns.
FIGURES = (
    "count",
    "count_share",
    "time_ns",
    "time_share",
    "kernel_ns",
    "userspace_ns",
    "min_ns",
    "mean_ns",
    "max_ns",
    "deviation",
    *PERCENTILES,
)

#: Word on the command line → figure.
SORT_KEYS = {name.removesuffix("_ns").replace("_", "."): name for name in FIGURES if "share" not in name}


def statistics(pairs: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """Figures of pairs (ns, userspace_ns; see hvtrace.analysis.pairs) by `keys`: those of FIGURES but the shares.

    deviation is that of the mean, in percent of it: standard deviation / √count / mean, as perf prints it.
    """
    ns, number = pl.col("ns"), pl.len().cast(pl.Int64)
    ranks = {name: (number * permille + 999) // 1000 - 1 for name, permille in PERCENTILES.items()}
    return (
        pairs.sort("ns")
        .group_by(keys)
        .agg(
            count=number,
            time_ns=ns.sum(),
            userspace_ns=pl.col("userspace_ns").sum(),
            min_ns=ns.first(),
            max_ns=ns.last(),
            mean=ns.mean(),
            std=ns.std(ddof=1),
            **{name: ns.get(rank) for name, rank in ranks.items()},
        )
        .with_columns(
            kernel_ns=pl.col("time_ns") - pl.col("userspace_ns"),
            mean_ns=pl.col("mean").round().cast(pl.Int64),
            deviation=pl.when(pl.col("mean") > 0)
            .then(100 * pl.col("std") / pl.col("count").sqrt() / pl.col("mean"))
            .fill_null(0.0),
        )
        .drop("mean", "std")
    )


def histograms(pairs: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """How many pairs took 0 ns, 1 ns, 2 to 3 ns, 4 to 7 ns and so on, by `keys`.

    Columns: the keys; starts and ends (lists of ns: a step's longest time is its end − 1), counts (list). Steps in
    which there is nothing are left out.
    """
    # 0 for 0 ns; else the number of binary digits.
    digits = 64 - pl.col("ns").cast(pl.UInt64).bitwise_leading_zeros().cast(pl.Int64)
    number, two = pl.col("digits"), pl.lit(2, pl.Int64)
    return (
        pairs.group_by(*keys, digits=digits)
        .agg(counts=pl.len().cast(pl.Int64))
        .sort("digits")
        .with_columns(
            starts=pl.when(number > 0).then(two.pow(number - 1)).otherwise(0),
            ends=pl.when(number < 63).then(two.pow(number)).otherwise((1 << 63) - 1),
        )
        .group_by(keys)
        .agg("starts", "ends", "counts")
    )
