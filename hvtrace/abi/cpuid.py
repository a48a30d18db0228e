"""What a guest is offered: CPUID leaves and their bits. The hv-* flags that set them are in `flags`.

Source: TLFS, Feature and interface discovery; kvm_get_hv_cpuid in arch/x86/kvm/hyperv.c;
Documentation/virt/kvm/x86/cpuid.rst.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.abi.register import Gate

__all__ = [
    "BITS",
    "FEATURES",
    "INTERFACE",
    "INTERFACE_SIGNATURE",
    "KVM_FEATURES",
    "LEAVES",
    "LIMITS",
    "NESTED",
    "RECOMMENDATIONS",
    "SYNDBG",
    "VENDOR",
    "VERSION",
    "Bit",
    "Leaf",
    "bit_name",
]

VENDOR = 0x4000_0000
INTERFACE = 0x4000_0001
VERSION = 0x4000_0002
FEATURES = 0x4000_0003
RECOMMENDATIONS = 0x4000_0004
LIMITS = 0x4000_0005
NESTED = 0x4000_000A
SYNDBG = 0x4000_0082

#: KVM's own feature leaf, named by its place where Hyper-V is offered as well.
KVM_FEATURES = 0x4000_0101

#: "Hv#1" in EAX of INTERFACE: on exactly this value KVM enables its Hyper-V code (kernels after 5.10).
INTERFACE_SIGNATURE = 0x3123_7648


@dataclass(frozen=True, slots=True)
class Leaf:
    """A CPUID leaf of the hypervisor range. `registers` says what each register holds beside the bits of BITS."""

    number: int
    name: str
    doc: str
    registers: tuple[tuple[str, str], ...] = ()


def _vendor(name: str) -> tuple[tuple[str, str], ...]:
    return (("eax", "highest leaf of the range"), ("ebx ecx edx", f"vendor, twelve characters: {name}"))


_UNUSED = "all zero under KVM"

LEAVES: tuple[Leaf, ...] = (
    Leaf(
        VENDOR,
        "vendor and maximum leaf",
        "Highest leaf and vendor: Hyper-V's where it is offered, else KVM's.",
        (
            ("eax", "highest leaf: 0x40000005, 0x4000000a with nested bits, 0x40000082 with hv-syndbg"),
            ("ebx ecx edx", 'vendor: "Microsoft Hv", hv-vendor-id, "Linux KVM Hv" with hv-passthrough'),
        ),
    ),
    Leaf(
        INTERFACE,
        "interface",
        "Signature where Hyper-V is offered; where it is not, KVM's features (0x40000101).",
        (("eax", '0x31237648 ("Hv#1")'),),
    ),
    Leaf(
        VERSION,
        "system identity",
        "Version of the hypervisor, 10.0.14393 by default.",
        (
            ("eax", "build"),
            ("ebx", "major 31:16, minor 15:0"),
            ("ecx", "service pack"),
            ("edx", "branch 31:24, number 23:0"),
        ),
    ),
    Leaf(
        FEATURES,
        "features and privileges",
        "What the partition may use.",
        (
            ("eax", "partition privileges 31:0"),
            ("ebx", "partition privileges 63:32"),
            ("ecx", "power management; 0"),
            ("edx", "features"),
        ),
    ),
    Leaf(
        RECOMMENDATIONS,
        "recommendations",
        "What the guest had better use.",
        (
            ("eax", "hints"),
            ("ebx", "spinlock retries before hypercall 0x08; 0xffffffff: never"),
            ("ecx", "0"),
        ),
    ),
    Leaf(
        LIMITS,
        "limits",
        "How many processors there may be.",
        (("eax", "virtual processors; QEMU: 0xffffffff"), ("ebx", "logical processors; 64"), ("ecx", "0")),
    ),
    Leaf(0x4000_0006, "hardware features", f"What of the hardware is in use (TLFS); {_UNUSED}."),
    Leaf(0x4000_0007, "processor management", f"For the root partition (TLFS); {_UNUSED}."),
    Leaf(0x4000_0008, "shared virtual memory", f"Shared virtual memory (TLFS); {_UNUSED}."),
    Leaf(0x4000_0009, "nested hypervisor features", f"Privileges of a nested hypervisor (TLFS); {_UNUSED}."),
    Leaf(
        NESTED,
        "nested features",
        "Enlightenments of a nested hypervisor.",
        (("eax", "lowest EVMCS version 7:0, highest 15:8 (0x0101 with hv-evmcs), bits"),),
    ),
    Leaf(0x4000_0080, "debugger vendor", "Synthetic debugger (hv-syndbg).", _vendor('"Microsoft VS"')),
    Leaf(0x4000_0081, "debugger interface", "Synthetic debugger.", (("eax", '0x31235356 ("VS#1")'),)),
    Leaf(SYNDBG, "debugger capabilities", "Synthetic debugger."),
    Leaf(0x4000_0100, "KVM vendor", "KVM's vendor leaf beside Hyper-V's.", _vendor('"KVMKVMKVM"')),
    Leaf(
        KVM_FEATURES,
        "KVM features",
        "KVM's own features, at 0x40000001 where Hyper-V is not offered.",
        (("eax", "features"), ("edx", "hints")),
    ),
)


@dataclass(frozen=True, slots=True)
class Bit:
    """One bit of a leaf and its name."""

    gate: Gate
    name: str


def _bits(leaf: int, register: str, names: dict[int, str]) -> tuple[Bit, ...]:
    return tuple(Bit(Gate(leaf, register, bit), name) for bit, name in names.items())


_FEATURES_EAX = {
    0: "VP_RUNTIME",
    1: "TIME_REF_COUNT",
    2: "SYNIC",
    3: "SYNTIMER",
    4: "APIC_ACCESS",
    5: "HYPERCALL",
    6: "VP_INDEX",
    7: "RESET",
    8: "STAT_PAGES",
    9: "REFERENCE_TSC",
    10: "GUEST_IDLE",
    11: "FREQUENCY_MSRS",
    12: "DEBUG_MSRS",
    13: "REENLIGHTENMENT",
    15: "TSC_INVARIANT",
}
_FEATURES_EBX = {
    0: "CREATE_PARTITIONS",
    1: "ACCESS_PARTITION_ID",
    2: "MEMORY_POOL",
    3: "ADJUST_MESSAGE_BUFFERS",
    4: "POST_MESSAGES",
    5: "SIGNAL_EVENTS",
    6: "CREATE_PORT",
    7: "CONNECT_PORT",
    8: "ACCESS_STATS",
    11: "DEBUGGING",
    12: "CPU_MANAGEMENT",
    20: "EXTENDED_HYPERCALLS",
    22: "ISOLATION",
}
_FEATURES_EDX = {
    0: "MWAIT",
    1: "GUEST_DEBUGGING",
    2: "PERF_MONITOR",
    3: "CPU_DYNAMIC_PARTITIONING",
    4: "XMM_INPUT",
    5: "GUEST_IDLE_STATE",
    8: "FREQUENCY_MSRS",
    10: "CRASH_MSR",
    11: "DEBUG_MSRS",
    14: "EXT_GVA_RANGES_FLUSH",
    15: "XMM_OUTPUT",
    19: "STIMER_DIRECT",
    23: "TIME_UNHALTED_TIMER",
}
_RECOMMENDATIONS_EAX = {
    0: "AS_SWITCH",
    1: "LOCAL_TLB_FLUSH",
    2: "REMOTE_TLB_FLUSH",
    3: "APIC_ACCESS",
    4: "SYSTEM_RESET",
    5: "RELAXED_TIMING",
    9: "DEPRECATING_AEOI",
    10: "CLUSTER_IPI",
    11: "EX_PROCESSOR_MASKS",
    12: "NESTED",
    14: "ENLIGHTENED_VMCS",
    18: "NO_NONARCH_CORESHARING",
    21: "USE_MMIO_HYPERCALLS",
}
#: Leaves of the TLFS that KVM leaves zero.
_HARDWARE_EAX = {
    0: "APIC_OVERLAY_ASSIST",
    1: "MSR_BITMAPS",
    2: "PERFORMANCE_COUNTERS",
    3: "SECOND_LEVEL_TRANSLATION",
    4: "DMA_REMAPPING",
    5: "INTERRUPT_REMAPPING",
    6: "MEMORY_PATROL_SCRUBBER",
    7: "DMA_PROTECTION",
    8: "HPET_REQUESTED",
    9: "SYNTIMERS_VOLATILE",
}
_NESTED_HYPERVISOR_EAX = {
    2: "NESTED_SYNIC",
    4: "NESTED_APIC_ACCESS",
    5: "NESTED_HYPERCALL",
    6: "NESTED_VP_INDEX",
    12: "NESTED_REENLIGHTENMENT",
}
_NESTED_HYPERVISOR_EDX = {4: "NESTED_XMM_INPUT", 15: "NESTED_XMM_OUTPUT", 17: "NESTED_SINT_POLLING"}
_NESTED_EAX = {17: "DIRECT_FLUSH", 18: "GUEST_MAPPING_FLUSH", 19: "MSR_BITMAP", 22: "ENLIGHTENED_TLB"}
_KVM_EAX = {
    0: "CLOCKSOURCE",
    1: "NOP_IO_DELAY",
    2: "MMU_OP",
    3: "CLOCKSOURCE2",
    4: "ASYNC_PF",
    5: "STEAL_TIME",
    6: "PV_EOI",
    7: "PV_UNHALT",
    9: "PV_TLB_FLUSH",
    10: "ASYNC_PF_VMEXIT",
    11: "PV_SEND_IPI",
    12: "POLL_CONTROL",
    13: "PV_SCHED_YIELD",
    14: "ASYNC_PF_INT",
    15: "MSI_EXT_DEST_ID",
    16: "HC_MAP_GPA_RANGE",
    17: "MIGRATION_CONTROL",
    24: "CLOCKSOURCE_STABLE_BIT",
}

BITS: tuple[Bit, ...] = (
    *_bits(FEATURES, "eax", _FEATURES_EAX),
    *_bits(FEATURES, "ebx", _FEATURES_EBX),
    *_bits(FEATURES, "edx", _FEATURES_EDX),
    *_bits(RECOMMENDATIONS, "eax", _RECOMMENDATIONS_EAX),
    *_bits(0x4000_0006, "eax", _HARDWARE_EAX),
    *_bits(0x4000_0009, "eax", _NESTED_HYPERVISOR_EAX),
    *_bits(0x4000_0009, "edx", _NESTED_HYPERVISOR_EDX),
    *_bits(NESTED, "eax", _NESTED_EAX),
    *_bits(NESTED, "ebx", {0: "PERF_GLOBAL_CTRL"}),
    *_bits(SYNDBG, "eax", {1: "ALLOW_KERNEL_DEBUGGING"}),
    *_bits(KVM_FEATURES, "eax", _KVM_EAX),
    *_bits(KVM_FEATURES, "edx", {0: "REALTIME"}),
)


_BIT_NAMES: dict[Gate, str] = {bit.gate: bit.name for bit in BITS}


def bit_name(gate: Gate) -> str | None:
    """Name of a CPUID bit; None where no row has it."""
    return _BIT_NAMES.get(gate)
