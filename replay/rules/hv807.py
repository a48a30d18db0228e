"""HV807 interrupt-ended-twice

## What it finds
A write of EOI that finds no interrupt in service, after KVM ended the last one by the flag of the paravirtual EOI.

## Why it matters
The interrupt was ended while its handler still ran: the guest had not cleared the flag. With two interrupts in service
the second end is the other one's.

## What the specification says
> A guest that finds "No EOI required" set clears it and does not write EOI; one that finds it clear writes EOI (TLFS,
> EOI assist). Until the guest clears it, the interrupt stays in service (apic_sync_pv_eoi_from_guest).

## When it cannot tell
Where another interrupt was delivered between the two; and a guest may write EOI for nothing: it is a warning.

## Example
    kvm_eoi: apicid 0 vector 107
    kvm_pv_eoi: apicid 0 vector 107
    kvm_entry: vcpu 0
    kvm_apic: apic_write APIC_EOI = 0x0
    kvm_eoi: apicid 0 vector -1
    expected vector 107, observed vector -1
"""

from __future__ import annotations

from hvtrace.replay.model.apic import EndOfService
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Severity, Verdict

__all__ = ["RULE"]


def check(end: EndOfService) -> Verdict | None:
    """Each interrupt ends once."""
    if end.lazily < 0:
        return None
    if end.vector >= 0:
        return HOLDS
    text = f"the flag ended vector {end.lazily} although the guest had not cleared it"
    return Diverges(f"vector {end.lazily}", "vector -1", text)


RULE = Rule(
    "HV807",
    "interrupt-ended-twice",
    (Moment.ENDED,),
    ("kvm_eoi", "kvm_pv_eoi", "kvm_apic", "kvm_inj_virq", "kvm_entry", RESETS),
    check,
    severity=Severity.WARNING,
    theme="end of interrupt",
)
