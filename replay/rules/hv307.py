"""HV307 hypercall-before-enabling

## What it finds
A hypercall that is taken for a Hyper-V one while the guest has not enabled the Hyper-V interface.

## Why it matters
The registers are read in another way: a number of KVM's own interface means something else in Hyper-V's.

## What the specification says
> A guest enables hypercalls by writing GUEST_OS_ID and then the HYPERCALL register (TLFS, Establishing the hypercall
> interface). KVM looks at GUEST_OS_ID alone since 5.8, and at the enable bit of HYPERCALL before; otherwise the call
> is KVM's own (kvm_hv_hypercall_enabled).

## When it cannot tell
Where the register was not seen, another vCPU writes it at the same time, or it is not known whether Hyper-V is offered.

## Example
    kvm_msr: msr_write 40000000 = 0x0
    kvm_hv_hypercall: code 0x8 fast var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x0 out 0x0
    expected kvm_hypercall, observed kvm_hv_hypercall
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import AbiUse
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(use: AbiUse) -> Verdict | None:
    """Not before the guest enabled it."""
    if not use.hyperv:
        return None
    if use.enabled is None:
        return unknown(use.vcpu.why)
    if use.enabled:
        return HOLDS
    return Diverges("kvm_hypercall", "kvm_hv_hypercall", "the guest has not enabled Hyper-V hypercalls")


RULE = Rule("HV307", "hypercall-before-enabling", (Moment.ABI,), ("kvm_msr", "kvm_entry", "kvm_exit"), check)
