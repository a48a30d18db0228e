"""HV905 nested-flush-unexposed

## What it finds
A TLB flush hypercall of a nested guest that was answered directly, although the guest hypervisor was not offered this.

## Why it matters
The guest hypervisor, whose own hypercall it is, never sees the call and keeps stale translations.

## What the specification says
> Direct virtual flush is available where CPUID 0x4000000A.EAX[17] is set (TLFS, Nested virtualization; KVM asks for
> the bit, for the guest hypervisor's consent in its VMCS or VMCB and in its VP assist page).

## When it cannot tell
Where the leaf was not read and no -cpu flags are known. No recording of a nested guest has exercised it yet.

## Example
    kvm_cpuid: func 4000000a rax 80000
    kvm_hv_flush_tlb: processor_mask 0x1 address_space 0x0 flags 0x1 (L2)
    expected CPUID 0x4000000a.EAX[17], observed it clear
"""

from __future__ import annotations

from hvtrace.abi.cpuid import NESTED
from hvtrace.abi.register import Gate
from hvtrace.replay.model.nested import NestedEvent
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

DIRECT_FLUSH = Gate(NESTED, "eax", 17)


def check(seen: NestedEvent) -> Verdict | None:
    """A nested guest's flush is served where that was offered."""
    if not seen.event[2].startswith("kvm_hv_flush_tlb"):
        return None
    offered = seen.vcpu.vm.exposure.has(DIRECT_FLUSH)
    if offered is None:
        return unknown(Reason.CPUID_UNKNOWN)
    if offered:
        return HOLDS
    return Diverges(
        f"CPUID {DIRECT_FLUSH}", "it clear", "a nested guest's flush was served without the offer"
    )


RULE = Rule("HV905", "nested-flush-unexposed", (Moment.NESTED,), (), check)
