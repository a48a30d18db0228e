"""What an exit was about, tracepoint by tracepoint: the slice beneath the exit and its arguments.

A row says which columns make the name (packed into one number, so that a name is made once for each distinct
number) and which are shown as arguments. A new detail is a new row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from hvtrace.abi import exit_reasons
from hvtrace.abi.msr_x86 import x86_msr_name
from hvtrace.abi.status import status_name
from hvtrace.export.decode_input import decoded_input
from hvtrace.export.packets import Kind
from hvtrace.schema.names import EXIT_REASON, NAME_TABLES

__all__ = [
    "DETAILS",
    "EXIT_SHOWN",
    "HALT_NS",
    "INJECTED",
    "Detail",
    "Shown",
    "exit_label",
    "userspace_label",
]


@dataclass(frozen=True, slots=True)
class Shown:
    """An argument: the name people see, the column, its kind. With `label`, the value is shown as that string."""

    name: str
    column: str
    kind: Kind
    label: Callable[[int], str] | None = None
    #: Low bits of the value that `label` is given.
    bits: int = 32
    #: Left out where the value is 0.
    unless_zero: bool = False


@dataclass(frozen=True, slots=True)
class Detail:
    """A tracepoint that tells what an exit was about.

    `key` columns, each with its width in bits, make the number that `label` names. `more` are other tracepoints of
    the same unit (name, what their first row adds).
    """

    tracepoint: str
    key: tuple[tuple[str, int], ...]
    label: Callable[[int], str]
    shown: tuple[Shown, ...]
    more: tuple[tuple[str, tuple[Shown, ...]], ...] = ()
    #: Of several rows in one exit the last one counts, not the first.
    last: bool = False
    #: Further arguments that need more than a column: name, values, where they are there. Hexadecimal.
    decoded: Callable[[pl.DataFrame], Iterable[tuple[str, Any, Any]]] | None = None


def exit_label(number: int) -> str:
    """Name of an exit reason; a VMX reason's flags follow it. The number is isa << 32 | exit_reason."""
    isa, reason = number >> 32, number & 0xFFFFFFFF
    if isa != exit_reasons.ISA_VMX:
        return NAME_TABLES[EXIT_REASON].get(number, f"exit {reason:#x}")
    basic = NAME_TABLES[EXIT_REASON].get(isa << 32 | reason & 0xFFFF, f"exit {reason & 0xFFFF:#x}")
    flags = [name for bit, name in exit_reasons.VMX_FLAGS.items() if reason & bit]
    return " ".join([basic, *flags])


def userspace_label(number: int) -> str:
    """Name of a return to userspace; the number is errno (negated) << 32 | reason."""
    errno, reason = number >> 32, number & 0xFFFFFFFF
    if errno == 0:
        return NAME_TABLES["userspace_exit"].get(reason, f"KVM_EXIT {reason}")
    # KVM_RUN was interrupted by a signal: the kernel prints "restart".
    return "userspace: restart (EINTR)" if errno == _EINTR else f"userspace: error {errno}"


_EINTR = 4


def _msr(number: int) -> str:
    write, index = number >> 32, number & 0xFFFFFFFF
    name = NAME_TABLES["msr"].get(index) or x86_msr_name(index) or f"MSR {index:#x}"
    return f"{'write' if write else 'read'} {name}"


def _port(number: int) -> str:
    return f"{'out' if number >> 32 else 'in'} port {number & 0xFFFFFFFF:#x}"


_MMIO = {0: "mmio read", 1: "mmio read", 2: "mmio write"}


def _hypercall(number: int) -> str:
    return NAME_TABLES["hv_hypercall"].get(number, f"hypercall {number:#06x}")


def _kvm_hypercall(number: int) -> str:
    return NAME_TABLES["kvm_hypercall"].get(number, f"KVM hypercall {number}")


def _status(number: int) -> str:
    return status_name(number) or f"status {number & 0xFFFF:#x}"


