"""KP106 pv-ipi-wrong-targets

## What it finds
A SEND_IPI hypercall whose interrupt does not reach every vCPU it addresses, reaches another one, or reaches
them out of order.

## Why it matters
The sender waits for an answer that never comes, or a vCPU runs a handler nobody asked for.

## What the specification says
> SEND_IPI delivers the vector and mode of the ICR in a3 to the APIC ids of the bitmap a0, a1 above a2 (KVM,
> hypercalls.rst), ascending; an ICR with a logical destination or a shorthand is refused (kvm_pv_send_ipi).

## When it cannot tell
Where the call may be from user mode or 32-bit code, where PV CPUID is enforced and the feature is not known;
vCPUs never seen may not exist.

## Example
    kvm_hypercall: nr 0xa a0 0x6 a1 0x0 a2 0x0 a3 0xfd
    kvm_apic_accept_irq: apicid 1 vec 253 (Fixed|edge)
    expected vector 253 at vCPUs 1, 2, observed vCPUs 1
"""

from __future__ import annotations

from hvtrace.replay.model.kvm_call import SEND_IPI, KvmCall
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(call: KvmCall) -> Verdict | None:
    """Each vCPU that exists and is addressed gets it once, in order."""
    if call.number != SEND_IPI:
        return None
    addressed, served = call.addressed, call.served
    if addressed is None or served is None:
        return unknown(Reason.STATE_UNSEEN)
    known = call.vcpu.vm.vcpus
    expected = [number for number in addressed if number in known] if served else []
    if call.sent == expected:
        return HOLDS
    words = ", ".join(map(str, expected)) or "no vCPU"
    observed = ", ".join(map(str, call.sent)) or "none"
    vector = call.event[9] & 0xFF
    return Diverges(
        f"vector {vector} at vCPUs {words}", f"vCPUs {observed}", "SEND_IPI does not reach what it addresses"
    )


RULE = Rule(
    "KP106",
    "pv-ipi-wrong-targets",
    (Moment.KVM_CALLED,),
    ("kvm_hypercall", "kvm_apic_accept_irq", "kvm_entry"),
    check,
    theme="kvm-hypercall",
)
