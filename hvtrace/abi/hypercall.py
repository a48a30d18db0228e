"""Hypercalls: the Hyper-V ones KVM serves, refuses or hands to userspace, and KVM's own.

Source: TLFS, Hypercall interface; kvm_hv_hypercall in arch/x86/kvm/hyperv.c; KVM hypercalls.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hvtrace.abi.register import Gate

__all__ = [
    "EXTENDED",
    "HYPERV_HYPERCALLS",
    "KVM_HYPERCALLS",
    "Fast",
    "Handler",
    "Hypercall",
    "InputField",
    "Shape",
    "by_code",
    "hypercall_name",
    "input_fields",
    "kvm_hypercall_name",
]


class Shape(Enum):
    """Simple: one operation. Rep: a list of them."""

    SIMPLE = "simple"
    REP = "rep"


class Fast(Enum):
    """Whether input may come in registers."""

    NO = "slow only"
    REGISTERS = "slow or fast in two registers"
    XMM = "slow or fast with XMM registers"


class Handler(Enum):
    """Who completes the call."""

    KVM = "KVM"
    USERSPACE = "userspace"
    KVM_OR_USERSPACE = "KVM eventfd, else userspace"
    NOBODY = "nobody: status 2"


#: Extended calls: codes that KVM hands to userspace since 6.3, in the table or not. Both ends inclusive.
EXTENDED = (0x8001, 0x8041)


@dataclass(frozen=True, slots=True)
class Hypercall:
    """One call.

    `gates` are the CPUID bits (all of them) that KVM demands where it enforces CPUID; `gate_note` says in
    words what a bit cannot. `since` is the first kernel that serves the call; before it the
    code is unknown. `banks` is true where a variable header of sparse VP banks follows the input.
    """

    code: int
    name: str
    shape: Shape
    fast: Fast
    handler: Handler
    input: str
    gates: tuple[Gate, ...] = ()
    gate_note: str = ""
    banks: bool = False
    since: tuple[int, int] | None = None
    output: str = "none"

    @property
    def is_kvm(self) -> bool:
        """A call of KVM's own interface, whose codes are numbers of another kind."""
        return self.name.startswith("KVM_HC_")

    @property
    def counts(self) -> bool:
        """Whether bits 43:32 of the result say how many elements were done."""
        return self.shape is Shape.REP and self.handler is Handler.KVM


_FEATURES, _RECOMMENDED, _KVM = 0x4000_0003, 0x4000_0004, 0x4000_0001


def _recommended(*bits: int) -> tuple[Gate, ...]:
    return tuple(Gate(_RECOMMENDED, "eax", bit) for bit in bits)


def _privilege(bit: int) -> tuple[Gate, ...]:
    return (Gate(_FEATURES, "ebx", bit),)


_DEBUG_NOTE = "looked at only where the syndbg capability is there"
_SIMPLE, _REP = Shape.SIMPLE, Shape.REP


def _extended(code: int, name: str) -> Hypercall:
    return Hypercall(
        code, name, _SIMPLE, Fast.NO, Handler.USERSPACE, "per TLFS", _privilege(20), since=(6, 3)
    )


def _unserved(code: int, name: str, shape: Shape = _SIMPLE) -> Hypercall:
    return Hypercall(code, name, shape, Fast.REGISTERS, Handler.NOBODY, "per TLFS")


