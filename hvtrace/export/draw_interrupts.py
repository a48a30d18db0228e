"""Draws interrupts by vector: from injection to EOI, on a flow from whoever raised them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from hvtrace.export.details import Shown
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.links import FlowKind, flow_ids, flows_of, listed
from hvtrace.export.machines import Machines, Source, after, instants_of, slices_of, unbroken
from hvtrace.export.packets import Kind
from hvtrace.export.states import Losses
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import Arguments, Slices, Window

__all__ = ["ACCEPTED", "VECTOR_BITS", "InterruptLayer"]

I64 = npt.NDArray[np.int64]

ACCEPTED, INJECTED, EOI = 0, 1, 2

VECTOR_BITS = 8

#: Delivery modes that go through the APIC's request register: fixed and lowest priority (APIC_DM_*).
_FIXED, _LOWEST = 0, 0x100

#: Raisings of one interrupt that are drawn as flows; further ones change nothing for the guest.
MOST_RAISINGS = 32

SOURCES = (
    Source(
        "kvm_apic_accept_irq",
        ACCEPTED,
        pl.col("vec"),
        {"tid": pl.col("tid")},
        unless=~pl.col("dm").is_in([_FIXED, _LOWEST]),
    ),
    Source(
        "kvm_inj_virq",
        INJECTED,
        pl.col("vector"),
        {},
        # The same interrupt again, or one of the guest's own instructions.
        unless=pl.col("reinjected").fill_null(False) | pl.col("soft").fill_null(False),
    ),
    Source("kvm_eoi", EOI, pl.col("vector"), {}, unless=pl.col("vector") < 0),
)

#: `raised_ts`, `flows`: of an injection, since when it was raised and the flows of all raisings.
COLUMNS: Mapping[str, pl.DataType] = {
    "tid": pl.Int32(),
    "raised_ts": pl.Int64(),
    "flows": pl.List(pl.UInt64),
}

SHOWN = (
    Shown("vector", "vector", Kind.HEX),
    Shown("waited_ns", "waited", Kind.UINT),
    Shown("raised", "raised", Kind.UINT),
)


#: Bits of a seq in a number that orders events by machine and then by seq.
_SEQ_BITS = 44


class _Raisings(NamedTuple):
    """Interrupts raised: machine, seq, time stamp."""

    machine: I64
    seq: I64
    ts: I64

    def in_order(self) -> _Raisings:
        return self.where(np.lexsort((self.seq, self.machine)))

    def where(self, which: npt.NDArray[Any]) -> _Raisings:
        return _Raisings(self.machine[which], self.seq[which], self.ts[which])


def _nth(group: I64) -> I64:
    """How many of the same group come before each; groups stand together."""
    new = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(new, len(group)))
    return np.arange(len(group)) - np.repeat(new, sizes)


class InterruptLayer:
    """Injection to EOI, by vCPU and vector. `accepted` are the interrupts raised that this window knows of."""

    def __init__(self, names: Interned, tracks: Tracks, losses: Losses) -> None:
        self._names = names
        self._tracks = tracks
        self._losses = losses
        self._arguments = Arguments(names)
        self._labels = Labels(lambda vector: f"vector {vector:#04x}", names.event)
        # Who raised an interrupt is asked for by thread.
        self._machines = Machines(SOURCES, VECTOR_BITS, COLUMNS, apart=("tid",))
        self._waiting = _Raisings(*(np.zeros(0, np.int64) for _ in range(3)))
        self.tables = self._machines.tables
        self.by = self._machines.by
        self.accepted = pl.DataFrame()

    def draw(self, window: Window) -> list[Slices]:
        """Return interrupts whose EOI, or whose next injection, is in this window."""
        events = self._with_raisings(self._machines.events(window.new))
        self._machines.remember(events)
        self.accepted = events.filter(pl.col("kind") == ACCEPTED).select(
            "machine", "seq", "tid", "new", accept_seq="seq"
        )
        taken = events.filter(pl.col("kind") != ACCEPTED).with_columns(
            end_kind=after("kind"), end_seq=after("seq"), end_ts=after("ts"), end_new=after("new")
        )
        taken = taken.filter((pl.col("kind") == INJECTED) & pl.col("end_new").fill_null(window.final))
        taken = taken.with_columns(
            vector=pl.col("machine") % (1 << VECTOR_BITS),
            waited=pl.col("ts") - pl.col("raised_ts"),
            raised=pl.col("flows").list.len(),
        )
        served = unbroken(taken.filter(pl.col("end_kind") == EOI), self._losses)
        ends = served.filter(pl.col("flows").is_not_null())
        if len(ends):
            flows = ends.explode("flows")
            window.links.around(
                flows["machine"].to_numpy() >> VECTOR_BITS,
                flows["end_seq"].to_numpy(),
                flows["flows"].to_numpy(),
            )
        open_ended = taken.filter(pl.col("end_kind").ne_missing(EOI))
        return [self._drawn(served, slices_of), self._drawn(open_ended, instants_of)]

    def _with_raisings(self, events: pl.DataFrame) -> pl.DataFrame:
        """Give each new injection what was raised since the one before; what no injection took yet waits."""
        new = events["new"].to_numpy()
        kind = events["kind"].to_numpy()
        raised, injected = np.flatnonzero(new & (kind == ACCEPTED)), np.flatnonzero(new & (kind == INJECTED))
        machine, seq, ts = (events[name].to_numpy() for name in ("machine", "seq", "ts"))
        waiting = self._waiting
        raisings = _Raisings(
            np.concatenate([waiting.machine, machine[raised]]),
            np.concatenate([waiting.seq, seq[raised]]),
            np.concatenate([waiting.ts, ts[raised]]),
        ).in_order()
        # The first injection of the same machine after each raising; events are in order of machine, then of seq.
        rank = np.unique(np.concatenate([raisings.machine, machine[injected]]), return_inverse=True)[1]
        first, second = rank[: len(raisings.seq)], rank[len(raisings.seq) :]
        at = np.searchsorted(second << _SEQ_BITS | seq[injected], first << _SEQ_BITS | raisings.seq)
        taken = at < len(injected)
        taken[taken] = second[at[taken]] == first[taken]
        left = raisings.where(~taken)
        self._waiting = left.where(_nth(left.machine) < MOST_RAISINGS)
        raisings, at = raisings.where(taken), at[taken]
        few = _nth(at) < MOST_RAISINGS
        flows = flows_of(len(injected), at[few], flow_ids(raisings.seq[few], FlowKind.INTERRUPT))
        since = np.full(len(injected), -1, np.int64)
        # Backwards, so that the first one stays.
        since[at[::-1]] = raisings.ts[::-1]
        lists = pl.from_arrow(pa.LargeListArray.from_arrays(flows.offsets, flows.ids))
        own = pl.DataFrame({"row": injected, "since": since, "lists": lists}).filter(pl.col("since") >= 0)
        found = events.with_row_index("row").join(
            own.with_columns(pl.col("row").cast(pl.UInt32)), on="row", how="left", maintain_order="left"
        )
        return found.with_columns(
            raised_ts=pl.coalesce("since", "raised_ts"), flows=pl.coalesce("lists", "flows")
        ).drop("row", "since", "lists")

    def _drawn(self, rows: pl.DataFrame, make: Callable[..., Slices]) -> Slices:
        return make(
            "interrupt",
            rows,
            self._tracks.many("vector", rows["machine"].to_numpy(), VECTOR_BITS),
            self._labels(rows["vector"].to_numpy()),
            self._arguments.of(SHOWN, rows),
            listed(rows["flows"]),
        )
