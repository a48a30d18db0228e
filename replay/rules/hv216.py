"""HV216 msr-access-count

## What it finds
An exit for an MSR access that shows no kvm_msr before the next entry, or two of them, and an access to a
synthetic MSR while the vCPU runs in the guest, or when the next interrupt was put into the guest already.

## Why it matters
An instruction that was skipped without being carried out, or was carried out twice.

## What the specification says
> RDMSR and WRMSR access one register each (Intel SDM; kvm_emulate_rdmsr, kvm_emulate_wrmsr). KVM traces every
> access it completes, the refused ones as well.

## When it cannot tell
Where the exit's beginning was not seen, where userspace completes the access, where a nested guest made it,
and on processors and kernels that handle some accesses before they trace the exit. Where no access to another than
a synthetic MSR was recorded, the others may have been filtered out: then an exit without its access says nothing.

## Example
    kvm_exit: vcpu 0 reason msr
    kvm_entry: vcpu 0
    expected kvm_msr, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.access import Accesses
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(accesses: Accesses) -> Verdict | None:
    """One exit, one access."""
    if accesses.seen == "one":
        return HOLDS
    if accesses.seen == "none":
        return Diverges("kvm_msr", "none", "an exit for an MSR access without the access")
    if accesses.seen == "second":
        return Diverges("one kvm_msr", "a second", "an exit for an MSR access with two of them")
    if accesses.seen == "late":
        return Diverges(
            "kvm_msr first", "an injection before it", "the exit's access comes after its injections"
        )
    return Diverges("kvm_exit before it", "none", "an access to a synthetic MSR while the guest runs")


RULE = Rule(
    "HV216",
    "msr-access-count",
    (Moment.ACCESSES,),
    ("kvm_msr", "kvm_entry", "kvm_exit", "kvm_userspace_exit", "kvm_nested_vmexit"),
    check,
)
