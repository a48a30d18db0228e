"""HV104 cpuid-promise-broken

## What it finds
A bit or a value that the VM's -cpu option promises and the guest's CPUID does not show: the bits of each hv-* flag, the
number of spinlock retries, the vendor and version given, and, with hv-passthrough, what every KVM reports.

## Why it matters
The guest falls back to slower ways of telling time and sending interrupts, although the VM was started with the
enlightenment.

## What the specification says
> QEMU refuses to start where KVM does not support a flag, and otherwise sets its bits (hyperv_fill_cpuids). With
> hv-passthrough it sets what KVM reports (KVM_GET_SUPPORTED_HV_CPUID), which has been the same at its core since 5.0.

## When it cannot tell
Where the VM's -cpu option is not known.

## Example
    -cpu host,hv-vpindex,hv-synic,hv-time,hv-stimer
    kvm_cpuid: func 40000003 rax 266 rbx 30 rcx 0 rdx 8
    expected eax 0x26e of 0x26e, observed eax 0x266
"""

from __future__ import annotations

from hvtrace.abi.cpuid import (
    FEATURES,
    INTERFACE,
    LIMITS,
    NESTED,
    RECOMMENDATIONS,
    SYNDBG,
    VENDOR,
    VERSION,
    bit_name,
)
from hvtrace.abi.register import Gate
from hvtrace.replay.model.cpuid import REGISTERS, Answer
from hvtrace.replay.model.offer import Promise, promises
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

LEAVES = frozenset({VENDOR, INTERFACE, VERSION, FEATURES, RECOMMENDATIONS, LIMITS, NESTED, SYNDBG})


def check(answer: Answer) -> Verdict | None:
    """What was promised is there."""
    if answer.leaf not in LEAVES or answer.found is None:
        return None
    offer = answer.vcpu.bench.offer
    if offer is None:
        return unknown(Reason.CPUID_UNKNOWN)
    asked = promises(offer, answer.leaf)
    for promise in asked:
        value = answer.values[REGISTERS.index(promise.register)]
        if value & promise.mask != promise.value:
            return _broken(promise, value)
    return HOLDS if asked else None


def _broken(promise: Promise, value: int) -> Diverges:
    place = f"0x{promise.leaf:x}.{promise.register.upper()}"
    missing = promise.value & ~value
    expected = f"{promise.register} 0x{promise.value:x} of 0x{promise.mask:x}"
    if promise.mask == promise.value and missing:
        names = [
            bit_name(Gate(promise.leaf, promise.register, bit)) or str(bit)
            for bit in range(32)
            if missing >> bit & 1
        ]
        return Diverges(
            expected, f"{promise.register} 0x{value:x}", f"CPUID {place} lacks {', '.join(names)}"
        )
    return Diverges(expected, f"{promise.register} 0x{value:x}", f"CPUID {place} is not what was promised")


RULE = Rule("HV104", "cpuid-promise-broken", (Moment.CPUID,), ("kvm_cpuid",), check, theme="cpuid")
