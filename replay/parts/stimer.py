"""Synthetic timers (stimer_set_config, stimer_set_count, stimer_start, stimer_expiration, stimer_cleanup)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.abi.register import Group
from hvtrace.replay.model.access import Access
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.model.registers import STIMER0
from hvtrace.replay.model.timers import Timers
from hvtrace.replay.part import Handler, Part, Stranger

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["StimerEvents"]

CALLBACK = "kvm_hv_stimer_callback"


class StimerEvents(Part):
    """kvm_hv_stimer_* and accesses to the timers' registers."""

    def __init__(self, bench: Bench, vms: dict[int, Vm]) -> None:
        super().__init__(bench, vms)
        self.timers = Timers()

    def handlers(self) -> dict[str, Handler]:
        return {
            "kvm_hv_stimer_set_config": self._set_config,
            "kvm_hv_stimer_set_count": self._set_count,
            "kvm_hv_stimer_start_periodic": self._start_periodic,
            "kvm_hv_stimer_start_one_shot": self._start_one_shot,
            CALLBACK: self._callback,
            "kvm_hv_stimer_expiration": self._expiration,
            "kvm_hv_stimer_cleanup": self._cleanup,
        }

    def strangers(self) -> dict[str, Stranger]:
        return dict.fromkeys(self.handlers(), self._any_timer)

    def accessing(self, access: Access) -> None:
        if access.write:
            self.timers.check_cleanups(access.vcpu, "kvm_msr")

    def accessed(self, access: Access, *, diverged: bool) -> None:
        row, vcpu = access.row, access.vcpu
        if access.refused or row is None or row.group is not Group.STIMER:
            return
        if not access.write:
            self.timers.read_back(vcpu, access.index, access.value, diverged=diverged)
        elif not access.effects:
            # The write left no trace of its own: what the timer does now is not known.
            vcpu.forget_timer((access.index - STIMER0) >> 1)

    def _any_timer(self, event: Event, vcpu: Vcpu | None) -> None:
        """It may be this vCPU's timer."""
        if vcpu is None or not 0 <= event[5] < len(vcpu.timers):
            return
        if event[2] == CALLBACK:
            self.timers.maybe_fired(vcpu, event[5])
        else:
            vcpu.forget_timer(event[5])

    def _timer_write(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> bool:
        if not 0 <= event[5] < len(vcpu.timers):
            return False
        if event[7]:
            vcpu.vm.forget_silent()
        else:
            vcpu.synic = True if vcpu.synic is None else vcpu.synic
            vcpu.effect(event, cell)
        return True

    def _set_config(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if self._timer_write(event, vcpu, cell):
            self.timers.set_config(vcpu, event[5], event, cell, event[6], bool(event[7]))

    def _set_count(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if self._timer_write(event, vcpu, cell):
            self.timers.set_count(vcpu, event[5], event, cell, event[6], bool(event[7]))

    def _start_periodic(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if 0 <= event[5] < len(vcpu.timers):
            self.timers.started(vcpu, event[5], event, cell, event[6], event[7], periodic=True)

    def _start_one_shot(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if 0 <= event[5] < len(vcpu.timers):
            self.timers.started(vcpu, event[5], event, cell, event[6], event[7], periodic=False)

    def _callback(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if 0 <= event[5] < len(vcpu.timers):
            self.timers.fired(vcpu, event[5], event, cell)

    def _expiration(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if 0 <= event[5] < len(vcpu.timers):
            if event[4] != vcpu.tid:
                # Another thread runs the vCPU from now on: what it did so far was not known to be the vCPU's.
                vcpu.new_unit(whole=False)
            direct, result = bool(event[6]), event[7]
            self.timers.expired(vcpu, event[5], event, cell, direct=direct, result=result)

    def _cleanup(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if 0 <= event[5] < len(vcpu.timers):
            self.timers.cleaned(vcpu, event[5], event, cell)
