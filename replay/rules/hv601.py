"""HV601 reference-time-backwards

## What it finds
A read of TIME_REF_COUNT that is below an earlier one by the same vCPU.

## Why it matters
Guests compute intervals from it: a step back is an interval of centuries.

## What the specification says
> The reference counter is never decreasing (TLFS, Partition reference counter).

## When it cannot tell
At the first read; around a change of the master clock or of a TSC offset, where the counter passes from
one formula to another; after a loss.

## Example
    kvm_msr: msr_read 40000020 = 0x17cc6ea
    kvm_msr: msr_read 40000020 = 0x179c5db
    expected 0x17cc6ea or more, observed 0x179c5db
"""

from __future__ import annotations

from hvtrace.replay.model.clock import REFERENCE, ClockMoment
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


#: 1 ms in units of 100 ns: more than the two formulas of the reference time can lie apart where one follows the
#: other. When that happens cannot be seen where the master clock's event is missing, nor on kernels in which the
#: first vCPU alone fills the page.
SWITCH = 10_000


def check(reading: ClockMoment) -> Verdict | None:
    """Reference time does not go back."""
    if reading.index != REFERENCE:
        return None
    if reading.before is None:
        return unknown(reading.vcpu.why)
    if reading.value >= reading.before:
        return HOLDS
    bench = reading.vcpu.bench
    if reading.before - reading.value <= SWITCH:
        if "kvm_update_master_clock" not in bench.traced:
            return unknown(Reason.NOT_TRACED)
        if bench.profile.fact("any_vcpu_fills_page") is not True:
            return unknown(Reason.STATE_UNSEEN)
    text = f"TIME_REF_COUNT went back by {reading.before - reading.value} (100 ns)"
    return Diverges(f"0x{reading.before:x} or more", f"0x{reading.value:x}", text)


RULE = Rule("HV601", "reference-time-backwards", (Moment.CLOCK,), ("kvm_msr",), check, theme="reference time")
