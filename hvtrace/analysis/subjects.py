"""What exits and accesses are about: MSRs, ports, addresses, hypercalls, CPUID leaves, vectors.

A row says which tracepoints tell it and how their key becomes columns and a label. A new subject is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from hvtrace.abi import exit_reasons
from hvtrace.analysis.pairs import Rows, key_of
from hvtrace.schema.names import EXIT_REASON, NAME_TABLES

__all__ = ["ACCESSES", "SUBJECTS", "Subject", "exit_reason"]

Columns = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of thing that an exit can be about.

    `columns` are those that a key gives; the first has the subject's name. `label` is what people read.
    """

    name: str
    rows: tuple[Rows, ...]
    columns: Callable[[int], Columns]
    label: Callable[[Columns], str]
    #: Of several rows in one unit the last one counts, not the first.
    last: bool = False


def exit_reason(key: int) -> str:
    """Name of an exit reason; a VMX reason's flags follow it. The key is isa << 32 | exit_reason."""
    isa, reason = key >> 32, key & 0xFFFFFFFF
    basic = reason & 0xFFFF if isa == exit_reasons.ISA_VMX else reason
    name = NAME_TABLES[EXIT_REASON].get(isa << 32 | basic, f"{basic:#x}")
    flags = exit_reasons.VMX_FLAGS.items() if isa == exit_reasons.ISA_VMX else ()
    return " ".join([name, *(flag for bit, flag in flags if reason & bit)])


def _msr(key: int) -> Columns:
    index, access = key >> 1, "write" if key & 1 else "read"
    return {"msr": NAME_TABLES["msr"].get(index, f"{index:#x}"), "index": index, "access": access}


def _port(key: int) -> Columns:
    return {"port": key >> 1, "access": "out" if key & 1 else "in"}


def _address(key: int) -> Columns:
    return {"address": key >> 1, "access": "write" if key & 1 else "read"}


#: Marks the numbers of KVM's own hypercalls; Hyper-V's codes have 16 bits.
_KVM_CALL = 1 << 32


def _hypercall(key: int) -> Columns:
    code = key & (_KVM_CALL - 1)
    table, unknown = ("kvm_hypercall", f"KVM {code}") if key & _KVM_CALL else ("hv_hypercall", f"{code:#06x}")
    return {"hypercall": NAME_TABLES[table].get(code, unknown), "code": code}


def _access(name: str) -> Callable[[Columns], str]:
    def label(columns: Columns) -> str:
        value = columns[name]
        return f"{columns['access']} {value if isinstance(value, str) else hex(value)}"

    return label


_LOW_32 = 0xFFFFFFFF

SUBJECTS: tuple[Subject, ...] = (
    Subject("msr", (Rows("kvm_msr", key_of("ecx", pl.col("write") != 0)),), _msr, _access("msr")),
    Subject("port", (Rows("kvm_pio", key_of("port", pl.col("rw") != 0)),), _port, _access("port")),
    Subject(
        "address",
        (
            Rows("kvm_mmio", key_of("gpa", pl.col("type") == 2)),
            # Writes that an ioeventfd took.
            Rows("kvm_fast_mmio", pl.col("gpa") * 2 + 1),
        ),
        _address,
        _access("address"),
    ),
    Subject(
        "hypercall",
        (
            Rows("kvm_hv_hypercall", pl.col("code").cast(pl.UInt64)),
            Rows("kvm_hypercall", (pl.col("nr") & _LOW_32) + _KVM_CALL),
        ),
        _hypercall,
        lambda columns: str(columns["hypercall"]),
    ),
    Subject(
        "cpuid",
        (Rows("kvm_cpuid", pl.col("function").cast(pl.UInt64)),),
        lambda key: {"cpuid": key},
        lambda columns: f"leaf {columns['cpuid']:#x}",
    ),
    Subject(
        "vector",
        (Rows("kvm_inj_virq", pl.col("vector").cast(pl.UInt64)),),
        lambda key: {"vector": key},
        lambda columns: f"→ vector {columns['vector']:#x}",
        # What is injected last before the entry is what the guest gets.
        last=True,
    ),
)

#: Event of hvtrace.analysis.pairs.EVENTS → what its key says, and how perf prints it.
ACCESSES: dict[str, tuple[Callable[[int], Columns], Callable[[Columns], str]]] = {
    "mmio": (_address, lambda c: f"{c['address']:#x}:{'W' if c['access'] == 'write' else 'R'}"),
    "ioport": (_port, lambda c: f"{c['port']:#x}:{'POUT' if c['access'] == 'out' else 'PIN'}"),
    "msr": (_msr, lambda c: f"{c['index']:#x}:{'W' if c['access'] == 'write' else 'R'}"),
}
