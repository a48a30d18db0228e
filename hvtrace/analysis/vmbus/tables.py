"""The tables that tell of VMBus: QEMU's events and KVM's, by VM and in order.

VMs are numbers here, also where they are not known (UNKNOWN): frames are joined by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import polars as pl

from hvtrace.analysis.latency.events import Events
from hvtrace.analysis.losses import lost_between
from hvtrace.analysis.scope import Scope
from hvtrace.schema.qemu import BALLOON, VMBUS
from hvtrace.store import Store

__all__ = ["RECEIVED", "UNKNOWN", "Tables", "named", "vm_number"]

#: A VM that is not known.
UNKNOWN = -1

RECEIVED = "vmbus_recv_message"

#: Tracepoints of which at least one comes again and again as long as KVM is traced.
_PULSE = ("kvm_entry", "kvm_exit", "kvm_hv_hypercall", "kvm_hv_synic_set_irq")

_COMMON: Mapping[str, pl.DataType] = {
    "vm": pl.Int64(),
    "vcpu": pl.Int64(),
    "seq": pl.Int64(),
    "ts_ns": pl.Int64(),
    "tid": pl.Int64(),
}


def named(vm: int) -> int | None:
    """A VM as answers have it."""
    return None if vm == UNKNOWN else vm


def vm_number() -> pl.Expr:
    """The VM of each row."""
    return pl.col("vm").cast(pl.Int64).fill_null(UNKNOWN)


class Tables:
    """Tables of a store, of the VM asked for."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self.store = store
        self.scope = scope
        self.events = Events(store)

    def has(self, *tables: str) -> bool:
        """Whether the store has events of one of these."""
        return any(map(self.store.has, tables))

    @cached_property
    def qemu(self) -> bool:
        """Whether QEMU's events of VMBus are in the store."""
        return self.has(*(event.name for event in VMBUS))

    @cached_property
    def balloon(self) -> bool:
        """Whether QEMU's events of the Hyper-V balloon are in the store; `balloon_event` is any balloon's."""
        return self.has(*(event.name for event in BALLOON if event.name.startswith("hv_balloon")))

    @cached_property
    def residual_ns(self) -> int:
        """So far may stamps of QEMU's events be off against KVM's."""
        aligned = (source.get("aligned") or {} for source in self.store.manifest.sources)
        return max((one.get("residual_ns", 0) for one in aligned), default=0)

    @cached_property
    def covered(self) -> tuple[int, int] | None:
        """From when to when KVM's events are in the store; QEMU's may reach further. None: there are none."""
        ranges = [
            self.store.scan(table).select(first=pl.col("ts_ns").min(), last=pl.col("ts_ns").max())
            for table in _PULSE
            if self.store.has(table)
        ]
        if not ranges:
            return None
        found = pl.concat(ranges).collect().drop_nulls()
        first, last = found["first"].min(), found["last"].max()
        return (first, last) if isinstance(first, int) and isinstance(last, int) else None

    @cached_property
    def _sole(self) -> int:
        """The VM whose vCPUs send all messages: of it are QEMU's events of no known VM. UNKNOWN: several, or none."""
        if not self.store.has(RECEIVED):
            return UNKNOWN
        vms = self.store.scan(RECEIVED).select(pl.col("vm").drop_nulls().unique()).collect()["vm"]
        return int(vms[0]) if len(vms) == 1 else UNKNOWN

    def of_qemu(self, table: str, **columns: tuple[pl.Expr, Any]) -> pl.DataFrame:
        """QEMU's events of a table: vm, vcpu, seq, ts_ns, tid, and columns (expression and type). None without it."""
        schema = dict(_COMMON) | {name: dtype for name, (_, dtype) in columns.items()}
        if not self.store.has(table):
            return pl.DataFrame(schema=schema)
        own = {name: expression for name, (expression, _) in columns.items()}
        vm = pl.col("vm").cast(pl.Int64).fill_null(self._sole)
        rows = self.store.scan(table).select("vcpu", "seq", "ts_ns", "tid", vm=vm, **own)
        if self.scope.vm is not None:
            rows = rows.filter(pl.col("vm") == self.scope.vm)
        return rows.select(pl.col(name).cast(dtype) for name, dtype in schema.items()).sort("seq").collect()

    def of_kvm(self, table: str, *where: pl.Expr, **columns: pl.Expr) -> pl.DataFrame:
        """KVM's events of a table, in order: seq, ts_ns, cpu, tid, owner, vm, and columns. None without it."""
        if not self.store.has(table):
            own = {name: pl.Int64() for name in ("vm", *columns)}
            return (
                self.events.rows(table)
                .collect()
                .with_columns(pl.lit(None, dtype).alias(name) for name, dtype in own.items())
            )
        chosen = [*where, *self.scope.owners()]
        rows = self.events.rows(table, *chosen, vm=vm_number(), **columns).collect()
        # As a rule they are in order; sorting millions again takes longer than reading them.
        return rows.set_sorted("seq") if rows["seq"].is_sorted() else rows.sort("seq")

    @cached_property
    def _lost_by_qemu(self) -> pl.DataFrame:
        """Stretches of time in which QEMU dropped events."""
        schema = {"cpu": pl.UInt16, "from_ns": pl.Int64, "to_ns": pl.Int64}
        aligned = (source.get("aligned") or {} for source in self.store.manifest.sources)
        rows = [
            {"cpu": None, "from_ns": one["from_ns"], "to_ns": one["to_ns"]}
            for source in aligned
            for one in source.get("lost", ())
        ]
        return pl.DataFrame(rows, schema=schema)

    def lost(self, start: str, end: str, *, kvm: bool, qemu: bool) -> pl.Expr:
        """Whether events that would have counted were lost between two columns of time stamps.

        `kvm`: KVM's events count; `qemu`: QEMU's. Those that QEMU wrote into the host's recording are lost with it.
        """
        parts = []
        if kvm or (qemu and self.store.decoded):
            parts.append(self.events.lost.select("cpu", "from_ns", "to_ns"))
        if qemu:
            parts.append(self._lost_by_qemu)
        lost = pl.concat(parts).with_columns(cpu=pl.lit(None, pl.UInt16))
        return lost_between(lost, pl.col(start), pl.col(end), ())
