"""VB108 answer-for-another

## What it finds
An answer that names another channel or GPADL than its request.

## Why it matters
The guest frees or uses what is not its own yet.

## What the specification says
> QEMU serves one request at a time, and its answer is about what that names (send_create_gpadl,
> send_teardown_gpadl, send_open_channel).

## When it cannot tell
Where the request was not seen.

## Example
    vmbus_open_channel channel #1 gpadl #925200 target vp 0
    vmbus_channel_open channel #2 status 0
    expected #1, observed #2
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB108",
    "answer-for-another",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.IDENTIFIED),
    theme="VMBus",
)
