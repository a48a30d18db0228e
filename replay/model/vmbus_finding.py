"""What the VMBus model says of one event: an aspect of it, and whether it is as it must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["Aspect", "Finding", "finding", "judges"]


class Aspect(Enum):
    """What of an event is judged; a rule each."""

    __hash__ = object.__hash__

    #: A message that the guest posted reaches VMBus, once.
    RECEIVED = "received"
    #: A message that reaches VMBus was posted by the guest.
    POSTED_BY_GUEST = "posted by the guest"
    #: The message that is taken up is the one that has waited longest.
    TURN = "turn"
    #: A message that is taken up is looked at by what serves its type, once.
    HANDLED = "handled"
    #: An answer has a request.
    CALLED = "called"
    #: A request has its answer.
    ANSWERED = "answered"
    #: An answer has the request's identifiers.
    IDENTIFIED = "identified"
    #: An answer that is announced is posted next.
    POSTED = "posted"
    #: Between two messages to the guest it becomes known what became of the first.
    REPORTED = "reported"
    #: A message that found its slot busy is posted again.
    REPEATED = "repeated"
    #: A channel is offered once.
    OFFERED = "offered"
    #: A GPADL is created when all of its pages are known.
    COMPLETE = "complete"
    #: It is then created.
    SHARED = "shared"
    #: A channel opens where its GPADL exists.
    RESULT = "result"
    #: Nothing is served under a version that was refused.
    SERVED = "served"
    #: A message has its type's size.
    SIZE = "size"
    #: Only an open channel is signalled.
    NOTIFIED = "notified"
    #: A message that was delivered interrupts the guest.
    DELIVERED = "delivered"
    #: An interrupt that QEMU's main loop raises is a channel's signal.
    SIGNALLED = "signalled"
    #: KVM knows a channel's connection while the channel is open.
    CONNECTED = "connected"
    #: A channel that opens was offered.
    UNOFFERED = "unoffered"


@dataclass(slots=True)
class Finding:
    """`fits` None: it cannot be told, because of `why`. What was expected and observed is in words."""

    aspect: Aspect
    event: Event
    cell: list[bool]
    fits: bool | None
    expected: str = ""
    observed: str = ""
    text: str = ""
    why: Reason = Reason.STATE_UNSEEN


def finding(
    aspect: Aspect,
    event: Event,
    cell: list[bool],
    fits: bool | None,
    expected: str = "",
    observed: str = "",
    text: str = "",
    why: Reason | None = None,
) -> Finding:
    """A finding; `why` where that is not simply that nothing was seen yet."""
    found = Finding(aspect, event, cell, fits, expected, observed, text)
    if why is not None:
        found.why = why
    return found


def judges(aspect: Aspect) -> Callable[[Finding], Verdict | None]:
    """The check of the rule that judges one aspect."""

    def check(found: Finding) -> Verdict | None:
        if found.aspect is not aspect:
            return None
        if found.fits is None:
            return unknown(found.why)
        return HOLDS if found.fits else Diverges(found.expected, found.observed, found.text)

    return check
