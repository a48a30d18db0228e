"""Steal time, PV TLB flushes and asynchronous page faults (record_steal_time, virt/kvm/async_pf.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.abi.register import Group, Scope
from hvtrace.replay.model.access import Access, Fault
from hvtrace.replay.model.machine import Vcpu, Vm
from hvtrace.replay.model.paravirt import (
    ALL_WOKEN,
    ASYNC_PF_EN,
    ASYNC_PF_INT,
    PV_EOI_EN,
    STEAL_TIME,
    AsyncFault,
    Request,
    TlbFlush,
    delivers,
    interrupts,
    offers,
    reset_by_init,
)
from hvtrace.replay.obligation import Due
from hvtrace.replay.part import Handler, Part
from hvtrace.replay.rule import Moment

if TYPE_CHECKING:
    from hvtrace.replay.tape import Event

__all__ = ["ParavirtEvents"]

#: Delivery modes INIT and SIPI; bits 5:0 of an area's MSR are no address.
INIT, SIPI, NO_ADDRESS = 0x500, 0x600, 0x3F

#: Feature bit of PV TLB flushes.
PV_TLB_FLUSH = 9

#: Pages a vCPU waits for at most (ASYNC_PF_PER_VCPU is 64).
MAX_WAITING = 1024

#: Refused writes kept until it shows whether there was memory.
MAX_REFUSED = 64

#: Where a token's counter begins, above the vCPU's number (alloc_apf_token).
TOKEN_SHIFT = 12

#: Obligations of a vCPU that INIT ends.
OWED = (Due.STEAL, Due.PVCLOCK, Due.PAGE_READY)

#: Key of an interrupt that is owed: its vector, beside the timers' numbers.
VECTOR = 0x100


class ParavirtEvents(Part):
    """kvm_pv_tlb_flush, kvm_try_async_get_page, kvm_async_pf_*, and what INIT resets."""

    def handlers(self) -> dict[str, Handler]:
        return {
            "kvm_cpuid": self._cpuid,
            "kvm_apic_accept_irq": self._accepted,
            "kvm_userspace_exit": self._userspace_exit,
            "kvm_pv_tlb_flush": self._flush,
            "kvm_try_async_get_page": self._try,
            "kvm_async_pf_not_present": self._not_present,
            "kvm_async_pf_repeated_fault": self._repeated,
            "kvm_async_pf_ready": self._ready,
        }

    def _cpuid(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        rbx, rcx, rdx = (value & 0xFFFF_FFFF for value in event[7:10])
        vcpu.vm.paravirt.learn(event[5], event[6], (rbx, rcx, rdx), event[10])

    def accessed(self, access: Access, *, diverged: bool) -> None:
        row, vcpu = access.row, access.vcpu
        if row is None or row.group is not Group.KVM or not access.write:
            return
        value, known = access.value, vcpu.vm.paravirt
        self._settle(vcpu)
        if access.refused:
            stored = row.index in (ASYNC_PF_EN, PV_EOI_EN) and not access.fault.expected
            if stored or diverged:
                # It is stored before its memory is looked at.
                (vcpu if row.scope is Scope.VCPU else vcpu.vm).registers.pop(row.home, None)
            if diverged and row.index == ASYNC_PF_EN:
                vcpu.paravirt.whole = False
            if access.fault.cause == "memory" and len(known.refused) < MAX_REFUSED:
                known.refused.append(access)
        elif row.index == ASYNC_PF_EN:
            self._enabled(vcpu, value)
        elif row.index == STEAL_TIME:
            known.accounted = True
            vcpu.paravirt.flushing = False
            self._drop(vcpu, Due.STEAL)
            if value & 1 and offers(vcpu.vm, PV_TLB_FLUSH) and known.is_memory(value & ~NO_ADDRESS):
                vcpu.open(Due.STEAL, access.event, access.cell, 1, "kvm_pv_tlb_flush")
        elif row.index == PV_EOI_EN and value & 1:
            self._reached(vcpu.vm, value & ~3)

    def _settle(self, vcpu: Vcpu) -> None:
        """An exit or two after INIT, nothing is under way that began before it."""
        state = vcpu.paravirt
        if state.first is None or not vcpu.whole:
            return
        if state.first < 0:
            state.first = vcpu.exit_seq
        elif state.first != vcpu.exit_seq:
            state.first, state.whole = None, not state.waiting

    def _enabled(self, vcpu: Vcpu, value: int) -> None:
        """ASYNC_PF_EN: enabling wakes whoever waits, disabling drops all that is under way."""
        state, delivered = vcpu.paravirt, delivers(vcpu, value)
        if delivered is None:
            state.whole = False
        elif delivered:
            self._reached(vcpu.vm, value & ~NO_ADDRESS)
            state.wakes = 1
        else:
            state.waiting.clear()
            state.wakes, state.whole = 0, True

    def _reached(self, vm: Vm, address: int) -> None:
        """KVM reached memory there: what was refused below it was not refused for want of memory."""
        known = vm.paravirt
        known.saw_memory(address)
        refused, known.refused = known.refused, []
        for access in refused:
            if known.is_memory(access.value & ~NO_ADDRESS):
                access.late, access.fault = True, Fault(False, "", "KVM reached memory there")
                self.judge.ask_access(access)
            else:
                known.refused.append(access)

    def _drop(self, vcpu: Vcpu, *kinds: Due) -> None:
        for due in vcpu.dues:
            if due.due in kinds:
                vcpu.drop(due)

    def _accepted(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        mode = event[6]
        if mode in (INIT, SIPI):
            self._drop(vcpu, *OWED)
            reset_by_init(vcpu)
        elif vcpu.dues and event[4] == vcpu.tid:
            for due in vcpu.dues:
                if due.due is Due.PAGE_READY and due.key == VECTOR | event[5]:
                    vcpu.meet(due)

    # Steal time

    def _userspace_exit(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        """The next KVM_RUN loads the vCPU, which brings its steal time up to date."""
        if vcpu.paravirt.flushing and not any(due.due is Due.STEAL for due in vcpu.dues):
            vcpu.open(Due.STEAL, event, cell, 1, "kvm_pv_tlb_flush")

    def _flush(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        register = vcpu.registers.get(STEAL_TIME)
        enabled = None if register is None else bool(register & 1)
        self.judge.ask(
            Moment.TLB_FLUSH, TlbFlush(vcpu, enabled, offers(vcpu.vm, PV_TLB_FLUSH)), event, vcpu, cell
        )
        for due in vcpu.dues:
            if due.due is Due.STEAL:
                vcpu.meet(due)
        vcpu.paravirt.flushing = bool(enabled)

    # Asynchronous page faults

    def _try(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        vcpu.paravirt.tried = event

    def _tried(self, vcpu: Vcpu) -> Event | None:
        """The last try of this exit."""
        tried = vcpu.paravirt.tried
        return tried if tried is not None and tried[0] > vcpu.exit_seq else None

    def _not_present(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        state, tried = vcpu.paravirt, self._tried(vcpu)
        token, address = event[5], event[6]
        frame = None if tried is None else tried[6]
        waits = frame is not None and any(frame == other for _, other in state.waiting.values())
        subject = AsyncFault(vcpu, address, vcpu.whole, tried, waits, token, frame, state.last)
        self.judge.ask(Moment.ASYNC_FAULT, subject, event, vcpu, cell)
        state.last = token >> TOKEN_SHIFT
        if len(state.waiting) < MAX_WAITING:
            state.waiting[token] = (address, frame)
        else:
            state.whole = False

    def _repeated(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        state, frame = vcpu.paravirt, event[6]
        waits = any(frame == other for _, other in state.waiting.values())
        known = vcpu.whole and state.whole and all(other is not None for _, other in state.waiting.values())
        subject = AsyncFault(vcpu, event[5], known, self._tried(vcpu), waits, frame=frame)
        self.judge.ask(Moment.ASYNC_FAULT, subject, event, vcpu, cell)

    def _ready(self, event: Event, vcpu: Vcpu, cell: list[bool]) -> None:
        state, token, address = vcpu.paravirt, event[5], event[6]
        everyone = token & ALL_WOKEN == ALL_WOKEN
        asked = state.wakes > 0 if everyone else token in state.waiting
        # What wakes everyone is about no address.
        expected = 0 if everyone else state.waiting.get(token, (None, None))[0]
        subject = Request(vcpu, token, address, asked or (False if state.whole else None), expected)
        self.judge.ask(Moment.PAGE_READY, subject, event, vcpu, cell)
        state.waiting.pop(token, None)
        vector = vcpu.registers.get(ASYNC_PF_INT)
        if everyone:
            state.wakes = 0
            if interrupts(vcpu.vm) and delivers(vcpu) and vector is not None and event[4] == vcpu.tid:
                detail = f"kvm_apic_accept_irq of vector {vector & 0xFF}"
                vcpu.open(Due.PAGE_READY, event, cell, 1, detail, VECTOR | vector & 0xFF)
