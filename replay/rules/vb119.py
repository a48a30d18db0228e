"""VB119 message-undelivered

## What it finds
A message that QEMU reports as delivered while the guest's source 2 was not raised.

## Why it matters
The message lies in its slot, and the guest does not know.

## What the specification says
> The message is written into the slot of the VP that the contact named, and its source is raised, before the
> delivery is reported (cpu_post_msg, hyperv_sint_route_set_sint).

## When it cannot tell
Where the source or SCONTROL of that VP was not seen; where the source is masked or the SynIC off nothing is
raised. A timer's message that comes at the same time by the same source looks alike.

## Example
    vmbus_post_msg type 15 size 12
    vmbus_msg_cb message status 0
    expected kvm_hv_synic_set_irq of vCPU 0, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB119",
    "message-undelivered",
    (Moment.VMBUS,),
    (
        "vmbus_post_msg",
        "vmbus_msg_cb",
        "vmbus_initiate_contact",
        "kvm_hv_synic_set_irq",
        "kvm_hv_synic_set_msr",
        "kvm_msr",
    ),
    judges(Aspect.DELIVERED),
    theme="VMBus",
)
