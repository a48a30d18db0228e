"""HV305 hypercall-result-uncalled

## What it finds
The result of a hypercall in an exit in which the guest made none, or a second result of one call.

## Why it matters
A register of the guest is overwritten.

## What the specification says
> kvm_hv_hypercall_done belongs to the kvm_hv_hypercall of the same exit (kvm_hv_hypercall_complete).

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_exit: vcpu 0 reason hlt
    kvm_hv_hypercall_done: result 0x0
    expected no result, observed one
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import Finish
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(finish: Finish) -> Verdict | None:
    """Every result has its call."""
    if finish.call is not None:
        return HOLDS
    if not finish.vcpu.whole:
        return unknown(finish.vcpu.why)
    return Diverges("no kvm_hv_hypercall_done", "one", "the guest made no hypercall in this exit")


RULE = Rule(
    "HV305",
    "hypercall-result-uncalled",
    (Moment.FINISH,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done", "kvm_entry"),
    check,
    theme="hypercall",
)
