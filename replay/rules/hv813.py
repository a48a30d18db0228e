"""HV813 pv-eoi-with-pending

## What it finds
An interrupt that the flag of the paravirtual EOI ended although another one had been pending since before its
delivery.

## Why it matters
The guest exits at no end of interrupt: the one that waits is delivered late.

## What the specification says
> "No EOI required" is set only where no other interrupt waits (TLFS, EOI assist; apic_sync_pv_eoi_to_guest looks at
> the pending interrupts).

## When it cannot tell
Where all is well the rule is silent. Only interrupts are judged that the vCPU's own thread raised and whose delivery
later shows that they were pending.

## Example
    kvm_apic_accept_irq: apicid 0 vec 40 (Fixed|edge)
    kvm_inj_virq: IRQ 0xec
    kvm_entry: vcpu 0
    kvm_eoi: apicid 0 vector 236
    kvm_pv_eoi: apicid 0 vector 236
    kvm_inj_virq: IRQ 0x28
    expected no kvm_pv_eoi, observed vector 236
"""

from __future__ import annotations

from hvtrace.replay.model.apic import Armed
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import Diverges, Verdict

__all__ = ["RULE"]


def check(armed: Armed) -> Verdict | None:
    """The flag is set for the last interrupt alone."""
    text = f"vector {armed.waiting} was pending as vector {armed.ended} was delivered"
    return Diverges("no kvm_pv_eoi", f"vector {armed.ended}", text)


RULE = Rule(
    "HV813",
    "pv-eoi-with-pending",
    (Moment.ARMED,),
    ("kvm_pv_eoi", "kvm_eoi", "kvm_inj_virq", "kvm_apic_accept_irq", "kvm_entry", RESETS),
    check,
    theme="end of interrupt",
)
