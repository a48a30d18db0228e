"""KP110 pvclock-unregistered

## What it finds
kvm_pvclock_update for a vCPU whose SYSTEM_TIME is disabled.

## Why it matters
KVM writes into memory that the guest uses for something else.

## What the specification says
> With bit 0 of SYSTEM_TIME clear the page is not written (KVM, msr.rst).

## When it cannot tell
Where the register is not known: after INIT, a reset or a loss. Where Xen's interface is offered as well, its
pages show the same event.

## Example
    kvm_msr: msr_write 4b564d01 = 0x0
    kvm_pvclock_update: vcpu_id 0, pvclock { version 8, … }
    expected no update, observed kvm_pvclock_update
"""

from __future__ import annotations

from hvtrace.replay.model.pvclock import Update
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(update: Update) -> Verdict | None:
    """There is a page to be written."""
    if update.active is None:
        return unknown(update.vcpu.why)
    if update.vcpu.vm.paravirt.xen:
        return unknown(Reason.STATE_UNSEEN)
    if update.active:
        return HOLDS
    return Diverges("no update", "kvm_pvclock_update", "SYSTEM_TIME is disabled")


RULE = Rule(
    "KP110",
    "pvclock-unregistered",
    (Moment.PVCLOCK,),
    ("kvm_pvclock_update", "kvm_msr", "kvm_apic_accept_irq", RESETS),
    check,
    theme="pvclock",
)
