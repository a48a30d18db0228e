"""VB101 signal-refused-wrongly

## What it finds
A fast SIGNAL_EVENT that went to userspace and came back with another status than its input calls for.

## Why it matters
The guest takes a connection for lost that it has, or the reverse.

## What the specification says
> KVM delivers a signal whose connection it has an eventfd for. All others are QEMU's, which knows no flag
> numbers (17, invalid port) and, of connections, none that KVM does not know (18, invalid connection;
> hyperv_hcall_signal_event).

## When it cannot tell
Where userspace may not be QEMU (no -cpu flags are known): it may then give any status. The slow form is not
judged, because its input is in guest memory.

## Example
    kvm_hv_hypercall: code 0x5d fast var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x100000011 out 0x0
    kvm_hv_hypercall_done: result 0x12
    expected status 17, observed status 18
"""

from __future__ import annotations

from hvtrace.abi.vmbus import FLAG_MASK, FLAG_SHIFT, SIGNAL_EVENT
from hvtrace.replay.model.hypercall import Mismatch
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

INVALID_PORT, INVALID_CONNECTION = 0x11, 0x12


def check(over: Mismatch) -> Verdict | None:
    """A flag number is no port; a connection that KVM does not know is none."""
    call = over.call
    if call.code != SIGNAL_EVENT or over.what or not call.fast or not call.userspace:
        return None
    if call.vcpu.bench.offer is None:
        return unknown(Reason.PARAMETER_UNKNOWN)
    flagged = call.ingpa >> FLAG_SHIFT & FLAG_MASK
    right = INVALID_PORT if flagged else INVALID_CONNECTION
    if call.status == right:
        return HOLDS
    text = "a flag number is given" if flagged else "nobody knows the connection"
    return Diverges(f"status {right}", f"status {call.status}", text)


RULE = Rule(
    "VB101",
    "signal-refused-wrongly",
    (Moment.CALL,),
    ("kvm_hv_hypercall", "kvm_hv_hypercall_done", "kvm_userspace_exit"),
    check,
    theme="VMBus",
)
