"""HV811 icr-msr-without-ipi

## What it finds
A guest's write of the synthetic ICR register that sends no interrupt, or another one.

## Why it matters
Another vCPU, or the vCPU itself, waits for an interrupt that does not come.

## What the specification says
> A write of ICR sends the interrupt that it describes (TLFS, Virtual interrupt controller). KVM shows it by
> kvm_apic_ipi with the low half, busy bit clear, and as destination the upper half, of which only bits 63:56 count in
> xAPIC mode (kvm_apic_send_ipi). A write that is refused sends nothing.

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_apic_ipi: dst 0 vec 108 (Fixed|physical|assert|edge|self)
    kvm_msr: msr_write 40000071 = 0x4006b
    expected kvm_apic_ipi of 0x4006b, observed 0x4006c
"""

from __future__ import annotations

from hvtrace.replay.model.apic import BUSY, ICR_LOW, Through
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(through: Through) -> Verdict | None:
    """What was written is sent."""
    access = through.access
    if not access.write or access.late or through.register != ICR_LOW:
        return None
    if not access.whole:
        return unknown(access.why)
    sent = [(act[5], act[6]) for act in through.acts if act[2] == "kvm_apic_ipi"]
    if access.refused:
        return Diverges("no kvm_apic_ipi", "one", "the write was refused") if sent else HOLDS
    command = access.value & 0xFFFF_FFFF & ~BUSY
    targets = access.value >> 32, access.value >> 56
    if any((low & ~BUSY, target) in ((command, targets[0]), (command, targets[1])) for low, target in sent):
        return HOLDS
    observed = f"0x{sent[0][0]:x} to {sent[0][1]}" if sent else "none"
    text = "the interrupt that ICR describes is not sent"
    return Diverges(f"kvm_apic_ipi of 0x{command:x} to {targets[0]} or {targets[1]}", observed, text)


RULE = Rule(
    "HV811",
    "icr-msr-without-ipi",
    (Moment.THROUGH,),
    ("kvm_msr", "kvm_apic_ipi", "kvm_exit", "kvm_entry"),
    check,
    theme="APIC register",
)
