"""KP120 hypercall-lost

## What it finds
An exit for VMCALL or VMMCALL of a guest that uses KVM's own hypercalls, and no hypercall.

## Why it matters
The guest's request is dropped: a kick that does not come leaves a vCPU asleep.

## What the specification says
> Every VMCALL and VMMCALL is a hypercall, known or not, and of whatever privilege (KVM, hypercalls.rst); KVM
> traces it before it looks at either.

## When it cannot tell
Where the exit may be a nested guest's, where the guest may use Hyper-V's or Xen's hypercalls, and where the
vCPU went to userspace. Where there is a call the rule is silent.

## Example
    kvm_exit: vcpu 0 reason hypercall
    kvm_entry: vcpu 0
    expected kvm_hypercall, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.kvm_call import Uncalled
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(exit_: Uncalled) -> Verdict | None:
    """There is a call."""
    if exit_.is_kvm is None:
        return unknown(Reason.STATE_UNSEEN)
    return Diverges("kvm_hypercall", "none", "an exit for a hypercall makes none")


RULE = Rule(
    "KP120",
    "hypercall-lost",
    (Moment.UNCALLED,),
    ("kvm_hypercall", "kvm_hv_hypercall", "kvm_nested_vmexit", "kvm_exit", "kvm_entry"),
    check,
    theme="kvm-hypercall",
)
