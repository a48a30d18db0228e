"""A store's events as measures need them: of which vCPU, in which order, what follows what.

Two orders matter. A *machine* is something of a vCPU that has a number: a timer, a vector, a source; its events may
come from any thread and CPU. A *thread*'s events are those it traced itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.store import Store

__all__ = ["INDEX_BITS", "Events", "Followers", "Source", "after", "before", "owner_of", "place"]

I64 = npt.NDArray[np.int64]

#: `machine` has the vCPU's owner above so many bits, and the machine's number in them.
INDEX_BITS = 8
#: `owner` has the VM above so many bits, and the vCPU in them.
_VCPU_BITS = 16
_NO_VM = 0xFFFF
#: `order` has the thread above so many bits, and `seq` in them. Linux has at most 2^22 threads.
_SEQ_BITS = 40
_TID_MASK = (1 << 23) - 1


def owner_of(vm: str = "vm", vcpu: str = "vcpu") -> pl.Expr:
    """VM and vCPU of a row in one number; null where the vCPU is not known."""
    return pl.col(vm).cast(pl.Int64).fill_null(_NO_VM) * (1 << _VCPU_BITS) + pl.col(vcpu).cast(pl.Int64)


def place(owner: str = "owner") -> dict[str, pl.Expr]:
    """Columns vm and vcpu of an owner; null where not known."""
    vm = (pl.col(owner) // (1 << _VCPU_BITS)).cast(pl.UInt16, strict=False)
    vcpu = (pl.col(owner) % (1 << _VCPU_BITS)).cast(pl.UInt16, strict=False)
    known = pl.col(owner) >= 0
    return {"vm": pl.when(known & (vm != _NO_VM)).then(vm), "vcpu": pl.when(known).then(vcpu)}


@dataclass(frozen=True, slots=True)
class Source:
    """A tracepoint that is an event of a machine: its kind, the machine's number in the vCPU, further columns.

    `where`: which rows are such events.
    """

    table: str
    kind: int
    index: pl.Expr
    columns: Mapping[str, pl.Expr]
    where: pl.Expr | None = None


@dataclass(frozen=True, slots=True)
class Followers:
    """A table by thread and `seq`, in which what follows an event, or came before it, is found.

    `frame` has ts_ns, cpu, owner. `key` is thread and seq in one number, ascending.
    """

    key: I64
    frame: pl.DataFrame

    def after(self, rows: pl.DataFrame) -> I64:
        """Index of the first event after each of `rows` (tid, seq) on its thread; −1 where there is none."""
        asked = _order(rows)
        at = np.searchsorted(self.key, asked, side="right")
        return self._same_thread(asked, at)

    def before(self, rows: pl.DataFrame) -> I64:
        """Index of the last event before each of `rows` (tid, seq) on its thread; −1 where there is none."""
        asked = _order(rows)
        return self._same_thread(asked, np.searchsorted(self.key, asked, side="left") - 1)

    def _same_thread(self, asked: I64, at: I64) -> I64:
        inside = (at >= 0) & (at < len(self.key))
        found = np.where(inside, at, 0)
        if not len(self.key):
            return np.full(len(asked), -1, np.int64)
        same = inside & (self.key[found] >> _SEQ_BITS == asked >> _SEQ_BITS)
        return np.where(same, found, -1)

    def at(self, index: I64, names: Mapping[str, str]) -> pl.DataFrame:
        """Columns (seq, ts_ns, cpu, owner) of the events at `index` under other names (new: column); null at −1."""
        there = index >= 0
        if self.frame.is_empty():
            types = {new: self.frame.schema.get(column, pl.Int64()) for new, column in names.items()}
            return pl.DataFrame(schema=types).clear(len(index))
        at = np.where(there, index, 0)
        rows = pl.Series(at)
        seq = pl.Series(self.key[at] & ((1 << _SEQ_BITS) - 1))
        taken = self.frame.select(
            (pl.lit(seq) if column == "seq" else pl.col(column).gather(rows)).alias(new)
            for new, column in names.items()
        )
        if there.all():
            return taken
        return taken.select(pl.when(pl.lit(pl.Series(there))).then(pl.col(new)).alias(new) for new in names)


def _order(rows: pl.DataFrame) -> I64:
    tid = rows["tid"].cast(pl.Int64).fill_null(0).to_numpy() & _TID_MASK
    order: I64 = tid << _SEQ_BITS | rows["seq"].to_numpy()
    return order


class Events:
    """The tables of a store; of each that several measures need, the order is made once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._followers: dict[str, Followers] = {}
        self._kept: dict[str, pl.DataFrame] = {}

    def has(self, table: str) -> bool:
        """Whether the store has events of a tracepoint."""
        return self.store.has(table)

    @cached_property
    def lost(self) -> pl.DataFrame:
        """Stretches of time in which events were lost: cpu, from_ns, to_ns."""
        schema = {"cpu": pl.UInt16, "from_ns": pl.Int64, "to_ns": pl.Int64}
        return self.store.scan("lost").collect() if self.store.has("lost") else pl.DataFrame(schema=schema)

    @cached_property
    def vcpus(self) -> dict[int, list[int]]:
        """The vCPUs of each VM."""
        return {vm["vm"]: sorted(vcpu["vcpu"] for vcpu in vm["vcpus"]) for vm in self.store.manifest.vms}

    @cached_property
    def threads(self) -> pl.DataFrame:
        """The threads of vCPUs (tid, owner), each as long as its VM was there (first_seq, last_seq)."""
        rows = [
            {
                "tid": tid,
                "owner": vm["vm"] << _VCPU_BITS | vcpu["vcpu"],
                "first_seq": vm.get("first_seq") or 0,
                "last_seq": 1 << 62 if vm.get("last_seq") is None else vm["last_seq"],
            }
            for vm in self.store.manifest.vms
            for vcpu in vm["vcpus"]
            for tid in vcpu["tids"]
        ]
        schema = {"tid": pl.Int32, "owner": pl.Int64, "first_seq": pl.Int64, "last_seq": pl.Int64}
        return pl.DataFrame(rows, schema=schema)

    def rows(self, table: str, *where: pl.Expr, **columns: pl.Expr) -> pl.LazyFrame:
        """Events of a table in their order: seq, ts_ns, cpu, tid, owner, and further columns. None without a table."""
        if not self.has(table):
            wanted = {name: pl.lit(None) for name in columns}
            return pl.LazyFrame(schema=_COMMON).with_columns(**wanted)
        return (
            self.store.scan(table)
            .filter(True, *where)
            .select(pl.col("seq").cast(pl.Int64), "ts_ns", "cpu", "tid", owner=owner_of(), **columns)
        )

    def keep(self, name: str, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """Return what `make` returned for the first who asked under that name."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def followers(self, table: str) -> Followers:
        """A table by thread; what belongs to no vCPU is left out."""
        if table not in self._followers:
            order = (pl.col("tid").cast(pl.Int64).fill_null(0) & _TID_MASK) * (1 << _SEQ_BITS) + pl.col("seq")
            rows = self.rows(table, pl.col("vcpu").is_not_null()).select("ts_ns", "cpu", "owner", order=order)
            frame = rows.sort("order").collect()
            self._followers[table] = Followers(frame["order"].to_numpy(), frame.drop("order"))
        return self._followers[table]

    def machines(self, sources: Sequence[Source], columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Events of machines, by machine and in order: machine, index (its number), kind, seq, ts_ns, owner, `columns`.

        What belongs to no known vCPU is a machine by itself, with a negative number.
        """
        parts = []
        for source in sources:
            if not self.has(source.table):
                continue
            given = {
                name: source.columns.get(name, pl.lit(None)).cast(dtype, strict=False)
                for name, dtype in columns.items()
            }
            index = source.index.cast(pl.Int64)
            where = [] if source.where is None else [source.where]
            inside = index.is_between(0, (1 << INDEX_BITS) - 1)
            rows = self.rows(source.table, inside, *where, index=index, **given).drop("cpu", "tid")
            parts.append(rows.with_columns(kind=pl.lit(source.kind, pl.Int8)))
        if not parts:
            common = {name: pl.Int64() for name in ("machine", "seq", "ts_ns", "owner", "index")}
            return pl.DataFrame(schema={**common, **columns, "kind": pl.Int8()})
        number = pl.col("owner") * (1 << INDEX_BITS) + pl.col("index")
        rows = pl.concat(parts).select(pl.coalesce(number, -1 - pl.col("seq")).alias("machine"), pl.all())
        return _by_machine(rows.collect())


def _by_machine(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort by machine and seq: by one number where both fit into it, which is faster."""
    bits = int(rows["seq"].to_numpy().max(initial=0)).bit_length()
    if int(rows["machine"].to_numpy().max(initial=0)).bit_length() + bits > 62:
        return rows.sort("machine", "seq")
    return rows.sort(pl.col("machine") * (1 << bits) + pl.col("seq"))


_COMMON: Mapping[str, pl.DataType] = {
    "seq": pl.Int64(),
    "ts_ns": pl.Int64(),
    "cpu": pl.UInt16(),
    "tid": pl.Int32(),
    "owner": pl.Int64(),
}


def after(column: str, by: str = "machine") -> pl.Expr:
    """The column of the machine's next event; null where there is none. Events are by machine and in order."""
    return pl.when(pl.col(by).shift(-1) == pl.col(by)).then(pl.col(column).shift(-1))


def before(column: str, by: str = "machine") -> pl.Expr:
    """The column of the machine's event before; null where there is none. Events are by machine and in order."""
    return pl.when(pl.col(by).shift(1) == pl.col(by)).then(pl.col(column).shift(1))
