"""VB121 unoffered-channel-opened

## What it finds
A channel that is opened and was not offered under this contact.

## Why it matters
The guest uses what it remembers from before, or guesses.

## What the specification says
> A guest opens channels that it was offered. QEMU itself opens any that it has (handle_open_channel).

## When it cannot tell
It is a warning: it is the guest's doing. Until the first INITIATE_CONTACT is seen.

## Example
    vmbus_terminate_offers     (no vmbus_send_offer before it)
    vmbus_channel_open channel #1 status 0
    expected a channel that was offered, observed status 0
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import Severity

__all__ = ["RULE"]


RULE = Rule(
    "VB121",
    "unoffered-channel-opened",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.UNOFFERED),
    Severity.WARNING,
    theme="VMBus",
)
