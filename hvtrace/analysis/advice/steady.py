"""Whether something goes on all the time, or was a burst: a guest that boots reads every clock a thousand times."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import polars as pl

from hvtrace.analysis.advice.facts import KIND_BITS, KINDS, Facts
from hvtrace.analysis.advice.finding import Advice, Unjudged
from hvtrace.analysis.advice.wording import duration

__all__ = ["STEADY", "Accesses", "about", "accesses", "per_slice", "slice_ns", "too_short"]

#: The part looked at is cut into ten slices, but none longer than a second or shorter than a tenth of one. What a boot
#: does (calibration: some tens of ms a clock) lies in one of them, or in two.
SLICES, LONGEST_NS, SHORTEST_NS = 10, 1_000_000_000, 100_000_000

#: In so many of them the rate must be reached.
STEADY = 3

#: In a shorter part nothing can be told.
MIN_NS = STEADY * SHORTEST_NS

_NUMBERS = {kind: number for number, kind in enumerate(KINDS, 1)}


@dataclass(frozen=True, slots=True)
class Accesses:
    """Exits on some registers of one VM: how many, the time they took, and in how many slices they reached a rate.

    `seqs`: ranks of the first and the last.
    """

    count: int
    time_ns: int
    userspace_ns: int
    steady: bool
    seqs: tuple[int, ...]

    @property
    def mean_ns(self) -> int:
        """Time of one."""
        return self.time_ns // self.count if self.count else 0


def about(kind: str, number: int, *, write: bool = False) -> int:
    """What Facts.handled calls an access to a register, port or address."""
    return (_NUMBERS[kind] << KIND_BITS) + number * 2 + write


def slice_ns(facts: Facts) -> int:
    """How long a slice is."""
    return min(max(facts.length_ns // SLICES, SHORTEST_NS), LONGEST_NS)


def too_short(facts: Facts, vm: int, advice: Advice) -> Iterator[Unjudged]:
    """Why nothing can be said about rates, if so."""
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: rates are not known")
    elif facts.length_ns < MIN_NS:
        reason = f"in less than {duration(MIN_NS)} a burst cannot be told from a habit"
        yield Unjudged(advice.code, advice.name, vm, reason)


def per_slice(facts: Facts, watched: Collection[int], untold: tuple[int, int] | None = None) -> pl.DataFrame:
    """Exits on what `watched` names, by vm, about and slice: count, time_ns, userspace_ns, first_seq, last_seq.

    `untold`: a reason (isa << 32 | exit_reason), and what those of its exits are about of which nothing tells it.
    """
    told = pl.col("about")
    if untold is not None:
        silent = told.is_null() & (pl.col("reason") == untold[0])
        told = pl.when(silent).then(pl.lit(untold[1], pl.UInt64)).otherwise(told)
    return (
        facts.handled.lazy()
        .with_columns(about=told)
        .filter(pl.col("about").is_in(sorted(watched)), ~pl.col("nested"))
        .group_by("vm", "about", slice=pl.col("ts_ns") // slice_ns(facts))
        .agg(
            count=pl.len().cast(pl.Int64),
            time_ns=pl.col("ns").sum(),
            userspace_ns=pl.col("userspace_ns").sum(),
            first_seq=pl.col("seq").min(),
            last_seq=pl.col("seq").max(),
        )
        .sort("vm", "about", "slice")
        .collect()
    )


def accesses(
    facts: Facts, slices: pl.DataFrame, vm: int, registers: Collection[int], rate: float
) -> Accesses:
    """What one VM's exits on some registers (see `about`) come to; `slices` are those of per_slice, `rate` a second."""
    own = slices.filter(pl.col("vm") == vm, pl.col("about").is_in(sorted(registers)))
    if own.is_empty():
        return Accesses(0, 0, 0, steady=False, seqs=())
    together = own.group_by("slice").agg(pl.col("count").sum())["count"]
    busy = int((together >= rate * slice_ns(facts) / 1e9).sum())
    ends = {min(own["first_seq"].to_list()), max(own["last_seq"].to_list())}
    return Accesses(
        int(own["count"].sum()),
        int(own["time_ns"].sum()),
        int(own["userspace_ns"].sum()),
        facts.in_ns and busy >= STEADY,
        tuple(sorted(ends)),
    )
