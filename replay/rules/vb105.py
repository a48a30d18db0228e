"""VB105 message-handled-wrongly

## What it finds
A message that is looked at although none of its type was taken up just before; one that was taken up and is not
looked at.

## Why it matters
Another message is served than the one the guest sent.

## What the specification says
> Each type has its own function, which traces what the message says (process_message). Messages that are too
> short are dropped before that, and without a version all but INITIATE_CONTACT.

## When it cannot tell
Until the first message is taken up. Whether a message is too short is known where it was seen to arrive.

## Example
    vmbus_process_incoming_message type 5
    vmbus_channel_open channel #1 status 0     (no vmbus_open_channel)
    expected its own event, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB105",
    "message-handled-wrongly",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.HANDLED),
    theme="VMBus",
)
