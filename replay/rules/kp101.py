"""KP101 kvm-msr-fault-wrong

## What it finds
An access to one of KVM's own MSRs that raised #GP without a reason, or did not where reserved bits were
set, where the kernel has no such register, or where PV CPUID is enforced and the feature's bit is clear.
MIGRATION_CONTROL, which userspace serves without kvm_msr, counts as a register the kernel has not.

## Why it matters
A Linux guest takes the feature for broken, or a wrong address for accepted.

## What the specification says
> Reserved bits of KVM's MSRs raise #GP (KVM, msr.rst); without KVM_CAP_ENFORCE_PV_FEATURE_CPUID the
> registers work whatever CPUID says.

## When it cannot tell
Where PV CPUID enforcement or the feature's bit is not known, and where a write depends on an address that KVM
was not seen to reach, on an APIC that may be in userspace, on the host's scheduler statistics (before 5.14)
or on the kernel's version.

## Example
    kvm_msr: msr_write 4b564d05 = 0x2
    expected (#GP), observed no fault: bits 0x2 are reserved
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return row is not None and row.group is Group.KVM


def check(access: Access) -> Verdict | None:
    """Faults of KVM's own registers."""
    if not access.is_kvm:
        return None
    fault = access.fault
    if fault.expected is None:
        if access.write and not access.refused and access.row is not None and access.row.fault_mask:
            # Whatever else decides: with reserved bits set it would have had to be refused.
            return HOLDS
        return unknown(fault.reason)
    if fault.expected == access.refused:
        return HOLDS
    words = {True: "(#GP)", False: "no fault"}
    text = f"{access.verb} of {access.name}: {fault.why}"
    return Diverges(words[fault.expected], words[access.refused], text)


RULE = Rule("KP101", "kvm-msr-fault-wrong", (Moment.MSR,), ("kvm_msr",), check, concerns=concerns)
