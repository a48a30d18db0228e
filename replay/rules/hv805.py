"""HV805 pv-eoi-uncalled

## What it finds
kvm_pv_eoi without the end of an interrupt of this vector before it, of no interrupt at all, after an access was served
in the same exit, or while the guest has no flag registered.

## Why it matters
The hypervisor reads a flag that is no longer the guest's, and ends an interrupt whose handler still runs.

## What the specification says
> When the guest cleared the flag it was given, KVM ends the interrupt as soon as the guest exits: kvm_eoi, then
> kvm_pv_eoi with the same vector (apic_sync_pv_eoi_from_guest). The flag is registered by bit 0 of the VP assist page's
> MSR or of MSR_KVM_PV_EOI_EN, whichever was written last (TLFS, EOI assist).

## When it cannot tell
At the first event of the vCPU, and after a loss.

## Example
    kvm_eoi: apicid 0 vector 236
    kvm_pv_eoi: apicid 0 vector 235
    expected vector 236, observed vector 235
"""

from __future__ import annotations

from hvtrace.replay.model.apic import LazyEnd
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(end: LazyEnd) -> Verdict | None:
    """It follows the end of the same vector."""
    shown = f"vector {end.vector}"
    if end.before is None:
        if not end.known:
            return unknown(end.vcpu.why)
        return Diverges(f"kvm_eoi of {shown} before it", "none", f"the APIC did not end {shown} by the flag")
    if end.before != end.vector:
        return Diverges(f"vector {end.before}", shown, f"the APIC ended vector {end.before}")
    if end.vector < 0:
        return Diverges("a vector", shown, "the flag is set for an interrupt in service alone")
    if end.lazy is False:
        return Diverges("no kvm_pv_eoi", shown, "the guest has no flag registered")
    if end.late:
        return Diverges("no kvm_pv_eoi", shown, "the flag is looked at before the exit is served")
    return HOLDS


RULE = Rule(
    "HV805",
    "pv-eoi-uncalled",
    (Moment.LAZY,),
    ("kvm_pv_eoi", "kvm_eoi", "kvm_apic", "kvm_msr", "kvm_entry", RESETS),
    check,
    theme="end of interrupt",
)
