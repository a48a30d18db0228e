"""HV512 stimer-callback-unanswered

## What it finds
The host timer fired, and before the vCPU's second next entry there is no expiration, no restart, no write and no
cancellation of the timer; nor does an answer come later, before the guest writes the timer or 4096 entries are over.

## Why it matters
The guest's timer interrupt is lost.

## What the specification says
> When the timer expires, the hypervisor sends its message or interrupt (TLFS, Timers). KVM asks the vCPU
> to look at the timer before it enters the guest; one entry may already be under way.

## When it cannot tell
Where the recording ends or events are lost before the bound. The bound is counted in entries: a vCPU's thread may be
preempted for long. An expiration or a restart that comes late is accepted: the interrupt traces itself before it asks
the vCPU to look, and a host that is itself a guest may be held up between the two.

## Example
    kvm_hv_stimer_callback: vcpu_id 0 timer 0
    kvm_entry: vcpu 0
    kvm_entry: vcpu 0
    kvm_hv_stimer_set_count: vcpu_id 0 timer 0 count 30000 host 0
    expected an expiration, a start, a write or a cleanup, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV512",
    "stimer-callback-unanswered",
    (Moment.DUE,),
    (
        "kvm_hv_stimer_callback",
        "kvm_entry",
        "kvm_hv_stimer_set_config",
        "kvm_hv_stimer_set_count",
        "kvm_hv_stimer_cleanup",
        "kvm_hv_stimer_expiration",
        "kvm_hv_stimer_start_one_shot",
        "kvm_hv_stimer_start_periodic",
    ),
    comes(lambda owed: f"timer {owed.key} fired and the vCPU never looked at it"),
    due=Due.CALLBACK,
    theme="SynIC",
)
