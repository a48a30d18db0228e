"""KP115 steal-time-stale

## What it finds
A vCPU that enters the guest without kvm_pv_tlb_flush after it enabled steal time, or after it was in
userspace with steal time on.

## Why it matters
The byte that says "preempted" stays set: other vCPUs ask it for TLB flushes that nobody carries out, and the
guest works with pages it no longer has.

## What the specification says
> A vCPU that is loaded again brings its steal time up to date before it enters the guest
> (kvm_arch_vcpu_load, record_steal_time); every update shows kvm_pv_tlb_flush where the feature is there.

## When it cannot tell
Where the area may be outside the guest's memory or the feature is not known; where a reset, INIT or userspace
may have disabled it.

## Example
    kvm_msr: msr_write 4b564d03 = 0xf634081
    kvm_entry: vcpu 0
    expected kvm_pv_tlb_flush, observed the vCPU enters the guest without it
"""

from __future__ import annotations

from hvtrace.replay.model.paravirt import STEAL_TIME
from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "KP115",
    "steal-time-stale",
    (Moment.DUE,),
    ("kvm_pv_tlb_flush", "kvm_msr", "kvm_apic_accept_irq", "kvm_entry", "kvm_write_tsc_offset"),
    comes(
        lambda _: "steal time is not brought up to date",
        still=lambda owed: bool(owed.vcpu.registers.get(STEAL_TIME, 0) & 1),
    ),
    due=Due.STEAL,
)
