"""HV904 nested-exit-outside

## What it finds
An exit of a nested guest, an exit reflected to its hypervisor, or a hypercall of a nested guest, while the guest
hypervisor itself runs: after one exit was reflected to it and before it entered its guest again.

## Why it matters
The guest hypervisor finds an exit it cannot have had, and loses the state of its guest.

## What the specification says
> After a nested VM exit the processor runs the guest hypervisor until it executes VMLAUNCH, VMRESUME or VMRUN.

## When it cannot tell
Until an exit was reflected; after a loss and after userspace was at work (it may restore a nested guest); on kernels
before 6.1, which do not trace nested entries on Intel. No recording of a nested guest has exercised it yet.

## Example
    kvm_nested_vmexit_inject: reason: hlt
    kvm_nested_vmexit_inject: reason: npf
    expected an entry first, observed kvm_nested_vmexit_inject
"""

from __future__ import annotations

from hvtrace.replay.model.nested import NestedEvent
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(seen: NestedEvent) -> Verdict | None:
    """Only a nested guest exits."""
    if seen.vcpu.bench.profile.fact("nested_vmenter") is not True:
        return unknown(Reason.PARAMETER_UNKNOWN)
    if seen.outermost is None:
        return unknown(seen.vcpu.why)
    if not seen.outermost:
        return HOLDS
    name = seen.event[2]
    return Diverges(
        "kvm_nested_vmenter first", name, "the guest hypervisor runs: there is no nested guest to exit"
    )


RULE = Rule(
    "HV904",
    "nested-exit-outside",
    (Moment.NESTED,),
    ("kvm_nested_vmenter", "kvm_nested_vmexit_inject"),
    check,
)
