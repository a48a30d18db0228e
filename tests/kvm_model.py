"""A little KVM for tests: one vCPU's SynIC and synthetic timers, as the kernel's code goes, driven by a random guest.

It is written from the pseudo code of the timers' life, not from the reference model that is under test, and prints
its tracepoints in the kernel's order. `faults` are deliberate departures.
"""

from __future__ import annotations

import random
from typing import Any

from hvtrace.replay.tape import TAPE, Event, place_of

__all__ = ["FAULTS", "Kvm", "record"]

CONFIG0, SINT0, SCONTROL, SVERSION, SIEFP, SIMP, EOM, EOI = (
    0x400000B0, 0x40000090, 0x40000080, 0x40000081, 0x40000082, 0x40000083, 0x40000084, 0x40000070,
)  # fmt: skip
MSR_EXIT, INTERRUPT, HLT = 0x7C, 0x60, 0x78

#: Each fault, and the families of rules that may report it.
FAULTS: dict[str, set[str]] = {
    "count 0 does not disable": {"HV5"},
    "a one-shot timer stays enabled": {"HV5"},
    "a period is counted from now": {"HV5"},
    "auto-enable does nothing": {"HV5"},
    "enabling an enabled timer with source 0 keeps it enabled": {"HV5"},
    "writes do not cancel": {"HV5"},
    "CONFIG loses its reserved bits": {"HV5"},
    "COUNT is off by one": {"HV5"},
    "an armed timer is not looked at": {"HV5"},
    "direct mode uses the next vector": {"HV5"},
    "a busy slot parks a periodic timer": {"HV5"},
    "a message goes to the next source": {"HV4", "HV5"},
    "a parked timer is not tried again": {"HV5"},
    "EOM acknowledges fifteen sources": {"HV4"},
    "EOI does not reach the SynIC": {"HV4"},
    "a low vector is accepted": {"HV2"},
    "SINT loses its upper half": {"HV2"},
    "SIMP does not exit": {"HV2"},
    "SINT exits": {"HV2"},
    "a timer expires at half its time": {"HV5"},
    "the next timer is started": {"HV5"},
    "a vector that a source had is still told to the SynIC": {"HV4"},
    "EOI acknowledges the first source alone": {"HV4"},
    "EOI acknowledges every source": {"HV4"},
    "a masked source is raised": {"HV4", "HV5"},
    "vector 16 is refused": {"HV2"},
    "SVERSION can be written": {"HV2"},
    "SCONTROL is not stored": {"HV2"},
    "SIMP is not stored": {"HV2", "HV5"},
    "a refused SINT is stored": {"HV2", "HV4"},
    "a cancellation keeps the expiry": {"HV5"},
    "a cancellation keeps the message waiting": {"HV5"},
    "a cancellation leaves the host's timer running": {"HV5"},
    "a periodic timer is disabled by its expiration": {"HV5"},
    "a periodic timer is armed without having expired": {"HV5"},
    "a one-shot timer of the past is armed": {"HV5"},
    "a one-shot timer of the past never expires": {"HV5"},
    "an acknowledgement of any source tries again": {"HV5"},
    "an acknowledgement wakes timers that do not wait": {"HV5"},
    "a masked source's message counts as sent": {"HV5"},
    "a one-shot timer drops what its slot cannot take": {"HV5"},
    "CONFIG reaches the next timer": {"HV5"},
    "COUNT reaches the next timer": {"HV5"},
    "a write of CONFIG asks for nothing": {"HV5"},
    "source 0 disables every timer": {"HV5"},
    "every COUNT enables": {"HV5"},
    "timer 3 is never served": {"HV5"},
    "a period is halved": {"HV5"},
    "direct mode sends a message": {"HV5"},
}


