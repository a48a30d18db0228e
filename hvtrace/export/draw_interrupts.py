"""Draws interrupts by vector: from injection to EOI, on a flow from whoever raised them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

from hvtrace.export.details import Shown
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.links import FlowKind, flow_ids, listed
from hvtrace.export.machines import Machines, Source, after, instants_of, slices_of, unbroken
from hvtrace.export.packets import Kind
from hvtrace.export.states import Losses
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import Arguments, Slices, Window

__all__ = ["ACCEPTED", "VECTOR_BITS", "InterruptLayer"]

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
        self._raised = pl.DataFrame(schema={"machine": pl.Int64, "ts": pl.Int64, "raised_seq": pl.Int64})
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
        new = events.filter("new")
        raisings = new.filter(pl.col("kind") == ACCEPTED).select("machine", "ts", raised_seq="seq")
        found = (
            pl.concat([self._raised, raisings.select(self._raised.columns)])
            .sort("raised_seq")
            .join_asof(
                new.filter(pl.col("kind") == INJECTED).sort("seq").select("machine", "seq"),
                left_on="raised_seq",
                right_on="seq",
                by="machine",
                strategy="forward",
                check_sortedness=False,
            )
        )
        waiting = found.filter(pl.col("seq").is_null()).drop("seq")
        self._raised = waiting.group_by("machine").head(MOST_RAISINGS).sort("raised_seq")
        found = found.filter(pl.col("seq").is_not_null())
        ids = flow_ids(found["raised_seq"].to_numpy(), FlowKind.INTERRUPT)
        taken = (
            found.with_columns(flow=pl.Series(ids, dtype=pl.UInt64))
            .group_by("machine", "seq", maintain_order=True)
            .agg(taken_ts=pl.col("ts").first(), taken=pl.col("flow").head(MOST_RAISINGS))
        )
        return (
            events.join(taken, on=["machine", "seq"], how="left", maintain_order="left")
            .with_columns(raised_ts=pl.coalesce("taken_ts", "raised_ts"), flows=pl.coalesce("taken", "flows"))
            .drop("taken_ts", "taken")
        )

    def _drawn(self, rows: pl.DataFrame, make: Callable[..., Slices]) -> Slices:
        return make(
            "interrupt",
            rows,
            self._tracks.many("vector", rows["machine"].to_numpy(), VECTOR_BITS),
            self._labels(rows["vector"].to_numpy()),
            self._arguments.of(SHOWN, rows),
            listed(rows["flows"]),
        )
