"""VB118 closed-channel-signalled

## What it finds
A signal to the guest for a channel that is closed.

## Why it matters
The guest looks for a ring buffer that it has freed.

## What the specification says
> A device signals when it has put something into a ring or taken it out, which it can while the channel is open
> (vmbus_channel_notify_guest).

## When it cannot tell
Until the channel, or an INITIATE_CONTACT, is seen.

## Example
    vmbus_close_channel channel #1
    vmbus_process_incoming_message type 11
    vmbus_channel_notify_guest channel #1
    expected no signal, observed channel 1
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB118",
    "closed-channel-signalled",
    (Moment.VMBUS,),
    (*CONVERSATION, "vmbus_channel_notify_guest"),
    judges(Aspect.NOTIFIED),
    theme="VMBus",
)
