"""VB103 message-received-uncalled

## What it finds
A message that reached VMBus while its thread made no POST_MESSAGE, or one that was refused before VMBus saw it.

## Why it matters
QEMU acts on what the guest did not say, or the guest sends again what was received.

## What the specification says
> Messages come from the hypercall alone. An unknown connection, a block that is misaligned or not there and the
> fast form are refused before VMBus is asked (hyperv_hcall_post_message).

## When it cannot tell
Where the thread is no vCPU's that KVM's events name, or the beginning of its exit was not seen.

## Example
    vmbus_recv_message type 14 size 40     (no call of this thread)
    expected a POST_MESSAGE, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB103",
    "message-received-uncalled",
    (Moment.VMBUS,),
    (
        "vmbus_recv_message",
        "kvm_hv_hypercall",
        "kvm_hv_hypercall_done",
        "kvm_entry",
        "kvm_exit",
    ),
    judges(Aspect.POSTED_BY_GUEST),
    theme="VMBus",
)
