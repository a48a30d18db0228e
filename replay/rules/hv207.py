"""HV207 vp-index-shared

## What it finds
Two vCPUs of one VM that read the same VP_INDEX.

## Why it matters
Processor masks of IPIs and TLB flushes address VP indices: one of the two never gets its interrupts.

## What the specification says
> Each virtual processor has an index that is unique within its partition (TLFS, Virtual processor index).

## When it cannot tell
Until another vCPU of the VM has read its own.

## Example
    kvm_msr: msr_read 40000002 = 0x0     (vCPU 0)
    kvm_msr: msr_read 40000002 = 0x0     (vCPU 1)
    expected an index of its own, observed 0x0
"""

from __future__ import annotations

from hvtrace.abi.register import Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


VP_INDEX = 0x4000_0002


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return not write and row is not None and row.index == VP_INDEX


def check(access: Access) -> Verdict | None:
    """Indices are unique."""
    if access.index != VP_INDEX or access.write or access.late or access.refused:
        return None
    if access.before is not None and access.value != access.before:
        # Another rule's: it is not this vCPU's index.
        return None
    others = {
        vcpu.number: vcpu.registers[VP_INDEX]
        for vcpu in access.vcpu.vm.vcpus.values()
        if vcpu is not access.vcpu and VP_INDEX in vcpu.registers
    }
    for number, index in others.items():
        if index == access.value:
            text = f"VP_INDEX 0x{index:x} belongs to vCPU {number} already"
            return Diverges("an index of its own", f"0x{index:x}", text)
    return HOLDS if others else unknown(access.why)


RULE = Rule("HV207", "vp-index-shared", (Moment.MSR,), ("kvm_msr",), check, concerns=concerns)
