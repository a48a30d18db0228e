"""VB114 gpadl-unanswered

## What it finds
A GPADL of which all pages are known and which is not created.

## Why it matters
The guest's driver waits for ever.

## What the specification says
> QEMU takes a GPADL of one range that begins on a page and is whole pages long, and drops any other without a
> word (handle_gpadl_header).

## When it cannot tell
It is a warning: the trace shows neither the number of ranges nor where they begin. Where a message's size is
not known.

## Example
    vmbus_recv_message type 8 size 108
    vmbus_gpadl_header gpadl #925200 gfns 10
    vmbus_process_incoming_message type 5
    expected GPADL_CREATED, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import Severity

__all__ = ["RULE"]


RULE = Rule(
    "VB114",
    "gpadl-unanswered",
    (Moment.VMBUS,),
    (*CONVERSATION, "vmbus_recv_message"),
    judges(Aspect.SHARED),
    Severity.WARNING,
    theme="VMBus",
)
