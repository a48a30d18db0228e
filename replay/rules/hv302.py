"""HV302 hypercall-status

## What it finds
A hypercall that KVM serves or hands to userspace, and that returned another status than its input and the state of the
SynIC allow.

## Why it matters
The guest believes a flush, an interrupt or a message done that is not, or gives up a call that works.

## What the specification says
> The CPUID bit that a call needs is looked at first (status 6, where CPUID is enforced), then the reserved bits of the
> control word (3), then the call's own checks in their order, each with its status (TLFS, Hypercall status codes;
> kvm_hv_hypercall, kvm_hv_flush_tlb, kvm_hv_send_ipi, kvm_hvcall_signal_event). What userspace completes returns
> userspace's status.

## When it cannot tell
What the trace does not show leaves several statuses open, and each of them holds: input in guest memory or in XMM
registers, the reserved bits of the control word (3 is always possible before the input is traced), CPUID bits that
were not seen, enforcement that is not known. Any other status diverges.

## Example
    kvm_hv_hypercall: code 0xb fast var_cnt 0x0 rep_cnt 0x1 idx 0x0 in 0x6a out 0x1
    kvm_hv_hypercall_done: result 0x0
    expected status 3, observed status 0
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import Mismatch, is_unserved
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import Diverges, Holds, Verdict

__all__ = ["RULE"]


def check(over: Mismatch) -> Verdict | None:
    """One of the statuses that are possible."""
    call = over.call
    if is_unserved(call.code) or over.what == "gate":
        return None
    if over.what != "status":
        return Holds("" if over.what else over.bug)
    expected = " or ".join(dict.fromkeys(map(str, over.endings)))
    text = f"hypercall 0x{call.code:x} cannot end like this"
    return Diverges(expected, f"status {call.status}", text, over.bug)


RULE = Rule(
    "HV302",
    "hypercall-status",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done"),
    check,
    theme="hypercall",
)
