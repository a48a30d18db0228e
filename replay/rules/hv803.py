"""HV803 eoi-register-without-effect

## What it finds
A write of the APIC's EOI register, by memory or by any MSR, that finishes no interrupt.

## Why it matters
The interrupt stays in service: everything of its priority and below is blocked for ever.

## What the specification says
> A write of EOI ends the interrupt of highest priority (Intel SDM 3, EOI register). KVM shows kvm_eoi directly after
> the register's write, with vector -1 where nothing is in service (apic_set_eoi).

## When it cannot tell
Where the recording ends or events are lost before the next entry.

## Example
    kvm_apic: apic_write APIC_EOI = 0x0
    kvm_entry: vcpu 0
    expected kvm_eoi, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV803",
    "eoi-register-without-effect",
    (Moment.DUE,),
    ("kvm_apic", "kvm_eoi", "kvm_entry"),
    comes(lambda owed: "the write of the EOI register ends no interrupt"),
    due=Due.EOI,
    theme="end of interrupt",
)
