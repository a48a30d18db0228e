"""HV103 cpuid-answer-unfounded

## What it finds
An answer to a CPUID leaf of the hypervisor's range that userspace did not set and that is not zero, without being the
highest basic leaf's; or a leaf that userspace set and that was answered by another.

## Why it matters
A guest that looks for hypervisors from 0x40000000 on in steps of 0x100 finds one that is not there.

## What the specification says
> A leaf without an entry answers zeros on AMD; on Intel one beyond the range's highest leaf answers as the highest
> basic leaf does (AMD APM and Intel SDM, CPUID; get_out_of_range_cpuid_entry).

## When it cannot tell
Where the recording does not say whether an entry was found, or, on kernels before 5.10, whether the highest basic leaf
answered.

## Example
    kvm_cpuid: func 40000200 rax 40000201 rbx 4b4d564b rcx 564b4d56 rdx 4d, cpuid entry not found
    expected zeros, observed eax 0x40000201
"""

from __future__ import annotations

from hvtrace.replay.model.cpuid import Answer, text_of
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(answer: Answer) -> Verdict | None:
    """No entry, no answer."""
    if answer.found is None or (answer.found and answer.basic is None):
        return None
    if answer.found:
        if not answer.basic:
            return HOLDS
        text = f"CPUID 0x{answer.leaf:x} has an entry of its own"
        return Diverges("its own entry", "used max basic", text)
    if answer.basic is None:
        return unknown(Reason.PARAMETER_UNKNOWN)
    if answer.basic:
        return None
    if not any(answer.given):
        return HOLDS
    text = f"CPUID 0x{answer.leaf:x} has no entry and is answered"
    return Diverges("zeros", text_of(answer.given), text)


RULE = Rule("HV103", "cpuid-answer-unfounded", (Moment.CPUID,), ("kvm_cpuid",), check, theme="cpuid")
