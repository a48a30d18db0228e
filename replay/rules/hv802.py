"""HV802 eoi-wrong-vector

## What it finds
The end of an interrupt that is not the one in service with the highest vector, or the end of an interrupt that was
never delivered.

## Why it matters
Another interrupt stays in service: everything of its priority and below is blocked for ever.

## What the specification says
> EOI ends the interrupt of highest priority that is in service, which is the one delivered last (Intel SDM 3, EOI
> register; apic_set_eoi). kvm_eoi shows its vector, -1 where none is in service. An interrupt of a source with auto-EOI
> is never in service.

## When it cannot tell
Where APICv or AVIC may serve the guest, where the guest is itself a hypervisor, and where interrupts may have been
delivered before they were seen.

## Example
    kvm_inj_virq: IRQ 0xec
    kvm_eoi: apicid 0 vector 235
    expected vector 236, observed vector 235
"""

from __future__ import annotations

from hvtrace.replay.model.apic import EndOfService
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(end: EndOfService) -> Verdict | None:
    """The highest vector in service."""
    if not end.judgeable:
        return unknown(Reason.PARAMETER_UNKNOWN)
    if end.vector < end.highest:
        text = f"vector {end.highest} is in service"
        return Diverges(f"vector {end.highest}", f"vector {end.vector}", text)
    if end.vector == end.highest != -1:
        return HOLDS
    if end.vector == -1:
        return None if end.lazily >= 0 else HOLDS if end.complete else unknown(end.vcpu.why)
    if end.perhaps or not end.complete:
        return unknown(end.vcpu.why)
    expected = "no interrupt in service" if end.highest == -1 else f"vector {end.highest}"
    return Diverges(expected, f"vector {end.vector}", f"vector {end.vector} was not delivered and not ended")


RULE = Rule(
    "HV802",
    "eoi-wrong-vector",
    (Moment.ENDED,),
    ("kvm_eoi", "kvm_inj_virq", "kvm_apic_accept_irq", "kvm_nested_vmenter", "kvm_entry", RESETS),
    check,
    theme="end of interrupt",
)