class Kvm:
    """One vCPU. Times in 100 ns."""

    def __init__(self, seed: int, fault: str | None = None) -> None:
        self.chance = random.Random(seed)
        self.fault = fault
        self.events: list[Event] = []
        self.now = 1_000_000
        self.config, self.count, self.expiry = [0] * 4, [0] * 4, [0] * 4
        self.waiting = [False] * 4
        self.armed: list[int | None] = [None] * 4
        self.pending: set[int] = set()
        self.sint = [0x10000] * 16
        self.registers = {SCONTROL: 1, SIEFP: 0, SIMP: 0}
        self.busy = [False] * 16
        #: Vectors that sources had.
        self.had: set[int] = set()
        self.in_service: list[int] = []

    def is_broken(self, fault: str) -> bool:
        """Whether this is the fault at work."""
        return self.fault == fault

    def show(self, name: str, tid: int = 100, **fields: Any) -> None:
        """Trace an event."""
        seq = len(self.events)
        values = (fields.get(field, 0) for field in TAPE[name])
        # One ns an event, so that they have an order.
        stamp = max(100 * self.now, self.events[-1][1] + 1 if self.events else 0)
        self.events.append((seq, stamp, name, place_of(0, 0), tid, *values))

    # Timers

    def cleanup(self, n: int) -> None:
        self.show("kvm_hv_stimer_cleanup", timer_index=n)
        due = self.armed[n]
        if due is not None and due <= self.now:
            # The callback was under way: the cancellation waits for it.
            self.show("kvm_hv_stimer_callback", tid=0, timer_index=n)
        if not self.is_broken("a cancellation leaves the host's timer running"):
            self.armed[n] = None
        self.pending.discard(n)
        if not self.is_broken("a cancellation keeps the message waiting"):
            self.waiting[n] = False
        if not self.is_broken("a cancellation keeps the expiry"):
            self.expiry[n] = 0

    def set_config(self, n: int, value: int, host: bool = False) -> None:
        old = self.config[n]
        self.show("kvm_hv_stimer_set_config", timer_index=n, config=value, host=host)
        if not self.is_broken("writes do not cancel"):
            self.cleanup(n)
        lost = not value >> 12 & 1 and value >> 16 & 0xF == 0
        lost = lost and (bool(old & 1) or self.is_broken("source 0 disables every timer"))
        if lost and not self.is_broken("enabling an enabled timer with source 0 keeps it enabled"):
            value &= ~1
        if self.is_broken("CONFIG loses its reserved bits"):
            value &= 0xF1FFF
        if self.is_broken("CONFIG reaches the next timer"):
            n = (n + 1) % 4
        self.config[n] = value
        if value & 1 and not self.is_broken("a write of CONFIG asks for nothing"):
            self.pending.add(n)

    def set_count(self, n: int, value: int, host: bool = False) -> None:
        self.show("kvm_hv_stimer_set_count", timer_index=n, count=value, host=host)
        self.cleanup(n)
        if self.is_broken("COUNT reaches the next timer"):
            n = (n + 1) % 4
        self.count[n] = value + (1 if value and self.is_broken("COUNT is off by one") else 0)
        if not host:
            if value == 0:
                if not self.is_broken("count 0 does not disable"):
                    self.config[n] &= ~1
            elif self.is_broken("every COUNT enables") or (
                self.config[n] & 8 and not self.is_broken("auto-enable does nothing")
            ):
                self.config[n] |= 1
        if self.config[n] & 1:
            self.pending.add(n)

    def start(self, n: int) -> None:
        shown = (n + 1) % 4 if self.is_broken("the next timer is started") else n
        self.tick(3)
        if self.config[n] & 2:
            if not self.expiry[n]:
                self.expiry[n] = self.now + self.count[n] // (
                    2 if self.is_broken("a period is halved") else 1
                )
            elif self.now >= self.expiry[n]:
                late = (self.now - self.expiry[n]) % self.count[n]
                self.expiry[n] = self.now + self.count[n] - late
                if self.is_broken("a period is counted from now"):
                    self.expiry[n] = self.now + self.count[n]
            self.show(
                "kvm_hv_stimer_start_periodic", timer_index=shown, time_now=self.now, exp_time=self.expiry[n]
            )
        else:
            self.expiry[n] = self.count[n]
            if self.now >= self.count[n] and not self.is_broken("a one-shot timer of the past is armed"):
                if not self.is_broken("a one-shot timer of the past never expires"):
                    self.pending.add(n)
                return
            self.show(
                "kvm_hv_stimer_start_one_shot", timer_index=shown, time_now=self.now, count=self.count[n]
            )
        # The host's clock runs a little before the reference time now and then.
        self.armed[n] = self.expiry[n] - self.chance.choice([0, 0, 0, 2])
        if self.is_broken("a timer expires at half its time"):
            self.armed[n] = (self.now + self.expiry[n]) // 2

    def expire(self, n: int) -> None:
        self.waiting[n] = True
        direct = self.config[n] >> 12 & 1
        if self.is_broken("direct mode sends a message"):
            direct = 0
        result = self.interrupt(n) if direct else self.message(n, bool(self.config[n] & 2))
        self.show("kvm_hv_stimer_expiration", timer_index=n, direct=direct, msg_send_result=result)
        if result == 0:
            self.waiting[n] = False
            one_shot = not self.config[n] & 2 and not self.is_broken("a one-shot timer stays enabled")
            if one_shot or self.is_broken("a periodic timer is disabled by its expiration"):
                self.config[n] &= ~1

    def interrupt(self, n: int) -> int:
        vector = self.config[n] >> 4 & 0xFF
        self.show("kvm_apic_accept_irq", vec=vector + self.is_broken("direct mode uses the next vector"))
        return 0

    def message(self, n: int, periodic: bool) -> int:
        source = self.config[n] >> 16 & 0xF
        if self.is_broken("a message goes to the next source"):
            source = (source + 1) % 16
        if not self.registers[SIMP] & 1:
            return -2
        if self.busy[source]:
            if self.is_broken("a one-shot timer drops what its slot cannot take"):
                return 0
            return 0 if periodic and not self.is_broken("a busy slot parks a periodic timer") else -11
        self.busy[source] = True
        if self.sint[source] & 0x10000 and not self.is_broken("a masked source is raised"):
            return 0 if self.is_broken("a masked source's message counts as sent") else -2
        vector = self.sint[source] & 0xFF
        self.show("kvm_apic_accept_irq", vec=vector)
        self.show("kvm_hv_synic_set_irq", sint=source, vector=vector, ret=1)
        if not self.sint[source] >> 17 & 1 and vector not in self.in_service:
            self.in_service.append(vector)
        return 0

    def serve(self) -> None:
        """kvm_hv_process_stimers, until nothing is asked for."""
        for _ in range(8):
            for n in range(4):
                if n not in self.pending or (n == 3 and self.is_broken("timer 3 is never served")):
                    continue
                self.pending.discard(n)
                if not self.config[n] & 1:
                    continue
                early = self.is_broken("a timer expires at half its time")
                skipped = self.config[n] & 2 and self.is_broken(
                    "a periodic timer is armed without having expired"
                )
                if self.expiry[n] and (self.now >= self.expiry[n] or early) and not skipped:
                    self.expire(n)
                if self.config[n] & 1 and self.count[n]:
                    if not self.waiting[n]:
                        self.start(n)
                else:
                    self.cleanup(n)
            if not self.pending:
                break
        self.pending.clear()

    # The run loop

    def tick(self, most: int) -> None:
        self.now += self.chance.randrange(most + 1)

    def fire(self) -> bool:
        """Host timers whose time is over."""
        fired = False
        for n, due in enumerate(self.armed):
            if due is not None and due <= self.now:
                self.armed[n] = None
                self.show("kvm_hv_stimer_callback", tid=0, timer_index=n)
                if not self.is_broken("an armed timer is not looked at"):
                    self.pending.add(n)
                fired = True
        return fired

    def exit(self, reason: int) -> None:
        self.show("kvm_exit", exit_reason=reason, isa=2)

    def enter(self) -> None:
        self.serve()
        self.show("kvm_entry", rip=0x1000)

    def run(self, ticks: int) -> None:
        """The guest computes or sleeps; each host timer that fires takes it out."""
        end = self.now + ticks
        while True:
            due = min((d for d in self.armed if d is not None), default=None)
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.tick(self.chance.choice([2, 2, 30, 5000]))
            self.fire()
            if self.chance.random() < 0.1:
                # One entry was under way when the timer fired.
                self.exit(HLT)
                pending, self.pending = self.pending, set()
                self.show("kvm_entry", rip=0x1000)
                self.pending = pending
            self.exit(INTERRUPT)
            self.enter()
        self.now = max(self.now, end)

    # Accesses

    def acknowledge(self, source: int) -> None:
        self.show("kvm_hv_notify_acked_sint", sint=source)
        if self.is_broken("a parked timer is not tried again"):
            return
        for n in range(4):
            config = self.config[n]
            if self.is_broken("an acknowledgement of any source tries again"):
                source = config >> 16 & 0xF
            waits = self.waiting[n] or self.is_broken("an acknowledgement wakes timers that do not wait")
            if waits and config & 1 and not config >> 12 & 1 and config >> 16 & 0xF == source:
                self.pending.add(n)

    def write(self, index: int, value: int) -> None:
        self.exit(MSR_EXIT)
        self.tick(5)
        refused = exits = False
        if CONFIG0 <= index < CONFIG0 + 8:
            (self.set_count if index & 1 else self.set_config)((index - CONFIG0) >> 1, value)
        elif index == EOI:
            self.end_of_interrupt()
        else:
            self.show("kvm_hv_synic_set_msr", msr=index, data=value, host=False)
            refused, exits = self.write_synic(index, value)
        self.show("kvm_msr", write=1, ecx=index, data=value, exception=int(refused))
        if exits:
            self.show("kvm_userspace_exit", reason=27, errno=0)
        self.fire()
        self.enter()

    def write_synic(self, index: int, value: int) -> tuple[bool, bool]:
        """Returns whether the write is refused, and whether it exits."""
        if index == EOM:
            for source in range(15 if self.is_broken("EOM acknowledges fifteen sources") else 16):
                self.acknowledge(source)
            return False, False
        if index == SVERSION:
            return not self.is_broken("SVERSION can be written"), False
        if index in self.registers:
            lost = {SCONTROL: "SCONTROL is not stored", SIMP: "SIMP is not stored"}.get(index, "")
            if not lost or not self.is_broken(lost):
                self.registers[index] = value
            return False, not (index == SIMP and self.is_broken("SIMP does not exit"))
        lowest = 17 if self.is_broken("vector 16 is refused") else 16
        if not value & 0x10000 and value & 0xFF < lowest and not self.is_broken("a low vector is accepted"):
            if self.is_broken("a refused SINT is stored"):
                self.sint[index - SINT0] = value
            return True, False
        self.had.add(self.sint[index - SINT0] & 0xFF)
        self.sint[index - SINT0] = value & (0xFFFFFFFF if self.is_broken("SINT loses its upper half") else -1)
        return False, self.is_broken("SINT exits")

    def end_of_interrupt(self) -> None:
        vector = max(self.in_service, default=-1)
        self.show("kvm_apic", rw=1, reg=0xB0)
        self.show("kvm_eoi", vector=vector)
        if vector < 0:
            return
        self.in_service.remove(vector)
        # The SynIC looks for the end of no vector below 16.
        sources = [n for n, s in enumerate(self.sint) if not s & 0x10000 and s & 0xFF == vector > 15]
        if self.is_broken("EOI acknowledges the first source alone"):
            sources = sources[:1]
        if sources and self.is_broken("EOI acknowledges every source"):
            sources = list(range(16))
        stale = vector in self.had and self.is_broken("a vector that a source had is still told to the SynIC")
        if (sources or stale) and not self.is_broken("EOI does not reach the SynIC"):
            self.show("kvm_hv_synic_send_eoi", vector=vector)
            for source in sources:
                self.acknowledge(source)

    def read(self, index: int) -> None:
        self.exit(MSR_EXIT)
        if CONFIG0 <= index < CONFIG0 + 8:
            value = (self.count if index & 1 else self.config)[(index - CONFIG0) >> 1]
        elif index in self.registers:
            value = self.registers[index]
        else:
            value = 0 if index == EOM else self.sint[index - SINT0]
        self.show("kvm_msr", write=0, ecx=index, data=value, exception=0)
        self.enter()


