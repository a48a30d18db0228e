"""KP111 pvclock-rate-changed

## What it finds
A clock page with another slope than before, while its TSC is said to be stable.

## Why it matters
The guest's time runs fast or slow.

## What the specification says
> tsc_to_system_mul and tsc_shift turn cycles into ns (KVM, msr.rst); they follow from the TSC's frequency
> alone (kvm_get_time_scale), which does not change while the master clock is in use.

## When it cannot tell
At the first update, and where the TSC is not stable.

## Example
    kvm_pvclock_update: … tsc_to_system_mul 0xc4ec58b2, tsc_shift -1, flags 0x1 }
    kvm_pvclock_update: … tsc_to_system_mul 0xc4ec58b2, tsc_shift 0, flags 0x1 }
    expected 0xc4ec58b2 << -1, observed 0xc4ec58b2 << 0
"""

from __future__ import annotations

from hvtrace.replay.model.pvclock import Update
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(update: Update) -> Verdict | None:
    """The slope stays."""
    before, now = update.vcpu.paravirt.clock.rate, (update.point.mul, update.point.shift)
    if before is None or not update.stable:
        return unknown(Reason.STATE_UNSEEN)
    if now == before:
        return HOLDS
    return Diverges(
        f"0x{before[0]:x} << {before[1]}", f"0x{now[0]:x} << {now[1]}", "the slope of a clock page changed"
    )


RULE = Rule(
    "KP111", "pvclock-rate-changed", (Moment.PVCLOCK,), ("kvm_pvclock_update", RESETS), check, theme="pvclock"
)
