"""VB115 channel-result-wrong

## What it finds
A channel that is opened on a GPADL that does not exist, or a result that QEMU does not know.

## Why it matters
Guest and host have different ideas of where the ring buffer is.

## What the specification says
> A channel opens if its GPADL is there and complete; the result is 0, and 1 for whatever went wrong
> (open_channel, send_open_channel).

## When it cannot tell
Where the GPADL was not seen to be made. That a channel is refused is never wrong: the ring buffers are not
traced.

## Example
    vmbus_open_channel channel #1 gpadl #7 target vp 0     (no GPADL 7)
    vmbus_channel_open channel #1 status 0
    expected status 1, observed status 0
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB115",
    "channel-result-wrong",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.RESULT),
    theme="VMBus",
)
