"""HV281 reserved-bits-kept

## What it finds
In the profile `tlfs`: a guest's write that sets bits the specification reserves as zero, and that KVM takes
and keeps.

## Why it matters
A guest that relies on it breaks on Hyper-V, and on a KVM that looks one day.

## What the specification says
> Reserved fields of synthetic registers must be zero; a write that sets them raises #GP (TLFS, Synthetic
> MSRs). KVM looks at none of those reported here.

## When it cannot tell
Never: the value is in the event. It is asked only in the profile `tlfs`, and is a warning: KVM departs from
the specification knowingly.

## Example
    kvm_msr: msr_write 400000b0 = 0x20000000e001
    expected (#GP), observed the value is kept: bits 0x20000000e000 of STIMER0_CONFIG are reserved
"""

from __future__ import annotations

from hvtrace.abi.register import Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Severity, Verdict

__all__ = ["RULE"]


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return write and row is not None and row.unchecked_mask != 0


def check(access: Access) -> Verdict | None:
    """Reserved is zero."""
    row = access.row
    if row is None or access.late or access.refused:
        return None
    reserved = access.value & row.unchecked_mask
    if not reserved:
        return HOLDS
    return Diverges("(#GP)", "the value is kept", f"bits 0x{reserved:x} of {access.name} are reserved")


RULE = Rule(
    "HV281",
    "reserved-bits-kept",
    (Moment.MSR,),
    ("kvm_msr",),
    check,
    severity=Severity.WARNING,
    concerns=concerns,
    specification=True,
)
