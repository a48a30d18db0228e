"""Small machines of which only the events are traced: a timer, a SINT, a vector, a host thread.

What is drawn lies between two events of one machine. An event is a row: `machine` (number of the machine: its vCPU's
key and, in the low bits, its index), `seq`, `ts`, `kind`, and what the kind needs besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.cut import Keys
from hvtrace.export.details import Shown
from hvtrace.export.packets import Argument, Flows, Kind
from hvtrace.export.states import NO_VM, Losses
from hvtrace.export.window import Slices, Window

__all__ = [
    "UNFINISHED",
    "Machines",
    "Source",
    "after",
    "before",
    "instants_of",
    "key_of",
    "latest",
    "slices_of",
    "unbroken",
    "until_end",
]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Source:
    """A tracepoint that is an event of a machine: its kind, its index within the vCPU, other columns by name."""

    tracepoint: str
    kind: int
    index: pl.Expr
    columns: Mapping[str, pl.Expr]
    #: Rows that are no such event.
    unless: pl.Expr | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the tracepoint that are read."""
        expressions = [self.index, *self.columns.values()]
        expressions += [] if self.unless is None else [self.unless]
        return tuple(dict.fromkeys(name for e in expressions for name in e.meta.root_names()))

    @property
    def tells(self) -> tuple[str, ...]:
        """Columns that tell which machine's event a row is, and whether it is one."""
        expressions = [self.index] if self.unless is None else [self.index, self.unless]
        return tuple(dict.fromkeys(name for e in expressions for name in e.meta.root_names()))


def key_of(vm: str = "vm", vcpu: str = "vcpu") -> pl.Expr:
    """The key of each row's vCPU (hvtrace.export.states.vcpu_keys)."""
    return pl.col(vm).fill_null(NO_VM).cast(pl.Int64) * 0x10000 + pl.col(vcpu).cast(pl.Int64)


_BASE: Mapping[str, pl.DataType] = {
    "machine": pl.Int64(),
    "seq": pl.Int64(),
    "ts": pl.Int64(),
    "kind": pl.Int8(),
}


class Machines:
    """All machines of one sort. The index has `bits` bits; `columns` are the further columns of their events.

    `schema`: all columns of an event. Of each machine, kind, and value of the columns `apart`, the last event is
    remembered.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        bits: int,
        columns: Mapping[str, pl.DataType],
        apart: Sequence[str] = (),
    ) -> None:
        self._sources = sources
        self._bits = bits
        self._apart = ("machine", "kind", *apart)
        self.schema = {**_BASE, **columns}
        self._past = pl.DataFrame(schema=self.schema)

    @property
    def tables(self) -> dict[str, tuple[str, ...]]:
        """Tracepoints needed and their columns."""
        return {source.tracepoint: source.needs for source in self._sources}

    @property
    def by(self) -> dict[str, Keys]:
        """By tracepoint: the columns that tell machines apart, and rows that are events from those that are not."""
        return {s.tracepoint: (("vm", "vcpu", *s.tells),) for s in self._sources}

    def events(self, new: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Events of a window's new rows and those of before that count, by machine and in order.

        The column `new` tells them apart. Rows that name no vCPU are left out, and those of a damaged recording that
        name a machine which cannot be.
        """
        parts = [
            self._read(source, rows.lazy())
            for source in self._sources
            if (rows := new.get(source.tracepoint)) is not None and len(rows)
        ]
        return self._joined(parts)

    def _read(self, source: Source, rows: pl.LazyFrame) -> pl.LazyFrame:
        index = source.index.cast(pl.Int64)
        rows = rows.filter(pl.col("vcpu").is_not_null() & index.is_between(0, (1 << self._bits) - 1))
        if source.unless is not None:
            rows = rows.filter(~source.unless)
        given = {
            "machine": key_of() * (1 << self._bits) + index,
            "seq": pl.col("seq"),
            "ts": pl.col("ts_ns"),
            "kind": pl.lit(source.kind),
            **source.columns,
        }
        return rows.select(
            given.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in self.schema.items()
        )

    def joined(self, events: pl.DataFrame) -> pl.DataFrame:
        """As `events`, of rows that are events already."""
        return self._joined([events.lazy()])

    def _joined(self, parts: Sequence[pl.LazyFrame]) -> pl.DataFrame:
        old = self._past.lazy().with_columns(new=pl.lit(False))
        new = [part.with_columns(new=pl.lit(True)) for part in parts]
        return pl.concat([old, *new]).sort("machine", "seq").collect()

    def remember(self, events: pl.DataFrame) -> None:
        """Keep what counts of these events later."""
        if len(events):
            last = events.unique(self._apart, keep="last", maintain_order=True)
            self._past = last.select(*self.schema)


