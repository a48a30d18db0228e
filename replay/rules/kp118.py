"""KP118 async-pf-interrupt-missing

## What it finds
A "page ready" for everyone that is not told by the interrupt the guest chose.

## Why it matters
Tasks that wait for a page are never woken.

## What the specification says
> "Page ready" arrives as an interrupt with the vector of ASYNC_PF_INT, where ASYNC_PF_EN has bits 0 and 3 set
> (KVM, msr.rst; kvm_arch_async_page_present).

## When it cannot tell
For the token of one page: it is told only where its "not present" was, which the trace does not show. Where
the registers are not known. Kernels before 5.8 tell it by #PF.

## Example
    kvm_msr: msr_write 4b564d06 = 0xf3
    kvm_async_pf_ready: token 0xffffffff gva 0x0
    expected kvm_apic_accept_irq of vector 243, observed the vCPU enters the guest without it
"""

from __future__ import annotations

from hvtrace.replay.obligation import Due, comes
from hvtrace.replay.rule import RESETS, Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "KP118",
    "async-pf-interrupt-missing",
    (Moment.DUE,),
    ("kvm_async_pf_ready", "kvm_msr", "kvm_apic_accept_irq", "kvm_entry", RESETS),
    comes(lambda owed: "those who wait for pages are not told"),
    due=Due.PAGE_READY,
)
