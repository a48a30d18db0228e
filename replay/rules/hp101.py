"""HP101 halt-poll-grown-wrong

## What it finds
A polling time that grew to another value than the parameters give.

## Why it matters
The vCPU polls too long and burns the host's CPU, or too short and sleeps where a moment's waiting would have done.

## What the specification says
> The new time is the old one times halt_poll_ns_grow, and at least halt_poll_ns_grow_start (grow_halt_poll_ns); a
> factor of 0 leaves it as it is. Until Linux 5.15 it is held under the cap at once, since 6.1 at the next halt.

## When it cannot tell
Where the module parameters are neither noted beside the recording nor shown alike by it at least twice. They can be
written at any time: what the kernel has as defaults is not taken for granted. What is noted beside the recording is
taken to hold from its beginning to its end.

## Example
    kvm_halt_poll_ns: vcpu 0: halt_poll_ns 30000 (grow 20000)
    expected halt_poll_ns 40000, observed halt_poll_ns 30000
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Change
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(change: Change) -> Verdict | None:
    """A grown polling time is the old one times the factor."""
    if not change.grew:
        return None
    observed = f"halt_poll_ns {change.new}"
    if change.values is not None:
        if change.new in change.values:
            return HOLDS
        expected = " or ".join(f"halt_poll_ns {value}" for value in change.values)
        return Diverges(expected, observed, "the polling time grew to another value")
    if change.new < change.old:
        return Diverges(f"at least {change.old}", observed, "the polling time grew to less than it was")
    if change.impossible:
        text = "the polling time grew to no multiple of what it was"
        return Diverges(f"a multiple of {change.old}", observed, text)
    return unknown(Reason.PARAMETER_UNKNOWN)


RULE = Rule(
    "HP101",
    "halt-poll-grown-wrong",
    (Moment.HALT_POLL,),
    ("kvm_halt_poll_ns",),
    check,
    theme="halt polling",
)