HYPERV_HYPERCALLS: tuple[Hypercall, ...] = (
    _unserved(0x0001, "HvCallSwitchVirtualAddressSpace"),
    Hypercall(
        0x0002,
        "HvCallFlushVirtualAddressSpace",
        _SIMPLE,
        Fast.XMM,
        Handler.KVM,
        "u64 address_space, u64 flags, u64 processor_mask",
        _recommended(2),
    ),
    Hypercall(
        0x0003,
        "HvCallFlushVirtualAddressList",
        _REP,
        Fast.XMM,
        Handler.KVM,
        "u64 address_space, u64 flags, u64 processor_mask, u64 gva[rep_cnt]",
        _recommended(2),
    ),
    Hypercall(
        0x0008,
        "HvCallNotifyLongSpinWait",
        _SIMPLE,
        Fast.REGISTERS,
        Handler.KVM,
        "u32 spin count",
        gate_note="0x40000004.EBX is neither 0 nor 0xffffffff",
    ),
    Hypercall(
        0x000B,
        "HvCallSendSyntheticClusterIpi",
        _SIMPLE,
        Fast.REGISTERS,
        Handler.KVM,
        "u32 vector, u32 reserved, u64 vp_mask",
        _recommended(10),
    ),
    _unserved(0x000C, "HvCallModifyVtlProtectionMask", _REP),
    _unserved(0x000D, "HvCallEnablePartitionVtl"),
    _unserved(0x000F, "HvCallEnableVpVtl"),
    _unserved(0x0011, "HvCallVtlCall"),
    _unserved(0x0012, "HvCallVtlReturn"),
    Hypercall(
        0x0013,
        "HvCallFlushVirtualAddressSpaceEx",
        _SIMPLE,
        Fast.XMM,
        Handler.KVM,
        "u64 address_space, u64 flags, u64 format, u64 valid_bank_mask, u64 banks[]",
        _recommended(11, 2),
        banks=True,
    ),
    Hypercall(
        0x0014,
        "HvCallFlushVirtualAddressListEx",
        _REP,
        Fast.XMM,
        Handler.KVM,
        "u64 address_space, u64 flags, u64 format, u64 valid_bank_mask, u64 banks[], u64 gva[rep_cnt]",
        _recommended(11, 2),
        banks=True,
    ),
    Hypercall(
        0x0015,
        "HvCallSendSyntheticClusterIpiEx",
        _SIMPLE,
        Fast.XMM,
        Handler.KVM,
        "u32 vector, u32 reserved, u64 format, u64 valid_bank_mask, u64 banks[]",
        _recommended(11, 10),
        banks=True,
    ),
    _unserved(0x0046, "HvCallGetPartitionId"),
    _unserved(0x0048, "HvCallDepositMemory", _REP),
    _unserved(0x004E, "HvCallCreateVp"),
    _unserved(0x0050, "HvCallGetVpRegisters", _REP),
    _unserved(0x0051, "HvCallSetVpRegisters", _REP),
    Hypercall(
        0x005C,
        "HvCallPostMessage",
        _SIMPLE,
        Fast.NO,
        Handler.USERSPACE,
        "u32 connection_id, u32 reserved, u32 message_type, u32 payload_size, u8 payload[240]",
        _privilege(4),
    ),
    Hypercall(
        0x005D,
        "HvCallSignalEvent",
        _SIMPLE,
        Fast.REGISTERS,
        Handler.KVM_OR_USERSPACE,
        "u32 connection_id, u16 flag_number, u16 reserved",
        _privilege(5),
    ),
    Hypercall(
        0x0069,
        "HvCallPostDebugData",
        _SIMPLE,
        Fast.NO,
        Handler.USERSPACE,
        "u32 count, u32 options, u64 data[]",
        _privilege(11),
        _DEBUG_NOTE,
        output="u32 pending count",
    ),
    Hypercall(
        0x006A,
        "HvCallRetrieveDebugData",
        _SIMPLE,
        Fast.NO,
        Handler.USERSPACE,
        "u32 count, u32 options, u64 timeout",
        _privilege(11),
        _DEBUG_NOTE,
        output="u32 retrieved, u32 remaining, u64 data[]",
    ),
    Hypercall(
        0x006B,
        "HvCallResetDebugSession",
        _SIMPLE,
        Fast.REGISTERS,
        Handler.USERSPACE,
        "u32 options",
        _privilege(11),
        _DEBUG_NOTE,
        output="addresses and ports of both sides",
    ),
    _unserved(0x0076, "HvCallAddLogicalProcessor"),
    _unserved(0x007C, "HvCallMapDeviceInterrupt"),
    _unserved(0x007D, "HvCallUnmapDeviceInterrupt"),
    _unserved(0x007E, "HvCallRetargetDeviceInterrupt"),
    _unserved(0x0099, "HvCallStartVirtualProcessor"),
    _unserved(0x009A, "HvCallGetVpIndexFromApicId", _REP),
    _unserved(0x00AF, "HvCallFlushGuestPhysicalAddressSpace"),
    _unserved(0x00B0, "HvCallFlushGuestPhysicalAddressList", _REP),
    _unserved(0x00DB, "HvCallModifySparseGpaPageHostVisibility", _REP),
    _extended(0x8001, "HvExtCallQueryCapabilities"),
    _extended(0x8002, "HvExtCallGetBootZeroedMemory"),
    _extended(0x8003, "HvExtCallMemoryHeatHint"),
    _extended(0x8004, "HvExtCallEpfSetup"),
    _extended(0x8006, "HvExtCallMemoryHeatHintAsync"),
)


