"""HV212 userspace-exit-missing

## What it finds
A guest's write that must take the vCPU to userspace before it runs again, and did not: SCONTROL, SIEFP,
SIMP (KVM_EXIT_HYPERV), RESET with 1 and CRASH_CTL with bit 63 (KVM_EXIT_SYSTEM_EVENT), the debugger's
CONTROL and PENDING_BUFFER.

## Why it matters
Userspace owns the message and event pages, the reset and the crash report: it never learns of the guest's
wish.

## What the specification says
> KVM snapshots the SynIC's state into a KVM_EXIT_HYPERV after each guest write of SCONTROL, SIEFP and
> SIMP; RESET and CRASH_CTL end in a system event.

## When it cannot tell
Where the recording ends or events are lost before the vCPU's next entry.

## Example
    kvm_msr: msr_write 40000083 = 0x5001
    kvm_entry: vcpu 0
    expected KVM_EXIT_HYPERV (27), observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV212",
    "userspace-exit-missing",
    (Moment.DUE,),
    ("kvm_msr", "kvm_userspace_exit", "kvm_entry"),
    comes(lambda _: "no exit to userspace before the next entry"),
    due=Due.EXIT,
)
