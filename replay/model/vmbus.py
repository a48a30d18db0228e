"""VMBus as QEMU keeps it: the connection, channels, GPADLs, messages that wait, the answer under way.

None is what is not known: a recording may begin in the middle of a conversation. (QEMU hw/hyperv/vmbus.c.)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from hvtrace.abi.vmbus import message_name
from hvtrace.replay.model.vmbus_protocol import LAST_TYPE, NEWEST_VERSION, QUEUE_LENGTH
from hvtrace.replay.verdict import Reason

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["Announcement", "Answer", "Bus", "Channel", "Gpadl", "Life", "Phase", "Recorded", "Taken"]

#: Channels and GPADLs kept; a guest may name as many as it likes.
MAX_KEPT = 4096

#: Changes of a channel kept.
CHANGES = 16


@dataclass(slots=True)
class Recorded:
    """What a replay knows of QEMU's trace: by how much its stamps may be off, and where events are missing."""

    slack_ns: int = 0
    losses: list[tuple[int | None, int | None]] = field(default_factory=list)


class Phase(Enum):
    """What QEMU does for VMBus, one thing at a time."""

    #: It waits for a message.
    IDLE = "idle"
    #: A message was taken up: it is looked at, and answered.
    TAKEN = "message taken up"
    #: An answer was given to the SynIC.
    POSTED = "answer posted"
    #: Its slot was busy.
    BUSY = "slot busy"


class Life(Enum):
    """A channel; those that change are neither open nor closed."""

    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"


@dataclass(slots=True)
class Channel:
    """One channel: what it is, since when, and what it was before."""

    changes: deque[tuple[int, Life]] = field(default_factory=lambda: deque(maxlen=CHANGES))
    gpadl: int | None = None

    @property
    def life(self) -> Life:
        """What it is now."""
        return self.changes[-1][1]


@dataclass(slots=True)
class Gpadl:
    """Shared pages: how many, how many of them are known, whether QEMU has it (None: it may have refused it)."""

    pages: int
    seen: int | None
    alive: bool | None = None


@dataclass(slots=True)
class Taken:
    """A message that was taken up. `ident` is the channel or GPADL it names; `owed`: an answer must come (None: open).

    `likely`: it comes unless the message is wrong in a way that no trace shows. `handler`: an event tells that it is
    looked at (None: open).
    """

    event: Event
    cell: list[bool]
    number: int | None
    size: int | None = None
    ident: int | None = None
    gpadl: int | None = None
    owed: bool | None = None
    likely: bool = False
    handler: bool | None = None
    handled: bool = False

    @property
    def name(self) -> str:
        """The type, in words."""
        return "a message" if self.number is None else message_name(self.number)


class Announcement(NamedTuple):
    """An answer that is about to be posted: its event's name, the channel or GPADL, the status."""

    name: str
    ident: int | None
    status: int | None
    event: Event
    cell: list[bool]

    @property
    def fields(self) -> tuple[str, int | None, int | None]:
        """What is the same when it is repeated."""
        return self[:3]


@dataclass(slots=True)
class Answer:
    """A message that was posted."""

    event: Event
    cell: list[bool]
    number: int
    size: int
    announcement: Announcement | None


class Waiting(NamedTuple):
    """A message that waits: type and size."""

    number: int
    size: int


