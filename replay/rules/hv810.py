"""HV810 tpr-lost

## What it finds
A read of the synthetic TPR register that does not return the priority class written through it just before.

## Why it matters
Interrupts that the guest has masked are delivered.

## What the specification says
> TPR holds what was written (TLFS, Virtual interrupt controller; apic_set_tpr). Bits 3:0 may be lost: KVM synchronises
> TPR with CR8, which has the upper four bits alone.

## When it cannot tell
The guest may change TPR without an exit by writing CR8, even between the two accesses: only a read in the exit after
the write's is judged, and it is a warning.

## Example
    kvm_msr: msr_write 40000072 = 0x20
    kvm_entry: vcpu 0
    kvm_exit: vcpu 0 reason msr
    kvm_msr: msr_read 40000072 = 0x0
    expected 0x20, observed 0x0
"""

from __future__ import annotations

from hvtrace.replay.model.apic import TPR_REGISTER, Through
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Severity, Verdict

__all__ = ["RULE"]


CLASS = 0xF0


def check(through: Through) -> Verdict | None:
    """The class is the one written."""
    access = through.access
    if access.write or access.late or access.refused or through.register != TPR_REGISTER:
        return None
    if through.priority is None:
        return None
    if access.value >> 8 == 0 and access.value & CLASS == through.priority & CLASS:
        return HOLDS
    text = "TPR does not hold what was written in the exit before"
    return Diverges(f"0x{through.priority & 0xFF:x}", f"0x{access.value:x}", text)


RULE = Rule(
    "HV810",
    "tpr-lost",
    (Moment.THROUGH,),
    ("kvm_msr", "kvm_apic", "kvm_exit", "kvm_entry", RESETS),
    check,
    severity=Severity.WARNING,
    theme="APIC register",
)
