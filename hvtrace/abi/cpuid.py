"""What a guest is offered: CPUID leaves, their bits, and the hv-* flags of QEMU that set them.

Source: TLFS, Feature and interface discovery; QEMU docs/system/i386/hyperv.rst and target/i386/kvm/kvm.c;
kvm_get_hv_cpuid in arch/x86/kvm/hyperv.c; Documentation/virt/kvm/x86/cpuid.rst.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.abi.register import Gate

__all__ = [
    "ALWAYS",
    "BITS",
    "FEATURES",
    "FLAGS",
    "INTERFACE",
    "INTERFACE_SIGNATURE",
    "KVM_FEATURES",
    "LEAVES",
    "LIMITS",
    "NESTED",
    "RECOMMENDATIONS",
    "REPORTED",
    "SPINLOCKS_NEVER",
    "SYNDBG",
    "VENDOR",
    "VERSION",
    "Bit",
    "Flag",
    "Leaf",
    "bit_name",
    "flag_by_name",
]

VENDOR = 0x4000_0000
INTERFACE = 0x4000_0001
VERSION = 0x4000_0002
FEATURES = 0x4000_0003
RECOMMENDATIONS = 0x4000_0004
LIMITS = 0x4000_0005
NESTED = 0x4000_000A
SYNDBG = 0x4000_0082

#: "Hv#1" in EAX of INTERFACE: on exactly this value KVM enables its Hyper-V code (kernels after 5.10).
INTERFACE_SIGNATURE = 0x3123_7648


@dataclass(frozen=True, slots=True)
class Leaf:
    """A CPUID leaf of the hypervisor range."""

    number: int
    name: str
    doc: str


LEAVES: tuple[Leaf, ...] = (
    Leaf(
        VENDOR, "vendor and maximum leaf", 'EAX highest leaf, EBX ECX EDX vendor ("Microsoft Hv" by default)'
    ),
    Leaf(INTERFACE, "interface", 'EAX 0x31237648 ("Hv#1") where Hyper-V is offered; KVM features where not'),
    Leaf(
        VERSION, "system identity", "EAX build, EBX major and minor, ECX service pack, EDX branch and number"
    ),
    Leaf(FEATURES, "features and privileges", "EAX EBX partition privileges, EDX features"),
    Leaf(RECOMMENDATIONS, "recommendations", "EAX hints to the guest, EBX spinlock retries"),
    Leaf(LIMITS, "limits", "EAX virtual processors, EBX logical processors"),
    Leaf(NESTED, "nested features", "EAX enlightened VMCS versions and nested enlightenments"),
    Leaf(0x4000_0080, "debugger vendor", "EBX ECX EDX vendor of the synthetic debugger"),
    Leaf(0x4000_0081, "debugger interface", 'EAX 0x31235356 ("VS#1")'),
    Leaf(SYNDBG, "debugger capabilities", "EAX bit 1: kernel debugging allowed"),
    Leaf(0x4000_0100, "KVM vendor", "KVM's own vendor leaf where Hyper-V occupies 0x40000000"),
    Leaf(0x4000_0101, "KVM features", "KVM's own features where Hyper-V occupies 0x40000001"),
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

#: KVM's own feature leaf, named by its place where Hyper-V is offered as well.
KVM_FEATURES = 0x4000_0101

BITS: tuple[Bit, ...] = (
    *_bits(FEATURES, "eax", _FEATURES_EAX),
    *_bits(FEATURES, "ebx", _FEATURES_EBX),
    *_bits(FEATURES, "edx", _FEATURES_EDX),
    *_bits(RECOMMENDATIONS, "eax", _RECOMMENDATIONS_EAX),
    *_bits(NESTED, "eax", _NESTED_EAX),
    *_bits(NESTED, "ebx", {0: "PERF_GLOBAL_CTRL"}),
    *_bits(SYNDBG, "eax", {1: "ALLOW_KERNEL_DEBUGGING"}),
    *_bits(KVM_FEATURES, "eax", _KVM_EAX),
    *_bits(KVM_FEATURES, "edx", {0: "REALTIME"}),
)


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of QEMU's -cpu option.

    `sets` are the CPUID bits it sets, `needs` the flags QEMU demands beside it, `gates` what KVM refuses
    without
    it where CPUID is enforced, in words. `hyperv` is false for a flag that does not by itself switch Hyper-V
    on.
    """

    name: str
    sets: tuple[Gate, ...]
    doc: str
    needs: tuple[str, ...] = ()
    gates: str = ""
    aliases: tuple[str, ...] = ()
    hyperv: bool = True


def _f(*bits: int, register: str = "eax") -> tuple[Gate, ...]:
    return tuple(Gate(FEATURES, register, bit) for bit in bits)


def _r(*bits: int) -> tuple[Gate, ...]:
    return tuple(Gate(RECOMMENDATIONS, "eax", bit) for bit in bits)


def _n(*bits: int) -> tuple[Gate, ...]:
    return tuple(Gate(NESTED, "eax", bit) for bit in bits)


def _version(name: str, place: str) -> Flag:
    return Flag(f"hv-version-id-{name}", (), f"Value of 0x40000002.{place}.", hyperv=False)


#: Set by any hv-* flag that switches Hyper-V on.
ALWAYS: tuple[Gate, ...] = (*_f(5), *_f(3, register="edx"))

