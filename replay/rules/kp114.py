"""KP114 pv-tlb-flush-disabled

## What it finds
kvm_pv_tlb_flush for a vCPU that has steal time disabled, or whose guest must not have the feature.

## Why it matters
KVM reads and clears a byte of memory that the guest uses for something else.

## What the specification says
> The steal-time area is used while bit 0 of STEAL_TIME is set (KVM, msr.rst); the byte in it asks for a TLB
> flush where the guest has KVM_FEATURE_PV_TLB_FLUSH (record_steal_time).

## When it cannot tell
Where the register is not known: after INIT, a reset or a loss.

## Example
    kvm_msr: msr_write 4b564d03 = 0x0
    kvm_pv_tlb_flush: vcpu 0 need_flush_tlb false
    expected none, observed kvm_pv_tlb_flush
"""

from __future__ import annotations

from hvtrace.replay.model.paravirt import TlbFlush
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(flush: TlbFlush) -> Verdict | None:
    """Steal time is on."""
    if flush.enabled is None:
        return unknown(flush.vcpu.why)
    if not flush.enabled:
        return Diverges("none", "kvm_pv_tlb_flush", "steal time is disabled")
    if flush.offered is False and flush.vcpu.bench.profile.fact("pv_enforces"):
        return Diverges("none", "kvm_pv_tlb_flush", "CPUID does not offer it and PV CPUID is enforced")
    return HOLDS


RULE = Rule(
    "KP114",
    "pv-tlb-flush-disabled",
    (Moment.TLB_FLUSH,),
    ("kvm_pv_tlb_flush", "kvm_msr", "kvm_apic_accept_irq", RESETS),
    check,
)
