"""HV209 hypercall-write-kept

## What it finds
A write of HYPERCALL that took effect although GUEST_OS_ID was 0.

## Why it matters
The page may appear before the guest has said who it is, in memory it uses for something else.

## What the specification says
> While the guest OS identity is zero, a write of HYPERCALL is ignored (TLFS, Establishing the hypercall
> interface; KVM drops the value without a fault).

## When it cannot tell
Where GUEST_OS_ID was not seen, or the register's value before the write.

## Example
    kvm_msr: msr_write 40000000 = 0x0
    kvm_msr: msr_write 40000001 = 0x5001
    kvm_msr: msr_read 40000001 = 0x5001
    expected 0x0, observed 0x5001
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
    """Without an identity there is no page."""
    if access.index != HYPERCALL or access.write or access.late or access.refused:
        return None
    if "dropped" not in access.origin:
        return None
    if access.before is None:
        return unknown(access.why)
    if access.value == access.before:
        return HOLDS
    if access.raced:
        return unknown(Reason.STATE_UNSEEN)
    text = f"{access.origin}: HYPERCALL must still read 0x{access.before:x}"
    return Diverges(f"0x{access.before:x}", f"0x{access.value:x}", text)


RULE = Rule("HV209", "hypercall-write-kept", (Moment.MSR,), ("kvm_msr", RESETS), check, concerns=concerns)
