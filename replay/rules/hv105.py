"""HV105 cpuid-bit-unpromised

## What it finds
A CPUID bit that belongs to an hv-* flag which the VM's -cpu option does not name. A warning: it is QEMU that composes
the leaves, and the option may not be the whole of its configuration.

## Why it matters
The guest uses an enlightenment that the VM was meant to run without; a migration to a host that goes by the option
breaks it.

## What the specification says
> Each flag sets bits of its own (hv-* flags of QEMU).

## When it cannot tell
Where the VM's -cpu option is not known, or is hv-passthrough.

## Example
    -cpu host,hv-relaxed,hv-vpindex
    kvm_cpuid: func 40000003 rax 68 rbx 0 rcx 0 rdx 8
    expected no SYNTIMER, observed it
"""

from __future__ import annotations

from hvtrace.abi.cpuid import FEATURES, NESTED, RECOMMENDATIONS, SYNDBG, bit_name
from hvtrace.abi.register import Gate
from hvtrace.replay.model.cpuid import REGISTERS, Answer
from hvtrace.replay.model.offer import unpromised
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Severity, Verdict, unknown

__all__ = ["RULE"]

LEAVES = frozenset({FEATURES, RECOMMENDATIONS, NESTED, SYNDBG})


def check(answer: Answer) -> Verdict | None:
    """What was not promised is not there."""
    if answer.leaf not in LEAVES or not answer.found:
        return None
    offer = answer.vcpu.bench.offer
    if offer is None:
        return unknown(Reason.CPUID_UNKNOWN)
    if offer.passthrough or not offer.hyperv:
        return None
    for register, value in zip(REGISTERS, answer.values, strict=True):
        extra = value & (unpromised(offer, answer.leaf, register) or 0)
        if extra:
            bits = (Gate(answer.leaf, register, bit) for bit in range(32) if extra >> bit & 1)
            names = ", ".join(bit_name(gate) or str(gate) for gate in bits)
            text = f"CPUID 0x{answer.leaf:x}.{register.upper()} has bits of flags that were not given"
            return Diverges(f"no {names}", f"{register} 0x{value:x}", text)
    return HOLDS


RULE = Rule(
    "HV105",
    "cpuid-bit-unpromised",
    (Moment.OFFER,),
    ("kvm_cpuid",),
    check,
    severity=Severity.WARNING,
    theme="offer",
)