def after(column: str) -> pl.Expr:
    """The column of the machine's next event; null where there is none. Events are by machine and in order."""
    same = pl.col("machine").shift(-1) == pl.col("machine")
    return pl.when(same).then(pl.col(column).shift(-1))


def before(column: str) -> pl.Expr:
    """The column of the machine's event before; null where there is none. Events are by machine and in order."""
    same = pl.col("machine").shift(1) == pl.col("machine")
    return pl.when(same).then(pl.col(column).shift(1))


def latest(column: pl.Expr) -> pl.Expr:
    """The last value that is not null, of the machine's events up to this one."""
    return column.forward_fill().over("machine")


#: end_seq of what the recording's end cuts off: after all events.
_NEVER = 1 << 61

#: Argument of what the recording's end cuts off.
UNFINISHED = Shown("unfinished", "unfinished", Kind.BOOL)


def until_end(rows: pl.LazyFrame, window: Window, bits: int) -> pl.DataFrame:
    """Let what has no next event in the last window last to the recording's end, where its VM is there until then.

    `rows` have `end_seq`, `end_ts` and `end_new`; adds `unfinished`.
    """
    ends = dict(window.open_until) if window.final else {}
    last = (pl.col("machine") // (1 << bits)).replace_strict(ends, default=None, return_dtype=pl.Int64)
    is_open = pl.col("end_ts").is_null() & last.is_not_null()
    if window.edge:
        # Of what comes after the part wanted, not all events are there that end it.
        is_open &= ~pl.col("new")
    return rows.with_columns(
        end_ts=pl.when(is_open).then(last).otherwise(pl.col("end_ts")),
        end_seq=pl.when(is_open).then(_NEVER).otherwise(pl.col("end_seq")),
        end_new=is_open | pl.col("end_new"),
        unfinished=pl.when(is_open).then(True),
    ).collect()


def unbroken(rows: pl.DataFrame, losses: Losses, start: str = "ts", end: str = "end_ts") -> pl.DataFrame:
    """Rows whose two events have no loss between them, on any CPU: another event might have been lost.

    Nor does time run backwards from one to the other.
    """
    first, last = rows[start].to_numpy(), rows[end].to_numpy()
    lost = losses.anywhere(first, last) | (last < first)
    return rows.filter(pl.Series(~lost)) if lost.any() else rows


def slices_of(
    category: str,
    rows: pl.DataFrame,
    track: npt.NDArray[np.uint64],
    name: npt.NDArray[np.uint64],
    arguments: Sequence[Argument] = (),
    flows: Flows | None = None,
) -> Slices:
    """Slices from the event in each row (`ts`, `seq`) to another one (`end_ts`, `end_seq`)."""
    start = rows["ts"].to_numpy()
    # A slice ends before the one that begins with the same event.
    return Slices(
        category,
        track,
        start,
        np.maximum(rows["end_ts"].to_numpy(), start),
        name,
        rows["seq"].to_numpy() * 2 + 1,
        rows["end_seq"].to_numpy() * 2,
        list(arguments),
        flows,
    )


def instants_of(
    category: str,
    rows: pl.DataFrame,
    track: npt.NDArray[np.uint64],
    name: npt.NDArray[np.uint64],
    arguments: Sequence[Argument] = (),
    flows: Flows | None = None,
) -> Slices:
    """Instants at the event in each row."""
    ts, key = rows["ts"].to_numpy(), rows["seq"].to_numpy() * 2 + 1
    return Slices(category, track, ts, ts, name, key, key, list(arguments), flows, instant=True)