def record(seed: int, fault: str | None = None, steps: int = 400) -> list[Event]:
    """A recording of a random guest on this KVM."""
    kvm = Kvm(seed, fault)
    chance = kvm.chance
    kvm.show("kvm_apic_accept_irq", vec=32)
    kvm.show("kvm_entry", rip=0x1000)
    for source in range(16):
        kvm.write(SINT0 + source, 0x10000)
    for source in (0, 2, 3, 4):
        kvm.write(SINT0 + source, 0x60 + source | chance.choice([0, 0x20000]))
    kvm.write(SIMP, 0x5001)
    for _ in range(steps):
        n = chance.randrange(4)
        action = chance.randrange(14)
        if action < 3:
            mode = chance.choice([0x1, 0x3, 0x8, 0xA, 0x0, 0x1ED1, 0x1ED3, 0x1ED9])
            source = chance.choice([0, 2, 2, 3, 4, 7])
            kvm.write(CONFIG0 + 2 * n, mode | source << 16 | chance.choice([0, 0, 0xFE << 32]))
        elif action < 6:
            periodic = bool(kvm.config[n] & 2)
            ahead = chance.choice([0, 500, 20_000, 20_000, 300_000])
            count = ahead if periodic else chance.choice([0, 1, kvm.now + ahead, kvm.now + ahead])
            kvm.write(CONFIG0 + 2 * n + 1, count)
        elif action == 6:
            kvm.read(CONFIG0 + 2 * n + chance.randrange(2))
        elif action == 7:
            kvm.read(
                chance.choice(
                    [SINT0 + 2, SINT0 + 3, SINT0 + 4, SINT0 + chance.randrange(16), SIMP, SCONTROL, EOM]
                )
            )
        elif action == 8:
            kvm.busy[chance.choice([2, 3, 4])] = False
            kvm.write(EOM, 0)
        elif action == 9:
            for source in range(16):
                kvm.busy[source] = kvm.busy[source] and chance.random() < 0.5
            kvm.write(EOI, 0)
        elif action == 10:
            value = chance.choice([0x5, 0x10, 0x10000, 0x62, 0x20063, 0xFF00000000000064])
            kvm.write(SINT0 + chance.choice([2, 3, 4]), value)
        elif action == 11:
            kvm.write(*chance.choice([(SVERSION, 1), (SCONTROL, 0), (SCONTROL, 1), (SIEFP, 0x6001)]))
        elif action == 12:
            kvm.write(SIMP, chance.choice([0x5001, 0x5001, 0x5001, 0x5000]))
        else:
            kvm.run(chance.choice([100, 5_000, 60_000]))
    return kvm.events
