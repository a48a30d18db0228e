"""HP108 halt-time-too-short

## What it finds
Five halts in a row of one vCPU that lasted less than a hundredth of the time between HLT and waking, each of at least
1 ms.

## Why it matters
The length decides how long the vCPU polls, and every statistic of halts is made of it.

## What the specification says
> The time of kvm_vcpu_wakeup runs from the beginning of the halt, right after kvm_exit, to its end, right before the
> event (kvm_vcpu_halt).

## When it cannot tell
A vCPU thread that is stopped before its halt begins makes one such time, not five in a row: single ones are not judged.
Nor are stamps that are not in ns. Halts that userspace interrupted, and those without HLT, are none of its business.

## Example
    20.100000: kvm_exit: vcpu 0 reason hlt
    20.122500: kvm_vcpu_wakeup: wait time 22473 ns, polling valid
    (five times) expected about 22500000 ns, observed 22473 ns
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Run
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

ENOUGH = 5


def check(run: Run) -> Verdict | None:
    """Not halt after halt is but a small part of its exit."""
    if run.kind != "short":
        return None
    if run.timeless:
        return unknown(Reason.CLOCK_UNKNOWN)
    if not run.known:
        return unknown(run.vcpu.why)
    if run.number == 0:
        return HOLDS
    if run.number < ENOUGH:
        return None
    text = f"in {run.number} halts in a row, HLT to waking took a hundred times the halt's length"
    return Diverges(f"about {run.elapsed} ns", f"{run.ns} ns", text)


RULE = Rule(
    "HP108",
    "halt-time-too-short",
    (Moment.WAKEUPS,),
    ("kvm_vcpu_wakeup", "kvm_exit", "kvm_userspace_exit"),
    check,
    theme="halt polling",
)
