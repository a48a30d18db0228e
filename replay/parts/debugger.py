"""The synthetic debugger, the crash control register, and nested guests as far as the trace shows them.

syndbg_set_msr, syndbg_get_msr, kvm_hv_msr_set_crash_ctl in arch/x86/kvm/hyperv.c; nested_vmx_enter_non_root_mode,
nested_vmx_vmexit, enter_svm_guest_mode, nested_svm_vmexit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.access import Access
from hvtrace.replay.model.debugger import VP_INDEX, DebugAccess
from hvtrace.replay.model.machine import Vcpu
from hvtrace.replay.model.nested import CRASH_CTL, NestedEvent
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part, Stranger, ignore
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["DebuggerEvents"]

SET_MSR, GET_MSR = "kvm_hv_syndbg_set_msr", "kvm_hv_syndbg_get_msr"


class DebuggerEvents(Part):
    """kvm_hv_syndbg_*, kvm_nested_*, and the creation of a VM."""

    def handlers(self) -> dict[str, Handler]:
        return {
            SET_MSR: self._set,
            GET_MSR: self._get,
            "kvm_write_tsc_offset": self._offset,
            "kvm_nested_vmenter": self._nested_entry,
            "kvm_nested_vmexit": self._nested_exit,
            "kvm_nested_vmexit_inject": self._nested_inject,
            "kvm_hv_flush_tlb": self._flush,
            "kvm_hv_flush_tlb_ex": self._flush,
            "kvm_userspace_exit": self._left,
        }

    def strangers(self) -> dict[str, Stranger]:
        return {SET_MSR: self._any_set, GET_MSR: ignore}

    def accessed(self, access: Access, *, diverged: bool) -> None:
        if access.index == VP_INDEX and diverged and not access.write:
            # The events' index is KVM's own, and no reading of it.
            named = access.vcpu.vm.debugger.indices.get(access.vcpu.number)
            if named is not None:
                access.vcpu.registers[VP_INDEX] = named
        if access.index == CRASH_CTL and not access.write and not access.refused and not diverged:
            access.vcpu.vm.registers[CRASH_CTL] = access.value

    # The debugger

    def _any_set(self, event: Event, vcpu: Vcpu | None) -> None:
        """A write by a vCPU of an unknown VM."""
        for vm in [vcpu.vm] if vcpu is not None else self.vms.values():
            vm.debugger.values.pop(event[5], None)

    def _offset(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The first vCPU of a VM is created: before it there was no guest, and userspace's writes have events."""
        if event[5] == 0 and not vcpu.vm.entered and len(vcpu.vm.vcpus) == 1 and not self.judge.lossy:
            vcpu.vm.debugger.create()

    def _set(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.hyperv = True
        self._judge(event, vcpu, cell, DebugAccess(vcpu, event[5], event[6], write=True))
        vcpu.vm.debugger.wrote(vcpu, event[5], event[6])
        self._part_of_access(event, vcpu, cell)

    def _get(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        index, data = event[5], event[6]
        debugger = vcpu.vm.debugger
        held, former = debugger.read(vcpu, index)
        self._judge(event, vcpu, cell, DebugAccess(vcpu, index, data, write=False, held=held, former=former))
        debugger.saw(index, data)
        self._part_of_access(event, vcpu, cell)

    def _judge(self, event: Event, vcpu: Vcpu, cell: list[bool], access: DebugAccess) -> None:
        """The event names the vCPU's VP index as well, before the guest reads it."""
        access.shown, access.own = event[7], vcpu.registers.get(VP_INDEX)
        self.judge.ask(Moment.DEBUG, access, event, vcpu, cell)
        if access.shown is not None:
            vcpu.registers[VP_INDEX] = vcpu.vm.debugger.indices[vcpu.number] = access.shown

    def _part_of_access(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """Within an exit for an MSR, and before the thread went to userspace, it is the guest's access."""
        if vcpu.visited:
            return
        vcpu.effects.append((event, cell))
        if vcpu.kind == "msr" and vcpu.whole and "kvm_userspace_exit" in self.bench.traced:
            vcpu.open(Due.MSR, event, cell, 1, "kvm_msr of the access")

    # Nested guests

    def _nested_entry(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.outermost = False

    def _nested_exit(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        self._inside(event, vcpu, cell)

    def _nested_inject(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        self._inside(event, vcpu, cell)
        vcpu.outermost = True

    def _left(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        # Userspace may restore a nested guest's state.
        vcpu.outermost = None

    def _flush(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        if event[-1]:
            self._inside(event, vcpu, cell)

    def _inside(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """Something that only happens while a nested guest runs."""
        self.judge.ask(Moment.NESTED, NestedEvent(vcpu, event, vcpu.outermost), event, vcpu, cell)
        vcpu.outermost = False
