"""KP119 master-clock-with-old-msr

## What it finds
A master clock in use while the boot vCPU has its clock page at the old MSR (0x12).

## Why it matters
Guests that know the old MSR alone do not know the flag of a stable TSC either: they pay for nothing, or read
a clock that KVM holds for checked.

## What the specification says
> The master clock is not used while the boot vCPU runs the old kvmclock (pvclock_update_vm_gtod_copy,
> kvm_write_system_time).

## When it cannot tell
Where the boot vCPU's register is not known, or another thread updates the clock while it may be writing it.

## Example
    kvm_msr: msr_write 12 = 0x7001
    kvm_update_master_clock: masterclock 1 hostclock tsc offsetmatched 1
    expected masterclock 0, observed masterclock 1
"""

from __future__ import annotations

from hvtrace.replay.model.pvclock import OldClock
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(clock: OldClock) -> Verdict | None:
    """The old MSR forbids the master clock."""
    if not clock.used:
        return None
    if clock.old is None:
        return unknown(Reason.STATE_UNSEEN)
    if not clock.old:
        return HOLDS
    return Diverges("masterclock 0", "masterclock 1", "the boot vCPU has the old clock MSR")


RULE = Rule(
    "KP119",
    "master-clock-with-old-msr",
    (Moment.OLD_CLOCK,),
    ("kvm_update_master_clock", "kvm_msr", RESETS),
    check,
)
