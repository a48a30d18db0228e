"""What KVM and QEMU both saw: messages the guest posts, messages it gets, signals of channels.

Their stamps may be off by the error of the alignment: what is compared waits until the tape is past it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hvtrace.abi.vmbus import CONNECTION_MASK, POST_MESSAGE, QEMU_FIRST_CHANNEL_CONNECTION
from hvtrace.replay.model.vmbus import Life
from hvtrace.replay.model.vmbus_finding import Aspect, Finding
from hvtrace.replay.verdict import Reason

if TYPE_CHECKING:
    from hvtrace.replay.model.hypercall import Call
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.model.vmbus import Answer, Bus
    from hvtrace.replay.tape import Event

__all__ = ["Joint", "Judged"]

#: Results of a POST_MESSAGE that QEMU received: queued, no room. With 3 it may have: a type that there is not.
RECEIVED, DOUBTFUL = frozenset({0x00, 0x13}), 0x03

#: Results of a SIGNAL_EVENT: KVM knew the connection; QEMU does not know it either.
SIGNALLED, NO_CONNECTION = 0x00, 0x12

#: Messages and signals that wait to be compared, and interrupts kept of each vCPU.
MOST_MESSAGES, MOST_SIGNALS, MOST_RAISED = 256, 4096, 64

#: Thread of an event of QEMU's that does not tell.
NO_THREAD = -1

#: A finding, and the vCPU whose event it is about (None: the VM's).
Judged = tuple[Finding, "Vcpu | None"]


@dataclass(slots=True)
class Ended:
    """A call that is over: from its first event to its last (ns)."""

    call: Call
    last_ns: int

    @property
    def first_ns(self) -> int:
        """When it began."""
        return int(self.call.event[1])

    @property
    def thread(self) -> int:
        """The vCPU's thread."""
        return int(self.call.event[4])


@dataclass(slots=True)
class Receipt:
    """A message that reached QEMU; `vcpu` is the one whose thread that was, where it was in an exit seen whole."""

    event: Event
    cell: list[bool]
    thread: int
    vcpu: Vcpu | None


@dataclass(slots=True)
class Delivery:
    """A message that the guest got, from post to report (ns): its interrupt must be seen between, at that vCPU."""

    answer: Answer
    first_ns: int
    last_ns: int
    vcpu: Vcpu
    raised: bool = False


@dataclass(slots=True)
class Doing:
    """An event of QEMU's main loop; `free`: a channel's signal to which no interrupt belongs yet."""

    ts: int
    thread: int
    free: bool


