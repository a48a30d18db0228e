"""QEMU's hv-* flags: the CPUID bits each sets, what it gates, and what it needs.

Source: QEMU docs/system/i386/hyperv.rst, target/i386/kvm/kvm.c (kvm_hyperv_properties, hyperv_fill_cpuids);
hv_check_msr_access and hv_check_hypercall_access in arch/x86/kvm/hyperv.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.abi.cpuid import FEATURES, NESTED, RECOMMENDATIONS, SYNDBG
from hvtrace.abi.register import Gate

__all__ = ["ALWAYS", "FLAGS", "REPORTED", "SPINLOCKS_NEVER", "Flag", "flag_by_name"]


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
    Flag(
        "hv-spinlocks",
        (),
        "Spinlock retries in 0x40000004.EBX; 0xffffffff, the default, is never.",
        gates="hypercall 0x08, unless 0 or never",
    ),
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
    Flag(
        "hv-tlbflush-ext", _f(14, register="edx"), "Ranges in the flush list (not a gate).", ("hv-tlbflush",)
    ),
    Flag(
        "hv-tlbflush-direct",
        _n(17),
        "Flushes of nested guests answered directly; wants hv-evmcs on Intel.",
        ("hv-vapic",),
        "hypercalls 0x02, 0x03, 0x13, 0x14 of nested guests, since 6.2",
    ),
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
    Flag("hv-evmcs", _r(14), "Enlightened VMCS (Intel); 0x4000000a.EAX[15:0] = 0x0101.", ("hv-vapic",)),
    Flag("hv-emsr-bitmap", _n(19), "Enlightened MSR bitmap; wants hv-evmcs on Intel."),
    Flag("hv-avic", _r(9), "Asks the guest not to use AutoEOI.", aliases=("hv-apicv",)),
    Flag(
        "hv-no-nonarch-coresharing",
        _r(18),
        "Cores are not shared behind the guest's back: on, off, or auto (the host's own answer, forbids migration).",
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
    Flag(
        "hv-passthrough",
        (),
        "Every bit of a flag that KVM reports, and its vendor, version, limits and spinlock retries; new versions of"
        " QEMU leave hv-syndbg out. Forbids migration.",
    ),
    Flag("hv-enforce-cpuid", (), "Turns every gate on (KVM_CAP_HYPERV_ENFORCE_CPUID).", hyperv=False),
    Flag("hv-vendor-id", (), "Vendor in 0x40000000, at most twelve characters.", hyperv=False),
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

_FLAGS: dict[str, Flag] = {name: flag for flag in FLAGS for name in (flag.name, *flag.aliases)}


def flag_by_name(name: str) -> Flag | None:
    """The flag of a name, spelled with - or _; None where there is no such flag."""
    return _FLAGS.get(name.replace("_", "-"))
