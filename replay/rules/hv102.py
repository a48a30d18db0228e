"""HV102 cpuid-answer-differs

## What it finds
A CPUID leaf of the hypervisor's range that answers two vCPUs of one VM differently. A warning: userspace sets each
vCPU's answers.

## Why it matters
A guest reads these leaves on one processor and relies on the answer on all of them.

## What the specification says
> Partition privileges and recommendations hold for the whole partition (TLFS, Feature and interface discovery).

## When it cannot tell
For leaves of a range whose vendor was not read: Xen's differ from vCPU to vCPU; where the recording does
not say whether an entry was found.

## Example
    kvm_cpuid: func 40000003 rax 2aff rbx 30 rcx 0 rdx 80d18     (vCPU 0)
    kvm_cpuid: func 40000003 rax 2af7 rbx 30 rcx 0 rdx 80d18     (vCPU 1)
    expected eax 0x2aff, observed eax 0x2af7
"""

from __future__ import annotations

from hvtrace.replay.model.cpuid import Answer, may_vary, text_of
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Severity, Verdict, unknown

__all__ = ["RULE"]


def check(answer: Answer) -> Verdict | None:
    """All vCPUs are offered the same."""
    if answer.other is None or answer.before is not None:
        return None
    if answer.found is None:
        return unknown(Reason.PARAMETER_UNKNOWN)
    varies = may_vary(answer.vcpu.vm.exposure, answer.leaf)
    if varies:
        return None
    if varies is None:
        return unknown(Reason.CPUID_UNKNOWN)
    number, values = answer.other
    if answer.values == values:
        return HOLDS
    text = f"CPUID 0x{answer.leaf:x} answers this vCPU otherwise than vCPU {number}"
    return Diverges(text_of(values), text_of(answer.values), text)


RULE = Rule(
    "HV102",
    "cpuid-answer-differs",
    (Moment.OFFER,),
    ("kvm_cpuid", "kvm_write_tsc_offset"),
    check,
    severity=Severity.WARNING,
    theme="offer",
)
