"""HV304 hypercall-unfinished

## What it finds
A hypercall after which the vCPU enters the guest again without a result, and without #UD where that is the answer.

## Why it matters
The guest reads what was in the result register before: it takes that for the status of its call.

## What the specification says
> A hypercall returns its result before the guest goes on; what userspace completes is finished at the next KVM_RUN.
> Only a fast call with XMM input, where CPUID is enforced and does not offer it, raises #UD instead
> (kvm_hv_hypercall_complete).

## When it cannot tell
On kernels that do not trace results, and after a loss.

## Example
    kvm_hv_hypercall: code 0x8 fast var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x64 out 0x0
    kvm_entry: vcpu 0
    expected kvm_hv_hypercall_done, observed an entry without it
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV304",
    "hypercall-unfinished",
    (Moment.DUE,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done", "kvm_entry"),
    comes(lambda owed: f"hypercall 0x{owed.event[5]:x} returns no result"),
    theme="hypercall",
    due=Due.HYPERCALL,
)
