"""Running clocks: partition reference time and the run time of a virtual processor (TLFS, Timers)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = ["REFERENCE", "RUNTIME", "ClockMoment", "Reading"]

REFERENCE = 0x4000_0020
RUNTIME = 0x4000_0010


@dataclass(frozen=True, slots=True)
class Reading:
    """A value of the reference time that this vCPU's thread saw, in 100 ns, and where."""

    value: int
    event: Event


@dataclass(slots=True)
class ClockMoment:
    """A clock is read. `before` is what the same thread saw last (None: nothing that can be compared)."""

    vcpu: Vcpu
    index: int
    value: int
    before: int | None
