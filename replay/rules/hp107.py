"""HP107 halt-time-too-long

## What it finds
A halt whose length is more than the time that passed since the vCPU left the guest.

## Why it matters
The length decides how long the vCPU polls, and every statistic of halts is made of it.

## What the specification says
> The time of kvm_vcpu_wakeup runs from the beginning of the halt, after kvm_exit, to its end (kvm_vcpu_halt). It is
> taken from the host's monotonic clock, which may be slewed by a tenth against the trace's; stamps may have the
> resolution of a tick: an eighth and 20 ms are allowed for.

## When it cannot tell
Where kvm_exit was not seen, and where the stamps are not in ns.

## Example
    100.000010: kvm_exit: vcpu 0 reason hlt
    100.000410: kvm_vcpu_wakeup: wait time 398000000 ns, polling valid
    expected at most 20450000 ns, observed 398000000 ns
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Wakeup
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

#: What the clocks may differ by (ns), and the part of the time by which they may drift apart.
SLACK, DRIFT = 20_000_000, 8


def check(wakeup: Wakeup) -> Verdict | None:
    """A halt is no longer than the exit it is part of."""
    if wakeup.timeless:
        return unknown(Reason.CLOCK_UNKNOWN)
    if wakeup.elapsed is None:
        return unknown(wakeup.vcpu.why)
    most = wakeup.elapsed + wakeup.elapsed // DRIFT + SLACK
    if 0 <= wakeup.ns <= most:
        return HOLDS
    text = f"{wakeup.elapsed} ns after kvm_exit a halt of {wakeup.ns} ns is over"
    return Diverges(f"at most {most} ns", f"{wakeup.ns} ns", text)


RULE = Rule(
    "HP107",
    "halt-time-too-long",
    (Moment.WAKEUP,),
    ("kvm_vcpu_wakeup", "kvm_exit"),
    check,
    theme="halt polling",
)
