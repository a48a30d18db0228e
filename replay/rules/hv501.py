"""HV501 stimer-config-read-back

## What it finds
A read of a synthetic timer's CONFIG that differs from the model: another value than was written, or an
enable bit that should be clear (after a count of 0, after a one-shot expiration, after enabling an
enabled timer with source 0) or set (auto-enable).

## Why it matters
The guest reads the enable bit to know whether its timer is still running.

## What the specification says
> Writing a count of zero disables the timer; a one-shot timer is disabled when it expires; auto-enable
> sets the bit when the count is written (TLFS, Synthetic timer configuration register).

## When it cannot tell
Until CONFIG was seen, and where the enable bit depends on something that was not.

## Example
    kvm_hv_stimer_set_count: vcpu_id 0 timer 0 count 0 host 0
    kvm_msr: msr_read 400000b0 = 0x20003
    expected 0x20002, observed 0x20003
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
    """CONFIG as the model has it."""
    row = access.row
    if row is None or access.write or access.late or access.refused:
        return None
    if row.group is not Group.STIMER or access.index & 1:
        return None
    if access.before is None:
        return unknown(access.why)
    if access.value == access.before:
        return HOLDS
    text = f"{access.name} reads 0x{access.value:x}, the timer's state is 0x{access.before:x}"
    return Diverges(f"0x{access.before:x}", f"0x{access.value:x}", text)


RULE = Rule(
    "HV501",
    "stimer-config-read-back",
    (Moment.MSR,),
    ("kvm_msr", "kvm_hv_stimer_set_config", "kvm_hv_stimer_set_count", "kvm_hv_stimer_expiration"),
    check,
    concerns=concerns,
    theme="SynIC",
)
