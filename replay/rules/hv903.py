"""HV903 crash-control-changed

## What it finds
A read of CRASH_CTL that differs from an earlier one although userspace had no occasion to change it, or that does not
show bit 63 although QEMU runs the VM: it sets the bit at creation and at every reset.

## Why it matters
CRASH_CTL tells the guest what it may report: a guest that finds bit 63 gone reports its crashes no longer.

## What the specification says
> CRASH_CTL holds what userspace advertises; a guest's write asks for a report and is not stored (TLFS, Guest crash
> enlightenment; kvm_hv_msr_set_crash_ctl).

## When it cannot tell
Where the VM's -cpu option is not known: until it was read once in the recording, and again after userspace may have set
it (creation, reset, crash).

## Example
    kvm_msr: msr_read 40000105 = 0x8000000000000000
    kvm_msr: msr_write 40000105 = 0x0
    kvm_msr: msr_read 40000105 = 0x0
    expected 0x8000000000000000, observed 0x0
"""

from __future__ import annotations

from hvtrace.abi.register import Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.model.nested import CRASH_CTL
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]

#: Userspace takes crash reports.
NOTIFY = 1 << 63


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return not write and row is not None and row.index == CRASH_CTL


def check(access: Access) -> Verdict | None:
    """The guest's writes leave nothing behind."""
    if access.index != CRASH_CTL or access.write or access.late or access.refused:
        return None
    if access.value & ~NOTIFY:
        # Bits that cannot be are another rule's.
        return None
    vcpu = access.vcpu
    held = vcpu.vm.registers.get(CRASH_CTL) if vcpu.bench.offer is None else NOTIFY
    if held is None:
        return unknown(access.why)
    if access.value == held:
        return HOLDS
    text = f"CRASH_CTL reads 0x{access.value:x} and userspace set 0x{held:x}"
    return Diverges(f"0x{held:x}", f"0x{access.value:x}", text)


RULE = Rule("HV903", "crash-control-changed", (Moment.MSR,), ("kvm_msr", RESETS), check, concerns=concerns)
