"""KP107 map-gpa-range-exit

## What it finds
A hypercall that goes to userspace (KVM_EXIT_HYPERCALL) although it is no MAP_GPA_RANGE, or one with a
misaligned address or no pages; and a valid MAP_GPA_RANGE that stays in the kernel although userspace serves
it.

## Why it matters
Userspace changes what memory is shared: with a wrong range it gives away the guest's private memory.

## What the specification says
> MAP_GPA_RANGE is handed to userspace where it asked for it; a misaligned address, an empty or a wrapping
> range returns EINVAL (KVM, hypercalls.rst).

## When it cannot tell
Where nothing went to userspace and it was not seen yet that userspace serves the call, or the call may be
from user mode.

## Example
    kvm_hypercall: nr 0xc a0 0x1004 a1 0x1 a2 0x10 a3 0x0
    kvm_userspace_exit: reason KVM_EXIT_HYPERCALL (3)
    expected no exit to userspace, observed KVM_EXIT_HYPERCALL (3)
"""

from __future__ import annotations

from hvtrace.replay.model.kvm_call import MAP_GPA_RANGE, KvmCall, maps
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

EXIT = "KVM_EXIT_HYPERCALL (3)"


def check(call: KvmCall) -> Verdict | None:
    """Userspace sees valid ranges, and nothing else."""
    if call.exits:
        if maps(call):
            return HOLDS
        if call.is_open:
            return unknown(Reason.STATE_UNSEEN)
        return Diverges(
            "no exit to userspace", EXIT, f"hypercall {call.number} is not for userspace as it stands"
        )
    if call.number != MAP_GPA_RANGE:
        return None
    if not maps(call) or call.served is False:
        return HOLDS
    if call.served is None or not call.vcpu.vm.paravirt.map_exits:
        return unknown(Reason.STATE_UNSEEN)
    return Diverges(EXIT, "no exit to userspace", "userspace serves MAP_GPA_RANGE and does not get it")


RULE = Rule(
    "KP107",
    "map-gpa-range-exit",
    (Moment.KVM_CALLED,),
    ("kvm_hypercall", "kvm_userspace_exit", "kvm_entry"),
    check,
    theme="kvm-hypercall",
)
