"""HV515 stimer-expiration-early

## What it finds
A timer that expired before its time: the next reference time the same thread saw (the restart of a timer,
or a read of TIME_REF_COUNT) is still below the expiry.

## Why it matters
A guest that sleeps until a deadline wakes before it and must sleep again, or takes the deadline for
passed.

## What the specification says
> A timer expires when the reference time has reached its expiry (TLFS, Timers). Time stamps of the trace
> are not used: they lag the values they carry.

## When it cannot tell
Where the thread shows no reference time after the expiration, or the master clock changes between.

## Example
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result 0     (expiry 20100)
    kvm_hv_stimer_start_periodic: vcpu_id 0 timer 0 time_now 19000 exp_time 20100
    expected an expiration at 20100 or later, observed before 19000
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Expiration
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


#: 1 ms in units of 100 ns: where the first vCPU alone fills the TSC page, the reference time may step back unseen.
SWITCH = 10_000


def check(expiration: Expiration) -> Verdict | None:
    """The time seen afterwards is not below the expiry."""
    confirmed = expiration.confirmed
    if confirmed is None or confirmed.seen is None:
        return None
    if confirmed.seen >= confirmed.expiry:
        return HOLDS
    close = confirmed.expiry - confirmed.seen <= SWITCH
    if close and expiration.vcpu.bench.profile.fact("any_vcpu_fills_page") is not True:
        return unknown(Reason.STATE_UNSEEN)
    text = f"timer {expiration.timer.number} expired with {confirmed.expiry - confirmed.seen} (100 ns) to go"
    return Diverges(f"reference time {confirmed.expiry} or later", f"before {confirmed.seen}", text)


RULE = Rule(
    "HV515",
    "stimer-expiration-early",
    (Moment.EXPIRATION,),
    ("kvm_hv_stimer_set_count",),
    check,
    theme="SynIC",
)
