"""HV106 cpuid-leaves-disagree

## What it finds
Hyper-V leaves that contradict one another: a needed leaf below the highest that is missing, a leaf above it that is
there, fewer processors allowed than the VM has, EVMCS recommended without the nested leaf that names its versions, a
vendor that is no text. A warning: userspace composes them.

## Why it matters
Guests stop reading at the highest leaf and trust the limits; Windows refuses a machine whose leaves do not fit.

## What the specification says
> EAX of the first leaf is the highest leaf; five leaves after it are always there (TLFS, Feature and interface
> discovery).

## When it cannot tell
Until the first leaf was read.

## Example
    kvm_cpuid: func 40000000 rax 40000003 rbx 7263694d rcx 666f736f rdx 76482074
    kvm_cpuid: func 40000004 rax 20 rbx ffffffff rcx 0 rdx 0, cpuid entry found
    expected leaves that agree, observed leaf 0x40000004 above the highest
"""

from __future__ import annotations

from hvtrace.replay.model.cpuid import Answer, contradictions
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Severity, Verdict, unknown

__all__ = ["RULE"]


def check(answer: Answer) -> Verdict | None:
    """The leaves agree."""
    exposure = answer.vcpu.vm.exposure
    if not exposure.hyperv or answer.leaf >= 0x4000_0100:
        return None
    wrong = contradictions(answer, exposure)
    if wrong is None:
        return unknown(Reason.CPUID_UNKNOWN)
    if not wrong:
        return HOLDS
    return Diverges(
        "leaves that agree", "; ".join(wrong), f"CPUID 0x{answer.leaf:x} contradicts other leaves"
    )


RULE = Rule(
    "HV106",
    "cpuid-leaves-disagree",
    (Moment.OFFER,),
    ("kvm_cpuid",),
    check,
    severity=Severity.WARNING,
    theme="offer",
)
