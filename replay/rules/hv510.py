"""HV510 stimer-one-shot-expiry

## What it finds
A one-shot timer that is armed for another time than its COUNT, or for a time that is over.

## Why it matters
The guest is woken at the wrong time.

## What the specification says
> A one-shot timer expires when the reference time reaches its count (TLFS, Timers). KVM does not arm a
> timer whose time is over: it expires at once.

## When it cannot tell
Until COUNT was seen, the time alone is judged.

## Example
    kvm_hv_stimer_set_count: vcpu_id 0 timer 0 count 20000 host 0
    kvm_hv_stimer_start_one_shot: vcpu_id 0 timer 0 time_now 100 count 30000
    expected count 20000, observed count 30000
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Start
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(start: Start) -> Verdict | None:
    """Count is COUNT's, and ahead."""
    if start.periodic or start.timer.enable is False:
        return None
    count = start.timer.count
    if start.now >= start.expiry:
        text = f"timer {start.timer.number} is armed for a time that is over"
        return Diverges(f"count above {start.now}", f"count {start.expiry}", text)
    if count is None:
        return unknown(start.vcpu.why)
    if count == start.expiry:
        return HOLDS
    text = f"COUNT of timer {start.timer.number} is {count}"
    return Diverges(f"count {count}", f"count {start.expiry}", text)


RULE = Rule(
    "HV510",
    "stimer-one-shot-expiry",
    (Moment.START,),
    ("kvm_hv_stimer_set_count",),
    check,
    theme="SynIC",
)
