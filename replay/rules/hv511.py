"""HV511 stimer-callback-uncalled

## What it finds
The host timer behind a synthetic timer fires although it was not armed, or fires twice.

## Why it matters
A vCPU is woken for nothing; a cancelled deadline is still alive.

## What the specification says
> Each arming gives at most one callback; a cancelled host timer does not fire. A callback that was under
> way when the timer was cancelled may still show before the vCPU's next entry.

## When it cannot tell
Until the timer was seen armed or cancelled.

## Example
    kvm_hv_stimer_cleanup: vcpu_id 0 timer 0
    kvm_entry: vcpu 0
    kvm_hv_stimer_callback: vcpu_id 0 timer 0
    expected no callback of a timer that is not armed, observed one
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Callback
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(callback: Callback) -> Verdict | None:
    """Only an armed timer fires."""
    timer = callback.timer
    if timer.armed is None:
        return unknown(callback.vcpu.why)
    if timer.armed:
        return HOLDS
    if callback.raced:
        return None
    text = f"timer {timer.number} is not armed"
    return Diverges("no callback", "kvm_hv_stimer_callback", text)


RULE = Rule(
    "HV511",
    "stimer-callback-uncalled",
    (Moment.CALLBACK,),
    ("kvm_hv_stimer_start_one_shot", "kvm_hv_stimer_start_periodic", "kvm_hv_stimer_cleanup", "kvm_entry"),
    check,
    theme="SynIC",
)
