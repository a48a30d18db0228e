"""QEMU's side of the conversation, event by event: what must come next, and what came (vmbus_run, vmbus_msg_cb).

A message is taken up, looked at, and answered: each answer is announced, posted, and its delivery reported; one that
found its slot busy is announced and posted again. Each step gives findings, then takes what was observed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.abi.vmbus import message_name
from hvtrace.replay.model.vmbus import Announcement, Answer, Bus, Gpadl, Life, Phase, Taken
from hvtrace.replay.model.vmbus_contents import contents, ignored
from hvtrace.replay.model.vmbus_finding import Aspect, Finding, finding
from hvtrace.replay.model.vmbus_protocol import (
    ANNOUNCED_BY,
    ANSWERS,
    BUSY_STATUS,
    GPADL_HEADER,
    GPADL_TEARDOWN,
    INITIATE_CONTACT,
    LARGEST,
    LEAST_SIZE,
    OFFERCHANNEL,
    OPENCHANNEL,
    POSTED_SIZE,
    REQUESTOFFERS,
    SMALLEST,
    UNLOAD,
)

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["Talk"]

#: Bytes of a page's number, and of a header and a body without any.
PAGE_NUMBER, HEADER_SIZE, BODY_SIZE = 8, 28, 16

#: Served without a version.
ALWAYS_SERVED = (INITIATE_CONTACT, UNLOAD)

#: Bits of a number of pages that the trace shows.
PAGES = 0xFFFF


class Talk:
    """Judges one VM's conversation. Each method takes an event with its mark and returns findings.

    `resets`: a reset of the machine would have been seen. QEMU traces none, and whatever was under way ends with it.
    """

    def __init__(self, bus: Bus, *, resets: bool) -> None:
        self.bus = bus
        self.resets = resets

    # A message arrives and is taken up

    def received(self, event: Event, cell: list[bool], number: int, size: int) -> list[Finding]:
        """The guest posted a message."""
        bus, early = self.bus, self.bus.early
        text = f"a message has {SMALLEST} to {LARGEST} bytes"
        found = [finding(Aspect.SIZE, event, cell, SMALLEST <= size <= LARGEST, text, f"{size} bytes", text)]
        if early is not None and early.number == number:
            # Stamps of two CPUs: it was taken up after it had come.
            bus.early = None
            early.size = size
            found.append(finding(Aspect.TURN, early.event, early.cell, True))
        else:
            bus.received(number, size)
        return found

    def taken(self, event: Event, cell: list[bool], number: int) -> list[Finding]:
        """A message is taken up."""
        bus, found = self.bus, self._over()
        if number == INITIATE_CONTACT and not self.resets:
            # It is the first message after a reset.
            for one in found:
                one.fits = one.fits or None
        found += self._unannounced()
        message = bus.message = self._message(event, cell, number)
        bus.phase, bus.announced, bus.answer = Phase.TAKEN, None, None
        if bus.waiting is None:
            found.append(self._unknown(Aspect.TURN, event, cell))
        elif not bus.waiting:
            bus.early = message
        elif bus.waiting[0].number == number:
            message.size = bus.waiting.popleft().size
            found.append(finding(Aspect.TURN, event, cell, True))
        else:
            first = message_name(bus.waiting[0].number)
            text = "another message has waited longer"
            found.append(finding(Aspect.TURN, event, cell, False, first, message_name(number), text))
            while bus.waiting and bus.waiting.popleft().number != number:
                pass
        if number in ANSWERS and number not in ALWAYS_SERVED and bus.served is None:
            found.append(self._unknown(Aspect.SERVED, event, cell))
        self._expect(message)
        return found

    def _message(self, event: Event, cell: list[bool], number: int | None) -> Taken:
        return Taken(event, cell, number)

    def _expect(self, message: Taken) -> None:
        """What a message calls for, before it is known what it says."""
        served, number = self.bus.served, message.number
        if number in LEAST_SIZE:
            reached = True if number == INITIATE_CONTACT else served
            long = None if message.size is None else message.size >= LEAST_SIZE[number]
            message.handler = _both(reached, long)
            message.owed = False if message.handler is False else None
        else:
            message.owed = served if number == REQUESTOFFERS else number == UNLOAD
            message.handler = False

    def _unannounced(self) -> list[Finding]:
        """A message that was taken up before it came: it must have come by now."""
        early, self.bus.early = self.bus.early, None
        if early is None:
            return []
        text = "no message waits"
        return [finding(Aspect.TURN, early.event, early.cell, False, text, early.name, text)]

    def _over(self) -> list[Finding]:
        """Something new begins: what is missing of what was under way."""
        bus, message = self.bus, self.bus.message
        if bus.phase is None or bus.phase is Phase.IDLE:
            return []
        if bus.phase is not Phase.TAKEN:
            return [self._undone()]
        if bus.announced is not None:
            return [self._unposted(bus.announced)]
        if message is None:
            return []
        if message.handler and not message.handled:
            return [self._unhandled(message)]
        if message.number not in ANSWERS:
            return []
        if bus.served is False and message.number not in ALWAYS_SERVED:
            return [finding(Aspect.SERVED, message.event, message.cell, True)]
        expected = message_name(ANSWERS[message.number][-1])
        text = f"{message.name} was not answered"
        if message.owed:
            return [finding(Aspect.ANSWERED, message.event, message.cell, False, expected, "nothing", text)]
        if message.likely:
            return [finding(Aspect.SHARED, message.event, message.cell, False, expected, "nothing", text)]
        if message.owed is None:
            return [self._unknown(Aspect.ANSWERED, message.event, message.cell)]
        return []

    def _undone(self) -> Finding:
        """A message was posted: nothing but its report may follow, or itself once more."""
        answer = self.bus.answer
        assert answer is not None
        name = message_name(answer.number)
        if self.bus.phase is Phase.BUSY:
            text = f"{name} found its slot busy and was not posted again"
            return finding(
                Aspect.REPEATED, answer.event, answer.cell, False, f"{name} again", "nothing", text
            )
        text = f"what became of {name} was not reported"
        return finding(Aspect.REPORTED, answer.event, answer.cell, False, "vmbus_msg_cb", "nothing", text)

    def _unposted(self, one: Announcement) -> Finding:
        text = f"{one.name} and no message posted"
        return finding(Aspect.POSTED, one.event, one.cell, False, "vmbus_post_msg", "nothing", text)

    def _unhandled(self, message: Taken) -> Finding:
        text = f"{message.name} was taken up and not looked at"
        return finding(Aspect.HANDLED, message.event, message.cell, False, "its own event", "nothing", text)

    # What the message says

    def handled(self, event: Event, cell: list[bool], number: int) -> tuple[Taken, list[Finding]]:
        """A message is looked at; what it says is taken by the methods below."""
        bus, message, name = self.bus, self.bus.message, message_name(number)
        fresh = (
            bus.phase is Phase.TAKEN
            and message is not None
            and not message.handled
            and bus.announced is None
            and bus.answer is None
        )
        if bus.phase is None:
            found = [self._unknown(Aspect.HANDLED, event, cell)]
        elif not fresh or message is None or message.number not in (number, None):
            text = f"no {name} was taken up"
            found = [finding(Aspect.HANDLED, event, cell, False, "nothing", event[2], text)]
        elif bus.served is False and number != INITIATE_CONTACT:
            found = [self._served(event, cell, name)]
        else:
            found = [finding(Aspect.HANDLED, event, cell, True)]
            if message.size is not None:
                least = LEAST_SIZE[number]
                text = f"{name} of {message.size} bytes is too short to be looked at"
                fits = message.size >= least
                shown = f"{message.size} bytes"
                found.append(
                    finding(Aspect.SIZE, message.event, message.cell, fits, f"at least {least}", shown, text)
                )
        if bus.phase is None or not all(one.fits for one in found) or message is None:
            message = bus.message = Taken(event, cell, number)
        message.handled, message.number = True, number
        bus.phase, bus.announced, bus.answer = Phase.TAKEN, None, None
        return message, found

    def _served(self, event: Event, cell: list[bool], name: str) -> Finding:
        self.bus.served = None
        text = f"{name} is served, and no version was agreed on"
        return finding(Aspect.SERVED, event, cell, False, "nothing", event[2], text)

    def contact(self, message: Taken, version: int, target: int, *, exists: bool | None) -> None:
        """INITIATE_CONTACT: answered whatever the version, if the VP that is to get the answer exists."""
        self.bus.contact(message.event[1], version, target)
        message.owed = True if exists else None

    def header(self, message: Taken, gpadl: int, pages: int) -> None:
        """GPADL_HEADER: answered now if it has all pages, unless it is wrong in a way that the trace does not show."""
        bus, known = self.bus, self.bus.gpadls
        message.ident, message.owed = gpadl, None
        old = None if known is None else known.get(gpadl)
        if old is not None:
            # It is in use: QEMU ignores the header. Where it was never created, QEMU may have dropped it before.
            message.owed = False if old.alive else None
            if not old.alive:
                bus.keep(gpadl, Gpadl(pages, None))
            return
        seen = None if message.size is None else min(pages, max(message.size - HEADER_SIZE, 0) // PAGE_NUMBER)
        bus.keep(gpadl, Gpadl(pages, seen))
        self._complete(message, pages, seen)

    def body(self, message: Taken, gpadl: int) -> None:
        """GPADL_BODY: answered if it has the last pages."""
        known = self.bus.gpadls
        message.ident, message.owed = gpadl, None
        if known is None:
            return
        shared = known.get(gpadl)
        if shared is None:
            message.owed = False
            return
        if shared.seen is not None and message.size is not None:
            more = max(message.size - BODY_SIZE, 0) // PAGE_NUMBER
            shared.seen = min(shared.pages, shared.seen + more)
        else:
            shared.seen = None
        self._complete(message, shared.pages, shared.seen)

    def _complete(self, message: Taken, pages: int, seen: int | None) -> None:
        if seen is not None:
            message.likely = seen == pages
            message.owed = None if message.likely else False

    def teardown(self, message: Taken, gpadl: int) -> None:
        """GPADL_TEARDOWN: answered if there is such a GPADL."""
        known = self.bus.gpadls
        shared = None if known is None else known.get(gpadl)
        message.ident = gpadl
        message.owed = None if known is None else False if shared is None else shared.alive

    def open(self, message: Taken, channel: int, gpadl: int) -> None:
        """OPENCHANNEL: answered if there is such a channel and it is closed."""
        bus = self.bus
        message.ident, message.gpadl = channel, gpadl
        life = bus.life(channel)
        if life in (Life.OPEN, Life.OPENING):
            message.owed = False
            return
        offered = bus.offered is not None and channel in bus.offered
        message.owed = True if offered and life is Life.CLOSED else None
        bus.change(channel, message.event[1], Life.OPENING).gpadl = gpadl

    def close(self, message: Taken, channel: int) -> None:
        """CLOSECHANNEL: never answered."""
        message.ident, message.owed = channel, False
        if self.bus.life(channel) is not Life.CLOSED:
            self.bus.change(channel, message.event[1], Life.CLOSING)

    # The answer

    def announced(
        self, event: Event, cell: list[bool], ident: int | None = None, status: int | None = None
    ) -> list[Finding]:
        """An answer is about to be posted."""
        one = Announcement(event[2], ident, status, event, cell)
        found = self._announced(one)
        bus = self.bus
        if bus.phase in (Phase.IDLE, Phase.POSTED, None):
            bus.message, bus.phase = Taken(event, cell, None), Phase.TAKEN
        bus.announced = one
        return found

    def _announced(self, one: Announcement) -> list[Finding]:
        bus, message, event, cell = self.bus, self.bus.message, one.event, one.cell
        if bus.phase is None:
            return [self._unknown(Aspect.CALLED, event, cell)]
        if bus.phase is Phase.POSTED:
            return [self._undone()]
        if bus.announced is not None:
            return [self._unposted(bus.announced)]
        if bus.phase is Phase.BUSY:
            assert bus.answer is not None
            before = bus.answer.announcement
            if before is None:
                return [self._unknown(Aspect.REPEATED, event, cell)]
            text = "another answer follows one that found its slot busy"
            fits = one.fields == before.fields
            return [finding(Aspect.REPEATED, event, cell, fits, _words(before), _words(one), text)]
        if bus.phase is Phase.IDLE or message is None:
            return [self._uncalled(event, cell, one.name, "nothing was asked")]
        if message.number is None:
            return [self._unknown(Aspect.CALLED, event, cell)]
        names = [ANNOUNCED_BY.get(number) for number in ANSWERS.get(message.number, ())]
        if one.name not in names:
            return [self._uncalled(event, cell, one.name, f"{message.name} is not answered so")]
        if message.handler and not message.handled:
            return [self._unhandled(message)]
        if bus.served is False:
            return [self._served(event, cell, message.name)]
        if message.owed is False:
            return [*contents(bus, one, message), ignored(bus, one, message)]
        return [finding(Aspect.CALLED, event, cell, True), *contents(bus, one, message)]

    def _uncalled(self, event: Event, cell: list[bool], shown: str, text: str) -> Finding:
        return finding(Aspect.CALLED, event, cell, False, "no answer", shown, text)

    def posted(self, event: Event, cell: list[bool], number: int, size: int) -> list[Finding]:
        """A message is given to the guest's SynIC."""
        bus = self.bus
        found = [*self._unannounced(), *self._posted(event, cell, number, size)]
        right = POSTED_SIZE.get(number)
        if right is not None:
            text = f"{message_name(number)} has {right} bytes"
            found.append(
                finding(Aspect.SIZE, event, cell, size == right, f"{right} bytes", f"{size} bytes", text)
            )
        if bus.phase in (Phase.IDLE, Phase.POSTED, None):
            bus.message = Taken(event, cell, REQUESTOFFERS if number == OFFERCHANNEL else None, handled=True)
        bus.answer = Answer(event, cell, number, size, bus.announced)
        bus.phase, bus.announced = Phase.POSTED, None
        return found

    def _posted(self, event: Event, cell: list[bool], number: int, size: int) -> list[Finding]:
        bus, message, announced, name = self.bus, self.bus.message, self.bus.announced, message_name(number)
        needed = ANNOUNCED_BY.get(number)
        if bus.phase is None:
            return [self._unknown(Aspect.CALLED, event, cell)]
        if bus.phase is Phase.POSTED:
            return [self._undone()]
        if bus.phase is Phase.IDLE or message is None:
            return [self._uncalled(event, cell, name, "nothing was asked")]
        if (None if announced is None else announced.name) != needed:
            expected = needed or "nothing before it"
            shown = "nothing" if announced is None else announced.name
            text = f"{name} is posted and was not announced, or another was"
            return [finding(Aspect.POSTED, event, cell, False, expected, shown, text)]
        if bus.phase is Phase.BUSY:
            assert bus.answer is not None
            fits = (number, size) == (bus.answer.number, bus.answer.size)
            expected = f"{message_name(bus.answer.number)} of {bus.answer.size} bytes"
            text = "another message follows one that found its slot busy"
            shown = f"{name} of {size} bytes"
            return [finding(Aspect.REPEATED, event, cell, fits, expected, shown, text)]
        if needed is not None:
            return [finding(Aspect.POSTED, event, cell, True), *self._answered(message, number)]
        if message.number is None:
            return [self._unknown(Aspect.CALLED, event, cell)]
        if number not in ANSWERS.get(message.number, ()):
            return [self._uncalled(event, cell, name, f"{message.name} is not answered so")]
        if message.handler and not message.handled:
            return [self._unhandled(message)]
        return [finding(Aspect.CALLED, event, cell, True), *self._answered(message, number)]

    def _answered(self, message: Taken, number: int) -> list[Finding]:
        if message.number is None or not message.owed or ANSWERS[message.number][-1] != number:
            return []
        return [finding(Aspect.ANSWERED, message.event, message.cell, True)]

    def reported(self, event: Event, cell: list[bool], status: int) -> list[Finding]:
        """It is known what became of the last message."""
        bus, answer = self.bus, self.bus.answer
        if bus.phase is None:
            return [self._unknown(Aspect.REPORTED, event, cell)]
        if bus.phase is not Phase.POSTED or answer is None:
            text = "no message is on its way"
            shown = f"status {status}"
            return [finding(Aspect.REPORTED, event, cell, False, "no vmbus_msg_cb", shown, text)]
        if status == BUSY_STATUS:
            bus.phase = Phase.BUSY
        elif status:
            # QEMU gives up and resets the bus.
            bus.reset(event[1])
            bus.phase = Phase.IDLE
        else:
            self._delivered(event[1], answer)
        return [finding(Aspect.REPORTED, event, cell, True)]

    def _delivered(self, ts: int, answer: Answer) -> None:
        """The guest has an answer."""
        bus, number = self.bus, answer.number
        one = answer.announcement
        ident = None if one is None else one.ident
        bus.phase, bus.answer = Phase.IDLE, None
        if number == OFFERCHANNEL:
            bus.phase = Phase.TAKEN
            if ident is None:
                bus.offered = None
            elif bus.offered is not None:
                bus.offered.add(ident)
        elif number == ANSWERS[GPADL_HEADER][0]:
            self._created(ident)
        elif number == ANSWERS[GPADL_TEARDOWN][0]:
            self._torn_down(ident)
        elif number == ANSWERS[OPENCHANNEL][0] and one is not None and ident is not None:
            bus.change(ident, ts, Life.CLOSED if one.status else Life.OPEN)
        elif number == ANSWERS[UNLOAD][0]:
            bus.reset(ts)
            # What waited was thrown away; what came meanwhile may have been.
            bus.waiting = None if bus.waiting else bus.waiting

    def _created(self, ident: int | None) -> None:
        known = self.bus.gpadls
        if ident is None:
            self.bus.gpadls = None
        elif known is not None:
            if ident not in known:
                self.bus.keep(ident, Gpadl(0, None, alive=True))
            else:
                known[ident].alive = True

    def _torn_down(self, ident: int | None) -> None:
        known = self.bus.gpadls
        if ident is None:
            self.bus.gpadls = None
        elif known is not None:
            # While a channel uses it, QEMU keeps its id.
            used = any(c.gpadl == ident and c.life is not Life.CLOSED for c in self.bus.channels.values())
            if used:
                known[ident] = Gpadl(0, None)
            else:
                known.pop(ident, None)

    def notified(self, event: Event, cell: list[bool], channel: int) -> list[Finding]:
        """A device signals the guest."""
        life = self.bus.life(channel)
        fits = None if life is None else life is not Life.CLOSED
        text = f"channel {channel} is not open"
        return [
            finding(Aspect.NOTIFIED, event, cell, fits, "no signal", f"channel {channel}", text, self.bus.why)
        ]

    def _unknown(self, aspect: Aspect, event: Event, cell: list[bool]) -> Finding:
        return finding(aspect, event, cell, None, why=self.bus.why)


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return True if one and other else None


def _words(one: Announcement) -> str:
    ident = "" if one.ident is None else f" #{one.ident}"
    return f"{one.name}{ident}" + ("" if one.status is None else f" status {one.status}")
