"""HP110 halt-polling-invalid

## What it finds
A wakeup that says that polling was not valid.

## Why it matters
An invalid wakeup shrinks the polling time, however short the halt was.

## What the specification says
> Wakeups that do not count are a matter of s390 (CONFIG_HAVE_KVM_INVALID_WAKEUPS): on x86 each one is valid
> (vcpu_valid_wakeup).

## When it cannot tell
While events are known to be lost.

## Example
    kvm_vcpu_wakeup: wait time 15321 ns, polling invalid
    expected polling valid, observed polling invalid
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Wakeup
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(wakeup: Wakeup) -> Verdict | None:
    """Every wakeup is valid."""
    if wakeup.valid:
        return HOLDS
    return Diverges("polling valid", "polling invalid", "x86 has no invalid wakeups")


RULE = Rule(
    "HP110",
    "halt-polling-invalid",
    (Moment.WAKEUP,),
    ("kvm_vcpu_wakeup",),
    check,
    theme="halt polling",
)
