"""HV804 eoi-unasked

## What it finds
An interrupt that ends although the guest wrote no EOI register and did not use the flag of the paravirtual EOI.

## Why it matters
Interrupts of the same priority come while the guest is still in the handler.

## What the specification says
> An interrupt ends by a write of EOI, which kvm_apic shows before kvm_eoi, or by the flag in the VP assist page or in
> KVM's own word, which kvm_pv_eoi shows after it (apic_set_eoi, apic_sync_pv_eoi_from_guest).

## When it cannot tell
Where APICv or AVIC may serve the guest: ends in hardware show kvm_eoi alone.

## Example
    kvm_exit: vcpu 0 reason hlt
    kvm_eoi: apicid 0 vector 236
    kvm_entry: vcpu 0
    expected kvm_pv_eoi of vector 236, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.apic import UNASKED_UNSURE
from hvtrace.replay.obligation import Due, Obligation, comes
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import Reason, Verdict, unknown

__all__ = ["RULE"]


lazily = comes(lambda owed: "no write of EOI and no flag ended this interrupt")


def check(owed: Obligation) -> Verdict | None:
    """The flag ended it."""
    if owed.key == UNASKED_UNSURE:
        return unknown(Reason.PARAMETER_UNKNOWN)
    return lazily(owed)


RULE = Rule(
    "HV804",
    "eoi-unasked",
    (Moment.DUE,),
    ("kvm_apic", "kvm_eoi", "kvm_pv_eoi", "kvm_entry"),
    check,
    due=Due.PV_EOI,
    theme="end of interrupt",
)
