"""KP105 kick-wrong-vcpu

## What it finds
A KICK_CPU hypercall that does not wake the vCPU it names, or wakes another; a kick by any other hypercall
but SEND_IPI, which may be asked for one.

## Why it matters
A vCPU that waits for a lock has halted: without its kick it sleeps until the next interrupt, holding up all
that wait behind it.

## What the specification says
> KICK_CPU wakes the vCPU whose APIC id is in a1 (KVM, hypercalls.rst); it arrives as an interrupt of delivery
> mode 3, which has no vector (kvm_pv_kick_cpu_op).

## When it cannot tell
Where no kick came and the call may be from user mode, which KVM refuses after it traced the call, where PV
CPUID is enforced and the feature is not known, where the vCPU was never seen, and for ids that mean every
vCPU.

## Example
    kvm_hypercall: nr 0x5 a0 0x0 a1 0x1 a2 0x0 a3 0xff
    kvm_apic_accept_irq: apicid 0 vec 0 (Res3|edge)
    expected a kick of vCPU 1, observed a kick of vCPU 0
"""

from __future__ import annotations

from hvtrace.replay.model.kvm_call import KICK_CPU, SEND_IPI, KvmCall
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(call: KvmCall) -> Verdict | None:
    """The vCPU that is named wakes, and no other."""
    if call.number == SEND_IPI:
        # It may be asked to send what a kick sends.
        return None
    addressed = call.addressed if call.number == KICK_CPU else []
    if addressed is None or (call.kicks and call.is_open):
        return unknown(Reason.STATE_UNSEEN)
    expected = f"a kick of vCPU {addressed[0]}" if addressed else "no kick"
    kicks = call.kicks
    if kicks == addressed:
        return HOLDS
    if kicks:
        observed = (
            "kicks of vCPUs " + ", ".join(map(str, kicks)) if len(kicks) > 1 else f"a kick of vCPU {kicks[0]}"
        )
        return Diverges(expected, observed, f"hypercall {call.number} kicks the wrong vCPU")
    if call.served is False:
        return HOLDS
    if call.served is None or addressed[0] not in call.vcpu.vm.vcpus:
        return unknown(Reason.STATE_UNSEEN)
    return Diverges(expected, "no kick", "KICK_CPU does not reach the vCPU it names")


RULE = Rule(
    "KP105",
    "kick-wrong-vcpu",
    (Moment.KVM_CALLED,),
    ("kvm_hypercall", "kvm_apic_accept_irq", "kvm_entry"),
    check,
    theme="kvm-hypercall",
)
