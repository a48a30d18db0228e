"""HV706 hypercall-input-unseen

## What it finds
An IPI or flush hypercall that returned a status which is only possible with its decoded input traced, and it was not;
or one whose input was decoded although the status comes from an earlier check.

## Why it matters
The call reports success and did nothing, or was carried out although it is refused.

## What the specification says
> KVM traces the decoded input before it looks at it, and after the checks of CPUID, of the control word and of the
> counts (kvm_hv_hypercall).

## When it cannot tell
Where the tracepoint of that input was not recorded.

## Example
    kvm_hv_hypercall: code 0xb fast var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x6a out 0x1
    kvm_hv_hypercall_done: result 0x0
    expected kvm_hv_send_ipi, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import INPUTS, Mismatch
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(over: Mismatch) -> Verdict | None:
    """The input's event goes with the status."""
    call = over.call
    name = INPUTS.get(call.code)
    if name is None or over.what in ("gate", "status", "userspace"):
        return None
    if not call.is_traced(name):
        return unknown(Reason.NOT_TRACED)
    if over.what != "input":
        return HOLDS
    if call.shown is None:
        text = f"status {call.status} without the input it depends on"
        return Diverges(name, "none", text, over.bug)
    return Diverges(f"no {name}", "one", f"status {call.status} comes before the input is read")


RULE = Rule(
    "HV706",
    "hypercall-input-unseen",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done"),
    check,
    theme="hypercall",
)
