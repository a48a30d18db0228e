"""KP104 kvm-hypercall-out-of-place

## What it finds
A hypercall of KVM's own ABI in an exit that is none of VMCALL or VMMCALL, while the vCPU is in the guest, or
for the second time in one exit.

## Why it matters
Nothing but the guest's own instruction makes a hypercall: registers that happen to look like one would be
taken for it.

## What the specification says
> A hypercall is a VMCALL or VMMCALL instruction (KVM, hypercalls.rst). The wrong vendor's instruction is
> patched and executed again. Encrypted guests make it through VMGEXIT or TDCALL.

## When it cannot tell
Where the exit was not seen or its reason is not recorded.

## Example
    kvm_exit: vcpu 0 reason msr
    kvm_hypercall: nr 0x5 a0 0x0 a1 0x1 a2 0x0 a3 0x0
    expected an exit for VMMCALL, observed exit reason 0x7c
"""

from __future__ import annotations

from hvtrace.replay.model.kvm_call import KvmCall
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

#: kvm_exit reasons by instruction set (1 VMX: VMCALL, TDCALL; 2 SVM: VMMCALL, VMGEXIT).
CALLS = frozenset({(1, 18), (1, 77), (2, 0x81), (2, 0x403)})

#: VMX keeps flags above the reason.
REASON = 0xFFFF


def check(call: KvmCall) -> Verdict | None:
    """The exit is one for a hypercall."""
    vcpu = call.vcpu
    if not vcpu.whole:
        return unknown(vcpu.why)
    if not vcpu.out:
        return Diverges("an exit for VMCALL or VMMCALL", "no exit", "a hypercall without an exit")
    left = vcpu.left
    if left is None or left[5] is None or left[6] is None:
        return unknown(Reason.STATE_UNSEEN)
    reason = left[5] & REASON if left[6] == 1 else left[5]
    if (left[6], reason) in CALLS:
        if vcpu.kind == "called":
            return Diverges("one hypercall", "another one", "an exit makes one hypercall")
        return HOLDS
    text = "a hypercall in an exit for something else"
    return Diverges("an exit for VMCALL or VMMCALL", f"exit reason 0x{reason:x}", text)


RULE = Rule(
    "KP104",
    "kvm-hypercall-out-of-place",
    (Moment.KVM_CALL,),
    ("kvm_hypercall", "kvm_exit", "kvm_entry"),
    check,
    theme="kvm-hypercall",
)
