"""HV801 eoi-write-without-effect

## What it finds
A guest's write of the EOI MSR that finishes no interrupt.

## Why it matters
The interrupt stays in service: everything of its priority and below is blocked for ever.

## What the specification says
> A write of EOI is a write of the APIC's EOI register (TLFS, Virtual interrupt controller). KVM shows
> kvm_eoi before the write's kvm_msr, with vector -1 where nothing is in service.

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_exit: vcpu 0 reason msr
    kvm_msr: msr_write 40000070 = 0x0
    expected kvm_eoi before it, observed none
"""

from __future__ import annotations

from hvtrace.abi.register import Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


EOI = 0x4000_0070


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return write and row is not None and row.index == EOI


def check(access: Access) -> Verdict | None:
    """An EOI is an EOI."""
    if access.index != EOI or not access.write or access.late or access.refused:
        return None
    if not access.whole:
        return unknown(access.why)
    if any(effect[2] == "kvm_eoi" for effect in access.effects):
        return HOLDS
    return Diverges("kvm_eoi before it", "none", "the write of EOI finishes no interrupt")


RULE = Rule(
    "HV801",
    "eoi-write-without-effect",
    (Moment.MSR,),
    ("kvm_msr", "kvm_eoi", "kvm_exit"),
    check,
    concerns=concerns,
    theme="end of interrupt",
)
