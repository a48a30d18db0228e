"""HV505 stimer-cleanup-uncalled

## What it finds
A timer that is cancelled although no write, expiration, count of 0 or end of the vCPU asks for it.

## Why it matters
The guest waits for a timer that will never expire.

## What the specification says
> A timer runs until it expires or its registers are written (TLFS, Timers).

## When it cannot tell
Until the timer's registers were seen. A cancellation by the destruction of the vCPU cannot be told from a
wrong one where the recording ends there: then it is judged by the order of the timers alone. On a timer that is
disabled, a cancellation changes nothing: it counts when the next look at the timer finds nothing else wrong.

## Example
    kvm_hv_stimer_start_periodic: vcpu_id 0 timer 0 time_now 100 exp_time 20100
    kvm_hv_stimer_cleanup: vcpu_id 0 timer 0
    kvm_entry: vcpu 0
    expected no cancellation, observed one
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Cleanup
from hvtrace.replay.obligation import Due, Obligation
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(seen: Cleanup | Obligation) -> Verdict | None:
    """Nothing is cancelled for nothing."""
    if isinstance(seen, Cleanup):
        if seen.cause is None:
            return unknown(seen.vcpu.why)
        # Without a cause: whether the vCPU is being destroyed shows later.
        return HOLDS if seen.cause else None
    if seen.met:
        return None
    if seen.excuse is not None:
        return unknown(seen.excuse)
    text = f"timer {seen.key} is cancelled and nothing asks for it"
    return Diverges(seen.detail, seen.event[2], text)


RULE = Rule(
    "HV505",
    "stimer-cleanup-uncalled",
    (Moment.CLEANUP, Moment.DUE),
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
    due=Due.DESTROYED,
)
