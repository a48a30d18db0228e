"""Draws what is delivered to synthetic interrupt sources (SINTs): from delivery to acknowledgement."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.details import Shown
from hvtrace.export.draw_interrupts import VECTOR_BITS, InterruptLayer
from hvtrace.export.interning import Interned, Labels
from hvtrace.export.links import FlowKind, flow_ids, listed
from hvtrace.export.machines import Machines, Source, after, instants_of, slices_of, unbroken
from hvtrace.export.packets import Kind
from hvtrace.export.states import Losses
from hvtrace.export.tracks import Tracks
from hvtrace.export.window import Arguments, Slices, Window, column

__all__ = ["SINT_BITS", "SynicLayer"]

DELIVERED, ACKNOWLEDGED = 0, 1

SINT_BITS = 4

SOURCES = (
    Source(
        "kvm_hv_synic_set_irq",
        DELIVERED,
        pl.col("sint"),
        {name: pl.col(name) for name in ("tid", "vector", "ret")},
    ),
    Source("kvm_hv_notify_acked_sint", ACKNOWLEDGED, pl.col("sint"), {}),
)

COLUMNS: Mapping[str, pl.DataType] = {
    "tid": pl.Int32(),
    "vector": pl.Int32(),
    "ret": pl.Int32(),
    "accept_seq": pl.Int64(),
}

SHOWN = (Shown("vector", "vector", Kind.HEX), Shown("ret", "ret", Kind.INT))


def _label(number: int) -> str:
    return f"{'delivered' if number & 1 else 'not delivered'} (vector {number >> 1:#04x})"


def _numbers(rows: pl.DataFrame) -> npt.NDArray[np.int64]:
    """What `_label` takes: the vector, and whether the APIC took it."""
    return np.maximum(column(rows, "vector"), 0) << 1 | (column(rows, "ret") > 0)


class SynicLayer:
    """Deliveries, by vCPU and SINT. `delivered` are those this window knows of, with the interrupt each raised."""

    def __init__(self, names: Interned, tracks: Tracks, losses: Losses, interrupts: InterruptLayer) -> None:
        self._tracks = tracks
        self._losses = losses
        self._interrupts = interrupts
        self._arguments = Arguments(names)
        self._labels = Labels(_label, names.event)
        self._machines = Machines(SOURCES, SINT_BITS, COLUMNS)
        self.tables = self._machines.tables
        self.by = self._machines.by
        self.delivered = pl.DataFrame()

    def draw(self, window: Window) -> list[Slices]:
        """Return deliveries that were acknowledged in this window, or were followed by the next one."""
        events = self._with_interrupts(self._machines.events(window.new))
        self._machines.remember(events)
        deliveries = events.filter(pl.col("kind") == DELIVERED)
        self.delivered = deliveries.select("machine", "seq", "accept_seq")
        ids = flow_ids(events["accept_seq"].fill_null(0).to_numpy(), FlowKind.INTERRUPT)
        none = pl.lit([], pl.List(pl.UInt64))
        rows = events.with_columns(
            end_kind=after("kind"),
            end_seq=after("seq"),
            end_ts=after("ts"),
            end_new=after("new"),
            flow=pl.Series(ids, dtype=pl.UInt64),
        ).filter((pl.col("kind") == DELIVERED) & pl.col("end_new").fill_null(window.final))
        rows = rows.with_columns(
            flows=pl.when(pl.col("accept_seq").is_not_null()).then(pl.concat_list("flow")).otherwise(none)
        )
        acknowledged = unbroken(rows.filter(pl.col("end_kind") == ACKNOWLEDGED), self._losses)
        never = rows.filter(pl.col("end_kind").ne_missing(ACKNOWLEDGED))
        return [self._drawn(acknowledged, slices_of), self._drawn(never, instants_of)]

    def _with_interrupts(self, events: pl.DataFrame) -> pl.DataFrame:
        """Add `accept_seq`: the kvm_apic_accept_irq of each new delivery, which comes before it on its thread."""
        vector = pl.col("vector").cast(pl.Int64)
        delivery = pl.when(pl.col("kind") == DELIVERED).then(pl.col("seq"))
        found = (
            events.with_columns(
                to=pl.col("machine") // (1 << SINT_BITS) * (1 << VECTOR_BITS) + vector,
                last=delivery.forward_fill().shift(1).over("machine").fill_null(-1),
            )
            .sort("seq")
            .join_asof(
                self._interrupts.accepted.sort("seq").select(
                    "tid", to="machine", seq="seq", found="accept_seq"
                ),
                on="seq",
                by=["tid", "to"],
                strategy="backward",
                check_sortedness=False,
            )
        )
        fresh = (pl.col("kind") == DELIVERED) & pl.col("new")
        raised = (pl.col("ret") > 0) & (pl.col("found") > pl.col("last"))
        return (
            found.with_columns(
                accept_seq=pl.when(fresh & raised)
                .then(pl.col("found"))
                .when(~fresh)
                .then(pl.col("accept_seq"))
            )
            .drop("found", "to", "last")
            .sort("machine", "seq")
        )

    def _drawn(self, rows: pl.DataFrame, make: Callable[..., Slices]) -> Slices:
        return make(
            "synic",
            rows,
            self._tracks.many("sint", rows["machine"].to_numpy(), SINT_BITS),
            self._labels(_numbers(rows)),
            self._arguments.of(SHOWN, rows),
            listed(rows["flows"]),
        )
