"""HV101 cpuid-answer-changed

## What it finds
A CPUID leaf of the hypervisor's range that answers the same vCPU differently than before.

## Why it matters
The guest chose its clocks, timers and interrupts by the first answer; a driver loaded later finds another machine.

## What the specification says
> What a partition is offered does not change while it runs (TLFS, Feature and interface discovery). KVM refuses to set
> CPUID once a vCPU has run, and none of these leaves depends on the vCPU's state.

## When it cannot tell
On kernels before 5.16, where userspace may set CPUID at any time; for leaves of a range whose vendor was not read:
Xen's have sub-leaves; where the recording does not say whether
an entry was found.

## Example
    kvm_cpuid: func 40000003 rax 2aff rbx 30 rcx 0 rdx 80d18
    kvm_cpuid: func 40000003 rax 2af7 rbx 30 rcx 0 rdx 80d18
    expected eax 0x2aff, observed eax 0x2af7
"""

from __future__ import annotations

from hvtrace.replay.model.cpuid import Answer, may_vary, text_of
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(answer: Answer) -> Verdict | None:
    """The same question, the same answer."""
    if answer.before is None:
        return None
    if answer.found is None:
        return unknown(Reason.PARAMETER_UNKNOWN)
    varies = may_vary(answer.vcpu.vm.exposure, answer.leaf)
    if varies:
        return None
    if varies is None:
        return unknown(Reason.CPUID_UNKNOWN)
    if answer.vcpu.bench.profile.fact("cpuid_fixed") is not True:
        return unknown(Reason.PARAMETER_UNKNOWN)
    if answer.values == answer.before:
        return HOLDS
    text = f"CPUID 0x{answer.leaf:x} answers this vCPU differently than before"
    return Diverges(text_of(answer.before), text_of(answer.values), text)


RULE = Rule(
    "HV101",
    "cpuid-answer-changed",
    (Moment.CPUID,),
    ("kvm_cpuid", "kvm_write_tsc_offset"),
    check,
    theme="cpuid",
)
