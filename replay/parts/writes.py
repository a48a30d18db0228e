"""Writes of SynIC and timer registers in the order of their thread (KVM_SET_MSRS, kvm_set_msr_common).

What a vCPU owes is judged at its next entry. Userspace writes registers before there is one; but its thread makes one
write after the other, each with its effects, and that shows in the order of the thread's events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvtrace.replay.model.access import Access
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.obligation import Due, Obligation
from hvtrace.replay.part import Handler, Part, Stranger

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["WriteEvents"]

SET_MSR, SET_CONFIG, SET_COUNT = (
    "kvm_hv_synic_set_msr",
    "kvm_hv_stimer_set_config",
    "kvm_hv_stimer_set_count",
)
CLEANUP = "kvm_hv_stimer_cleanup"

#: Threads remembered.
MAX_THREADS = 4096


@dataclass(slots=True)
class Step:
    """A thread's last step: a write (`timer` -1: of the SynIC), or a cancellation that nothing in the thread asked for.

    `open` is true where the timer's cancellation is still to come.
    """

    vcpu: Vcpu
    event: Event
    cell: list[bool]
    host: bool
    timer: int = -1
    open: bool = False
    alone: bool = False


class WriteEvents(Part):
    """The writes and cancellations of one thread, in their order. It takes each event after SynIC and timers did."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.last: dict[int, Step] = {}
        #: Without kvm_userspace_exit a run of the vCPU between two writes need not show.
        self.whole = "kvm_userspace_exit" in bench.traced

    def handlers(self) -> dict[str, Handler]:
        return {
            SET_MSR: self._write,
            SET_CONFIG: self._write,
            SET_COUNT: self._write,
            CLEANUP: self._cleanup,
            "kvm_userspace_exit": self._returned,
        }

    def strangers(self) -> dict[str, Stranger]:
        return {}

    def accessed(self, access: Access, *, diverged: bool) -> None:
        self.last.pop(access.event[4], None)

    def lost(self) -> None:
        self.last.clear()

    def _returned(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        self.last.pop(event[4], None)

    def _before(self, event: Event) -> Step | None:
        """The thread's step before this event, unless the vCPU left the guest since."""
        step = self.last.pop(event[4], None)
        if step is None or step.vcpu.exit_seq > step.event[0]:
            return None
        return step

    def _write(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        before, host = self._before(event), bool(event[7])
        timer = -1 if event[2] == SET_MSR else event[5]
        if before is not None:
            if before.open:
                _uncancelled(before, event)
            if host and self.whole and before.vcpu is vcpu:
                self._among_userspace(before, event)
        if len(self.last) >= MAX_THREADS:
            self.last.clear()
        self.last[event[4]] = Step(vcpu, event, cell, host, timer, open=timer >= 0)

    def _among_userspace(self, before: Step, event: Event) -> None:
        """Userspace writes, and wrote before: in between there is no guest."""
        if before.alone:
            number = before.timer
            timer = before.vcpu.timers[number]
            detail = f"no cancellation of timer {number} without a cause"
            owed = timer.suspect or Obligation(
                Due.DESTROYED, before.vcpu, before.event, before.cell, 1, detail, number
            )
            before.vcpu.break_(owed, "a cancellation without a cause")
            timer.broken(owed)
        elif not before.host:
            owed = Obligation(Due.MSR, before.vcpu, before.event, before.cell, 1, "kvm_msr of the write")
            before.vcpu.break_(owed, f"userspace's {event[2]} comes first")

    def _cleanup(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        before = self._before(event)
        if before is None:
            return
        if before.open and before.vcpu is vcpu and before.timer == event[5]:
            before.open = False
            self.last[event[4]] = before
            return
        if before.open:
            _uncancelled(before, event)
        if before.host and before.vcpu is vcpu and 0 <= event[5] < len(vcpu.timers):
            self.last[event[4]] = Step(vcpu, event, cell, before.host, event[5], alone=True)


def _uncancelled(step: Step, event: Event) -> None:
    """The thread goes on without the cancellation that its write asks for."""
    if not 0 <= step.timer < len(step.vcpu.timers):
        return
    timer = step.vcpu.timers[step.timer]
    owed = timer.cleanup
    if owed is not None and owed.event is step.event:
        step.vcpu.break_(owed, f"{event[2]} comes first")
        timer.broken(owed)
