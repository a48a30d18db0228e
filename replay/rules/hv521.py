"""HV521 stimer-expiration-missing

## What it finds
A periodic timer whose time was over and that is armed for the next period without having expired.

## Why it matters
The guest misses ticks of its clock.

## What the specification says
> A periodic timer expires at the end of every period; late ones may be left out, but when the vCPU looks at a
> timer whose time is over, it expires (TLFS, Timers; kvm_hv_process_stimers).

## When it cannot tell
Until the timer was seen armed. KVM reads the clock twice, once to see whether the timer is due and once to arm
it: where the time was over by less than 0.1 ms when the thread was last seen, the two may differ, unless the timer's
interrupt was seen. Clocks of the trace that do not give nanoseconds do not tell when that was.

## Example
    kvm_hv_stimer_callback: vcpu_id 0 timer 0
    kvm_hv_stimer_start_periodic: vcpu_id 0 timer 0 time_now 65000 exp_time 80100     (expiry 20100)
    expected kvm_hv_stimer_expiration before it, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Start, sint_of, vector_of
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

#: 0.1 ms in units of 100 ns: a timer that was not due when it was looked at may be by then.
MARGIN = 1000
#: ns.
TICK = 100

EXPIRATION = "kvm_hv_stimer_expiration"
RAISED, TAKEN = "kvm_hv_synic_set_irq", ("kvm_apic_accept_irq", "kvm_apicv_accept_irq")


def check(start: Start) -> Verdict | None:
    """A period that is over has its expiration."""
    timer = start.timer
    if not start.periodic or not timer.periodic or timer.enable is False or timer.expiry is None:
        return None
    if not timer.fired or start.expiry == timer.expiry:
        # It expired, was written, or is armed again because its interrupt came early.
        return HOLDS if timer.process is not None and timer.process.event[2] == EXPIRATION else None
    if start.now < timer.expiry:
        return None
    if not _sent(start):
        if start.lag is None:
            return unknown(Reason.CLOCK_UNKNOWN)
        if start.now - timer.expiry < MARGIN + start.lag // TICK:
            return unknown(Reason.STATE_UNSEEN)
    if start.vcpu.grace:
        return unknown(Reason.CLOCK_UNKNOWN)
    text = f"timer {timer.number} was due at {timer.expiry} and is armed for {start.expiry}"
    return Diverges("kvm_hv_stimer_expiration before it", "none", text)


def _sent(start: Start) -> bool:
    """The timer's interrupt came just before."""
    config, last = start.timer.config, start.vcpu.just_before()
    if config is None or last is None:
        return False
    if start.timer.direct:
        return bool(last[2] in TAKEN and last[5] == vector_of(config))
    return bool(last[2] == RAISED and last[5] == sint_of(config))


RULE = Rule(
    "HV521",
    "stimer-expiration-missing",
    (Moment.START,),
    (
        "kvm_hv_stimer_expiration",
        "kvm_hv_stimer_callback",
        "kvm_hv_stimer_start_periodic",
        "kvm_hv_stimer_set_config",
        "kvm_hv_stimer_set_count",
    ),
    check,
    theme="SynIC",
)
