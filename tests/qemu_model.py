"""A little QEMU: VMBus as its main loop runs it, under a guest that says whatever it likes.

It is written after the order of QEMU's own steps and knows nothing of the model it is to try. It gives a tape: QEMU's
events with the hypercalls and interrupts that KVM would trace around them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hvtrace.replay.tape import Event, home_of, place_of

__all__ = ["LittleQemu", "conversation"]

MAIN_LOOP, THREADS = 90, (100, 101)

#: Bytes of a message without page numbers.
SIZES = {3: 8, 5: 148, 7: 12, 8: 28, 9: 16, 11: 16, 13: 12, 14: 40, 16: 8}

#: A message that waits: type, size and what it says.
Message = tuple[int, int, tuple[int, ...]]


@dataclass
class Channel:
    """A channel of a device."""

    offer: str = "init"
    state: str = "init"
    open: bool = False


@dataclass
class Pages:
    """A GPADL."""

    pages: int
    seen: int = 0
    state: str = "init"


@dataclass
class LittleQemu:
    """One VM with two vCPUs and some channels. `errors`: the guest makes them."""

    seed: int
    errors: bool = True
    channels: dict[int, Channel] = field(default_factory=dict)
    gpadls: dict[int, Pages] = field(default_factory=dict)
    queue: deque[Message] = field(default_factory=deque)
    tape: list[Event] = field(default_factory=list)
    state: str = "listen"
    version: int = 0
    target: int = 0
    staged: tuple[int, int] | None = None
    report: int | None = None
    runs: bool = False
    ts: int = 1_000_000
    serving: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.channels = {number + 1: Channel() for number in range(self.chance.randrange(1, 5))}

    # Events

    def emit(self, name: str, *fields: Any, vcpu: int | None = None, tid: int = MAIN_LOOP) -> None:
        """An event, some µs after the last one."""
        self.ts += self.chance.randrange(1_000, 60_000)
        place = home_of(0) if vcpu is None else place_of(0, vcpu)
        thread = tid if vcpu is None else THREADS[vcpu]
        self.tape.append((len(self.tape), self.ts, name, place, thread, *fields))

    def boot(self) -> None:
        """The VM from its first instruction until both vCPUs have their SynIC."""
        for vcpu in (0, 1):
            self.emit("kvm_entry", 0xFFF0 if not vcpu else 0x1000, vcpu=vcpu)
            for index, value in ((0x4000_0092, 0xF3), (0x4000_0080, 1)):
                self.emit("kvm_exit", 0x7C, 2, vcpu=vcpu)
                self.emit("kvm_hv_synic_set_msr", index, value, 0, vcpu=vcpu)
                self.emit("kvm_msr", 1, index, value, 0, vcpu=vcpu)
                self.emit("kvm_entry", 0x1000, vcpu=vcpu)

    # The guest

    def post(self, number: int, *says: int, size: int | None = None) -> None:
        """POST_MESSAGE by one of the vCPUs."""
        vcpu = self.chance.randrange(2)
        size = SIZES.get(number, 8) if size is None else size
        self.emit("kvm_exit", 0x81, 2, vcpu=vcpu)
        self.emit("kvm_hv_hypercall", 0x5C, 0, 0, 0, 0, 0x1000, 0, vcpu=vcpu)
        self.emit("kvm_userspace_exit", 27, 0, vcpu=vcpu)
        self.emit("vmbus_recv_message", number, size, tid=THREADS[vcpu])
        if not 0 < number < 18:
            result = 3
        elif len(self.queue) + self.serving >= 16:
            result = 0x13
        else:
            result = 0
            self.queue.append((number, size, says))
            self.runs = True
        self.maybe()
        self.emit("kvm_hv_hypercall_done", result, vcpu=vcpu)
        self.emit("kvm_entry", 0x1000, vcpu=vcpu)

    def notify(self, channel: int) -> None:
        """A device signals the guest; while the last signal's flag is still set there is no interrupt."""
        self.emit("vmbus_channel_notify_guest", channel)
        if self.chance.random() < 0.8:
            self.ts += 5_000
            event = "kvm_hv_synic_set_irq", place_of(0, self.target), MAIN_LOOP, 2, 243, 1
            self.tape.append((len(self.tape), self.ts, *event))

    def refused(self) -> None:
        """POST_MESSAGE on a connection that nobody has."""
        self.emit("kvm_exit", 0x81, 2, vcpu=0)
        self.emit("kvm_hv_hypercall", 0x5C, 0, 0, 0, 0, 0x1000, 0, vcpu=0)
        self.emit("kvm_userspace_exit", 27, 0, vcpu=0)
        self.emit("kvm_hv_hypercall_done", 0x12, vcpu=0)
        self.emit("kvm_entry", 0x1000, vcpu=0)

    def signal(self, channel: int) -> None:
        """SIGNAL_EVENT on a channel's connection."""
        vcpu = self.chance.randrange(2)
        known = channel in self.channels and self.channels[channel].open
        self.emit("kvm_exit", 0x81, 2, vcpu=vcpu)
        self.emit("kvm_hv_hypercall", 0x5D, 1, 0, 0, 0, 16 + channel, 0, vcpu=vcpu)
        if not known:
            self.emit("kvm_userspace_exit", 27, 0, vcpu=vcpu)
        self.emit("kvm_hv_hypercall_done", 0 if known else 0x12, vcpu=vcpu)
        self.emit("kvm_entry", 0x1000, vcpu=vcpu)

    # The main loop

    def maybe(self) -> None:
        """The main loop may run now."""
        while self.chance.random() < 0.3 and self.step():
            pass

    def drain(self) -> None:
        """The main loop runs until it has nothing to do."""
        while self.step():
            pass

    def step(self) -> bool:
        """One thing that the main loop, or a vCPU's thread for it, does next; False: there is nothing."""
        if self.staged is not None:
            self.deliver()
        elif self.report is not None:
            self.reported()
        elif self.runs:
            self.runs = False
            getattr(self, f"run_{self.state}")()
        else:
            return False
        return True

    def deliver(self) -> None:
        """The target's thread writes the slot, if that is free."""
        assert self.staged is not None
        self.staged = None
        if self.chance.random() < 0.25:
            self.report = -11
            return
        self.emit("kvm_apic_accept_irq", 243, 0, 0, vcpu=self.target)
        self.emit("kvm_hv_synic_set_irq", 2, 243, 1, vcpu=self.target)
        self.report = 0

    def give(self, number: int, size: int) -> None:
        """A message goes to the guest's SynIC."""
        self.emit("vmbus_post_msg", number, size)
        self.staged = number, size

    def reported(self) -> None:
        """It is known what became of it."""
        status, self.report = self.report, None
        self.emit("vmbus_msg_cb", status)
        if not status:
            done: Callable[[], bool] = getattr(self, f"done_{self.state}", lambda: True)
            if done():
                self.state = "listen"
        self.runs = True

    def reset(self) -> None:
        """The bus and its devices are as in the beginning."""
        self.gpadls.clear()
        for channel in self.channels.values():
            channel.offer, channel.state, channel.open = "init", "init", False
        self.version, self.state = 0, "listen"

    @property
    def initialized(self) -> bool:
        """A version was agreed on."""
        return 0 < self.version <= 0x4_0000

    def run_listen(self) -> None:
        """Take up a message."""
        if not self.queue:
            return
        number, size, says = self.queue.popleft()
        self.serving = 1
        self.emit("vmbus_process_incoming_message", number)
        whole = size >= SIZES.get(number, 0)
        if whole and (number in (14, 16) or self.initialized):
            getattr(self, f"take_{number}", lambda *_: None)(size, *says)
        self.serving = 0
        self.runs = True

    def take_14(self, size: int, version: int, target: int) -> None:
        self.emit("vmbus_initiate_contact", version >> 16, version & 0xFFFF, target)
        self.reset()
        self.version, self.target, self.state = version, target, "handshake"

    def run_handshake(self) -> None:
        self.give(15, 12)

    def take_3(self, size: int) -> None:
        self.next_offer()
        self.state = "offer"

    def next_offer(self) -> bool:
        """Choose a channel to be offered."""
        for channel in self.channels.values():
            if channel.offer == "init":
                channel.offer = "sending"
                return True
        return False

    def run_offer(self) -> None:
        for number, channel in self.channels.items():
            if channel.offer == "sending":
                self.emit("vmbus_send_offer", number)
                self.give(1, 200)
                return
        self.emit("vmbus_terminate_offers")
        self.give(4, 8)

    def done_offer(self) -> bool:
        for channel in self.channels.values():
            if channel.offer == "sending":
                channel.offer = "sent"
                self.next_offer()
                return False
        return True

    def take_8(self, size: int, gpadl: int, pages: int, good: int) -> None:
        self.emit("vmbus_gpadl_header", gpadl, pages)
        if good and gpadl not in self.gpadls:
            self.gpadls[gpadl] = Pages(pages)
            self.more(gpadl, size - 28)

    def more(self, gpadl: int, size: int) -> None:
        """Pages become known."""
        shared = self.gpadls[gpadl]
        shared.seen = min(shared.pages, shared.seen + size // 8)
        if shared.seen == shared.pages:
            self.state = "create"

    def take_9(self, size: int, gpadl: int) -> None:
        self.emit("vmbus_gpadl_body", gpadl)
        if gpadl in self.gpadls:
            self.more(gpadl, size - 16)

    def run_create(self) -> None:
        for number, shared in self.gpadls.items():
            if shared.seen == shared.pages and shared.state == "init":
                self.emit("vmbus_gpadl_created", number)
                self.give(10, 20)
                return

    def done_create(self) -> bool:
        for shared in self.gpadls.values():
            if shared.seen == shared.pages and shared.state == "init":
                shared.state = "alive"
                return True
        return True

    def take_11(self, size: int, gpadl: int) -> None:
        self.emit("vmbus_gpadl_teardown", gpadl)
        if gpadl in self.gpadls and self.gpadls[gpadl].state != "gone":
            self.gpadls[gpadl].state = "going"
            self.state = "teardown"

    def run_teardown(self) -> None:
        for number, shared in self.gpadls.items():
            if shared.state == "going":
                self.emit("vmbus_gpadl_torndown", number)
                self.give(12, 12)
                return

    def done_teardown(self) -> bool:
        for number, shared in list(self.gpadls.items()):
            if shared.state == "going":
                shared.state = "gone"
                if not any(c.open and self.used.get(k) == number for k, c in self.channels.items()):
                    del self.gpadls[number]
        return True

    @property
    def used(self) -> dict[int, int]:
        """The GPADL of each channel that was opened."""
        return self.__dict__.setdefault("_used", {})

    def take_5(self, size: int, number: int, gpadl: int) -> None:
        self.emit("vmbus_open_channel", number, gpadl)
        channel = self.channels.get(number)
        if channel is None or channel.state != "init":
            return
        shared = self.gpadls.get(gpadl)
        channel.open = shared is not None and shared.seen == shared.pages and self.chance.random() < 0.9
        self.used[number] = gpadl
        channel.state, self.state = "opening", "open"

    def run_open(self) -> None:
        for number, channel in self.channels.items():
            if channel.state == "opening":
                self.emit("vmbus_channel_open", number, int(not channel.open))
                self.give(6, 20)
                return

    def done_open(self) -> bool:
        for channel in self.channels.values():
            if channel.state == "opening":
                channel.state = "open" if channel.open else "init"
        return True

    def take_7(self, size: int, number: int) -> None:
        self.emit("vmbus_close_channel", number)
        if (channel := self.channels.get(number)) is not None:
            channel.state, channel.open = "init", False
            gpadl = self.used.get(number)
            if gpadl is not None and gpadl in self.gpadls and self.gpadls[gpadl].state == "gone":
                del self.gpadls[gpadl]

    def take_16(self, size: int) -> None:
        self.state = "unload"

    def run_unload(self) -> None:
        self.queue.clear()
        self.give(17, 8)

    def done_unload(self) -> bool:
        self.reset()
        return True


def conversation(seed: int, steps: int = 60, *, errors: bool = True) -> list[Event]:
    """The tape of a guest that does `steps` things, one after the other or at once."""
    qemu = LittleQemu(seed, errors)
    chance = qemu.chance
    qemu.boot()
    for _ in range(chance.randrange(3)):
        qemu.refused()
    greet(qemu)
    gpadls = list(range(925_200, 925_205))
    for _ in range(steps):
        act(qemu, chance, gpadls)
        if chance.random() < 0.8:
            qemu.drain()
        else:
            qemu.maybe()
        for number, channel in qemu.channels.items():
            if channel.state == "open" and chance.random() < 0.2:
                qemu.notify(number)
    qemu.drain()
    return qemu.tape


def greet(qemu: LittleQemu) -> None:
    """Versions from the newest on, then offers."""
    target = qemu.chance.randrange(2)
    for version in (0x4_0001, 0x4_0000):
        qemu.post(14, version, target)
        qemu.drain()
    qemu.post(3)
    qemu.drain()


def act(qemu: LittleQemu, chance: random.Random, gpadls: list[int]) -> None:
    """One thing that a guest does; with errors, whether it makes sense or not."""
    known = [number for number in gpadls if number in qemu.gpadls] or gpadls
    gpadl = chance.choice(gpadls if qemu.errors and chance.random() < 0.2 else known)
    names = sorted(qemu.channels)
    channel = chance.choice([*names, 9] if qemu.errors else names)
    life = qemu.channels.get(channel)
    kind = chance.choice(("share", "share", "open", "open", "close", "teardown", "signal", "signal", "odd"))
    if kind == "share":
        free = [number for number in gpadls if number not in qemu.gpadls]
        if qemu.errors or free:
            share(
                qemu, chance, gpadl if qemu.errors and chance.random() < 0.2 else chance.choice(free or known)
            )
    elif kind == "open":
        if qemu.errors or (life is not None and life.state == "init" and gpadl in qemu.gpadls):
            qemu.post(5, channel, gpadl)
    elif kind == "close":
        if qemu.errors or (life is not None and life.state == "open"):
            qemu.post(7, channel)
    elif kind == "teardown":
        if qemu.errors or gpadl in qemu.gpadls:
            qemu.post(11, gpadl)
    elif kind == "signal":
        qemu.signal(channel)
    elif qemu.errors:
        odd(qemu, chance)


def share(qemu: LittleQemu, chance: random.Random, gpadl: int) -> None:
    """A header, and bodies where there are many pages."""
    pages, good = chance.choice((1, 10, 26, 27, 60)), int(not qemu.errors or chance.random() < 0.9)
    first = min(pages, 26)
    qemu.post(8, gpadl, pages, good, size=28 + 8 * first)
    qemu.drain()
    ignored = not good or gpadl not in qemu.gpadls or qemu.gpadls[gpadl].seen == qemu.gpadls[gpadl].pages
    left = 0 if ignored else pages - first
    while left > 0:
        now = min(left, 28)
        qemu.post(9, gpadl, size=16 + 8 * now)
        left -= now


def odd(qemu: LittleQemu, chance: random.Random) -> None:
    """What guests seldom do."""
    what = chance.randrange(9)
    if what == 0:
        qemu.post(chance.choice((0, 18, 30)))
    elif what == 1:
        qemu.post(13, chance.randrange(4))
    elif what == 2:
        qemu.post(5, 1, 1, size=100)
    elif what == 3:
        qemu.post(16)
        qemu.drain()
        if chance.random() < 0.5:
            greet(qemu)
    elif what == 4:
        qemu.post(14, chance.choice((0xD, 0x2_0004, 0x4_0000, 0x5_0000)), chance.randrange(2))
    elif what == 5:
        for _ in range(20):
            qemu.post(7, chance.choice(sorted(qemu.channels)))
    elif what == 6:
        qemu.refused()
    else:
        greet(qemu)