class Bus:
    """The VMBus of one VM."""

    __slots__ = (
        "ambiguous",
        "announced",
        "answer",
        "armed",
        "channels",
        "closed_since",
        "early",
        "edge",
        "gpadls",
        "heard_ns",
        "message",
        "offered",
        "phase",
        "resetting",
        "served",
        "target",
        "version",
        "waiting",
        "why",
    )

    def __init__(self) -> None:
        #: Events of QEMU's are there of which the VM is not known.
        self.ambiguous = False
        #: First event of QEMU's since the last loss (None: none yet), and how many edges of losses were passed.
        self.heard_ns: int | None = None
        self.edge = 0
        self.forget(Reason.STATE_UNSEEN)

    def forget(self, why: Reason) -> None:
        """Nothing is known any more."""
        self.why = Reason.VM_AMBIGUOUS if self.ambiguous else why
        self.heard_ns = None
        self.phase: Phase | None = None
        self.message: Taken | None = None
        self.announced: Announcement | None = None
        self.answer: Answer | None = None
        #: Messages that wait, oldest first; one that was taken up before it was seen to come.
        self.waiting: deque[Waiting] | None = None
        self.early: Taken | None = None
        #: A version was agreed on; which one was asked for; VP that messages go to, and whether its SINTs had a route.
        self.served: bool | None = None
        self.version: int | None = None
        self.target: int | None = None
        self.armed: bool | None = None
        #: Channels offered since the contact; GPADLs (None: some are not known).
        self.offered: set[int] | None = None
        self.gpadls: dict[int, Gpadl] | None = None
        #: Channels that were named; all others are closed since then (ns; None: not known).
        self.channels: dict[int, Channel] = {}
        self.closed_since: int | None = None
        self.resetting = False

    def create(self) -> None:
        """The VM is seen from its first instruction: nobody has posted a message."""
        if self.ambiguous:
            return
        self.forget(Reason.STATE_UNSEEN)
        self.phase, self.waiting = Phase.IDLE, deque()
        self.served, self.version = False, 0
        self.offered, self.gpadls, self.closed_since = set(), {}, 0

    def contact(self, ts: int, version: int, target: int) -> None:
        """The guest asks for a version: QEMU resets the bus and its devices first."""
        self.reset(ts)
        self.version, self.served, self.target = version, 0 < version <= NEWEST_VERSION, target

    def reset(self, ts: int) -> None:
        """The bus and its devices are as they were in the beginning; messages that wait go on waiting."""
        self.served, self.version, self.target, self.armed = False, 0, None, None
        self.offered, self.gpadls = set(), {}
        for channel in self.channels.values():
            if channel.life is not Life.CLOSED:
                channel.changes.append((ts, Life.CLOSING))
        if self.closed_since is None:
            self.channels.clear()
            self.resetting = True

    def received(self, number: int, size: int) -> None:
        """A message arrives; it is refused at once if there is no such type, or no room."""
        if self.waiting is None or not 0 < number <= LAST_TYPE:
            return
        # The one being served may count or not.
        if len(self.waiting) >= QUEUE_LENGTH - 1:
            self.waiting = None
        else:
            self.waiting.append(Waiting(number, size))

    def change(self, channel: int, ts: int, life: Life) -> Channel:
        """A channel becomes something else."""
        known = self.channels.get(channel)
        if known is None:
            if len(self.channels) >= MAX_KEPT:
                self.channels.clear()
                self.closed_since = None
            known = self.channels[channel] = Channel()
            if self.closed_since is not None:
                known.changes.append((self.closed_since, Life.CLOSED))
        known.changes.append((ts, life))
        return known

    def settle(self, ts: int) -> None:
        """QEMU has gone on: channels that were closing are closed."""
        if self.resetting:
            self.resetting, self.closed_since = False, ts
        for channel in self.channels.values():
            if channel.life is Life.CLOSING:
                channel.changes.append((ts, Life.CLOSED))

    def life(self, channel: int) -> Life | None:
        """What a channel is now; None: not known."""
        known = self.channels.get(channel)
        if known is not None:
            return known.life
        return None if self.closed_since is None else Life.CLOSED

    def lives(self, channel: int, first: int, last: int) -> set[Life | None]:
        """What a channel was at some moment of a stretch of time."""
        known = self.channels.get(channel)
        if known is None:
            changes = [] if self.closed_since is None else [(self.closed_since, Life.CLOSED)]
        else:
            changes = list(known.changes)
        found: set[Life | None] = {life for ts, life in changes if first <= ts <= last}
        before = [life for ts, life in changes if ts < first]
        return {*found, before[-1] if before else None}

    def keep(self, gpadl: int, kept: Gpadl) -> None:
        """A GPADL is asked for."""
        if self.gpadls is not None:
            if len(self.gpadls) >= MAX_KEPT:
                self.gpadls = None
            else:
                self.gpadls[gpadl] = kept

    def describe(self) -> dict[str, object]:
        """The bus in words."""
        version = None if self.version is None else f"{self.version >> 16}.{self.version & 0xFFFF}"
        open_ = [str(number) for number, channel in self.channels.items() if channel.life is Life.OPEN]
        gpadls = None if self.gpadls is None else ", ".join(map(str, self.gpadls)) or "none"
        waiting = None
        if self.waiting is not None:
            waiting = ", ".join(message_name(one.number) for one in self.waiting) or "none"
        return {
            "phase": None if self.phase is None else self.phase.value,
            "message": None if self.message is None or self.phase is Phase.IDLE else self.message.name,
            "version": "none" if self.version == 0 else version,
            "channels open": ", ".join(open_) or ("none" if self.closed_since is not None else None),
            "GPADLs": gpadls,
            "messages that wait": waiting,
        }
