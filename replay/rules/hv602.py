"""HV602 vp-runtime-backwards

## What it finds
A read of VP_RUNTIME that is below an earlier one by the same vCPU.

## Why it matters
Guests bill processor time with it.

## What the specification says
> The run time of a virtual processor never decreases (TLFS, Virtual processor run time).

## When it cannot tell
At the first read, after a loss, and after userspace may have set the counter.

## Example
    kvm_msr: msr_read 40000010 = 0x2000
    kvm_msr: msr_read 40000010 = 0x1f00
    expected 0x2000 or more, observed 0x1f00
"""

from __future__ import annotations

from hvtrace.replay.model.clock import RUNTIME, ClockMoment
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(reading: ClockMoment) -> Verdict | None:
    """Run time does not go back."""
    if reading.index != RUNTIME:
        return None
    if reading.before is None:
        return unknown(reading.vcpu.why)
    if reading.value >= reading.before:
        return HOLDS
    text = f"VP_RUNTIME went back by {reading.before - reading.value} (100 ns)"
    return Diverges(f"0x{reading.before:x} or more", f"0x{reading.value:x}", text)


RULE = Rule("HV602", "vp-runtime-backwards", (Moment.CLOCK,), ("kvm_msr", RESETS), check, theme="run time")