#: What every kernel since 5.0 with an APIC of its own reports to be supported, in terms of the flags' bits.
REPORTED: frozenset[Gate] = frozenset(
    {
        *_f(0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13),
        *_f(8, 10, 19, register="edx"),
        *_r(2, 5, 10, 11),
    }
)

#: Number of spinlock retries that stands for never; any other switches Hyper-V on.
SPINLOCKS_NEVER = 0xFFFF_FFFF

FLAGS: tuple[Flag, ...] = (
    Flag("hv-relaxed", _r(5), "Guest turns its watchdogs off."),
    Flag("hv-vapic", _f(4), "APIC MSRs, VP assist page, PV EOI.", gates="MSR 0x40000070-73"),
    Flag("hv-spinlocks", (), "Spin count in 0x40000004.EBX.", gates="hypercall 0x08"),
    Flag("hv-vpindex", _f(6), "Index of the virtual processor.", gates="MSR 0x40000002"),
    Flag("hv-runtime", _f(0), "Run time of the virtual processor.", gates="MSR 0x40000010"),
    Flag("hv-crash", _f(10, register="edx"), "Crash reports.", gates="MSR 0x40000100-105"),
    Flag("hv-time", _f(1, 9), "Reference counter and TSC page.", gates="MSR 0x40000020, 0x40000021"),
    Flag(
        "hv-synic",
        (*_f(2), *_f(4, 5, register="ebx")),
        "Synthetic interrupt controller.",
        ("hv-vpindex",),
        "MSR 0x40000080-84, 0x40000090-9f; hypercalls 0x5c, 0x5d",
    ),
    Flag("hv-stimer", _f(3), "Synthetic timers.", ("hv-synic", "hv-time"), "MSR 0x400000b0-b7"),
    Flag(
        "hv-stimer-direct",
        _f(19, register="edx"),
        "Timers that raise an interrupt instead of a message.",
        ("hv-stimer",),
        "direct-mode bit of STIMER config",
    ),
    Flag(
        "hv-tlbflush", _r(2, 11), "Flush by hypercall.", ("hv-vpindex",), "hypercalls 0x02, 0x03, 0x13, 0x14"
    ),
    Flag("hv-tlbflush-ext", _f(14, register="edx"), "Ranges in the flush list.", ("hv-tlbflush",)),
    Flag("hv-tlbflush-direct", _n(17), "L2 flushes answered by L0.", ("hv-vapic",)),
    Flag(
        "hv-ipi",
        _r(10, 11),
        "Interprocessor interrupts by hypercall.",
        ("hv-vpindex",),
        "hypercalls 0x0b, 0x15",
    ),
    Flag("hv-reset", _f(7), "Reset by MSR.", gates="MSR 0x40000003"),
    Flag(
        "hv-frequencies",
        (*_f(11), *_f(8, register="edx")),
        "TSC and APIC frequencies.",
        gates="MSR 0x40000022, 0x40000023",
    ),
    Flag("hv-reenlightenment", _f(13), "Notice of a TSC change.", gates="MSR 0x40000106-108"),
    Flag("hv-evmcs", _r(14), "Enlightened VMCS (Intel).", ("hv-vapic",)),
    Flag("hv-emsr-bitmap", _n(19), "Enlightened MSR bitmap."),
    Flag("hv-avic", _r(9), "Asks the guest not to use AutoEOI.", aliases=("hv-apicv",)),
    Flag(
        "hv-no-nonarch-coresharing",
        _r(18),
        "Cores are not shared behind the guest's back.",
        aliases=("hv-no-noarch-coresharing",),
    ),
    Flag(
        "hv-syndbg",
        (*_f(11, register="edx"), Gate(SYNDBG, "eax", 1)),
        "Synthetic debugger.",
        ("hv-synic", "hv-relaxed"),
        "MSR 0x400000f1-ff; hypercalls 0x69-6b",
    ),
    Flag(
        "hv-xmm-input",
        _f(4, register="edx"),
        "Hypercall input in XMM registers.",
        gates="XMM fast calls (#UD)",
    ),
    Flag("hv-passthrough", (), "Every bit KVM reports, syndbg apart."),
    Flag("hv-enforce-cpuid", (), "Turns every gate on.", hyperv=False),
    Flag("hv-vendor-id", (), "Vendor in 0x40000000.", hyperv=False),
    _version("build", "EAX"),
    _version("major", "EBX[31:16]"),
    _version("minor", "EBX[15:0]"),
    _version("spack", "ECX"),
    _version("sbranch", "EDX[31:24]"),
    _version("snumber", "EDX[23:0]"),
    Flag("x-hv-max-vps", (), "Value of 0x40000005.EAX, set by old machine types.", hyperv=False),
    Flag(
        "x-hv-synic-kvm-only",
        (),
        "SynIC without messages and signals, set by old machine types.",
        hyperv=False,
    ),
)

_BIT_NAMES: dict[Gate, str] = {bit.gate: bit.name for bit in BITS}
_FLAGS: dict[str, Flag] = {name: flag for flag in FLAGS for name in (flag.name, *flag.aliases)}


def bit_name(gate: Gate) -> str | None:
    """Name of a CPUID bit; None where no row has it."""
    return _BIT_NAMES.get(gate)


def flag_by_name(name: str) -> Flag | None:
    """The flag of a name, spelled with - or _; None where there is no such flag."""
    return _FLAGS.get(name.replace("_", "-"))
