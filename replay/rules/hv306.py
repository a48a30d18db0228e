"""HV306 hypercall-userspace

## What it finds
A hypercall that userspace has to complete and that returned a result without an exit to userspace; or one that KVM
completes itself, and that went to userspace.

## Why it matters
A message that userspace never sees is lost, and a flush that userspace is asked for is not done.

## What the specification says
> PostMessage, the debug calls, the extended calls, and SignalEvent of a connection that KVM does not know go to
> userspace with KVM_EXIT_HYPERV once KVM's own checks are passed; all others are KVM's (kvm_hv_hypercall).

## When it cannot tell
Where userspace's exits are not recorded. SignalEvent of a connection without a flag may go either way.

## Example
    kvm_hv_hypercall: code 0x5c slow var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x1052000 out 0x0
    kvm_hv_hypercall_done: result 0x0
    expected KVM_EXIT_HYPERV before the result, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.hypercall import Mismatch
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(over: Mismatch) -> Verdict | None:
    """Userspace completes what is its own, and nothing else."""
    call = over.call
    if over.what == "userspace":
        if call.userspace:
            text = f"KVM completes hypercall 0x{call.code:x} itself"
            return Diverges("no KVM_EXIT_HYPERV", "one", text)
        text = f"userspace completes hypercall 0x{call.code:x}"
        return Diverges("KVM_EXIT_HYPERV before the result", "none", text)
    if over.what in ("gate", "status") or not (
        call.userspace or any(ending.userspace for ending in over.endings)
    ):
        return None
    return HOLDS


RULE = Rule(
    "HV306",
    "hypercall-userspace",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done", "kvm_userspace_exit"),
    check,
    theme="hypercall",
)
