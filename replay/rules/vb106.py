"""VB106 answer-uncalled

## What it finds
A message to the guest that answers nothing: none was taken up, or one of a type that is answered otherwise or
not at all.

## Why it matters
The guest takes it for the answer to something else.

## What the specification says
> QEMU speaks when it is spoken to: offers come after REQUESTOFFERS, and each other message answers one of the
> guest's (state_runner).

## When it cannot tell
Until the first message is taken up.

## Example
    vmbus_process_incoming_message type 7
    vmbus_close_channel channel #1
    vmbus_gpadl_torndown gpadl #925200
    expected no answer, observed vmbus_gpadl_torndown
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB106",
    "answer-uncalled",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.CALLED),
    theme="VMBus",
)
