"""VB109 answer-unposted

## What it finds
An answer that is made and not posted, or a message that is posted without having been made.

## Why it matters
The guest is told something else than what QEMU did.

## What the specification says
> The event that tells of an answer and vmbus_post_msg are two lines of one function, each time that the message
> is posted (send_offer, send_create_gpadl, send_open_channel).

## When it cannot tell
Where the recording ends between the two.

## Example
    vmbus_gpadl_created gpadl #925200
    vmbus_process_incoming_message type 5
    expected vmbus_post_msg, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB109",
    "answer-unposted",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.POSTED),
    theme="VMBus",
)
