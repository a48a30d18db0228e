"""HV203 msr-gate-ignored

## What it finds
Under CPUID enforcement (hv-enforce-cpuid), an access to a register whose CPUID bit the guest was not
given, and that did not raise #GP.

## Why it matters
Enforcement exists so that a guest cannot use what it was not offered: a migration to a host without it
would break the guest.

## What the specification says
> Access to a register without its privilege raises #GP (TLFS, Partition privilege flags;
> KVM_CAP_HYPERV_ENFORCE_CPUID).

## When it cannot tell
Where the guest never read the CPUID leaf and no -cpu flags are known, or where it is not known whether
CPUID is enforced. Without flags, enforcement is learnt from the accesses themselves, once at least three
different bits agree.

## Example
    kvm_msr: msr_read 400000b0 = 0x0
    expected (#GP), observed no fault: CPUID 0x40000003.EAX[3] is clear and CPUID is enforced
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return row is not None and row.gate is not None and row.group is not Group.KVM


def check(access: Access) -> Verdict | None:
    """The gate's fault."""
    fault = access.fault
    if access.kept or fault.expected is False or fault.cause != "gate" or access.is_kvm:
        return None
    if fault.expected is None:
        return unknown(fault.reason)
    if access.refused:
        return HOLDS
    return Diverges("(#GP)", "no fault", f"{access.verb} of {access.name} must raise #GP: {fault.why}")


RULE = Rule(
    "HV203", "msr-gate-ignored", (Moment.MSR,), ("kvm_msr",), check, theme="enforcement", concerns=concerns
)
