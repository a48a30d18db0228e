"""HV604 reference-tsc-not-filled

## What it finds
A write of REFERENCE_TSC that enables the page and is not followed by kvm_update_master_clock before the vCPU enters the
guest; or one that disables the page and is.

## Why it matters
The page keeps sequence 0 or old parameters: the guest goes on reading TIME_REF_COUNT, with an exit for each read, or
computes a wrong time.

## What the specification says
> Writing the register with the enable bit set makes the hypervisor fill the page (TLFS, Partition reference TSC
> mechanism). KVM asks for an update of the master clock in the same exit, for which the vCPU's thread takes the host's
> time anew and has the page filled (kvm_hv_set_msr_pw, kvm_update_masterclock).

## When it cannot tell
Where events are lost or the recording ends before the next entry. Of a write that disables the page: where the thread
was in userspace or a TSC offset was written in the same exit.

## Example
    kvm_msr: msr_write 40000021 = 0x104d001
    kvm_entry: vcpu 0
    expected kvm_update_master_clock, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.clock import PageWrite
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]

EVENT = "kvm_update_master_clock"


def check(page: PageWrite) -> Verdict | None:
    """An update follows where the page was enabled, and not where it was disabled."""
    if page.enable:
        if page.updates:
            return HOLDS
        return Diverges(EVENT, "nothing", "the TSC page was enabled and nobody fills it")
    if page.other:
        return unknown(page.vcpu.why)
    if not page.updates:
        return HOLDS
    return Diverges(f"no {EVENT}", EVENT, "the TSC page was disabled and the master clock is updated for it")


RULE = Rule(
    "HV604",
    "reference-tsc-not-filled",
    (Moment.PAGE,),
    ("kvm_msr", "kvm_entry", EVENT),
    check,
)
