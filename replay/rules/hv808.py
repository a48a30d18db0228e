"""HV808 apic-msr-write

## What it finds
A guest's write of the synthetic EOI, ICR or TPR register that does not reach the register of the APIC, or reaches
another one, or with another value; or one that was refused and reaches it all the same.

## Why it matters
The guest's priority, its interrupts to others and its ends of interrupts are lost.

## What the specification says
> The synthetic registers are the APIC's own, in a form that is cheaper to write (TLFS, Virtual interrupt controller).
> KVM shows the APIC's register by kvm_apic before the write's kvm_msr; of ICR the busy bit (12) is ignored
> (kvm_hv_vapic_msr_write).

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_apic: apic_write APIC_TASKPRI = 0x10
    kvm_msr: msr_write 40000072 = 0x20
    expected kvm_apic write of APIC_TASKPRI 0x20, observed 0x10
"""

from __future__ import annotations

from hvtrace.replay.model.apic import BUSY, EOI_REGISTER, ICR_HIGH, ICR_LOW, Through
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


LOW = 0xFFFF_FFFF


def check(through: Through) -> Verdict | None:
    """The APIC's register is written."""
    access, register = through.access, through.register
    if not access.write or access.late:
        return None
    if not access.whole:
        return unknown(access.why)
    written = [act for act in through.acts if act[2] == "kvm_apic" and act[5]]
    if access.refused:
        if not written:
            return HOLDS
        return Diverges("no write of the APIC", _words(written[0][6], written[0][7]), "the write was refused")
    if register == EOI_REGISTER and all(effect[2] != "kvm_eoi" for effect in access.effects):
        # HV801 finds it.
        return None
    value = access.value & LOW
    if register == ICR_LOW and all(act[6] != ICR_HIGH for act in written):
        # One register of 64 bits; older kernels write its two halves.
        value = access.value
    ignored = BUSY if register == ICR_LOW else 0
    ours = [act[7] for act in written if act[6] == register]
    if any((found ^ value) & ~ignored == 0 for found in ours):
        return HOLDS
    observed = _words(register, ours[0]) if ours else "none"
    text = f"{access.name} does not reach the APIC as it was written"
    return Diverges(_words(register, value), observed, text)


def _words(register: int, value: int) -> str:
    return f"kvm_apic write of register 0x{register:x} with 0x{value:x}"


RULE = Rule(
    "HV808",
    "apic-msr-write",
    (Moment.THROUGH,),
    ("kvm_msr", "kvm_apic", "kvm_exit", "kvm_entry"),
    check,
    theme="APIC register",
)
