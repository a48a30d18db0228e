"""HV408 interrupt-refused-and-delivered

## What it finds
A synthetic source's or a direct timer's interrupt of which KVM says that the APIC did not take it, and that is put
into the guest all the same.

## Why it matters
KVM takes the message for undelivered: the timer waits for its source and never fires again.

## What the specification says
> The result of the delivery is what the APIC did: an APIC that is disabled takes nothing (synic_set_irq,
> stimer_notify_direct).

## When it cannot tell
Until the vector was put into the guest once, and where the APIC took it again before; where APICv or AVIC
delivers, nothing is seen and nothing is judged.

## Example
    kvm_apic_accept_irq: apicid 0 vec 49 (Fixed|edge)
    kvm_hv_synic_set_irq: vcpu_id 0 sint 2 vector 49 ret 0
    kvm_inj_virq: IRQ 0x31
    expected ret 1, observed a refusal
"""

from __future__ import annotations

from hvtrace.replay.model.synic import Refused
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(refused: Refused) -> Verdict | None:
    """What was refused does not come."""
    if refused.delivered is None:
        return unknown(refused.vcpu.why)
    text = f"vector {refused.vector} is put into the guest, and KVM says that the APIC did not take it"
    return Diverges("an interrupt that the APIC takes", "a refusal", text)


RULE = Rule(
    "HV408",
    "interrupt-refused-and-delivered",
    (Moment.REFUSED,),
    ("kvm_inj_virq", "kvm_apic_accept_irq", "kvm_hv_synic_set_irq", "kvm_entry"),
    check,
    theme="SynIC",
)
