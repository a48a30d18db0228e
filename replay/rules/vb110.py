"""VB110 delivery-unreported

## What it finds
A message that was posted and of which it is not reported what became of it before VMBus does anything else; a
report without a message.

## Why it matters
QEMU forgets where it was, and the conversation stops or repeats itself.

## What the specification says
> There is one message at a time: after vmbus_post_msg nothing runs until vmbus_msg_cb (msg_in_progress).

## When it cannot tell
Until the first message is taken up or posted; for a message that is on its way when the recording ends. QEMU
traces no reset of the machine: where KVM's events do not show it either, one may have come before
INITIATE_CONTACT (so with VB107, VB109, VB111).

## Example
    vmbus_post_msg type 15 size 12
    vmbus_process_incoming_message type 3
    expected vmbus_msg_cb, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB110",
    "delivery-unreported",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.REPORTED),
    theme="VMBus",
)
