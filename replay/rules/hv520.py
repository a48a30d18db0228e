"""HV520 stimer-retry-missing

## What it finds
A timer whose message waited for its slot, and that is not tried again before the next entry although its
source was acknowledged.

## Why it matters
The guest's timer never fires again: it hangs, as if asleep.

## What the specification says
> When a slot becomes free and the guest says so, the hypervisor delivers what waits (TLFS, Message
> delivery; kvm_hv_notify_acked_sint).

## When it cannot tell
Where the recording ends or events are lost before the next entry, and where the reference time may have been set back
or was found to be wrong: the timer's time may be yet to come.

## Example
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result -11
    kvm_hv_notify_acked_sint: vcpu_id 0 sint 2
    kvm_entry: vcpu 0
    expected kvm_hv_stimer_expiration of timer 0, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV520",
    "stimer-retry-missing",
    (Moment.DUE,),
    ("kvm_hv_notify_acked_sint", "kvm_hv_stimer_expiration", "kvm_entry"),
    comes(lambda owed: f"timer {owed.key} waited for its source and is not tried again"),
    due=Due.RETRY,
    theme="SynIC",
)
