"""VB107 answer-missing

## What it finds
A request that must be answered and was not when the next message is taken up; offers that do not end.

## Why it matters
A driver of the guest waits for ever: VMBus has no time-outs.

## What the specification says
> A request puts QEMU into a state in which it does nothing but answer; the next message is taken up when the
> answer was delivered (vmbus_run, vmbus_msg_cb). 3 is answered by offers and 4, 5 by 6, 11 by 12, 14 by 15, 16
> by 17.

## When it cannot tell
What names a channel or a GPADL that was not seen to be made; INITIATE_CONTACT for a VP that may not exist; a
request that is open when the recording ends.

## Example
    vmbus_process_incoming_message type 11
    vmbus_gpadl_teardown gpadl #925200
    vmbus_process_incoming_message type 14
    expected GPADL_TORNDOWN, observed nothing
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB107",
    "answer-missing",
    (Moment.VMBUS,),
    CONVERSATION,
    judges(Aspect.ANSWERED),
    theme="VMBus",
)
