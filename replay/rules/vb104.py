"""VB104 message-out-of-turn

## What it finds
A message that is taken up and is not the one that has waited longest, or that nobody posted.

## Why it matters
A message is lost, served twice, or served before an older one.

## What the specification says
> QEMU keeps messages in a queue and takes the oldest one when it has nothing else to do
> (enqueue_incoming_message, process_message). UNLOAD empties the queue.

## When it cannot tell
Where the recording does not go back to the VM's start, or 15 messages wait, of which one more may have been
refused: then it is not known which messages wait.

## Example
    vmbus_recv_message type 7 size 12
    vmbus_recv_message type 11 size 16
    vmbus_process_incoming_message type 11
    expected CLOSECHANNEL, observed GPADL_TEARDOWN
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB104",
    "message-out-of-turn",
    (Moment.VMBUS,),
    (
        "vmbus_recv_message",
        "vmbus_process_incoming_message",
    ),
    judges(Aspect.TURN),
    theme="VMBus",
)
