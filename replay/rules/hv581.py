"""HV581 stimer-source-0

## What it finds
In the profile `tlfs`: a timer in message mode that runs although its source is 0.

## Why it matters
Source 0 is the hypervisor's own: a guest that forgets to set SINTx is told so by Hyper-V, and not by KVM.

## What the specification says
> Where SINTx is 0, a write that enables the timer leaves it disabled (TLFS, Synthetic timer configuration
> register). KVM clears the enable bit only of a timer that was enabled before.

## When it cannot tell
Where the timer's configuration was not seen. It is asked only in the profile `tlfs`, and is a warning: KVM
departs from the specification knowingly.

## Example
    kvm_hv_stimer_set_config: vcpu_id 0 timer 1 config 0x1 host 0
    kvm_hv_stimer_start_one_shot: vcpu_id 0 timer 1 time_now 100 count 20000
    expected a disabled timer, observed a start: SINTx of timer 1 is 0
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Start, sint_of
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Severity, Verdict, unknown

__all__ = ["RULE"]


def check(start: Start) -> Verdict | None:
    """A timer without a source is disabled."""
    timer = start.timer
    if timer.config is None:
        return unknown(start.vcpu.why)
    if timer.direct or sint_of(timer.config):
        return HOLDS
    return Diverges("a disabled timer", "a start", f"SINTx of timer {timer.number} is 0")


RULE = Rule(
    "HV581",
    "stimer-source-0",
    (Moment.START,),
    ("kvm_hv_stimer_set_config",),
    check,
    severity=Severity.WARNING,
    specification=True,
)
