"""VB122 interrupt-unsignalled

## What it finds
An interrupt of VMBus's source that QEMU's main loop raised without signalling a channel.

## Why it matters
The guest looks into its flags, finds none set, and has left its work for nothing; or a flag is set of which
nobody knows.

## What the specification says
> A device signals by setting a flag and, if that was clear, raising the source, in one go: after
> vmbus_channel_notify_guest the same thread does nothing else before. Messages are delivered by the thread of
> their VP (hyperv_set_event_flag, cpu_post_msg).

## When it cannot tell
Where threads are not told, or the interrupt is raised by another thread than those that QEMU's events name; after
QEMU's last event. A signal without an interrupt is never wrong: the flag was still set.

## Example
    vmbus_msg_cb message status 0
    kvm_hv_synic_set_irq: vcpu_id 0 sint 2 vector 243 ret 1     (of the main loop's thread)
    expected vmbus_channel_notify_guest, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB122",
    "interrupt-unsignalled",
    (Moment.VMBUS,),
    (*CONVERSATION, "vmbus_channel_notify_guest", "kvm_hv_synic_set_irq"),
    judges(Aspect.SIGNALLED),
    theme="VMBus",
)
