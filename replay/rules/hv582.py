"""HV582 stimer-not-resumed

## What it finds
In the profile `tlfs`: the message page is switched on while the message of a timer waits, and nobody tries
to send it.

## Why it matters
The timer never ticks again: a guest that sets up its timer before its message page hangs.

## What the specification says
> A message that cannot be delivered stays queued and is delivered when the guest can take it (TLFS,
> Synthetic timer expiration, SIMP register). KVM retries only when the source is acknowledged.

## When it cannot tell
Where the timers' states were not seen. It is asked only in the profile `tlfs`, and is a warning: KVM
departs from the specification knowingly.

## Example
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result -2
    kvm_hv_synic_set_msr: vcpu_id 0 msr 0x40000083 data 0x106c001 host 0
    expected a new attempt, observed none: timer 0 waits for its message page
"""

from __future__ import annotations

from hvtrace.replay.model.synic import SIMP, SynicWrite
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Severity, Verdict, unknown

__all__ = ["RULE"]


def check(write: SynicWrite) -> Verdict | None:
    """What waits for the page is sent when it comes."""
    if write.index != SIMP or write.host or not write.value & 1:
        return None
    before = write.vcpu.registers.get(SIMP)
    if before is None or any(timer.parked is None for timer in write.vcpu.timers):
        return unknown(write.vcpu.why)
    if before & 1:
        return None
    waiting = [timer.number for timer in write.vcpu.timers if timer.parked and not timer.direct]
    if not waiting:
        return HOLDS
    return Diverges("a new attempt", "none", f"timer {waiting[0]} waits for its message page")


RULE = Rule(
    "HV582",
    "stimer-not-resumed",
    (Moment.SYNIC,),
    ("kvm_hv_synic_set_msr", "kvm_hv_stimer_expiration"),
    check,
    severity=Severity.WARNING,
    specification=True,
)
