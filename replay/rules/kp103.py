"""KP103 kvm-hypercall-under-hyperv

## What it finds
A hypercall that KVM took for one of its own although the guest has enabled Hyper-V's hypercalls.

## Why it matters
The number in RAX means something else in the other ABI: the guest's TLB flush or interrupt does not happen,
and another call may.

## What the specification says
> VMCALL and VMMCALL of a guest that was offered Hyper-V and has set GUEST_OS_ID follow the Hyper-V ABI
> (TLFS, Establishing the hypercall interface; kvm_hv_hypercall_enabled). Until 5.7 the enable bit of
> HYPERCALL decided.

## When it cannot tell
Where the register or the offer is not known, and while another vCPU may be writing it.

## Example
    kvm_msr: msr_write 40000000 = 0x8100000000000000
    kvm_hypercall: nr 0x5 a0 0x0 a1 0x1 a2 0x0 a3 0x0
    expected kvm_hv_hypercall, observed kvm_hypercall
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import AbiUse
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(use: AbiUse) -> Verdict | None:
    """KVM's own ABI is for guests that did not choose the other."""
    if use.hyperv:
        return None
    if use.enabled is None:
        return unknown(Reason.STATE_UNSEEN)
    if not use.enabled:
        return HOLDS
    text = "the guest has enabled Hyper-V's hypercalls"
    return Diverges("kvm_hv_hypercall", "kvm_hypercall", text)


RULE = Rule(
    "KP103",
    "kvm-hypercall-under-hyperv",
    (Moment.ABI,),
    ("kvm_hypercall", "kvm_msr"),
    check,
    theme="kvm-hypercall",
)
