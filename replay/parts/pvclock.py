"""kvmclock pages (kvm_pvclock_update, kvm_update_master_clock; kvm_write_system_time in arch/x86/kvm/x86.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.access import Access
from hvtrace.replay.model.machine import Vcpu, Vm
from hvtrace.replay.model.paravirt import SYSTEM_TIME, is_firmware
from hvtrace.replay.model.pvclock import OldClock, Point, Update
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part, Stranger
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["PvClockEvents"]

#: The clock MSR's old index, and the boot vCPU, whose choice of index counts.
OLD_SYSTEM_TIME, BOOT = 0x12, 0


class PvClockEvents(Part):
    """kvm_pvclock_update, and what asks for it: writes of SYSTEM_TIME, updates of the master clock."""

    def handlers(self) -> dict[str, Handler]:
        return {"kvm_pvclock_update": self._update, "kvm_update_master_clock": self._master_clock}

    def strangers(self) -> dict[str, Stranger]:
        return {"kvm_update_master_clock": self._any_master_clock}

    def accessed(self, access: Access, *, diverged: bool) -> None:
        row, vcpu = access.row, access.vcpu
        if row is None or row.home != SYSTEM_TIME or not access.write:
            return
        if access.refused:
            vcpu.paravirt.clock.version = None
            return
        if vcpu.number == BOOT:
            vcpu.vm.paravirt.old_clock = access.index == OLD_SYSTEM_TIME
        vcpu.paravirt.clock.version = None
        self._drop(vcpu)
        if access.value & 1 and vcpu.vm.paravirt.is_memory(access.value & ~1):
            self._owe(vcpu, access.event, access.cell, 1)

    def _owe(self, vcpu: Vcpu, event: Event, cell: list[bool], entries: int) -> None:
        vcpu.open(Due.PVCLOCK, event, cell, entries, "kvm_pvclock_update")

    def _drop(self, vcpu: Vcpu) -> None:
        for due in vcpu.dues:
            if due.due is Due.PVCLOCK:
                vcpu.drop(due)

    def _update(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        for due in vcpu.dues:
            if due.due is Due.PVCLOCK:
                vcpu.meet(due)
        register = vcpu.registers.get(SYSTEM_TIME)
        version, tsc, time, mul, shift, flags = event[5:11]
        active = None if register is None else bool(register & 1)
        clock, point = vcpu.paravirt.clock, Point(tsc, time, mul, shift)
        epoch = vcpu.vm.master.epoch
        clock.updates.append(Update(vcpu, event, cell, version, point, flags, active, epoch))
        if len(clock.updates) == 1:
            # The master clock's update may be shown a little later, by another CPU.
            vcpu.closing.append(self._published)

    def _published(self, vcpu: Vcpu) -> None:
        clock, master = vcpu.paravirt.clock, vcpu.vm.master
        updates, clock.updates = clock.updates, []
        for update in updates:
            self.judge.ask(Moment.PVCLOCK, update, update.event, vcpu, update.cell)
            if (register := vcpu.registers.get(SYSTEM_TIME)) is not None and register & 1:
                vcpu.vm.paravirt.saw_memory(register & ~1)
            clock.version, clock.rate = update.version, (update.point.mul, update.point.shift)
            if vcpu.number in master.stale:
                clock.point = None
                continue
            clock.point = update.point if update.stable else None
            if not update.overtaken:
                clock.epoch = master.epoch
                if update.stable and update.point.time not in master.former:
                    master.time = update.point.time
        if updates:
            master.stale.discard(vcpu.number)

    def _master_clock(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The thread of a vCPU took another point, and asked every vCPU to publish it."""
        vm, used = vcpu.vm, bool(event[5])
        boot = vm.vcpus.get(BOOT)
        writing = boot is None or (boot is not vcpu and boot.out and boot.kind in ("msr", None))
        old = None if writing else vm.paravirt.old_clock
        self.judge.ask(Moment.OLD_CLOCK, OldClock(vcpu, used, old), event, vcpu, cell)
        vm.master.updated(used)
        if vcpu.visited:
            # It may have been the thread's own ioctl that set the clock.
            self._break_lines(vm)
        for other in vm.vcpus.values():
            register = other.registers.get(SYSTEM_TIME, 0)
            if not register & 1 or other.paravirt.clock.version is None or is_firmware(register & ~1):
                continue
            # A page that was published once is there. One entry may be shown before the update that it followed: other
            # CPUs have other stamps.
            if not any(due.due is Due.PVCLOCK for due in other.dues):
                self._owe(other, event, cell, 2)

    def _any_master_clock(self, event: Event, vcpu: Vcpu | None) -> None:
        """Userspace set the clock of some VM, or creates one."""
        for vm in self.vms.values():
            vm.master.lost(vm.vcpus)
            self._break_lines(vm)

    def _break_lines(self, vm: Vm) -> None:
        """Time need not go on where it was."""
        for vcpu in vm.vcpus.values():
            vcpu.paravirt.clock.point = None
