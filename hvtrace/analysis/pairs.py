"""Pairs of events: what handling an exit, or an access, took, by the rules of `perf kvm stat`.

A pair begins and ends on one thread. In the words of `perf kvm stat report --event`:

    vmexit   kvm_exit → the next kvm_entry
    ioport   kvm_pio → the next kvm_entry
    msr      kvm_msr → the next kvm_entry
    mmio     a write: kvm_mmio → the next kvm_entry; a read: kvm_exit → the next kvm_mmio that has the value

Of two beginnings without an end between them the later counts; what a thread did before its first kvm_entry does not.
Those are perf's rules (tools/perf/builtin-kvm.c). Beyond them, both ends must be of the same vCPU; and pairs in which
events were lost, or which end before they begin, are marked, so that they need not be counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import polars as pl

from hvtrace.analysis.losses import lost_between

__all__ = ["BACKWARDS", "EVENTS", "LOST", "WHOLE", "Begin", "Part", "Rows", "key_of", "pairs"]

#: What `state` says of a pair.
WHOLE, LOST, BACKWARDS = "whole", "lost", "backwards"


class Part(IntEnum):
    """What a row does in a pair."""

    #: The time begins; what it is spent on is not known yet.
    OPEN = 0
    #: The time begins, on what the row's key says.
    BEGIN = 1
    #: The time ends, and what was opened was what the row's key says.
    CLOSE = 2
    #: The time ends, if it is known what it was spent on.
    END = 3
    #: Return to userspace.
    ASIDE = 4
    #: Tells what the unit was about.
    DETAIL = 5
    #: Tells that the exit was one of a nested guest.
    NESTED = 6


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a table, all or some; `key` (uint64) says what they are about."""

    table: str
    key: pl.Expr
    where: pl.Expr | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """What begins the pairs of an event, and what ends some before kvm_entry does."""

    rows: Rows
    part: Part = Part.BEGIN


def key_of(number: str, bit: pl.Expr) -> pl.Expr:
    """A key made of a column and, as lowest bit, a condition."""
    return pl.col(number).cast(pl.UInt64) * 2 + bit.cast(pl.UInt64)


_NO_KEY = pl.lit(0, pl.UInt64)
_ENTRIES = Rows("kvm_entry", _NO_KEY)
_RETURNS = Rows("kvm_userspace_exit", _NO_KEY)
#: KVM traces it for every exit from a guest's guest (L2), whoever handles it.
_NESTED = Rows("kvm_nested_vmexit", _NO_KEY)
#: isa << 32 | exit_reason.
_REASON = pl.col("isa").cast(pl.UInt64) * (1 << 32) + pl.col("exit_reason")
#: Of kvm_mmio: an address has fewer than 63 bits. A read that is not yet satisfied (type 0) is no pair's end.
_ADDRESS = key_of("gpa", pl.col("type") == 2)

EVENTS: Mapping[str, tuple[Begin, ...]] = {
    "vmexit": (Begin(Rows("kvm_exit", _REASON)),),
    "mmio": (
        Begin(Rows("kvm_exit", _NO_KEY), Part.OPEN),
        Begin(Rows("kvm_mmio", _ADDRESS, pl.col("type") == 2)),
        Begin(Rows("kvm_mmio", _ADDRESS, pl.col("type") == 1), Part.CLOSE),
    ),
    "ioport": (Begin(Rows("kvm_pio", key_of("port", pl.col("rw") != 0))),),
    "msr": (Begin(Rows("kvm_msr", key_of("ecx", pl.col("write") != 0))),),
}

#: `order` has the thread above so many bits, and `seq` in them.
_SEQ_BITS = 40
_TID_MASK = (1 << 24) - 1
#: `owner` has the VM above so many bits, and the vCPU in them.
_VCPU_BITS = 16
_NO_VM = 0xFFFF


def pairs(
    tables: Mapping[str, pl.LazyFrame],
    event: str = "vmexit",
    lost: pl.DataFrame | None = None,
    about: tuple[Rows, ...] = (),
    *,
    last: bool = False,
) -> pl.LazyFrame:
    """Return the pairs of an event of EVENTS, one row each.

    `tables` are a store's, by name; one that is absent has no rows. `lost` has the columns of lost.parquet.

    Columns: vm, vcpu, tid; seq and ts_ns of the event that begins the pair; end_seq of the one that ends it; ns, the
    time between them; userspace_ns, how much of it follows the first return to userspace; key, of the event; nested,
    whether the exit was one of a nested guest (kvm_nested_vmexit stands in the pair's unit); state: WHOLE, LOST (events
    were lost meanwhile) or BACKWARDS (it ends before it begins).

    With `about` there is one more column, about: the key of the first (or `last`) of these rows in the pair's unit,
    up to the pair's end; null where it has none. A unit is what lies between two kvm_entry. What stands in it before
    its kvm_exit belongs to it as well: KVM on SVM before 6.6 traces some exits late.
    """
    part, before = pl.col("part"), pl.col("part").shift(1)
    rows = _ordered(tables, event, about)
    rows = rows.with_columns(about=_about(last=last) if about else pl.lit(None, pl.UInt64))
    nested = rows.filter(part == Part.NESTED).select("unit", nested=pl.lit(value=True)).unique("unit")
    marked = _NESTED.table in tables
    if about or marked:
        rows = rows.filter(part < Part.DETAIL)
    rows = rows.with_columns(losses=_losses(lost))
    # Of several returns the first counts: no event tells when KVM_RUN was called again.
    rows = rows.filter((part != Part.ASIDE) | (before != Part.ASIDE))
    rows = rows.with_columns(returned=pl.when(before == Part.ASIDE).then(pl.col("ts_ns").shift(1)))
    rows = rows.filter(part != Part.ASIDE)
    found = _joined(rows, Part.BEGIN, (Part.END, Part.CLOSE))
    if any(begin.part == Part.OPEN for begin in EVENTS[event]):
        # An entry ends nothing as long as it is not known what was opened.
        opened = _joined(rows.filter(part != Part.END), Part.OPEN, (Part.CLOSE,))
        found = pl.concat([found, opened])
    if marked:
        found = found.join(nested, on="unit", how="left", maintain_order="left")
        found = found.with_columns(pl.col("nested").fill_null(value=False))
    else:
        found = found.with_columns(nested=pl.lit(value=False))
    return found.select(pl.exclude("unit", "about"), *(["about"] if about else []))


