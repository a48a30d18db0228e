"""HV502 stimer-count-read-back

## What it finds
A read of a synthetic timer's COUNT that returns something else than what was written.

## Why it matters
A guest that saves and restores its timers arms them with the wrong time.

## What the specification says
> COUNT keeps the value written; it does not count down (TLFS, Synthetic timer count register).

## When it cannot tell
Until COUNT was seen.

## Example
    kvm_hv_stimer_set_count: vcpu_id 0 timer 0 count 20000 host 0
    kvm_msr: msr_read 400000b1 = 0x4e21
    expected 0x4e20, observed 0x4e21
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return not write and row is not None and row.group is Group.STIMER


def check(access: Access) -> Verdict | None:
    """COUNT as written."""
    row = access.row
    if row is None or access.write or access.late or access.refused:
        return None
    if row.group is not Group.STIMER or not access.index & 1:
        return None
    if access.before is None:
        return unknown(access.why)
    if access.value == access.before:
        return HOLDS
    text = f"{access.name} reads 0x{access.value:x} and holds 0x{access.before:x}"
    return Diverges(f"0x{access.before:x}", f"0x{access.value:x}", text)


RULE = Rule(
    "HV502",
    "stimer-count-read-back",
    (Moment.MSR,),
    ("kvm_msr", "kvm_hv_stimer_set_count"),
    check,
    concerns=concerns,
    theme="SynIC",
)
