"""HV507 stimer-start-uncalled

## What it finds
A timer that is armed although it is disabled, has a message waiting for its slot, or although nothing has
happened since it was last armed.

## Why it matters
A timer the guest has stopped fires.

## What the specification says
> A disabled timer does not run; a one-shot timer runs once (TLFS, Timers). KVM looks at a timer after a
> write, after the host timer fired, and after an acknowledgement of its source.

## When it cannot tell
Until the timer's registers were seen, and where a host timer's event cannot be given to one of several
VMs.

## Example
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result 0
    kvm_hv_stimer_cleanup: vcpu_id 0 timer 0
    kvm_hv_stimer_start_one_shot: vcpu_id 0 timer 0 time_now 200 count 300
    expected no start of a disabled timer, observed one
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import HOST_COUNT, Start
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(start: Start) -> Verdict | None:
    """Only what is enabled and asked for starts."""
    timer = start.timer
    if timer.enable is False:
        text = f"timer {timer.number} is not enabled"
        return Diverges("no start of a disabled timer", "a start", text, HOST_COUNT if timer.revived else "")
    if timer.parked:
        text = f"a message of timer {timer.number} waits for its slot"
        return Diverges("no start of a parked timer", "a start", text)
    if timer.pending is False:
        text = f"nothing happened to timer {timer.number} since it was armed"
        return Diverges("no second start", "a start", text)
    if timer.enable is None or timer.pending is None or timer.parked is None:
        return unknown(start.vcpu.why)
    return HOLDS


RULE = Rule(
    "HV507",
    "stimer-start-uncalled",
    (Moment.START,),
    (
        "kvm_entry",
        "kvm_hv_stimer_set_config",
        "kvm_hv_stimer_set_count",
        "kvm_hv_stimer_cleanup",
        "kvm_hv_stimer_callback",
        "kvm_hv_stimer_expiration",
    ),
    check,
    theme="SynIC",
)