def _kvm(code: int, name: str, doc: str, feature: int | None, handler: Handler = Handler.KVM) -> Hypercall:
    gates = () if feature is None else (Gate(_KVM, "eax", feature),)
    return Hypercall(code, name, _SIMPLE, Fast.REGISTERS, handler, doc, gates, output="RAX")


KVM_HYPERCALLS: tuple[Hypercall, ...] = (
    _kvm(1, "KVM_HC_VAPIC_POLL_IRQ", "none: just an exit", None),
    _kvm(2, "KVM_HC_MMU_OP", "removed", None, Handler.NOBODY),
    _kvm(5, "KVM_HC_KICK_CPU", "a0 flags, a1 APIC id", 7),
    _kvm(9, "KVM_HC_CLOCK_PAIRING", "a0 GPA of a 64-byte structure, a1 clock type", None),
    _kvm(10, "KVM_HC_SEND_IPI", "a0, a1 bitmap, a2 lowest APIC id, a3 ICR", 11),
    _kvm(11, "KVM_HC_SCHED_YIELD", "a0 APIC id", 13),
    _kvm(12, "KVM_HC_MAP_GPA_RANGE", "a0 GPA, a1 4-KiB pages, a2 attributes", 16, Handler.USERSPACE),
)

_HYPERV: dict[int, Hypercall] = {call.code: call for call in HYPERV_HYPERCALLS}
_KVM_CALLS: dict[int, Hypercall] = {call.code: call for call in KVM_HYPERCALLS}


def by_code(code: int) -> Hypercall | None:
    """The Hyper-V hypercall of a call code; None where no row has it."""
    return _HYPERV.get(code)


def hypercall_name(code: int) -> str | None:
    """Name of a Hyper-V call code; None where no row has it."""
    call = _HYPERV.get(code)
    return None if call is None else call.name


def kvm_hypercall_name(number: int) -> str | None:
    """Name of a hypercall of KVM's own ABI; None where no row has it."""
    call = _KVM_CALLS.get(number)
    return None if call is None else call.name


@dataclass(frozen=True, slots=True)
class InputField:
    """A field of a call's input: where it begins in the input and how wide it is, both in bits."""

    name: str
    offset: int
    width: int


def input_fields(call: Hypercall) -> tuple[InputField, ...]:
    """Fixed fields at the start of a call's input, in order; none where its layout is not in the table."""
    found, offset = [], 0
    for text in call.input.split(", "):
        kind, _, name = text.partition(" ")
        if not kind.startswith("u") or not kind[1:].isdecimal() or "[" in name:
            break
        found.append(InputField(name.replace(" ", "_"), offset, int(kind[1:])))
        offset += int(kind[1:])
    return tuple(found)
