"""HV704 flush-target-runs-on

## What it finds
A TLB flush that succeeded while a processor that it addressed ran in the guest, and that processor did not leave the
guest for it.

## Why it matters
The target goes on with stale translations after the caller was told that there are none.

## What the specification says
> The flush is complete on all processors of the set when the call returns (TLFS, HvCallFlushVirtualAddressSpace).
> KVM takes targets out of the guest and waits for that; they flush before they enter again
> (kvm_make_vcpus_request_mask; 1ebfaa11ebb5).

## When it cannot tell
On kernels that do not wait, and where kvm_exit may come late (AMD before 6.6). Targets of a sparse set and those whose
VP index is not known are left out. A target that leaves the guest up to 0.1 ms later is taken for one that was in time:
stamps of two CPUs may differ. Where the host takes its time from another clock than the TSC they differ by more, and
nothing is judged; nor are flushes of a nested guest, which names processors of its own.

## Example
    kvm_entry: vcpu 1
    kvm_hv_flush_tlb: processor_mask 0x2 address_space 0x1000 flags 0x0      (vCPU 0)
    kvm_hv_hypercall_done: result 0x0                                        (vCPU 0)
    kvm_hv_hypercall: code 0x2 …                                             (vCPU 0, 3 ms later)
    expected a kvm_exit of vCPU 1, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.vp_set import Flushed
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(flushed: Flushed) -> Verdict | None:
    """Targets leave the guest."""
    if not flushed.running:
        return HOLDS
    numbers = ", ".join(str(vcpu.number) for vcpu in flushed.running)
    return Diverges(f"a kvm_exit of vCPU {numbers}", "none", "a target of the flush stays in the guest")


RULE = Rule(
    "HV704",
    "flush-target-runs-on",
    (Moment.FLUSHED,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done", "kvm_entry", "kvm_exit", "kvm_msr"),
    check,
)
