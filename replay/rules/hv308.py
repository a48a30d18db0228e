"""HV308 refusal-unexplained

## What it finds
A hypercall that was refused although nothing that the trace shows is wrong with it: the reserved bits of its control
word must be set, or its input must lie where there is no memory.

## Why it matters
Operating systems do neither. More likely is that the call was refused without a reason.

## What the specification says
> Status 3 where reserved bits of the control word are set or the input cannot be read; SignalEvent returns 4 for the
> latter (TLFS, Hypercall status codes; kvm_hv_hypercall).

## When it cannot tell
It is a warning: the trace shows neither the reserved bits nor the guest's memory. Where something else that is not
known (the SynIC's state, CPUID) may be the reason, nothing is said.

## Example
    kvm_hv_hypercall: code 0x8 fast var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x64 out 0x0
    kvm_hv_hypercall_done: result 0x3
    expected another status, observed status 3
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import Mismatch
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Severity, Verdict

__all__ = ["RULE"]


def check(over: Mismatch) -> Verdict | None:
    """A refusal has a reason."""
    call = over.call
    if over.what or not call.status:
        return None
    if not over.hidden:
        return HOLDS
    expected = [ending for ending in over.endings if not ending.hidden]
    text = f"nothing that the trace shows is wrong with hypercall 0x{call.code:x}"
    return Diverges(" or ".join(dict.fromkeys(map(str, expected))), f"status {call.status}", text)


RULE = Rule(
    "HV308",
    "refusal-unexplained",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done"),
    check,
    Severity.WARNING,
)
