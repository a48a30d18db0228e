"""A part of the engine: what it does with the tracepoints of one area."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.replay.judge import Judge
    from hvtrace.replay.model.access import Access
    from hvtrace.replay.model.machine import Bench, Vcpu, Vm
    from hvtrace.replay.tape import Event

__all__ = ["Handler", "Part", "Resident", "Stranger", "ignore"]

#: Takes an event, the vCPU it belongs to, and the event's judged-mark.
Handler = Callable[["Event", "Vcpu", list[bool]], None]

#: Takes an event whose VM is not known, and a vCPU it may belong to (None: its vCPU is not known either).
Stranger = Callable[["Event", "Vcpu | None"], None]

#: Takes an event of a VM that is no vCPU's, the VM, and the event's judged-mark.
Resident = Callable[["Event", "Vm", list[bool]], None]


def ignore(event: Event, vcpu: Vcpu | None) -> None:
    """An event that changes nothing the model relies on."""


class Part:
    """Each handler does three things in this order: it lets the model say what must be (predict), asks the rules
    (compare) and lets the state take what was observed (resynchronise), so that one fault is reported once.

    What a part remembers belongs to one VM: VMs may be replayed apart, in processes that do not know each other.
    A handler that wants to be called back when the vCPU's exit is over adds a function to `vcpu.closing`.
    """

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        self.bench = bench
        self.judge: Judge = bench.judge
        self.vms = vms

    def handlers(self) -> dict[str, Handler]:
        """The tracepoints this part takes, with the method for each."""
        return {}

    def strangers(self) -> dict[str, Stranger]:
        """Events whose VM is not known; where none is given, each vCPU that may be meant is forgotten."""
        return {}

    def residents(self) -> dict[str, Resident]:
        """Events of a VM that are no vCPU's, with the method for each."""
        return {}

    def accessing(self, access: Access) -> None:
        """A guest's MSR access is complete and not yet judged."""

    def accessed(self, access: Access, *, diverged: bool) -> None:
        """A guest's MSR access was judged and the registers have taken it."""

    def losing(self, vm: Vm) -> None:
        """A loss begins or ends: what is known of the VM is about to be forgotten."""

    def lost(self) -> None:
        """A loss begins or ends: forget what does not belong to a VM."""

    def finished(self, vm: Vm) -> None:
        """The recording is over: what is still open cannot be judged."""
