"""Clocks: reads of the reference time and the run time, and what moves them (kvm_update_masterclock, TSC offsets)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.access import Access
from hvtrace.replay.model.clock import REFERENCE, RUNTIME, ClockMoment, Reading
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.stimer import Timers
from hvtrace.replay.part import Handler, Part, Stranger
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["ClockEvents"]

#: Entries after a change of the master clock within which the reference time may move to its new formula.
CLOCK_GRACE = 3


class ClockEvents(Part):
    """Reads of running clocks, kvm_update_master_clock, kvm_write_tsc_offset."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.timers = Timers()

    def handlers(self) -> dict[str, Handler]:
        return {"kvm_update_master_clock": self._master_clock, "kvm_write_tsc_offset": self._tsc_written}

    def strangers(self) -> dict[str, Stranger]:
        return {"kvm_update_master_clock": self._any_master_clock}

    def accessed(self, access: Access, *, diverged: bool) -> None:
        if access.refused or access.write or access.index not in (REFERENCE, RUNTIME):
            return
        vcpu, value = access.vcpu, access.value
        if access.index == REFERENCE:
            self.timers.saw_time(vcpu, value)
            before = None if vcpu.reading is None else vcpu.reading.value
            vcpu.reading = Reading(value, access.event)
        else:
            before = vcpu.registers.get(RUNTIME)
            vcpu.registers[RUNTIME] = value
        moment = ClockMoment(vcpu, access.index, value, before)
        self.judge.ask(Moment.CLOCK, moment, access.event, vcpu, access.cell)

    def _master_clock(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The reference time may pass to another formula."""
        _moved(vcpu.vm)

    def _any_master_clock(self, event: Event, vcpu: Vcpu | None) -> None:
        """The VM is not known: it may be any."""
        for vm in self.vms.values():
            _moved(vm)

    def _tsc_written(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """Userspace sets the TSC when it creates, resets or restores a vCPU; a guest may write it as well."""
        vcpu.vm.forget_silent()
        _moved(vcpu.vm)


def _moved(vm: Vm) -> None:
    for vcpu in vm.vcpus.values():
        vcpu.reading, vcpu.grace = None, CLOCK_GRACE
        for timer in vcpu.timers:
            timer.expired = None
