"""HV301 unknown-hypercall-served

## What it finds
A hypercall with a code that KVM does not serve, and that did not return status 2 (invalid hypercall
code), or 3 where the control word may have reserved bits set.

## Why it matters
A guest that probes for a call takes it for done: memory it believes flushed or deposited is not.

## What the specification says
> An unknown or unsupported call code returns HV_STATUS_INVALID_HYPERCALL_CODE (TLFS, Hypercall status
> codes). The reserved bits of the control word are checked first; the trace does not show them.

## When it cannot tell
Calls that some kernel serves or hands to userspace are not judged by this rule.

## Example
    kvm_hv_hypercall: code 0x7777 slow var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x0 out 0x0
    kvm_hv_hypercall_done: result 0x0
    expected status 2, observed status 0
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import Mismatch, is_unserved
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(over: Mismatch) -> Verdict | None:
    """What is not served is refused."""
    call = over.call
    if not is_unserved(call.code):
        return None
    if over.what in ("gate", "status"):
        return Diverges("status 2", f"status {call.status}", f"KVM serves no hypercall 0x{call.code:x}")
    return HOLDS


RULE = Rule(
    "HV301",
    "unknown-hypercall-served",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done"),
    check,
    theme="hypercall",
)
