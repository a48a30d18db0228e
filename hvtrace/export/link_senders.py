"""Flows from who sends to whom it reaches: of IPIs to the interrupt, of TLB flushes to the target's next entry."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.export.cut import Keys
from hvtrace.export.draw_interrupts import VECTOR_BITS, InterruptLayer
from hvtrace.export.links import FlowKind, flow_ids
from hvtrace.export.machines import key_of
from hvtrace.export.window import Slices, Window

__all__ = ["SenderLayer"]

I64 = npt.NDArray[np.int64]

#: KVM_HC_SEND_IPI: a0, a1 targets, a2 the first APIC id, a3 the ICR.
_KVM_SEND_IPI = 10

#: Tracepoint → vector it sends, and rows that do.
SENDERS: Mapping[str, tuple[pl.Expr, pl.Expr]] = {
    "kvm_hv_send_ipi": (pl.col("vector"), pl.lit(True)),
    "kvm_hv_send_ipi_ex": (pl.col("vector"), pl.lit(True)),
    "kvm_apic_ipi": (pl.col("icr_low"), pl.lit(True)),
    "kvm_hypercall": (pl.col("a3"), pl.col("nr") == _KVM_SEND_IPI),
}

#: HV_FLUSH_ALL_PROCESSORS (TLFS, HvCallFlushVirtualAddressSpace), and HV_GENERIC_SET_ALL of the calls with sets.
_ALL_PROCESSORS, _SET_ALL = 1, 1

FLUSHES: Mapping[str, tuple[pl.Expr, pl.Expr]] = {
    # An empty mask is taken for all processors, too.
    "kvm_hv_flush_tlb": (
        (pl.col("flags") & _ALL_PROCESSORS != 0) | (pl.col("processor_mask") == 0),
        pl.col("processor_mask"),
    ),
    # Which processors a sparse set names is not traced.
    "kvm_hv_flush_tlb_ex": (pl.col("format") == _SET_ALL, pl.lit(0, pl.UInt64)),
}


class SenderLayer:
    """Marks the exits that send, and the guest time before which a TLB flush is done. Draws nothing itself.

    `vcpus`: keys of all vCPUs by VM.
    """

    tables: Mapping[str, tuple[str, ...]] = {
        "kvm_hv_send_ipi": ("tid", "vector"),
        "kvm_hv_send_ipi_ex": ("tid", "vector"),
        "kvm_apic_ipi": ("tid", "icr_low"),
        "kvm_hypercall": ("tid", "nr", "a3"),
        "kvm_hv_flush_tlb": ("flags", "processor_mask"),
        "kvm_hv_flush_tlb_ex": ("format",),
    }

    by: Mapping[str, Keys] = {}

    def __init__(self, interrupts: InterruptLayer, vcpus: Mapping[int, list[int]]) -> None:
        self._interrupts = interrupts
        self._vcpus = vcpus
        self._past = pl.DataFrame(
            schema={"sender": pl.Int64, "seq": pl.Int64, "tid": pl.Int32, "vector": pl.Int64}
        )

    def draw(self, window: Window) -> list[Slices]:
        """Mark flows; no slices."""
        self._ipis(window)
        for table, (everyone, mask) in FLUSHES.items():
            if (rows := window.new.get(table)) is not None and len(rows):
                self._flushes(window, rows, everyone, mask)
        return []

    def _ipis(self, window: Window) -> None:
        """An interrupt accepted in the exit in which its vector was sent, by the thread that sent it, is that IPI."""
        sent = [
            rows.filter(which & pl.col("vcpu").is_not_null()).select(
                sender=key_of(),
                seq=pl.col("seq").cast(pl.Int64),
                tid=pl.col("tid"),
                vector=(vector % (1 << VECTOR_BITS)).cast(pl.Int64),
            )
            for table, (vector, which) in SENDERS.items()
            if (rows := window.new.get(table)) is not None and len(rows)
        ]
        senders = pl.concat([self._past, *sent]).sort("seq").with_columns(sent="seq")
        self._past = senders.drop("sent").unique(["tid", "vector"], keep="last", maintain_order=True)
        found = (
            self._interrupts.accepted.filter(pl.col("new"))
            .with_columns(vector=pl.col("machine") % (1 << VECTOR_BITS))
            .sort("seq")
            .join_asof(senders, on="seq", by=["tid", "vector"], strategy="backward", check_sortedness=False)
            .filter(pl.col("sent").is_not_null())
        )
        key, at, sent_at = (found[name].to_numpy() for name in ("sender", "seq", "sent"))
        points = window.points
        first, second = points.before(key, sent_at), points.before(key, at)
        same = (first >= 0) & (second >= 0)
        same[same] = points.unit[first[same]] == points.unit[second[same]]
        window.links.around(key[same], at[same], flow_ids(at[same], FlowKind.INTERRUPT))

    def _flushes(self, window: Window, rows: pl.DataFrame, everyone: pl.Expr, mask: pl.Expr) -> None:
        rows = rows.filter(pl.col("vcpu").is_not_null()).select(
            "vm",
            sender=key_of(),
            seq=pl.col("seq").cast(pl.Int64),
            everyone=everyone.fill_null(False),
            mask=mask.fill_null(0),
        )
        for (vm,), own in rows.group_by("vm", maintain_order=True):
            targets = np.array(self._vcpus.get(-1 if vm is None else int(str(vm)), []), np.int64)
            numbers = (targets & 0xFFFF).astype(np.uint64)
            masks = own["mask"].to_numpy()[:, None]
            # The calls without sets name the first 64 processors.
            named = (numbers < 64) & (masks >> np.minimum(numbers, np.uint64(63)) & np.uint64(1) != 0)
            reached = own["everyone"].to_numpy()[:, None] | named
            sender, seq = own["sender"].to_numpy(), own["seq"].to_numpy()
            row, to = np.nonzero(reached & (targets != sender[:, None]))
            flow = flow_ids(seq[row], FlowKind.FLUSH | numbers[to].astype(np.int64))
            window.links.around(sender[row], seq[row], flow)
            window.links.entering(targets[to], seq[row], flow)
