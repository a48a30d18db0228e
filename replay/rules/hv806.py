"""HV806 pv-eoi-unarmed

## What it finds
Interrupts that the guest ended by a write of EOI in the first exit after their delivery, although their delivery must
have set the flag of the paravirtual EOI, which spares the guest this write.

## Why it matters
Each interrupt costs an exit more.

## What the specification says
> The hypervisor sets "No EOI required" where no interrupt of lower priority waits for this one's end, and the guest
> then need not write EOI (TLFS, EOI assist). KVM sets it as it delivers an edge-triggered interrupt while no other
> is pending (apic_sync_pv_eoi_to_guest).

## When it cannot tell
A guest may write EOI whatever the flag says: only interrupts are judged whose vector's handler used the flag before, as
it was registered (see HV816 for a flag that is never used). Where APICv or AVIC may serve the guest there is no flag.

## Example
    kvm_apic_accept_irq: apicid 0 vec 107 (Fixed|edge)
    kvm_inj_virq: IRQ 0x6b
    kvm_entry: vcpu 0
    kvm_exit: vcpu 0 reason msr
    kvm_apic: apic_write APIC_EOI = 0x0
    kvm_eoi: apicid 0 vector 107
    expected kvm_pv_eoi of vector 107, observed a write of EOI
"""

from __future__ import annotations

from hvtrace.replay.model.apic import Skipped
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(skipped: Skipped) -> Verdict | None:
    """The flag is used where it was set."""
    if skipped.used:
        return HOLDS if skipped.known else None
    if skipped.known:
        text = "the flag was not set; the handler of this vector uses it"
        return Diverges(f"kvm_pv_eoi of vector {skipped.vector}", "a write of EOI", text)
    return unknown(Reason.STATE_UNSEEN)


RULE = Rule(
    "HV806",
    "pv-eoi-unarmed",
    (Moment.SKIPPED,),
    (
        "kvm_pv_eoi", "kvm_eoi", "kvm_apic", "kvm_msr", "kvm_inj_virq", "kvm_apic_accept_irq", "kvm_apic_ipi",
        "kvm_entry", "kvm_exit", RESETS,
    ),
    check,
    theme="end of interrupt",
)  # fmt: skip
