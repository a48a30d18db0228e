"""VB102 message-not-received

## What it finds
A POST_MESSAGE that was accepted and of which no message reached VMBus, in the same thread and during the call.

## Why it matters
A message is lost between KVM and QEMU, and the guest waits for an answer that nobody owes it.

## What the specification says
> QEMU hands each message to the connection it names, in the thread of the vCPU that posted it, and then returns
> 0, or 19 where 16 messages wait already (hyperv_hcall_post_message, vmbus_recv_message).

## When it cannot tell
Unless QEMU was seen to trace before the call and after it; within the error of the alignment of the two clocks,
two calls of one thread are told apart by their order alone.

## Example
    kvm_hv_hypercall: code 0x5c slow in 0x4c6a000
    kvm_hv_hypercall_done: result 0x0
    expected vmbus_recv_message, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB102",
    "message-not-received",
    (Moment.VMBUS,),
    (
        "vmbus_recv_message",
        "kvm_hv_hypercall",
        "kvm_hv_hypercall_done",
    ),
    judges(Aspect.RECEIVED),
    theme="VMBus",
)
