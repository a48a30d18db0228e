"""VB112 offer-repeated

## What it finds
A channel that is offered twice under one contact, or a channel 0.

## Why it matters
The guest makes two devices of one.

## What the specification says
> Once an offer was delivered the channel counts as offered, until the bus is reset; numbers begin at 1
> (complete_offer, VMBUS_FIRST_CHANID).

## When it cannot tell
Until the first INITIATE_CONTACT is seen.

## Example
    vmbus_send_offer channel #1 dev 0x55cc24e15690     (delivered)
    vmbus_send_offer channel #1 dev 0x55cc24e15690
    expected another channel, observed channel 1
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB112",
    "offer-repeated",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.OFFERED),
    theme="VMBus",
)
