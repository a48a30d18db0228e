"""All declared tracepoints. A new tracepoint is one entry in one of the group files."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from hvtrace.schema.arrow import arrow_schema
from hvtrace.schema.common import column_name
from hvtrace.schema.kvm_apic import KVM_APIC
from hvtrace.schema.kvm_clock import KVM_CLOCK
from hvtrace.schema.kvm_core import KVM_CORE
from hvtrace.schema.kvm_hyperv import KVM_HYPERV
from hvtrace.schema.kvm_mmu import KVM_MMU
from hvtrace.schema.kvm_nested import KVM_NESTED
from hvtrace.schema.qemu import QEMU
from hvtrace.schema.sched import SCHED
from hvtrace.schema.tracepoint import Field, Tracepoint

__all__ = ["BY_NAME", "TRACEPOINTS", "event_fields", "event_schema"]

TRACEPOINTS: tuple[Tracepoint, ...] = (
    *KVM_CORE,
    *KVM_APIC,
    *KVM_HYPERV,
    *KVM_CLOCK,
    *KVM_NESTED,
    *KVM_MMU,
    *SCHED,
    *QEMU,
)

#: Declared tracepoints by every name they ever had.
BY_NAME: dict[str, Tracepoint] = {
    name: tracepoint for tracepoint in TRACEPOINTS for name in (tracepoint.name, *tracepoint.older)
}


def event_fields(tracepoint: Tracepoint) -> tuple[Field, ...]:
    """A tracepoint's own columns in table order: its fields, each followed by its decoded name if it has one.

    Field names that collide with a common column have the suffix already.
    """

    def columns() -> Iterator[Field]:
        for field in tracepoint.fields:
            yield Field(column_name(field.name), field.type, field.doc, field.older)
            for named in tracepoint.names:
                if named.field == field.name:
                    yield Field(named.column, "str", named.doc)

    return tuple(columns())


def event_schema(tracepoint: Tracepoint) -> pa.Schema:
    """Arrow schema of `event_fields`."""
    return arrow_schema(event_fields(tracepoint))
