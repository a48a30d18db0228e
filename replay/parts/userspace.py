"""Exits to userspace (kvm_userspace_exit; struct kvm_run in include/uapi/linux/kvm.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.machine import UserspaceExit, Vcpu
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["UserspaceEvents"]

#: Userspace exits that the model knows.
SHUTDOWN, SYSTEM_EVENT, HYPERV, RDMSR, WRMSR = 8, 24, 27, 29, 30


class UserspaceEvents(Part):
    """kvm_userspace_exit."""

    def handlers(self) -> dict[str, Handler]:
        return {"kvm_userspace_exit": self._userspace_exit}

    def _userspace_exit(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        reason, errno = event[5], event[6]
        vcpu.visited = True
        if reason is None or (errno is not None and errno < 0):
            return
        if reason in (SHUTDOWN, SYSTEM_EVENT):
            if reason == SYSTEM_EVENT and vcpu.kind in ("msr", "done") and vcpu.whole:
                asked = any(due.due is Due.EXIT and due.key == -reason for due in vcpu.dues)
                self.judge.ask(Moment.EXIT, UserspaceExit(vcpu, reason, asked), event, vcpu, cell)
            self._owed_exit(vcpu, reason)
            vcpu.vm.forget_silent()
        elif reason == HYPERV:
            caused = True if vcpu.hyperv else False if vcpu.whole else None
            self.judge.ask(Moment.EXIT, UserspaceExit(vcpu, reason, caused), event, vcpu, cell)
            self._owed_exit(vcpu, HYPERV)
        elif reason in (RDMSR, WRMSR):
            # Userspace completes the access: there is no kvm_msr.
            for due in vcpu.dues:
                if due.due is Due.MSR:
                    vcpu.drop(due)

    def _owed_exit(self, vcpu: Vcpu, reason: int) -> None:
        for due in vcpu.dues:
            if due.due is Due.EXIT and due.key == -reason:
                vcpu.meet(due)
