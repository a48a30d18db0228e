"""HV812 ipi-not-taken

## What it finds
An interrupt sent through the command register that the APIC of a vCPU it names does not take, or that another vCPU
takes, or takes with another trigger mode.

## Why it matters
The sender waits for an answer that does not come.

## What the specification says
> The interrupt goes to the destinations that shorthand, destination mode and destination describe (Intel SDM 3,
> Interrupt command register). KVM shows kvm_apic_accept_irq for each in the sender's thread (kvm_irq_delivery_to_apic).

## When it cannot tell
Lowest-priority and remote-read modes; logical destinations unless all vCPUs concerned are known to be in x2APIC mode;
destinations that were not seen; after a guest wrote an APIC id; where the guest is itself a hypervisor.

## Example
    kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|assert|edge|dst)
    kvm_apic_accept_irq: apicid 0 vec 251 (Fixed|edge)
    kvm_entry: vcpu 0
    expected kvm_apic_accept_irq at vCPU 1, observed at vCPU 0
"""

from __future__ import annotations

from hvtrace.replay.model.apic import LEVEL, Ipi
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(ipi: Ipi) -> Verdict | None:
    """Those named take it."""
    if ipi.expected is None:
        return unknown(Reason.STATE_UNSEEN)
    taken = {number for _, _, number in ipi.taken}
    if ipi.expected - taken or (ipi.exact and taken - ipi.expected):
        return Diverges(
            _words(ipi.expected), _words(taken), "the interrupt goes to other vCPUs than it names"
        )
    level = bool(ipi.command & LEVEL)
    if any(event[7] is not None and bool(event[7]) != level for event, _, _ in ipi.taken):
        return Diverges(
            "level" if level else "edge",
            "edge" if level else "level",
            "it is taken with another trigger mode",
        )
    return HOLDS if ipi.expected else unknown(Reason.STATE_UNSEEN)


def _words(numbers: set[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers))) or "none"
    return f"kvm_apic_accept_irq at vCPU {shown}"


RULE = Rule(
    "HV812",
    "ipi-not-taken",
    (Moment.IPI,),
    ("kvm_apic_ipi", "kvm_apic_accept_irq", "kvm_apic", "kvm_entry", "kvm_exit"),
    check,
    theme="APIC register",
)
