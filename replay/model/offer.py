"""What a `-cpu` option of QEMU promises the guest in CPUID (target/i386/kvm/kvm.c, hyperv_fill_cpuids)."""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.abi.cpuid import (
    FEATURES,
    INTERFACE,
    INTERFACE_SIGNATURE,
    LIMITS,
    RECOMMENDATIONS,
    VENDOR,
    VERSION,
)
from hvtrace.abi.flags import ALWAYS, FLAGS, REPORTED, SPINLOCKS_NEVER, flag_by_name
from hvtrace.abi.register import Gate

__all__ = ["Offer", "Promise", "parse_cpu", "promises", "unpromised"]

#: Set beside hv-vapic where the guest may use AutoEOI.
APIC_RECOMMENDED = Gate(RECOMMENDATIONS, "eax", 3)

#: Bits that old machine types, old versions of QEMU or the host's own answer may take away or add.
SOFT = frozenset(
    {
        *(Gate(FEATURES, "ebx", bit) for bit in (4, 5)),
        Gate(FEATURES, "edx", 3),
        APIC_RECOMMENDED,
        Gate(RECOMMENDATIONS, "eax", 18),
    }
)

#: Every bit that some flag sets.
FLAGGED = frozenset(gate for flag in FLAGS for gate in flag.sets) - SOFT

#: Flags with a number: leaf, register, lowest bit and width of the field that shows it.
NUMBERS: dict[str, tuple[int, str, int, int]] = {
    "hv-spinlocks": (RECOMMENDATIONS, "ebx", 0, 32),
    "hv-version-id-build": (VERSION, "eax", 0, 32),
    "hv-version-id-major": (VERSION, "ebx", 16, 16),
    "hv-version-id-minor": (VERSION, "ebx", 0, 16),
    "hv-version-id-spack": (VERSION, "ecx", 0, 32),
    "hv-version-id-sbranch": (VERSION, "edx", 24, 8),
    "hv-version-id-snumber": (VERSION, "edx", 0, 24),
    "x-hv-max-vps": (LIMITS, "eax", 0, 32),
}


@dataclass(frozen=True, slots=True)
class Promise:
    """Bits of an answer that are known beforehand: `value` under `mask`."""

    leaf: int
    register: str
    mask: int
    value: int


#: Characters of a vendor in CPUID.
VENDOR_LENGTH = 12

#: What every kernel since 5.0 reports to hv-passthrough, beside bits (kvm_get_hv_cpuid): build 14393 of 10.0, 4095
#: spinlock retries, 64 logical processors. The vendor, "Linux KVM Hv", is a name some builds change.
REPORTED_VALUES: tuple[Promise, ...] = (
    Promise(VERSION, "eax", 0xFFFF_FFFF, 0x3839),
    Promise(VERSION, "ebx", 0xFFFF_FFFF, 0xA_0000),
    Promise(RECOMMENDATIONS, "ebx", 0xFFFF_FFFF, 0xFFF),
    Promise(LIMITS, "ebx", 0xFFFF_FFFF, 64),
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a `-cpu` option says. None: it does not tell. `fields` are the numbers and names it gives."""

    hyperv: bool
    passthrough: bool
    enforced: bool
    synic: bool | None
    bits: frozenset[Gate]
    pv_enforced: bool = False
    fields: tuple[Promise, ...] = ()


def parse_cpu(option: str) -> Offer:
    """Read QEMU's `-cpu` option ("host,hv-vpindex,hv-synic,…"). ValueError: an hv-* flag that does not exist."""
    given: dict[str, str] = {}
    pv_enforced = False
    for part in option.split(",")[1:]:
        name, _, value = part.strip().partition("=")
        name = name.replace("_", "-")
        if name.startswith(("+", "-")):
            value = "off" if name[0] == "-" else "on"
            name = name[1:]
        if name == "kvm-pv-enforce-cpuid":
            pv_enforced = value not in _OFF
        if not name.startswith(("hv-", "x-hv-")):
            continue
        flag = flag_by_name(name)
        if flag is None:
            if name.startswith("x-"):
                continue
            raise ValueError(f"no such flag: {name}")
        given[flag.name] = value
    names = {name for name, value in given.items() if value not in _OFF and not _is_never(name, value)}
    flags = [flag for name in names if (flag := flag_by_name(name)) is not None]
    hyperv = any(flag.hyperv for flag in flags)
    bits = {gate for flag in flags for gate in flag.sets if given[flag.name] != "auto"}
    if hyperv:
        bits.update(ALWAYS)
    if "hv-vapic" in names and "hv-avic" not in names:
        bits.add(APIC_RECOMMENDED)
    if "x-hv-synic-kvm-only" in names:
        bits -= {gate for gate in bits if gate.leaf == FEATURES and gate.register == "ebx"}
    passthrough = "hv-passthrough" in names
    return Offer(
        hyperv=hyperv,
        passthrough=passthrough,
        enforced="hv-enforce-cpuid" in names,
        # With passthrough it depends on what the host's KVM reports.
        synic=True if "hv-synic" in names else None if passthrough else False,
        bits=frozenset(bits),
        pv_enforced=pv_enforced,
        fields=tuple(_fields(given)),
    )


_OFF = frozenset({"off", "no", "false"})


def _is_never(name: str, value: str) -> bool:
    """hv-spinlocks with the value that stands for never does not switch Hyper-V on."""
    return name == "hv-spinlocks" and _number(value) == SPINLOCKS_NEVER


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _fields(given: dict[str, str]) -> list[Promise]:
    fields: list[Promise] = []
    for name, (leaf, register, low, width) in NUMBERS.items():
        number = _number(given.get(name, ""))
        if number is not None:
            mask = (1 << width) - 1
            fields.append(Promise(leaf, register, mask << low, (number & mask) << low))
    vendor = given.get("hv-vendor-id", "").encode()
    # A shorter one may be the beginning of a name with a blank.
    if len(vendor) >= VENDOR_LENGTH:
        for n, register in enumerate(("ebx", "ecx", "edx")):
            word = int.from_bytes(vendor[4 * n : 4 * n + 4], "little")
            fields.append(Promise(VENDOR, register, 0xFFFF_FFFF, word))
    return fields


def promises(offer: Offer, leaf: int) -> list[Promise]:
    """What the answers of a leaf are known to hold, beforehand."""
    if not offer.hyperv:
        return []
    bits = set(offer.bits) - SOFT
    found: list[Promise] = []
    if offer.passthrough:
        bits |= REPORTED
        told = {(field.leaf, field.register) for field in offer.fields}
        found += [v for v in REPORTED_VALUES if v.leaf == leaf and (v.leaf, v.register) not in told]
    else:
        found += [field for field in offer.fields if field.leaf == leaf]
    masks: dict[str, int] = {}
    for gate in bits:
        if gate.leaf == leaf:
            masks[gate.register] = masks.get(gate.register, 0) | 1 << gate.bit
    found += [Promise(leaf, register, mask, mask) for register, mask in sorted(masks.items())]
    if leaf == INTERFACE:
        found.append(Promise(leaf, "eax", 0xFFFF_FFFF, INTERFACE_SIGNATURE))
    return found


def unpromised(offer: Offer, leaf: int, register: str) -> int | None:
    """Bits of a register that only flags set which were not given; None: passthrough, it depends on the host."""
    if offer.passthrough:
        return None
    return sum(
        1 << gate.bit
        for gate in FLAGGED - offer.bits
        if gate.leaf == leaf and gate.register == register and offer.hyperv
    )
