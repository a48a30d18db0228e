"""HV816 pv-eoi-unused

## What it finds
Six interrupts in a VM, sent by vCPUs and delivered while no other was pending, that the guest ended by a write of EOI
(the synthetic register, where a VP assist page is registered) although their delivery must have set the flag of the
paravirtual EOI; and the flag was never used.

## Why it matters
Either the guest does not look at the flag, or the hypervisor never sets it: each interrupt costs an exit more.

## What the specification says
> The hypervisor sets "No EOI required" where no interrupt of lower priority waits for this one's end, and the guest
> then need not write EOI (TLFS, EOI assist).

## When it cannot tell
Whether it is the guest or the hypervisor: it is a warning. Once the flag was used by any handler, HV806 judges.

## Example
    kvm_msr: msr_write 40000073 = 0x1001
    kvm_apic_accept_irq: apicid 0 vec 107 (Fixed|edge)
    kvm_inj_virq: IRQ 0x6b
    kvm_eoi: apicid 0 vector 107
    kvm_msr: msr_write 40000070 = 0x0
    expected kvm_pv_eoi of vector 107, observed a write of EOI, six times
"""

from __future__ import annotations

from hvtrace.replay.model.apic import Skipped
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Severity, Verdict, unknown

__all__ = ["RULE"]


#: A guest that looks at the flag would have used it once in so many deliveries.
ENOUGH = 6


def check(skipped: Skipped) -> Verdict | None:
    """The flag is used at all."""
    if skipped.known:
        return None
    if skipped.used:
        return HOLDS
    if not skipped.ever and skipped.number >= ENOUGH:
        return Diverges(
            f"kvm_pv_eoi of vector {skipped.vector}", "a write of EOI", "the VM never used the flag"
        )
    return unknown(Reason.STATE_UNSEEN)


RULE = Rule(
    "HV816",
    "pv-eoi-unused",
    (Moment.SKIPPED,),
    (
        "kvm_pv_eoi", "kvm_eoi", "kvm_apic", "kvm_msr", "kvm_inj_virq", "kvm_apic_accept_irq", "kvm_apic_ipi",
        "kvm_entry", "kvm_exit", RESETS,
    ),
    check,
    severity=Severity.WARNING,
    theme="end of interrupt",
)  # fmt: skip
