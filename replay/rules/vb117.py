"""VB117 message-size-wrong

## What it finds
A message with another size than its type has: one that QEMU posts, one that it looks at although it is too
short, one that is larger than a message can be.

## Why it matters
Whoever reads it reads what nobody wrote.

## What the specification says
> Messages have 8 to 240 bytes, QEMU's own a fixed size for each type (an offer 200, a version response 12), and
> those of the guest at least that of their type's structure.

## When it cannot tell
Sizes of the guest's messages where they were not seen to arrive; that they are longer is not wrong.

## Example
    vmbus_post_msg type 10 size 12
    expected 20 bytes, observed 12 bytes
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB117",
    "message-size-wrong",
    (Moment.VMBUS,),
    ("vmbus_post_msg",),
    judges(Aspect.SIZE),
    theme="VMBus",
)
