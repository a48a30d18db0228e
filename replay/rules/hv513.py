"""HV513 stimer-callback-early

## What it finds
A host timer that fired well before the synthetic timer was due: the timer is armed again with much of its
time still to go.

## Why it matters
Each early callback is an exit for nothing, and the guest's timer may be polled to death.

## What the specification says
> The host timer is set to the distance between now and the expiry. The host's monotonic clock, which may be slewed by a
> tenth, and the reference time drift apart, so a rest of up to an eighth of the distance and 100 µs is accepted.

## When it cannot tell
Until the timer was seen armed and fired, and where the master clock was updated or a TSC offset was written since it
was armed: when userspace goes on after a pause it sets the reference time back, and the host timer ran on.

## Example
    kvm_hv_stimer_start_one_shot: vcpu_id 0 timer 0 time_now 100 count 1000100
    kvm_hv_stimer_callback: vcpu_id 0 timer 0
    kvm_hv_stimer_start_one_shot: vcpu_id 0 timer 0 time_now 500100 count 1000100
    expected a callback when the time is over, observed 500000 (100 ns) too early
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Start
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


#: 100 µs in units of 100 ns, and the part of the distance by which the two clocks may differ: the host's monotonic
#: clock can be slewed by a tenth (adjtimex).
SLACK, DRIFT = 1000, 8

#: Distances of which the kernel's clock, in ns and 63 bits, cannot hold the end (100 ns).
OVERFLOW = (1 << 63) // 100


def check(start: Start) -> Verdict | None:
    """A timer that fired was due."""
    timer = start.timer
    if not timer.fired or not timer.expiry:
        return None
    if timer.ahead is None:
        return unknown(Reason.CLOCK_UNKNOWN)
    rest = timer.expiry - start.now
    if rest <= SLACK + timer.ahead // DRIFT:
        return HOLDS
    bug = "stimer-overflow" if timer.ahead >= OVERFLOW else ""
    text = f"timer {timer.number} fired {rest} (100 ns) before its expiry {timer.expiry}"
    return Diverges("a callback at the expiry", f"{rest} (100 ns) too early", text, bug)


RULE = Rule(
    "HV513",
    "stimer-callback-early",
    (Moment.START,),
    ("kvm_hv_stimer_callback", "kvm_update_master_clock"),
    check,
    theme="SynIC",
)
