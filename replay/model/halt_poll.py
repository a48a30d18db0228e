"""Halt polling of one vCPU (kvm_vcpu_halt, grow_halt_poll_ns, shrink_halt_poll_ns in virt/kvm/kvm_main.c).

A halted vCPU first polls for its `halt_poll_ns`, then sleeps; how long the halt took decides whether the next one polls
longer (grow) or less (shrink). All times are in ns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = ["POLL_CONTROL", "Adjustment", "Change", "Halting", "Learnt", "Parameters", "Run", "Wakeup", "due"]

#: Bit 0 of this register allows the host to poll (kvm_arch_no_poll).
POLL_CONTROL = 0x4B56_4D05

#: The kernel reckons with unsigned int.
U32 = 0xFFFF_FFFF

#: Observations that must agree before a parameter is taken as known.
AGREE = 2


@dataclass(slots=True)
class Parameters:
    """The module parameters halt_poll_ns (the cap), _grow, _grow_start and _shrink; None: not known."""

    cap: int | None = None
    grow: int | None = None
    start: int | None = None
    shrink: int | None = None


@dataclass(slots=True)
class Learnt:
    """What halt polling follows on this host: what was given, else what the recording shows alike more than once.

    `clamps` tells whether a grown value is held under the cap at once (until 5.15) rather than at the next halt;
    `floors` whether a shrunk value below the start becomes 0. None: not known, either is right.
    """

    given: Parameters
    clamps: bool | None
    floors: bool | None
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def known(self, name: str) -> int | None:
        """`grow`, `start` or `shrink`."""
        value: int | None = getattr(self.given, name)
        if value is None:
            shown, times = self.seen.get(name, (0, 0))
            return shown if times >= AGREE else None
        return value

    def grown(self, old: int, cap: int | None) -> tuple[int, ...] | None:
        """What a value may grow to (grow_halt_poll_ns); None: cannot be told."""
        factor, start = self.known("grow"), self.known("start")
        if factor == 0:
            return (old,)
        if start is None or (factor is None and old):
            return None
        value = max(old * (factor or 0) & U32, start)
        if self.clamps is False or (cap is not None and value <= cap):
            return (value,)
        if cap is None:
            return None
        return (cap,) if self.clamps else (value, cap)

    def shrunk(self, old: int) -> tuple[int, ...] | None:
        """What a value may shrink to (shrink_halt_poll_ns); None: cannot be told."""
        divisor, start = self.known("shrink"), self.known("start")
        if divisor is None:
            return None
        value = old // divisor if divisor else 0
        if value == 0 or self.floors is False or (start is not None and value >= start):
            return (value,)
        return (0,) if self.floors and start is not None else (value, 0)

    def is_no_multiple(self, old: int, new: int) -> bool:
        """Whether no factor grows `old` to `new`; false where that cannot be told."""
        start = self.known("start")
        return self.clamps is False and start is not None and old > 0 and new != start and new % old > 0

    def learn(self, change: Change, cap: int | None) -> None:
        """Take what a change shows of the parameters."""
        old, new = change.old, change.new
        if not change.grew:
            if 0 < new <= old and old // (old // new) == new:
                self._note("shrink", old // new)
            if self.floors is None and self.known("start") is not None and len(change.values or ()) > 1:
                self.floors = new == 0
        elif old == 0:
            self._note("start", new)
        elif new % old == 0 and new != self.seen.get("start", (None, 0))[0]:
            self._note("grow", new // old)
        if change.grew and self.clamps is None and cap is not None and change.values is not None:
            value = change.values[0]
            if value > cap and new in change.values:
                self.clamps = new == cap

    def _note(self, name: str, value: int) -> None:
        shown, times = self.seen.get(name, (value, 0))
        self.seen[name] = (value, times + 1 if shown == value else 1)


@dataclass(slots=True)
class Change:
    """kvm_halt_poll_ns. `kept` is the value before it and `values` those it may have after it (None: not known).

    `allowed` is bit 0 of POLL_CONTROL; `impossible` is true where no parameters explain the change.
    """

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    grew: bool
    new: int
    old: int
    kept: int | None
    values: tuple[int, ...] | None
    cap: int | None
    allowed: bool | None
    impossible: bool = False


@dataclass(slots=True)
class Wakeup:
    """kvm_vcpu_wakeup. `poll` is what the vCPU polled at most, `elapsed` the time since kvm_exit (None: not known)."""

    vcpu: Vcpu
    ns: int
    waited: bool
    valid: bool
    change: Change | None
    poll: int | None
    cap: int | None
    allowed: bool | None
    elapsed: int | None
    #: The stamps are of no use.
    timeless: bool


@dataclass(slots=True)
class Adjustment:
    """A change and the time of the halt that caused it."""

    change: Change
    ns: int


@dataclass(slots=True)
class Run:
    """Odd wakeups in a row, and the last wakeup's times.

    "unscheduled": it never slept, and lasted longer than the vCPU polls (`poll`); "short": it lasted but a small part
    of `elapsed`, the time since kvm_exit. `known` is false where that cannot be told.
    """

    vcpu: Vcpu
    kind: str
    number: int
    ns: int
    poll: int | None
    elapsed: int | None
    known: bool
    timeless: bool = False


@dataclass(slots=True)
class Halting:
    """Halt polling of a vCPU: its `halt_poll_ns` (None: not known), and the change whose wakeup is still to come."""

    poll: int | None = None
    #: The vCPU was created in this recording.
    born: bool = False
    change: Change | None = None
    #: The exit of the last wakeup.
    left: Event | None = None
    #: Wakeups alike, by kind: their number, the first of them and its mark.
    runs: dict[str, tuple[int, Event, list[bool]]] = field(default_factory=dict)

    def forget(self) -> None:
        """Events were lost."""
        self.poll = self.change = self.left = None
        self.runs.clear()


def due(poll: int, ns: int, cap: int) -> str:
    """What a halt of `ns` brings about: "grow", "shrink" or "" (the end of kvm_vcpu_halt)."""
    if cap == 0 or ns <= poll:
        return ""
    if poll and ns > cap:
        return "shrink"
    return "grow" if poll < cap and ns < cap else ""
