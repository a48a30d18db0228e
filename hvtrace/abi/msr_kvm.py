"""KVM's own paravirt MSRs (Documentation/virt/kvm/x86/msr.rst; kvm_set_msr_common in arch/x86/kvm/x86.c)."""

from __future__ import annotations

from hvtrace.abi.register import Access, Gate, Group, Kind, Msr, MsrField, Reserved, Scope, Store

__all__ = ["KVM_MSRS"]

#: Leaf of KVM's feature bits; 0x40000101 where Hyper-V occupies the first range.
_LEAF = 0x4000_0001
_SPEC = "KVM msr.rst"


def _feature(bit: int) -> Gate:
    return Gate(_LEAF, "eax", bit)


def _clock(index: int, name: str, feature: int, doc: str, storage: int | None = None) -> Msr:
    return Msr(
        index,
        name,
        Scope.VCPU,
        Access.READ_WRITE,
        _feature(feature),
        Kind.STORED,
        doc,
        _SPEC,
        fields=(
            MsrField("enable", 0),
            MsrField("address", 1, 63, doc="guest physical address of the pvclock page"),
        ),
        group=Group.KVM,
        storage=storage,
    )


def _wall(index: int, name: str, feature: int, storage: int | None = None) -> Msr:
    return Msr(
        index,
        name,
        Scope.VM,
        Access.READ_WRITE,
        _feature(feature),
        Kind.STORED,
        "A write makes KVM store the wall clock at boot at this guest physical address.",
        _SPEC,
        fields=(MsrField("address", 0, 63),),
        group=Group.KVM,
        storage=storage,
    )


KVM_MSRS: tuple[Msr, ...] = (
    _wall(0x11, "MSR_KVM_WALL_CLOCK", 0, 0x4B56_4D00),
    _clock(
        0x12,
        "MSR_KVM_SYSTEM_TIME",
        0,
        "pvclock page, old index: forbids the master clock on the boot vCPU.",
        0x4B56_4D01,
    ),
    _wall(0x4B56_4D00, "MSR_KVM_WALL_CLOCK_NEW", 3),
    _clock(0x4B56_4D01, "MSR_KVM_SYSTEM_TIME_NEW", 3, "pvclock page of this vCPU."),
    Msr(
        0x4B56_4D02,
        "MSR_KVM_ASYNC_PF_EN",
        Scope.VCPU,
        Access.READ_WRITE,
        _feature(4),
        Kind.STORED,
        "Asynchronous page faults: enable, mode, and the 64-byte shared area.",
        _SPEC,
        fields=(
            MsrField("enable", 0),
            MsrField("send_always", 1, doc="also in CPL 0"),
            MsrField("delivery_as_pf_vmexit", 2, doc="needs feature 10"),
            MsrField("delivery_as_int", 3, doc="needs feature 14"),
            MsrField("reserved", 4, 5, Reserved.ZERO_FAULTS),
            MsrField("address", 6, 63),
        ),
        group=Group.KVM,
    ),
    Msr(
        0x4B56_4D03,
        "MSR_KVM_STEAL_TIME",
        Scope.VCPU,
        Access.READ_WRITE,
        _feature(5),
        Kind.STORED,
        "Steal-time area of this vCPU.",
        _SPEC,
        fields=(
            MsrField("enable", 0),
            MsrField("reserved", 1, 5, Reserved.ZERO_FAULTS),
            MsrField("address", 6, 63),
        ),
        group=Group.KVM,
    ),
    Msr(
        0x4B56_4D04,
        "MSR_KVM_PV_EOI_EN",
        Scope.VCPU,
        Access.READ_WRITE,
        _feature(6),
        Kind.STORED,
        "PV EOI flag word; shares its storage with the VP assist page: the last writer wins.",
        _SPEC,
        fields=(
            MsrField("enable", 0),
            MsrField("reserved", 1, None, Reserved.ZERO_FAULTS),
            MsrField("address", 2, 63),
        ),
        group=Group.KVM,
    ),
    Msr(
        0x4B56_4D05,
        "MSR_KVM_POLL_CONTROL",
        Scope.VCPU,
        Access.READ_WRITE,
        _feature(12),
        Kind.STORED,
        "0 turns host halt polling off for this vCPU.",
        _SPEC,
        fields=(MsrField("enable", 0), MsrField("reserved", 1, 63, Reserved.ZERO_FAULTS)),
        reset=1,
        group=Group.KVM,
    ),
    Msr(
        0x4B56_4D06,
        "MSR_KVM_ASYNC_PF_INT",
        Scope.VCPU,
        Access.READ_WRITE,
        _feature(14),
        Kind.STORED,
        "Vector of page-ready interrupts.",
        _SPEC,
        fields=(MsrField("vector", 0, 7), MsrField("reserved", 8, 63, Reserved.ZERO_FAULTS)),
        group=Group.KVM,
    ),
    Msr(
        0x4B56_4D07,
        "MSR_KVM_ASYNC_PF_ACK",
        Scope.VCPU,
        Access.READ_WRITE,
        _feature(14),
        Kind.FIXED,
        "A write with bit 0 says that the page-ready event was taken; reads 0.",
        _SPEC,
        fields=(MsrField("ack", 0), MsrField("reserved", 1, 63, Reserved.ZERO_DROPPED)),
        store=Store.COMMAND,
        reads=0,
        group=Group.KVM,
    ),
    Msr(
        0x4B56_4D08,
        "MSR_KVM_MIGRATION_CONTROL",
        Scope.VM,
        Access.READ_WRITE,
        _feature(17),
        Kind.DEVICE,
        "Served by userspace through an MSR filter, without kvm_msr; without the filter it raises #GP.",
        _SPEC,
        fields=(MsrField("ready", 0),),
        reset=None,
        store=Store.MODEL,
        group=Group.KVM,
        dispatched=False,
    ),
)
