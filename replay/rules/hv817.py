"""HV817 icr-without-ipi

## What it finds
A write of the APIC's interrupt command register, by memory or by any MSR, that sends no interrupt, or another one.

## Why it matters
The vCPU that it names does not hear of it.

## What the specification says
> A write of the low half sends the interrupt that it describes (Intel SDM 3, Interrupt command register). KVM shows
> kvm_apic_ipi with this half, busy bit clear: before the register's write where both halves are written in one piece,
> after it otherwise (kvm_apic_send_ipi).

## When it cannot tell
Where the recording ends or events are lost before the next entry.

## Example
    kvm_apic: apic_write APIC_ICR = 0xfb
    kvm_entry: vcpu 0
    expected kvm_apic_ipi of 0xfb, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "HV817",
    "icr-without-ipi",
    (Moment.DUE,),
    ("kvm_apic", "kvm_apic_ipi", "kvm_entry", "kvm_exit"),
    comes(lambda owed: "the interrupt that the command register describes is not sent"),
    due=Due.IPI,
    theme="APIC register",
)
