"""HV814 lower-vector-first

## What it finds
An interrupt that is delivered although the vCPU's APIC took another one with a higher vector before, which was not
delivered yet.

## Why it matters
The other interrupt is late, or lost.

## What the specification says
> The pending interrupt with the highest vector is delivered first (Intel SDM 3, Interrupt priority;
> kvm_get_apic_interrupt).

## When it cannot tell
Where APICv or AVIC may serve the guest, where the guest is itself a hypervisor, and until the APIC is known to be
enabled. Only interrupts that the vCPU's own thread raised are known to be pending, and not the last of them: a hard
interrupt may raise one between the choice and its event.

## Example
    kvm_apic_accept_irq: apicid 0 vec 236 (Fixed|edge)
    kvm_apic_accept_irq: apicid 0 vec 40 (Fixed|edge)
    kvm_inj_virq: IRQ 0x28
    expected vector 236, observed vector 40
"""

from __future__ import annotations

from hvtrace.replay.model.apic import Delivery
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(delivery: Delivery) -> Verdict | None:
    """None that waits is higher."""
    if not delivery.waiting:
        return HOLDS if delivery.sure else None
    highest = max(delivery.waiting)
    text = f"vector {highest} was taken before and not delivered"
    return Diverges(f"vector {highest}", f"vector {delivery.vector}", text)


RULE = Rule(
    "HV814",
    "lower-vector-first",
    (Moment.DELIVERY,),
    ("kvm_inj_virq", "kvm_apic_accept_irq", "kvm_apic", "kvm_nested_vmenter", "kvm_entry", RESETS),
    check,
)
