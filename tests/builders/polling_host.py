"""A host whose vCPUs halt and poll, halt by halt: the rules of halt polling written down once more, plainly.

Nothing here is shared with hvtrace. Each halt is given by when what ends it comes; the host decides whether it polls,
sleeps, grows, shrinks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from builders.store import Row

__all__ = ["Guest", "Halt", "Host"]


@dataclass(frozen=True, slots=True)
class Halt:
    """A halt as it went: what it polled at most, how long it took, whether it slept; the change it brought about."""

    poll: int
    ns: int
    slept: bool
    change: tuple[bool, int, int] | None


@dataclass(slots=True)
class Host:
    """kvm_vcpu_halt of one vCPU. `wakes` is what waking up takes after polling and after sleeping."""

    cap: int = 200_000
    grow: int = 2
    start: int = 10_000
    shrink: int = 0
    clamps: bool = False
    floors: bool = True
    wakes: tuple[int, int] = (100, 5_000)
    poll: int = 0
    halts: list[Halt] = field(default_factory=list)

    def halt(self, arrival: int, wakes: tuple[int, int] | None = None) -> Halt:
        """One halt, ended by something that comes `arrival` ns after it began."""
        polled, slept = wakes or self.wakes
        if not self.clamps and self.poll > self.cap:
            self.poll = self.cap
        poll = self.poll
        seen = 0 < arrival <= poll
        ns = arrival + (polled if seen else slept)
        change = None
        if self.cap == 0:
            self.poll = 0
        elif ns > poll:
            if poll != 0 and ns > self.cap:
                change = False, self._shrunk(poll), poll
            elif poll < self.cap and ns < self.cap:
                change = True, self._grown(poll), poll
        if change is not None:
            self.poll = change[1]
        self.halts.append(Halt(poll, ns, not seen, change))
        return self.halts[-1]

    def _grown(self, poll: int) -> int:
        if self.grow == 0:
            return poll
        new = poll * self.grow % 2**32
        if new < self.start:
            new = self.start
        if self.clamps and new > self.cap:
            new = self.cap
        return new

    def _shrunk(self, poll: int) -> int:
        if self.shrink == 0:
            return 0
        new = poll // self.shrink
        return 0 if self.floors and new < self.start else new

    def rows(
        self, arrivals: Iterable[int], vcpu: int = 0, begin: int = 1_000, idle: int = 10_000
    ) -> list[Row]:
        """Events of halts that follow each other with `idle` ns between them, from the vCPU's creation on.

        What ends a halt is an interrupt's acceptance.
        """
        now = begin
        found: list[Row] = [
            (
                now,
                "kvm_write_tsc_offset",
                vcpu,
                0,
                {"vcpu_id": vcpu, "previous_tsc_offset": 0, "next_tsc_offset": 1},
            )
        ]
        for arrival in arrivals:
            now += idle
            halt = self.halt(arrival)
            found.append((now + arrival, "kvm_apic_accept_irq", vcpu, 0, {"apicid": vcpu, "vec": 32}))
            now += halt.ns
            if halt.change is not None:
                grew, new, old = halt.change
                told = {"grow": grew, "vcpu_id": vcpu, "new": new, "old": old}
                found.append((now, "kvm_halt_poll_ns", vcpu, 0, told))
            woke = {"ns": halt.ns, "waited": halt.slept, "valid": True}
            found.append((now, "kvm_vcpu_wakeup", vcpu, 0, woke))
        return found


@dataclass(slots=True)
class Guest:
    """The governor haltpoll of one vCPU: it polls for `limit` before HLT. `slept` is what waking up from HLT takes."""

    cap: int = 200_000
    grow: int = 2
    start: int = 50_000
    shrink: int = 2
    slept: int = 5_000
    limit: int = 0
    #: (time polled, whether that was in vain), for each idle time.
    idles: list[tuple[int, bool]] = field(default_factory=list)

    def idle(self, arrival: int) -> None:
        """One idle time, ended by something that comes after `arrival` ns."""
        if 0 < arrival <= self.limit:
            self.idles.append((arrival, False))
            return
        self.idles.append((self.limit, self.limit > 0))
        left = arrival + self.slept - self.limit
        if self.limit < left <= self.cap:
            self.limit = min(max(self.limit * self.grow, self.start), self.cap)
        elif left > self.cap:
            self.limit = self.limit // self.shrink if self.shrink else 0
