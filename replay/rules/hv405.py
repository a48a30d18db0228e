"""HV405 sint-not-taken

## What it finds
A synthetic interrupt that was raised although the vCPU's APIC did not take a fixed, edge-triggered interrupt
with its vector just before, or that another vCPU's APIC took as well.

## Why it matters
The hypervisor believes it has told the guest, and the guest hears nothing.

## What the specification says
> Raising a source sends a fixed interrupt with its vector to the vCPU's APIC: kvm_apic_accept_irq comes
> before kvm_hv_synic_set_irq, in the same thread (synic_set_irq).

## When it cannot tell
At the first event of a thread, and after a loss.

## Example
    kvm_hv_synic_set_irq: vcpu_id 0 sint 2 vector 98 ret 1
    expected kvm_apic_accept_irq with vector 98 before it, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.synic import Accepted
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(raised: Accepted) -> Verdict | None:
    """The APIC takes it first."""
    if raised.accepted is None:
        return unknown(raised.vcpu.why)
    if raised.elsewhere:
        shown = ", ".join(f"vCPU {number}" for number in raised.elsewhere)
        text = f"vector {raised.vector} went to another vCPU than vCPU {raised.vcpu.number} as well"
        return Diverges(f"vCPU {raised.vcpu.number} alone", shown, text)
    if raised.accepted:
        return HOLDS
    text = f"the APIC took no interrupt with vector {raised.vector}"
    return Diverges(f"kvm_apic_accept_irq of vector {raised.vector} before it", "none", text)


RULE = Rule(
    "HV405",
    "sint-not-taken",
    (Moment.ACCEPT,),
    ("kvm_hv_synic_set_irq", "kvm_apic_accept_irq", "kvm_entry"),
    check,
    theme="SynIC",
)
