"""HV901 syndbg-read-stale

## What it finds
A read of a synthetic debugger register, by the guest or by userspace, that shows another value than the register
holds: the one last written by either, 0 after the VM's creation.

## Why it matters
Guest and debugger look for their pages at different addresses; a migration carries the wrong state over.

## What the specification says
> The debugger's registers return what was last written (hv-syndbg of QEMU; syndbg_get_msr). STATUS is also set by
> userspace's answer to a write of CONTROL.

## When it cannot tell
Until the register was written or read once and the VM's creation was not recorded; STATUS after a write of CONTROL;
where another vCPU may be writing the register at the same time.

## Example
    kvm_hv_syndbg_set_msr: vcpu_id 0 vp_index 0 msr 0x400000f3 data 0x1000
    kvm_hv_syndbg_get_msr: vcpu_id 0 vp_index 0 msr 0x400000f3 data 0x0
    expected data 0x1000, observed data 0x0
"""

from __future__ import annotations

from hvtrace.abi.msr import msr_name
from hvtrace.replay.model.debugger import REGISTERS, DebugAccess
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(access: DebugAccess) -> Verdict | None:
    """What is read is what was written."""
    if access.write or access.index not in REGISTERS:
        return None
    if access.held is None:
        return unknown(access.vcpu.why)
    if access.data == access.held:
        return HOLDS
    if access.data == access.former:
        return unknown(Reason.STATE_UNSEEN)
    text = f"{msr_name(access.index)} reads 0x{access.data:x} and holds 0x{access.held:x}"
    return Diverges(f"data 0x{access.held:x}", f"data 0x{access.data:x}", text)


RULE = Rule(
    "HV901",
    "syndbg-read-stale",
    (Moment.DEBUG,),
    ("kvm_hv_syndbg_get_msr", "kvm_hv_syndbg_set_msr"),
    check,
    theme="syndbg",
)
