"""HV815 autoeoi-inhibition

## What it finds
A guest's write of a source that makes the vCPU's first vector with auto-EOI, or takes its last one away, without the
change of APICv's inhibition that must follow; or such a change with another write or with the wrong sense.

## Why it matters
APICv cannot end an interrupt as it is taken: interrupts of this source stay in service for ever, or the VM is served
in software for nothing.

## What the specification says
> A source with auto-EOI ends as it is delivered (TLFS, SINT registers). While some vCPU has such a source APICv is
> inhibited for its VM: kvm_apicv_inhibit_changed with reason 1, before the write's kvm_msr, wherever a vCPU's use
> begins or ends (synic_update_vector).

## When it cannot tell
Where it is not known whether APICv is switched on, or not all sixteen sources were seen. A source that takes the
vCPU's only auto-EOI to another vector ends the use and begins it again. Where APICv is switched off there must be no
change.

## Example
    kvm_hv_synic_set_msr: vcpu_id 0 msr 0x40000092 data 0x20062 host 0
    kvm_msr: msr_write 40000092 = 0x20062
    expected kvm_apicv_inhibit_changed set, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.apic import Inhibition
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(seen: Inhibition) -> Verdict | None:
    """It changes where the use of auto-EOI begins or ends."""
    shown = "none" if not seen.shown else "set" if seen.shown[0][6] else "cleared"
    if seen.offered is False:
        if not seen.shown:
            return HOLDS
        return Diverges("no kvm_apicv_inhibit_changed", shown, "APICv is switched off")
    if seen.changed is None:
        return unknown(seen.access.why)
    if seen.moved:
        # It ends for one vector and begins for the other: two changes, the second of which sets it.
        return HOLDS if len(seen.shown) > 1 and seen.shown[-1][6] else unknown(Reason.PARAMETER_UNKNOWN)
    if not seen.changed:
        if not seen.shown:
            return HOLDS
        text = "the vCPU's use of auto-EOI neither begins nor ends"
        return Diverges("no kvm_apicv_inhibit_changed", shown, text)
    if not seen.shown:
        if seen.offered is None:
            return unknown(Reason.PARAMETER_UNKNOWN)
        return Diverges("kvm_apicv_inhibit_changed", "none", "the vCPU's use of auto-EOI begins or ends")
    if seen.used is None:
        return unknown(seen.access.why)
    if bool(seen.shown[0][6]) == seen.used:
        return HOLDS
    text = (
        "a vCPU of the VM has a source with auto-EOI" if seen.used else "no vCPU has a source with auto-EOI"
    )
    return Diverges("set" if seen.used else "cleared", shown, text)


RULE = Rule(
    "HV815",
    "autoeoi-inhibition",
    (Moment.INHIBITION,),
    ("kvm_msr", "kvm_apicv_inhibit_changed", "kvm_hv_synic_set_msr", "kvm_exit", "kvm_entry", RESETS),
    check,
)
