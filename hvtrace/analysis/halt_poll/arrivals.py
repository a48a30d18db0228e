"""When what ended a halt came, as far as an event tells, and so how long waking up took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.analysis.halt_poll.halts import UNKNOWN, Recorded

__all__ = ["CAUSES", "Arrivals", "arrivals"]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cause:
    """A tracepoint that tells of a wake-up's cause; `keys`: its column that says whose halt that ends."""

    table: str
    #: Column with the thread that is woken; None: the event's own vCPU.
    thread: str | None = None


#: The first of the first kind that lies in a halt ended it; a thread that is woken says it only where no other does: it
#: is the last step of waking a vCPU, and comes some time after what caused it.
CAUSES: tuple[tuple[Cause, ...], ...] = (
    (Cause("kvm_apic_accept_irq"), Cause("kvm_hv_stimer_callback"), Cause("kvm_apicv_accept_irq")),
    (Cause("sched_waking", "pid"), Cause("sched_wakeup", "pid")),
)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """For each halt `latency`, from the cause's event to kvm_vcpu_wakeup (UNKNOWN: no cause was traced in the halt).

    `cause`: which table told (rank in `tables`), UNKNOWN where none did.
    """

    latency: I64
    cause: I64
    tables: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """How many halts each table told of."""
        number = np.bincount(self.cause[self.cause != UNKNOWN], minlength=len(self.tables))
        return {table: int(n) for table, n in zip(self.tables, number, strict=True) if n}


def arrivals(tables: Mapping[str, pl.LazyFrame], halts: Recorded, *, in_ns: bool = True) -> Arrivals:
    """Find the cause of each halt's end. `in_ns`: stamps are ns, as the halts' times are; else none can be told."""
    names = tuple(cause.table for group in CAUSES for cause in group if cause.table in tables)
    latency = np.full(len(halts), UNKNOWN, np.int64)
    told = np.full(len(halts), UNKNOWN, np.int64)
    if not in_ns:
        return Arrivals(latency, told, names)
    start = halts.ts - halts.ns
    for group in CAUSES:
        first = np.full(len(halts), np.iinfo(np.int64).max)
        by = np.full(len(halts), UNKNOWN, np.int64)
        for cause in group:
            if cause.table not in tables:
                continue
            for mine, stamps in _stamps(tables[cause.table], cause, halts):
                at = np.searchsorted(stamps, start[mine])
                found = stamps[np.minimum(at, len(stamps) - 1)]
                inside = (at < len(stamps)) & (found <= halts.ts[mine]) & (found < first[mine])
                first[mine[inside]] = found[inside]
                by[mine[inside]] = names.index(cause.table)
        fresh = (told == UNKNOWN) & (by != UNKNOWN)
        latency[fresh] = (halts.ts - first)[fresh]
        told[fresh] = by[fresh]
    return Arrivals(latency, told, names)


def _stamps(rows: pl.LazyFrame, cause: Cause, halts: Recorded) -> Iterator[tuple[npt.NDArray[np.intp], I64]]:
    """Halts that such an event may end (their ranks), and the stamps of these events, for each vCPU or thread."""
    if cause.thread is None:
        of = halts.owner
        key = pl.col("vm").cast(pl.Int64) * (1 << 16) + pl.col("vcpu")
        known = rows.filter(pl.col("vm").is_not_null(), pl.col("vcpu").is_not_null())
    else:
        of = halts.tid
        key = pl.col(cause.thread).cast(pl.Int64)
        known = rows.filter(pl.col(cause.thread).is_in(np.unique(of).tolist()))
    found = known.select("ts_ns", key=key).sort("key", "ts_ns").collect()
    keys, stamps = found["key"].to_numpy(), found["ts_ns"].to_numpy()
    order = np.argsort(of, kind="stable")
    whose, starts = np.unique(of[order], return_index=True)
    ends = np.append(starts, len(of))[1:]
    for one, a, b in zip(whose.tolist(), starts.tolist(), ends.tolist(), strict=True):
        low, high = np.searchsorted(keys, [one, one + 1])
        if low < high:
            yield order[a:b], stamps[low:high]
