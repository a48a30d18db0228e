"""HP111 halt-poll-without-wakeup

## What it finds
A change of the polling time that no kvm_vcpu_wakeup follows before the vCPU enters the guest or its polling time
changes again.

## Why it matters
The polling time changes at the end of a halt alone: elsewhere, or twice in one halt, it is a mistake.

## What the specification says
> kvm_halt_poll_ns and kvm_vcpu_wakeup come from the end of one halt, in this order (kvm_vcpu_halt).

## When it cannot tell
Where events were lost in between, or the recording ends.

## Example
    kvm_halt_poll_ns: vcpu 0: halt_poll_ns 20000 (grow 10000)
    kvm_entry: vcpu 0
    expected kvm_vcpu_wakeup of the halt, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HP111",
    "halt-poll-without-wakeup",
    (Moment.DUE,),
    ("kvm_halt_poll_ns", "kvm_vcpu_wakeup"),
    comes(lambda owed: "the polling time changed without the end of a halt"),
    theme="halt polling",
    due=Due.WAKEUP,
)
