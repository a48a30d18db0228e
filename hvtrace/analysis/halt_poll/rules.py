"""The rules of halt polling, on the host (kvm_vcpu_halt in virt/kvm/kvm_main.c) and in a guest (governor haltpoll).

A halted vCPU polls for its `halt_poll_ns` before it sleeps; how long the halt took decides how long the next one polls.
What differs between kernels is part of the setting. All times are in ns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["U32", "GuestSetting", "Halts", "HostSetting", "Setting"]

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: The kernel reckons with unsigned int.
U32 = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Halts:
    """Halts as they happen under any setting, in order, vCPU after vCPU; arrays of the same length.

    `arrival`: when what ended the halt came, from its start on; −1 where it was there already, so that nothing waited.
    `polled`: how long the halt takes if polling sees that; `blocked`: if the thread sleeps by then. `allowed`: whether
    the guest lets the host poll. `first`: −1, or at the first halt of a vCPU the polling time with which it begins.
    """

    arrival: I64
    polled: I64
    blocked: I64
    allowed: Flags
    first: I64

    def __len__(self) -> int:
        return len(self.arrival)

    def at(self, index: npt.NDArray[np.intp] | int) -> Halts:
        """Some of them; or a row of them where the arrays have rows."""
        return Halts(*(getattr(self, name)[index] for name in Halts.__slots__))


class Setting(Protocol):
    """Parameters under which halts are run again."""

    #: Whether the guest polls before it halts, and the host does not.
    guest: bool

    def begins(self, value: int) -> int:
        """The polling time with which a vCPU begins whose recorded one is `value`."""

    def next(self, value: int) -> set[int]:
        """Polling times that may follow `value`."""

    def thresholds(self, values: Iterable[int]) -> set[int]:
        """Times t for which it may matter, with these polling times, whether one of a halt's is ≤ t."""

    def after(self, value: I64, halts: Halts) -> I64:
        """The polling time after each of `halts`, where it is `value` before; of any shapes that go together."""


@dataclass(frozen=True, slots=True)
class HostSetting:
    """Parameters of the module kvm: halt_poll_ns (`cap`), _grow, _grow_start, _shrink; a VM's own cap in its place.

    `clamps`: a grown value is held under the cap at once (until 5.15), not at the next halt. `floors`: a value shrunk
    below `start` becomes 0.
    """

    cap: int
    grow: int = 2
    start: int = 10_000
    shrink: int = 0
    vm_cap: int | None = None
    clamps: bool = False
    floors: bool = True
    guest = False

    @property
    def limit(self) -> int:
        """The cap in force."""
        return self.cap if self.vm_cap is None else self.vm_cap

    def begins(self, value: int) -> int:
        """Held under the cap, as if that had been in force before."""
        return min(value, self.limit)

    def grown(self, value: I64) -> I64:
        """What the event of a growth says (grow_halt_poll_ns)."""
        if self.grow == 0:
            return value
        grown: I64 = np.maximum(value * self.grow & U32, self.start)
        return np.minimum(grown, self.limit) if self.clamps else grown

    def shrunk(self, value: I64) -> I64:
        """What the event of a shrinkage says (shrink_halt_poll_ns)."""
        if self.shrink == 0:
            return np.zeros_like(value)
        shrunk = value // self.shrink
        return np.where(shrunk < self.start, 0, shrunk) if self.floors else shrunk

    def due(self, value: I64, ns: I64) -> tuple[Flags, Flags]:
        """Whether a halt of `ns` grows, or shrinks, a polling time: the end of kvm_vcpu_halt."""
        cap = self.limit
        longer = (ns > value) & (cap != 0)
        shrinks = longer & (value != 0) & (ns > cap)
        return longer & ~shrinks & (value < cap) & (ns < cap), shrinks

    def held(self, value: I64) -> I64:
        """What a halt makes of the polling time before it begins."""
        return value if self.clamps else np.minimum(value, self.limit)

    def next(self, value: int) -> set[int]:
        """Itself, and what it grows and shrinks to, as the next halt holds it."""
        if self.limit == 0:
            return {0}
        one = np.array([value], np.int64)
        return {value, int(self.held(self.grown(one))[0]), int(self.held(self.shrunk(one))[0])}

    def thresholds(self, values: Iterable[int]) -> set[int]:
        """The polling times, and what lies on either side of the cap."""
        return {*values, self.limit, self.limit - 1}

    def after(self, value: I64, halts: Halts) -> I64:
        """The polling time after each of `halts`, as the next halt holds it."""
        if self.limit == 0:
            return np.where(halts.allowed, 0, value)
        ns = np.where(halts.arrival <= value, halts.polled, halts.blocked)
        grows, shrinks = self.due(value, ns)
        changed = np.where(shrinks, self.held(self.shrunk(value)), value)
        changed = np.where(grows, self.held(self.grown(value)), changed)
        return np.where(halts.allowed, changed, value)


@dataclass(frozen=True, slots=True)
class GuestSetting:
    """Parameters of the module haltpoll in the guest: guest_halt_poll_ns (`cap`), _grow, _grow_start, _shrink.

    The guest polls for its limit before it executes HLT, and forbids the host to poll (MSR_KVM_POLL_CONTROL).
    """

    cap: int = 200_000
    grow: int = 2
    start: int = 50_000
    shrink: int = 2
    allow_shrink: bool = True
    guest = True

    def begins(self, value: int) -> int:
        """0: what the host's polling time was says nothing."""
        return 0

    def next(self, value: int) -> set[int]:
        """Itself, and what it grows and shrinks to (adjust_poll_limit)."""
        one = np.array([value], np.int64)
        return {value, int(self.grown(one)[0]), int(self.shrunk(one)[0])}

    def grown(self, value: I64) -> I64:
        """What a limit grows to."""
        grown: I64 = np.minimum(np.maximum(value * self.grow & U32, self.start), self.cap)
        return grown

    def shrunk(self, value: I64) -> I64:
        """What a limit shrinks to."""
        if not self.allow_shrink:
            return value
        return value // self.shrink if self.shrink else np.zeros_like(value)

    def thresholds(self, values: Iterable[int]) -> set[int]:
        """What polling sees; what is left of an idle time, after polling, held against limit and cap."""
        return {t for value in values for t in (value, 2 * value, value + self.cap)}

    def after(self, value: I64, halts: Halts) -> I64:
        """The limit after each of `halts`: unchanged where polling saw the end, else by how long HLT then took."""
        left = halts.blocked - value
        asleep = halts.arrival > value
        grows = asleep & (left > value) & (left <= self.cap)
        changed = np.where(asleep & (left > self.cap), self.shrunk(value), value)
        changed = np.where(grows, self.grown(value), changed)
        return np.where(halts.allowed, changed, value)
