"""HV514 stimer-expiration-uncalled

## What it finds
A timer that expires although it is disabled, or although it has not fired, was not written and was not
acknowledged since it was last looked at; or a periodic timer that expires before it was armed (again).

## Why it matters
The guest gets a timer interrupt it did not ask for, or the same one twice.

## What the specification says
> A disabled timer does not expire; a one-shot timer expires once (TLFS, Timers).

## When it cannot tell
Until the timer's registers were seen, and where a host timer's event cannot be given to one of several
VMs.

## Example
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result 0
    kvm_hv_stimer_cleanup: vcpu_id 0 timer 0
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result 0
    expected no expiration of a disabled timer, observed one
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import HOST_COUNT, Expiration
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]

#: The message's slot is busy (-EAGAIN).
BUSY = -11


#: What a periodic timer's next start follows.
EXPIRATION = "kvm_hv_stimer_expiration"


def check(expiration: Expiration) -> Verdict | None:
    """Only what is enabled and due expires."""
    if expiration.confirmed is not None:
        return None
    timer = expiration.timer
    if timer.enable is False:
        text = f"timer {timer.number} is not enabled"
        bug = HOST_COUNT if timer.revived else ""
        return Diverges("no expiration of a disabled timer", "an expiration", text, bug)
    if timer.pending is False:
        text = f"timer {timer.number} has not fired, and nothing else asks for an expiration"
        bug = "oneshot-livelock" if timer.parked and expiration.result == BUSY else ""
        return Diverges("no expiration without a cause", "an expiration", text, bug)
    again = timer.process
    if again is not None and again.event[2] == EXPIRATION:
        text = f"periodic timer {timer.number} has not been armed since its last expiration"
        return Diverges("a start before the next expiration", "an expiration", text)
    if timer.periodic and timer.expiry == 0:
        text = f"periodic timer {timer.number} has not been armed yet"
        return Diverges("a start before the first expiration", "an expiration", text)
    if timer.enable is None or timer.pending is None:
        return unknown(expiration.vcpu.why)
    return HOLDS


RULE = Rule(
    "HV514",
    "stimer-expiration-uncalled",
    (Moment.EXPIRATION,),
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