@dataclass(slots=True)
class Joint:
    """One VM's. `slack_ns`: by how much QEMU's stamps may be off."""

    bus: Bus
    slack_ns: int
    #: Calls under way, by vCPU.
    under: dict[int, Call] = field(default_factory=dict)
    posts: deque[Ended] = field(default_factory=deque)
    receipts: deque[Receipt] = field(default_factory=deque)
    signals: deque[Ended] = field(default_factory=deque)
    deliveries: deque[Delivery] = field(default_factory=deque)
    #: When the source of VMBus was raised last, by vCPU.
    raised: dict[int, deque[int]] = field(default_factory=dict)
    #: What the main loop did last, and interrupts that it raised.
    doings: deque[Doing] = field(default_factory=lambda: deque(maxlen=MOST_MESSAGES))
    interrupts: deque[tuple[Event, list[bool], Vcpu]] = field(default_factory=deque)
    #: Its threads: one, unless devices have their own.
    threads: set[int] = field(default_factory=set)
    #: QEMU's threads are not those that KVM's events name: another namespace, or they are not told.
    foreign: bool = False

    def lose(self) -> list[Judged]:
        """Events of KVM's were lost: what waits cannot be judged."""
        self.under.clear()
        self.raised.clear()
        return self.ended(Reason.EVENTS_LOST)

    @property
    def posted(self) -> int:
        """Messages that the guest posts or has posted, and that may have reached VMBus."""
        under = sum(call.code == POST_MESSAGE for call in self.under.values())
        return under + sum(_reached(post.call) for post in self.posts)

    def ended_call(self, call: Call, last_ns: int) -> list[Judged]:
        """A call is over: a message was posted, or a channel signalled."""
        if call.code == POST_MESSAGE:
            self.posts.append(Ended(call, last_ns))
            return self._dropped(self.posts, MOST_MESSAGES, Aspect.RECEIVED)
        self.signals.append(Ended(call, last_ns))
        return self._dropped(self.signals, MOST_SIGNALS, Aspect.CONNECTED)

    def _dropped(self, waiting: deque[Ended], most: int, aspect: Aspect) -> list[Judged]:
        """What has waited too long."""
        if len(waiting) <= most:
            return []
        call = waiting.popleft().call
        return [(Finding(aspect, call.event, call.cell, None, why=self.bus.why), call.vcpu)]

    def receive(self, receipt: Receipt) -> list[Judged]:
        """A message reached QEMU."""
        self.receipts.append(receipt)
        if len(self.receipts) <= MOST_MESSAGES:
            return []
        old = self.receipts.popleft()
        return [(Finding(Aspect.POSTED_BY_GUEST, old.event, old.cell, None, why=self.bus.why), old.vcpu)]

    def do(self, event: Event, *, signal: bool) -> None:
        """QEMU's main loop does something: perhaps it signals a channel."""
        self.doings.append(Doing(event[1], event[4], signal))
        if len(self.threads) < MOST_RAISED and event[4] != NO_THREAD:
            self.threads.add(event[4])

    def raise_(self, event: Event, cell: list[bool], vcpu: Vcpu) -> list[Judged]:
        """The source of VMBus is raised: by a vCPU's thread for a message, by QEMU's main loop for a channel."""
        ts = event[1]
        if event[4] in self.threads:
            self.interrupts.append((event, cell, vcpu))
        self.raised.setdefault(vcpu.number, deque(maxlen=MOST_RAISED)).append(ts)
        for one in self.deliveries:
            one.raised |= one.vcpu is vcpu and one.first_ns <= ts <= one.last_ns
        if len(self.interrupts) <= MOST_MESSAGES:
            return []
        event, cell, vcpu = self.interrupts.popleft()
        return [(Finding(Aspect.SIGNALLED, event, cell, None, why=self.bus.why), vcpu)]

    def deliver(self, answer: Answer, last_ns: int, vcpu: Vcpu) -> list[Judged]:
        """The guest is said to have a message: the source of that vCPU was raised."""
        first, last = answer.event[1] - self.slack_ns, last_ns + self.slack_ns
        raised = any(first <= ts <= last for ts in self.raised.get(vcpu.number, ()))
        self.deliveries.append(Delivery(answer, first, last, vcpu, raised))
        if len(self.deliveries) <= MOST_MESSAGES:
            return []
        old = self.deliveries.popleft().answer
        return [(Finding(Aspect.DELIVERED, old.event, old.cell, None, why=self.bus.why), None)]

    def settle(self, now: int) -> list[Judged]:
        """Compare what can be: an event of QEMU's is at hand."""
        return [
            *self._posts(now),
            *self._receipts(now),
            *self._signals(now),
            *self._delivered(),
            *self._interrupts(now),
        ]

    def _matches(self, ended: Ended, receipt: Receipt) -> bool:
        """Whether a message may be that call's."""
        if not (self.foreign or receipt.thread == ended.thread):
            return False
        at = int(receipt.event[1])
        return ended.first_ns - self.slack_ns <= at <= ended.last_ns + self.slack_ns

    def _posts(self, now: int) -> list[Judged]:
        found: list[Judged] = []
        while self.posts and self.posts[0].last_ns + self.slack_ns < now:
            post = self.posts.popleft()
            call = post.call
            own = next((receipt for receipt in self.receipts if self._matches(post, receipt)), None)
            if call.status in RECEIVED:
                if own is not None:
                    self.receipts.remove(own)
                    found.append((Finding(Aspect.RECEIVED, call.event, call.cell, True), call.vcpu))
                    found.append((Finding(Aspect.POSTED_BY_GUEST, own.event, own.cell, True), own.vcpu))
                    continue
                heard = self.bus.heard_ns
                if heard is None or heard > post.first_ns:
                    # QEMU may not have traced then: messages may have come that nobody saw.
                    found.append((Finding(Aspect.RECEIVED, call.event, call.cell, None), call.vcpu))
                    if heard is None:
                        self.bus.forget(Reason.STATE_UNSEEN)
                    continue
                text = "a message that was accepted did not reach VMBus"
                wrong = Finding(
                    Aspect.RECEIVED, call.event, call.cell, False, "vmbus_recv_message", "nothing", text
                )
                found.append((wrong, call.vcpu))
            elif own is not None and _reached(call):
                self.receipts.remove(own)
        return found

    def _receipts(self, now: int) -> list[Judged]:
        found: list[Judged] = []
        kept: deque[Receipt] = deque()
        for receipt in self.receipts:
            at = receipt.event[1]
            begun = any(
                call.event[1] <= at + self.slack_ns and (self.foreign or call.event[4] == receipt.thread)
                for call in self.under.values()
            )
            if (
                at + self.slack_ns >= now
                or begun
                or (receipt.vcpu is not None and not _is_seen_after(receipt.vcpu, at + self.slack_ns))
                or any(self._matches(p, receipt) for p in self.posts if _reached(p.call))
            ):
                kept.append(receipt)
                continue
            fits = None if receipt.vcpu is None or self.foreign else False
            text = "no POST_MESSAGE of this thread was accepted then"
            one = Finding(
                Aspect.POSTED_BY_GUEST, receipt.event, receipt.cell, fits, "a POST_MESSAGE", "none", text
            )
            found.append((one, receipt.vcpu))
        self.receipts = kept
        return found

    def _signals(self, now: int) -> list[Judged]:
        found: list[Judged] = []
        while self.signals and self.signals[0].last_ns + self.slack_ns < now:
            signal = self.signals.popleft()
            call = signal.call
            known = call.status == SIGNALLED and not call.userspace
            if not known and not (call.status == NO_CONNECTION and call.userspace):
                continue
            channel = (call.ingpa & CONNECTION_MASK) - QEMU_FIRST_CHANNEL_CONNECTION
            first, last = signal.first_ns - self.slack_ns, signal.last_ns + self.slack_ns
            lives = self.bus.lives(channel, first, last)
            if None in lives or self.bus.heard_ns is None:
                one = Finding(Aspect.CONNECTED, call.event, call.cell, None, why=self.bus.why)
            elif lives == {Life.OPEN}:
                text = f"channel {channel} is open and its connection is not known"
                one = Finding(Aspect.CONNECTED, call.event, call.cell, known, "status 0", "status 18", text)
            elif lives == {Life.CLOSED}:
                text = f"channel {channel} is closed and its connection is known"
                one = Finding(
                    Aspect.CONNECTED, call.event, call.cell, not known, "status 18", "status 0", text
                )
            else:
                continue
            found.append((one, call.vcpu))
        return found

    def _delivered(self) -> list[Judged]:
        """Messages whose interrupt must have been seen by now."""
        found: list[Judged] = []
        while self.deliveries and (self.deliveries[0].raised or _went_on(self.deliveries[0])):
            one = self.deliveries.popleft()
            text = "a message was delivered and its source not raised"
            expected = f"kvm_hv_synic_set_irq of vCPU {one.vcpu.number}"
            event, cell = one.answer.event, one.answer.cell
            found.append(
                (Finding(Aspect.DELIVERED, event, cell, one.raised, expected, "nothing", text), None)
            )
        return found

    def _interrupts(self, now: int) -> list[Judged]:
        """Between a signal and the interrupt that it is, the main loop does nothing else."""
        found: list[Judged] = []
        while self.interrupts and self.interrupts[0][0][1] + self.slack_ns < now:
            event, cell, vcpu = self.interrupts.popleft()
            first, last = event[1] - self.slack_ns, event[1] + self.slack_ns
            own = [doing for doing in self.doings if doing.thread == event[4] and doing.ts <= last]
            before = [doing for doing in own if doing.ts < first]
            # What came just before is among those that may have, or the last that surely did.
            near = [*before[-1:], *(doing for doing in own if doing.ts >= first)]
            signal = next((doing for doing in near if doing.free), None)
            if signal is not None:
                signal.free = False
            text = "QEMU's main loop raised the source and signalled no channel"
            expected = "vmbus_channel_notify_guest"
            fits = signal is not None if before or signal is not None else None
            if self.bus.heard_ns is None:
                # A reset or a restore of the machine lies between, which may raise any source.
                fits = None
            one = Finding(Aspect.SIGNALLED, event, cell, fits, expected, "none", text, self.bus.why)
            found.append((one, vcpu))
        return found

    def ended(self, why: Reason) -> list[Judged]:
        """No more events can be compared."""
        found = self._delivered()
        found += [
            (Finding(aspect, one.call.event, one.call.cell, None, why=why), one.call.vcpu)
            for aspect, waiting in ((Aspect.RECEIVED, self.posts), (Aspect.CONNECTED, self.signals))
            for one in waiting
            if aspect is Aspect.CONNECTED or one.call.status in RECEIVED
        ]
        found += [
            (Finding(Aspect.POSTED_BY_GUEST, one.event, one.cell, None, why=why), one.vcpu)
            for one in self.receipts
        ]
        found += [
            (Finding(Aspect.DELIVERED, one.answer.event, one.answer.cell, None, why=why), None)
            for one in self.deliveries
        ]
        found += [
            (Finding(Aspect.SIGNALLED, event, cell, None, why=why), vcpu)
            for event, cell, vcpu in self.interrupts
        ]
        for waiting in (
            self.posts,
            self.signals,
            self.receipts,
            self.deliveries,
            self.interrupts,
            self.doings,
        ):
            waiting.clear()
        return found


def _is_seen_after(vcpu: Vcpu, ts: int) -> bool:
    """Whether KVM went on to trace a vCPU: QEMU's trace may be longer than KVM's."""
    return vcpu.left is not None and vcpu.left[1] > ts


def _went_on(one: Delivery) -> bool:
    return _is_seen_after(one.vcpu, one.last_ns)


def _reached(call: Call) -> bool:
    """Whether a message may have reached VMBus: with 3 one of a type that there is not has, others have not."""
    return call.status in RECEIVED or (call.status == DOUBTFUL and call.userspace)
