"""HV407 eoi-unseen-by-synic

## What it finds
The end of an interrupt with the vector of an unmasked synthetic source, by an EOI register, of which the
SynIC does not learn.

## Why it matters
A timer message that waits for its slot waits for ever.

## What the specification says
> The APIC tells the SynIC of each end of an interrupt with a source's vector: kvm_eoi, then
> kvm_hv_synic_send_eoi (apic_set_eoi).

## When it cannot tell
Where the sources' registers were not all seen; where the end is accelerated (APICv, AVIC), in which case
KVM does not tell the SynIC: only exits for an MSR access are judged.

## Example
    kvm_exit: vcpu 0 reason msr
    kvm_eoi: apicid 0 vector 98     (SINT2 holds vector 98)
    kvm_entry: vcpu 0
    expected kvm_hv_synic_send_eoi of vector 98, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV407",
    "eoi-unseen-by-synic",
    (Moment.DUE,),
    ("kvm_eoi", "kvm_hv_synic_send_eoi", "kvm_entry", "kvm_exit", "kvm_msr", "kvm_hv_synic_set_msr"),
    comes(lambda owed: f"the SynIC does not learn of the end of vector {owed.event[5]}"),
    due=Due.SYNIC_EOI,
    theme="SynIC",
)
