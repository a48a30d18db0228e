"""HV208 hypercall-page-left-enabled

## What it finds
The hypercall page still enabled after GUEST_OS_ID was set to 0.

## Why it matters
A guest that hands over (kexec, hibernation) believes the page is gone and reuses its memory.

## What the specification says
> Writing zero to the guest OS identity disables the hypercall page: bit 0 of HYPERCALL is cleared, its
> address stays (TLFS, Establishing the hypercall interface; kvm_hv_set_msr_pw).

## When it cannot tell
Where the page's register was not seen before GUEST_OS_ID was cleared.

## Example
    kvm_msr: msr_write 40000000 = 0x0
    kvm_msr: msr_read 40000001 = 0x104d001
    expected 0x104d000, observed 0x104d001
"""

from __future__ import annotations

from hvtrace.abi.register import Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


HYPERCALL = 0x4000_0001


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return not write and row is not None and row.index == HYPERCALL


def check(access: Access) -> Verdict | None:
    """The page goes with the identity."""
    if access.index != HYPERCALL or access.write or access.late or access.refused:
        return None
    if "set to 0" not in access.origin or access.before is None:
        return None
    if access.value == access.before:
        return HOLDS
    if access.raced:
        return unknown(Reason.STATE_UNSEEN)
    text = f"{access.origin}: HYPERCALL must read 0x{access.before:x}"
    return Diverges(f"0x{access.before:x}", f"0x{access.value:x}", text)


RULE = Rule(
    "HV208", "hypercall-page-left-enabled", (Moment.MSR,), ("kvm_msr", RESETS), check, concerns=concerns
)
