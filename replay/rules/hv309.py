"""HV309 hypercall-gate

## What it finds
A hypercall that was not denied although CPUID does not offer it and is enforced, or that was denied although it is
offered or CPUID is not enforced.

## Why it matters
A guest uses what its configuration keeps from it, or cannot use what it was promised.

## What the specification says
> Where userspace has KVM enforce CPUID (KVM_CAP_HYPERV_ENFORCE_CPUID), a call whose bit is clear returns
> HV_STATUS_ACCESS_DENIED, before anything else is looked at (hv_check_hypercall_access). Calls that KVM does not serve
> have no bit, nor have the debugger's where there is no debugger.

## When it cannot tell
Where the CPUID answer was not seen and no -cpu flags are known, or enforcement is not known: then both are right.

## Example
    kvm_hv_hypercall: code 0xb fast var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x6a out 0x1     (hv-enforce-cpuid, no hv-ipi)
    kvm_hv_hypercall_done: result 0x0
    expected status 6, observed status 0
"""

from __future__ import annotations

from hvtrace.replay.model.ending import ACCESS_DENIED
from hvtrace.replay.model.hypercall import Mismatch, is_unserved
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(over: Mismatch) -> Verdict | None:
    """CPUID opens and closes."""
    call = over.call
    if is_unserved(call.code):
        return None
    if over.what == "gate":
        expected = " or ".join(dict.fromkeys(map(str, over.endings)))
        text = f"CPUID {'allows' if call.status == ACCESS_DENIED else 'forbids'} hypercall 0x{call.code:x}"
        return Diverges(expected, f"status {call.status}", text)
    denials = {ending.status == ACCESS_DENIED for ending in over.endings}
    return unknown(Reason.CPUID_UNKNOWN) if not over.what and len(denials) > 1 else HOLDS


RULE = Rule(
    "HV309",
    "hypercall-gate",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done"),
    check,
    theme="enforcement",
)
