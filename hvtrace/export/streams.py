"""Tables of a store read side by side, a window of the merged time order at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from hvtrace.store import Store

__all__ = ["Which", "windows"]

#: Events (of all tracepoints) in one window.
WINDOW = 1 << 18
#: Rows decoded at a time from one table.
_BATCH = 1 << 16

#: What every table is read with.
COMMON = ("seq", "ts_ns", "cpu", "vm", "vcpu")
#: Tables of which the rows of other threads count as well.
UNFILTERED = frozenset({"sched_switch", "sched_wakeup"})


@dataclass(frozen=True, slots=True)
class Which:
    """The part wanted: a VM, a vCPU id, a span of time stamps. None: all."""

    vm: int | None = None
    vcpu: int | None = None
    first_ns: int | None = None
    last_ns: int | None = None


class _Stream:
    """One table's rows in order of `seq`, as far as they are of the vCPUs wanted."""

    def __init__(self, store: Store, table: str, columns: Sequence[str], which: Which) -> None:
        self._unfiltered = table in UNFILTERED
        self._all = which.vm is None and which.vcpu is None
        self._wanted = pl.col("vcpu").is_not_null()
        if which.vm is not None:
            self._wanted &= pl.col("vm") == which.vm
        if which.vcpu is not None:
            self._wanted &= pl.col("vcpu") == which.vcpu
        names = list(dict.fromkeys((*COMMON, *columns)))
        file = store.parquet(table)
        self._batches = file.iter_batches(batch_size=_BATCH, columns=names, use_threads=False)
        self._empty = pl.from_arrow(file.schema_arrow.empty_table().select(names))
        self._held: pl.DataFrame | None = None
        self._last = -1

    def _read(self) -> pl.DataFrame | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        frame = pl.DataFrame(pl.from_arrow(batch))
        self._last = int(frame["seq"][-1]) if len(frame) else self._last
        if self._unfiltered:
            return frame
        return frame if self._all and not frame["vcpu"].null_count() else frame.filter(self._wanted)

    def before(self, seq: int) -> pl.DataFrame:
        """Return the next rows, all that are before `seq`."""
        parts = [] if self._held is None else [self._held]
        self._held = None
        while self._last < seq:
            more = self._read()
            if more is None:
                self._last = 1 << 62
                break
            parts.append(more)
        frame = pl.concat(parts) if parts else pl.DataFrame(self._empty)
        cut = int(frame["seq"].search_sorted(seq, side="left"))
        if cut < len(frame):
            self._held = frame[cut:]
        return frame[:cut]


def windows(
    store: Store, tables: Mapping[str, Sequence[str]], which: Which, size: int = WINDOW
) -> Iterator[tuple[int, dict[str, pl.DataFrame]]]:
    """Yield windows of `size` events: how many events are done, and rows by table (in order of `seq`).

    `tables`: name → columns wanted beside the common ones. Tables the store does not have are left out.
    """
    streams = {
        table: _Stream(store, table, columns, which) for table, columns in tables.items() if store.has(table)
    }
    total = store.manifest.total
    for end in range(size, total + size, size):
        yield min(end, total), {table: stream.before(end) for table, stream in streams.items()}
