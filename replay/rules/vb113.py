"""VB113 gpadl-incomplete

## What it finds
A GPADL that is created before all of its pages are known.

## Why it matters
A ring buffer has pages that nobody named.

## What the specification says
> A header of 28 bytes and a body of 16 have as many page numbers as fit behind them, and QEMU answers when it
> has as many as the header announced (handle_gpadl_header, handle_gpadl_body, gpadl_full).

## When it cannot tell
Where a message's size is not known: it was not seen to arrive.

## Example
    vmbus_recv_message type 8 size 236     (26 pages)
    vmbus_gpadl_header gpadl #925200 gfns 30
    vmbus_gpadl_created gpadl #925200
    expected 4 more pages, observed vmbus_gpadl_created
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB113",
    "gpadl-incomplete",
    (Moment.VMBUS,),
    (*CONVERSATION, "vmbus_recv_message"),
    judges(Aspect.COMPLETE),
    theme="VMBus",
)
