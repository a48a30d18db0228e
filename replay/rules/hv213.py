"""HV213 userspace-exit-uncalled

## What it finds
A KVM_EXIT_HYPERV that neither a SynIC page or control write, nor a hypercall, nor the debugger asked for: a write of a
SINT or of EOM must not leave the kernel. And a KVM_EXIT_SYSTEM_EVENT after an MSR access that was neither a write of 1
to RESET nor one of CRASH_CTL with bit 63.

## Why it matters
Each exit to userspace costs many times an exit that the kernel serves.

## What the specification says
> Reads and writes of SINT registers and EOM are served in the kernel; KVM_EXIT_HYPERV stands for
> SCONTROL, SIEFP, SIMP, userspace hypercalls and the debugger.

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_msr: msr_write 40000092 = 0x31
    kvm_userspace_exit: reason KVM_EXIT_HYPERV (27)
    expected no KVM_EXIT_HYPERV, observed one
"""

from __future__ import annotations

from hvtrace.replay.model.machine import UserspaceExit
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


SYSTEM_EVENT = 24


def check(leaving: UserspaceExit) -> Verdict | None:
    """Every KVM_EXIT_HYPERV has a cause."""
    if leaving.caused is None:
        return unknown(leaving.vcpu.why)
    if leaving.caused:
        return HOLDS
    name = "KVM_EXIT_SYSTEM_EVENT" if leaving.reason == SYSTEM_EVENT else "KVM_EXIT_HYPERV"
    text = f"nothing in this exit asks for {name}"
    return Diverges(f"no {name}", f"{name} ({leaving.reason})", text)


RULE = Rule(
    "HV213",
    "userspace-exit-uncalled",
    (Moment.EXIT,),
    ("kvm_userspace_exit", "kvm_entry", "kvm_exit", "kvm_msr", "kvm_hv_hypercall"),
    check,
)
