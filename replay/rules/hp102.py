"""HP102 halt-poll-shrunk-wrong

## What it finds
A polling time that shrank to another value than the parameters give.

## Why it matters
A vCPU that sleeps for long goes on polling in vain, or one that should still poll a little does not.

## What the specification says
> The new time is the old one divided by halt_poll_ns_shrink, or 0 where that is 0; what falls below
> halt_poll_ns_grow_start becomes 0 (shrink_halt_poll_ns; Linux 5.10 leaves it).

## When it cannot tell
Where halt_poll_ns_shrink is neither noted beside the recording nor shown alike by it at least twice.

## Example
    kvm_halt_poll_ns: vcpu 0: halt_poll_ns 100000 (shrink 200000)
    expected halt_poll_ns 0, observed halt_poll_ns 100000
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Change
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(change: Change) -> Verdict | None:
    """A shrunk polling time is the old one divided, or 0."""
    if change.grew:
        return None
    observed = f"halt_poll_ns {change.new}"
    if change.values is not None:
        if change.new in change.values:
            return HOLDS
        expected = " or ".join(f"halt_poll_ns {value}" for value in change.values)
        return Diverges(expected, observed, "the polling time shrank to another value")
    if change.new > change.old:
        return Diverges(f"at most {change.old}", observed, "the polling time shrank to more than it was")
    return unknown(Reason.PARAMETER_UNKNOWN)


RULE = Rule(
    "HP102",
    "halt-poll-shrunk-wrong",
    (Moment.HALT_POLL,),
    ("kvm_halt_poll_ns",),
    check,
    theme="halt polling",
)