#: In this order: where an exit has several, the first is its detail.
DETAILS: tuple[Detail, ...] = (
    Detail(
        "kvm_hv_hypercall",
        (("code", 16),),
        _hypercall,
        (
            Shown("input", "ingpa", Kind.HEX),
            Shown("output", "outgpa", Kind.HEX),
            Shown("fast", "fast", Kind.BOOL),
            Shown("var_cnt", "var_cnt", Kind.UINT, unless_zero=True),
            Shown("rep_cnt", "rep_cnt", Kind.UINT, unless_zero=True),
            Shown("rep_idx", "rep_idx", Kind.UINT, unless_zero=True),
        ),
        more=(
            (
                "kvm_hv_hypercall_done",
                (
                    Shown("result", "result", Kind.HEX),
                    Shown("status", "result", Kind.STRING, label=_status, bits=16),
                ),
            ),
            (
                "kvm_hv_send_ipi",
                (Shown("vector", "vector", Kind.HEX), Shown("processor_mask", "processor_mask", Kind.HEX)),
            ),
            (
                "kvm_hv_send_ipi_ex",
                (
                    Shown("vector", "vector", Kind.HEX),
                    Shown("format", "format", Kind.UINT),
                    Shown("valid_bank_mask", "valid_bank_mask", Kind.HEX),
                ),
            ),
            (
                "kvm_hv_flush_tlb",
                (
                    Shown("processor_mask", "processor_mask", Kind.HEX),
                    Shown("address_space", "address_space", Kind.HEX),
                    Shown("flags", "flags", Kind.HEX),
                ),
            ),
            (
                "kvm_hv_flush_tlb_ex",
                (
                    Shown("valid_bank_mask", "valid_bank_mask", Kind.HEX),
                    Shown("format", "format", Kind.UINT),
                    Shown("address_space", "address_space", Kind.HEX),
                    Shown("flags", "flags", Kind.HEX),
                ),
            ),
        ),
        decoded=decoded_input,
    ),
    Detail(
        "kvm_hypercall",
        (("nr", 32),),
        _kvm_hypercall,
        tuple(Shown(f"a{i}", f"a{i}", Kind.HEX) for i in range(4)),
    ),
    Detail(
        "kvm_msr",
        (("write", 1), ("ecx", 32)),
        _msr,
        (
            Shown("value", "data", Kind.HEX),
            Shown("msr", "ecx", Kind.HEX),
            Shown("gp", "exception", Kind.BOOL, unless_zero=True),
        ),
    ),
    Detail(
        "kvm_cpuid",
        (("function", 32),),
        lambda leaf: f"cpuid {leaf:#x}",
        (
            Shown("subleaf", "index", Kind.HEX),
            Shown("eax", "rax", Kind.HEX),
            Shown("ebx", "rbx", Kind.HEX),
            Shown("ecx", "rcx", Kind.HEX),
            Shown("edx", "rdx", Kind.HEX),
        ),
    ),
    Detail(
        "kvm_pio",
        (("rw", 1), ("port", 32)),
        _port,
        (
            Shown("value", "val", Kind.HEX),
            Shown("size", "size", Kind.UINT),
            Shown("count", "count", Kind.UINT),
        ),
    ),
    Detail(
        "kvm_mmio",
        (("type", 32),),
        lambda kind: _MMIO.get(kind, "mmio"),
        (
            Shown("address", "gpa", Kind.HEX),
            Shown("value", "val", Kind.HEX),
            Shown("size", "len", Kind.UINT),
        ),
        # A read that userspace serves comes twice: first without its value.
        last=True,
    ),
    Detail("kvm_fast_mmio", (), lambda _: "mmio write (ioeventfd)", (Shown("address", "gpa", Kind.HEX),)),
    Detail(
        "kvm_page_fault",
        (),
        lambda _: "page fault",
        (
            Shown("address", "fault_address", Kind.HEX),
            Shown("error_code", "error_code", Kind.HEX),
        ),
    ),
    Detail(
        "kvm_cr",
        (("rw", 1), ("cr", 32)),
        lambda number: f"{'write' if number >> 32 else 'read'} CR{number & 0xFFFFFFFF}",
        (Shown("value", "val", Kind.HEX),),
    ),
)

#: Interrupts injected on the way into the guest: an argument of the guest time that follows.
INJECTED = ("kvm_inj_virq", Shown("injected_vector", "vector", Kind.HEX))

#: Arguments of an exit.
EXIT_SHOWN = (
    Shown("rip", "guest_rip", Kind.HEX),
    Shown("info1", "info1", Kind.HEX, unless_zero=True),
    Shown("info2", "info2", Kind.HEX, unless_zero=True),
)

#: The whole halt that a slice is part of, polling and sleeping, as the kernel measured it.
HALT_NS = Shown("halt_ns", "ns", Kind.UINT)
