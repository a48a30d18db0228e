"""HV206 msr-fixed-value

## What it finds
A read of a register that always returns the same value (RESET and EOM read 0) and returned another, or a
read that shows bits the register does not have (TPR above 0xff, CRASH_CTL with anything but bit 63). A refused read
must show 0.

## Why it matters
A command register that keeps its command makes a guest believe that it is still under way.

## What the specification says
> RESET and EOM read as zero (TLFS, System reset; EOM). CRASH_CTL shows the capability alone. KVM traces a refused
> read with the value 0 (kvm_emulate_rdmsr).

## When it cannot tell
It always can.

## Example
    kvm_msr: msr_read 40000084 = 0x1
    expected 0x0, observed 0x1
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Kind, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


#: The APIC's own ICR may hold reserved bits.
ICR = 0x4000_0071


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return not write


def check(access: Access) -> Verdict | None:
    """Fixed values and bits that cannot be."""
    row, value = access.row, access.value
    if access.write or access.late:
        return None
    if access.refused:
        if value == 0:
            return HOLDS
        return Diverges("0x0", f"0x{value:x}", f"a refused read of {access.name} returns nothing")
    if row is None or row.group is Group.KVM:
        return None
    if row.kind is Kind.FIXED:
        if value == row.reads:
            return HOLDS
        return Diverges(f"0x{row.reads:x}", f"0x{value:x}", f"{access.name} always reads 0x{row.reads:x}")
    if row.kind is not Kind.DEVICE or access.index == ICR:
        return None
    extra = value & ~row.legal_mask
    if not extra:
        return HOLDS
    text = f"{access.name} has no bits 0x{extra:x}"
    return Diverges(f"no bits outside 0x{row.legal_mask:x}", f"0x{value:x}", text)


RULE = Rule("HV206", "msr-fixed-value", (Moment.MSR,), ("kvm_msr",), check, concerns=concerns)
