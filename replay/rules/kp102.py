"""KP102 kvm-msr-read-back

## What it finds
A read of a stored KVM MSR that returns something else than what was written, be it to the register itself or
to the one it shares its storage with (the two clock MSRs, the two wall clock MSRs, PV_EOI_EN and the VP assist
page); one of ASYNC_PF_ACK that is not 0.

## Why it matters
The guest's page is not where it believes it to be.

## What the specification says
> These registers return the last value written (KVM, msr.rst).

## When it cannot tell
Until the register was seen, and again after INIT, a reset, a loss, or a write that failed for want of memory.

## Example
    kvm_msr: msr_write 4b564d05 = 0x0
    kvm_msr: msr_read 4b564d05 = 0x1
    expected 0x0, observed 0x1
"""

from __future__ import annotations

from hvtrace.abi.register import Group, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.model.paravirt import INIT_CLEARS
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return not write and row is not None and row.group is Group.KVM


def check(access: Access) -> Verdict | None:
    """What was stored comes back."""
    if not access.is_kvm or access.write or access.refused:
        return None
    if access.before is None:
        return unknown(access.why)
    cleared = access.row is not None and access.row.home in INIT_CLEARS
    if cleared and "kvm_apic_accept_irq" not in access.vcpu.bench.traced:
        return unknown(Reason.NOT_TRACED)
    if access.value == access.before:
        return HOLDS
    if access.raced:
        return unknown(Reason.STATE_UNSEEN)
    text = f"{access.name} reads 0x{access.value:x} and holds 0x{access.before:x}"
    return Diverges(f"0x{access.before:x}", f"0x{access.value:x}", text)


RULE = Rule("KP102", "kvm-msr-read-back", (Moment.MSR,), ("kvm_msr", RESETS), check, concerns=concerns)
