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


@dataclass(slots=True)
class Ending:
    """The timer cancelled last, and what the cancellation owes where nothing asked for it."""

    vcpu: Vcpu
    timer: int
    suspect: Obligation | None


class WriteEvents(Part):
    """The writes and cancellations of one thread, in their order. It takes each event after SynIC and timers did."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.last: dict[int, Step] = {}
        #: The end of a vCPU that a thread may be at work on.
        self.ending: dict[int, Ending] = {}
        #: Without kvm_userspace_exit a run of the vCPU between two writes need not show.
        self.whole = "kvm_userspace_exit" in bench.traced

    def handlers(self) -> dict[str, Handler]:
        return {
            SET_MSR: self._write,
            SET_CONFIG: self._write,
            SET_COUNT: self._write,
            CLEANUP: self._cleanup,
            "kvm_hv_stimer_start_periodic": self._served,
            "kvm_hv_stimer_start_one_shot": self._served,
            "kvm_hv_stimer_expiration": self._served,
            "kvm_inj_virq": self._injected,
            "kvm_inj_exception": self._injected,
            "kvm_userspace_exit": self._returned,
        }

    def strangers(self) -> dict[str, Stranger]:
        return {}

    def accessed(self, access: Access, *, diverged: bool) -> None:
        self.last.pop(access.event[4], None)

    def lost(self) -> None:
        self.last.clear()
        self.ending.clear()

    def _returned(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        before = self._before(event)
        if before is not None and not before.host and not before.alone:
            _unfinished(before, event)

    def _injected(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.injected = event[0]

    def _served(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """A request is served: the guest's write that came before is complete."""
        before = self.last.get(event[4])
        if before is None or before.host or before.alone or before.vcpu is not vcpu:
            return
        for due in vcpu.dues:
            if due.due is Due.MSR:
                vcpu.break_(due, f"{event[2]} comes first")

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
            self.lost()
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
            _unfinished(before, event)

    def _cleanup(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        before, number = self._before(event), event[5]
        if not 0 <= number < len(vcpu.timers):
            return
        self._ending(event, vcpu, cell, number)
        if before is None:
            return
        if before.open and before.vcpu is vcpu and before.timer == number:
            before.open = False
            self.last[event[4]] = before
            return
        if before.open:
            _uncancelled(before, event)
        if before.host and before.vcpu is vcpu:
            self.last[event[4]] = Step(vcpu, event, cell, before.host, number, alone=True)

    def _ending(self, event: Event, vcpu: Vcpu, cell: list[bool], number: int) -> None:
        """At a vCPU's end all its timers are cancelled, in their order: so must be those that nothing else asks for."""
        suspect = vcpu.timers[number].suspect
        if suspect is not None and suspect.event is not event:
            suspect = None
        before = self.ending.pop(event[4], None)
        other = before is not None and before.vcpu is not vcpu
        if (
            before is not None
            and other
            and before.suspect is not None
            and before.timer + 1 < len(vcpu.timers)
        ):
            missing = f"another vCPU's cancellation before timer {before.timer + 1}'s"
            before.vcpu.break_(before.suspect, missing)
        following = 0 if before is None or other else before.timer + 1
        again = number == 0 < following and before is not None and before.suspect is not None
        if number in (0, following) and not (again and suspect is not None):
            self.ending[event[4]] = Ending(vcpu, number, suspect)
            if suspect is not None:
                # The order was held against KVM, even where nothing shows later that this was the vCPU's end.
                self.judge.mark(event, cell, by="HV505")
        elif suspect is not None:
            vcpu.break_(suspect, f"timer {following} comes next at a vCPU's end")
            vcpu.timers[number].broken(suspect)


def _uncancelled(step: Step, event: Event) -> None:
    """The thread goes on without the cancellation that its write asks for."""
    if not 0 <= step.timer < len(step.vcpu.timers):
        return
    timer = step.vcpu.timers[step.timer]
    owed = timer.cleanup
    if owed is not None and owed.event is step.event:
        step.vcpu.break_(owed, f"{event[2]} comes first")
        timer.broken(owed)


def _unfinished(step: Step, event: Event) -> None:
    """A guest's write, and the thread is in userspace before its kvm_msr."""
    owed = next((due for due in step.vcpu.dues if due.due is Due.MSR and due.event is step.event), None)
    if owed is None:
        owed = Obligation(Due.MSR, step.vcpu, step.event, step.cell, 1, "kvm_msr of the write")
    step.vcpu.break_(owed, f"{event[2]} comes first")
