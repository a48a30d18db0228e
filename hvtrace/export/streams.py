"""Tables of a store read side by side, a window of the merged time order at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from hvtrace.export.cut import BY_VCPU, Keys, Span, first_after, last_before, span_of
from hvtrace.schema.qemu import QEMU
from hvtrace.store import Store

__all__ = ["Rows", "Which", "windows"]

#: Events (of all tracepoints) in one window.
WINDOW = 1 << 20
#: Events read before a span of time that is wanted.
LOOKED_BACK = 1 << 16
#: Rows decoded at a time from one table: about as many as it has in a window, between these bounds.
_FEWEST, _MOST = 1 << 10, 1 << 17

#: What every table is read with.
COMMON = ("seq", "ts_ns", "cpu", "vm", "vcpu")
#: Tables whose rows belong to a VM and not to its vCPUs.
OF_VM = frozenset(event.name for event in QEMU)
#: Tables of which the rows of other threads count as well.
UNFILTERED = frozenset({"sched_switch", "sched_wakeup"})


@dataclass(frozen=True, slots=True)
class Which:
    """The part wanted: a VM, a vCPU id, a span of time stamps, kinds of tracks (hvtrace.export.tracks). None: all."""

    vm: int | None = None
    vcpu: int | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    parts: frozenset[str] | None = None

    def wants(self, *parts: str) -> bool:
        """Whether tracks of one of these kinds are wanted."""
        return self.parts is None or not self.parts.isdisjoint(parts)


class _Stream:
    """One table's rows in order of `seq`, within the span, as far as they are of the vCPUs wanted."""

    def __init__(
        self, store: Store, table: str, columns: Sequence[str], which: Which, span: Span, share: float
    ) -> None:
        self._wanted = _wanted(table, which)
        self._every = which.vm is None and which.vcpu is None
        self._span = span
        file = store.parquet(table)
        groups = _groups(file, span)
        batch = min(max(int(file.metadata.num_rows * share), _FEWEST), _MOST)
        # Group by group: a reader of several holds on to what it has read.
        self._batches = chain.from_iterable(
            file.iter_batches(batch_size=batch, row_groups=[group], columns=list(columns), use_threads=False)
            for group in groups
        )
        self._empty = pl.from_arrow(file.schema_arrow.empty_table().select(columns))
        self._held: pl.DataFrame | None = None
        self._last = -1

    def _read(self) -> pl.DataFrame | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        frame = pl.DataFrame(pl.from_arrow(batch))
        self._last = int(frame["seq"][-1]) if len(frame) else self._last
        if len(frame) and frame["seq"][0] < self._span.start:
            frame = frame[int(frame["seq"].search_sorted(self._span.start, side="left")) :]
        if self._wanted is None or (self._every and not frame["vcpu"].null_count()):
            return frame
        return frame.filter(self._wanted)

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
        cut = int(np.searchsorted(frame["seq"].to_numpy(), seq, side="left"))
        if cut < len(frame):
            self._held = frame[cut:]
        return frame[:cut]


def _wanted(table: str, which: Which) -> pl.Expr | None:
    """Which rows of a table are wanted; None: all."""
    if table in UNFILTERED:
        return None
    if table in OF_VM:
        return None if which.vm is None else pl.col("vm") == which.vm
    wanted = pl.col("vcpu").is_not_null()
    if which.vm is not None:
        wanted &= pl.col("vm") == which.vm
    if which.vcpu is not None:
        wanted &= pl.col("vcpu") == which.vcpu
    return wanted


def _groups(file: Any, span: Span) -> list[int]:
    """Row groups that may hold rows of the span; all where the file does not say what is in them."""
    metadata = file.metadata
    column = file.schema_arrow.get_field_index("seq")
    found = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        known = statistics is not None and statistics.has_min_max
        if not known or (statistics.max >= span.start and statistics.min < span.stop):
            found.append(group)
    return found


@dataclass(frozen=True, slots=True)
class Rows:
    """A window: rows by table, and the first seq after it.

    `before`: it comes before the part wanted; what ends in it is not drawn. `edge`: of each machine there is only the
    last event before the window that follows, or the first one after the window before. `final`: it is the last one.
    """

    tables: dict[str, pl.DataFrame]
    end: int
    before: bool = False
    edge: bool = False
    final: bool = False


def windows(
    store: Store,
    tables: Mapping[str, Sequence[str]],
    which: Which,
    size: int = WINDOW,
    by: Mapping[str, Keys] = MappingProxyType({}),
) -> Iterator[Rows]:
    """Yield windows of at most `size` events: rows by table (in order of `seq`).

    `tables`: name → columns wanted beside the common ones. Tables the store does not have are left out. Where a span
    of time is wanted, the first windows hold what is open at its beginning, and the last one what ends after it;
    `by` tells machines apart (hvtrace.export.cut).
    """
    total = store.manifest.total
    wanted = {
        table: tuple(dict.fromkeys((*COMMON, *columns)))
        for table, columns in tables.items()
        if store.has(table)
    }
    span = span_of(store, wanted, which.first_ns, which.last_ns)

    def edge(look: Any, seq: int) -> dict[str, pl.DataFrame]:
        rows = {t: look(store, t, columns, seq, by.get(t, BY_VCPU)) for t, columns in wanted.items()}
        kept = {t: _wanted(t, which) for t in rows}
        return {t: own if (mine := kept[t]) is None else own.filter(mine) for t, own in rows.items()}

    # What led to the span's first events mostly is not far.
    start = max(0, span.start - LOOKED_BACK)
    if start > 0:
        yield Rows(edge(last_before, start), start, before=True, edge=True)
    around, share = Span(start, span.stop), size / max(total, 1)
    streams = {
        table: _Stream(store, table, columns, which, around, share) for table, columns in wanted.items()
    }
    ends = [*range(start + size, span.start, size), span.start] if start < span.start else []
    ends += [*range(span.start + size, span.stop, size), span.stop] if span.start < span.stop else []
    for end in ends:
        rows = {table: stream.before(end) for table, stream in streams.items()}
        # What the recording's end cuts off ends in the final one, also where nothing of the part wanted comes after.
        final = end == total
        yield Rows(rows, end, before=end <= span.start and not final, final=final)
    if span.stop < total:
        yield Rows(edge(first_after, span.stop), total, edge=True, final=True)
