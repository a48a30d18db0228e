"""HV201 msr-fault-missing

## What it finds
A guest's access to a synthetic MSR that KVM must refuse with #GP and did not: a write of a read-only
register, reserved bits, an unmasked SINT with a vector below 16, a register of a unit that is switched
off, an index that no register has.

## Why it matters
A guest that probes for a register relies on the fault, and a value that was let in sits in the register:
an interrupt source with a low vector raises exceptions in the guest.

## What the specification says
> SINT: an unmasked source with a vector below 16 raises #GP (TLFS, SynIC SINT registers). Read-only
> registers and reserved bits: TLFS, each register. KVM's own choice of checks is in the register table.

## When it cannot tell
Where CPUID, the state of the SynIC, the kernel's version or the module parameter ignore_msrs decides and
is not known.

## Example
    kvm_msr: msr_write 40000096 = 0x5
    expected (#GP), observed no fault: an unmasked source must not have vector 5
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import EOI, Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Holds, Verdict, unknown

__all__ = ["RULE"]

#: Units whose other rules see the consequences of a write that should have been refused.
THEMES = {Group.SYNIC: "SynIC", Group.STIMER: "SynIC", Group.APIC: "APIC register"}


#: Conditions that, where they are not known, leave open whether there must be a fault.
UNDECIDED = ("absent", "reserved")


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return row is None or row.group is not Group.KVM


def check(access: Access) -> Verdict | None:
    """A fault that must be there."""
    fault = access.fault
    if access.kept or access.is_kvm:
        return None
    if fault.expected is None and fault.cause in UNDECIDED:
        return unknown(fault.reason)
    if not fault.expected or fault.cause == "gate":
        return None
    if access.refused:
        return Holds(fault.bug) if fault.bug else HOLDS
    text = f"{access.verb} of {access.name} must raise #GP: {fault.why}"
    return Diverges("(#GP)", "no fault", text, fault.bug, theme=_theme(access))


def _theme(access: Access) -> str:
    """What is let in has consequences, which other rules see."""
    if access.index == EOI:
        return "end of interrupt"
    return "" if access.row is None else THEMES.get(access.row.group, "")


RULE = Rule("HV201", "msr-fault-missing", (Moment.MSR,), ("kvm_msr",), check, concerns=concerns)
