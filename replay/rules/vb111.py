"""VB111 message-not-repeated

## What it finds
A message that found its slot busy (-11) and is not the next one posted, with the same contents.

## Why it matters
The message is lost: the guest never learns of it.

## What the specification says
> With -EAGAIN QEMU stays in its state, and the same function makes the same message again (vmbus_msg_cb).

## When it cannot tell
Where the first attempt was not seen; where the recording ends before the next.

## Example
    vmbus_post_msg type 4 size 8
    vmbus_msg_cb message status -11
    vmbus_process_incoming_message type 8
    expected ALLOFFERS_DELIVERED again, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB111",
    "message-not-repeated",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.REPEATED),
    theme="VMBus",
)
