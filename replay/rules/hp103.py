"""HP103 halt-poll-value-not-kept

## What it finds
A change of the polling time that does not start from the value the vCPU had.

## Why it matters
The value was lost, held under the cap wrongly or not at all, or belongs to another vCPU.

## What the specification says
> Each vCPU keeps its own polling time from one halt to the next. It starts with 0; since Linux 6.1 a halt first brings
> it down to the cap, without an event; with a cap of 0 it becomes 0 (kvm_vcpu_halt).

## When it cannot tell
Until a change of this vCPU, its creation, or a long halt without a change was seen; and where the cap is not known and
the value is smaller than before.

## Example
    kvm_halt_poll_ns: vcpu 0: halt_poll_ns 40960000 (grow 20480000)
    kvm_halt_poll_ns: vcpu 0: halt_poll_ns 0 (shrink 40960000)
    expected shrink 30000000, observed shrink 40960000
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Change
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(change: Change) -> Verdict | None:
    """A change starts from the value the vCPU had."""
    if change.kept is None:
        return unknown(change.vcpu.why)
    if change.old == change.kept:
        return HOLDS
    verb = "grow" if change.grew else "shrink"
    text = "the polling time was another before it changed"
    return Diverges(f"{verb} {change.kept}", f"{verb} {change.old}", text)


RULE = Rule(
    "HP103",
    "halt-poll-value-not-kept",
    (Moment.HALT_POLL,),
    ("kvm_halt_poll_ns",),
    check,
    theme="halt polling",
)
