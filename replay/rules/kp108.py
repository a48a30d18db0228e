"""KP108 pvclock-update-missing

## What it finds
A vCPU that enters the guest without kvm_pvclock_update after it registered its clock page, or after the
master clock was updated.

## Why it matters
The guest computes its time from what the page holds: zeros, or a line that is no longer true, and the time of
its vCPUs drifts apart.

## What the specification says
> A write of SYSTEM_TIME with bit 0 set makes KVM fill the page before the guest goes on, and an update of the
> master clock every vCPU's page (KVM, msr.rst; kvm_guest_time_update).

## When it cannot tell
Where the page may be outside the guest's memory, or in the firmware's shadow, which becomes read-only; where a
reset, INIT or userspace may have taken the page away.

## Example
    kvm_msr: msr_write 4b564d01 = 0xe8c21
    kvm_entry: vcpu 0
    expected kvm_pvclock_update, observed the vCPU enters the guest without it
"""

from __future__ import annotations

from hvtrace.replay.model.paravirt import SYSTEM_TIME
from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "KP108",
    "pvclock-update-missing",
    (Moment.DUE,),
    ("kvm_msr", "kvm_pvclock_update", "kvm_apic_accept_irq", "kvm_entry", "kvm_write_tsc_offset"),
    comes(
        lambda owed: f"vCPU {owed.vcpu.number}'s clock page is not brought up to date",
        still=lambda owed: bool(owed.vcpu.registers.get(SYSTEM_TIME, 0) & 1),
    ),
    due=Due.PVCLOCK,
    theme="pvclock",
)
