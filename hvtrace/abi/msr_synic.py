"""The SynIC's and the synthetic timers' MSRs (TLFS, Inter-partition communication; Timers)."""

from __future__ import annotations

from hvtrace.abi.msr_hyperv import feature
from hvtrace.abi.register import Access, Exit, Group, Kind, Msr, MsrField, Reserved, Scope, Store

__all__ = ["SINTS", "STIMERS", "SYNIC_MSRS"]

#: Number of synthetic interrupt sources and of timers a vCPU has.
SINTS = 16
STIMERS = 4

_SPEC = "TLFS, Inter-partition communication"
_PAGE = (
    MsrField("enable", 0),
    MsrField("reserved", 1, 11, Reserved.STORED_ANY),
    MsrField("gpn", 12, 63, doc="guest page number"),
)


def _sint(n: int) -> Msr:
    return Msr(
        0x4000_0090 + n,
        f"HV_X64_MSR_SINT{n}",
        Scope.VCPU,
        Access.READ_WRITE,
        feature(2),
        Kind.STORED,
        f"Synthetic interrupt source {n}; unmasked with a vector below 16 raises #GP.",
        _SPEC,
        fields=(
            MsrField("vector", 0, 7),
            MsrField("reserved8", 8, 15, Reserved.STORED_ANY),
            MsrField("masked", 16),
            MsrField("auto_eoi", 17),
            MsrField("polling", 18, doc="stored, without effect"),
            MsrField("reserved19", 19, 63, Reserved.STORED_ANY),
        ),
        reset=0x1_0000,
        store=Store.VALUE,
        group=Group.SYNIC,
    )


def _config(n: int) -> Msr:
    return Msr(
        0x4000_00B0 + 2 * n,
        f"HV_X64_MSR_STIMER{n}_CONFIG",
        Scope.VCPU,
        Access.READ_WRITE,
        feature(3),
        Kind.STORED,
        f"Configuration of synthetic timer {n}.",
        "TLFS, Synthetic timer configuration register",
        fields=(
            MsrField("enable", 0, doc="cleared by a count of 0 and by the expiration of a one-shot timer"),
            MsrField("periodic", 1),
            MsrField("lazy", 2, doc="ignored: KVM is always lazy"),
            MsrField("auto_enable", 3),
            MsrField("vector", 4, 11, doc="APIC vector in direct mode"),
            MsrField("direct", 12),
            MsrField("reserved13", 13, 15, Reserved.STORED_UNCHECKED),
            MsrField("sint", 16, 19),
            MsrField("reserved20", 20, 63, Reserved.STORED_UNCHECKED),
        ),
        store=Store.MODEL,
        group=Group.STIMER,
    )


def _count(n: int) -> Msr:
    return Msr(
        0x4000_00B1 + 2 * n,
        f"HV_X64_MSR_STIMER{n}_COUNT",
        Scope.VCPU,
        Access.READ_WRITE,
        feature(3),
        Kind.STORED,
        f"Expiration time (one-shot) or period of synthetic timer {n}, in 100 ns.",
        "TLFS, Synthetic timer count register",
        fields=(MsrField("count", 0, 63),),
        group=Group.STIMER,
    )


def _page(index: int, name: str, doc: str) -> Msr:
    return Msr(
        index,
        name,
        Scope.VCPU,
        Access.READ_WRITE,
        feature(2),
        Kind.STORED,
        doc,
        _SPEC,
        fields=_PAGE,
        group=Group.SYNIC,
        exits=Exit.HYPERV,
        exit_when="always",
    )


SYNIC_MSRS: tuple[Msr, ...] = (
    Msr(
        0x4000_0080,
        "HV_X64_MSR_SCONTROL",
        Scope.VCPU,
        Access.READ_WRITE,
        feature(2),
        Kind.STORED,
        "SynIC enable; KVM stores it and never looks at it.",
        _SPEC,
        fields=(MsrField("enable", 0), MsrField("reserved", 1, 63, Reserved.STORED_ANY)),
        reset=1,
        group=Group.SYNIC,
        exits=Exit.HYPERV,
        exit_when="always",
    ),
    Msr(
        0x4000_0081,
        "HV_X64_MSR_SVERSION",
        Scope.VCPU,
        Access.READ,
        feature(2),
        Kind.CONSTANT,
        "SynIC version: 1 unless userspace set another.",
        _SPEC,
        reset=1,
        store=Store.COMMAND,
        group=Group.SYNIC,
    ),
    _page(0x4000_0082, "HV_X64_MSR_SIEFP", "Event flags page."),
    _page(0x4000_0083, "HV_X64_MSR_SIMP", "Message page; timer messages need it enabled."),
    Msr(
        0x4000_0084,
        "HV_X64_MSR_EOM",
        Scope.VCPU,
        Access.READ_WRITE,
        feature(2),
        Kind.FIXED,
        "End of message: acknowledges all 16 sources; reads 0.",
        _SPEC,
        fields=(MsrField("ignored", 0, 63, Reserved.ZERO_DROPPED),),
        store=Store.COMMAND,
        group=Group.SYNIC,
        reads=0,
    ),
    Msr(
        0x4000_0085,
        "HV_X64_MSR_SIRBP",
        Scope.VCPU,
        Access.NONE,
        None,
        Kind.NOTHING,
        "Named in older documents; KVM has it not.",
        _SPEC,
        reset=None,
        store=Store.COMMAND,
        group=Group.ABSENT,
    ),
    *(_sint(n) for n in range(SINTS)),
    *(msr for n in range(STIMERS) for msr in (_config(n), _count(n))),
)
