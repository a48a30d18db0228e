"""HV504 stimer-cleanup-missing

## What it finds
A write of a timer's CONFIG or COUNT, or a one-shot expiration, that is not followed by the cancellation
of the timer.

## Why it matters
An old deadline keeps running beside the new one: the guest gets a timer interrupt it did not ask for.

## What the specification says
> Writing a timer's register cancels what was under way; a one-shot timer stops when it expires (TLFS,
> Timers). KVM cancels before the write's kvm_msr, and at once after a one-shot expiration.

## When it cannot tell
Where the recording ends or events are lost before the bound.

## Example
    kvm_hv_stimer_set_count: vcpu_id 0 timer 0 count 20000 host 0
    kvm_msr: msr_write 400000b1 = 0x4e20
    expected kvm_hv_stimer_cleanup of timer 0, observed kvm_msr first
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV504",
    "stimer-cleanup-missing",
    (Moment.DUE,),
    ("kvm_hv_stimer_cleanup", "kvm_entry"),
    comes(lambda owed: f"{owed.event[2]} is not followed by the cancellation of timer {owed.key}"),
    theme="SynIC",
    due=Due.CLEANUP,
)
