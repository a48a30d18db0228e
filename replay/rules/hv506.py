"""HV506 stimer-start-missing

## What it finds
An enabled timer that is neither armed nor expires before the vCPU's next entry, after its registers were
written or its period was over.

## Why it matters
The guest's timer is dead: a tickless guest sleeps until something else wakes it.

## What the specification says
> A timer whose enable bit is set and whose count is not zero runs (TLFS, Timers). KVM starts it when it
> serves the request, before the vCPU's next entry.

## When it cannot tell
Where the recording ends or events are lost before the next entry.

## Example
    kvm_msr: msr_write 400000b1 = 0x4e20
    kvm_entry: vcpu 0
    expected kvm_hv_stimer_start_periodic of timer 0, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV506",
    "stimer-start-missing",
    (Moment.DUE,),
    (
        "kvm_entry",
        "kvm_hv_stimer_set_config",
        "kvm_hv_stimer_set_count",
        "kvm_hv_stimer_cleanup",
        "kvm_hv_stimer_callback",
        "kvm_hv_stimer_expiration",
        "kvm_hv_stimer_start_one_shot",
        "kvm_hv_stimer_start_periodic",
    ),
    comes(lambda owed: f"timer {owed.key} is enabled and does not run"),
    theme="SynIC",
    due=Due.PROCESS,
)
