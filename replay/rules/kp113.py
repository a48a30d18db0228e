"""KP113 pvclock-flags

## What it finds
A clock page that calls the TSC stable while the master clock is not in use, or does not while it is, or has
flags that do not exist.

## Why it matters
With the flag the guest reads its clock without looking at other vCPUs: where their TSCs differ its time goes
back. Without it every reading costs a locked instruction.

## What the specification says
> Bit 0: time measures taken on several vCPUs are monotonic; bit 1: the guest was stopped (KVM, msr.rst). KVM
> sets bit 0 where the master clock is in use (kvm_guest_time_update).

## When it cannot tell
Until kvm_update_master_clock was seen in a vCPU's thread. Where Xen's interface is offered as well.

## Example
    kvm_update_master_clock: masterclock 0 hostclock none offsetmatched 0
    kvm_pvclock_update: … flags 0x1 }
    expected flags 0x0, observed flags 0x1
"""

from __future__ import annotations

from hvtrace.replay.model.pvclock import STABLE, STOPPED, Update
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(update: Update) -> Verdict | None:
    """Stable with the master clock, and only then."""
    master = update.vcpu.vm.master
    if update.flags & ~(STABLE | STOPPED):
        return Diverges("flags 0x0 to 0x3", f"flags 0x{update.flags:x}", "a clock page has no such flags")
    if master.used is None or update.vcpu.vm.paravirt.xen:
        return unknown(Reason.STATE_UNSEEN)
    if update.stable == master.used:
        return HOLDS
    if (update.late or update.overtaken) and master.former_used in (None, update.stable):
        # It may have been read before the master clock was updated.
        return unknown(Reason.STATE_UNSEEN)
    expected = (update.flags & STOPPED) | (STABLE if master.used else 0)
    used = "in use" if master.used else "not in use"
    return Diverges(f"flags 0x{expected:x}", f"flags 0x{update.flags:x}", f"the master clock is {used}")


RULE = Rule(
    "KP113",
    "pvclock-flags",
    (Moment.PVCLOCK,),
    ("kvm_pvclock_update", "kvm_update_master_clock", RESETS),
    check,
    theme="pvclock",
)
