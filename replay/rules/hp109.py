"""HP109 halt-without-sleep

## What it finds
Five halts in a row of one vCPU that say they never slept (`poll`) and lasted over 1 ms longer than the vCPU polls,
which is less than 1 ms.

## Why it matters
Either the vCPU burns the host's CPU for the whole halt, or the outcome is reported wrongly and the success of polling
looks far better than it is.

## What the specification says
> A vCPU polls for its polling time at most, and not at all where polling is off; if no event came by then, it sleeps,
> and the outcome is `wait` (kvm_vcpu_halt, kvm_vcpu_block).

## When it cannot tell
A thread that is stopped while it polls, or between its last look and its sleep, makes one such halt, not five in a row:
single ones are not judged. Nor are halts of a vCPU whose polling time is not known.

## Example
    kvm_vcpu_wakeup: poll time 22023071 ns, polling valid
    (five times) expected wait, observed poll: the vCPU polls for 10000 ns
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Run
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]

ENOUGH = 5


def check(run: Run) -> Verdict | None:
    """Halt after halt is no longer than polling lasts, or sleeps."""
    if run.kind != "unscheduled":
        return None
    if not run.known:
        return unknown(run.vcpu.why)
    if run.number == 0:
        return HOLDS
    if run.number < ENOUGH:
        return None
    text = f"{run.number} halts in a row did not sleep, the last of {run.ns} ns where polling takes {run.poll} ns"
    return Diverges("wait", "poll", text)


RULE = Rule(
    "HP109",
    "halt-without-sleep",
    (Moment.WAKEUPS,),
    ("kvm_vcpu_wakeup", "kvm_halt_poll_ns"),
    check,
    theme="halt polling",
)