def _about(*, last: bool) -> pl.Expr:
    """Key of the first (or last) detail of a row's unit, among those before the row; null where there is none."""
    detail, unit = pl.col("part") == Part.DETAIL, pl.col("unit")
    told_in = pl.when(detail).then(unit).forward_fill()
    wanted = detail if last else detail & (told_in.shift(1) != unit).fill_null(value=True)
    return pl.when(told_in == unit).then(pl.when(wanted).then(pl.col("key")).forward_fill())


def _ordered(tables: Mapping[str, pl.LazyFrame], event: str, about: tuple[Rows, ...]) -> pl.LazyFrame:
    """Rows that have a part, by thread and seq, from each thread's first kvm_entry on."""
    parts = [
        *((begin.rows, begin.part) for begin in EVENTS[event]),
        (_ENTRIES, Part.END),
        (_RETURNS, Part.ASIDE),
        (_NESTED, Part.NESTED),
        *((rows, Part.DETAIL) for rows in about),
    ]
    # Linux has at most 2^22 threads; a damaged file may say anything.
    thread = (pl.col("tid").cast(pl.Int64) & _TID_MASK).cast(pl.UInt64)
    chosen = [
        tables[rows.table]
        .filter(pl.col("vcpu").is_not_null(), *([] if rows.where is None else [rows.where]))
        .select(
            "ts_ns",
            "cpu",
            order=thread * (1 << _SEQ_BITS) + pl.col("seq"),
            part=pl.lit(int(part), pl.UInt8),
            key=rows.key.fill_null(0),
            owner=pl.col("vm").fill_null(_NO_VM).cast(pl.UInt32) * (1 << _VCPU_BITS) + pl.col("vcpu"),
        )
        for rows, part in parts
        if rows.table in tables
    ]
    end = pl.col("part") == Part.END
    thread = pl.col("order") // (1 << _SEQ_BITS)
    return (
        pl.concat(chosen)
        .sort("order")
        .filter(pl.when(end).then(thread).forward_fill() == thread)
        # An entry closes its unit.
        .with_columns(unit=end.cum_sum() - end.cast(pl.UInt32))
    )


def _losses(lost: pl.DataFrame | None) -> pl.Expr:
    """How often events were lost up to a row, counted over all rows."""
    if lost is None or lost.is_empty():
        return pl.lit(0, pl.UInt32)
    ts, cpu = pl.col("ts_ns"), pl.col("cpu")
    return lost_between(lost, ts.shift(1), ts, (cpu.shift(1), cpu)).cum_sum().cast(pl.UInt32)


def _joined(rows: pl.LazyFrame, begin: Part, ends: tuple[Part, ...]) -> pl.LazyFrame:
    """Pairs of rows that follow each other: `begin`, and then one of `ends`, on one thread and of one vCPU."""
    first = {name: pl.col(name).shift(1) for name in ("order", "owner", "part", "ts_ns", "key", "losses")}
    ns = pl.col("ts_ns") - first["ts_ns"]
    thread = pl.col("order") // (1 << _SEQ_BITS)
    return (
        rows.select(
            "part",
            "owner",
            "unit",
            end_seq=pl.col("order") % (1 << _SEQ_BITS),
            tid=thread.cast(pl.Int32, strict=False),
            same=(first["order"] // (1 << _SEQ_BITS) == thread) & (first["owner"] == pl.col("owner")),
            begin=first["part"],
            seq=first["order"] % (1 << _SEQ_BITS),
            ts_ns=first["ts_ns"],
            ns=ns,
            userspace_ns=(pl.col("ts_ns") - pl.col("returned")).fill_null(0),
            key=pl.col("key") if begin == Part.OPEN else first["key"],
            about="about",
            lost=first["losses"] != pl.col("losses"),
        )
        .filter(pl.col("begin") == begin, pl.col("part").is_in([int(end) for end in ends]), pl.col("same"))
        .select(
            vm=(pl.col("owner") // (1 << _VCPU_BITS)).cast(pl.UInt16).replace(_NO_VM, None),
            vcpu=(pl.col("owner") % (1 << _VCPU_BITS)).cast(pl.UInt16),
            tid="tid",
            seq="seq",
            ts_ns="ts_ns",
            end_seq="end_seq",
            ns="ns",
            userspace_ns=pl.col("userspace_ns").clip(0, pl.col("ns").clip(0)),
            key="key",
            state=pl.when("lost")
            .then(pl.lit(LOST))
            .when(pl.col("ns") < 0)
            .then(pl.lit(BACKWARDS))
            .otherwise(pl.lit(WHOLE))
            .cast(pl.Enum([WHOLE, LOST, BACKWARDS])),
            unit="unit",
            about="about",
        )
    )
