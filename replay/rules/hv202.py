"""HV202 msr-fault-unexpected

## What it finds
A guest's access to a synthetic MSR that raised #GP although nothing forbids it.

## Why it matters
The guest crashes, or takes the register for absent and falls back to a slower way.

## What the specification says
> A register whose privilege the partition has can be accessed without a fault (TLFS, Partition privilege
> flags).

## When it cannot tell
Where CPUID, enforcement, the state of the SynIC or the APIC is not known, and where the page a write
enables may lie outside the guest's memory.

## Example
    kvm_msr: msr_read 40000090 = 0x0 (#GP)
    expected no fault, observed (#GP): nothing forbids reading it
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return row is None or row.group is not Group.KVM


def check(access: Access) -> Verdict | None:
    """A fault that must not be there."""
    fault = access.fault
    if access.kept or fault.expected or access.is_kvm:
        return None
    if fault.expected is None:
        if fault.cause in ("gate", "absent", "reserved"):
            # Other rules count those.
            return None
        return unknown(fault.reason)
    if not access.refused:
        return HOLDS
    return Diverges("no fault", "(#GP)", f"{access.verb} of {access.name} raised #GP: {fault.why}")


RULE = Rule("HV202", "msr-fault-unexpected", (Moment.MSR,), ("kvm_msr",), check, concerns=concerns)
