"""HV211 msr-write-unfinished

## What it finds
The effect of a guest's write of a SynIC or timer register (kvm_hv_synic_set_msr,
kvm_hv_stimer_set_config, kvm_hv_stimer_set_count) that no kvm_msr follows before the vCPU enters the
guest again.

## Why it matters
The hypervisor acted on a write that the guest never made, or lost the guest's instruction.

## What the specification says
> KVM prints kvm_msr when the access is complete, after its effects.

## When it cannot tell
Where the exit was no MSR access or its beginning was not seen, and where the recording ends or events are
lost before the next entry. Accesses that userspace completes show no kvm_msr and are not counted.

## Example
    kvm_exit: vcpu 0 reason msr
    kvm_hv_synic_set_msr: vcpu_id 0 msr 0x40000084 data 0x0 host 0
    kvm_entry: vcpu 0
    expected kvm_msr of the write, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV211",
    "msr-write-unfinished",
    (Moment.DUE,),
    ("kvm_msr", "kvm_entry", "kvm_exit"),
    comes(lambda owed: f"{owed.event[2]} is not followed by the kvm_msr of its write"),
    due=Due.MSR,
)
