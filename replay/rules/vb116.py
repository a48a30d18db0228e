"""VB116 refused-version-served

## What it finds
A request that is served although no version was agreed on: none was asked for, or one that QEMU does not have.

## Why it matters
Guest and host speak different versions of the protocol.

## What the specification says
> QEMU agrees to versions up to 4.0 and answers every INITIATE_CONTACT; after a refusal it takes up all other
> messages but UNLOAD and ignores them (vmbus_initialized).

## When it cannot tell
Until the first INITIATE_CONTACT is seen.

## Example
    vmbus_initiate_contact version 5.0 target vp 0
    vmbus_process_incoming_message type 3
    vmbus_terminate_offers
    expected nothing, observed vmbus_terminate_offers
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB116",
    "refused-version-served",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.SERVED),
    theme="VMBus",
)
